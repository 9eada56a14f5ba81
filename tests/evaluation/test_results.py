import copy
import json
import math

import pytest

from radrecipes.errors import InputError
from radrecipes.evaluation.results import code_of_seeds, over_seeds, results_path, seeds_to_record, summarise
from radrecipes.tasks import TASKS

FIGURES = [figure.name for figure in TASKS["protocol"].headline]


def run_of(seed, accuracy):
    manifest = {
        "recipe": {
            "name": "tiny/protocol_lora",
            "fields": {"task": "protocol", "seed": seed},
            "resolved": {"task": "protocol", "seed": seed, "lora_r": 8},
        },
        "base": {"model_id": "org/base", "weights_sha256": "b"},
        "data": {"digest": "d"},
        "prompt": {"sha256": "p"},
        "training": {
            "seed": seed,
            "mean_loss": 0.5,
            "first_losses": [2.5, 2.25],
            "seconds": 60.0,
            "peak_memory_gib": 1.0 + seed,
            "trainable_parameters": 7,
        },
        "packages": {},
        "hardware": {"cores": 2, "processor": "x"},
        "code": {},
        "constraints_sha256": "c",
        "determinism": {"threads": 2},
    }
    figures = {figure: {"value": accuracy, "low": 0.0, "high": 1.0} for figure in FIGURES}
    figures["cost"] = {"training_seconds": None, "trained_on": None, "rows_per_second": 1.0, "answered_on": "CPU"}
    systems = {"adapter": figures, "fine_tuned_encoder": figures}
    if seed == 42:
        systems["base"] = figures
    comparisons = [{"first": "adapter", "second": "fine_tuned_encoder", "p_value": 0.01 * seed}]
    about = {"task": "protocol", "split": "test", "rows": 10, "groups": 5}
    return manifest, {**about, "systems": systems, "comparisons": comparisons, "code": {}}


def deciding_run(seed, coverage, accuracy, temperature=1.2):
    """A run whose answers have probabilities, with a support vector machine as the best baseline."""
    manifest, metrics = run_of(seed, 0.9)

    def selective(area, covered, right):
        on_test = {"coverage": {"value": covered}, "accuracy": None if right is None else {"value": right}}
        other = {"target_accuracy": 0.9, "test": {"coverage": {"value": 1.0}, "accuracy": {"value": 0.0}}}
        return {
            "area_under_risk_coverage": {"value": area},
            "thresholds": [other, {"target_accuracy": 0.95, "test": on_test}],
        }

    systems = metrics["systems"]
    systems["adapter"] = {**systems["adapter"], "selective": selective(0.02, coverage, accuracy)}
    systems["words_characters_svm"] = {**systems["adapter"], "selective": selective(0.05, 0.5, 0.95)}
    # It has a confidence too, but it is neither the adapter nor the best baseline.
    systems["majority"] = {**systems["adapter"], "selective": selective(0.3, 0.1, 0.9)}
    metrics["best_baseline"] = {"name": "words_characters_svm", "validation_accuracy": 0.8}
    metrics["comparisons"].insert(0, {"first": "adapter", "second": "words_characters_svm", "p_value": 0.2})
    for name, seconds, error in (("adapter", 100.0 * seed, 0.01 * seed), ("words_characters_svm", 4.0, 0.03)):
        systems[name] |= {
            "calibration": {
                "temperature": temperature,
                "before": {"expected_calibration_error": 0.2},
                "after": {"expected_calibration_error": error},
            },
            "cost": {
                "training_seconds": seconds,
                "trained_on": "GPU",
                "rows_per_second": 10.0 * seed,
                "answered_on": "CPU",
            },
        }
    return manifest, metrics


def test_interval_over_seeds_is_students():
    # t(0.975, 2 degrees) = 4.302653
    found = over_seeds([0.90, 0.92, 0.94])
    assert found["mean"] == pytest.approx(0.92)
    assert found["sd"] == pytest.approx(0.02)
    assert found["high"] - found["mean"] == pytest.approx(4.302653 * 0.02 / math.sqrt(3), rel=1e-5)
    assert over_seeds([0.9]) == {"mean": 0.9, "sd": None, "low": None, "high": None, "n": 1}


