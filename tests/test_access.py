"""The stricter class decides, and only the owner can read what was made from closed data."""

import os
import stat

import pytest

from radrecipes.access import ACCESS_LEVELS, may_show, protect, strictest
from radrecipes.files import write_atomically


@pytest.mark.parametrize(
    ("classes", "found"),
    [
        (("synthetic",), "synthetic"),
        (("open", "synthetic"), "open"),
        (("synthetic", "credentialed", "open"), "credentialed"),
        (("registered", "open"), "registered"),
        (("open", None), "credentialed"),
        (("registered", "Open"), "credentialed"),
    ],
)
def test_the_strictest_class_decides_and_an_unknown_one_is_the_strictest(classes, found):
    assert strictest(*classes) == strictest(*reversed(classes)) == found
    assert may_show(*classes) == (found in ACCESS_LEVELS[:2])


@pytest.mark.parametrize(("access", "modes"), [("open", (0o755, 0o644)), ("registered", (0o700, 0o600))])
def test_files_of_closed_data_are_for_their_owner_only(access, modes, tmp_path):
    os.umask(0o022)
    (tmp_path / "replaced").write_text("old")
    protect(access)
    (tmp_path / "folder").mkdir()
    write_atomically(tmp_path / "replaced", "new")
    assert tuple(stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("folder", "replaced")) == modes
