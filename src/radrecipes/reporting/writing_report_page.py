"""The page that shows how well a run that writes reports or impressions does."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from radrecipes.evaluation.report_metrics import (
    ADAPTER,
    ADAPTER_GUARDED,
    BASE,
    NEAREST_LABELS,
    REPORT_TASK,
    SHOWABLE_ACCESS,
    TEMPLATE_WRITER,
)
from radrecipes.reporting.figures import failure_rates_svg, loss_curve_svg
from radrecipes.reporting.page import important_first, render_page, write_page

SYSTEM_TITLES = {
    ADAPTER_GUARDED: "Fine-tuned model behind the guard",
    ADAPTER: "Fine-tuned model alone",
    BASE: "Same model before fine-tuning",
    NEAREST_LABELS: "Training text with the nearest labels",
    TEMPLATE_WRITER: "Template sentences",
}
_SHORT_TITLES = {
    ADAPTER_GUARDED: "behind the guard",
    ADAPTER: "model alone",
    BASE: "before fine-tuning",
    NEAREST_LABELS: "nearest labels",
    TEMPLATE_WRITER: "templates",
}
FAILURES = {
    "contradiction_rate": "Contradicts a finding",
    "invented_positive_rate": "Invents a finding",
    "earlier_study_rate": "Mentions earlier studies",
    "invented_detail_rate": "Invents side or size",
    "repetition_rate": "Repeats itself",
    "missing_section_rate": "Lacks a section",
    "never_stopped_rate": "Never stops",
}
# What each task writes, and from what.
_WORDS = {
    "report": {
        "text": "report",
        "texts": "reports",
        "request": "findings that it was given",
        "source": "structured findings",
    },
    "impression": {
        "text": "impression",
        "texts": "impressions",
        "request": "findings that it was to sum up",
        "source": "findings sections",
    },
}

# The worst first: a report that says the opposite misleads most. Order and beginnings as in `ReportCheck.reasons`.
_WORST_REASONS = ("contradicts ", "invents ", "missing ", "changed ")
_MOST_FAILED = 80
_MOST_PASSED = 8
_MOST_REASONS = 25
# 88 rows of four texts, each letter escaped, stay under the 2 MB that a page may take.
_LONGEST_TEXT = 1100


def write_report_page(
    output_folder: str | Path,
    *,
    title: str,
    metrics: Mapping[str, Any],
    predictions: pd.DataFrame,
    dataset_manifest: Mapping[str, Any],
    run_manifest: Mapping[str, Any],
    train_log: Sequence[Mapping[str, Any]],
) -> Path:
    """Write `report.html`, and into `figures/` the rates of failures and, where it was logged, the loss curve.

    Args:
        output_folder (`str` or `Path`):
            An existing folder.
        title (`str`):
            What was evaluated, for example `"SmolLM2-135M-Instruct, report, LoRA"`.
        metrics (`Mapping[str, Any]`):
            What [`radrecipes.evaluation.report_metrics.compute_report_metrics`] returned; `adapter` and
            `adapter_guarded` must be among the systems.
        predictions (`pd.DataFrame`):
            What [`radrecipes.evaluation.report_metrics.reports_table`] returned.
        dataset_manifest (`Mapping[str, Any]`):
            `manifest.json` of the dataset. Unless its `access` is `synthetic` or `open`, nothing of a single study is put
            on the page.
        run_manifest (`Mapping[str, Any]`):
            `manifest.json` of the run, nested as it likes.
        train_log (`Sequence[Mapping[str, Any]]`):
            Entries of `train_log.jsonl`; empty where there is none.

    Returns:
        `Path`: the page.
    """
    # In one order on every page: ours, then what it has to beat.
    systems = {name: metrics["systems"][name] for name in SYSTEM_TITLES if name in metrics["systems"]}
    loss_curve = loss_curve_svg(train_log)
    figures = {
        "failures": failure_rates_svg(systems, _SHORT_TITLES, FAILURES, (ADAPTER_GUARDED, ADAPTER)),
        **({"loss_curve": loss_curve} if loss_curve else {}),
    }
    may_show_texts = dataset_manifest.get("access") in SHOWABLE_ACCESS and f"{ADAPTER}_text" in predictions
    failed = failed_texts(predictions, metrics["task"]) if may_show_texts else []
    html = render_page(
        "written_reports.html.jinja",
        figures,
        title=title,
        metrics=metrics,
        words=_WORDS[metrics["task"]],
        systems=systems,
        system_titles=SYSTEM_TITLES,
        alone=systems[ADAPTER],
        guarded=systems[ADAPTER_GUARDED],
        best_comparison=closest_baseline(metrics),
        ways=guard_ways(systems[ADAPTER_GUARDED]["guard"]),
        reasons=dict(list(systems[ADAPTER_GUARDED]["guard"]["reasons"].items())[:_MOST_REASONS]),
        failures=FAILURES,
        may_show_texts=may_show_texts,
        failed=failed[:_MOST_FAILED],
        number_failed=len(failed),
        passed=passed_texts(predictions, metrics["task"], _MOST_PASSED) if may_show_texts else [],
        leakage=_leakage(dataset_manifest, metrics["split"]),
        dataset_manifest=important_first(dataset_manifest),
        access=dataset_manifest.get("access", "unknown"),
        run_manifest=run_manifest,
    )
    return write_page(output_folder, html, figures)


def closest_baseline(metrics: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The comparison with the baseline whose wording comes closest to the reference's.

    Args:
        metrics (`Mapping[str, Any]`):
            Content of `metrics.json`.

    Returns:
        `Mapping` or `None`: an entry of `comparisons`; `None` where no baseline was compared.
    """
    pairs = [pair for pair in metrics["comparisons"] if pair["second"] in (NEAREST_LABELS, TEMPLATE_WRITER)]
    return max(pairs, key=lambda pair: metrics["systems"][pair["second"]]["rouge_l"]["value"], default=None)


