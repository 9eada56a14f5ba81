"""A finished run, loaded for prediction: base model, weights, tokenizer and prompt, each compared with those of training."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from transformers.utils import CHAT_TEMPLATE_FILE

from radrecipes.data.example import Example
from radrecipes.errors import InputError
from radrecipes.hub.pull import pull
from radrecipes.inference import vllm_engine
from radrecipes.inference.answers import WrittenText
from radrecipes.inference.generation import Sampling, generate
from radrecipes.models.base import (
    base_without_weights,
    inference_device,
    load_base,
    load_config,
    load_tokenizer,
    stop_token_ids,
    weights_digest,
)
from radrecipes.recipe import Recipe, parse_recipe
from radrecipes.tasks import TASKS, Task
from radrecipes.tasks.rendering import prompt_template_digest, render_prompts
from radrecipes.training import run_folder


def run_of(run: str | Path) -> tuple[Path, Recipe, Task]:
    """The folder of a run, its recipe and its task; loads no weights.

    `run` is a finished run, its `adapter` folder, or a release on the Hub, `org/name@v1.0`, which is pulled and verified. A
    chat template that the recipe names is read from the run's tokenizer: the file may have changed since, and a release does
    not contain it.
    """
    folder = pull(str(run)) if is_reference(run) else Path(run)
    if (folder / "adapter_config.json").is_file() and not run_folder.is_release(folder):
        folder = folder.parent
    manifest = run_folder.read_manifest(folder)
    recipe = parse_recipe(folder / "recipe.yaml")
    if recipe.digest != manifest["recipe"]["digest"]:
        raise InputError("is not the recipe that was trained; restore it, or train again", str(folder / "recipe.yaml"))
    kept = run_folder.adapter_folder(folder) / CHAT_TEMPLATE_FILE
    if recipe.training.chat_template_path and kept.is_file():
        recipe.training.chat_template_path = str(kept)
    return folder, recipe, TASKS[recipe.arguments.task]


def is_reference(name: str | Path) -> bool:
    """Whether this names a release on the Hub rather than a local folder."""
    return isinstance(name, str) and "@" in name and not Path(name).exists()


class Predictor(ABC):
    """What the predictors of all families share. A subclass checks its own arguments, then calls `_load_model`.

    Args:
        folder: A finished run, its `adapter` folder, or a release on the Hub, `org/name@v1.0`.
        allow_other_weights: Accept base weights with a different hash than in training.
        engine: Generates the texts; one of `ENGINES`.

    Attributes:
        counted_column: Column of [`answers_table`] whose values are counted for [`summary`].
        shared: Whether all processes of a job make the same calls, so that each answers some of the batches; set by the caller.

    Raises:
        [`InputError`]: not a finished run, or its base model, base weights or prompt template differ from training.
    """

    counted_column: str

    def __init__(self, folder: str | Path, allow_other_weights: bool = False, engine: str = "transformers"):
        self.folder, self.recipe, self.task = run_of(folder)
        self.weights = run_folder.weights_of(self.folder)
        self.adapter_folder = self.weights.folder
        self.manifest = run_folder.read_manifest(self.folder)
        self.engine = engine
        self.shared = False
        self._allow_other_weights = allow_other_weights
        self._check_base()
        self.tokenizer = load_tokenizer(self.recipe.model, self.recipe.training.chat_template_path)
        self.stops = stop_token_ids(self.tokenizer)
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
        return {
            "adapter": self.adapter_sha256,
            "base": self.manifest["base"]["weights_sha256"],
            "prompt": self.prompt_sha256,
            "max_new_tokens": self.recipe.arguments.max_new_tokens,
        }

    def prompts(self, inputs: Sequence[dict[str, str]]) -> list[list[int]]:
        """Token ids of the prompts that the model reads."""
        return render_prompts(self.task, inputs, self.tokenizer, self.style)

    def generate(
        self,
        inputs: Sequence[dict[str, str]],
        batch_size: int = 32,
        on_progress: Callable[[int], None] | None = None,
        untuned: bool = False,
        sampling: Sampling | None = None,
    ) -> list[WrittenText]:
        """What the model writes, greedily unless `sampling` is given; `untuned` writes with the base model without fine-tuning."""
        prompts = self.prompts(inputs)
        longest = self._room_after(prompts)
        if self.engine == "vllm":
            return self._vllm.generate(prompts, longest, on_progress, untuned, sampling)
        parts = self.model, self.tokenizer, prompts, self.stops, longest
        with self._weights(untuned):
            return generate(*parts, batch_size, sampling, on_progress, self.shared)

    def _room_after(self, prompts: Sequence[list[int]]) -> int:
        """The recipe's `max_new_tokens`, or fewer if the base model has no more positions: more would be an index error."""
        longest = max(map(len, prompts), default=0)
        positions = getattr(load_config(self.recipe.model), "max_position_embeddings", None) or np.inf
        if longest >= positions:
            raise InputError(
                f"a prompt has {longest} tokens and the base model reads at most {positions}; shorten the input",
                str(self.folder),
            )
        return int(min(self.recipe.arguments.max_new_tokens, positions - longest))

    def _load_model(self) -> None:
        if self.engine == "vllm":
            with torch.device("meta"):  # vLLM reads the files itself
                config = load_config(self.recipe.model)
                base = base_without_weights(self.recipe.model, config, torch.float32, "eager")
                self.weights.check_fit(base, self.recipe.model)
            self._vllm = vllm_engine.VllmEngine(self.recipe, self.adapter_folder, self.stops)
        else:
            base = load_base(self.recipe.model)
            if not getattr(base, "is_quantized", False):  # quantised weights are placed while they are loaded
                base.to(inference_device())
            self.model = self.weights.load(base, self.recipe.model)
        self._check_base(loaded=True)

    def _weights(self, untuned: bool) -> AbstractContextManager:
        """While it is open, the model has the fine-tuned weights, or those of the base model."""
        return self.weights.untuned(self.model) if untuned else nullcontext()

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
                f"the adapter was trained on other weights of {model_id} (sha256 {trained_on[:12]}, here "
                f"{present[:12] if present else 'unknown'}); restore them, or use these with --allow-other-weights",
                str(self.folder),
            )
