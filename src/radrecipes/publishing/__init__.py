"""What a release holds, and the gates that it must pass before it is uploaded."""

# Gates whose findings a user can acknowledge after looking at each; all others have to be fixed.
ACKNOWLEDGEMENTS = ("credentialed", "identifiers", "memory")
