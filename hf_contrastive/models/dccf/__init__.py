"""DCCF."""
