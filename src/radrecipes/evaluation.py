"""From what each system wrote for each row to the figures of `metrics.json` and the rows of `predictions.parquet`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from radrecipes.embeddings import TextEmbedder
from radrecipes.errors import InputError
from radrecipes.statistics import bootstrap_interval, macro_f1_statistic, mcnemar_exact, mean_statistic

ADAPTER = "adapter"
BASE = "base"
LINEAR = "tfidf_logistic_regression"
MAJORITY = "majority"

# Free text may be shown and stored only for these; every other value, known or not, counts as closed.
SHOWABLE_ACCESS = ("synthetic", "open")


@dataclass(frozen=True)
class SystemOutput:
    """What one system answered to one row.

    Args:
        text (`str`):
            The answer as it was written.
        label (`str` or `None`):
            The canonical label that the answer names; `None` where it names none.
        stopped (`bool`, *optional*, defaults to `True`):
            Whether the system ended its answer by itself, before the limit on its length.
        generated_tokens (`int`, *optional*, defaults to 0):
            Number of generated tokens, the stop token included; 0 for a system that does not generate.
    """

    text: str
    label: str | None
    stopped: bool = True
    generated_tokens: int = 0


@dataclass(frozen=True)
class EvaluationRows:
    """The rows that every system answered, in one order.

    Args:
        ids (`Sequence[str]`):
            Identifier of each row.
        groups (`Sequence[str]`):
            Patient, order or scenario of each row.
        notes (`Sequence[str]`):
            What the systems read.
        references (`Sequence[str]`):
            The right label of each row, canonical.
    """

    ids: Sequence[str]
    groups: Sequence[str]
    notes: Sequence[str]
    references: Sequence[str]


def classifier_outputs(labels: Sequence[str]) -> list[SystemOutput]:
    """The answers of a system that can only answer with labels.

    Args:
        labels (`Sequence[str]`):
            The predicted label of each row.

    Returns:
        `list[SystemOutput]`: one per row.
    """
    return [SystemOutput(text=label, label=label) for label in labels]


def compute_metrics(
    rows: EvaluationRows,
    systems: Mapping[str, Sequence[SystemOutput]],
    *,
    label_names: Sequence[str],
    train_majority_label: str,
    embedder: TextEmbedder,
    split: str,
    dataset: Mapping[str, Any],
    decoding: Mapping[str, Any],
    seeds: Mapping[str, int],
    resamples: int = 2000,
) -> dict[str, Any]:
    """Everything that `metrics.json` holds.

    Args:
        rows ([`EvaluationRows`]):
            The rows.
        systems (`Mapping[str, Sequence[SystemOutput]]`):
            The answers of each system, row by row. `adapter` is compared with `tfidf_logistic_regression` and with
            `base` where they are there.
        label_names (`Sequence[str]`):
            Every label of the label set.
        train_majority_label (`str`):
            The commonest label of the train split.
        embedder ([`TextEmbedder`]):
            Embeds answers and references for the semantic similarity.
        split (`str`):
            Name of the split that the rows are from.
        dataset (`Mapping[str, Any]`):
            At least `name`, `access` and `digest` of the dataset.
        decoding (`Mapping[str, Any]`):
            How text was generated.
        seeds (`Mapping[str, int]`):
            The seeds in play; `bootstrap` among them.
        resamples (`int`, *optional*, defaults to 2000):
            Bootstrap resamples.

    Returns:
        `dict`: plain values only, ready for JSON. Every `{"value", "low", "high"}` is a figure with its 95 % bootstrap
        interval over groups.

    Raises:
        InputError: There are no rows.
        ValueError: The columns of `rows` differ in length, a system has not one answer per row, or `seeds` lacks
            `bootstrap`.
    """
    if not len(rows.ids):
        raise InputError("there are no rows to evaluate; choose a split that holds some")
    if len({len(rows.ids), len(rows.groups), len(rows.notes), len(rows.references)}) != 1:
        raise ValueError("ids, groups, notes and references must have one length")
    for name, outputs in systems.items():
        if len(outputs) != len(rows.ids):
            raise ValueError(f"system {name!r} has {len(outputs)} answers for {len(rows.ids)} rows")
    if "bootstrap" not in seeds:
        raise ValueError("seeds must hold `bootstrap`")

    def interval(statistic):
        return bootstrap_interval(statistic, rows.groups, resamples=resamples, seed=seeds["bootstrap"])

    # One call embeds every distinct text, so that later calls only look vectors up.
    embedder.embed(
        [*label_names, *rows.references, *(output.text for outputs in systems.values() for output in outputs)]
    )
    correct = {
        name: np.array([output.label == reference for output, reference in zip(outputs, rows.references, strict=True)])
        for name, outputs in systems.items()
    }
    measured = {}
    for name, outputs in systems.items():
        labels = [output.label for output in outputs]
        similarities = embedder.similarities([output.text for output in outputs], rows.references)
        measured[name] = {
            "exact_accuracy": interval(mean_statistic(correct[name])),
            "macro_f1": interval(macro_f1_statistic(rows.references, labels)),
            "out_of_vocabulary_rate": interval(mean_statistic([label is None for label in labels])),
            "semantic_similarity": interval(mean_statistic(similarities)),
            "never_stopped_rate": float(np.mean([not output.stopped for output in outputs])),
            "mean_generated_tokens": float(np.mean([output.generated_tokens for output in outputs])),
            "per_label": per_label_table(rows.references, labels, label_names),
        }
    comparisons = []
    for other in (LINEAR, BASE):
        if ADAPTER in systems and other in systems:
            difference = correct[ADAPTER].astype(float) - correct[other]
            comparisons.append(
                {
                    "first": ADAPTER,
                    "second": other,
                    **mcnemar_exact(correct[ADAPTER], correct[other]),
                    "difference_in_exact_accuracy": interval(mean_statistic(difference)),
                }
            )
    return {
        "split": split,
        "rows": len(rows.ids),
        "groups": len(set(rows.groups)),
        "labels": len(label_names),
        "labels_in_split": len(set(rows.references)),
        "dataset": dict(dataset),
        "decoding": dict(decoding),
        "seeds": dict(seeds),
        "interval": {"kind": "percentile bootstrap over groups", "confidence": 0.95, "resamples": resamples},
        "systems": measured,
        "comparisons": comparisons,
        "semantic_similarity": {
            "model": embedder.name,
            "chance": similarity_chance_levels(rows.references, label_names, train_majority_label, embedder),
        },
        "train_majority_label": train_majority_label,
    }


def similarity_chance_levels(
    references: Sequence[str], label_names: Sequence[str], train_majority_label: str, embedder: TextEmbedder
) -> dict[str, float]:
    """How similar to the references answers are that know nothing of the note.

    Args:
        references (`Sequence[str]`):
            The right labels.
        label_names (`Sequence[str]`):
            Every label of the label set.
        train_majority_label (`str`):
            The commonest label of the train split.
        embedder ([`TextEmbedder`]):
            Embeds the labels.

    Returns:
        `dict[str, float]`: `random_label`, the expected similarity to a label drawn uniformly from the set (computed,
        not drawn), and `majority_label`.
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
    """How well each label is recognised.

    Args:
        references (`Sequence[str]`):
            The right labels.
        predictions (`Sequence[str]` or `Sequence[None]`):
            The predicted labels.
        label_names (`Sequence[str]`):
            Every label of the label set; the order of the result.

    Returns:
        `list[dict]`: per label `label`, `support` (rows with this reference), `predicted` (rows with this
        prediction), and `precision`, `recall`, `f1`, each `None` where it would divide by zero.
    """
    support, predicted = Counter(references), Counter(predictions)
    right = Counter(label for label, prediction in zip(references, predictions, strict=True) if label == prediction)

    def ratio(part: float, whole: int) -> float | None:
        return part / whole if whole else None

    return [
        {
            "label": name,
            "support": support[name],
            "predicted": predicted[name],
            "precision": ratio(right[name], predicted[name]),
            "recall": ratio(right[name], support[name]),
            "f1": ratio(2 * right[name], support[name] + predicted[name]),
        }
        for name in label_names
    ]


