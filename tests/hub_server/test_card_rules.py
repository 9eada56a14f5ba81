"""Cards that the Hub takes and cards that it refuses."""

import pytest
import yaml

from hub_server.card_rules import check_card

MODEL = {
    "license": "apache-2.0",
    "language": ["en"],
    "library_name": "peft",
    "pipeline_tag": "text-generation",
    "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "base_model_relation": "adapter",
    "datasets": ["radiology/protocols"],
    "tags": ["lora", "base_model:adapter:HuggingFaceTB/SmolLM2-135M-Instruct"],
    "model-index": [
        {
            "name": "protocol",
            "results": [
                {
                    "task": {"type": "text-classification"},
                    "dataset": {"type": "radiology/protocols", "name": "Protocols"},
                    "metrics": [{"type": "accuracy", "value": 0.9}],
                }
            ],
        }
    ],
}
DATASET = {
    "license": "other",
    "license_name": "physionet-1.5.0",
    "license_link": "LICENSE",
    "pretty_name": "Protocols",
    "size_categories": ["1K<n<10K"],
    "task_categories": ["text-classification"],
    "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "train.parquet"}]}],
    "extra_gated_prompt": "You agree.",
    "extra_gated_fields": {"Name": "text", "Use": {"type": "select", "options": ["research"]}},
}


def card(facts: dict) -> str:
    return f"---\n{yaml.safe_dump(facts)}---\n\n# Title\n"


@pytest.mark.parametrize(("facts", "repo_type"), [(MODEL, "model"), (DATASET, "dataset")])
def test_good_cards_pass(facts, repo_type):
    assert check_card(card(facts), repo_type) == ([], [])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("license", "Apache-2.0"),
        ("license", "other"),
        ("license_name", "mine"),
        ("language", [False]),
        ("language", "English"),
        ("base_model", "/models/SmolLM2"),
        ("base_model", "a/b/c"),
        ("base_model_relation", "child"),
        ("pipeline_tag", "report-writing"),
        ("datasets", ["not a name"]),
        ("tags", [1]),
        ("model-index", {}),
        ("model-index", [{"results": []}]),
        ("model-index", [{"name": "x", "results": [{}]}]),
        ("model-index", [{**MODEL["model-index"][0], "name": ""}]),
        ("extra_gated_fields", {"Name": "string"}),
    ],
)
def test_each_bad_value_of_a_model_is_named(key, value):
    errors, _ = check_card(card({**MODEL, key: value}), "model")
    assert errors and any(key in error for error in errors)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("license_link", "somewhere"),
        ("size_categories", ["1K-10K"]),
        ("task_categories", ["protocolling"]),
        ("pretty_name", ["a"]),
        ("configs", [{"data_files": "*.parquet"}]),
        ("configs", DATASET["configs"] * 2),
        ("extra_gated_prompt", 3),
        ("extra_gated_fields", ["Name"]),
    ],
)
def test_each_bad_value_of_a_dataset_is_named(key, value):
    errors, _ = check_card(card({**DATASET, key: value}), "dataset")
    assert errors and any(key in error for error in errors)


def test_broken_and_missing_metadata():
    assert check_card("---\na: [\n---\n", "model")[0][0].startswith("YAML")
    assert check_card("---\n- a\n---\n", "model")[0] == ["the YAML on top of the card must be a mapping"]
    assert check_card("# No metadata\n", "model") == ([], ["empty or missing yaml metadata in repo card"])
    assert check_card(card({"tags": ["a"]}), "model") == ([], ["no license is given"])
