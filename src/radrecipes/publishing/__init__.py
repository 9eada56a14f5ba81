"""Release folders, the gates that they must pass before upload, and the cards of models and datasets."""

# Gates whose findings a user can acknowledge after reviewing each; findings of all others must be fixed.
ACKNOWLEDGEMENTS = ("credentialed", "identifiers", "memory")