def predictions_table(
    rows: EvaluationRows, systems: Mapping[str, Sequence[SystemOutput]], access: str
) -> pd.DataFrame:
    """The rows of `predictions.parquet`.

    Args:
        rows ([`EvaluationRows`]):
            The rows.
        systems (`Mapping[str, Sequence[SystemOutput]]`):
            The answers of each system, row by row.
        access (`str`):
            Access level of the dataset. Unless it is `synthetic` or `open`, the columns with free text (`note` and
            `<system>_text`) are left out, because a model may repeat what it read.

    Returns:
        `pd.DataFrame`: `id`, `group`, `note`, `reference`, and per system `<system>_text`, `<system>_label` (missing
        where the answer was no label) and `<system>_stopped`.
    """
    showable = access in SHOWABLE_ACCESS
    columns: dict[str, Any] = {"id": list(rows.ids), "group": list(rows.groups)}
    if showable:
        columns["note"] = list(rows.notes)
    columns["reference"] = list(rows.references)
    for name, outputs in systems.items():
        if showable:
            columns[f"{name}_text"] = [output.text for output in outputs]
        columns[f"{name}_label"] = pd.array([output.label for output in outputs], dtype="string")
        columns[f"{name}_stopped"] = [output.stopped for output in outputs]
    return pd.DataFrame(columns)
