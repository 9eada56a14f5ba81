"""The content of a text task's evaluation page."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from radrecipes.access import may_show
from radrecipes.evaluation.report_metrics import LEAD_SENTENCES, NEAREST_EMBEDDING, NEAREST_LABELS, TEMPLATE_WRITER
from radrecipes.evaluation.text_evaluation import ADAPTER, ADAPTER_GUARDED, BASE, MOST_FREQUENT, NEAREST, REFERENCE
from radrecipes.inference.guard import NEVER_STOPPED
from radrecipes.reporting.figures import failure_rates_svg
from radrecipes.reporting.label_tables import cut
from radrecipes.tasks import TASKS, ReportWritingTask, TextTask

TEMPLATE = "text_page.html.jinja"
# The fine-tuned model first, then the systems that it has to beat.
SYSTEM_TITLES = {
    ADAPTER_GUARDED: "Fine-tuned model with guard",
    ADAPTER: "Fine-tuned model without guard",
    BASE: "Base model without fine-tuning",
    NEAREST_LABELS: "Training text with the nearest labels",
    NEAREST: "Text of the nearest training row (words)",
    NEAREST_EMBEDDING: "Text of the nearest training row (sentence embeddings)",
    LEAD_SENTENCES: "First sentences of the input",
    MOST_FREQUENT: "Most frequent training text",
    TEMPLATE_WRITER: "Template sentences",
    REFERENCE: "Reference text",
}
_SHORT_TITLES = {
    ADAPTER_GUARDED: "with guard",
    ADAPTER: "without guard",
    BASE: "base model",
    NEAREST_LABELS: "nearest labels",
    NEAREST: "nearest row",
    NEAREST_EMBEDDING: "nearest embedding",
    LEAD_SENTENCES: "first sentences",
    MOST_FREQUENT: "most frequent",
    TEMPLATE_WRITER: "templates",
    REFERENCE: "reference",
}
# Titles of the slices of `metrics["unseen"]`
UNSEEN_TITLES = {"text": "text not in training", "pair": "input and text not together in training"}
_FAILURES = {
    "contradiction_rate": "Contradicts a finding",
    "invented_positive_rate": "Invents a finding",
    "earlier_study_rate": "Mentions earlier studies",
    "invented_detail_rate": "Invents side or size",
    "repetition_rate": "Repeats itself",
    "missing_section_rate": "Lacks a section",
    "never_stopped_rate": "Never stops",
}
# What the checks do not see; an older evaluation has none of it.
_LANGUAGE = {
    "mean_words": "Words in a text",
    "distinct_2": "Distinct-2",
    "template_sentence_rate": "Sentences of the template writer",
    "judge_finding_recall": "Finding recall, second labeller",
    "judge_contradiction_rate": "Contradicts a finding, second labeller",
    "judge_kappa": "Cohen's kappa of both labellers",
}
_GUARD_OUTCOMES = {
    "first_try": "Accepted at the first attempt",
    "later_try": "Accepted at a later attempt",
    "template": "Rejected every time, replaced by template sentences",
    "refused": "Rejected every time, last attempt returned",
}
# Prefixes of `ReportCheck.reasons`, the worst first: a report that says the opposite misleads most.
_WORST_REASONS = ("contradicts ", "invents ", "missing ", "changed ")
_MOST_FAILED = 80
_MOST_PASSED = 8
_MOST_REASONS = 25
# 88 rows of four texts, each letter escaped, stay under the 2 MB that a page may take.
_LONGEST_TEXT = 1100


def figures(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Failure rates of every system."""
    systems = _systems(metrics)
    return {"failures": failure_rates_svg(systems, _SHORT_TITLES, _failures(systems), (ADAPTER_GUARDED, ADAPTER))}


