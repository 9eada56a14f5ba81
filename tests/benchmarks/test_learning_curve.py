"""A learning curve of one's own dataset: growing parts of its rows, the same test rows, a table and a figure."""

import json
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

from radrecipes.data.prepared import load_prepared_dataset
from radrecipes.recipe import parse_recipe

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

import learning_curve
from measuring import at_least


def test_smaller_parts_are_in_larger_ones_and_the_test_rows_are_all(workspace):
    dataset = load_prepared_dataset("data/tiny")
    small, large = (
        load_prepared_dataset(learning_curve.draw(dataset, size, 1, Path(f"runs/{size}"))) for size in (12, 24)
    )
    assert [len(part.splits["train"]) for part in (small, large)] == [12, 24]
    assert set(small.splits["train"]["id"]) < set(large.splits["train"]["id"]) < set(dataset.splits["train"]["id"])
    assert set(small.splits["validation"]["id"]) <= set(large.splits["validation"]["id"])
    assert large.splits["test"]["id"][:] == dataset.splits["test"]["id"][:]
    other = load_prepared_dataset(learning_curve.draw(dataset, 12, 2, Path("runs/other")))
    assert set(other.splits["train"]["id"]) != set(small.splits["train"]["id"])


@pytest.mark.slow
def test_the_curve_has_every_system_at_every_size(workspace, monkeypatch, capfd):
    recipe = "recipes/tiny/protocol_lora.yaml"
    words = [
        "--dataset",
        "data/tiny",
        "--recipes",
        recipe,
        "--sizes",
        "24",
        "all",
        "--seeds",
        "1",
        "--fewest-steps",
        "5",
        "--output",
        "out/curve",
    ]
    monkeypatch.setattr(sys, "argv", ["learning_curve.py", *words])
    Path("out").mkdir()
    kept = {"system": "other/recipe", "rows": 24, "seed": 1, "accuracy": 0.5, "processor": "another"}
    digest = load_prepared_dataset("data/tiny").digest
    Path("out/curve.json").write_text(json.dumps({"dataset": {"digest": digest}, "points": [kept]}), encoding="utf-8")
    learning_curve.main()
    points = json.loads(Path("out/curve.json").read_text("utf-8"))["points"]
    assert kept in points
    points.remove(kept)
    rows = {point["rows"] for point in points}
    assert len(rows) == 2 and {(point["system"], point["rows"]) for point in points} == {
        (system, size) for system in {point["system"] for point in points} for size in rows
    }
    assert "tiny/protocol_lora" in {point["system"] for point in points}
    page = Path("out/curve.md").read_text("utf-8")
    assert "(curve.svg)" in page and "another" in page
    assert [line for line in page.splitlines() if line.startswith("|")] == [
        line for line in capfd.readouterr().out.splitlines() if line.startswith("| ") or line.startswith("|-")
    ][-page.count("\n|") :]
    assert "tiny/protocol_lora" in Path("out/curve.svg").read_text("utf-8")


def test_a_small_part_is_trained_for_more_epochs(workspace):
    recipe = "recipes/tiny/protocol_lora.yaml"
    batch = parse_recipe(recipe).arguments.global_batch_size
    assert at_least(7, recipe, 2 * batch) == ["--num_train_epochs", "4"]
    own = parse_recipe(recipe).training.num_train_epochs
    assert at_least(7, recipe, 1000 * batch) == ["--num_train_epochs", str(own)]
