"""Answers of a label task, with probabilities and decisions if labels are scored."""

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from radrecipes.data.example import Example
from radrecipes.data.label_sets import LabelSet
from radrecipes.data.prepared import LABEL_SET_FILE
from radrecipes.errors import InputError
from radrecipes.inference.abstention import (
    AUTO,
    NEEDS_REVIEW,
    NOT_EVALUATED,
    POLICY_FILE,
    UNSUPPORTED_TARGET,
    DecisionPolicy,
    decide,
)
from radrecipes.inference.answers import SystemOutput
from radrecipes.inference.calibration import calibration_metrics, fit_temperature, label_probabilities
from radrecipes.inference.label_scoring import LabelScorer, LabelScores
from radrecipes.inference.predictors.predictor import Predictor
from radrecipes.inference.selective import DEFAULT_TARGET, TARGETS, ConfidentAnswers, choose_thresholds
from radrecipes.tasks.label_task import LabelTask
from radrecipes.tasks.rendering import render_completions

_TOP = 3


class LabelPredictor(Predictor):
    """Predicts labels with a run's weights or its untuned base model.

    Args:
        folder, allow_other_weights, engine: As for [`Predictor`].
        label_set: A label set to score instead of the run's; it must contain all of its labels and may contain more.
        target_accuracy: Which of the fitted thresholds decides; by default the policy's own.
        decode: `"score"` or `"generate"`; by default the recipe's.
        load_policy: Read the fitted temperature and thresholds; `False` if they are about to be fitted again.

    Raises:
        [`InputError`]: as [`Predictor`]; a label set that changed or lacks a label of the run, thresholds of another model, a
            target accuracy that was not fitted, or scoring with vLLM.
    """

    OPTIONS = ("label_set", "target_accuracy", "decode", "load_policy")
    DOES = "chooses a label"
    task: LabelTask

    def __init__(
        self,
        folder: str | Path,
        allow_other_weights: bool = False,
        engine: str = "transformers",
        label_set: str | Path | None = None,
        target_accuracy: float | None = None,
        decode: str | None = None,
        load_policy: bool = True,
    ):
        super().__init__(folder, allow_other_weights, engine)
        self.decode = decode or self.recipe.arguments.decode
        if engine == "vllm" and self.decode != "generate":
            raise InputError(
                "vLLM generates only, and the recipe scores labels (decode: score); leave --engine out",
                "--engine vllm",
            )
        self.trained_label_set = self._own_label_set()
        self.label_set = self.trained_label_set if label_set is None else self._other_label_set(label_set)
        self.policy = self._policy() if load_policy else None
        self.threshold = self._threshold(target_accuracy)
        self._load_model()

    def _decisive_parts(self) -> dict[str, Any]:
        return super()._decisive_parts() | {
            "label_set": self.label_set.text,
            "temperature": self.policy.temperature if self.policy else 1.0,
            "threshold": self.threshold,
            "decode": self.decode,
        }

    @property
    def added_labels(self) -> set[str]:
        """Labels that the model was not trained on."""
        return set(self.label_set.names) - set(self.trained_label_set.names)

    @cached_property
    def scorer(self) -> LabelScorer:
        """Scores the label set with the fine-tuned model."""
        return self._new_scorer()

    @cached_property
    def untuned_scorer(self) -> LabelScorer:
        """Scores the label set with the untuned base model, of which only the best label matters.

        Its probability is spread widely, which makes it slow; the best of n labels has at least 1/n, so branches that cannot
        hold a tenth of that are pruned.
        """
        return self._new_scorer(left_out_mass=0.1 / len(self.label_set.names))

    def _new_scorer(self, **options) -> LabelScorer:
        completions = render_completions(self.task, self.label_set.names, self.tokenizer, self.style, self.stops)
        return LabelScorer(self.model, self.tokenizer, completions, **options)

    def answer(
        self,
        inputs: Sequence[dict[str, str]],
        batch_size: int = 32,
        on_progress: Callable[[int], None] | None = None,
        untuned: bool = False,
    ) -> list[SystemOutput]:
        """See [`Predictor`]; `untuned` answers with the base model. Without a fitted threshold `automatic` is `None`."""
        if self.decode == "generate":
            return self._written(inputs, batch_size, untuned, on_progress)
        scores = self.score(inputs, batch_size, on_progress, untuned)
        return self.decided(self.probabilities(scores))

    def score(
        self,
        inputs: Sequence[dict[str, str]],
        batch_size: int = 32,
        on_progress: Callable[[int], None] | None = None,
        untuned: bool = False,
    ) -> LabelScores:
        """Log-likelihood of every label, columns in the order of `label_set.names`; arguments as for [`answer`]."""
        scorer = self.untuned_scorer if untuned else self.scorer
        return self._with(untuned, lambda: scorer.score(self.prompts(inputs), batch_size, on_progress, self.shared))

    def fit_policy(
        self,
        scores: LabelScores,
        references: Sequence[str],
        groups: Sequence[str],
        dataset_digest: str,
        targets: Sequence[float] = TARGETS,
        target_accuracy: float = DEFAULT_TARGET,
    ) -> DecisionPolicy:
        """Fit temperature and thresholds on validation rows; they decide from then on.

        Args:
            scores: What [`score`] returned for the rows.
            groups: Patient, order or scenario of each row.
            dataset_digest: Digest of their dataset.
            target_accuracy: The one of `targets` that decides from then on.
        """
        names = self.label_set.names
        temperature = fit_temperature(scores.log_likelihoods, self._indices(references))
        probabilities = label_probabilities(scores.log_likelihoods, temperature)
        labels = [names[index] for index in probabilities.argmax(axis=1)]
        correct = np.array([label == reference for label, reference in zip(labels, references, strict=True)])
        answers = ConfidentAnswers(labels, probabilities.max(axis=1), correct, groups)
        self.policy = DecisionPolicy(
            temperature=temperature,
            thresholds=tuple(choose_thresholds(answers, targets, self.label_set.always_review)),
            target_accuracy=target_accuracy,
            adapter_sha256=self.adapter_sha256,
            label_set_sha256=hashlib.sha256(self.label_set.text.encode()).hexdigest(),
            prompt_sha256=self.prompt_sha256,
            dataset_digest=dataset_digest,
            rows=len(references),
            groups=len(set(groups)),
        )
        self.threshold = self._threshold(None)
        return self.policy

    def probabilities(self, scores: LabelScores) -> np.ndarray:
        """Probabilities of shape `(rows, labels)` at the fitted temperature, or at 1 if none was fitted."""
        return label_probabilities(scores.log_likelihoods, self.policy.temperature if self.policy else 1.0)

    def calibration(self, scores: LabelScores, references: Sequence[str]) -> dict[str, Any]:
        """Calibration before and after temperature scaling, from scores of rows that nothing was fitted on."""
        right = self._indices(references)
        return {
            "temperature": self.policy.temperature,
            "before": calibration_metrics(label_probabilities(scores.log_likelihoods), right),
            "after": calibration_metrics(self.probabilities(scores), right),
            "fitted_on": {"split": "validation", "rows": self.policy.rows, "groups": self.policy.groups},
        }

    def decided(self, probabilities: np.ndarray) -> list[SystemOutput]:
        """Answers with decisions from probabilities of shape `(rows, labels)` at the policy's temperature."""
        names, reviewed = self.label_set.names, self.label_set.always_review
        without_threshold = UNSUPPORTED_TARGET if self.policy else NOT_EVALUATED
        return decide(probabilities, names, self.threshold, reviewed, self.added_labels, without_threshold)

    def _written(self, inputs, batch_size, untuned, on_progress) -> list[SystemOutput]:
        """Greedy answers; generated text has no probability over the label set."""
        return [
            SystemOutput(
                written.text, self.task.read_output(written.text, self.label_set), written.stopped, written.tokens
            )
            for written in self.generate(inputs, batch_size, untuned, on_progress=on_progress)
        ]

    def _indices(self, labels: Sequence[str]) -> np.ndarray:
        places = {name: index for index, name in enumerate(self.label_set.names)}
        return np.array([places[label] for label in labels])

    def _own_label_set(self) -> LabelSet:
        path = self.adapter_folder / LABEL_SET_FILE
        label_set = LabelSet.load(path)
        if hashlib.sha256(path.read_bytes()).hexdigest() != self.manifest["data"]["label_set_sha256"]:
            raise InputError("changed since training; restore it, or train again", str(path))
        return label_set

    def _other_label_set(self, path: str | Path) -> LabelSet:
        label_set = LabelSet.load(path)
        missing = [name for name in self.trained_label_set.names if name not in label_set.names]
        if missing:
            near = label_set.suggest(missing[0])
            raise InputError(
                f"lacks {len(missing)} of the adapter's labels, first {missing[0]!r}"
                + (f" (it has {near!r})" if near else "")
                + "; labels can be added, not removed or renamed",
                str(path),
            )
        return label_set

    def _policy(self) -> DecisionPolicy | None:
        """The thresholds that were fitted for this adapter; `None` before the first evaluation."""
        if not (self.adapter_folder / POLICY_FILE).is_file():
            return None
        return DecisionPolicy.load(self.adapter_folder, self.adapter_sha256, self.prompt_sha256)

    def _threshold(self, target_accuracy: float | None) -> float | None:
        """The current threshold; `None` if none was fitted, or validation cannot support the policy's own target."""
        if target_accuracy is not None:
            if self.decode == "generate":
                raise InputError("--target-accuracy needs probabilities; score the labels (decode: score)")
            if self.policy is None:
                raise InputError(
                    "no thresholds were fitted yet; run scripts/evaluate_model.py --run on it first", str(self.folder)
                )
            return self.policy.threshold_for(target_accuracy)
        if self.policy is None:
            return None
        return next(
            choice.threshold
            for choice in self.policy.thresholds
            if choice.target_accuracy == self.policy.target_accuracy
        )

    @property
    def counted_column(self) -> str:
        """See [`Predictor`]."""
        return "label" if self.decode == "generate" else "decision"

    def summary(self, table_counts: dict[str | None, int]) -> str:
        """See [`Predictor`]."""
        if self.decode == "generate":
            return f"{table_counts.get(None, 0):,} of them no label of the label set (empty column `label`)"
        return ", ".join(f"{table_counts.get(decision, 0):,} {decision}" for decision in (AUTO, NEEDS_REVIEW))

    def as_text(self, answer: SystemOutput) -> str:
        """See [`Predictor`]."""
        lines = [answer.label or f"no label of the label set; the model wrote: {answer.text}"]
        if answer.confidence is not None:
            reason = f" ({answer.review_reason})" if answer.review_reason else ""
            lines.append(f"probability {answer.confidence:.3f}; {_decision(answer)}{reason}")
            lines.append("top: " + ", ".join(f"{label} {probability:.3f}" for label, probability in answer.top))
        return "\n".join(lines)

    def answers_table(
        self, examples: Sequence[Example], answers: Sequence[SystemOutput], keep_input: bool
    ) -> pa.Table:
        """See [`Predictor`], and [`label_answers_table`]."""
        return label_answers_table(examples, answers, self.decode, self.task.input_column if keep_input else None)


