"""One evaluation of a finished run: every system answers every row; figures, rows and a page come of it."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset

from radrecipes.data.prepared import PreparedDataset
from radrecipes.errors import InputError
from radrecipes.evaluation.embeddings import TextEmbedder
from radrecipes.evaluation.label_metrics import (
    ADAPTER,
    BASE,
    EvaluationRows,
    baseline_outputs,
    compute_metrics,
    predictions_table,
)
from radrecipes.evaluation.report_metrics import (
    ADAPTER_GUARDED,
    ReportRows,
    baseline_reports,
    check_reports,
    compute_report_metrics,
    reports_table,
)
from radrecipes.inference.abstention import DecisionPolicy
from radrecipes.inference.predictors import LabelPredictor, Predictor, ReportPredictor
from radrecipes.inference.predictors.report_predictor import TEMPERATURE
from radrecipes.inference.selective import DEFAULT_TARGET, TARGETS

# The untuned base seldom stops, so that each of its reports costs the longest answer: a sample shows what it can do.
BASE_REPORTS = 64

# Opens a bar with a title over a number of rows, and gives what advances it.
Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True)
class EvaluationOptions:
    """What the user chose.

    Args:
        split (`str`, *optional*, defaults to `"test"`):
            Split to evaluate on.
        max_rows (`int`, *optional*):
            Only the first rows of each split.
        batch_size (`int`, *optional*, defaults to 32):
            Rows a batch.
        skip_base (`bool`, *optional*, defaults to `False`):
            Leave the untuned base out.
        target_accuracy (`float`, *optional*):
            Labels: accuracy that automatic answers shall have.
        similarity_model (`str`, *optional*):
            Labels: model of the semantic similarity.
    """

    split: str = "test"
    max_rows: int | None = None
    batch_size: int = 32
    skip_base: bool = False
    target_accuracy: float | None = None
    similarity_model: str | None = None


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation made.

    Args:
        metrics (`dict`):
            Content of `metrics.json`.
        predictions (`pd.DataFrame`):
            Rows of `predictions.parquet`.
        policy ([`DecisionPolicy`] or `None`):
            Temperature and thresholds to keep beside the adapter.
    """

    metrics: dict[str, Any]
    predictions: pd.DataFrame
    policy: DecisionPolicy | None = None


def evaluate(
    predictor: Predictor,
    dataset: PreparedDataset,
    options: EvaluationOptions,
    progress: Progress,
    is_main_process: bool = True,
) -> Evaluated | None:
    """Evaluate a finished run by what its task writes.

    Where the predictor is shared, all processes call this with the same arguments: all answer, and the first one measures.

    Args:
        predictor ([`Predictor`]):
            The run.
        dataset ([`PreparedDataset`]):
            Rows to train baselines on, to choose on, and to judge on.
        options ([`EvaluationOptions`]):
            What the user chose.
        progress (`Progress`):
            Shows how far each system is.
        is_main_process (`bool`, *optional*, defaults to `True`):
            Whether this is the first process.

    Returns:
        [`Evaluated`] or `None`: in the first process only.

    Raises:
        [`InputError`]: the dataset is for another task, or an option cannot be met.
    """
    predictor.task.check_dataset(dataset)
    how = evaluate_labels if predictor.task.writes == "label" else evaluate_reports
    evaluated = how(predictor, dataset, options, progress, is_main_process)
    if evaluated:
        # So that whoever publishes the run can tell whether these weights were measured.
        evaluated.metrics["adapter_sha256"] = predictor.adapter_sha256
    return evaluated


