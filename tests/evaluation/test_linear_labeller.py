"""The second labeller: what it learns, that it reads sentences, and its figures beside those of the rules."""

from types import SimpleNamespace

import pytest
from conftest import REPOSITORY
from written_reports import evaluated

from radrecipes.errors import InputError
from radrecipes.evaluation import linear_labeller
from radrecipes.evaluation.evaluate import _appoint, _check_judges
from radrecipes.evaluation.linear_labeller import LinearLabeller, labelled_texts, read_labelled
from radrecipes.evaluation.report_metrics import ReportEvaluation
from radrecipes.radiology.labeller import label_report
from radrecipes.radiology.observations import NO_FINDING, OBSERVATIONS, Status
from radrecipes.statistics import precision_recall_f1
from radrecipes.tasks import TASKS

LOWEST_UNSEEN_F1 = 0.8  # that of the rules is 0.9


@pytest.fixture(scope="module")
def labeller():
    return LinearLabeller()


def test_it_learns_every_status_of_every_observation(tmp_path, monkeypatch):
    texts = labelled_texts()
    assert texts == labelled_texts()
    known = {(name, status) for labels in texts.values() for name, status in labels.items()}
    assert {(name, status) for name in OBSERVATIONS if name != NO_FINDING for status in Status} <= known
    assert texts["The heart is enlarged."] == {"Cardiomegaly": Status.POSITIVE}
    assert texts["Possible cardiomegaly."] == {"Cardiomegaly": Status.UNCERTAIN}
    # The impression of the template writer names no device, whatever its status.
    monkeypatch.setattr(linear_labeller, "LABELLED_TEXTS", tmp_path)
    assert labelled_texts()["No acute cardiopulmonary process."] == {}


def test_it_labels_sentence_by_sentence(labeller):
    texts = ["The heart is enlarged. There may be edema.", "The heart size is normal. There is no rib fracture.", ""]
    assert labeller.label(texts) == [
        {"Cardiomegaly": Status.POSITIVE, "Edema": Status.UNCERTAIN},
        {"Cardiomegaly": Status.NEGATIVE, "Fracture": Status.NEGATIVE},
        {},
    ]
    # Present over possible over absent, whatever the order
    mixed = "There is no pulmonary edema. The heart is enlarged. There may be edema. The heart size is normal."
    assert labeller.label([mixed]) == [{"Cardiomegaly": Status.POSITIVE, "Edema": Status.UNCERTAIN}]


def test_it_reads_sentences_that_it_never_saw(labeller):
    heldout = read_labelled(REPOSITORY / "tests/radiology/real_phrasing_heldout.yaml")
    rows = [
        (text, {name: status for name, status in labels.items() if name != NO_FINDING})
        for of_kind in heldout.values()
        for text, labels in of_kind
    ]
    assert not {text for text, _ in rows} & labelled_texts().keys()
    found = labeller.label([text for text, _ in rows])
    right = sum(len(labels.items() & wanted.items()) for labels, (_, wanted) in zip(found, rows, strict=True))
    counts = sum(map(len, found)), sum(len(wanted) for _, wanted in rows)
    assert precision_recall_f1(right, *counts)["f1"] >= LOWEST_UNSEEN_F1


def test_a_labeller_that_reads_by_the_rules_has_their_figures(monkeypatch):
    same = SimpleNamespace(label=lambda texts: [label_report(text) for text in texts])
    monkeypatch.setattr(ReportEvaluation, "labeller", same)
    systems = evaluated("report")[0]["systems"]
    for system in systems.values():
        assert system["judge_finding_recall"] == system["finding_recall"]
        assert system["judge_contradiction_rate"]["value"] <= system["contradiction_rate"]["value"]
        assert system["judge_kappa"] in (None, pytest.approx(1.0))
    assert systems["adapter"]["judge_kappa"] and systems["base"]["judge_kappa"] is None
    # One that never finds anything agrees with nothing that the rules found.
    monkeypatch.setattr(ReportEvaluation, "labeller", SimpleNamespace(label=lambda texts: [{} for _ in texts]))
    blind = evaluated("report")[0]["systems"]["adapter"]
    assert blind["judge_finding_recall"]["value"] == blind["judge_kappa"] == 0.0


def test_judges_are_for_reports_and_none_excludes_others():
    for task, judges, message in (
        ("protocol", ["labeller"], "is for tasks that write reports"),
        ("report", ["none", "labeller"], "none excludes others"),
    ):
        with pytest.raises(InputError, match=message):
            _check_judges(TASKS[task], judges)
    rows = ReportEvaluation(TASKS["report"], [])
    _appoint(rows, ["none"])
    assert rows.labeller is rows.radeval is None
    _appoint(rows, None)
    assert rows.labeller and rows.radeval is None
