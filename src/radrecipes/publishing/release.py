"""The folder of a release: what a repository will hold, picked file by file, the same to the byte every time."""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from radrecipes.data.dataset_folder import CARD_FILE, LABEL_SET_FILE, MANIFEST_FILE, SPLITS
from radrecipes.data.prepared import PreparedDataset
from radrecipes.errors import InputError
from radrecipes.evaluation.results import RESULTS_FILE, results_fit, results_path
from radrecipes.files import file_sha256
from radrecipes.hub.release_files import RELEASE_FORMAT
from radrecipes.inference.abstention import POLICY_FILE, DecisionPolicy
from radrecipes.inference.predictors import run_of
from radrecipes.models.weights import LoraAdapter, weights_in
from radrecipes.recipe import Recipe
from radrecipes.tasks.task import Task
from radrecipes.training import run_folder

ADAPTER_CONFIG = LoraAdapter.CONFIG
METRICS_FILE = "metrics.json"
RECIPE_FILE = "recipe.yaml"
# What the tokenizer classes of Transformers write, all of it text; a SentencePiece model, which nobody can look into, says nothing
# that tokenizer.json beside it does not.
TOKENIZER_FILES = frozenset(
    (
        "added_tokens.json",
        "merges.txt",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.json",
        "vocab.txt",
    )
)
_BESIDE_ADAPTER = TOKENIZER_FILES | {"chat_template.jinja", "generation_config.json", LABEL_SET_FILE, POLICY_FILE}
_OF_EVERY_MODEL = _BESIDE_ADAPTER | {CARD_FILE, MANIFEST_FILE, METRICS_FILE, RECIPE_FILE, RESULTS_FILE}
_MERGED_WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json|config\.json")
# Fields of a recipe that say where something lay on the machine that trained, and decide nothing.
_PLACES = ("output_dir", "run_name", "logging_dir")


@dataclass(frozen=True)
class FinishedRun:
    """A run that was trained and evaluated, as it may be shown to others: no path of the machine that made it.

    Args:
        folder (`Path`):
            Where it lies.
        recipe ([`Recipe`]):
            Its recipe, as it was trained.
        task ([`Task`]):
            What it writes.
        manifest (`dict`):
            Content of its `manifest.json`.
        metrics (`dict`):
            Content of its `evaluation/metrics.json`, over the whole test split of its own dataset.
        dataset_folder (`Path`):
            Where its dataset lay when it was trained; not for others.
    """

    folder: Path
    recipe: Recipe
    task: Task
    manifest: dict[str, Any]
    metrics: dict[str, Any]
    dataset_folder: Path

    @property
    def recipe_text(self) -> str:
        """The recipe as it is published."""
        return _published_recipe(self.recipe).to_yaml()

    def recorded_results(self, recipes: Path = Path("recipes")) -> dict[str, Any] | None:
        """The result over seeds that its recipe published, where this run is one of them."""
        path = results_path(recipes / f"{self.manifest['recipe']['name']}.yaml")
        if not path.is_file():
            return None
        results = json.loads(path.read_text(encoding="utf-8"))
        return results if results_fit(self.manifest, results) else None


@dataclass(frozen=True)
class Release:
    """A folder that is ready to be published.

    Args:
        folder (`Path`):
            Holds nothing but what is published.
        kind (`"adapter"`, `"merged"` or `"dataset"`):
            What it is.
        repo (`str`):
            Repository on the Hub, `"org/name"`.
        tag (`str`):
            For example `"v1.0"`.
        manifest (`dict`):
            Content of its `manifest.json`.
    """

    folder: Path
    kind: str
    repo: str
    tag: str
    manifest: dict[str, Any]

    @property
    def files(self) -> dict[str, str]:
        """sha256 of every file, by its path, the manifest's own last."""
        return self.manifest["published"]["files"] | {MANIFEST_FILE: file_sha256(self.folder / MANIFEST_FILE)}

    @property
    def repo_type(self) -> str:
        """`"dataset"` or `"model"`, in the Hub's words."""
        return "dataset" if self.kind == "dataset" else "model"


