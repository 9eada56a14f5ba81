"""A short run of the fuzzer, which `make fuzz` runs for longer."""

import importlib
import os
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "tests" / "fuzz"))

import fuzz

NOISY = """
import sys, time
words = open("input").read().split()
if "traceback" in words: raise KeyError("x")
if "memory" in words: data = b"x" * 2**28
if "killed" in words: __import__("os").kill(0, 9)
if "wait" in words: time.sleep(60)
sys.exit(2)
"""


@pytest.mark.parametrize(
    ("word", "fault"),
    [("fine", ""), ("traceback", "traceback"), ("memory", "memory"), ("killed", "signal 9"), ("wait", "timeout")],
)
def test_every_fault_is_noticed(tmp_path, monkeypatch, word, fault):
    monkeypatch.setattr(fuzz, "SECONDS", 2 if word == "wait" else 30)
    monkeypatch.setattr(fuzz, "GROWTH_MIB", 128)
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "noisy.py").write_text(NOISY)
    (tmp_path / "input").write_text(word)
    assert fuzz.run_script(tmp_path, ["noisy"], tmp_path / "log").fault == fault


@pytest.mark.slow
def test_damaged_files_end_in_one_line(finished_copy, tmp_path):
    run = Path(fuzz.RUN)
    run.parent.mkdir(exist_ok=True)
    os.rename("runs/tiny/protocol_lora/seed-42", run)
    for name in fuzz.LIBRARIES:
        importlib.import_module(name)
    chosen = [target for target in fuzz.targets(finished_copy) if not target.file.endswith(("metrics.json", ".jinja"))]
    counts = fuzz.fuzz(finished_copy, chosen, time.monotonic() + 15, 1, tmp_path / "kept", most=2)
    said = [path.read_text(errors="replace")[-2000:] for path in sorted(tmp_path.glob("kept/*.log"))]
    assert fuzz.show(counts, lambda line: None) == 0, said
    assert sum(found.inputs for found in counts.values()) >= 4
