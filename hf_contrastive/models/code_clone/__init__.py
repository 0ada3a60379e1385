"""Code clone detection: import classes from `hf_contrastive` or from the modules of this room."""
