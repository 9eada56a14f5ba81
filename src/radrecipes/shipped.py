"""Where the files are that come with this project: recipes, launch configurations, datasets, label sets and scripts."""

import importlib.util
import os
import sys
from functools import cache
from pathlib import Path

FOLDERS = ("accelerate_configs", "data", "recipes", "scripts")
_IN_WHEEL = Path(__file__).parent / "_shipped"
# Of an installed wheel, or a checkout. setup.py puts them into the wheel.
ROOT = _IN_WHEEL if _IN_WHEEL.is_dir() else Path(__file__).parents[2]


def find_shipped(path: str | Path) -> Path:
    """`path` as it is if it exists here; otherwise the file of that name that comes with the project, if there is one."""
    path = Path(path)
    is_ours = path.parts[:1] and path.parts[0] in FOLDERS and ".." not in path.parts
    if not is_ours or path.exists() or not (ROOT / path).exists():
        return path
    _say(path)
    return ROOT / path


@cache  # once in a process
def _say(path: Path) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(f"{path} is not in this folder; taking the one that comes with radrecipes, in {ROOT}", file=sys.stderr)


def package_folder(name: str) -> Path:
    """The folder of an installed package, which is not imported; a `ModuleNotFoundError` if there is none."""
    found = importlib.util.find_spec(name)
    if found is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return Path(found.submodule_search_locations[0])
