"""A made-up evaluation of written reports, measured by the code that measures real ones."""

import random

from radrecipes.evaluation.report_metrics import (
    ReportRows,
    baseline_reports,
    check_reports,
    compute_report_metrics,
    reports_table,
)
from radrecipes.inference.answers import TEMPLATE, WrittenReport
from radrecipes.radiology.consistency import IMPRESSION_SECTIONS, REPORT_SECTIONS, check_report, format_report
from radrecipes.radiology.observations import OBSERVATIONS, SUPPORT_DEVICES, Status, findings_present
from radrecipes.radiology.template_writer import write_report as write_template

FINDINGS = [name for name in OBSERVATIONS if name not in ("No Finding", SUPPORT_DEVICES)]
OPPOSITE = {Status.POSITIVE: Status.NEGATIVE, Status.NEGATIVE: Status.POSITIVE, Status.UNCERTAIN: Status.POSITIVE}


def evaluated(task="report", rows=60, without=(), base_rows=None, access="synthetic", mark="", flawless=False):
    """Metrics and predictions of made-up systems.

    The model writes every seventh text with one finding turned round, every ninth without a finding, every tenth without
    end; `mark` stands in every text; `flawless` leaves these mistakes out; the base writes nonsense for the first
    `base_rows` rows.
    """
    draw = random.Random(0)
    requests = [request(draw) for _ in range(rows)]
    train, test = rows_of(requests[: rows // 2], mark), rows_of(requests, mark)
    systems = baseline_reports(train, test, task)
    alone = [model_text(requests, place, task, mark, flawless) for place in range(rows)]
    sections = REPORT_SECTIONS if task == "report" else IMPRESSION_SECTIONS
    guarded = []
    for place, (report, wanted) in enumerate(zip(alone, requests, strict=True)):
        reasons = check_report(report.text, wanted, sections, task == "report").reasons
        reasons = [*reasons, *(["never stopped"] if not report.stopped else [])]
        source = TEMPLATE if reasons and place % 2 else "model"
        text = written(wanted, task, mark) if reasons else report.text
        guarded.append(WrittenReport(text, True, 60, source, 2 if reasons else 1, tuple(reasons)))
    nonsense = WrittenReport("The the the the the of of of.", False, 200)
    base = [nonsense if place < (base_rows or rows) else None for place in range(rows)]
    systems = {"adapter_guarded": guarded, "adapter": alone, "base": base, **systems}
    systems = {name: texts for name, texts in systems.items() if name not in without}
    checks = check_reports(test, systems, task)
    metrics = compute_report_metrics(
        test,
        systems,
        task=task,
        split="test",
        dataset={"name": "report_made_up", "access": access, "digest": "d" * 64},
        decoding={"method": "generate", "max_new_tokens": 200, "tries": 3, "temperature": 0.7},
        seeds={"training": 1, "bootstrap": 0},
        resamples=100,
        checks=checks,
    )
    return metrics, reports_table(test, systems, access, task=task, checks=checks)


def request(draw):
    labels = {name: draw.choice(list(Status)) for name in FINDINGS if draw.random() < 0.3}
    if draw.random() < 0.3:
        labels[SUPPORT_DEVICES] = Status.POSITIVE
    labels = {name: labels[name] for name in OBSERVATIONS if name in labels}
    return labels if findings_present(labels) else {**labels, "No Finding": Status.POSITIVE}


def rows_of(requests, mark):
    texts = [write_template(labels) for labels in requests]
    return ReportRows(
        ids=[f"s{50_000_000 + place}" for place in range(len(requests))],
        groups=[f"p{10_000_000 + place // 2}" for place in range(len(requests))],
        requests=requests,
        findings=[f"Portable view. {mark} {findings}".replace("  ", " ") for findings, _ in texts],
        impressions=[impression for _, impression in texts],
    )


def model_text(requests, place, task, mark, flawless):
    labels = dict(requests[place])
    stated = [name for name in labels if name in FINDINGS]
    if not flawless and place % 7 == 0 and stated:
        labels[stated[0]] = OPPOSITE[labels[stated[0]]]
    if not flawless and place % 9 == 0 and stated:
        del labels[stated[-1]]
    return WrittenReport(written(labels, task, mark), flawless or place % 10 > 0, 60 + place % 5)


def written(labels, task, mark):
    findings, impression = write_template(labels)
    return (
        format_report(f"{findings} {mark}".strip(), impression) if task == "report" else f"{impression} {mark}".strip()
    )
