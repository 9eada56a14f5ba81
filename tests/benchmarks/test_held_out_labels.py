"""Labels that a model was not trained on: they and their rows are left out of training, and scored afterwards."""

import json
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

from radrecipes.data.prepared import load_prepared_dataset

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

import held_out_labels


@pytest.mark.slow
def test_held_out_labels_are_not_trained_and_all_are_scored(workspace, monkeypatch, capfd):
    words = ["--dataset", "data/tiny", "--recipe", "recipes/tiny/protocol_lora.yaml", "--labels", "1", "--seeds", "1"]
    monkeypatch.setattr(sys, "argv", ["held_out_labels.py", *words, "--output", "out/held_out"])
    held_out_labels.main()
    (run,) = json.loads(Path("out/held_out.json").read_text("utf-8"))["runs"]
    (folder,) = Path("runs/held_out_labels").rglob("data")
    part, whole = load_prepared_dataset(folder), load_prepared_dataset("data/tiny")
    (label,) = run["held_out"]
    assert set(whole.label_set.names) - set(part.label_set.names) == {label}
    for split in part.splits:
        rows = [row for row in whole.splits[split].to_list() if row["label"] != label]
        assert part.splits[split].to_list() == rows
    of_label = whole.splits["test"]["label"][:].count(label)
    assert run["new_labels"]["rows"] == of_label > 0
    assert run["trained_labels"]["rows"] == len(whole.splits["test"]) - of_label
    for figures in run["new_labels"], run["trained_labels"]:
        assert 0 <= figures["first"] <= figures["top_3"] <= 1
    title, _, table = Path("out/held_out.md").read_text("utf-8").partition("\n\n")
    assert title.startswith("# ") and table in capfd.readouterr().out
