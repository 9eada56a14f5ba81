"""Figures of written reports: hand-computed, ranked as a reader would rank, and independent of the order of rows."""

import json
import random
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_fscore_support

from radrecipes.errors import InputError
from radrecipes.evaluation.report_metrics import (
    LEAD_SENTENCES,
    NEAREST_EMBEDDING,
    NEAREST_LABELS,
    TEMPLATE_WRITER,
    ImpressionEvaluation,
    ReportEvaluation,
    ratio_statistic,
)
from radrecipes.evaluation.text_evaluation import ADAPTER, ADAPTER_GUARDED, BASE, MOST_FREQUENT, NEAREST, REFERENCE
from radrecipes.inference.answers import TEMPLATE, WrittenText
from radrecipes.radiology.consistency import format_report
from radrecipes.radiology.labeller import label_report
from radrecipes.radiology.observations import (
    FIVE_OBSERVATIONS,
    NO_FINDING,
    OBSERVATIONS,
    Status,
    derive_no_finding,
    format_observations,
    parse_observations,
)
from radrecipes.radiology.template_writer import write_report
from radrecipes.statistics import bootstrap_interval, point_value
from radrecipes.tasks import TASKS

FINDINGS = "There is mild pulmonary edema. There is a small pleural effusion. There is no pneumothorax."
IMPRESSION = "Pulmonary edema and pleural effusion."
REQUEST = parse_observations("Edema: positive; Pleural Effusion: positive; Pneumothorax: negative")
RIGHT = format_report(FINDINGS, IMPRESSION)
FIGURES = ReportEvaluation.figures


def rows_of(requests, findings=None, impressions=None, task="report"):
    rows = [
        {
            "id": f"s{number}",
            "group": f"p{number // 2}",
            "observations": format_observations(request),
            "findings": findings[number] if findings else FINDINGS,
            "impression": impressions[number] if impressions else IMPRESSION,
        }
        for number, request in enumerate(requests)
    ]
    return (ReportEvaluation if task == "report" else ImpressionEvaluation)(TASKS[task], rows)


def metrics_of(rows, systems, resamples=50):
    return rows.metrics(
        systems,
        rows.checks(systems),
        split="test",
        dataset={"name": "tiny", "access": "synthetic", "digest": "0"},
        decoding={"method": "generate"},
        seeds={"bootstrap": 0},
        resamples=resamples,
    )


def figures_of(text, request=REQUEST, **written):
    rows = rows_of([request])
    return metrics_of(rows, {ADAPTER: [WrittenText(text, **written)]}, resamples=5)["systems"][ADAPTER]


def value(cell):
    return cell["value"] if isinstance(cell, dict) else cell


def made_up_requests(count, seed=0):
    generator = random.Random(seed)
    names = [name for name in OBSERVATIONS if name != NO_FINDING]
    statuses = [Status.POSITIVE, Status.NEGATIVE, Status.UNCERTAIN]
    return [
        derive_no_finding({name: generator.choice(statuses) for name in names if generator.random() < 0.3})
        for _ in range(count)
    ]


