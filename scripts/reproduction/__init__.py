"""The verbs of scripts/reproduce.py."""
