"""A finished run, loaded to answer: base, adapter, tokenizer, prompt and label set as they were in training."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from radrecipes import models, run_folder
from radrecipes.data.label_sets import LabelSet
from radrecipes.data.prepared import LABEL_SET_FILE
from radrecipes.errors import InputError
from radrecipes.evaluation import SystemOutput
from radrecipes.inference import generate
from radrecipes.recipe import parse_recipe
from radrecipes.tasks import TASKS
from radrecipes.tasks.rendering import prompt_template_digest, render_prompt


class Predictor:
    """Answers to inputs, by a run's adapter or by its untuned base.

    Args:
        folder (`str` or `Path`):
            A finished run, or its `adapter` folder.
        allow_other_weights (`bool`, *optional*, defaults to `False`):
            Load the adapter onto base weights of another hash than it was trained on.

    Raises:
        [`InputError`]: no finished run, other base weights, another base, another label set, or another prompt template than in
        training.
    """

    def __init__(self, folder: str | Path, allow_other_weights: bool = False):
        folder = Path(folder)
        self.folder = folder.parent if (folder / "adapter_config.json").is_file() else folder
        self.manifest = run_folder.read_manifest(self.folder)
        self.recipe = parse_recipe(self.folder / "recipe.yaml")
        model = self.recipe.model
        trained_on = self.manifest["base"]["weights_sha256"]
        present = models.weights_digest(model.model_name_or_path)
        if trained_on and present != trained_on and not allow_other_weights:
            raise InputError(
                f"the adapter was trained on other weights of {model.model_name_or_path} (sha256 {trained_on[:12]}, here "
                f"{present[:12] if present else 'the Hub'}); restore them, or accept it with --allow-other-weights",
                str(self.folder),
            )
        self.task = TASKS[self.recipe.arguments.task]
        label_set_file = self.folder / "adapter" / LABEL_SET_FILE
        self.label_set = LabelSet.load(label_set_file)
        if hashlib.sha256(label_set_file.read_bytes()).hexdigest() != self.manifest["data"]["label_set_sha256"]:
            raise InputError("changed since training; restore it, or train again", str(label_set_file))
        self.tokenizer = models.load_tokenizer(model, self.recipe.training.chat_template_path)
        self.stops = models.stop_token_ids(self.tokenizer)
        style = self.recipe.arguments.prompt_style
        if prompt_template_digest(self.task, self.tokenizer, style) != self.manifest["prompt"]["sha256"]:
            raise InputError(
                "the prompt template is another one than in training (instruction or chat template); train again",
                str(self.folder),
            )
        base = models.load_base(model)
        self.model = models.load_adapter(base, self.folder / "adapter", model.model_name_or_path)

    def answer(
        self,
        inputs: Sequence[dict[str, str]],
        batch_size: int = 32,
        untuned: bool = False,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[SystemOutput]:
        """Greedy answers.

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
            `list[SystemOutput]`: one a row, in order.
        """
        style = self.recipe.arguments.prompt_style
        prompts = [render_prompt(self.task, row, self.tokenizer, style) for row in inputs]
        options = (self.stops, self.recipe.arguments.max_new_tokens, batch_size, on_progress)
        if untuned:
            with self.model.disable_adapter():
                written = generate(self.model, self.tokenizer, prompts, *options)
        else:
            written = generate(self.model, self.tokenizer, prompts, *options)
        return [
            SystemOutput(
                answer.text, self.task.read_output(answer.text, self.label_set), answer.stopped, answer.tokens
            )
            for answer in written
        ]
