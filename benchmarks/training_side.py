"""What the training comparisons share: the rows, and our side."""

import json
import re
import tempfile
from functools import cached_property
from pathlib import Path

from measuring import BIN, run_with_peak_memory

from radrecipes.data.prepared import load_prepared_dataset
from radrecipes.models import base as models
from radrecipes.recipe import parse_recipe
from radrecipes.tasks import TASKS
from radrecipes.training.data import fitting_rows, render_rows

RECIPE = "recipes/smollm2-135m/protocol_lora.yaml"


class TrainingRows:
    """The default recipe's training rows as token ids with labels, so that both sides train on the same tokens."""

    def __init__(self, steps: int):
        self.steps = steps
        self.recipe = parse_recipe(RECIPE)
        self.folder = Path(tempfile.mkdtemp(prefix="radrecipes-bench-"))
        task, arguments = TASKS[self.recipe.arguments.task], self.recipe.arguments
        tokenizer = models.load_tokenizer(self.recipe.model)
        split, stops = load_prepared_dataset(arguments.dataset).splits["train"], models.stop_token_ids(tokenizer)
        table = render_rows(split, task, tokenizer, arguments.prompt_style, stops)
        length = self.recipe.training.max_length
        tokenised = fitting_rows(table, split["id"][:], length, arguments.max_dropped_fraction)
        (self.folder / "rows").mkdir()
        tokenised.rows.to_parquet(self.folder / "rows" / "train.parquet")

    @property
    def base(self) -> str:
        """Where the base model is loaded from."""
        return models.locate_base(self.recipe.model.model_name_or_path)

    def run_ours(self, **overrides: object) -> dict[str, float]:
        """Run `scripts/sft.py` with the default recipe for `steps` steps into `folder / "ours"`."""
        output = self.folder / "ours"
        words = [f"--{key}={value}" for key, value in overrides.items()]
        command = [BIN / "accelerate", "launch", "--config_file", "accelerate_configs/cpu.yaml", "scripts/sft.py"]
        command += ["--config", RECIPE, "--restart", f"--output_dir={output}", f"--max_steps={self.steps}"]
        command += ["--save_strategy='no'", *words]  # as on the other side
        peak, _ = run_with_peak_memory(command)
        manifest = json.loads((output / "manifest.json").read_text())
        return {"samples_per_second": manifest["training"]["samples_per_second"], "peak_memory_gib": peak}


class TrainingComparison:
    """A comparison of `scripts/sft.py` with another trainer on the same rows."""

    @cached_property
    def rows(self) -> TrainingRows:
        """The rows of both sides."""
        return TrainingRows(steps=12)

    def ours(self) -> dict[str, float]:
        """Our side."""
        return self.rows.run_ours()

    def checks(self) -> dict:
        """Results in addition to the speed."""
        return {}


def samples_per_second(output: str) -> float:
    """The training speed that the Trainer printed at its end, without loading and preparation."""
    return float(re.findall(r"'train_samples_per_second': '?([\d.]+)", output)[-1])
