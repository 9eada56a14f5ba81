"""The longer verbs of scripts/recipes.py."""
