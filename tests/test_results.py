import copy
import math

import pytest

from radrecipes.results import FIGURES, over_seeds, results_path, summarise


def run_of(seed, accuracy):
    manifest = {
        "recipe": {"name": "tiny/protocol_lora", "fields": {"task": "protocol", "seed": seed}},
        "base": {"model_id": "org/base", "weights_sha256": "b"},
        "data": {"digest": "d"},
        "prompt": {"sha256": "p"},
        "training": {
            "seed": seed,
            "mean_loss": 0.5,
            "seconds": 60.0,
            "peak_memory_gib": 1.0 + seed,
            "trainable_parameters": 7,
        },
        "packages": {},
        "hardware": {"cores": 2, "processor": "x"},
        "code": {},
    }
    figures = {figure: {"value": accuracy, "low": 0.0, "high": 1.0} for figure in FIGURES}
    systems = {"adapter": figures, "tfidf_logistic_regression": figures}
    if seed == 42:
        systems["base"] = figures
    comparisons = [{"first": "adapter", "second": "tfidf_logistic_regression", "p_value": 0.01 * seed}]
    return manifest, {"split": "test", "rows": 10, "groups": 5, "systems": systems, "comparisons": comparisons}


def test_interval_over_seeds_is_students():
    # t(0.975, 2 degrees) = 4.302653
    found = over_seeds([0.90, 0.92, 0.94])
    assert found["mean"] == pytest.approx(0.92)
    assert found["sd"] == pytest.approx(0.02)
    assert found["high"] - found["mean"] == pytest.approx(4.302653 * 0.02 / math.sqrt(3), rel=1e-5)
    assert over_seeds([0.9]) == {"mean": 0.9, "sd": None, "low": None, "high": None, "n": 1}


def test_summary_holds_a_row_a_seed_and_the_base_once():
    result = summarise([run_of(42, 0.9), run_of(1, 0.8)], "command")
    assert [row["seed"] for row in result["seeds"]] == [42, 1]
    assert result["systems"]["adapter"]["exact_accuracy"]["mean"] == pytest.approx(0.85)
    assert result["systems"]["base"]["exact_accuracy"]["n"] == 1
    assert result["peak_memory_gib"] == 43.0
    assert "seed" not in result["fields"]


@pytest.mark.parametrize(("part", "key"), [("data", "digest"), ("base", "weights_sha256"), ("prompt", "sha256")])
def test_runs_of_other_origin_are_not_averaged(part, key):
    second = copy.deepcopy(run_of(1, 0.8))
    second[0][part][key] = "other"
    with pytest.raises(ValueError, match=f"seed 1 differs in {part}.{key}"):
        summarise([run_of(42, 0.9), second], "command")


def test_result_stands_beside_its_recipe():
    assert str(results_path("recipes/a/b.yaml")) == "recipes/a/b.results.json"
