"""A made-up evaluation of written reports, measured by the code that measures real ones."""

import random

from radrecipes.evaluation.report_metrics import ImpressionEvaluation, ReportEvaluation
from radrecipes.inference.answers import TEMPLATE, WrittenText
from radrecipes.radiology.consistency import IMPRESSION_SECTIONS, REPORT_SECTIONS, check_report, format_report
from radrecipes.radiology.observations import (
    OBSERVATIONS,
    SUPPORT_DEVICES,
    Status,
    findings_present,
    format_observations,
)
from radrecipes.radiology.template_writer import write_report as write_template
from radrecipes.tasks import TASKS

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
    kind = ReportEvaluation if task == "report" else ImpressionEvaluation
    train, test = (kind(TASKS[task], rows_of(of_split, mark)) for of_split in (requests[: rows // 2], requests))
    baselines = train.baselines(test)
    systems = baselines.write(test)
    alone = [model_text(requests, place, task, mark, flawless) for place in range(rows)]
    sections = REPORT_SECTIONS if task == "report" else IMPRESSION_SECTIONS
    guarded = []
    for place, (report, wanted) in enumerate(zip(alone, requests, strict=True)):
        reasons = check_report(report.text, wanted, sections, task == "report").reasons
        reasons = [*reasons, *(["never stopped"] if not report.stopped else [])]
        source = TEMPLATE if reasons and place % 2 else "model"
        text = written(wanted, task, mark) if reasons else report.text
        guarded.append(WrittenText(text, True, 60, source, 2 if reasons else 1, tuple(reasons)))
    nonsense = WrittenText("The the the the the of of of.", False, 200)
    base = [nonsense if place < (base_rows or rows) else None for place in range(rows)]
    systems = {"adapter_guarded": guarded, "adapter": alone, "base": base, **systems}
    systems = {name: texts for name, texts in systems.items() if name not in without}
    checks = test.checks(systems)
    metrics = test.metrics(
        systems,
        checks,
        split="test",
        dataset={"name": "report_made_up", "access": access, "digest": "d" * 64},
        decoding={"method": "generate", "max_new_tokens": 200, "tries": 3, "temperature": 0.7},
        seeds={"training": 1, "bootstrap": 0},
        unseen=test.unseen(train),
        best_baseline=test.best_baseline(baselines),
        baseline_settings=baselines.settings,
        resamples=100,
    )
    return metrics, test.table(systems, checks, access)


def request(draw):
    labels = {name: draw.choice(list(Status)) for name in FINDINGS if draw.random() < 0.3}
    if draw.random() < 0.3:
        labels[SUPPORT_DEVICES] = Status.POSITIVE
    labels = {name: labels[name] for name in OBSERVATIONS if name in labels}
    return labels if findings_present(labels) else {**labels, "No Finding": Status.POSITIVE}


def rows_of(requests, mark):
    return [
        {
            "id": f"s{50_000_000 + place}",
            "group": f"p{10_000_000 + place // 2}",
            "observations": format_observations(labels),
            "findings": f"Portable view. {mark} {write_template(labels)[0]}".replace("  ", " "),
            "impression": write_template(labels)[1],
        }
        for place, labels in enumerate(requests)
    ]


def model_text(requests, place, task, mark, flawless):
    labels = dict(requests[place])
    stated = [name for name in labels if name in FINDINGS]
    if not flawless and place % 7 == 0 and stated:
        labels[stated[0]] = OPPOSITE[labels[stated[0]]]
    if not flawless and place % 9 == 0 and stated:
        del labels[stated[-1]]
    return WrittenText(written(labels, task, mark), flawless or place % 10 > 0, 60 + place % 5)


def written(labels, task, mark):
    findings, impression = write_template(labels)
    return (
        format_report(f"{findings} {mark}".strip(), impression) if task == "report" else f"{impression} {mark}".strip()
    )
