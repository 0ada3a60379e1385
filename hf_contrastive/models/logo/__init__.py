"""Logo identification from image and text."""
