"""From the labels that each system chose to the metrics of `metrics.json` and the rows of `predictions.parquet`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from radrecipes.access import may_show
from radrecipes.data.label_sets import LabelSet
from radrecipes.errors import InputError
from radrecipes.evaluation import metrics
from radrecipes.evaluation.baselines import (
    LOGISTIC_REGRESSION,
    SUPPORT_VECTOR_MACHINE,
    fit_linear_baseline,
    fit_nearest_neighbour,
    majority_class,
)
from radrecipes.evaluation.confusions import ANY, costly_rows
from radrecipes.evaluation.embeddings import TextEmbedder
from radrecipes.evaluation.slices import slice_masks, slice_metrics
from radrecipes.inference.abstention import ThresholdChoice
from radrecipes.inference.answers import SystemOutput
from radrecipes.inference.selective import TARGETS, ConfidentAnswers, choose_thresholds, selective_metrics
from radrecipes.statistics import (
    bootstrap_interval,
    macro_f1_statistic,
    mcnemar_exact,
    mean_statistic,
    precision_recall_f1,
)

ADAPTER = "adapter"
BASE = "base"
MAJORITY = "majority"
NEAREST = "nearest_neighbour"
LINEAR = "tfidf_logistic_regression"
SVM = "tfidf_linear_svm"
BASELINES = (MAJORITY, NEAREST, LINEAR, SVM)

# What each system uses as confidence.
CONFIDENCES = {
    ADAPTER: "probability",
    BASE: "probability",
    LINEAR: "probability",
    SVM: "margin",
    NEAREST: "similarity",
}

TOP_COLUMNS = 3
# What pages group and mark labels by.
LABEL_FACTS = ("name", "modality", "body_region", "contrast", "always_review")


@dataclass(frozen=True)
class EvaluationRows:
    """The rows that every system answers, in one order: inputs and correct labels."""

    ids: Sequence[str]
    groups: Sequence[str]
    notes: Sequence[str]
    references: Sequence[str]


def classifier_outputs(
    labels: Sequence[str], confidences: Sequence[float] | np.ndarray | None = None
) -> list[SystemOutput]:
    """The answers of a system that can answer only with labels, with its confidence in each if it has one."""
    known = [None] * len(labels) if confidences is None else map(float, confidences)
    return [SystemOutput(label, label, confidence=confidence) for label, confidence in zip(labels, known, strict=True)]


def confident_answers(rows: EvaluationRows, outputs: Sequence[SystemOutput]) -> ConfidentAnswers | None:
    """What selective prediction needs of a system's answers; `None` if an answer has no confidence."""
    if any(output.confidence is None for output in outputs):
        return None
    confidences = np.array([output.confidence for output in outputs], dtype=np.float64)
    return ConfidentAnswers([output.label for output in outputs], confidences, _correct(rows, outputs), rows.groups)


def baseline_outputs(
    train: EvaluationRows, validation: EvaluationRows, rows: EvaluationRows
) -> tuple[dict[str, list[SystemOutput]], dict[str, list[SystemOutput]]]:
    """The answers of each of `BASELINES`, fitted on `train`, to the validation rows and to the rows."""
    learned = (train.notes, train.references)
    chosen_by = (validation.notes, validation.references)
    fitted = {
        NEAREST: fit_nearest_neighbour(*learned),
        LINEAR: fit_linear_baseline(*LOGISTIC_REGRESSION, *learned, *chosen_by),
        SVM: fit_linear_baseline(*SUPPORT_VECTOR_MACHINE, *learned, *chosen_by),
    }
    majority = majority_class(train.references)
    answers = []
    for asked in (validation, rows):
        systems = {MAJORITY: classifier_outputs([majority] * len(asked.ids))}
        for name, baseline in fitted.items():
            systems[name] = classifier_outputs(baseline.predict(asked.notes), baseline.confidences(asked.notes))
        answers.append(systems)
    return answers[0], answers[1]


def best_baseline(rows: EvaluationRows, systems: Mapping[str, Sequence[SystemOutput]]) -> dict[str, Any] | None:
    """`name` and `validation_accuracy` of the most accurate baseline, ties to the first of `BASELINES`; `None` without answers.

    Call it with validation rows, because a selection on test rows would profit from chance.
    """
    accuracies = {name: float(_correct(rows, systems[name]).mean()) for name in BASELINES if name in systems}
    if not accuracies:
        return None
    name = max(accuracies, key=accuracies.get)
    return {"name": name, "validation_accuracy": accuracies[name]}


