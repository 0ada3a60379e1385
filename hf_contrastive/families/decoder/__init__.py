"""Systems on a decoder: a model that reads a text from left to right."""
