"""Recommenders: a table of users, a table of items, and what they learn from an interaction log."""
