"""What the tables of the report page hold, from the figures of `metrics.json` and the rows of `predictions.parquet`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import pandas as pd

from radrecipes.data.label_sets import Label
from radrecipes.evaluation.label_metrics import ADAPTER, TOP_COLUMNS
from radrecipes.inference.abstention import AUTO, NEEDS_REVIEW
from radrecipes.inference.selective import DEFAULT_TARGET
from radrecipes.reporting.confusion_matrix import NO_LABEL

COSTLY_KINDS = {
    "contrast": "Contrast against none",
    "side": "Left against right",
    "region": "Body region",
    "listed": "Listed in the label set",
    "any": "Any of these",
}

_MOST_CONFUSIONS = 15
_LONGEST_NOTE = 1200
_LONGEST_ANSWER = 200


def best_baseline(metrics: Mapping[str, Any]) -> str | None:
    """Name of the baseline that was best on validation.

    Args:
        metrics (`Mapping[str, Any]`):
            Content of `metrics.json`.

    Returns:
        `str` or `None`: `None` where no baseline was evaluated.
    """
    best = metrics.get("best_baseline")
    return best["name"] if best and best["name"] in metrics["systems"] else None


def decisions(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """How much the fine-tuned model and the best baseline decide on their own at each target accuracy.

    Args:
        metrics (`Mapping[str, Any]`):
            Content of `metrics.json`.

    Returns:
        `list[dict]`: per target, ascending, `target` and `systems`, which maps `adapter` and the best baseline to what
        `metrics.json` says of this threshold, with `promise`: `"kept"`, `"within"` (missed, but by no more than chance
        explains), `"missed"`, or `None` where nothing was decided. A system without confidences maps to `None`. Empty
        where neither has any.
    """
    systems = {
        name: {
            row["target_accuracy"]: row
            for row in (metrics["systems"][name].get("selective") or {"thresholds": []})["thresholds"]
        }
        for name in (ADAPTER, best_baseline(metrics))
        if name is not None
    }
    return [
        {
            "target": target,
            "systems": {
                name: {**rows[target], "promise": _promise(rows[target])} if target in rows else None
                for name, rows in systems.items()
            },
        }
        for target in sorted({target for rows in systems.values() for target in rows})
    ]


def _promise(row: Mapping[str, Any]) -> str | None:
    """Whether a threshold gave on the evaluated rows what it promised."""
    accuracy = row["test"]["accuracy"] if row["threshold"] is not None else None
    if accuracy is None:
        return None
    if accuracy["value"] >= row["target_accuracy"]:
        return "kept"
    return "within" if accuracy["high"] >= row["target_accuracy"] else "missed"


def main_decision(metrics: Mapping[str, Any], system: str) -> dict[str, Any] | None:
    """What a system decides at the default target accuracy, which is told in words and row by row.

    Args:
        metrics (`Mapping[str, Any]`):
            Content of `metrics.json`.
        system (`str`):
            `adapter`, or the best baseline.

    Returns:
        `dict` or `None`: the entry of [`decisions`]; `None` where the system has none at this target.
    """
    return next(
        (row["systems"].get(system) for row in decisions(metrics) if row["target"] == DEFAULT_TARGET),
        None,
    )


def slices_by_kind(metrics: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """The slices of `metrics.json` under the title of their kind.

    Args:
        metrics (`Mapping[str, Any]`):
            Content of `metrics.json`.

    Returns:
        `dict[str, list]`: for example `{"modality": [{"value": "CT", ...}, {"value": "MR", ...}]}`.
    """
    return {kind: list(rows) for kind, rows in groupby(metrics.get("slices") or [], key=lambda row: row["slice"])}


def costly_kinds(metrics: Mapping[str, Any]) -> list[str]:
    """The kinds of costly confusion that were counted, in the order of the page.

    Args:
        metrics (`Mapping[str, Any]`):
            Content of `metrics.json`.

    Returns:
        `list[str]`: keys of `COSTLY_KINDS`; empty where none were counted.
    """
    counted = [system.get("costly_confusions") or {} for system in metrics["systems"].values()]
    return [kind for kind in COSTLY_KINDS if all(kind in kinds for kinds in counted)]


def frequent_confusions(references: Sequence[str], answers: Sequence[str | None]) -> list[dict[str, Any]]:
    """The most frequent wrong answers by expected label.

    Args:
        references (`Sequence[str]`):
            The right labels.
        answers (`Sequence[str]` or `Sequence[None]`):
            The answered labels; `None` where the answer was no label.

    Returns:
        `list[dict]`: at most 15, with `expected`, `answered`, `count`, `of` (rows with this expected label), `share`.
    """
    support = Counter(references)
    pairs = Counter(pair for pair in zip(references, answers, strict=True) if pair[0] != pair[1])
    # Ties in a fixed order, so that the same answers give the same page.
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


def label_table(metrics: Mapping[str, Any], labels: Sequence[Label]) -> list[dict[str, Any]]:
    """The per-label figures of the fine-tuned model, with the best baseline's F1 beside them.

    Args:
        metrics (`Mapping[str, Any]`):
            Content of `metrics.json`.
        labels (`Sequence[Label]`):
            The label set.

    Returns:
        `list[dict]`: the adapter's `per_label` rows with `place` (modality and body region) and `baseline_f1`.
    """
    by_name = {label.name: label for label in labels}
    baseline = best_baseline(metrics)
    baseline_f1 = {row["label"]: row["f1"] for row in metrics["systems"][baseline]["per_label"]} if baseline else {}
    rows = []
    for row in metrics["systems"][ADAPTER]["per_label"]:
        label = by_name.get(row["label"])
        place = " ".join(part for part in (label.modality, label.body_region) if part) if label else ""
        rows.append({**row, "place": place, "baseline_f1": baseline_f1.get(row["label"])})
    return rows


def wrong_answers(
    predictions: pd.DataFrame, metrics: Mapping[str, Any], labels: Sequence[Label]
) -> list[dict[str, Any]]:
    """What the fine-tuned model got wrong, with the notes: first what it would have decided on its own, surest first.

    Args:
        predictions (`pd.DataFrame`):
            Content of `predictions.parquet`; those of confidence and most probable labels may be
            missing.
        metrics (`Mapping[str, Any]`):
            Content of `metrics.json`, for the threshold at the target accuracy of 95 %.
        labels (`Sequence[Label]`):
            The label set, for the labels that are always reviewed.

    Returns:
        `list[dict]`: a row for each wrong answer; `confidence` and `decision` are `None` where they are not known.
    """
    baseline = best_baseline(metrics)
    chosen = main_decision(metrics, ADAPTER)
    reviewed = {label.name for label in labels if label.always_review}
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
                "note": _cut(row["note"], _LONGEST_NOTE),
                "expected": row["reference"],
                "answered": answered,
                "text": _cut(row[f"{ADAPTER}_text"], _LONGEST_ANSWER),
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


def _cut(text: str, length: int) -> str:
    """The text, cut where it is too long for the page."""
    return text if len(text) <= length else text[: length - 1] + "…"
