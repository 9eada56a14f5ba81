"""Who may see a release."""

import argparse


def visibility(args: argparse.Namespace) -> str:
    """As --public and --gated say; private where neither is given."""
    return "public" if args.public else "gated" if args.gated else "private"
