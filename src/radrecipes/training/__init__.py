"""Training: from a checked recipe to a verified run folder."""

# What is compared when a run is resumed, and the choices of `--allow-change`; here so that argparse needs no torch.
PARTS = ("recipe", "data", "base", "prompt", "processes")
