"""The second labeller: what it learns, that it reads sentences, and its figures beside those of the rules."""

import contextlib
from types import SimpleNamespace

import pytest
from tiny_model import build_tiny_encoder
from written_reports import evaluated

from radrecipes.errors import InputError
from radrecipes.evaluation import encoder_labeller, fine_tuned_encoder
from radrecipes.evaluation.encoder_labeller import EncoderLabeller, labelled_texts
from radrecipes.evaluation.evaluate import _appoint, _check_judges
from radrecipes.evaluation.report_metrics import ReportEvaluation
from radrecipes.radiology.labeller import label_report
from radrecipes.radiology.observations import NO_FINDING, OBSERVATIONS, Status
from radrecipes.tasks import TASKS

LEARNED = {
    "The heart is enlarged.": {"Cardiomegaly": Status.POSITIVE},
    "The heart is normal.": {"Cardiomegaly": Status.NEGATIVE},
    "Maybe some edema.": {"Edema": Status.UNCERTAIN},
    "No edema.": {"Edema": Status.NEGATIVE},
    "Edema is there.": {"Edema": Status.POSITIVE},  # for validation
    "The lungs are clear.": {},
}


@contextlib.contextmanager
def silent(title, rows):
    yield lambda count: None


def test_it_learns_every_status_of_every_observation(tmp_path, monkeypatch):
    texts = labelled_texts()
    assert texts == labelled_texts()
    known = {(name, status) for labels in texts.values() for name, status in labels.items()}
    asked = {(name, status) for name in OBSERVATIONS if name != NO_FINDING for status in Status}
    # A text says that there is a device, or that there is none; the template writer alone says that there may be one.
    assert asked <= known
    assert texts["The heart is enlarged."] == {"Cardiomegaly": Status.POSITIVE}
    assert texts["Possible cardiomegaly."] == {"Cardiomegaly": Status.UNCERTAIN}
    # The impression of the template writer names no device, whatever its status.
    monkeypatch.setattr(encoder_labeller, "LABELLED_TEXTS", tmp_path)
    assert labelled_texts()["No acute cardiopulmonary process."] == {}


def test_it_labels_sentence_by_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(fine_tuned_encoder, "FEWEST_STEPS", 400)
    monkeypatch.setattr(fine_tuned_encoder, "LEARNING_RATE", 3e-4)
    monkeypatch.setattr(encoder_labeller, "labelled_texts", lambda: dict(LEARNED))
    monkeypatch.setattr(encoder_labeller, "_VALIDATION", 1_000)
    labeller = EncoderLabeller(str(build_tiny_encoder(tmp_path / "models", "tiny/bert", hidden_size=64)))
    labeller.fit(silent)
    assert labeller.facts["encoder"] == "bert" and labeller.facts["epochs"] >= 1
    texts = ["The heart is enlarged. Maybe some edema.", "The heart is normal. The lungs are clear.", ""]
    assert labeller.label(texts) == [
        {"Cardiomegaly": Status.POSITIVE, "Edema": Status.UNCERTAIN},
        {"Cardiomegaly": Status.NEGATIVE},
        {},
    ]
    # Present over possible over absent, whatever the order
    assert labeller.label(["The heart is normal. Maybe some edema. No edema. The heart is enlarged."]) == [
        {"Cardiomegaly": Status.POSITIVE, "Edema": Status.UNCERTAIN}
    ]


def test_a_labeller_that_reads_by_the_rules_has_their_figures(monkeypatch):
    same = SimpleNamespace(label=lambda texts: [label_report(text) for text in texts], facts={"encoder": "rules"})
    monkeypatch.setattr(ReportEvaluation, "labeller", same)
    metrics, _ = evaluated("report")
    assert metrics["judge"] == {"encoder": "rules"}
    for system in metrics["systems"].values():
        assert system["judge_finding_recall"] == system["finding_recall"]
        assert system["judge_contradiction_rate"]["value"] <= system["contradiction_rate"]["value"]
        assert system["judge_kappa"] in (None, pytest.approx(1.0))
    assert metrics["systems"]["adapter"]["judge_kappa"] and metrics["systems"]["base"]["judge_kappa"] is None
    # One that never finds anything agrees with nothing that the rules found.
    monkeypatch.setattr(
        ReportEvaluation, "labeller", SimpleNamespace(label=lambda texts: [{} for _ in texts], facts={})
    )
    blind = evaluated("report")[0]["systems"]["adapter"]
    assert blind["judge_finding_recall"]["value"] == blind["judge_kappa"] == 0.0


def test_judges_are_for_reports_and_none_excludes_others():
    for task, judges, message in (
        ("protocol", ["encoder"], "is for tasks that write reports"),
        ("report", ["none", "encoder"], "none excludes others"),
    ):
        with pytest.raises(InputError, match=message):
            _check_judges(TASKS[task], judges)
    rows = ReportEvaluation(TASKS["report"], [])
    _appoint(rows, ["none"])
    assert rows.labeller is rows.radeval is None
    _appoint(rows, None)
    assert rows.labeller.facts["encoder"].endswith("all-MiniLM-L6-v2") and rows.radeval is None
    with pytest.raises(InputError, match=r"second labeller failed .* --judges none"):
        EncoderLabeller("none/such")