def label_answers_table(
    examples: Sequence[Example], answers: Sequence[SystemOutput], decode: str, kept_column: str | None
) -> pa.Table:
    """The output's rows for one chunk, with the input if its column is given.

    For `decode` `"score"` with `probability` (6 decimals), `decision`, `reason` and the three most probable labels (missing if
    the set has fewer); for `"generate"` with `answer`, the text as written (`label` is missing if it names none).
    """
    columns: dict[str, Any] = {"id": [example.id for example in examples]}
    if kept_column:
        columns[kept_column] = [example.inputs[kept_column] for example in examples]
    columns["label"] = [answer.label for answer in answers]
    if decode == "generate":
        columns["answer"] = [answer.text for answer in answers]
    else:
        columns["probability"] = [_rounded(answer.confidence) for answer in answers]
        columns["decision"] = [_decision(answer) for answer in answers]
        columns["reason"] = [answer.review_reason for answer in answers]
        for place in range(_TOP):
            best = [answer.top[place] if place < len(answer.top) else (None, None) for answer in answers]
            columns[f"top_{place + 1}"] = [label for label, _ in best]
            columns[f"top_{place + 1}_probability"] = [_rounded(probability) for _, probability in best]
    # Explicit types: a chunk in which a column is empty must not differ from the others.
    schema = pa.schema((name, pa.float64() if name.endswith("probability") else pa.string()) for name in columns)
    return pa.table(columns, schema=schema)


def _decision(answer: SystemOutput) -> str:
    """`"auto"` or `"NEEDS_REVIEW"`; the latter if there is no threshold."""
    return AUTO if answer.automatic else NEEDS_REVIEW


def _rounded(probability: float | None) -> float | None:
    return None if probability is None else round(float(probability), 6)
