import pytest
from huggingface_hub import DatasetCard

from radrecipes.data.example import Example
from radrecipes.data.label_sets import LabelSet
from radrecipes.data.preparation import prepare_labelled_notes
from radrecipes.reporting.dataset_card import render_dataset_card, render_preparation_summary

LABELS = LabelSet.from_text(
    "name: odd\nversion: 1\nlabels: [{name: 'CT | Head'}, {name: MR <Brain>}, {name: CT Rare}, {name: CT Never}]\n"
)


@pytest.fixture(scope="module")
def manifest():
    rows = [(f"order {number} for {label}", label) for number in range(30) for label in LABELS.names[:2]]
    rows += [("order 1 for CT | Head", "ct head"), ("only once", "CT Rare"), ("", "CT Rare")]
    examples = [
        Example(str(number), str(number), {"note": note}, label, f"orders.csv:{number}")
        for number, (note, label) in enumerate(rows)
    ]
    preparation = prepare_labelled_notes(examples, LABELS, on_bad_row="drop", max_dropped=0.1)
    return {
        "name": "our_orders",
        "task": "protocol",
        "access": "credentialed",
        "license": "other",
        "language": "en",
        "source": [{"file": "orders.csv", "sha256": "ab" * 32, "rows": len(rows)}],
        "generator": None,
        "label_set_derived": True,
        **preparation.facts,
    }


def test_the_front_matter_is_what_the_hub_reads(manifest):
    data = DatasetCard(render_dataset_card(manifest)).data.to_dict()
    assert data["configs"][0]["data_files"] == [
        {"split": split, "path": f"{split}.parquet"} for split in ("train", "validation", "test")
    ]
    assert (data["license"], data["language"], data["size_categories"]) == ("other", ["en"], ["n<1K"])
    assert data["pretty_name"] == "Our orders"
    assert data["annotations_creators"] == ["found"]
    assert "synthetic" not in data["tags"]


@pytest.mark.parametrize(
    ("rows", "size"), [(999, "n<1K"), (1000, "1K<n<10K"), (6600, "1K<n<10K"), (200_000, "100K<n<1M"), (10**6, "n>1M")]
)
def test_the_size_class_follows_the_rows(manifest, rows, size):
    card = DatasetCard(render_dataset_card({**manifest, "rows": {**manifest["rows"], "kept": rows}}))
    assert card.data.size_categories == [size]


def test_every_count_stands_in_the_text(manifest):
    text = render_dataset_card(manifest)
    for split, figures in manifest["splits"].items():
        assert f"| {split} | {figures['rows']} | {figures['groups']} | {figures['labels']} |" in text
    assert "| read | 63 |" in text
    assert "| merged, because identical | 1 |" in text
    assert "| dropped, because the note is empty | 1 |" in text
    assert "| kept | 61 |" in text
    assert "training only (1): CT Rare." in text
    assert "without a row (1): CT Never." in text
    audit = manifest["leakage_audit"]
    assert f"note | {audit['validation']['largest_similarity']} | {audit['test']['largest_similarity']} |" in text
    assert "more information needed" not in text.lower()
    assert "undefined" not in text.lower() and "None" not in text and "{{" not in text


def test_names_cannot_break_the_tables(manifest):
    rows = [line for line in render_dataset_card(manifest).splitlines() if line.startswith("| CT \\| Head")]
    assert len(rows) == 1
    assert "| MR &lt;Brain> |" in render_dataset_card(manifest)


def test_real_data_warns_and_synthetic_data_says_so(manifest):
    real = render_dataset_card(manifest)
    assert "treat every note as patient text" in real and "Do not publish it" in real
    assert "no real patient text" not in real
    generator = {"name": "generate_orders", "seed": 5, "rows": 63}
    synthetic = render_dataset_card({**manifest, "access": "synthetic", "generator": generator, "source": []})
    assert "**Synthetic: no real patient text.**" in synthetic
    assert "with seed 5" in synthetic and "Do not publish" not in synthetic
    assert DatasetCard(synthetic).data.annotations_creators == ["machine-generated"]
    assert "synthetic" in DatasetCard(synthetic).data.tags


def test_the_terminal_shows_the_same_counts(manifest):
    summary = render_preparation_summary(manifest).splitlines()
    assert summary[0].split() == ["rows", "read", "63"]
    assert ["dropped:", "empty", "note", "1"] in [line.split() for line in summary]
    assert not any("outvoted" in line for line in summary)
    test = manifest["splits"]["test"]
    line = next(line.split() for line in summary if line.startswith("test "))
    assert line[1:4] == [str(test["rows"]), str(test["groups"]), str(test["labels"])]
