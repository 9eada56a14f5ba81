"""Which pinned packages have no wheel on a platform: asks the package index with pip, and downloads nothing.

    python tests/check_platform_wheels.py [--python 3.11 3.12 3.13]

Prints the table of docs/installation.md. `make platforms` runs it: about half an hour.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
# Platform -> the tags of wheels that pip may take there.
PLATFORMS = {
    "Linux x86-64": [f"manylinux_2_{minor}_x86_64" for minor in range(5, 40)] + ["manylinux2014_x86_64"],
    "Linux arm64": [f"manylinux_2_{minor}_aarch64" for minor in range(17, 40)] + ["manylinux2014_aarch64"],
    "macOS arm64": ["macosx_15_0_arm64"],
    "Windows x86-64": ["win_amd64"],
}


def has_wheel(pinned: str, python: str, tags: list[str]) -> bool:
    """Whether the index has a wheel of exactly this version for one of the tags, or for every platform."""
    name, version = pinned.split("==")
    command = [sys.executable, "-m", "pip", "index", "versions", name, "-vv", "--pre"]
    command += ["--python-version", python, "--implementation", "cp"]
    command += [word for tag in tags for word in ("--platform", tag)]
    done = subprocess.run(command, capture_output=True, text=True)
    if not done.stdout and "No matching distribution" not in done.stderr:
        sys.exit(done.stderr)
    # What pip skips for this Python and these tags is not a found link; --only-binary has no effect here.
    return bool(re.search(rf"Found link \S+-{re.escape(version)}-\S+\.whl", done.stdout + done.stderr))


def main() -> None:
    """Print one row for each platform and Python."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", nargs="+", default=["3.11", "3.12", "3.13"], metavar="VERSION")
    args = parser.parse_args()
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    pinned = [line for line in lines if line and not line.startswith("#")]
    compiled = [line for line in pinned if not has_wheel(line, args.python[-1], ["none"])]
    print(f"{len(pinned) - len(compiled)} of {len(pinned)} pinned packages have one wheel for every platform.")
    print(f"Of the other {len(compiled)}:")
    print("\n| platform | Python | with a wheel | without |\n|---|---|---|---|")
    for platform, tags in PLATFORMS.items():
        for python in args.python:
            without = [line for line in compiled if not has_wheel(line, python, tags)]
            print(
                f"| {platform} | {python} | {len(compiled) - len(without)} | {', '.join(without) or '-'} |", flush=True
            )


if __name__ == "__main__":
    main()