def evaluate_labels(
    predictor: LabelPredictor,
    dataset: PreparedDataset,
    options: EvaluationOptions,
    progress: Progress,
    is_main_process: bool,
) -> Evaluated | None:
    """Labels: temperature and thresholds fitted on validation, four baselines; arguments as for [`evaluate`]."""
    train = _label_rows(dataset.splits["train"], None)
    validation, rows = (
        _label_rows(dataset.splits[split], options.max_rows) for split in ("validation", options.split)
    )
    embedder = TextEmbedder(options.similarity_model)

    def answered(answer: Callable, to: EvaluationRows, title: str) -> Any:
        inputs = [{predictor.task.input_column: note} for note in to.notes]
        with progress(title, len(inputs)) as advance:
            return answer(inputs, options.batch_size, advance)

    # Answers of the model; where it scores labels, temperature and thresholds come from the validation split
    systems, validated, policy, calibration, left_out = {}, {}, None, None, None
    if predictor.decode == "score":
        target = options.target_accuracy or DEFAULT_TARGET
        scores = answered(predictor.score, validation, "validation")
        policy = predictor.fit_policy(
            scores, validation.references, validation.groups, dataset.digest, sorted({*TARGETS, target}), target
        )
        if options.target_accuracy:
            policy.threshold_for(target)  # a target that was asked for and cannot be supported ends here
        validated[ADAPTER] = predictor.decided(predictor.probabilities(scores))
        scores = answered(predictor.score, rows, ADAPTER)
        systems[ADAPTER] = predictor.decided(predictor.probabilities(scores))
        calibration = predictor.calibration(scores, rows.references)
        left_out = float(scores.left_out.mean())
    else:
        systems[ADAPTER] = answered(predictor.answer, rows, ADAPTER)
    if not options.skip_base:
        systems[BASE] = answered(partial(predictor.answer, untuned=True), rows, BASE)
    if not is_main_process:
        return None

    # Answers of the baselines, trained on the same rows
    validation_baselines, baselines = baseline_outputs(train, validation, rows)
    systems |= baselines
    validated |= validation_baselines

    metrics = compute_metrics(
        rows,
        systems,
        task=predictor.task.name,
        label_set=predictor.label_set,
        train_notes=train.notes,
        train_labels=train.references,
        embedder=embedder,
        split=options.split,
        dataset=_facts(dataset),
        decoding={
            "method": predictor.decode,
            "max_new_tokens": predictor.recipe.arguments.max_new_tokens if policy is None else None,
            "left_out_mass": predictor.scorer.left_out_mass if policy else None,
            "left_out_share": left_out,
        },
        seeds=_seeds(predictor),
        validation_rows=validation,
        validation_systems=validated,
        calibration=calibration,
        targets=[choice.target_accuracy for choice in policy.thresholds] if policy else TARGETS,
    )
    predictions = predictions_table(rows, systems, dataset.access)
    return Evaluated(metrics, predictions, policy)


def evaluate_reports(
    predictor: ReportPredictor,
    dataset: PreparedDataset,
    options: EvaluationOptions,
    progress: Progress,
    is_main_process: bool,
) -> Evaluated | None:
    """Reports: the model with and without its guard, the base on a sample, two baselines; arguments as for [`evaluate`].

    Raises:
        [`InputError`]: a target accuracy or a similarity model, which only labels have.
    """
    for name in ("target_accuracy", "similarity_model"):
        if getattr(options, name) is not None:
            raise InputError("is for tasks that choose a label; leave it out", f"--{name.replace('_', '-')}")
    task = predictor.task
    split = dataset.splits[options.split]
    split = split.select(range(min(len(split), options.max_rows or len(split))))
    rows, train = _report_rows(predictor, split), _report_rows(predictor, dataset.splits["train"])
    inputs = [task.inputs(row) for row in split]

    def written(title: str, asked: Sequence[Mapping[str, str]], write: Callable) -> Any:
        with progress(title, len(asked)) as advance:
            return write(asked, options.batch_size, advance)

    # The model, its guard, and the untuned base
    systems = {ADAPTER: written(ADAPTER, inputs, predictor.write)}
    guarded = written("guard", inputs, partial(predictor.guard, first_tries=systems[ADAPTER]))
    systems[ADAPTER_GUARDED] = [answer.report for answer in guarded]
    of_base = {}
    if not options.skip_base:
        # Evenly over the split, so that patients of all kinds are among them.
        places = np.linspace(0, len(inputs) - 1, min(BASE_REPORTS, len(inputs))).round().astype(int).tolist()
        base = written(BASE, [inputs[place] for place in places], partial(predictor.write, untuned=True))
        of_base[BASE] = [None] * len(inputs)
        for place, report in zip(places, base, strict=True):
            of_base[BASE][place] = report
    if not is_main_process:
        return None

    systems |= baseline_reports(train, rows, task.name) | of_base
    checks = check_reports(rows, systems, task.name)
    metrics = compute_report_metrics(
        rows,
        systems,
        task=task.name,
        split=options.split,
        dataset=_facts(dataset),
        decoding={
            "method": predictor.decode,
            "max_new_tokens": predictor.recipe.arguments.max_new_tokens,
            "tries": predictor.tries,
            "temperature": TEMPERATURE,
        },
        seeds=_seeds(predictor),
        checks=checks,
    )
    predictions = reports_table(rows, systems, dataset.access, task=task.name, checks=checks)
    return Evaluated(metrics, predictions)


def _label_rows(split: Dataset, limit: int | None) -> EvaluationRows:
    columns = split.to_dict()
    return EvaluationRows(*(columns[name][:limit] for name in ("id", "group", "note", "label")))


def _report_rows(predictor: ReportPredictor, split: Dataset) -> ReportRows:
    columns = split.to_dict()
    requests = [predictor.task.request(predictor.task.inputs(row)) for row in split]
    return ReportRows(columns["id"], columns["group"], requests, columns["findings"], columns["impression"])


def _facts(dataset: PreparedDataset) -> dict[str, str]:
    return {
        "name": dataset.manifest.get("name", dataset.folder.name),
        "access": dataset.access,
        "digest": dataset.digest,
    }


def _seeds(predictor: Predictor) -> dict[str, int]:
    return {"training": predictor.recipe.training.seed, "bootstrap": 0}
