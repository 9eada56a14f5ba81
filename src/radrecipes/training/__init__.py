"""Training: from a checked recipe to a verified run folder."""

# What a resumed run is compared in, and what `--allow-change` takes; here, where argparse finds it without torch.
PARTS = ("recipe", "data", "base", "prompt", "processes")
