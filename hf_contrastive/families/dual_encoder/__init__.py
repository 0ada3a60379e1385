"""Two encoders, one space: images and texts."""
