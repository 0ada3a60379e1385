"""Systems that compare views of one input through one network."""
