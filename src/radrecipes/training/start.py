"""The weights that a run continues from, which its recipe names in `start_from`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radrecipes.access import access_of, strictest
from radrecipes.data.prepared import PreparedDataset
from radrecipes.errors import InputError
from radrecipes.hub.reference import Reference
from radrecipes.models.weights import Weights
from radrecipes.recipe import Recipe, parse_recipe
from radrecipes.training import run_folder


@dataclass(frozen=True)
class Start:
    """A finished run whose weights another run continues."""

    folder: Path
    weights: Weights
    manifest: Mapping[str, Any]

    def check_fits(self, facts: Mapping[str, Any]) -> None:
        """Refuse what the weights were not trained for: `facts` are those of the run that continues them."""
        (own_prompt, own_base), (prompt, base) = (
            (it["prompt"]["sha256"], it["base"]["weights_sha256"]) for it in (self.manifest, facts)
        )
        if own_prompt != prompt:
            raise InputError(
                "was trained with another prompt or chat template; use the same in both recipes", str(self.folder)
            )
        if None not in (own_base, base) and own_base != base:
            raise InputError("was trained on other weights of the base model; restore them", str(self.folder))

    @property
    def facts(self) -> dict[str, Any]:
        """What the manifest of the run that continues it records."""
        return {"weights_sha256": self.weights.sha256, "data": data_of(self.manifest)}


def data_of(manifest: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Name, digest, licence and access of all data that a run learned from, those of the runs that it continues last.

    `None` if its manifest, or that of such a run, is from before these were recorded.
    """
    own, start = manifest["data"], manifest.get("start")
    earlier = start.get("data") if start else []
    if "license" not in own or earlier is None:
        return None
    facts = {key: own.get(key) for key in ("digest", "license", "access")}
    return [{"name": Path(own.get("folder") or "").name, **facts}, *earlier]


def check_start(recipe: Recipe) -> None:
    """Refuse a recipe whose `start_from` names a recipe or run that is missing; releases are not looked for."""
    named = recipe.arguments.start_from
    if not named:
        return
    try:
        if named.endswith(".yaml"):
            parse_recipe(named)
        elif run_folder.is_reference(named):
            Reference.parse(named)
        else:
            run_folder.run_of(named)
    except InputError as error:
        raise InputError(f"start_from: {error}", str(recipe.path)) from error


def find_start(recipe: Recipe, dataset: PreparedDataset) -> Start | None:
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
    if folder.resolve() == recipe.output_dir.resolve():
        raise InputError("names the folder of this run; set another --output_dir", where)
    manifest = run_folder.read_manifest(folder)
    for part, found, wanted in (
        ("task", trained.arguments.task, recipe.arguments.task),
        ("base model", *(f"{it.model.model_name_or_path} at {it.model.model_revision}" for it in (trained, recipe))),
        ("decode", *(("head" if it.has_head else "text") for it in (trained, recipe))),
        ("lora_target_modules", trained.model.lora_target_modules, recipe.model.lora_target_modules),
        *([("label set", manifest["data"]["label_set_sha256"], dataset.label_set_sha256)] if recipe.has_head else []),
    ):
        if found != wanted:
            raise InputError(f"{folder} has another {part} ({found}) than this recipe ({wanted})", where)
    access = access_of(manifest)
    if strictest(access, dataset.access) != dataset.access:
        raise InputError(
            f"{folder} was trained on {access} data, of which it may repeat a text, and this recipe's data are {dataset.access}; "
            f"prepare them with --access {access}",
            where,
        )
    weights = run_folder.weights_of(folder)
    weights.check(recipe.model)
    return Start(folder, weights, manifest)
