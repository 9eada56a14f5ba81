"""A finished run, loaded to answer: base, adapter, tokenizer, prompt, label set and thresholds as they were fitted."""

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from radrecipes import models, run_folder
from radrecipes.abstention import POLICY_FILE, DecisionPolicy, decide
from radrecipes.calibration import calibration_figures, fit_temperature, label_probabilities
from radrecipes.data.label_sets import LabelSet
from radrecipes.data.prepared import LABEL_SET_FILE
from radrecipes.errors import InputError
from radrecipes.evaluation import SystemOutput
from radrecipes.inference import generate
from radrecipes.label_scoring import LabelScorer, LabelScores
from radrecipes.recipe import parse_recipe
from radrecipes.selective import DEFAULT_TARGET, TARGETS, ConfidentAnswers, choose_thresholds
from radrecipes.tasks import TASKS
from radrecipes.tasks.rendering import prompt_template_digest, render_completions, render_prompt

NO_THRESHOLD = "no threshold was fitted"
NOT_CALIBRATED = "label was added after the thresholds were fitted"


class Predictor:
    """Answers to inputs, by a run's adapter or by its untuned base.

    Args:
        folder (`str` or `Path`):
            A finished run, or its `adapter` folder.
        allow_other_weights (`bool`, *optional*, defaults to `False`):
            Load the adapter onto base weights of another hash than it was trained on.
        label_set (`str` or `Path`, *optional*):
            A label set to score instead of the adapter's; it must hold all of its labels and may hold more.
        target_accuracy (`float`, *optional*):
            Which of the fitted thresholds decides; left out, the policy's own.
        decode (`str`, *optional*):
            `"score"` or `"generate"`; left out, the recipe's.
        load_policy (`bool`, *optional*, defaults to `True`):
            Read the fitted temperature and thresholds; not before they are fitted anew.

    Raises:
        [`InputError`]: no finished run, other base weights, another base, another prompt template than in training, a label set
            that changed or lacks a label of the adapter, thresholds of another model, or a target accuracy that was not fitted.
    """

    def __init__(
        self,
        folder: str | Path,
        allow_other_weights: bool = False,
        label_set: str | Path | None = None,
        target_accuracy: float | None = None,
        decode: str | None = None,
        load_policy: bool = True,
    ):
        folder = Path(folder)
        self.folder = folder.parent if (folder / "adapter_config.json").is_file() else folder
        self.manifest = run_folder.read_manifest(self.folder)
        self.recipe = parse_recipe(self.folder / "recipe.yaml")
        self.decode = decode or self.recipe.arguments.decode
        self.task = TASKS[self.recipe.arguments.task]
        self._check_base(allow_other_weights)
        self.trained_label_set = self._own_label_set()
        self.label_set = self.trained_label_set if label_set is None else self._other_label_set(label_set)
        self.tokenizer = models.load_tokenizer(self.recipe.model, self.recipe.training.chat_template_path)
        self.stops = models.stop_token_ids(self.tokenizer)
        self.style = self.recipe.arguments.prompt_style
        self.prompt_sha256 = prompt_template_digest(self.task, self.tokenizer, self.style)
        if self.prompt_sha256 != self.manifest["prompt"]["sha256"]:
            raise InputError(
                "the prompt template is another one than in training (instruction or chat template); train again",
                str(self.folder),
            )
        self.adapter_sha256 = models.adapter_digest(self.folder / "adapter")
        self.policy = self._policy() if load_policy else None
        self.threshold = self._threshold(target_accuracy)
        self._load_model()

    @property
    def fingerprint(self) -> str:
        """sha256 of everything that decides an answer beside the note: adapter, base, prompt, labels, thresholds, decoding."""
        parts = {
            "adapter": self.adapter_sha256,
            "base": self.manifest["base"]["weights_sha256"],
            "prompt": self.prompt_sha256,
            "label_set": self.label_set.text,
            "temperature": self.policy.temperature if self.policy else 1.0,
            "threshold": self.threshold,
            "decode": self.decode,
            "max_new_tokens": self.recipe.arguments.max_new_tokens,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def added_labels(self) -> set[str]:
        """Labels that the adapter was not trained on."""
        return set(self.label_set.names) - set(self.trained_label_set.names)

    @cached_property
    def scorer(self) -> LabelScorer:
        """Scores the label set with the adapter."""
        return self._new_scorer()

    @cached_property
    def untuned_scorer(self) -> LabelScorer:
        """Scores the label set with the untuned base, of which only the best label is of interest.

        Its doubts are spread wide, which makes it slow; the best of n labels holds at least 1/n, so what cannot hold a tenth of
        that is left out.
        """
        return self._new_scorer(left_out_mass=0.1 / len(self.label_set.names))

    def _new_scorer(self, **options) -> LabelScorer:
        completions = render_completions(self.task, self.label_set.names, self.tokenizer, self.style, self.stops)
        return LabelScorer(self.model, self.tokenizer, completions, **options)

    def answer(
        self,
        inputs: Sequence[dict[str, str]],
        batch_size: int = 32,
        untuned: bool = False,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[SystemOutput]:
        """Answers, each with its probability and decision where labels are scored.

        Args:
            inputs (`Sequence[dict[str, str]]`):
                Input columns of each row, for example `{"note": "..."}`.
            batch_size (`int`, *optional*, defaults to `32`):
                Rows a batch.
            untuned (`bool`, *optional*, defaults to `False`):
                Answer with the base model, the adapter switched off.
            on_progress (`Callable[[int], None]`, *optional*):
                Called after every batch with the number of rows done in it.

        Returns:
            `list[SystemOutput]`: one a row, in order. Without a fitted threshold `automatic` is `None`.
        """
        if self.decode == "generate":
            return self._generate(inputs, batch_size, untuned, on_progress)
        scores = self.score(inputs, batch_size, untuned, on_progress)
        return self.decided(self.probabilities(scores))

    def score(
        self,
        inputs: Sequence[dict[str, str]],
        batch_size: int = 32,
        untuned: bool = False,
        on_progress: Callable[[int], None] | None = None,
    ) -> LabelScores:
        """Log-likelihood of every label of the label set; the arguments are those of [`answer`].

        Returns:
            [`~label_scoring.LabelScores`]: columns in the order of `label_set.names`.
        """
        scorer = self.untuned_scorer if untuned else self.scorer
        return self._with(untuned, lambda: scorer.score(self.prompts(inputs), batch_size, on_progress))

    def fit_policy(
        self,
        scores: LabelScores,
        references: Sequence[str],
        groups: Sequence[str],
        dataset_digest: str,
        targets: Sequence[float] = TARGETS,
        target_accuracy: float = DEFAULT_TARGET,
    ) -> DecisionPolicy:
        """Fit temperature and thresholds on validation rows; from then on answers are decided by them.

        Args:
            scores ([`~label_scoring.LabelScores`]):
                What [`score`] gave for the rows.
            references (`Sequence[str]`):
                The right label of each.
            groups (`Sequence[str]`):
                Patient, order or scenario of each.
            dataset_digest (`str`):
                Digest of the dataset that they are from.
            targets (`Sequence[float]`, *optional*, defaults to `(0.90, 0.95, 0.98)`):
                Target accuracies to choose a threshold for.
            target_accuracy (`float`, *optional*, defaults to 0.95):
                The target that decides from then on; one of `targets`.

        Returns:
            [`~abstention.DecisionPolicy`]
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
        """Probabilities of the labels, shape `(rows, labels)`, at the fitted temperature; at 1 where none was fitted."""
        return label_probabilities(scores.log_likelihoods, self.policy.temperature if self.policy else 1.0)

    def calibration(self, scores: LabelScores, references: Sequence[str]) -> dict[str, Any]:
        """How far the probabilities can be taken at their word, before and after the fitted temperature.

        Args:
            scores ([`~label_scoring.LabelScores`]):
                What [`score`] gave for rows that nothing was fitted on.
            references (`Sequence[str]`):
                The right label of each.

        Returns:
            `dict`: `temperature`, `before` and `after` (as of [`~calibration.calibration_figures`]) and `fitted_on`.
        """
        right = self._indices(references)
        return {
            "temperature": self.policy.temperature,
            "before": calibration_figures(label_probabilities(scores.log_likelihoods), right),
            "after": calibration_figures(self.probabilities(scores), right),
            "fitted_on": {"split": "validation", "rows": self.policy.rows, "groups": self.policy.groups},
        }

    def decided(self, probabilities: np.ndarray) -> list[SystemOutput]:
        """Probabilities of the labels as answers with decisions.

        Args:
            probabilities (`np.ndarray` of shape `(rows, labels)`):
                At the policy's temperature.

        Returns:
            `list[SystemOutput]`: one a row.
        """
        always_review = self.label_set.always_review | self.added_labels
        threshold = np.inf if self.threshold is None else self.threshold
        outputs = []
        for decision in decide(probabilities, self.label_set.names, threshold, always_review):
            reason = decision.reason
            if decision.label in self.added_labels:
                reason = NOT_CALIBRATED
            elif self.threshold is None:
                reason = NO_THRESHOLD
            outputs.append(
                SystemOutput(
                    decision.label,
                    decision.label,
                    confidence=decision.probability,
                    top=decision.top,
                    automatic=decision.automatic if self.threshold is not None else None,
                    review_reason=reason,
                )
            )
        return outputs

    def _load_model(self) -> None:
        base = models.load_base(self.recipe.model)
        if not getattr(base, "is_quantized", False):  # quantised weights are placed as they are loaded
            base.to(models.inference_device())
        self.model = models.load_adapter(base, self.folder / "adapter", self.recipe.model.model_name_or_path)

    def _generate(self, inputs, batch_size, untuned, on_progress) -> list[SystemOutput]:
        """Greedy answers; what is written freely has no probability over the label set."""
        prompts, longest = self.prompts(inputs), self.recipe.arguments.max_new_tokens
        written = self._with(
            untuned,
            lambda: generate(self.model, self.tokenizer, prompts, self.stops, longest, batch_size, on_progress),
        )
        return [
            SystemOutput(
                answer.text, self.task.read_output(answer.text, self.label_set), answer.stopped, answer.tokens
            )
            for answer in written
        ]

    def _with(self, untuned: bool, work: Callable):
        """Run with the adapter, or with it switched off."""
        if not untuned:
            return work()
        with self.model.disable_adapter():
            return work()

    def _indices(self, labels: Sequence[str]) -> np.ndarray:
        places = {name: index for index, name in enumerate(self.label_set.names)}
        return np.array([places[label] for label in labels])

    def prompts(self, inputs: Sequence[dict[str, str]]) -> list[list[int]]:
        """Token ids of the prompts that the model reads."""
        return [render_prompt(self.task, row, self.tokenizer, self.style) for row in inputs]

    def _check_base(self, allow_other_weights: bool) -> None:
        model_id = self.recipe.model.model_name_or_path
        trained_on, present = self.manifest["base"]["weights_sha256"], models.weights_digest(model_id)
        if trained_on and present != trained_on and not allow_other_weights:
            raise InputError(
                f"the adapter was trained on other weights of {model_id} (sha256 {trained_on[:12]}, here "
                f"{present[:12] if present else 'the Hub'}); restore them, or accept it with --allow-other-weights",
                str(self.folder),
            )

    def _own_label_set(self) -> LabelSet:
        path = self.folder / "adapter" / LABEL_SET_FILE
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
        if not (self.folder / "adapter" / POLICY_FILE).is_file():
            return None
        return DecisionPolicy.load(self.folder / "adapter", self.adapter_sha256, self.prompt_sha256)

    def _threshold(self, target_accuracy: float | None) -> float | None:
        """The threshold in force; `None` where none was fitted, or validation cannot support the policy's own target."""
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
