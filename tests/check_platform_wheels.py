"""Which pinned packages have no wheel on a platform: asks the package index with pip, and downloads nothing.

    python tests/check_platform_wheels.py

Prints the table of docs/installation.md; `make platforms` runs it.
"""

import re
import subprocess
import sys
from pathlib import Path

from packaging.tags import Tag, compatible_tags, cpython_tags, mac_platforms
from packaging.utils import parse_wheel_filename

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
PYTHONS = ((3, 11), (3, 12), (3, 13))
# Platform -> the names in tags of the wheels that pip takes there.
PLATFORMS = {
    "Linux x86-64": [
        "manylinux1_x86_64",
        "manylinux2014_x86_64",
        *(f"manylinux_2_{minor}_x86_64" for minor in range(5, 40)),
    ],
    "Linux arm64": ["manylinux2014_aarch64", *(f"manylinux_2_{minor}_aarch64" for minor in range(17, 40))],
    "macOS arm64": list(mac_platforms((15, 0), "arm64")),
    "Windows x86-64": ["win_amd64"],
}


def wheels_of(pinned: str) -> set[Tag]:
    """The tags of all wheels of exactly this version."""
    name, version = pinned.split("==")
    command = [sys.executable, "-m", "pip", "index", "versions", name, "-vv", "--pre"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    # What fits this machine is a found link, and the rest a skipped one.
    files = re.findall(r"Found link \S+/([^/\s#]+\.whl)|Skipping link: \S.*?: \S+/([^/\s#]+\.whl)", done.stdout)
    found = [parse_wheel_filename(first or second) for first, second in files if f"-{version}-" in (first or second)]
    return set().union(*(tags for _, _, _, tags in found))


def main() -> None:
    """Print one row for each platform and Python."""
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    pinned = {line: wheels_of(line) for line in lines if line and not line.startswith("#")}
    print("| platform | Python | pinned packages with a wheel | without |\n|---|---|---|---|")
    for platform, names in PLATFORMS.items():
        for python in PYTHONS:
            fits = {
                *cpython_tags(python, platforms=names),
                *compatible_tags(python, f"cp{python[0]}{python[1]}", names),
            }
            without = [line for line, tags in pinned.items() if not tags & fits]
            version = ".".join(map(str, python))
            print(
                f"| {platform} | {version} | {len(pinned) - len(without)} of {len(pinned)} | {', '.join(without) or '-'} |"
            )


if __name__ == "__main__":
    main()