def values(metrics: Mapping[str, Any], predictions: pd.DataFrame, access: str | None) -> dict[str, Any]:
    """Values for the template."""
    task, systems = TASKS[metrics["task"]], _systems(metrics)
    may_show_texts = may_show(access) and f"{ADAPTER}_text" in predictions
    failed, passed = failed_and_passed(predictions, task) if may_show_texts else ([], [])
    guard = systems[ADAPTER_GUARDED]["guard"]
    return {
        "words": task.words,
        "systems": systems,
        "system_titles": SYSTEM_TITLES,
        "alone": systems[ADAPTER],
        "guarded": systems[ADAPTER_GUARDED],
        "best_comparison": _best_comparison(metrics),
        "unseen": metrics.get("unseen", {}),
        "unseen_titles": UNSEEN_TITLES,
        "outcomes": _guard_outcomes(guard),
        "reasons": dict(list(guard["reasons"].items())[:_MOST_REASONS]),
        "falls_back": task.fallback_writer is not None,
        "failures": _failures(systems),
        "language": {key: title for key, title in _LANGUAGE.items() if all(key in it for it in systems.values())},
        "radeval": list(systems[ADAPTER].get("radeval", {})),
        "checks_reports": isinstance(task, ReportWritingTask),
        "states_all": isinstance(task, ReportWritingTask) and task.states_all,
        "may_show_texts": may_show_texts,
        "failed": failed[:_MOST_FAILED],
        "number_failed": len(failed),
        "passed": passed,
    }


def _systems(metrics: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The systems, in the same order on every page."""
    return {name: metrics["systems"][name] for name in SYSTEM_TITLES if name in metrics["systems"]}


def _failures(systems: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Titles of the kinds of failures that were counted for every system."""
    return {rate: title for rate, title in _FAILURES.items() if all(rate in system for system in systems.values())}


def _best_comparison(metrics: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The comparison of the guarded texts with the baseline that was best on validation."""
    best = (metrics.get("best_baseline") or {}).get("name")
    pairs = [pair for pair in metrics["comparisons"] if (pair["first"], pair["second"]) == (ADAPTER_GUARDED, best)]
    return pairs[0] if pairs else None


def _guard_outcomes(guard: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """How many texts were accepted at the first attempt, at a later one, or never."""
    last = "refused" if "refused" in guard else "template"
    titles = {name: _GUARD_OUTCOMES[name] for name in ("first_try", "later_try", last)}
    total = sum(guard[name] for name in titles)
    return {
        name: {"title": title, "count": guard[name], "share": guard[name] / total} for name, title in titles.items()
    }


def failed_and_passed(predictions: pd.DataFrame, task: TextTask) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Texts that failed a check, the worst first, led by those that fail with guard; and a few that passed, evenly spaced."""
    failed, passed = [], []
    for row in predictions.to_dict("records"):
        read = row.get(f"reference_{task.input_column}", row.get(task.input_column))
        reference = row.get("reference")
        if isinstance(task, ReportWritingTask):
            reference = task.compose(row["reference_findings"], row["reference_impression"])
        text = {
            "id": row["id"],
            "input": cut(read, _LONGEST_TEXT),
            "observations": row.get("observations", ""),
            "reference": cut(reference, _LONGEST_TEXT),
            "text": cut(row[f"{ADAPTER}_text"], _LONGEST_TEXT),
            "reasons": _reasons(row, ADAPTER),
            "guarded_text": cut(row[f"{ADAPTER_GUARDED}_text"], _LONGEST_TEXT),
            "guarded_reasons": _reasons(row, ADAPTER_GUARDED),
        }
        (failed if text["reasons"] or text["guarded_reasons"] else passed).append(text)
    failed.sort(key=lambda text: (_badness(text["guarded_reasons"]), _badness(text["reasons"])), reverse=True)
    return failed, passed[:: -(-len(passed) // _MOST_PASSED) or 1]


def _reasons(row: Mapping[str, Any], system: str) -> list[str]:
    check, stopped = row[f"{system}_check"], row[f"{system}_stopped"]
    reasons = [] if pd.isna(check) or check == "ok" else check.split("; ")
    return reasons if pd.isna(stopped) or stopped else [*reasons, NEVER_STOPPED]


def _badness(reasons: Sequence[str]) -> tuple[int, ...]:
    """Number of reasons of each kind, the worst kind first."""
    return (*(sum(reason.startswith(kind) for reason in reasons) for kind in _WORST_REASONS), len(reasons))
