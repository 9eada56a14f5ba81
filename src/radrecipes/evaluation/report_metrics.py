"""From the reports that each system wrote to the figures of `metrics.json` and the rows of `predictions.parquet`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from radrecipes.data.dataset_folder import SHOWABLE_ACCESS
from radrecipes.errors import InputError
from radrecipes.evaluation.report_baselines import NEGATIVE, POSITIVE, UNCERTAIN, NearestLabels, label_states
from radrecipes.evaluation.text_metrics import corpus_bleu, rouge_l
from radrecipes.inference.answers import MODEL, TEMPLATE, WrittenReport
from radrecipes.radiology.consistency import (
    FINDINGS,
    IMPRESSION,
    IMPRESSION_SECTIONS,
    REPORT_SECTIONS,
    ReportCheck,
    check_report,
    complete_request,
    format_report,
    read_sections,
)
from radrecipes.radiology.labeller import label_report
from radrecipes.radiology.observations import FIVE_OBSERVATIONS, NO_FINDING, OBSERVATIONS, Labels, format_observations
from radrecipes.radiology.template_writer import write_report
from radrecipes.statistics import Statistic, bootstrap_interval, mean_statistic

ADAPTER = "adapter"
ADAPTER_GUARDED = "adapter_guarded"
BASE = "base"
NEAREST_LABELS = "nearest_labels"
TEMPLATE_WRITER = "template_writer"

REPORT_TASK = "report"
IMPRESSION_TASK = "impression"

# The figures of a result at a glance, in this order.
FIGURES = (
    "passed_rate",
    "rouge_l",
    "bleu",
    "label_recall",
    "label_precision",
    "label_f1",
    "contradiction_rate",
    "invented_positive_rate",
    "earlier_study_rate",
    "invented_detail_rate",
    "repetition_rate",
    "missing_section_rate",
    "never_stopped_rate",
)
_OPPONENTS = (NEAREST_LABELS, TEMPLATE_WRITER, ADAPTER)


@dataclass(frozen=True)
class ReportRows:
    """The rows that every system wrote a report for, in one order.

    Args:
        ids (`Sequence[str]`):
            Study of each row.
        groups (`Sequence[str]`):
            Patient of each row.
        requests (`Sequence[Labels]`):
            Requested observations.
        findings (`Sequence[str]`):
            Findings of the reference report.
        impressions (`Sequence[str]`):
            Impression of the reference report.
    """

    ids: Sequence[str]
    groups: Sequence[str]
    requests: Sequence[Labels]
    findings: Sequence[str]
    impressions: Sequence[str]


# What each system wrote, row by row; `None` for a row that it was not asked about.
Systems = Mapping[str, Sequence[WrittenReport | None]]
Checks = Mapping[str, Sequence[ReportCheck | None]]


def baseline_reports(train: ReportRows, rows: ReportRows, task: str) -> dict[str, list[WrittenReport]]:
    """What the two baselines write, which need no training.

    Args:
        train ([`ReportRows`]):
            Rows of the train split.
        rows ([`ReportRows`]):
            Rows to write for.
        task (`str`):
            `report` or `impression`. For impressions both baselines see what the model sees: the labels that the findings
            alone hold.

    Returns:
        `dict[str, list[WrittenReport]]`: `nearest_labels`, the report of the training study with the nearest labels, and
        `template_writer`.

    Raises:
        InputError: The train split is empty.
    """
    if task == IMPRESSION_TASK:
        requests = [label_report(findings) for findings in rows.findings]
        # The representative of studies with the same labels is chosen by what is written, the impression.
        nearest = NearestLabels(
            [label_report(findings) for findings in train.findings], [""] * len(train.ids), train.impressions
        )
    else:
        requests = rows.requests
        nearest = NearestLabels(train.requests, train.findings, train.impressions)
    return {
        NEAREST_LABELS: [WrittenReport(_format(report, task)) for report in nearest.reports(requests)],
        TEMPLATE_WRITER: [
            WrittenReport(_format(write_report(request), task), source=TEMPLATE) for request in requests
        ],
    }


def check_reports(rows: ReportRows, systems: Systems, task: str) -> dict[str, list[ReportCheck | None]]:
    """Compare every written report with its request, each distinct pair once.

    Args:
        rows ([`ReportRows`]):
            The rows.
        systems (`Mapping[str, Sequence[WrittenReport | None]]`):
            What each system wrote, row by row.
        task (`str`):
            `report` or `impression`. An impression may leave requested observations out.

    Returns:
        `dict[str, list[ReportCheck | None]]`: row by row; `None` where nothing was asked.

    Raises:
        ValueError: The columns of `rows` differ in length, or a system has not one entry per row.
    """
    _check_lengths(rows, systems)
    sections = _sections(task)
    known: dict[tuple[str, str], ReportCheck] = {}

    def check(report: WrittenReport | None, request: Labels, key: str) -> ReportCheck | None:
        if report is None:
            return None
        if (report.text, key) not in known:
            known[report.text, key] = check_report(report.text, request, sections, require_all=task != IMPRESSION_TASK)
        return known[report.text, key]

    keys = [format_observations(request) for request in rows.requests]
    return {
        name: [check(*of_row) for of_row in zip(reports, rows.requests, keys, strict=True)]
        for name, reports in systems.items()
    }


def compute_report_metrics(
    rows: ReportRows,
    systems: Systems,
    *,
    task: str,
    split: str,
    dataset: Mapping[str, Any],
    decoding: Mapping[str, Any],
    seeds: Mapping[str, int],
    resamples: int = 2000,
    checks: Checks | None = None,
) -> dict[str, Any]:
    """Everything that `metrics.json` holds.

    Args:
        rows ([`ReportRows`]):
            The rows.
        systems (`Mapping[str, Sequence[WrittenReport | None]]`):
            What each system wrote, row by row; `None` for rows that it was not asked about. `adapter_guarded` is compared
            with both baselines and with `adapter`, where they are there, on the rows that both wrote.
        task (`str`):
            `report` or `impression`.
        split (`str`):
            Name of the split that the rows are from.
        dataset (`Mapping[str, Any]`):
            At least `name`, `access` and `digest` of the dataset.
        decoding (`Mapping[str, Any]`):
            How the reports were made.
        seeds (`Mapping[str, int]`):
            The seeds in play; `bootstrap` among them.
        resamples (`int`, *optional*, defaults to 2000):
            Bootstrap resamples.
        checks (`Mapping[str, Sequence[ReportCheck | None]]`, *optional*):
            What [`check_reports`] gave, where it was called before.

    Returns:
        `dict`: plain values only, ready for JSON. Every `{"value", "low", "high"}` is a figure with its 95 % bootstrap
        interval over groups; a figure is `None` where it would divide by zero.

    Raises:
        InputError: There are no rows.
        ValueError: The columns of `rows` differ in length, a system has not one entry per row, or `seeds` lacks
            `bootstrap`.
    """
    if not len(rows.ids):
        raise InputError("there are no rows to evaluate; choose a split that holds some")
    _check_lengths(rows, systems)
    if "bootstrap" not in seeds:
        raise ValueError("seeds must hold `bootstrap`")
    draws = {"resamples": resamples, "seed": seeds["bootstrap"]}
    checks = checks or check_reports(rows, systems, task)
    references = [
        _prose(findings, impression, task)
        for findings, impression in zip(rows.findings, rows.impressions, strict=True)
    ]

    measured, rouge = {}, {}
    for name, reports in systems.items():
        asked = np.array([report is not None for report in reports])
        places = np.flatnonzero(asked)
        texts = [_written_prose(reports[place].text, task) for place in places]
        rouge[name] = np.full(len(reports), np.nan)
        rouge[name][places] = rouge_l([references[place] for place in places], texts)
        measured[name] = {
            "rows": len(places),
            "rouge_l": bootstrap_interval(
                mean_statistic(rouge[name][places]), [rows.groups[place] for place in places], **draws
            ),
            "bleu": corpus_bleu([references[place] for place in places], texts),
            **_check_figures(
                [complete_request(rows.requests[place]) for place in places],
                [reports[place] for place in places],
                [checks[name][place] for place in places],
                [rows.groups[place] for place in places],
                draws,
            ),
        }
        if name == ADAPTER_GUARDED:
            measured[name]["guard"] = _guard_figures([reports[place] for place in places])
    return {
        "task": task,
        "split": split,
        "rows": len(rows.ids),
        "groups": len(set(rows.groups)),
        "dataset": dict(dataset),
        "decoding": dict(decoding),
        "seeds": dict(seeds),
        "interval": {"kind": "percentile bootstrap over groups", "confidence": 0.95, "resamples": resamples},
        "figures": list(FIGURES),
        "systems": measured,
        "comparisons": [
            _comparison(rows, rouge, other, draws)
            for other in _OPPONENTS
            if ADAPTER_GUARDED in systems and other in systems
        ],
    }


def reports_table(
    rows: ReportRows, systems: Systems, access: str, *, task: str, checks: Checks | None = None
) -> pd.DataFrame:
    """The rows of `predictions.parquet`.

    Args:
        rows ([`ReportRows`]):
            The rows.
        systems (`Mapping[str, Sequence[WrittenReport | None]]`):
            What each system wrote, row by row.
        access (`str`):
            Access level of the dataset. Unless it is `synthetic` or `open`, the columns with free text
            (`reference_findings`, `reference_impression` and `<system>_text`) are left out, because a model may repeat
            what it read.
        task (`str`):
            `report` or `impression`.
        checks (`Mapping[str, Sequence[ReportCheck | None]]`, *optional*):
            What [`check_reports`] gave, where it was called before.

    Returns:
        `pd.DataFrame`: `id`, `group`, `observations`, the reference, and per system `<system>_text`, `<system>_check`
        (`ok`, or the reasons against it, joined by `; `; no word of a report) and `<system>_stopped`; missing where
        nothing was asked.
    """
    checks = checks or check_reports(rows, systems, task)
    showable = access in SHOWABLE_ACCESS
    columns: dict[str, Any] = {
        "id": list(rows.ids),
        "group": list(rows.groups),
        "observations": [format_observations(request) for request in rows.requests],
    }
    if showable:
        columns["reference_findings"] = list(rows.findings)
        columns["reference_impression"] = list(rows.impressions)
    for name, reports in systems.items():
        if showable:
            columns[f"{name}_text"] = pd.array([report and report.text for report in reports], dtype="string")
        columns[f"{name}_check"] = pd.array(
            [check and ("; ".join(check.reasons) or "ok") for check in checks[name]], dtype="string"
        )
        columns[f"{name}_stopped"] = pd.array([report and report.stopped for report in reports], dtype="boolean")
    return pd.DataFrame(columns)


def ratio_statistic(numerators: Sequence[float] | np.ndarray, denominators: Sequence[float] | np.ndarray) -> Statistic:
    """A ratio of two sums over rows, for example micro recall from the counts of each row.

    Args:
        numerators (`Sequence[float]` or `np.ndarray` of shape `(rows,)`):
            What each row adds above the line.
        denominators (`Sequence[float]` or `np.ndarray` of shape `(rows,)`):
            What each row adds below the line.

    Returns:
        `Statistic`: the ratio of each resample. A resample with nothing below the line tells nothing and gets the ratio of
        all rows.

    Raises:
        ValueError: All rows together have nothing below the line.
    """
    above, below = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    if not below.sum():
        raise ValueError("the denominators add up to zero")
    overall = above.sum() / below.sum()

    def statistic(counts: np.ndarray) -> np.ndarray:
        totals = counts @ below
        return np.divide(counts @ above, totals, out=np.full(len(counts), overall), where=totals > 0)

    return statistic


def _sections(task: str) -> tuple[str, ...]:
    return IMPRESSION_SECTIONS if task == IMPRESSION_TASK else REPORT_SECTIONS


def _format(report: tuple[str, str], task: str) -> str:
    return report[1] if task == IMPRESSION_TASK else format_report(*report)


def _prose(findings: str, impression: str, task: str) -> str:
    """What is compared word by word: the sections without headers, which every report shares."""
    return impression if task == IMPRESSION_TASK else f"{findings} {impression}"


def _written_prose(text: str, task: str) -> str:
    read = read_sections(text, headless=_sections(task)[0])
    return f"{read[FINDINGS]} {read[IMPRESSION]}".strip()


def _check_lengths(rows: ReportRows, systems: Systems) -> None:
    columns = (rows.ids, rows.groups, rows.requests, rows.findings, rows.impressions)
    if len(set(map(len, columns))) != 1:
        raise ValueError("ids, groups, requests, findings and impressions must have one length")
    for name, reports in systems.items():
        if len(reports) != len(rows.ids):
            raise ValueError(f"system {name!r} has {len(reports)} reports for {len(rows.ids)} rows")


def _check_figures(
    requests: Sequence[Labels],
    reports: Sequence[WrittenReport],
    checks: Sequence[ReportCheck],
    groups: Sequence[str],
    draws: Mapping[str, int],
) -> dict[str, Any]:
    requested, written = label_states(requests), label_states([check.written for check in checks])
    requested_positive, written_positive = requested == POSITIVE, written == POSITIVE
    both = (requested_positive & written_positive).sum(axis=1)
    wanted, said = requested_positive.sum(axis=1), written_positive.sum(axis=1)
    flipped = (requested_positive & (written == NEGATIVE)) | ((requested == NEGATIVE) & written_positive)
    # An invented No Finding is a missing observation, and counts there.
    may_be_positive = requested_positive | (requested == UNCERTAIN)
    may_be_positive[:, OBSERVATIONS.index(NO_FINDING)] = True
    invented = (written_positive & ~may_be_positive).any(axis=1)

    def interval(statistic: Statistic) -> dict[str, float]:
        return bootstrap_interval(statistic, groups, **draws)

    def ratio(above: np.ndarray, below: np.ndarray) -> dict[str, float] | None:
        return interval(ratio_statistic(above, below)) if below.sum() else None

    def rate(happened: Sequence[bool] | np.ndarray) -> dict[str, float]:
        return interval(mean_statistic(happened))

    return {
        # A report that was cut off at the limit may pass, yet its end is missing.
        "passed_rate": rate([check.passed and report.stopped for check, report in zip(checks, reports, strict=True)]),
        "label_recall": ratio(both, wanted),
        "label_precision": ratio(both, said),
        "label_f1": ratio(2 * both, wanted + said),
        "consistency": {
            "uncertain_as_positive": _consistency(
                requested_positive | (requested == UNCERTAIN), written_positive | (written == UNCERTAIN)
            ),
            "uncertain_as_negative": _consistency(requested_positive, written_positive),
        },
        "contradiction_rate": rate(flipped.any(axis=1)),
        "contradictions": int(flipped.sum()),
        "invented_positive_rate": rate(invented),
        "earlier_study_rate": rate([check.earlier_study for check in checks]),
        "invented_detail_rate": rate([bool(check.details) for check in checks]),
        "repetition_rate": rate([check.repeated for check in checks]),
        "missing_section_rate": rate([bool(check.missing_sections) for check in checks]),
        "never_stopped_rate": rate([not report.stopped for report in reports]),
        "mean_generated_tokens": float(np.mean([report.generated_tokens for report in reports])),
        "per_observation": _per_observation(requested_positive, written_positive, flipped),
    }


def _consistency(requested: np.ndarray, written: np.ndarray) -> dict[str, Any]:
    """Precision, recall and F1 over all observations and over the customary five, pooled and as a mean."""
    five = [OBSERVATIONS.index(name) for name in FIVE_OBSERVATIONS]
    figures = {}
    for name, columns in (("14", slice(None)), ("5", five)):
        both = (requested & written)[:, columns].sum(axis=0)
        wanted, said = requested[:, columns].sum(axis=0), written[:, columns].sum(axis=0)
        # An observation that stands in no request and no text tells nothing about the system.
        occurs = wanted + said > 0
        each = [_scores(*counts) for counts in zip(both[occurs], wanted[occurs], said[occurs], strict=True)]
        figures[name] = {
            "micro": _scores(both.sum(), wanted.sum(), said.sum()),
            "macro": {
                figure: float(np.mean([scores[figure] or 0.0 for scores in each])) if each else None
                for figure in ("precision", "recall", "f1")
            },
        }
    return figures


def _scores(both: int, wanted: int, said: int) -> dict[str, float | None]:
    return {
        "precision": _ratio(both, said),
        "recall": _ratio(both, wanted),
        "f1": _ratio(2 * both, wanted + said),
    }


def _ratio(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None


def _per_observation(requested: np.ndarray, written: np.ndarray, flipped: np.ndarray) -> list[dict[str, Any]]:
    return [
        {
            "observation": name,
            "requested_positive": int(requested[:, column].sum()),
            "written_positive": int(written[:, column].sum()),
            "recall": _ratio((requested & written)[:, column].sum(), requested[:, column].sum()),
            "precision": _ratio((requested & written)[:, column].sum(), written[:, column].sum()),
            "contradicted": int(flipped[:, column].sum()),
        }
        for column, name in enumerate(OBSERVATIONS)
    ]


def _guard_figures(reports: Sequence[WrittenReport]) -> dict[str, Any]:
    by_model = [report for report in reports if report.source == MODEL]
    reasons = Counter(reason for report in reports for reason in report.reasons)
    return {
        "first_try": sum(report.tries == 1 for report in by_model),
        "later_try": sum(report.tries > 1 for report in by_model),
        "template": len(reports) - len(by_model),
        "reasons": dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
    }


def _comparison(
    rows: ReportRows, rouge: Mapping[str, np.ndarray], other: str, draws: Mapping[str, int]
) -> dict[str, Any]:
    difference = rouge[ADAPTER_GUARDED] - rouge[other]
    places = np.flatnonzero(~np.isnan(difference))
    return {
        "first": ADAPTER_GUARDED,
        "second": other,
        "figure": "rouge_l",
        "rows": len(places),
        "difference": bootstrap_interval(
            mean_statistic(difference[places]), [rows.groups[place] for place in places], **draws
        ),
    }
