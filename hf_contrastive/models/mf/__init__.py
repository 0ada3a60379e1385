"""Matrix factorisation with the BPR loss."""
