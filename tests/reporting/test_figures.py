"""What the drawings of the report page show."""

import math
import xml.etree.ElementTree as ElementTree

import pytest

from radrecipes.reporting.figures import failure_rates_svg, loss_curve_svg, reliability_svg, risk_coverage_svg

LOG = [{"step": step, "loss": 3 / step} for step in range(1, 50)]


def test_loss_curve_is_xml_and_deterministic():
    svg = loss_curve_svg(LOG)
    assert svg == loss_curve_svg(LOG)
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert "validation" not in svg


def test_loss_curve_has_the_validation_its_metrics_and_the_step_that_was_kept():
    evaluations = [
        {"step": step, "eval_loss": 1.0, "eval_exact_accuracy": 0.5, "eval_runtime": 2.0} for step in (20, 40)
    ]
    validation = {"evaluations": evaluations, "kept_step": 20}
    titles = {"exact_accuracy": "exact accuracy", "rouge_l": "ROUGE-L"}
    svg = loss_curve_svg(LOG, validation, titles)
    assert svg == loss_curve_svg(LOG, validation, titles)
    words = texts(svg)
    assert {"validation", "step 20, whose weights were kept", "validation: exact accuracy"} <= set(words)
    assert "validation: ROUGE-L" not in words
    # Sharded models have the loss only.
    for evaluation in evaluations:
        del evaluation["eval_exact_accuracy"]
    words = texts(loss_curve_svg(LOG, validation, titles))
    assert "validation" in words and "validation: exact accuracy" not in words


def test_entries_without_a_finite_loss_are_passed_over():
    log = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": math.nan}, {"loss": 3.0}, {"step": 3, "loss": None}]
    assert loss_curve_svg(log) is None
    assert loss_curve_svg([*log, {"step": 4, "loss": 0.0}]) is not None
    assert loss_curve_svg([]) is None


def texts(svg):
    return [element.text for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")]


def test_reliability_diagram_counts_every_bin_on_both_sides(make_metrics):
    calibration = make_metrics()["systems"]["adapter"]["calibration"]
    svg = reliability_svg(calibration)
    assert svg == reliability_svg(calibration)
    words = texts(svg)
    assert "before temperature scaling: expected calibration error 0.081" in words
    assert "after temperature 1.44: expected calibration error 0.021" in words
    counts = [
        str(item["count"]) for side in ("before", "after") for item in calibration[side]["bins"] if item["count"]
    ]
    assert len(counts) == 22
    for count in set(counts):
        assert words.count(count) >= 2


def test_risk_coverage_shows_every_system_with_scores_and_marks_the_thresholds(make_metrics):
    metrics = make_metrics()
    del metrics["systems"]["majority"]["selective"]
    titles = {name: f"title of {name}" for name in metrics["systems"]}
    svg = risk_coverage_svg(metrics["systems"], titles, metrics["rows"], "words_characters_svm")
    words = texts(svg)
    for name, system in metrics["systems"].items():
        assert any(word.startswith(titles[name]) for word in words) == ("selective" in system)
    # The model's three thresholds and those two of the baseline that decide anything.
    marks = [word for word in words if word.endswith(" %")]
    assert marks.count("90 %") == 2
    assert marks.count("98 %") == 1
    assert risk_coverage_svg({"majority": metrics["systems"]["majority"]}, titles, 200, None) is None


def test_marks_in_one_place_share_a_label_and_unsupported_targets_have_none(make_metrics):
    metrics = make_metrics()
    rows = metrics["systems"]["adapter"]["selective"]["thresholds"]
    rows[1]["test"] = rows[0]["test"]
    rows[2].update(threshold=None)
    words = texts(risk_coverage_svg(metrics["systems"], {}, metrics["rows"], None))
    assert "90 · 95 %" in words
    assert not any("98" in word for word in words)


@pytest.mark.parametrize("accuracy", [0.0, 0.3, 1.0])
def test_a_system_far_below_the_model_is_named_and_not_drawn_flat(make_metrics, accuracy):
    metrics = make_metrics(adapter=accuracy)
    metrics["systems"]["base"]["selective"]["curve"]["accuracy"] = [0.1] * 200
    words = texts(risk_coverage_svg(metrics["systems"], {}, metrics["rows"], None))
    assert "adapter" in words
    assert ("base (below the plotted range)" in words) == (accuracy > 0.1)


@pytest.mark.parametrize("highest", [0.0, 0.02, 1.0])
def test_failure_rates_name_every_system_and_its_rate(highest):
    rates = {"contradiction_rate": "Contradicts", "never_stopped_rate": "Never stops"}
    systems = {
        "adapter": {rate: {"value": highest / 2, "low": 0.0, "high": highest} for rate in rates},
        "base": {rate: {"value": highest, "low": highest, "high": highest} for rate in rates},
    }
    svg = failure_rates_svg(systems, {"adapter": "model"}, rates, ("adapter",))
    assert svg == failure_rates_svg(systems, {"adapter": "model"}, rates, ("adapter",))
    words = texts(svg)
    assert [words.count(word) for word in ("model", "base", "Contradicts", "Never stops")] == [1, 1, 1, 1]
    assert words.count(f"{50 * highest:.1f} %") == (4 if highest == 0 else 2)
    # No fraction is above 100 %.
    assert not any(word.endswith("%") and float(word.rstrip(" %")) > 100 for word in words)
