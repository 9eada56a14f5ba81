"""Benchmarks that train and evaluate do so in processes that have their libraries already."""

import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY
from sft_faults import Script

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

import measuring

SFT = "scripts/sft.py"


@pytest.fixture(autouse=True)
def run_in_warm_processes(monkeypatch):
    """The same scripts and arguments, without the launcher."""

    def run_script(*words):
        script = Script(Path.cwd(), *(words[words.index(SFT) :] if SFT in words else words))
        assert script.end(300).code == 0, script.stderr

    monkeypatch.setattr(measuring, "run_script", run_script)
