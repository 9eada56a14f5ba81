"""Tables of label tasks, from the numbers of `metrics.json` and the rows of `predictions.parquet`."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from radrecipes.evaluation.label_metrics import TOP_COLUMNS
from radrecipes.evaluation.label_systems import ADAPTER
from radrecipes.inference.abstention import AUTO, NEEDS_REVIEW
from radrecipes.inference.selective import DEFAULT_TARGET
from radrecipes.reporting.confusion_matrix import NO_LABEL, label_title

# Titles of the kinds of costly confusions, in page order
COSTLY_KINDS = {
    "contrast": "Contrast against none",
    "side": "Left against right",
    "region": "Body region",
    "listed": "Listed in the label set",
    "any": "Any of these",
}

_MOST_CONFUSIONS = 15
_LONGEST_INPUT = 1200
_LONGEST_ANSWER = 200


def best_baseline(metrics: Mapping[str, Any]) -> str | None:
    """Name of the baseline that was best on validation; `None` if no baseline was evaluated."""
    best = metrics.get("best_baseline")
    return best["name"] if best and best["name"] in metrics["systems"] else None


def calibration(metrics: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The model's temperature with its calibration before and after it; `None` if its answers have no probability."""
    return metrics["systems"].get(ADAPTER, {}).get("calibration")


def duration(seconds: float | None) -> str:
    """Seconds in a fitting unit, for example `"4.2 s"` or `"8.9 min"`; `"–"` for `None`."""
    if seconds is None:
        return "–"
    for unit, size in (("s", 1), ("min", 60)):
        if seconds < 100 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 3600:.1f} h"


def speed(rows_per_second: float | None) -> str:
    """Rows per second with three significant digits; `"–"` for `None`."""
    if rows_per_second is None:
        return "–"
    rounded = float(f"{rows_per_second:.3g}")
    return f"{rounded:.1f}" if rounded < 100 else f"{rounded:,.0f}"


def processors(costs: Iterable[Mapping[str, Any]]) -> list[str]:
    """The processors that systems were trained on and answered on, each once."""
    named = [cost.get(key) for cost in costs for key in ("trained_on", "answered_on")]
    return list(dict.fromkeys(name for name in named if name))


def decisions(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Coverage and selective accuracy of the fine-tuned model and the best baseline at each target accuracy.

    Returns:
        For each target, ascending, `target` and `systems`: `adapter` and the best baseline, each with its threshold's entry
        of `metrics.json` and `target_met`: `"yes"`, `"within chance"` (missed, but the interval contains the target), `"no"`,
        or `None` if nothing was answered. A system without confidences has `None`. Empty if neither has any.
    """
    systems = {}
    for name in filter(None, (ADAPTER, best_baseline(metrics))):
        thresholds = (metrics["systems"][name].get("selective") or {}).get("thresholds", [])
        systems[name] = {row["target_accuracy"]: {**row, "target_met": _target_met(row)} for row in thresholds}
    targets = sorted({target for rows in systems.values() for target in rows})
    return [
        {"target": target, "systems": {name: rows.get(target) for name, rows in systems.items()}} for target in targets
    ]


def _target_met(row: Mapping[str, Any]) -> str | None:
    accuracy = row["test"]["accuracy"] if row["threshold"] is not None else None
    if accuracy is None:
        return None
    if accuracy["value"] >= row["target_accuracy"]:
        return "yes"
    return "within chance" if accuracy["high"] >= row["target_accuracy"] else "no"


def main_decision(metrics: Mapping[str, Any]) -> dict[str, Any] | None:
    """The fine-tuned model's entry of [`decisions`] at the default target accuracy; `None` if it has none."""
    return next((row["systems"][ADAPTER] for row in decisions(metrics) if row["target"] == DEFAULT_TARGET), None)


def frequent_confusions(references: Sequence[str], answers: Sequence[str | None]) -> list[dict[str, Any]]:
    """The 15 most frequent pairs of reference and wrong answer; an answer of `None` is not a label."""
    support = Counter(references)
    pairs = Counter(pair for pair in zip(references, answers, strict=True) if pair[0] != pair[1])
    # Break ties in a fixed order, so that the same answers give the same page.
    ranked = sorted(pairs.items(), key=lambda item: (-item[1], item[0][0], item[0][1] or ""))
    return [
        {
            "expected": expected,
            "answered": NO_LABEL if answered is None else answered,
            "count": count,
            "of": support[expected],
            "share": count / support[expected],
        }
        for (expected, answered), count in ranked[:_MOST_CONFUSIONS]
    ]


def label_rows(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """`per_label` of the fine-tuned model, with each label's `place` and the best baseline's F1."""
    titles = {label["name"]: label_title(label) for label in metrics["label_set"]}
    baseline = best_baseline(metrics)
    baseline_f1 = {row["label"]: row["f1"] for row in metrics["systems"][baseline]["per_label"]} if baseline else {}
    return [
        {**row, "place": titles[row["label"]], "baseline_f1": baseline_f1.get(row["label"])}
        for row in metrics["systems"][ADAPTER]["per_label"]
    ]


def wrong_answers(predictions: pd.DataFrame, metrics: Mapping[str, Any], input_column: str) -> list[dict[str, Any]]:
    """The model's wrong answers: automatic ones first, the most confident at the top; `confidence` and `decision` may be `None`."""
    baseline = best_baseline(metrics)
    chosen = main_decision(metrics)
    reviewed = {label["name"] for label in metrics["label_set"] if label["always_review"]}
    wrong = []
    for row in predictions.to_dict("records"):
        answered = None if pd.isna(row[f"{ADAPTER}_label"]) else row[f"{ADAPTER}_label"]
        if answered == row["reference"]:
            continue
        confidence = row.get(f"{ADAPTER}_confidence")
        confidence = None if pd.isna(confidence) else float(confidence)
        decision = None
        if confidence is not None and chosen is not None:
            sure = chosen["threshold"] is not None and confidence >= chosen["threshold"]
            decision = AUTO if sure and answered is not None and answered not in reviewed else NEEDS_REVIEW
        wrong.append(
            {
                "id": row["id"],
                "input": cut(row[input_column], _LONGEST_INPUT),
                "expected": row["reference"],
                "answered": answered,
                "text": cut(row[f"{ADAPTER}_text"], _LONGEST_ANSWER),
                "confidence": confidence,
                "decision": decision,
                "top": _top(row),
                "baseline": row.get(f"{baseline}_label"),
                "baseline_is_right": row.get(f"{baseline}_label") == row["reference"],
            }
        )
    # sorted() is stable: without confidences the rows keep their order.
    return sorted(wrong, key=lambda row: (row["decision"] != AUTO, -(row["confidence"] or 0)))


def _top(row: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The most probable labels of a row with their probabilities."""
    places = [f"{ADAPTER}_top{place + 1}" for place in range(TOP_COLUMNS)]
    labels = [(row.get(f"{place}_label"), row.get(f"{place}_probability")) for place in places]
    return [(label, float(probability)) for label, probability in labels if not pd.isna(label)]


def cut(text: str | None, length: int) -> str:
    """The text, truncated if it is too long for the page; empty if there is none."""
    if pd.isna(text):
        return ""
    return text if len(text) <= length else text[: length - 1] + "…"