def guard_ways(guard: Mapping[str, Any]) -> list[dict[str, Any]]:
    """How the guarded texts came about.

    Args:
        guard (`Mapping[str, Any]`):
            `guard` of `metrics.json`.

    Returns:
        `list[dict]`: `name`, `title`, `count` and `share` of texts accepted at the first try, at a later one, and replaced.
    """
    titles = {
        "first_try": "Accepted as first written",
        "later_try": "Refused, accepted when written again",
        "template": "Refused every time, replaced by template sentences",
    }
    total = sum(guard[way] for way in titles)
    return [
        {"name": way, "title": title, "count": guard[way], "share": guard[way] / total}
        for way, title in titles.items()
    ]


def failed_texts(predictions: pd.DataFrame, task: str) -> list[dict[str, Any]]:
    """What the fine-tuned model wrote that failed a check, with what the guard made of it; the worst first.

    Args:
        predictions (`pd.DataFrame`):
            Content of `predictions.parquet`, with texts.
        task (`str`):
            `report` or `impression`.

    Returns:
        `list[dict]`: `id`, `observations`, `findings` (what an impression is written from; empty for reports),
        `reference`, `text`, `reasons`, `guarded_text`, `guarded_reasons`. Texts that fail behind the guard stand first,
        then those that contradict most, invent most, leave most out.
    """
    rows = [row for row in _compared(predictions, task) if row["reasons"] or row["guarded_reasons"]]
    return sorted(rows, key=lambda row: (_badness(row["guarded_reasons"]), _badness(row["reasons"])), reverse=True)


def passed_texts(predictions: pd.DataFrame, task: str, most: int) -> list[dict[str, Any]]:
    """Some of what the fine-tuned model wrote that passed every check at once: at most `most`, evenly over the rows.

    The other arguments and the rows are those of [`failed_texts`].
    """
    rows = [row for row in _compared(predictions, task) if not row["reasons"] and not row["guarded_reasons"]]
    return rows[:: -(-len(rows) // most)] if rows else []


def _compared(predictions: pd.DataFrame, task: str) -> list[dict[str, Any]]:
    compared = []
    for row in predictions.to_dict("records"):
        findings, impression = row["reference_findings"], row["reference_impression"]
        is_report = task == REPORT_TASK
        compared.append(
            {
                "id": row["id"],
                "observations": row["observations"],
                "findings": "" if is_report else _cut(findings),
                "reference": _cut(f"FINDINGS: {findings}\nIMPRESSION: {impression}" if is_report else impression),
                "text": _cut(row[f"{ADAPTER}_text"]),
                "reasons": _reasons(row[f"{ADAPTER}_check"]),
                "guarded_text": _cut(row[f"{ADAPTER_GUARDED}_text"]),
                "guarded_reasons": _reasons(row[f"{ADAPTER_GUARDED}_check"]),
            }
        )
    return compared


def _reasons(check: str) -> list[str]:
    return [] if pd.isna(check) or check == "ok" else check.split("; ")


def _badness(reasons: Sequence[str]) -> tuple[int, ...]:
    """How many reasons of each kind, the worst kind first."""
    return (*(sum(reason.startswith(kind) for reason in reasons) for kind in _WORST_REASONS), len(reasons))


def _leakage(manifest: Mapping[str, Any], split: str) -> Mapping[str, Any] | None:
    """What the leakage audit counted in this split; `None` where the manifest does not say."""
    audit = manifest.get("leakage_audit")
    counts = audit.get(split) if isinstance(audit, Mapping) else None
    return counts if isinstance(counts, Mapping) and {"verbatim", "shared_groups"} <= set(counts) else None


def _cut(text: str | None) -> str:
    """The text, cut where it is too long for the page."""
    if pd.isna(text):
        return ""
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 1] + "…"