def test_the_reference_scored_against_itself_is_perfect():
    figures = figures_of(RIGHT)
    assert figures["rouge_l"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert figures["bleu"] == pytest.approx(100)
    for name in ("label_recall", "label_precision", "label_f1", "passed_rate"):
        assert value(figures[name]) == 1.0
    for name in FIGURES:
        if name.endswith("_rate") and name != "passed_rate":
            assert value(figures[name]) == 0.0


def test_sentences_of_the_template_writer_are_counted():
    template = TASKS["report"].fallback({"observations": format_observations(REQUEST)})
    assert value(figures_of(template)["template_sentence_rate"]) == 1.0
    own = "FINDINGS: Something else is written here.\nIMPRESSION: Nothing of it."
    assert value(figures_of(own)["template_sentence_rate"]) == 0.0
    mixed = value(figures_of(f"{template} Something else is written here.")["template_sentence_rate"])
    assert 0.5 < mixed < 1.0


@pytest.mark.parametrize(
    ("old", "new", "figure"),
    [
        ("no pneumothorax", "a pneumothorax", "contradiction_rate"),
        ("There is a small pleural effusion", "There is no pleural effusion", "label_recall"),
        ("is mild pulmonary", "is no pulmonary", "label_recall"),
        ("There is no pneumothorax.", "There is a large pneumothorax.", "invented_positive_rate"),
        ("There is no pneumothorax.", "There is a rib fracture.", "invented_positive_rate"),
        ("There is no pneumothorax.", "There is a rib fracture.", "label_precision"),
        ("There is a small pleural effusion.", "", "label_recall"),
        ("There is a small pleural effusion.", "There is mild pulmonary edema.", "repetition_rate"),
        ("small pleural", "small right pleural", "invented_detail_rate"),
        ("small pleural", "1.5 cm pleural", "invented_detail_rate"),
        ("There is a small", "Compared with the prior study there is a small", "earlier_study_rate"),
        ("\nIMPRESSION: Pulmonary edema and pleural effusion.", "", "missing_section_rate"),
    ],
)
def test_a_fault_is_seen_by_the_figure_that_is_meant_to_see_it(old, new, figure):
    assert old in RIGHT
    text = RIGHT.replace(old, new)
    # The impression repeats both findings, which would hide a fault of the findings.
    if figure == "label_recall":
        text = text.replace(IMPRESSION, "Abnormal chest.")
        right = figures_of(RIGHT.replace(IMPRESSION, "Abnormal chest."))
    else:
        right = figures_of(RIGHT)
    wrong = figures_of(text)
    if figure.endswith("_rate"):
        assert value(wrong[figure]) == 1.0 > value(right[figure])
    else:
        assert value(wrong[figure]) < value(right[figure])
    assert value(wrong["passed_rate"]) == 0.0
    assert value(wrong["rouge_l"]) < value(right["rouge_l"])


def test_a_report_that_never_stopped_does_not_pass():
    figures = figures_of(RIGHT, stopped=False, generated_tokens=7)
    assert value(figures["never_stopped_rate"]) == 1.0
    assert value(figures["passed_rate"]) == 0.0
    assert figures["mean_generated_tokens"] == 7.0


def test_hand_computed_label_figures():
    requests = [
        parse_observations("Edema: positive; Pleural Effusion: positive"),
        parse_observations("Pneumonia: uncertain; Edema: negative"),
        parse_observations("No Finding: positive"),
    ]
    texts = [
        "FINDINGS: There is pulmonary edema. There is no pleural effusion. IMPRESSION: Edema.",
        "FINDINGS: There is pneumonia. There is pulmonary edema. IMPRESSION: Pneumonia.",
        "FINDINGS: The lungs are clear. IMPRESSION: Normal.",
    ]
    rows = rows_of(requests)
    figures = metrics_of(rows, {ADAPTER: [WrittenText(text) for text in texts]})["systems"][ADAPTER]
    # Requested positive: edema and effusion, nothing, and a normal chest. Written: edema; pneumonia and edema; normal.
    assert value(figures["label_recall"]) == pytest.approx(2 / 3)
    assert value(figures["label_precision"]) == pytest.approx(2 / 4)
    assert value(figures["label_f1"]) == pytest.approx(2 * 2 / (3 + 4))
    # The normal chest is no finding.
    assert value(figures["finding_recall"]) == pytest.approx(1 / 2)
    assert value(figures["finding_precision"]) == pytest.approx(1 / 3)
    assert figures["consistency"]["uncertain_as_negative"]["13"]["micro"]["precision"] == pytest.approx(1 / 3)
    micro = figures["consistency"]["uncertain_as_positive"]["14"]["micro"]
    assert micro == {"precision": 3 / 4, "recall": 3 / 4, "f1": 3 / 4}
    assert figures["consistency"]["uncertain_as_negative"]["5"]["micro"] == {
        "precision": 0.5,
        "recall": 0.5,
        "f1": 0.5,
    }
    assert figures["contradictions"] == 2
    assert value(figures["contradiction_rate"]) == pytest.approx(2 / 3)
    # Pneumonia was requested as uncertain, so only the edema is invented.
    assert value(figures["invented_positive_rate"]) == pytest.approx(1 / 3)
    edema = next(row for row in figures["per_observation"] if row["observation"] == "Edema")
    assert edema == {
        "observation": "Edema",
        "requested_positive": 1,
        "written_positive": 2,
        "recall": 1.0,
        "precision": 0.5,
        "contradicted": 1,
    }
    fracture = next(row for row in figures["per_observation"] if row["observation"] == "Fracture")
    assert fracture["recall"] is None and fracture["precision"] is None


def test_what_is_not_invented():
    hedged = "FINDINGS: There is pneumonia. IMPRESSION: Pneumonia."
    assert value(figures_of(hedged, {"Pneumonia": Status.UNCERTAIN})["invented_positive_rate"]) == 0.0
    normal = "FINDINGS: The lungs are clear. IMPRESSION: Normal chest."
    figures = figures_of(normal)
    # A normal report for a request with findings misses them; the labeller's No Finding is not a finding.
    assert value(figures["invented_positive_rate"]) == 0.0
    assert value(figures["label_recall"]) == 0.0


@pytest.mark.parametrize("finding", ["Emphysema.", "The lungs are clear."])
def test_a_blank_no_finding_with_nothing_else_asks_nothing(finding):
    # The report that the request is from may have an abnormality that is none of the observations.
    text = format_report(f"{finding} There is no pneumothorax.", f"{finding} No pneumothorax.")
    figures = figures_of(text, parse_observations("Pneumothorax: negative"))
    assert figures["label_recall"] is None and figures["label_precision"] is None


def test_macro_figures_leave_out_observations_that_occur_nowhere():
    for policy in figures_of(RIGHT)["consistency"].values():
        for size in ("14", "5"):
            assert policy[size]["macro"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0}


def test_consistency_is_what_scikit_learn_computes():
    requests, others = made_up_requests(60), made_up_requests(60, seed=1)
    texts = [format_report(*write_report(other)) for other in others]
    figures = metrics_of(rows_of(requests), {ADAPTER: [WrittenText(text) for text in texts]})["systems"][ADAPTER]
    for policy, statuses in (
        ("uncertain_as_positive", (Status.POSITIVE, Status.UNCERTAIN)),
        ("uncertain_as_negative", (Status.POSITIVE,)),
    ):
        findings = [name for name in OBSERVATIONS if name != NO_FINDING]
        for size, names in (("14", OBSERVATIONS), ("13", findings), ("5", FIVE_OBSERVATIONS)):
            wanted, said = (
                np.array([[labels.get(name) in statuses for name in names] for labels in column])
                for column in (requests, others)
            )
            occurs = np.flatnonzero((wanted | said).any(axis=0))
            for average in ("micro", "macro"):
                expected = precision_recall_fscore_support(
                    wanted, said, average=average, labels=occurs, zero_division=0
                )[:3]
                measured = figures["consistency"][policy][size][average]
                assert [measured[key] for key in ("precision", "recall", "f1")] == pytest.approx(expected)


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(8)))
def test_the_order_of_rows_changes_no_figure(order):
    requests, others = made_up_requests(8), made_up_requests(8, seed=1)
    reports = [WrittenText(format_report(*write_report(other))) for other in others]
    rows = rows_of(requests)
    shuffled = ReportEvaluation(rows.task, [rows.rows[place] for place in order])
    before = metrics_of(rows, {ADAPTER: reports}, resamples=20)["systems"][ADAPTER]
    after = metrics_of(shuffled, {ADAPTER: [reports[place] for place in order]}, resamples=20)["systems"][ADAPTER]
    for name in FIGURES:
        assert after[name] == pytest.approx(before[name]), name
    assert after["consistency"] == before["consistency"]
    assert after["per_observation"] == before["per_observation"]


