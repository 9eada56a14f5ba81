"""What a release holds, and the gates that it must pass before a byte leaves the machine."""
