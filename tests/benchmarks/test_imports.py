"""Every benchmark can be loaded: most of them run too long for a test, and a name that they import may move."""

import runpy

import pytest
from conftest import REPOSITORY

BENCHMARKS = sorted((REPOSITORY / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_a_benchmark_finds_what_it_imports(monkeypatch, path):
    monkeypatch.syspath_prepend(path.parent)
    runpy.run_path(str(path), run_name="imported")