def is_allowed(kind: str, name: str) -> bool:
    """Whether a file may be part of a release: everything else stays where it is.

    Args:
        kind (`"adapter"`, `"merged"` or `"dataset"`):
            What is released.
        name (`str`):
            Path below the release's folder.
    """
    if kind == "dataset":
        return name in {CARD_FILE, MANIFEST_FILE, LABEL_SET_FILE, *(f"{split}.parquet" for split in SPLITS)}
    if kind == "merged":
        return name in _OF_EVERY_MODEL or bool(_MERGED_WEIGHTS.fullmatch(name))
    return name in _OF_EVERY_MODEL | {ADAPTER_CONFIG, LoraAdapter.TENSORS}


def read_finished_run(folder: str | Path) -> FinishedRun:
    """A run that can be published: trained, and evaluated on the whole test split of its own dataset.

    Args:
        folder (`str` or `Path`):
            The run's folder.

    Returns:
        [`FinishedRun`]

    Raises:
        [`InputError`]: it is not finished, not evaluated, or evaluated otherwise; or its adapter names another base than its
            recipe does.
    """
    folder, recipe, task = run_of(folder)
    manifest = run_folder.read_manifest(folder)
    evaluate = f"run `python scripts/evaluate_model.py --run {folder} --restart` first"
    path = folder / "evaluation" / METRICS_FILE
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        measured = metrics["dataset"]["digest"]
    except FileNotFoundError:
        raise InputError(f"was not evaluated, and nothing is published unmeasured; {evaluate}", str(folder)) from None
    except (ValueError, LookupError, TypeError):
        raise InputError(f"is no evaluation in JSON; {evaluate}", str(path)) from None
    if recipe.digest != manifest["recipe"]["digest"]:
        raise InputError("is not the recipe that was trained; put it back, or train again", str(folder / RECIPE_FILE))
    if measured != manifest["data"]["digest"]:
        raise InputError(f"measures another dataset than the run's own; {evaluate}", str(path))
    rows = manifest["data"]["rows"]["test"]
    if metrics["split"] != "test" or metrics["rows"] != rows:
        raise InputError(
            f"measures {metrics['rows']} rows of {metrics['split']}, not all {rows} of test; {evaluate}", str(path)
        )
    if metrics.get("adapter_sha256") != weights_in(folder / "adapter").sha256:
        raise InputError(f"measures other weights than adapter/ holds; {evaluate}", str(path))
    if not any((folder / "adapter" / name).is_file() for name in ("tokenizer.json", "vocab.json", "vocab.txt")):
        raise InputError("holds no tokenizer whose vocabulary is text; train again", str(folder / "adapter"))
    if recipe.arguments.decode == "score":
        DecisionPolicy.load(folder / "adapter", weights_in(folder / "adapter").sha256, manifest["prompt"]["sha256"])
    labels, trained_with = folder / "adapter" / LABEL_SET_FILE, manifest["data"].get("label_set_sha256")
    if trained_with and not (labels.is_file() and file_sha256(labels) == trained_with):
        raise InputError("is missing, or not the label set that was trained with; train again", str(labels))
    _check_base_is_named(folder / "adapter" / ADAPTER_CONFIG, recipe)

    published, dataset_folder = _published_recipe(recipe), Path(manifest["data"]["folder"])
    manifest = {
        **manifest,
        "recipe": _published_facts(manifest["recipe"], published),
        "data": {**manifest["data"], "folder": published.fields["dataset"]},
    }
    return FinishedRun(folder, recipe, task, manifest, metrics, dataset_folder)


def assemble_adapter(run: FinishedRun, folder: Path, *, repo: str, tag: str, card: str) -> Release:
    """Put together the release of an adapter.

    Args:
        run ([`FinishedRun`]):
            What is released.
        folder (`Path`):
            A folder that is made here.
        repo (`str`):
            Repository on the Hub.
        tag (`str`):
            The release's tag.
        card (`str`):
            Its model card.

    Returns:
        [`Release`]
    """
    folder.mkdir(parents=True)
    for name in (ADAPTER_CONFIG, LoraAdapter.TENSORS):
        _copy(run.folder / "adapter" / name, folder / name)
    return _complete_model(run, folder, "adapter", repo, tag, card)


def complete_merged(run: FinishedRun, folder: Path, *, repo: str, tag: str, card: str) -> Release:
    """Put together the release of a merged model, whose weights and `config.json` lie in the folder already.

    Args:
        run, repo, tag, card:
            As for [`assemble_adapter`].
        folder (`Path`):
            Where [`~publishing.merging.merge_adapter`] wrote to.

    Returns:
        [`Release`]
    """
    return _complete_model(run, folder, "merged", repo, tag, card)


