"""One evaluation of a finished run: every system answers every row, which gives metrics and a table of predictions."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pandas as pd
from accelerate import PartialState

from radrecipes.access import access_of, strictest
from radrecipes.data.example import ACCEPTABLE, ACCEPTABLE_SEPARATOR
from radrecipes.data.label_sets import LabelSet
from radrecipes.data.prepared import PreparedDataset
from radrecipes.environment import describe_processor, hardware
from radrecipes.errors import InputError
from radrecipes.evaluation import Progress
from radrecipes.evaluation.embeddings import TextEmbedder
from radrecipes.evaluation.label_baselines import DEFAULT_ENCODER, NO_ENCODER, LabelBaselines
from radrecipes.evaluation.label_metrics import compute_metrics, predictions_table
from radrecipes.evaluation.label_systems import EvaluationRows, System, confident_answers, scored_system
from radrecipes.evaluation.linear_labeller import LinearLabeller
from radrecipes.evaluation.radeval_metrics import RadEvalMetrics
from radrecipes.evaluation.report_metrics import ImpressionEvaluation, ReportEvaluation
from radrecipes.evaluation.text_evaluation import ADAPTER, ADAPTER_GUARDED, BASE, TextEvaluation
from radrecipes.files import text_sha256
from radrecipes.inference.abstention import DecisionPolicy
from radrecipes.inference.predictors import LabelPredictor, Predictor, TextPredictor
from radrecipes.inference.predictors.text_predictor import TEMPERATURE
from radrecipes.inference.selective import DEFAULT_TARGET, TARGETS, choose_thresholds
from radrecipes.statistics import spread_evenly
from radrecipes.tasks import LabelTask, ReportWritingTask, TextTask
from radrecipes.tasks.impression import ImpressionTask

# A second labeller of reports; other judges are metrics of RadEval.
JUDGE, NO_JUDGE = "labeller", "none"
# The untuned base model seldom stops, so each of its texts takes as long as possible: a sample shows what it can do.
BASE_TEXTS = 64


@dataclass(frozen=True)
class EvaluationOptions:
    """Options of an evaluation; `target_accuracy` and `encoder` are for label tasks, `similarity_model` also for impressions."""

    split: str = "test"
    max_rows: int | None = None  # the first rows of each split
    batch_size: int = 32
    skip_base: bool = False
    target_accuracy: float | None = None
    similarity_model: str | None = None
    count_acceptable: bool = False  # labels: thresholds count acceptable answers as correct
    encoder: str | None = None  # to fine-tune, or "none"; by default all-MiniLM-L6-v2, unless it was trained from that
    judges: Sequence[str] | None = None  # reports: JUDGE, metrics of RadEval, or "none"; by default JUDGE


@dataclass(frozen=True)
class Evaluated:
    """The result of an evaluation: content of `metrics.json`, rows of `predictions.parquet`, and the policy for scored labels.

    `left_out` has the ids of the rows that the model cannot read, by split.
    """

    metrics: dict[str, Any]
    predictions: pd.DataFrame
    policy: DecisionPolicy | None = None
    left_out: Mapping[str, Sequence[str]] = field(default_factory=dict)


def evaluate(
    predictor: Predictor,
    dataset: PreparedDataset,
    options: EvaluationOptions,
    progress: Progress,
    is_main_process: bool = True,
) -> Evaluated | None:
    """Evaluate a finished run.

    If the predictor is shared, all processes call this with the same arguments: all answer, the main process computes the
    metrics and returns the result, the others return `None`.
    """
    predictor.task.check_dataset(dataset)
    _check_judges(predictor.task, options.judges)
    evaluate_family: Callable = evaluate_texts
    if isinstance(predictor.task, LabelTask):
        if options.target_accuracy and predictor.decode == "generate":
            raise InputError("needs probabilities; score the labels (--decode score)", "--target-accuracy")
        embedder = TextEmbedder(options.similarity_model)
        # Of the complete dataset, so that every model finds the same ones; now, because the encoder may be missing
        encoder = options.encoder or (
            NO_ENCODER if predictor.recipe.model.model_name_or_path == DEFAULT_ENCODER else None
        )
        baselines = LabelBaselines(predictor.task, dataset, embedder, encoder)
        evaluate_family = partial(evaluate_labels, baselines=baselines, embedder=embedder)
    dataset, left_out = _readable(predictor, dataset, options)
    evaluated = evaluate_family(predictor, dataset, options, progress, is_main_process)
    if evaluated is None:
        return None
    # Publishing compares it, so that only the evaluated weights are published.
    evaluated.metrics["adapter_sha256"] = predictor.adapter_sha256
    if left_out:
        evaluated.metrics["left_out"] = {split: len(ids) for split, ids in left_out.items()}
    return replace(evaluated, left_out=left_out)


def _readable(
    predictor: Predictor, dataset: PreparedDataset, options: EvaluationOptions
) -> tuple[PreparedDataset, dict[str, list[str]]]:
    """The dataset without the rows to evaluate that the model cannot read, and their ids by split."""
    splits, left_out = dict(dataset.splits), {}
    for name in dict.fromkeys([*["validation"] * isinstance(predictor.task, LabelTask), options.split]):
        split = splits[name].select(range(min(len(splits[name]), options.max_rows or len(splits[name]))))
        refusals = predictor.refusals([predictor.task.inputs(row) for row in split])
        ids = [row_id for row_id, reason in zip(split["id"], refusals, strict=True) if reason]
        if ids and len(ids) == len(split):
            raise InputError(f"none of the {len(ids)} rows of {name} can be read: {refusals[0]}", str(dataset.folder))
        if ids:
            left_out[name] = ids
            splits[name] = split.select([place for place, reason in enumerate(refusals) if not reason])
    return replace(dataset, splits=splits), left_out


def evaluate_labels(
    predictor: LabelPredictor,
    dataset: PreparedDataset,
    options: EvaluationOptions,
    progress: Progress,
    is_main_process: bool,
    baselines: LabelBaselines,
    embedder: TextEmbedder,
) -> Evaluated | None:
    """Label tasks: temperatures and thresholds fitted on validation, baselines; other arguments as for [`evaluate`]."""
    task, label_set = predictor.task, predictor.label_set
    train = label_rows(task, dataset, label_set, "train", None)
    validation, rows = (
        label_rows(task, dataset, label_set, split, options.max_rows) for split in ("validation", options.split)
    )
    if options.count_acceptable and not validation.accepted:
        raise InputError(
            "neither the label set nor a column of the dataset names acceptable labels; leave it out",
            "--count-acceptable",
        )
    systems, policy, left_out = _model_answers(predictor, dataset, options, progress, validation, rows)
    if not is_main_process:
        return None
    for name, found in baselines.scores(progress):
        scores = (found.of_labels(asked.notes, label_set.names) for asked in (validation, rows))
        facts = {"settings": found.settings, "cost": found.cost}
        systems[name] = scored_system(label_set, validation, next(scores), rows, next(scores), **facts)
    scored = predictor.decode != "generate"
    metrics = compute_metrics(
        rows,
        systems,
        task=task.name,
        label_set=label_set,
        train=train,
        validation=validation,
        embedder=embedder,
        **_about(predictor, dataset, options),
        decoding={
            "method": predictor.decode,
            "max_new_tokens": None if scored else predictor.recipe.arguments.max_new_tokens,
            "left_out_mass": predictor.scorer.left_out_mass if scored else None,
            "left_out_share": left_out,
        },
        targets=_targets(options),
        count_acceptable=options.count_acceptable,
    )
    table = predictions_table(rows, systems, _access(predictor, dataset), task.input_column)
    return Evaluated(metrics, table, policy)


def _targets(options: EvaluationOptions) -> list[float]:
    return sorted({*TARGETS, options.target_accuracy or DEFAULT_TARGET})


def _model_answers(
    predictor: LabelPredictor,
    dataset: PreparedDataset,
    options: EvaluationOptions,
    progress: Progress,
    validation: EvaluationRows,
    rows: EvaluationRows,
) -> tuple[dict[str, System], DecisionPolicy | None, float | None]:
    """The model with and without its trained weights; temperature and thresholds come from the validation split.

    If it scores labels, also the policy, and the fraction of labels whose score is a bound.
    """

    def answered(answer: Callable, to: EvaluationRows, title: str) -> tuple[Any, dict[str, Any]]:
        inputs = [{predictor.task.input_column: note} for note in to.notes]
        start = time.perf_counter()
        with progress(title, len(inputs)) as advance:
            answers = answer(inputs, options.batch_size, advance)
        processes = PartialState().num_processes if predictor.shared else 1
        speed = round(len(inputs) / (time.perf_counter() - start), 2)
        return answers, {"rows_per_second": speed, "answered_on": describe_processor(hardware(), processes)}

    training, manifest = predictor.manifest["training"], predictor.manifest
    trained_on = describe_processor(manifest["hardware"], training["processes"])
    cost = {"training_seconds": training["seconds"], "trained_on": trained_on}
    systems, policy, left_out = {}, None, None
    if predictor.decode != "generate":
        of_validation, _ = answered(predictor.score, validation, "validation")
        scores, speed = answered(predictor.score, rows, ADAPTER)
        left_out = float(scores.left_out.mean())
        found = of_validation.log_likelihoods, rows, scores.log_likelihoods
        systems[ADAPTER] = scored_system(predictor.label_set, validation, *found, cost=cost | speed)
        policy = _decision_policy(predictor, dataset, options, validation, systems[ADAPTER])
    else:
        outputs, speed = answered(predictor.answer, rows, ADAPTER)
        systems[ADAPTER] = System(outputs, facts={"cost": cost | speed})
    if predictor.has_base and not options.skip_base:
        _ = predictor.untuned_model  # loaded before the time is taken
        outputs, speed = answered(partial(predictor.answer, untuned=True), rows, BASE)
        systems[BASE] = System(outputs, facts={"cost": {"training_seconds": None, "trained_on": None} | speed})
    return systems, policy, left_out


def _decision_policy(
    predictor: LabelPredictor,
    dataset: PreparedDataset,
    options: EvaluationOptions,
    validation: EvaluationRows,
    system: System,
) -> DecisionPolicy:
    """Temperature and thresholds of the model; an [`InputError`] if validation does not support the given target accuracy."""
    answers = confident_answers(validation, system.validation, options.count_acceptable)
    policy = DecisionPolicy(
        temperature=system.facts["calibration"]["temperature"],
        thresholds=tuple(choose_thresholds(answers, _targets(options), predictor.label_set.always_review)),
        target_accuracy=options.target_accuracy or DEFAULT_TARGET,
        adapter_sha256=predictor.adapter_sha256,
        label_set_sha256=text_sha256(predictor.label_set.text),
        prompt_sha256=predictor.prompt_sha256,
        dataset_digest=dataset.digest,
        rows=len(validation.ids),
        groups=len(set(validation.groups)),
    )
    if options.target_accuracy:
        policy.threshold_for(options.target_accuracy)
    return policy


def evaluate_texts(
    predictor: TextPredictor,
    dataset: PreparedDataset,
    options: EvaluationOptions,
    progress: Progress,
    is_main_process: bool,
) -> Evaluated | None:
    """Text tasks: the model with and without its guard, the base model on a sample, baselines; arguments as for [`evaluate`]."""
    task = predictor.task
    kind = _text_evaluation(task)
    of_labels = ("target_accuracy", "count_acceptable", "encoder")
    for name in (*of_labels, *([] if kind.needs_embedder else ["similarity_model"])):
        if getattr(options, name):
            raise InputError("is for tasks that choose a label; leave it out", f"--{name.replace('_', '-')}")
    rows = kind(task, dataset.splits[options.split].to_list()[: options.max_rows])
    # Before the work, because a model may be missing
    embedder = TextEmbedder(options.similarity_model) if kind.needs_embedder else None
    if isinstance(rows, ReportEvaluation):
        _appoint(rows, options.judges)
    inputs = rows.inputs

    def written(title: str, asked: Sequence[Mapping[str, str]], write: Callable) -> Any:
        with progress(title, len(asked)) as advance:
            return write(asked, options.batch_size, advance)

    # The model, its guard, and the untuned base model
    systems = {ADAPTER: written(ADAPTER, inputs, predictor.generate)}
    guarded = written("guard", inputs, partial(predictor.guard, first_tries=systems[ADAPTER]))
    systems[ADAPTER_GUARDED] = [answer.written for answer in guarded]
    of_base = {}
    if not options.skip_base:
        places = spread_evenly(len(inputs), BASE_TEXTS)
        base = written(BASE, [inputs[place] for place in places], partial(predictor.generate, untuned=True))
        of_base[BASE] = [None] * len(inputs)
        for place, text in zip(places, base, strict=True):
            of_base[BASE][place] = text
    if not is_main_process:
        return None

    train, validation = (kind(task, dataset.splits[split].to_list()) for split in ("train", "validation"))
    baselines = train.baselines(validation, embedder)
    systems |= baselines.write(rows) | of_base
    checks = rows.checks(systems)
    metrics = rows.metrics(
        systems,
        checks,
        **_about(predictor, dataset, options),
        decoding={
            "method": predictor.decode,
            "max_new_tokens": predictor.recipe.arguments.max_new_tokens,
            "tries": predictor.tries,
            "temperature": TEMPERATURE,
        },
        unseen=rows.unseen(train),
        best_baseline=validation.best_baseline(baselines),
        baseline_settings=baselines.settings,
    )
    return Evaluated(metrics, rows.table(systems, checks, _access(predictor, dataset)))


def _check_judges(task: TextTask | LabelTask, judges: Sequence[str] | None) -> None:
    if judges and not isinstance(task, ReportWritingTask):
        raise InputError("is for tasks that write reports; leave it out", "--judges")
    if judges and NO_JUDGE in judges and len(set(judges)) > 1:
        raise InputError(f"{NO_JUDGE} excludes others; leave it out", "--judges")


def _appoint(rows: ReportEvaluation, judges: Sequence[str] | None) -> None:
    """Load the judges of reports."""
    chosen = dict.fromkeys((JUDGE,) if judges is None else judges)
    if JUDGE in chosen:
        rows.labeller = LinearLabeller()
    if metrics := [name for name in chosen if name not in (JUDGE, NO_JUDGE)]:
        rows.radeval = RadEvalMetrics(metrics)


def _text_evaluation(task: TextTask) -> type[TextEvaluation]:
    if not isinstance(task, ReportWritingTask):
        return TextEvaluation
    return ImpressionEvaluation if isinstance(task, ImpressionTask) else ReportEvaluation


def label_rows(
    task: LabelTask, dataset: PreparedDataset, label_set: LabelSet, split: str, limit: int | None
) -> EvaluationRows:
    """The rows of a split with the answers that are acceptable to each, if labels or rows name some."""
    columns = dataset.splits[split].to_dict()
    names = ("id", "group", task.input_column, task.target_column)
    slices = {name: columns[name][:limit] for name in dataset.manifest.get("slice_columns", [])}
    rows = EvaluationRows(*(columns[name][:limit] for name in names), slices)
    cells = columns[ACCEPTABLE][:limit] if ACCEPTABLE in columns else None
    if cells is None and not any(label.acceptable for label in label_set.labels):
        return rows
    of_rows = [map(str.strip, cell.split(ACCEPTABLE_SEPARATOR)) for cell in cells or [""] * len(rows.references)]
    pairs = zip(rows.references, of_rows, strict=True)
    return replace(
        rows, accepted=[label_set.accepted[reference].union(filter(None, names)) for reference, names in pairs]
    )


def _access(predictor: Predictor, dataset: PreparedDataset) -> str:
    """The access class of the answers: a model may recite its training texts to any input."""
    return strictest(access_of(predictor.manifest), dataset.access)


def _about(predictor: Predictor, dataset: PreparedDataset, options: EvaluationOptions) -> dict[str, Any]:
    name = dataset.manifest.get("name", dataset.folder.name)
    return {
        "split": options.split,
        "dataset": {"name": name, "access": dataset.access, "digest": dataset.digest},
        "seeds": {"training": predictor.recipe.training.seed, "bootstrap": 0},
    }