def test_systems_comparisons_and_guard_in_one_result():
    requests = made_up_requests(12)
    rows = rows_of(requests, *zip(*map(write_report, requests), strict=True))
    train = rows_of(made_up_requests(30, seed=2))
    right = [WrittenText(format_report(*write_report(request)), generated_tokens=9) for request in requests]
    guarded = [*right]
    guarded[0] = replace(right[0], tries=2, reasons=("missing Edema",))
    guarded[1] = replace(right[1], tries=4, source=TEMPLATE, reasons=("missing Edema", "repeats itself"))
    bad = [replace(report, text="FINDINGS: Nothing. IMPRESSION: Nothing.") for report in right]
    systems = {
        ADAPTER: bad,
        ADAPTER_GUARDED: guarded,
        BASE: [*bad[:4], *[None] * 8],
        **train.baselines(train).write(rows),
    }
    metrics = metrics_of(rows, systems)
    json.dumps(metrics, allow_nan=False)
    assert metrics["figures"] == list(FIGURES)
    assert list(metrics["systems"]) == list(systems)
    assert metrics["systems"][BASE]["rows"] == 4
    assert metrics["systems"][ADAPTER_GUARDED]["guard"] == {
        "first_try": 10,
        "later_try": 1,
        "template": 1,
        "reasons": {"missing Edema": 2, "repeats itself": 1},
    }
    by_second = {comparison["second"]: comparison for comparison in metrics["comparisons"]}
    assert list(by_second) == [MOST_FREQUENT, NEAREST_LABELS, TEMPLATE_WRITER, ADAPTER]
    assert by_second[TEMPLATE_WRITER]["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    rouge = {name: system["rouge_l"]["value"] for name, system in metrics["systems"].items()}
    assert by_second[ADAPTER]["difference"]["value"] == pytest.approx(rouge[ADAPTER_GUARDED] - rouge[ADAPTER])
    assert value(metrics["systems"][TEMPLATE_WRITER]["passed_rate"]) == 1.0
    assert value(metrics["systems"][TEMPLATE_WRITER]["rouge_l"]) == 1.0


def test_baselines_of_the_impression_task_see_the_findings_only():
    train = rows_of(
        [{}, {}],
        ["There is pulmonary edema.", "There is a pleural effusion."],
        ["Fluid overload.", "Effusion, as described."],
        task="impression",
    )
    # The request contains what only the impression says; a baseline that saw it would know the answer.
    request = parse_observations("Edema: positive")
    rows = rows_of([request], ["There is a pleural effusion."], ["Edema."], task="impression")
    reports = train.baselines(train).write(rows)
    assert reports[NEAREST_LABELS][0].text == "Effusion, as described."
    assert reports[TEMPLATE_WRITER][0].text == "Pleural effusion."
    perfect = metrics_of(rows, {ADAPTER: [WrittenText("Edema.")]})["systems"][ADAPTER]
    assert value(perfect["rouge_l"]) == 1.0
    assert value(perfect["missing_section_rate"]) == 0.0


class OneEmbedder:
    def embed(self, texts):
        return np.ones((len(texts), 1))


def test_baselines_of_impressions_are_those_that_a_user_would_try():
    findings = ["The heart is enlarged. No effusion.", "The lungs are clear. No effusion.", "Clear lungs. No edema."]
    train = rows_of([{}] * 3, findings, ["Cardiomegaly.", "Normal.", "Normal."], task="impression")
    rows = rows_of([{}], ["Lungs are clear. There is no effusion."], ["Normal chest."], task="impression")
    baselines = train.baselines(rows, OneEmbedder())
    texts = {name: text for name, (text,) in baselines.write(rows).items()}
    assert {name: text.text for name, text in texts.items() if name != TEMPLATE_WRITER} == {
        MOST_FREQUENT: "Normal.",
        NEAREST_LABELS: "Normal.",
        NEAREST: "Normal.",
        NEAREST_EMBEDDING: "Cardiomegaly.",
        LEAD_SENTENCES: "Lungs are clear.",
        REFERENCE: "Normal chest.",
    }
    assert baselines.settings == {LEAD_SENTENCES: 1}
    # The reference is shown next to the baselines, and is none.
    assert rows.best_baseline(baselines)["name"] == MOST_FREQUENT
    assert NEAREST_EMBEDDING not in train.baselines(rows).writers


def test_the_table_tells_each_check_and_hides_closed_texts():
    rows = rows_of([REQUEST, REQUEST])
    systems = {ADAPTER: [WrittenText(RIGHT), WrittenText("FINDINGS: Planted 3 cm secret.")], BASE: [None, None]}
    checks = rows.checks(systems)
    table = rows.table(systems, checks, "synthetic")
    assert list(table.columns) == [
        "id",
        "group",
        "observations",
        "reference_findings",
        "reference_impression",
        "adapter_text",
        "adapter_check",
        "adapter_stopped",
        "base_text",
        "base_check",
        "base_stopped",
    ]
    assert table["adapter_check"][0] == "ok"
    assert table["adapter_check"][1] == (
        "missing Edema; missing Pleural Effusion; no IMPRESSION section; invents a side or measurement"
    )
    assert table[["base_text", "base_check", "base_stopped"]].isna().all(axis=None)
    for access in ("credentialed", "registered", "anything"):
        closed = rows.table(systems, checks, access)
        assert not any("text" in name or name.startswith(("reference", "id", "group")) for name in closed.columns)
        for planted in ("secret", "3 cm", "edema.", "There is"):
            assert planted not in closed.to_csv()


def test_a_ratio_of_sums_and_its_interval():
    above, below = [1, 0, 2, 0], [2, 1, 2, 0]
    statistic = ratio_statistic(above, below)
    assert point_value(statistic, 4) == pytest.approx(3 / 5)
    drawn = np.array([[2, 0, 1, 0], [0, 0, 0, 3]], dtype=np.float32)
    # The second resample has a denominator of zero, so it repeats the ratio of all rows.
    assert statistic(drawn) == pytest.approx([4 / 6, 3 / 5])
    interval = bootstrap_interval(statistic, ["a", "b", "c", "d"])
    assert interval["low"] <= interval["value"] <= interval["high"]
    with pytest.raises(ValueError, match="add up to zero"):
        ratio_statistic([0], [0])


def test_figures_without_anything_to_count_are_left_out_and_wrong_shapes_are_refused():
    rows = rows_of([parse_observations("Pneumonia: uncertain")])
    text = "FINDINGS: There may be pneumonia. IMPRESSION: Possible pneumonia."
    figures = metrics_of(rows, {ADAPTER: [WrittenText(text)]})["systems"][ADAPTER]
    assert figures["label_recall"] is None and figures["label_precision"] is None and figures["label_f1"] is None
    assert value(figures["passed_rate"]) == 1.0
    with pytest.raises(InputError, match="no rows"):
        metrics_of(rows_of([]), {})


@pytest.mark.slow
def test_a_thousand_reports_of_five_systems_take_well_under_a_minute():
    requests, generator = made_up_requests(1000), random.Random(0)
    rows = rows_of(requests, *zip(*map(write_report, requests), strict=True))
    texts = [format_report(*write_report(request)) for request in requests]
    # A number that no request contains makes every text a different one.
    systems = {
        name: [WrittenText(f"{generator.choice(texts)} Study {name} {number}.") for number in range(1000)]
        for name in (ADAPTER, ADAPTER_GUARDED, BASE, NEAREST_LABELS, TEMPLATE_WRITER)
    }
    started = time.perf_counter()
    checks = rows.checks(systems)
    metrics = rows.metrics(systems, checks, split="test", dataset={}, decoding={}, seeds={"bootstrap": 0})
    assert time.perf_counter() - started < 45
    assert metrics["systems"][ADAPTER]["rows"] == 1000
    assert label_report(*write_report(requests[0])) == requests[0]
