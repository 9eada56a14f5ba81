import re

import pytest
from huggingface_hub import DatasetCard

from radrecipes.data.report_preparation import FILTERS
from radrecipes.data.sources.report_source import DROP_REASONS
from radrecipes.publishing.cards.card_checks import check_card
from radrecipes.publishing.cards.report_dataset_card import (
    recognition_warning,
    render_report_dataset_card,
    render_report_summary,
)
from radrecipes.radiology.observations import OBSERVATIONS

SPLITS = ("train", "validation", "test")


@pytest.fixture
def manifest():
    return {
        "name": "mimic_reports",
        "task": "report",
        "access": "credentialed",
        "license": "other",
        "language": "en",
        "columns": ["id", "group", "observations", "findings", "impression"],
        "generator": None,
        "origin": "mimic-cxr",
        "label_source": "relabel",
        "labels": None,
        "source": [{"file": "files", "reports": 5012, "sha256": "ab" * 32}],
        "options": {
            "labels": "relabel", "sections": "both", "earlier_studies": "drop", "deidentified": "drop", "details": "drop",
            "split": "patient", "split_seed": 4, "split_fractions": {"train": 0.75, "validation": 0.1, "test": 0.15},
            "max_dropped": 0.005,
        },
        "rows": {
            "read": 5012, "kept": 4900, "dropped": {"not_utf8": 12}, "filtered": {"no_findings": 71, "only_details": 29},
            "other_exams": {"CT of the chest": 3}, "changed": {"earlier_studies": 801},
            "labels_changed": {"earlier_studies": 222}, "findings_lost": {"earlier_studies": 111},
        },
        "sentences": {"labelled": 1000, "recognised": 877},
        "splits": {split: {"rows": 1000 + n, "groups": 300 + n, "normal": 200 + n} for n, split in enumerate(SPLITS)},
        "observations": {
            split: {name: {"positive": n, "negative": n + 1, "uncertain": n + 2} for n, name in enumerate(OBSERVATIONS)}
            for split in SPLITS
        },
        "leakage_audit": {split: {"rows": 9, "shared_groups": 0, "verbatim": 7} for split in SPLITS[1:]},
    }  # fmt: skip


def test_the_front_matter_is_what_the_hub_reads(manifest):
    data = DatasetCard(render_report_dataset_card(manifest)).data.to_dict()
    assert data["task_categories"] == ["text-generation"] and data["size_categories"] == ["1K<n<10K"]
    assert data["annotations_creators"] == ["machine-generated"] and "synthetic" not in data["tags"]
    assert [entry["path"] for entry in data["configs"][0]["data_files"]] == [f"{split}.parquet" for split in SPLITS]
    stated = DatasetCard(render_report_dataset_card({**manifest, "label_source": "csv", "labels": "negbio"}))
    assert stated.data.annotations_creators == ["found"] and "`negbio` CSV" in stated.text


@pytest.mark.parametrize(
    ("origin", "generator", "source"),
    [
        ("mimic-cxr", None, "extended|other-mimic-cxr"),
        ("openi", None, "extended|other-openi"),
        ("jsonl", None, "original"),
        ("mimic-cxr", {"name": "generate_reports", "seed": 5}, "original"),
    ],
)
def test_the_published_source_of_reports_is_named(manifest, origin, generator, source):
    card = render_report_dataset_card({**manifest, "origin": origin, "generator": generator})
    assert check_card(card, "dataset")["source_datasets"] == [source]


def test_every_count_is_in_the_text(manifest):
    text = render_report_dataset_card(manifest)
    for line in (
        "| train | 1000 | 300 | 200 |",
        "| read | 5012 |",
        "| dropped, because the text is not UTF-8 | 12 |",
        "| dropped by a filter, because there are no findings | 71 |",
        "| kept | 4900 |",
        "| shortened: comparison with an earlier study removed | 801 |",
        "| … this changed the labels | 222 |",
        "| … this removed a finding | 111 |",
        "The rules recognise 87.7 % of the sentences",
        "| findings and impression occur verbatim in training | 7 | 7 |",
        "| Edema | 4 / 5 / 6 | 4 / 5 / 6 | 4 / 5 / 6 |",
        "`files` (5012 reports, sha256 `abab",
        "train 75 %, validation 10 %, test 15 %; seed 4",
    ):
        assert line in text, line
    # A table is complete: no blank line within it.
    rows = [line.startswith("|") for line in text.splitlines()]
    assert sum(first and not second for first, second in zip(rows, [*rows[1:], False], strict=True)) == 5


def test_real_reports_warn_and_synthetic_ones_say_so(manifest):
    real = render_report_dataset_card(manifest)
    assert "treat every report as patient text" in real and "Do not publish it" in real
    assert "no real patient text" not in real
    generator = {"name": "generate_reports", "seed": 5}
    synthetic = render_report_dataset_card({**manifest, "access": "synthetic", "generator": generator})
    assert "**Synthetic: no real patient text.**" in synthetic and "`generate_reports` with seed 5" in synthetic
    assert "Do not publish" not in synthetic and "synthetic" in DatasetCard(synthetic).data.tags


@pytest.mark.parametrize("origin", ["mimic-cxr", "openi", "jsonl"])
@pytest.mark.parametrize("label_source", ["relabel", "csv", "prompt"])
def test_every_origin_and_every_reason_has_words(manifest, origin, label_source):
    manifest |= {"origin": origin, "label_source": label_source, "labels": "chexpert"}
    manifest["options"] |= {"split": "official", "sections": "any", "deidentified": "normalise"}
    manifest["rows"] |= {"dropped": dict.fromkeys(DROP_REASONS, 1), "filtered": dict.fromkeys(FILTERS, 2)}
    manifest["rows"]["changed"] = dict.fromkeys(("deidentified", "details", "earlier_studies"), 3)
    for text in (render_report_dataset_card(manifest), render_report_summary(manifest)):
        assert all(reason in text for reason in (*DROP_REASONS.values(), *FILTERS.values()))
        assert "{{" not in text and "None" not in text


def test_the_terminal_shows_the_same_counts(manifest):
    lines = [line.split() for line in render_report_summary(manifest).splitlines()]
    assert lines[0] == ["reports", "read", "5012"]
    assert ["test", "1002", "302", "202", "0", "7"] in lines
    assert not any("JSON" in line for line in lines)
    summary = render_report_summary(manifest | {"rows": manifest["rows"] | {"filtered": {"other_exam": 3}}})
    assert re.search(r"CT of the chest +3\n", summary) and re.search(r"removed a finding +111\n", summary)
    assert "\n87.7% of 1000 sentences name a finding" in summary


def test_without_sentences_that_the_rules_labelled_there_is_no_share(manifest):
    manifest["sentences"] = {"labelled": 0, "recognised": 0}
    assert "recognise" not in render_report_dataset_card(manifest) + render_report_summary(manifest)
    assert recognition_warning(manifest) == ""


def test_few_recognised_sentences_are_warned_of(manifest):
    assert recognition_warning(manifest) == ""
    manifest["sentences"] = {"labelled": 1000, "recognised": 300}
    assert "recognise 30% of the sentences" in recognition_warning(manifest)
