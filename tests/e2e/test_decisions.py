"""What a department decides by: labels that it adds, labels that it always reviews, accuracies that it asks for."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from e2e.conftest import RUN
from radrecipes.data.prepared import LABEL_SET_FILE
from radrecipes.inference.abstention import NOT_CALIBRATED, NOT_EVALUATED, UNSUPPORTED_TARGET, DecisionPolicy
from radrecipes.inference.calibration import label_probabilities
from radrecipes.inference.predictors.label_predictor import LabelPredictor

NOTES = [{"note": note} for note in ("chronic knee pain, 34 yo F", "worst headache of life, r/o bleed")]
POLICY = Path(RUN, "adapter", "decision_policy.json")


def with_labels(added: str, name: str = "labels.yaml") -> str:
    """The adapter's label set with lines added to its list of labels."""
    text = Path(RUN, "adapter", LABEL_SET_FILE).read_text("utf-8")
    Path(name).write_text(text.rstrip() + "\n" + added, encoding="utf-8")
    return name


def set_threshold(threshold: float | None) -> None:
    """Give every target accuracy one threshold, as if validation supported it."""
    policy = json.loads(POLICY.read_text("utf-8"))
    for choice in policy["thresholds"]:
        choice["threshold"] = threshold
    POLICY.write_text(json.dumps(policy), encoding="utf-8")


def test_an_added_label_is_scored_and_always_reviewed(finished_copy):
    set_threshold(0.0)
    own = LabelPredictor(RUN)
    indent = next(
        line[: len(line) - len(line.lstrip())] for line in own.label_set.text.splitlines() if line.lstrip()[:1] == "-"
    )
    predictor = LabelPredictor(RUN, label_set=with_labels(f"{indent}- {{name: CT}}\n"))
    assert predictor.added_labels == {"CT"} and predictor.fingerprint != own.fingerprint
    probabilities = predictor.probabilities(predictor.score(NOTES))
    assert probabilities.shape == (len(NOTES), len(own.label_set.names) + 1)
    assert ((probabilities > 0) & (probabilities < 1)).all()
    for answer in own.answer(NOTES):
        assert answer.label != "CT" and answer.automatic is True and answer.review_reason is None
    for answer in predictor.answer(NOTES):
        added = answer.label == "CT"
        assert (answer.automatic, answer.review_reason) == ((False, NOT_CALIBRATED) if added else (True, None))
    # Whichever of the labels the model is sure of.
    for answer, name in zip(predictor.decided(np.eye(probabilities.shape[1])), predictor.label_set.names, strict=True):
        added = name == "CT"
        assert answer.label == name
        assert (answer.automatic, answer.review_reason) == ((False, NOT_CALIBRATED) if added else (True, None))


def test_a_label_set_may_not_lack_a_label_of_the_adapter(finished_copy, call):
    text = Path(RUN, "adapter", LABEL_SET_FILE).read_text("utf-8").replace("MR Knee", "MR Knees")
    Path("other.yaml").write_text(text, encoding="utf-8")
    refused = call("predict", "--adapter", RUN, "--note", "knee", "--label-set", "other.yaml")
    assert refused.code == 2 and refused.stderr.count("\n") == 1
    assert "other.yaml: lacks 1 of the adapter's labels, first 'MR Knee' (it has 'MR Knees')" in refused.stderr


def test_a_label_that_is_always_reviewed_is_never_automatic(finished_copy):
    set_threshold(0.0)
    answers = LabelPredictor(RUN).answer(NOTES)
    assert all(answer.automatic for answer in answers)
    text = Path(RUN, "adapter", LABEL_SET_FILE).read_text("utf-8")
    lines = [
        f"{line}\n  always_review: true" if line.strip() == f"- name: {answers[0].label}" else line
        for line in text.splitlines()
    ]
    assert len("\n".join(lines)) > len(text), "the tiny label set is written as a block list"
    Path("reviewed.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    reviewed = LabelPredictor(RUN, label_set="reviewed.yaml").answer(NOTES)
    assert [answer.label for answer in reviewed] == [answer.label for answer in answers]
    for answer in reviewed:
        marked = answer.label == answers[0].label
        assert (answer.automatic, answer.review_reason) == (not marked, "label is always reviewed" if marked else None)


def decisions_of_the_run():
    return {(answer.automatic, answer.review_reason) for answer in LabelPredictor(RUN).answer(NOTES)}


def test_without_thresholds_every_answer_needs_review(finished_copy, call):
    set_threshold(None)
    assert decisions_of_the_run() == {(None, UNSUPPORTED_TARGET)}
    POLICY.unlink()
    assert decisions_of_the_run() == {(None, NOT_EVALUATED)}
    asked = call("predict", "--adapter", RUN, "--note", "knee", "--target-accuracy", "0.9")
    assert asked.code == 2 and "no thresholds were fitted yet; run scripts/evaluate_model.py" in asked.stderr


@pytest.mark.parametrize(
    ("target", "said"),
    [("0.95", "can support; they support at most"), ("0.93", "was not fitted; choose one of 0.9, 0.95, 0.98")],
)
def test_an_unsupported_target_is_refused(finished_copy, call, target, said):
    set_threshold(None)
    refused = call("predict", "--adapter", RUN, "--note", "knee", "--target-accuracy", target)
    assert refused.code == 2 and said in refused.stderr and refused.stdout == ""


def test_the_threshold_of_the_requested_target_decides(finished_copy):
    policy = json.loads(POLICY.read_text("utf-8"))
    for choice, threshold in zip(policy["thresholds"], (0.0, 1.1, 1.2), strict=True):
        choice["threshold"] = threshold
    POLICY.write_text(json.dumps(policy), encoding="utf-8")
    assert isinstance(LabelPredictor(RUN).policy, DecisionPolicy)
    assert not any(answer.automatic for answer in LabelPredictor(RUN).answer(NOTES))
    assert all(answer.automatic for answer in LabelPredictor(RUN, target_accuracy=0.90).answer(NOTES))


def test_the_base_model_is_not_scored_at_the_temperature_of_the_trained_weights(finished_copy):
    predictor = LabelPredictor(RUN)
    predictor.policy = replace(predictor.policy, temperature=7.0)
    alone = label_probabilities(predictor.score(NOTES, untuned=True).log_likelihoods)
    answers = predictor.answer(NOTES, untuned=True)
    assert [answer.confidence for answer in answers] == pytest.approx(alone.max(axis=1).tolist())
    assert [answer.automatic for answer in answers] == [None, None]
