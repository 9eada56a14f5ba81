"""Answers of a label task, with probabilities and decisions if labels are scored."""

import itertools
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from radrecipes.data.label_sets import LabelSet
from radrecipes.data.prepared import LABEL_SET_FILE
from radrecipes.errors import InputError
from radrecipes.files import file_sha256
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
from radrecipes.inference.calibration import label_probabilities
from radrecipes.inference.head_scoring import HeadScorer
from radrecipes.inference.label_scoring import LabelScorer
from radrecipes.inference.predictors.predictor import Predictor
from radrecipes.inference.prompt_scorer import LabelScores, PromptScorer
from radrecipes.models.base import check_token_ids
from radrecipes.tasks.label_task import LabelTask
from radrecipes.tasks.rendering import render_completions


class LabelPredictor(Predictor):
    """Predicts labels with a run's weights or its untuned base model.

    Args:
        folder, allow_other_weights, engine: As for [`Predictor`].
        label_set: A label set to score instead of the run's; it must contain all of its labels and may contain more.
        target_accuracy: Which of the fitted thresholds decides; by default the policy's own.
        decode: `"score"` or `"generate"`; by default the recipe's, and a run with a classification head has no other.
        load_policy: Read the fitted temperature and thresholds; `False` if they are about to be fitted again.

    Raises:
        [`InputError`]: as [`Predictor`]; a label set that changed or lacks a label of the run, or has more than a head was
            trained on; thresholds of another model, a target accuracy that was not fitted, or scoring with vLLM.
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
        own = self.recipe.arguments.decode
        if self.recipe.has_head and decode not in (None, own):
            raise InputError(
                "the run has a classification head, which can only choose; leave it out", f"--decode {decode}"
            )
        self.decode = decode or own
        self.has_base = not self.recipe.has_head
        self.counted_column = "label" if self.decode == "generate" else "decision"
        if engine == "vllm" and self.decode != "generate":
            raise InputError(
                f"vLLM generates only, and the recipe scores labels (decode: {self.decode}); leave --engine out",
                "--engine vllm",
            )
        path = self.weights.folder / LABEL_SET_FILE
        self.trained_label_set = LabelSet.load(path)
        if file_sha256(path) != self.manifest["data"]["label_set_sha256"]:
            raise InputError("changed since training; restore it, or train again", str(path))
        self.label_set = self.trained_label_set if label_set is None else self._other_label_set(label_set)
        # There is none before the first evaluation.
        self.policy = None
        if load_policy and (self.weights.folder / POLICY_FILE).is_file():
            self.policy = DecisionPolicy.load(self.weights.folder, self.adapter_sha256, self.prompt_sha256)
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
    def scorer(self) -> PromptScorer:
        """Scores the label set with the fine-tuned model."""
        if self.recipe.has_head:
            places = {name: index for index, name in enumerate(self.trained_label_set.names)}
            return HeadScorer(self.model, self.tokenizer, [places[name] for name in self.label_set.names])
        return self._new_scorer(self.model)

    @cached_property
    def untuned_scorer(self) -> LabelScorer:
        """Scores the label set with the untuned base model, of which only the best label matters.

        Its probability is spread widely, which makes it slow; the best of n labels has at least 1/n, so branches that cannot
        contain a tenth of that are pruned.
        """
        return self._new_scorer(self.untuned_model, left_out_mass=0.1 / len(self.label_set.names))

    def _head_labels(self) -> list[str] | None:
        return self.trained_label_set.names if self.recipe.has_head else None

    def _new_scorer(self, model: PreTrainedModel, **options) -> LabelScorer:
        completions = render_completions(self.task, self.label_set.names, self.tokenizer, self.style, self.stops)
        ids = itertools.chain.from_iterable(completions)
        check_token_ids(ids, self._config, self.recipe.model.model_name_or_path)
        return LabelScorer(model, self.tokenizer, completions, **options)

    def answer(
        self,
        inputs: Sequence[dict[str, str]],
        batch_size: int = 32,
        on_progress: Callable[[int], None] | None = None,
        untuned: bool = False,
    ) -> list[SystemOutput]:
        """See [`Predictor`]; `untuned` answers with the base model. Without a fitted threshold `automatic` is `None`."""
        if self.decode == "generate":  # generated text has no probability over the label set
            written = self.generate(inputs, batch_size, on_progress, untuned)
            labels = [self.task.read_output(it.text, self.label_set) for it in written]
            return [
                SystemOutput(it.text, label, it.stopped, it.generated_tokens)
                for it, label in zip(written, labels, strict=True)
            ]
        scores = self.score(inputs, batch_size, on_progress, untuned)
        if untuned:  # temperature and threshold were fitted for the trained weights
            return decide(label_probabilities(scores.log_likelihoods), self.label_set.names, None)
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
        with self._answering(untuned):
            return scorer.score(self.readable_prompts(inputs), batch_size, on_progress, self.shared)

    @property
    def longest_prompt(self) -> float:
        """See [`Predictor`]: a scored label must fit behind the prompt, which a head reads alone."""
        if self.decode == "generate":
            return super().longest_prompt
        if self.recipe.has_head:
            return self.positions
        longest_label = max(map(len, self.scorer.completions))
        return min(self.positions - longest_label, self.scorer.longest_prompt)

    def probabilities(self, scores: LabelScores) -> np.ndarray:
        """Probabilities of shape `(rows, labels)` at the fitted temperature, or at 1 if none was fitted."""
        return label_probabilities(scores.log_likelihoods, self.policy.temperature if self.policy else 1.0)

    def decided(self, probabilities: np.ndarray) -> list[SystemOutput]:
        """Answers with decisions from probabilities of shape `(rows, labels)` at the policy's temperature."""
        names, reviewed = self.label_set.names, self.label_set.always_review
        without_threshold = UNSUPPORTED_TARGET if self.policy else NOT_EVALUATED
        return decide(probabilities, names, self.threshold, reviewed, self.added_labels, without_threshold)

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
        if self.recipe.has_head and (
            added := [name for name in label_set.names if name not in self.trained_label_set.names]
        ):
            raise InputError(
                f"has {len(added)} labels that the classification head was not trained on, first {added[0]!r}; only a run with "
                "`decode: score` takes new labels",
                str(path),
            )
        return label_set

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

    def summary(self, table_counts: dict[str | None, int]) -> str:
        """See [`Predictor`]."""
        if self.decode == "generate":
            return f"{table_counts.get(None, 0):,} of them without a label from the label set (empty column `label`)"
        return ", ".join(f"{table_counts.get(decision, 0):,} {decision}" for decision in (AUTO, NEEDS_REVIEW))

    def as_text(self, answer: SystemOutput) -> str:
        """See [`Predictor`]."""
        lines = [answer.label or f"no label from the label set; the model wrote: {answer.text}"]
        if answer.confidence is not None:
            reason = f" ({answer.review_reason})" if answer.review_reason else ""
            lines.append(f"probability {answer.confidence:.3f}; {_decision(answer)}{reason}")
            lines.append("top: " + ", ".join(f"{label} {probability:.3f}" for label, probability in answer.top))
        return "\n".join(lines)

    def answer_columns(self, answers: Sequence[SystemOutput]) -> dict[str, list]:
        """See [`Predictor`]: `label`, missing if a generated text names none, and that text as `answer`; or, of a scored label,
        `probability` (6 decimals), `decision`, `reason` and the three most probable labels, missing if the set has fewer.
        """
        columns: dict[str, list] = {"label": [answer.label for answer in answers]}
        if self.decode == "generate":
            return columns | {"answer": [answer.text for answer in answers]}
        columns["probability"] = [round(answer.confidence, 6) for answer in answers]
        columns["decision"] = [_decision(answer) for answer in answers]
        columns["reason"] = [answer.review_reason for answer in answers]
        for place in range(3):
            best = [answer.top[place] if place < len(answer.top) else (None, None) for answer in answers]
            columns[f"top_{place + 1}"] = [label for label, _ in best]
            columns[f"top_{place + 1}_probability"] = [value and round(value, 6) for _, value in best]
        return columns


def _decision(answer: SystemOutput) -> str:
    """`"auto"` or `"NEEDS_REVIEW"`; the latter if there is no threshold."""
    return AUTO if answer.automatic else NEEDS_REVIEW
