"""A system that scores every label: its temperature, its answers, its calibration."""

import time
from contextlib import nullcontext
from functools import cached_property

import numpy as np
import pytest

from radrecipes.data.label_sets import Label, LabelSet
from radrecipes.evaluation.evaluate import EvaluationOptions, _model_answers
from radrecipes.evaluation.label_systems import EvaluationRows, correct, scored_system
from radrecipes.inference.answers import SystemOutput
from radrecipes.inference.calibration import fit_temperature, label_probabilities
from radrecipes.tasks import TASKS

NAMES = ["CT Head", "CT Chest", "MRI Knee", "Never Trained"]
LABEL_SET = LabelSet("made_up", 1, tuple(Label(name) for name in NAMES), "")


def scores_and_rows(seed, count, sharpness=8.0):
    """Scores that are right in most rows but far too sure, minus infinity for the last label."""
    draw = np.random.default_rng(seed)
    right = draw.integers(0, 3, count)
    scores = draw.normal(size=(count, 4))
    scores[np.arange(count), right] += 1.5
    scores = sharpness * scores
    scores[:, 3] = -np.inf
    ids = [f"{seed}-{number}" for number in range(count)]
    return scores, EvaluationRows(ids, ids, ids, [NAMES[place] for place in right])


def test_the_temperature_comes_from_validation_and_calibrates_other_rows():
    (of_validation, validation), (scores, rows) = scores_and_rows(1, 400), scores_and_rows(2, 300)
    system = scored_system(LABEL_SET, validation, of_validation, rows, scores, cost={"rows_per_second": 1.0})
    right = np.array([NAMES.index(label) for label in validation.references])
    calibration = system.facts["calibration"]
    assert calibration["temperature"] == fit_temperature(of_validation, right) > 2
    assert calibration["after"]["expected_calibration_error"] < calibration["before"]["expected_calibration_error"] / 2
    assert calibration["fitted_on"] == {"split": "validation", "rows": 400, "groups": 400}
    assert system.facts["cost"] == {"rows_per_second": 1.0}
    probabilities = label_probabilities(scores, calibration["temperature"])
    for output, row in zip(system.outputs, probabilities, strict=True):
        assert (output.label, output.confidence) == (NAMES[row.argmax()], pytest.approx(row.max()))
        assert [label for label, _ in output.top] == [NAMES[place] for place in np.argsort(-row)[:3]]
    assert correct(rows, system.outputs).mean() == np.mean(
        scores.argmax(axis=1) == [NAMES.index(x) for x in rows.references]
    )
    assert len(system.validation) == 400


def test_a_label_that_training_lacks_is_never_answered_and_spoils_no_figure():
    (of_validation, validation), (scores, rows) = scores_and_rows(1, 50), scores_and_rows(2, 40)
    validation.references[0] = rows.references[0] = "Never Trained"
    system = scored_system(LABEL_SET, validation, of_validation, rows, scores)
    assert not any(output.label == "Never Trained" for output in (*system.outputs, *system.validation))
    assert np.isfinite(system.facts["calibration"]["after"]["log_loss"])
    assert not correct(rows, system.outputs)[0]


def test_loading_the_base_model_does_not_count_as_answering(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    class Predictor:
        """One answer a second, and a base model that takes a hundred to load."""

        task, decode, has_base, shared = TASKS["protocol"], "generate", True, False

        def __init__(self):
            self.manifest = {
                "training": {"processes": 1, "seconds": 1.0},
                "hardware": {"processor": "x", "threads": 1},
            }

        @cached_property
        def untuned_model(self):
            clock[0] += 100

        def answer(self, inputs, batch_size, advance, untuned=False):
            if untuned:
                self.untuned_model  # noqa: B018
            clock[0] += len(inputs)
            return [SystemOutput("x", None)] * len(inputs)

    _, rows = scores_and_rows(1, 10)
    progress = lambda title, count: nullcontext()  # noqa: E731
    systems, _, _ = _model_answers(Predictor(), None, EvaluationOptions(), progress, rows, rows)
    assert {name: system.facts["cost"]["rows_per_second"] for name, system in systems.items()} == {
        "adapter": 1.0,
        "base": 1.0,
    }
