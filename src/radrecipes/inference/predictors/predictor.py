"""A finished run, loaded for prediction: base model, weights, tokenizer and prompt, each compared with those of training."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
from transformers import PreTrainedConfig, PreTrainedModel

from radrecipes.data.example import Example
from radrecipes.errors import InputError
from radrecipes.inference import vllm_engine
from radrecipes.inference.answers import WrittenText
from radrecipes.inference.generation import Sampling, generate, positions_of
from radrecipes.models.base import (
    base_on_meta,
    check_token_ids,
    inference_device,
    load_base,
    load_config,
    load_tokenizer,
    stop_token_ids,
    weights_digest,
)
from radrecipes.tasks.rendering import prompt_template_digest, prompts_with_control_tokens, render_prompts
from radrecipes.training import run_folder


class Predictor(ABC):
    """What the predictors of all families share. A subclass checks its own arguments, then calls `_load_model`.

    Args:
        folder: A finished run, the folder of its weights, or a release on the Hub, `org/name@v1.0`.
        allow_other_weights: Accept base weights with a different hash than in training.
        engine: Generates the texts; one of `ENGINES`.

    Attributes:
        counted_column: Column of [`answers_table`] whose values are counted for [`summary`].
        shared: Whether all processes of a job make the same calls, so that each answers some of the batches; set by the caller.

    Raises:
        [`InputError`]: not a finished run, or its base model, base weights or prompt template differ from training.
    """

    counted_column: str
    has_base = True  # whether the base model can answer without fine-tuning

    def __init__(self, folder: str | Path, allow_other_weights: bool = False, engine: str = "transformers"):
        self.folder, self.recipe, self.task = run_folder.run_of(folder)
        self.weights = run_folder.weights_of(self.folder)
        self.manifest = run_folder.read_manifest(self.folder)
        self.engine = engine
        self.shared = False
        self._rendered: tuple[list, list[list[int]]] = [], []
        self._allow_other_weights = allow_other_weights
        if self.weights.needs_base:
            self._check_base()
        self.tokenizer = load_tokenizer(self.recipe.model, self.recipe.training.chat_template_path)
        self.stops = [] if self.recipe.has_head else stop_token_ids(self.tokenizer)
        model_id = self.recipe.model.model_name_or_path
        check_token_ids([*self.stops, self.tokenizer.pad_token_id], self._config, model_id)
        self.style = self.recipe.arguments.prompt_style
        self.prompt_sha256 = prompt_template_digest(self.task, self.tokenizer, self.style)
        if self.prompt_sha256 != self.manifest["prompt"]["sha256"]:
            raise InputError(
                "the prompt template differs from that of training (instruction or chat template); train again",
                str(self.folder),
            )
        self.weights.check(self.recipe.model)
        self.adapter_sha256 = self.weights.sha256

    @abstractmethod
    def answer(
        self,
        inputs: Sequence[dict[str, str]],
        batch_size: int = 32,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[Any]:
        """Answers to inputs from [`~tasks.task.Task.read_input`], in order.

        `on_progress` gets the number of rows done since its last call.
        """

    @abstractmethod
    def answer_columns(self, answers: Sequence[Any]) -> dict[str, list]:
        """What [`answers_table`] holds of answers: texts, and numbers in columns whose names end with `probability`."""

    @abstractmethod
    def summary(self, table_counts: dict[str | None, int]) -> str:
        """One sentence on a complete output, from the counts of its column `counted_column`."""

    @abstractmethod
    def as_text(self, answer: Any) -> str:
        """One answer as text for the terminal."""

    def answers_table(self, examples: Sequence[Example], answers: Sequence[Any], keep_input: bool) -> pa.Table:
        """The rows of an output file: `id`, the input if it is kept, and [`answer_columns`]."""
        columns: dict[str, list] = {"id": [example.id for example in examples]}
        if keep_input:
            columns[self.task.input_column] = [example.inputs[self.task.input_column] for example in examples]
        columns |= self.answer_columns(answers)
        # Explicit types: a chunk in which a column is empty must not differ from the others.
        schema = pa.schema((name, pa.float64() if name.endswith("probability") else pa.string()) for name in columns)
        return pa.table(columns, schema=schema)

    @property
    def fingerprint(self) -> str:
        """sha256 of everything that determines an answer, apart from the input."""
        return hashlib.sha256(json.dumps(self._decisive_parts(), sort_keys=True).encode()).hexdigest()

    def _decisive_parts(self) -> dict[str, Any]:
        base = self.manifest["base"]["weights_sha256"]
        if self._allow_other_weights:  # otherwise they are those of training
            base = weights_digest(self.recipe.model.model_name_or_path, self.recipe.model.model_revision)
        return {
            "adapter": self.adapter_sha256,
            "base": base,
            "prompt": self.prompt_sha256,
            "max_new_tokens": self.recipe.arguments.max_new_tokens,
        }

    def prompts(self, inputs: Sequence[dict[str, str]]) -> list[list[int]]:
        """Token ids of the prompts that the model reads."""
        if self._rendered[0] != inputs:  # otherwise they were just examined by `refusals`
            self._rendered = list(inputs), render_prompts(self.task, inputs, self.tokenizer, self.style)
        return self._rendered[1]

    @cached_property
    def positions(self) -> float:
        """Tokens that the base model reads at most, prompt and answer together."""
        return positions_of(self._config)

    @cached_property
    def _config(self) -> PreTrainedConfig:
        return load_config(self.recipe.model)

    @property
    def longest_prompt(self) -> float:
        """Tokens of the longest prompt that leaves room for an answer."""
        return self.positions - 1

    def refusals(self, inputs: Sequence[dict[str, str]]) -> list[str | None]:
        """Why each input cannot be answered, without quoting it; `None` if it can."""
        prompts = self.prompts(inputs)
        unsafe = prompts_with_control_tokens(prompts, self.task, self.tokenizer, self.style)
        return [
            "the text contains a control token of the model; remove it"
            if has_control_token
            else f"the prompt has {len(prompt):,} tokens, and the model reads {self.longest_prompt:,}; shorten the text"
            if len(prompt) > self.longest_prompt
            else "the tokenizer of the base model gives it a token that the model does not have; download the base model again"
            if max(prompt) >= self._config.vocab_size
            else None
            for prompt, has_control_token in zip(prompts, unsafe, strict=True)
        ]

    def readable_prompts(self, inputs: Sequence[dict[str, str]]) -> list[list[int]]:
        """[`prompts`], but an [`InputError`] if one cannot be answered; callers that may leave rows out ask [`refusals`]."""
        refused = [reason for reason in self.refusals(inputs) if reason]
        if refused:
            raise InputError(f"{len(refused)} of {len(inputs)} inputs cannot be answered (first: {refused[0]})")
        return self.prompts(inputs)

    def generate(
        self,
        inputs: Sequence[dict[str, str]],
        batch_size: int = 32,
        on_progress: Callable[[int], None] | None = None,
        untuned: bool = False,
        sampling: Sampling | None = None,
    ) -> list[WrittenText]:
        """What the model writes, greedily unless `sampling` is given; `untuned` writes with the base model without fine-tuning."""
        prompts = self.readable_prompts(inputs)
        longest = self.recipe.arguments.max_new_tokens
        if self.engine == "vllm":
            return self._vllm.generate(prompts, longest, on_progress, untuned, sampling)
        parts = self.tokenizer, prompts, self.stops, longest
        with self._answering(untuned) as model:
            return generate(model, *parts, batch_size, sampling, on_progress, self.shared)

    def _load_model(self) -> None:
        if self.engine == "vllm":
            self.weights.check_fit(base_on_meta(self.recipe.model), self.recipe.model)  # vLLM reads the files itself
            self._vllm = vllm_engine.VllmEngine(self.recipe, self.weights, self.stops)
            if self.weights.needs_base:
                self._check_base(loaded=True)
        else:
            base = (
                self._load_base() if self.weights.needs_base else base_on_meta(self.recipe.model, self._head_labels())
            )
            self.model = _placed(self.weights.load(base, self.recipe.model))

    def _load_base(self) -> PreTrainedModel:
        base = _placed(load_base(self.recipe.model, labels=self._head_labels()))
        self._check_base(loaded=True)
        return base

    def _head_labels(self) -> list[str] | None:
        """The labels of the run's classification head, in the order of its logits; `None` if it writes."""
        return None

    @cached_property
    def untuned_model(self) -> PreTrainedModel:
        """What answers like the base model within [`~models.weights.Weights.untuned`]: the model itself, or the base model."""
        return self.model if self.weights.needs_base else self._load_base()

    @contextmanager
    def _answering(self, untuned: bool) -> Iterator[PreTrainedModel]:
        """The fine-tuned model, or one that answers like the base model while the context is open."""
        if not untuned:
            yield self.model
            return
        with self.weights.untuned(self.untuned_model):
            yield self.untuned_model

    def _check_base(self, loaded: bool = False) -> None:
        """Compare the base model's weights with those of training; weights not yet downloaded are compared once loaded."""
        model_id, revision = self.recipe.model.model_name_or_path, self.recipe.model.model_revision
        trained_on = self.manifest["base"]["weights_sha256"]
        if not trained_on or self._allow_other_weights:
            return
        present = weights_digest(model_id, revision)
        if present is None and not loaded:
            return
        if present != trained_on:
            raise InputError(
                f"the run was trained on other weights of {model_id} (sha256 {trained_on[:12]}, here "
                f"{present[:12] if present else 'unknown'}); restore them, or use these with --allow-other-weights",
                str(self.folder),
            )


def _placed(model: PreTrainedModel) -> PreTrainedModel:
    """The model on the device of this process; quantised weights are placed while they are loaded."""
    return model if getattr(model, "is_quantized", False) else model.to(inference_device())
