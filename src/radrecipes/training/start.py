"""The weights that a run continues from, which its recipe names in `start_from`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radrecipes.errors import InputError, shown
from radrecipes.models.weights import Weights
from radrecipes.recipe import Recipe, parse_recipe
from radrecipes.training import run_folder


@dataclass(frozen=True)
class Start:
    """A finished run whose weights another run continues."""

    folder: Path
    weights: Weights
    prompt_sha256: str

    def check_prompt(self, sha256: str) -> None:
        """Refuse another prompt than that of its training, of which the weights know nothing."""
        if self.prompt_sha256 != sha256:
            raise InputError(
                "was trained with another prompt or chat template; use the same in both recipes", str(self.folder)
            )

    @property
    def facts(self) -> dict[str, Any]:
        """What the manifest of the run that continues it records."""
        return {"weights_sha256": self.weights.sha256}


def find_start(recipe: Recipe) -> Start | None:
    """The run that a recipe continues from, if it names one; an [`InputError`] if it is not finished or does not fit."""
    named = recipe.arguments.start_from
    if not named:
        return None
    where = f"{recipe.path}: start_from"
    if named.endswith(".yaml"):
        seed = recipe.training.seed
        named = parse_recipe(named, ["--seed", str(seed)]).output_dir
        if not run_folder.is_complete(named):
            raise InputError(
                f"{named} is not a finished run; train it first: accelerate launch --config_file accelerate_configs/cpu.yaml "
                f"scripts/sft.py --config {recipe.arguments.start_from} --seed {seed}",
                where,
            )
    folder, trained, _ = run_folder.run_of(named)
    model = recipe.model
    if (trained.model.model_name_or_path, trained.model.model_revision) != (
        model.model_name_or_path,
        model.model_revision,
    ):
        raise InputError(
            f"{folder} was trained from {shown(trained.model.model_name_or_path, 100)}, not from this base model",
            where,
        )
    weights = run_folder.weights_of(folder)
    weights.check(model)
    return Start(folder, weights, run_folder.read_manifest(folder)["prompt"]["sha256"])