def test_summary_contains_a_row_a_seed_and_the_base_once():
    result = summarise([run_of(42, 0.9), run_of(1, 0.8)], "command")
    assert [row["seed"] for row in result["seeds"]] == [42, 1]
    assert result["systems"]["adapter"]["exact_accuracy"]["mean"] == pytest.approx(0.85)
    assert result["systems"]["base"]["exact_accuracy"]["n"] == 1
    assert result["peak_memory_gib"] == 43.0
    assert "seed" not in result["fields"]


def test_seeds_of_two_machines_say_each_where_it_was_trained():
    elsewhere = copy.deepcopy(run_of(1, 0.8))
    elsewhere[0]["hardware"]["cores"] = 64
    result = summarise([run_of(42, 0.9), elsewhere], "command")
    assert [row["hardware"]["cores"] for row in result["seeds"]] == [2, 64]


def test_summary_tells_how_far_the_answers_can_be_relied_on_over_seeds():
    result = summarise([deciding_run(1, 0.8, 0.96), deciding_run(2, 0.6, 0.98, 1.4)], "command")
    assert result["calibration"]["temperature"]["mean"] == pytest.approx(1.3)
    # The error after temperature scaling, not before it.
    assert result["calibration"]["expected_calibration_error"]["mean"] == pytest.approx(0.015)
    decisions = result["decisions"]
    assert decisions["target_accuracy"] == 0.95
    assert list(decisions["systems"]) == ["adapter", "words_characters_svm"]
    assert decisions["systems"]["adapter"]["coverage"] == over_seeds([0.8, 0.6])
    assert decisions["systems"]["adapter"]["accuracy"] == over_seeds([0.96, 0.98])
    assert decisions["systems"]["words_characters_svm"]["area_under_risk_coverage"]["mean"] == pytest.approx(0.05)
    row = result["seeds"][1]
    assert row["calibration"] == {"temperature": 1.4, "expected_calibration_error": 0.02}
    assert row["decisions"]["adapter"] == {
        "coverage": 0.6,
        "accuracy": 0.98,
        "area_under_risk_coverage": 0.02,
        "expected_calibration_error": 0.02,
    }
    assert decisions["systems"]["words_characters_svm"]["expected_calibration_error"]["mean"] == pytest.approx(0.03)
    assert [(pair["second"], pair["p_value"]) for pair in row["comparisons"]] == [
        ("words_characters_svm", 0.2),
        ("fine_tuned_encoder", 0.02),
    ]
    assert result["best_baseline"]["name"] == "words_characters_svm"
    assert result["costs"]["fine_tuned_encoder"]["training_seconds"] is None
    assert result["costs"]["adapter"]["training_seconds"] == over_seeds([100.0, 200.0])
    assert (result["costs"]["adapter"]["trained_on"], result["costs"]["adapter"]["answered_on"]) == ("GPU", "CPU")
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_a_seed_whose_target_validation_cannot_support_covers_nothing_and_has_no_accuracy():
    result = summarise([deciding_run(1, 0.8, 0.96), deciding_run(2, 0.0, None)], "command")
    adapter = result["decisions"]["systems"]["adapter"]
    assert (adapter["coverage"]["mean"], adapter["coverage"]["n"]) == (pytest.approx(0.4), 2)
    assert (adapter["accuracy"]["mean"], adapter["accuracy"]["n"]) == (0.96, 1)
    assert summarise([deciding_run(2, 0.0, None)], "command")["decisions"]["systems"]["adapter"]["accuracy"] is None


def test_generated_answers_have_no_calibration_and_no_decisions():
    manifest, metrics = run_of(1, 0.8)
    for found in (metrics, {**metrics, "best_baseline": None}):
        result = summarise([(manifest, found)], "command")
        assert (result["calibration"], result["decisions"]) == (None, None)
        row = result["seeds"][0]
        assert (row["calibration"], row["decisions"], result["best_baseline"]) == (None, None, None)


