"""Goal-conditioned reward models: a reward for an answer, and for every prefix how near it is to the goal."""
