"""What the recipes of one domain share: argument groups, building, measuring, pictures, cards.

Recipes know everything: this room may import all others, and no other room imports it.
"""
