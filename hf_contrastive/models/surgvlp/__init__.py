"""SurgVLP."""
