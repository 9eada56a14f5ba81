import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import REPOSITORY
from hub_server import card_rules
from huggingface_hub import DatasetCard

from radrecipes.data.example import Example
from radrecipes.data.label_sets import LabelSet
from radrecipes.data.preparation import prepare_rows
from radrecipes.errors import InputError
from radrecipes.publishing.cards.card_checks import check_card
from radrecipes.publishing.cards.dataset_card import render_dataset_card, render_preparation_summary
from radrecipes.publishing.cards.front_matter import dataset_card_data
from radrecipes.publishing.cards.report_dataset_card import render_report_dataset_card

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
    _, facts = prepare_rows(
        examples, input_column="note", target_column="label", label_set=LABELS, on_bad_row="drop", max_dropped=0.1
    )
    return {
        "name": "our_orders",
        "task": "protocol",
        "columns": ["id", "group", "note", "label"],
        "access": "credentialed",
        "license": "other",
        "language": "en",
        "source": [{"file": "orders.csv", "sha256": "ab" * 32, "rows": len(rows)}],
        "generator": None,
        "label_set_derived": True,
        **facts,
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


def test_every_count_is_in_the_text(manifest):
    text = render_dataset_card(manifest)
    for split, figures in manifest["splits"].items():
        assert f"| {split} | {figures['rows']} | {figures['groups']} | {figures['labels']} |" in text
    assert "| read | 63 |" in text
    assert "| merged, because identical | 1 |" in text
    assert "| dropped, because the note is empty | 1 |" in text
    assert "| kept | 61 |" in text
    assert "training only (1): CT Rare." in text
    assert "without rows (1): CT Never." in text
    audit = manifest["leakage_audit"]
    assert f"note | {audit['validation']['largest_similarity']} | {audit['test']['largest_similarity']} |" in text
    assert "more information needed" not in text.lower()
    assert "undefined" not in text.lower() and "None" not in text and "{{" not in text


def test_names_cannot_break_the_tables(manifest):
    rows = [line for line in render_dataset_card(manifest).splitlines() if line.startswith("| CT \\| Head")]
    assert len(rows) == 1
    assert "| MR &lt;Brain> |" in render_dataset_card(manifest)


def test_columns_to_slice_by_and_what_a_generator_says_of_itself(manifest):
    stated = {**manifest, "columns": [*manifest["columns"], "site"], "slice_columns": ["site"], "about": "From rules."}
    card = render_dataset_card(stated)
    assert "| `site` | text | evaluation gives results for each of its values |\n\n## Splits" in card
    assert "\n\nFrom rules." in card
    assert "rows whose note occurs in training" in render_preparation_summary(stated)
    assert [feature["name"] for feature in DatasetCard(card).data.dataset_info["features"]][-1] == "site"


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
    assert ["dropped:", "the", "note", "is", "empty", "1"] in [line.split() for line in summary]
    assert not any("more often" in line for line in summary)
    test = manifest["splits"]["test"]
    line = next(line.split() for line in summary if line.startswith("test "))
    assert line[1:4] == [str(test["rows"]), str(test["groups"]), str(test["labels"])]


def test_names_of_labels_and_files_are_text_on_the_card(manifest):
    label, file = "CT | [x](http://x) `*_~<b>", "a`b|\n# c.csv"
    named = {**manifest, "name": "our\n# *orders*", "source": [{"file": file, "sha256": "0"}], "generator": None}
    text = render_dataset_card({**named, "labels": {label: dict.fromkeys(("train", "validation", "test"), 1)}})
    assert r"| CT \| \[x\](http://x) \`\*\_\~&lt;b> | 1 | 1 | 1 |" in text
    assert r"`` a`b\|\n# c.csv `` (sha256 `0`)" in text
    assert r"# Our\\n# \*orders\*" in text and "\n# c.csv" not in text and "\n# *orders" not in text


@pytest.mark.parametrize("access", ["synthetic", "open", "registered", "credentialed"])
def test_only_what_may_not_be_open_asks_before_it_is_given_out(manifest, access):
    card = render_dataset_card({**manifest, "access": access})
    data = check_card(card, "dataset")
    assert card_rules.check_card(card, "dataset") == ([], [])
    gated = {key for key in data if key.startswith("extra_gated_")}
    assert bool(gated) is (access in ("registered", "credentialed"))
    if gated:
        assert gated == {f"extra_gated_{part}" for part in ("heading", "prompt", "fields", "button_content")}
        assert "checkbox" in data["extra_gated_fields"].values()
        assert ("credentialed users" in data["extra_gated_prompt"]) is (access == "credentialed")


def test_a_licence_that_the_hub_does_not_list_has_a_name(manifest):
    assert DatasetCard(render_dataset_card(manifest)).data.license_name == "terms-of-the-source"
    assert "license_name" not in render_dataset_card({**manifest, "license": "cc-by-4.0"})
    with pytest.raises(InputError, match=r"did you mean `apache-2\.0`"):
        render_dataset_card({**manifest, "license": "Apache-2.0"})


def write_with_card(folder, columns, cards_columns=None):
    """Three splits of one row more each, with a card that states the columns."""
    folder.mkdir(exist_ok=True)
    rows = {split: number for number, split in enumerate(("train", "validation", "test"), 2)}
    for split, count in rows.items():
        table = {column: [f"{column} {row}" for row in range(count)] for column in columns}
        pq.write_table(pa.table(table), folder / f"{split}.parquet")
    data = dataset_card_data(
        {
            "name": "pushed", "license": "mit", "language": "en", "access": "open", "rows": {"kept": 9},
            "columns": cards_columns or columns, "splits": {split: {"rows": count} for split, count in rows.items()},
        },
        task_category="text-generation", annotations="found", tags=[],
    )  # fmt: skip
    (folder / "README.md").write_text(f"---\n{data}\n---\n# Pushed\n", encoding="utf-8")
    return rows


def test_the_datasets_library_reads_splits_and_columns_as_the_card_states_them(tmp_path):
    folder, columns = tmp_path / "pushed", ("id", "note")
    rows = write_with_card(folder, columns)
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert {split: len(loaded[split]) for split in loaded} == rows
    assert list(loaded["test"].features) == list(columns) and loaded["test"][3] == {"id": "id 3", "note": "note 3"}
    streamed = datasets.load_dataset(
        str(folder), split="validation", streaming=True, cache_dir=str(tmp_path / "cache")
    )
    assert [row["id"] for row in streamed] == ["id 0", "id 1", "id 2"]

    # A later push with other columns stays loadable, because its card states those; with the earlier card it is not.
    write_with_card(folder, ("id", "findings", "impression"))
    again = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "second cache"))
    assert list(again["train"].features) == ["id", "findings", "impression"]
    write_with_card(folder, ("id", "findings", "impression"), cards_columns=columns)
    with pytest.raises(datasets.exceptions.DatasetGenerationError):
        datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "third cache"))


@pytest.mark.parametrize("name", ["protocol_synthetic", "report_synthetic"])
def test_the_shipped_datasets_have_the_front_matter_of_their_manifest_and_load_as_it_says(name, tmp_path):
    folder = REPOSITORY / "data" / name
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    render = render_dataset_card if manifest["task"] == "protocol" else render_report_dataset_card
    card = (folder / "README.md").read_text("utf-8")
    assert render(manifest).split("---\n")[1] == card.split("---\n")[1]
    assert card_rules.check_card(card, "dataset") == ([], [])
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path))
    assert {split: len(loaded[split]) for split in loaded} == {
        split: figures["rows"] for split, figures in manifest["splits"].items()
    }
    assert list(loaded["train"].features) == manifest["columns"]
