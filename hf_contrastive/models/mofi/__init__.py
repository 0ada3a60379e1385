"""MOFI."""