# Long: its many arguments and one document.
def compute_metrics(
    rows: EvaluationRows,
    systems: Mapping[str, Sequence[SystemOutput]],
    *,
    task: str,
    label_set: LabelSet,
    train: EvaluationRows,
    validation_rows: EvaluationRows,
    validation_systems: Mapping[str, Sequence[SystemOutput]],
    embedder: TextEmbedder,
    split: str,
    dataset: Mapping[str, Any],
    decoding: Mapping[str, Any],
    seeds: Mapping[str, int],
    calibration: Mapping[str, Any] | None = None,
    targets: Sequence[float] = TARGETS,
    resamples: int = 2000,
) -> dict[str, Any]:
    """Everything in `metrics.json`: plain values, ready for JSON.

    Every `{"value", "low", "high"}` is a metric with its 95 % bootstrap interval over groups. Only systems whose answers have a
    confidence have `selective`.

    Args:
        systems: Answers of each system; `adapter` is compared with the best baseline, `tfidf_logistic_regression` and `base`.
        validation_rows: Rows that thresholds and the best baseline are chosen on.
        validation_systems: Answers to the validation rows; a system without them gets no thresholds.
        dataset: At least `name`, `access` and `digest` of the dataset.
        decoding: How the answers were generated.
        seeds: Includes `bootstrap`.
        calibration: Temperature and calibration error of the model.
    """
    if not len(rows.ids):
        raise InputError("there are no rows to evaluate; choose a non-empty split")
    draws = {"resamples": resamples, "seed": seeds["bootstrap"]}
    majority = majority_class(train.references)

    # One call embeds every distinct text; later calls only look vectors up.
    texts = [output.text for outputs in systems.values() for output in outputs]
    embedder.embed([*label_set.names, *rows.references, *texts])

    choices = {
        name: choose_thresholds(validation, targets, label_set.always_review)
        for name, outputs in validation_systems.items()
        if (validation := confident_answers(validation_rows, outputs))
    }
    best = best_baseline(validation_rows, validation_systems)
    best_name = best["name"] if best else None
    masks = slice_masks(rows.notes, rows.references, train.notes, train.references, label_set)
    right = {name: _correct(rows, systems[name]) for name in (ADAPTER, best_name) if name in systems}
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
            name: _accuracy_figures(rows, outputs, label_set, embedder, draws)
            | _decision_figures(rows, outputs, label_set, CONFIDENCES.get(name), choices.get(name, []), draws)
            for name, outputs in systems.items()
        },
        "best_baseline": best,
        "comparisons": [
            _comparison(rows, systems, other, draws)
            for other in dict.fromkeys((best_name, LINEAR, BASE))
            if ADAPTER in systems and other in systems
        ],
        "calibration": dict(calibration) if calibration else None,
        "slices": slice_metrics(masks, rows.groups, right, **draws),
        "semantic_similarity": {
            "model": embedder.name,
            "chance": similarity_chance_levels(rows.references, label_set.names, majority, embedder),
        },
        "train_majority_label": majority,
    }


def _correct(rows: EvaluationRows, outputs: Sequence[SystemOutput]) -> np.ndarray:
    return np.array([output.label == reference for output, reference in zip(outputs, rows.references, strict=True)])


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
    return {
        **{name: bootstrap_interval(statistic, rows.groups, **draws) for name, statistic in statistics.items()},
        "never_stopped_rate": float(np.mean([not output.stopped for output in outputs])),
        "mean_generated_tokens": float(np.mean([output.generated_tokens for output in outputs])),
        "per_label": per_label_table(rows.references, labels, label_set.names),
    }


def _decision_figures(
    rows: EvaluationRows,
    outputs: Sequence[SystemOutput],
    label_set: LabelSet,
    confidence: str | None,
    choices: Sequence[ThresholdChoice],
    draws: Mapping[str, int],
) -> dict[str, Any]:
    """`costly_confusions`, and `selective` if the answers have a confidence, of which `confidence` says what it is."""
    costly = costly_rows(label_set, rows.references, [output.label for output in outputs])
    figures: dict[str, Any] = {
        "costly_confusions": {
            kind: {"count": int(mask.sum()), "share": bootstrap_interval(mean_statistic(mask), rows.groups, **draws)}
            for kind, mask in costly.items()
        }
    }
    answers = confident_answers(rows, outputs)
    if answers is not None:
        figures["selective"] = {
            "confidence": confidence,
            **selective_metrics(answers, costly[ANY], choices, label_set.always_review, **draws),
        }
    return figures


def _comparison(
    rows: EvaluationRows, systems: Mapping[str, Sequence[SystemOutput]], other: str, draws: Mapping[str, int]
) -> dict[str, Any]:
    ours, theirs = _correct(rows, systems[ADAPTER]), _correct(rows, systems[other])
    difference = mean_statistic(ours.astype(float) - theirs)
    return {
        "first": ADAPTER,
        "second": other,
        **mcnemar_exact(ours, theirs),
        "difference_in_exact_accuracy": bootstrap_interval(difference, rows.groups, **draws),
    }


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
    rows: EvaluationRows, systems: Mapping[str, Sequence[SystemOutput]], access: str, input_column: str = "note"
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
    for name, outputs in systems.items():
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
