"""One room per system: all that is its own."""
