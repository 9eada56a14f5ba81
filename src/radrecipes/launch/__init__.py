"""What a launch configuration requests, and which method runs under it; scheduler templates are in the folder `launch/`."""
