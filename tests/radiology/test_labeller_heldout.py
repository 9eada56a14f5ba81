"""The labeller on synthetic reports that were written without a look at its rules."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_fscore_support

from radrecipes.radiology.observations import NO_FINDING, OBSERVATIONS, SUPPORT_DEVICES, Status, findings_present

HELDOUT = Path(__file__).with_name("heldout_reports.yaml")
LOWEST_F1 = 0.92
FEWEST_PER_STATUS = 3
# A text says that there is a device, or that one was removed; and No Finding follows from the rest.
IMPLAUSIBLE = {
    (SUPPORT_DEVICES, Status.UNCERTAIN),
    (NO_FINDING, Status.NEGATIVE),
    (NO_FINDING, Status.UNCERTAIN),
}


def heldout_reports():
    """Held-out reports, each with `findings`, `impression`, `labels` as `Labels`, and sometimes a `note`."""
    reports = yaml.safe_load(HELDOUT.read_text(encoding="utf-8"))["reports"]
    for report in reports:
        report["labels"] = {name: Status(status) for name, status in report["labels"].items()}
    return reports


def micro_scores(expected, predicted):
    """Precision, recall and F1 over all (observation, status) pairs of all reports, and the mistakes per observation."""
    hits = missed = surplus = 0
    mistakes = Counter()
    for right, given_labels in zip(expected, predicted, strict=True):
        right, given_labels = set(right.items()), set(given_labels.items())
        hits += len(right & given_labels)
        missed += len(right - given_labels)
        surplus += len(given_labels - right)
        mistakes.update({name for name, _ in right ^ given_labels})
    precision = hits / (hits + surplus) if hits + surplus else 0.0
    recall = hits / (hits + missed) if hits + missed else 0.0
    f1 = 2 * hits / (2 * hits + missed + surplus) if hits + missed + surplus else 0.0
    return precision, recall, f1, mistakes


def describe_mistakes(reports, predicted, mistakes, examples=3):
    """The worst observations first, each with texts on which it went wrong."""
    lines = []
    for name, count in mistakes.most_common(5):
        lines.append(f"{name}: {count} reports wrong")
        wrong = [
            pair for pair in zip(reports, predicted, strict=True) if pair[0]["labels"].get(name) != pair[1].get(name)
        ]
        for report, given_labels in wrong[:examples]:
            text = f"{report['findings']} | {report['impression']}"
            lines.append(f"  {report['labels'].get(name)} expected, {given_labels.get(name)} given: {text}")
    return "\n".join(lines)


def test_heldout_reports_are_well_formed():
    reports = heldout_reports()
    assert len(reports) >= 150
    texts = [(report["findings"], report["impression"]) for report in reports]
    assert len(set(texts)) == len(texts)
    for report in reports:
        assert set(report) - {"note"} == {"findings", "impression", "labels"}
        assert report["findings"] or report["impression"]
        assert list(report["labels"]) == [name for name in OBSERVATIONS if name in report["labels"]], report
        if report["labels"].get(NO_FINDING) == Status.POSITIVE:
            assert not findings_present(report["labels"]), report
    for report in reports:
        for text in (report["findings"], report["impression"], report.get("note", "")):
            assert text == " ".join(text.split())


def test_heldout_reports_show_every_status_of_every_observation():
    counts = Counter(pair for report in heldout_reports() for pair in report["labels"].items())
    for name in OBSERVATIONS:
        for status in Status:
            if (name, status) in IMPLAUSIBLE:
                assert counts[name, status] == 0
            else:
                assert counts[name, status] >= FEWEST_PER_STATUS, (name, status)


labels_of_a_report = st.dictionaries(st.sampled_from(OBSERVATIONS), st.sampled_from(list(Status)), max_size=6)


@given(st.lists(st.tuples(labels_of_a_report, labels_of_a_report), min_size=1, max_size=8))
def test_micro_scores_agree_with_scikit_learn(pairs):
    expected, predicted = zip(*pairs, strict=True)
    classes = [(name, status) for name in OBSERVATIONS for status in Status]

    def indicators(rows):
        return np.array([[row.get(name) == status for name, status in classes] for row in rows])

    reference = precision_recall_fscore_support(
        indicators(expected), indicators(predicted), average="micro", zero_division=0
    )
    assert micro_scores(expected, predicted)[:3] == pytest.approx(reference[:3])


def test_labeller_reaches_the_f1_on_heldout_reports():
    # Imported here, so that the form of the file is checked whatever the state of the labeller.
    from radrecipes.radiology.labeller import label_report

    reports = heldout_reports()
    predicted = [label_report(report["findings"], report["impression"]) for report in reports]
    precision, recall, f1, mistakes = micro_scores([report["labels"] for report in reports], predicted)
    summary = f"micro precision {precision:.3f}, recall {recall:.3f}, F1 {f1:.3f} over {len(reports)} reports"
    assert f1 >= LOWEST_F1, f"{summary}; worst first:\n{describe_mistakes(reports, predicted, mistakes)}"
