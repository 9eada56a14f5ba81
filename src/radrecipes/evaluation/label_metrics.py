"""From the labels that each system chose to the metrics of `metrics.json` and the rows of `predictions.parquet`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from radrecipes.access import may_show
from radrecipes.data.label_sets import LabelSet
from radrecipes.errors import InputError
from radrecipes.evaluation import metrics
from radrecipes.evaluation.baselines import majority_class
from radrecipes.evaluation.confusions import ANY, costly_rows
from radrecipes.evaluation.embeddings import TextEmbedder
from radrecipes.evaluation.label_baselines import BASELINES, MAJORITY
from radrecipes.evaluation.label_systems import (
    ADAPTER,
    BASE,
    EvaluationRows,
    System,
    acceptable,
    confident_answers,
    correct,
)
from radrecipes.evaluation.recommendation import best_baseline, compare, recommendation
from radrecipes.evaluation.slices import column_masks, slice_masks, slice_metrics
from radrecipes.inference.abstention import ThresholdChoice
from radrecipes.inference.answers import SystemOutput
from radrecipes.inference.selective import TARGETS, choose_thresholds, selective_metrics
from radrecipes.statistics import (
    bootstrap_interval,
    macro_f1_statistic,
    mean_statistic,
    precision_recall_f1,
    proportion_interval,
)

TOP_COLUMNS = 3
# What pages group and mark labels by.
LABEL_FACTS = ("name", "modality", "body_region", "contrast", "always_review")


# Long: its many arguments and one document.
def compute_metrics(
    rows: EvaluationRows,
    systems: Mapping[str, System],
    *,
    task: str,
    label_set: LabelSet,
    train: EvaluationRows,
    validation: EvaluationRows,
    embedder: TextEmbedder,
    split: str,
    dataset: Mapping[str, Any],
    decoding: Mapping[str, Any],
    seeds: Mapping[str, int],
    targets: Sequence[float] = TARGETS,
    count_acceptable: bool = False,
    resamples: int = 2000,
) -> dict[str, Any]:
    """Everything in `metrics.json`: plain values, ready for JSON.

    Every `{"value", "low", "high"}` is a metric with its 95 % bootstrap interval over groups, an accuracy of 0 or 1 with that of
    Clopper and Pearson. Only systems whose answers have a confidence have `selective`.

    Args:
        systems: `adapter` is compared with every baseline but the majority class, the best one first, and with `base`.
        validation: The rows that temperatures, thresholds, the best baseline and the recommended system are chosen on.
        dataset: At least `name`, `access` and `digest` of the dataset.
        decoding: How the answers were generated.
        seeds: Includes `bootstrap`.
        count_acceptable: Thresholds and their metrics count acceptable answers as correct.
    """
    if not len(rows.ids):
        raise InputError("there are no rows to evaluate; choose a non-empty split")
    draws = {"resamples": resamples, "seed": seeds["bootstrap"]}
    majority = majority_class(train.references)

    # One call embeds every distinct text; later calls only look vectors up.
    texts = [output.text for system in systems.values() for output in system.outputs]
    embedder.embed([*label_set.names, *rows.references, *texts])

    best = best_baseline(validation, systems)
    best_name = best["name"] if best else None
    compared = dict.fromkeys([best_name, *(name for name in BASELINES if name != MAJORITY), BASE])
    masks = slice_masks(rows.notes, rows.references, train.notes, train.references, label_set)
    right = {name: correct(rows, system.outputs) for name, system in systems.items()}
    stated = slice_metrics(column_masks(rows.slices), rows.groups, right, **draws)
    right = {name: right[name] for name in (ADAPTER, best_name) if name in right}
    return {
        "task": task,
        "split": split,
        "rows": len(rows.ids),
        "groups": len(set(rows.groups)),
        "labels": len(label_set.names),
        "label_set": [{fact: getattr(label, fact) for fact in LABEL_FACTS} for label in label_set.labels],
        "labels_in_split": len(set(rows.references)),
        "dataset": dict(dataset),
        "decoding": dict(decoding),
        "seeds": dict(seeds),
        "interval": {"kind": "percentile bootstrap over groups", "confidence": 0.95, "resamples": resamples},
        "systems": {
            name: _accuracy_figures(rows, system.outputs, label_set, embedder, draws)
            | _decision_figures(rows, system, label_set, validation, targets, count_acceptable, draws)
            | dict(system.facts)
            for name, system in systems.items()
        },
        **({"count_acceptable": True} if count_acceptable else {}),
        "best_baseline": best,
        "comparisons": [
            compare(rows, systems[ADAPTER].outputs, systems[other].outputs, (ADAPTER, other), draws)
            for other in compared
            if ADAPTER in systems and other in systems
        ],
        "recommendation": recommendation(rows, validation, systems, draws),
        "slices": slice_metrics(masks, rows.groups, right, **draws),
        **({"slices_by_column": stated} if stated else {}),
        "semantic_similarity": {
            "model": embedder.name,
            "chance": similarity_chance_levels(rows.references, label_set.names, majority, embedder),
        },
        "train_majority_label": majority,
    }


def _accuracy_figures(
    rows: EvaluationRows,
    outputs: Sequence[SystemOutput],
    label_set: LabelSet,
    embedder: TextEmbedder,
    draws: Mapping[str, int],
) -> dict[str, Any]:
    labels = [output.label for output in outputs]
    statistics = {
        "exact_accuracy": metrics.exact_accuracy(labels, rows.references),
        "macro_f1": macro_f1_statistic(rows.references, labels),
        "out_of_vocabulary_rate": metrics.out_of_vocabulary_rate(labels, label_set.names),
        "semantic_similarity": metrics.semantic_similarity(
            [output.text for output in outputs], rows.references, embedder
        ),
    }
    if rows.accepted:
        accepted = acceptable(rows, outputs)
        # An acceptable answer counts as the correct one.
        counted = np.where(accepted, np.array(rows.references, dtype=object), np.array(labels, dtype=object)).tolist()
        statistics["acceptable_accuracy"] = mean_statistic(accepted)
        statistics["acceptable_macro_f1"] = macro_f1_statistic(rows.references, counted)
    interval_of = {True: proportion_interval, False: bootstrap_interval}
    return {
        **{name: interval_of[name.endswith("accuracy")](it, rows.groups, **draws) for name, it in statistics.items()},
        "never_stopped_rate": float(np.mean([not output.stopped for output in outputs])),
        "mean_generated_tokens": float(np.mean([output.generated_tokens for output in outputs])),
        "per_label": per_label_table(rows.references, labels, label_set.names),
    }


def _decision_figures(
    rows: EvaluationRows,
    system: System,
    label_set: LabelSet,
    validation: EvaluationRows,
    targets: Sequence[float],
    count_acceptable: bool,
    draws: Mapping[str, int],
) -> dict[str, Any]:
    """`costly_confusions`; `selective` if the answers have a confidence; `validation_accuracy` if validation was answered."""
    costly = costly_rows(label_set, rows.references, [output.label for output in system.outputs])
    figures: dict[str, Any] = {
        "costly_confusions": {
            kind: {"count": int(mask.sum()), "share": bootstrap_interval(mean_statistic(mask), rows.groups, **draws)}
            for kind, mask in costly.items()
        }
    }
    choices: list[ThresholdChoice] = []
    if system.validation:
        figures["validation_accuracy"] = float(correct(validation, system.validation).mean())
        if answered := confident_answers(validation, system.validation, count_acceptable):
            choices = choose_thresholds(answered, targets, label_set.always_review)
    if answers := confident_answers(rows, system.outputs, count_acceptable):
        figures["selective"] = selective_metrics(answers, costly[ANY], choices, label_set.always_review, **draws)
    return figures


def similarity_chance_levels(
    references: Sequence[str], label_names: Sequence[str], train_majority_label: str, embedder: TextEmbedder
) -> dict[str, float]:
    """Similarity to the references of answers that ignore the note: a random label of the set, and the majority class.

    `random_label` is the expected value, computed rather than sampled.
    """
    # The mean of the dot products with all labels is the dot product with the mean of all labels.
    mean_label = embedder.embed(label_names).mean(axis=0)
    return {
        "random_label": float((embedder.embed(references) @ mean_label).mean()),
        "majority_label": float(embedder.similarities(references, [train_majority_label] * len(references)).mean()),
    }


def per_label_table(
    references: Sequence[str], predictions: Sequence[str | None], label_names: Sequence[str]
) -> list[dict[str, Any]]:
    """Support, number of predictions, precision, recall and F1 of each label; `None` where the denominator is zero."""
    support, predicted = Counter(references), Counter(predictions)
    right = Counter(label for label, prediction in zip(references, predictions, strict=True) if label == prediction)

    return [
        {
            "label": name,
            "support": support[name],
            "predicted": predicted[name],
            **precision_recall_f1(right[name], predicted[name], support[name]),
        }
        for name in label_names
    ]


def predictions_table(
    rows: EvaluationRows, systems: Mapping[str, System], access: str, input_column: str = "note"
) -> pd.DataFrame:
    """The rows of `predictions.parquet`, with `<system>_…` columns for each system.

    Unless access is `synthetic` or `open`, columns with free text (the input and `<system>_text`) are left out, because a model
    may repeat what it read, and so are `id` and `group`, which may name patients: `row` counts the split's rows, from 1.
    `<system>_label` is missing if the answer was not a label.
    """
    showable = may_show(access)
    columns: dict[str, Any] = {"row": range(1, len(rows.ids) + 1)}
    if showable:
        columns = {"id": list(rows.ids), "group": list(rows.groups), input_column: list(rows.notes)}
    columns["reference"] = list(rows.references)
    for name, system in systems.items():
        outputs = system.outputs
        if showable:
            columns[f"{name}_text"] = [output.text for output in outputs]
        columns[f"{name}_label"] = pd.array([output.label for output in outputs], dtype="string")
        columns[f"{name}_stopped"] = [output.stopped for output in outputs]
        if any(output.confidence is not None for output in outputs):
            columns[f"{name}_confidence"] = pd.array([output.confidence for output in outputs], dtype="Float64")
        for place in range(min(TOP_COLUMNS, max((len(output.top) for output in outputs), default=0))):
            top = [output.top[place] if place < len(output.top) else (None, None) for output in outputs]
            columns[f"{name}_top{place + 1}_label"] = pd.array([label for label, _ in top], dtype="string")
            columns[f"{name}_top{place + 1}_probability"] = pd.array([value for _, value in top], dtype="Float64")
    return pd.DataFrame(columns)