def assemble_dataset(dataset: PreparedDataset, folder: Path, *, repo: str, tag: str) -> Release:
    """Put together the release of a prepared dataset, with the card that stands in its folder.

    Args:
        dataset ([`PreparedDataset`]):
            What is released.
        folder, repo, tag:
            As for [`assemble_adapter`].

    Returns:
        [`Release`]

    Raises:
        [`InputError`]: the dataset has no card.
    """
    if not (dataset.folder / CARD_FILE).is_file():
        raise InputError(f"has no {CARD_FILE}, its card; prepare it again", str(dataset.folder))
    folder.mkdir(parents=True)
    names = [CARD_FILE, *(f"{split}.parquet" for split in SPLITS), *([LABEL_SET_FILE] if dataset.label_set else [])]
    for name in names:
        _copy(dataset.folder / name, folder / name)
    return _sealed(folder, "dataset", repo, tag, dataset.manifest)


def texts_of_rows(dataset: PreparedDataset) -> list[str]:
    """What people wrote in a dataset: every column but identifiers, labels, and observations, which are a closed list of words."""
    columns = [name for name in dataset.manifest["columns"] if name not in ("id", "group", "label", "observations")]
    return [text for split in dataset.splits.values() for name in columns for text in split[name]]


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file as all of a release are written: keys in their order, two spaces, UTF-8."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _complete_model(run: FinishedRun, folder: Path, kind: str, repo: str, tag: str, card: str) -> Release:
    """What adapters and merged models have in common, then the manifest."""
    for path in sorted((run.folder / "adapter").iterdir()):
        if path.name in _BESIDE_ADAPTER:
            _copy(path, folder / path.name)
    _copy(run.folder / "evaluation" / METRICS_FILE, folder / METRICS_FILE)
    if results := run.recorded_results():
        write_json(folder / RESULTS_FILE, results)
    (folder / RECIPE_FILE).write_text(run.recipe_text, encoding="utf-8")
    (folder / CARD_FILE).write_text(card, encoding="utf-8")
    return _sealed(folder, kind, repo, tag, run.manifest)


def _copy(source: Path, target: Path) -> None:
    """Copy a file, and nothing that only looks like one: what a link points to was never part of the run."""
    if source.is_symlink() or not source.is_file():
        raise InputError("is no file but a link or a folder; put the file itself there, or remove it", str(source))
    shutil.copyfile(source, target)


def _sealed(folder: Path, kind: str, repo: str, tag: str, manifest: Mapping[str, Any]) -> Release:
    """Write the manifest, which names the sha256 of every other file."""
    files = {str(path.relative_to(folder)): file_sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    published = {"format": RELEASE_FORMAT, "kind": kind, "repo": repo, "tag": tag, "files": files}
    manifest = {**manifest, "published": published}
    write_json(folder / MANIFEST_FILE, manifest)
    return Release(folder, kind, repo, tag, manifest)


def _published_facts(facts: Mapping[str, Any], published: Recipe) -> dict[str, Any]:
    """What a manifest says of its recipe, of the recipe as it is published."""
    facts = {**facts, "digest": published.digest, "fields": published.fields}
    if "resolved" in facts:
        places = {key: published.fields[key] for key in ("dataset", "chat_template_path") if key in published.fields}
        facts["resolved"] = {**facts["resolved"], **places}
    return facts


def _published_recipe(recipe: Recipe) -> Recipe:
    """The recipe without what names a place on this machine.

    A dataset outside the working directory is named `data/<name>`, a chat template there by its name: its text is in the release.
    """
    fields = {key: value for key, value in recipe.fields.items() if key not in _PLACES}
    for key, prefix in (("dataset", "data/"), ("chat_template_path", "")):
        place = Path(fields.get(key) or "")
        if place.is_absolute() or place.parts[:1] in (("..",), ("~",)):
            fields[key] = f"{prefix}{place.name}"
    return replace(recipe, fields=fields)


def _check_base_is_named(path: Path, recipe: Recipe) -> None:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        named = config.get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        raise InputError("is not readable; train again", str(path)) from error
    base = recipe.model.model_name_or_path
    if named != base:
        raise InputError(f"base_model_name_or_path is not {base}, the base of the recipe; train again", str(path))
