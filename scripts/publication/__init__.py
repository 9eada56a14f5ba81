"""The two kinds of releases that scripts/publish.py puts together."""
