"""Accuracy in two styles: the same run is tested on two datasets."""

import json
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

import other_style


@pytest.mark.slow
def test_every_system_is_tested_in_both_styles(workspace, monkeypatch, capfd):
    monkeypatch.setattr(other_style, "DATASET", Path("data/tiny"))
    words = [
        "--recipes",
        "recipes/tiny/protocol_lora.yaml",
        "--seeds",
        "1",
        "--other",
        "data/tiny",
        "--encoder",
        "none",
    ]
    monkeypatch.setattr(sys, "argv", ["other_style.py", *words, "--output", "out/style"])
    other_style.main()
    points = json.loads(Path("out/style.json").read_text("utf-8"))
    systems = {point["system"] for point in points}
    assert "tiny/protocol_lora" in systems and len(points) == 2 * len(systems)
    for system in systems:  # the same orders, so the same figures
        same, other = (
            [p for p in points if p["system"] == system and p["style"] == style] for style in ("same", "other")
        )
        assert [{**point, "style": ""} for point in same] == [{**point, "style": ""} for point in other]
    title, _, table = Path("out/style.md").read_text("utf-8").partition("\n\n")
    assert title.startswith("# ") and table in capfd.readouterr().out
