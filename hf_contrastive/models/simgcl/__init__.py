"""SimGCL."""
