"""Skeletons that several systems share; a family appears when its second member does."""
