"""A search trains each candidate once and ranks them by validation."""

import shutil
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

import recipe_search


@pytest.mark.slow
def test_the_table_ranks_candidates_and_finished_ones_are_kept(workspace, monkeypatch, capfd):
    recipe = "recipes/tiny/protocol_lora.yaml"
    lines = ["metric: exact_accuracy", "candidates:", f"  - recipe: {recipe}", "    changes: {learning_rate: 1.0e-7}"]
    lines += [f"  - recipe: {recipe}", "    changes: {num_train_epochs: 2}"]
    Path("search.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["recipe_search.py", "search.yaml"])
    recipe_search.main()
    table = Path("search.md").read_text("utf-8")
    assert table in capfd.readouterr().out
    rows = [line.split(" | ") for line in table.splitlines()[-2:]]
    assert {row[0] for row in rows} == {
        "| tiny/protocol_lora, learning_rate 1e-07",
        "| tiny/protocol_lora, num_train_epochs 2",
    }
    best, other = (max(map(float, row[1].split(", "))) for row in rows)
    assert best >= other and sorted(len(row[1].split(", ")) for row in rows) == [1, 2]
    Path("search.json").unlink()  # the runs are kept as well
    weights = [path.stat().st_mtime_ns for path in Path("runs/recipe_search").rglob("adapter_model.safetensors")]
    recipe_search.main()
    assert len(weights) >= 2 and Path("search.md").read_text("utf-8") == table
    kept = [path.stat().st_mtime_ns for path in Path("runs/recipe_search").rglob("adapter_model.safetensors")]
    assert kept == weights
    shutil.rmtree("runs/recipe_search")
    recipe_search.main()
    assert not Path("runs/recipe_search").exists() and Path("search.md").read_text("utf-8") == table