@pytest.mark.parametrize(("part", "key"), [("data", "digest"), ("base", "weights_sha256"), ("prompt", "sha256")])
def test_runs_of_other_origin_are_not_averaged(part, key):
    second = copy.deepcopy(run_of(1, 0.8))
    second[0][part][key] = "other"
    with pytest.raises(InputError, match=f"seed 1 differs in {part}.{key}; train it from scratch"):
        summarise([run_of(42, 0.9), second], "command")


def test_slices_by_stated_columns_are_averaged_over_the_seeds_that_have_the_system():
    def sliced(seed, accuracy):
        manifest, metrics = run_of(seed, accuracy)
        systems = {"adapter": {"value": accuracy}, "base": None} if seed == 42 else {"adapter": {"value": accuracy}}
        row = {"slice": "rule", "value": "implant", "rows": 30, "groups": 6, "too_few": False, "systems": systems}
        return manifest, {**metrics, "slices_by_column": [row]}

    (row,) = summarise([sliced(42, 0.9), sliced(1, 0.8)], "command")["slices_by_column"]
    assert (row["value"], row["rows"], row["systems"]["base"]) == ("implant", 30, None)
    assert row["systems"]["adapter"]["mean"] == pytest.approx(0.85)
    assert "slices_by_column" not in summarise([run_of(42, 0.9), run_of(1, 0.8)], "command")


def test_runs_of_other_recipes_are_not_averaged():
    second = copy.deepcopy(run_of(1, 0.8))
    second[0]["recipe"]["fields"]["learning_rate"] = 0.5
    with pytest.raises(InputError, match="seed 1 differs in recipe; train it from scratch"):
        summarise([run_of(42, 0.9), second], "command")


def test_seeds_are_the_first_ones_and_each_once():
    assert seeds_to_record(1) == [42]
    assert seeds_to_record(5) == [42, 1, 2, 3, 4]
    assert sorted(seeds_to_record(60)) == list(range(1, 61)) and seeds_to_record(60)[:3] == [42, 1, 2]


def test_each_seed_says_which_code_trained_and_which_evaluated_it():
    (first, measured), (second, measured_later) = run_of(42, 0.9), run_of(1, 0.8)
    first["code"], second["code"] = ({"commit": letter * 40, "changed": False} for letter in "ab")
    measured |= {"code": {"commit": "a" * 40, "changed": False}, "adapter_sha256": "c" * 64}
    measured_later |= {"code": {"commit": "b" * 40, "changed": True}}
    result = summarise([(first, measured), (second, measured_later)], "command")
    rows = result["seeds"]
    assert rows[0]["training_code"] == rows[0]["evaluation_code"] == {"commit": "a" * 40, "changed": False}
    assert (rows[0]["first_losses"], rows[0]["adapter_sha256"]) == ([2.5, 2.25], "c" * 64)
    assert code_of_seeds(result) == {
        "a" * 12: ["training of 42", "evaluation of 42"],
        "b" * 12: ["training of 1"],
        "b" * 12 + " (changed)": ["evaluation of 1"],
    }
    unknown = {"seeds": [{"seed": 42, "training_code": {}, "evaluation_code": {}}]}
    assert code_of_seeds(unknown) == {"unknown": ["training of 42", "evaluation of 42"]}


def test_a_result_names_the_command_for_data_that_the_repository_may_not_contain():
    manifest, metrics = run_of(42, 0.9)
    shipped = summarise([(manifest, metrics)], "command")["data"]
    manifest["data"] = {**manifest["data"], "folder": "data/openi_reports"}
    assert summarise([(manifest, metrics)], "command")["data"] == {**manifest["data"], "made_by": "make openi"}
    assert "made_by" not in shipped


def test_a_result_says_what_was_pinned_and_the_defaults_of_the_recipe():
    result = summarise([run_of(42, 0.9)], "command")
    assert (result["determinism"], result["constraints_sha256"]) == ({"threads": 2}, "c")
    assert result["resolved"] == {"task": "protocol", "lora_r": 8}


def test_result_is_next_to_its_recipe():
    assert str(results_path("recipes/a/b.yaml")) == "recipes/a/b.results.json"
