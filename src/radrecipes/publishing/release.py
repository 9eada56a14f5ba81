"""Assembles the folder of a release: the files that a repository will contain, byte-for-byte reproducible."""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Any

from radrecipes.data.dataset_folder import CARD_FILE, LABEL_SET_FILE, MANIFEST_FILE, SPLITS
from radrecipes.data.prepared import PreparedDataset
from radrecipes.errors import InputError
from radrecipes.evaluation.results import RESULTS_FILE, results_fit, results_path
from radrecipes.files import file_sha256, parse_json, read_json, read_text
from radrecipes.hub.release_files import RELEASE_FORMAT
from radrecipes.inference.abstention import POLICY_FILE, DecisionPolicy
from radrecipes.models.base import write_decoding
from radrecipes.models.weights import LoraAdapter, Weights
from radrecipes.publishing.project_json import METRICS_FILE, schema_errors
from radrecipes.recipe import PLACES, Recipe
from radrecipes.shipped import find_shipped
from radrecipes.tasks.task import Task
from radrecipes.training import run_folder

ADAPTER_CONFIG = LoraAdapter.CONFIG
RECIPE_FILE = "recipe.yaml"
# The text files of Transformers' tokenizers. A SentencePiece model cannot be inspected and adds nothing to tokenizer.json.
TOKENIZER_FILES = frozenset((
    "added_tokens.json", "merges.txt", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.json",
    "vocab.txt",
))  # fmt: skip
_NEXT_TO_WEIGHTS = TOKENIZER_FILES | {"chat_template.jinja", LABEL_SET_FILE, POLICY_FILE}
_OF_EVERY_MODEL = _NEXT_TO_WEIGHTS | {
    *(CARD_FILE, MANIFEST_FILE, METRICS_FILE, RECIPE_FILE, RESULTS_FILE, "generation_config.json")
}
_MODEL_WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json|config\.json")


@dataclass(frozen=True)
class FinishedRun:
    """A run that was trained and evaluated, without paths of this machine; `dataset_folder` is not to be published."""

    folder: Path
    recipe: Recipe
    task: Task
    manifest: dict[str, Any]
    metrics: dict[str, Any]
    dataset_folder: Path

    def with_facts(self, **facts: Any) -> "FinishedRun":
        """The run with additional facts in its manifest."""
        return replace(self, manifest=self.manifest | facts)

    @property
    def earlier_data(self) -> list[dict[str, Any]]:
        """The data of the runs that this one continues, as [`~training.start.data_of`] describes them."""
        return self.manifest["start"]["data"] if self.manifest.get("start") else []

    @property
    def earlier_licences(self) -> dict[str, str | None]:
        """Their licences, by what a message calls them."""
        return {
            f"the data {data['name']} ({data['digest'][:8]}) of the run that it continues": data["license"]
            for data in self.earlier_data
        }

    def recorded_results(self) -> dict[str, Any] | None:
        """The recipe's recorded results, if this run is one of their seeds."""
        path = find_shipped(results_path(Path("recipes", f"{self.manifest['recipe']['name']}.yaml")))
        if not path.is_file():
            return None
        results = read_json(path)
        return results if results_fit(self.manifest, results) else None


@dataclass(frozen=True)
class Release:
    """A folder to publish, of kind `adapter`, `model` (all weights), `merged` or `dataset`.

    `files` maps path to sha256, the manifest's own last.
    """

    folder: Path
    kind: str
    repo: str
    tag: str
    files: dict[str, str]

    @property
    def repo_type(self) -> str:
        """`"dataset"` or `"model"`, as the Hub calls it."""
        return "dataset" if self.kind == "dataset" else "model"


def is_allowed(kind: str, name: str) -> bool:
    """Whether a file may be part of a release of this kind."""
    if kind == "dataset":
        return name in {CARD_FILE, MANIFEST_FILE, LABEL_SET_FILE, *(f"{split}.parquet" for split in SPLITS)}
    if kind in ("model", "merged"):
        return name in _OF_EVERY_MODEL or bool(_MODEL_WEIGHTS.fullmatch(name))
    return name in _OF_EVERY_MODEL | {ADAPTER_CONFIG, LoraAdapter.TENSORS}


def read_finished_run(folder: str | Path) -> FinishedRun:
    """Read a run that can be published: finished, evaluated on its whole test split, and with unchanged files."""
    folder, recipe, task = run_folder.run_of(folder)
    manifest = run_folder.read_manifest(folder)
    if manifest.get("start") and not manifest["start"].get("data"):
        raise InputError(
            "continued a run, and its manifest does not record the licence of that run's data; train both again",
            str(folder),
        )
    weights = run_folder.weights_of(folder)
    weights.check(recipe.model)
    metrics = _read_metrics(folder, manifest, weights)
    _check_weights_folder(weights, recipe, manifest)

    published, dataset_folder = _published_recipe(recipe), Path(manifest["data"]["folder"])
    manifest = {
        **manifest,
        "recipe": _published_facts(manifest["recipe"], published),
        "data": {**manifest["data"], "folder": published.fields["dataset"]},
    }
    return FinishedRun(folder, recipe, task, manifest, metrics, dataset_folder)


def _read_metrics(folder: Path, manifest: Mapping[str, Any], weights: Weights) -> dict[str, Any]:
    """The evaluation of these weights on the whole test split of the run's own dataset."""
    evaluate = f"run `python scripts/evaluate_model.py --run {quote(str(folder))} --restart` first"
    path = folder / "evaluation" / METRICS_FILE
    try:
        text = read_text(path)
        metrics = parse_json(text, str(path))
    except FileNotFoundError:
        raise InputError(
            f"was not evaluated, and only evaluated runs are published; {evaluate}", str(folder)
        ) from None
    except InputError:
        metrics, errors = None, ["type"]
    else:
        errors = schema_errors(text, "metrics")
    if errors:
        raise InputError(f"is not an evaluation in JSON (rule {errors[0]}); {evaluate}", str(path))
    if metrics["dataset"]["digest"] != manifest["data"]["digest"]:
        raise InputError(f"measures a dataset that is not the run's own; {evaluate}", str(path))
    rows = manifest["data"]["rows"]["test"]
    if metrics["split"] != "test" or metrics["rows"] != rows:
        if metrics.get("left_out"):
            evaluate = "prepare the data without those that the model cannot read, and train again"
        raise InputError(
            f"measures {metrics['rows']} rows of {metrics['split']}, not all {rows} of test; {evaluate}", str(path)
        )
    if metrics.get("adapter_sha256") != weights.sha256:
        raise InputError(f"measures other weights than those of the run; {evaluate}", str(path))
    return metrics


def _check_weights_folder(weights: Weights, recipe: Recipe, manifest: Mapping[str, Any]) -> None:
    """Check for a readable tokenizer, and the thresholds and label set of these weights."""
    folder = weights.folder
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json", "vocab.txt")):
        raise InputError("contains no tokenizer whose vocabulary is text; train again", str(folder))
    if recipe.arguments.decode != "generate":
        DecisionPolicy.load(folder, weights.sha256, manifest["prompt"]["sha256"])
    labels, trained_with = folder / LABEL_SET_FILE, manifest["data"].get("label_set_sha256")
    if trained_with and not (labels.is_file() and file_sha256(labels) == trained_with):
        raise InputError("is missing, or not the label set of training; train again", str(labels))


def assemble_model(run: FinishedRun, folder: Path, *, repo: str, tag: str, card: str, merged: bool = False) -> Release:
    """Assemble the release of a run's weights in a new folder, or of a merged model next to weights that are already there."""
    folder.mkdir(parents=True, exist_ok=merged)
    weights = run_folder.weights_of(run.folder)
    kind = "merged" if merged else weights.NAME
    for path in sorted(weights.folder.iterdir()):
        if path.name in _NEXT_TO_WEIGHTS or (not merged and is_allowed(kind, path.name)):
            _copy(path, folder / path.name)
    if not run.recipe.has_head:
        # A merged model has the base model's own until now, with its stop tokens and its way of sampling.
        write_decoding(weights.folder, run.recipe.arguments.max_new_tokens, folder)
    _copy(run.folder / "evaluation" / METRICS_FILE, folder / METRICS_FILE)
    if results := run.recorded_results():
        _write_json(folder / RESULTS_FILE, results)
    (folder / RECIPE_FILE).write_text(_published_recipe(run.recipe).to_yaml(), encoding="utf-8")
    (folder / CARD_FILE).write_text(card, encoding="utf-8")
    return _sealed(folder, kind, repo, tag, run.manifest)


def assemble_dataset(dataset: PreparedDataset, folder: Path, *, repo: str, tag: str) -> Release:
    """Assemble the release of a prepared dataset, with the card of its folder, without which there is an [`InputError`]."""
    if not (dataset.folder / CARD_FILE).is_file():
        raise InputError(f"has no {CARD_FILE}, its card; prepare it again", str(dataset.folder))
    folder.mkdir(parents=True)
    names = [CARD_FILE, *(f"{split}.parquet" for split in SPLITS), *([LABEL_SET_FILE] if dataset.label_set else [])]
    for name in names:
        _copy(dataset.folder / name, folder / name)
    return _sealed(folder, "dataset", repo, tag, dataset.manifest)


def texts_of_rows(dataset: PreparedDataset) -> list[str]:
    """The free text of a dataset: all columns except ids, labels, and observations, which come from a closed list."""
    columns = [name for name in dataset.manifest["columns"] if name not in ("id", "group", "label", "observations")]
    return [text for split in dataset.splits.values() for name in columns for text in split[name]]


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _copy(source: Path, target: Path) -> None:
    """Copy a regular file; a link is refused, because its target was never part of the run."""
    if source.is_symlink() or not source.is_file():
        raise InputError("is a link or a folder; put the file itself there, or remove it", str(source))
    shutil.copyfile(source, target)


def _sealed(folder: Path, kind: str, repo: str, tag: str, manifest: Mapping[str, Any]) -> Release:
    """Write the manifest, which names the sha256 of every other file."""
    files = {str(path.relative_to(folder)): file_sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    published = {"format": RELEASE_FORMAT, "kind": kind, "repo": repo, "tag": tag, "files": files}
    _write_json(folder / MANIFEST_FILE, {**manifest, "published": published})
    return Release(folder, kind, repo, tag, files | {MANIFEST_FILE: file_sha256(folder / MANIFEST_FILE)})


def _published_facts(facts: Mapping[str, Any], published: Recipe) -> dict[str, Any]:
    """What a manifest says about its recipe, adapted to the recipe as published."""
    places = {
        key: published.fields[key]
        for key in ("dataset", "chat_template_path", "start_from")
        if key in published.fields
    }
    resolved = {**facts["resolved"], **places}
    return {**facts, "digest": published.digest, "fields": published.fields, "resolved": resolved}


def _published_recipe(recipe: Recipe) -> Recipe:
    """The recipe without local paths: a dataset elsewhere becomes `data/<name>`, a chat template its file name."""
    fields = {key: value for key, value in recipe.fields.items() if key not in PLACES}
    for key, prefix in (("dataset", "data/"), ("chat_template_path", ""), ("start_from", "runs/")):
        place = Path(fields.get(key) or "")
        if place.is_absolute() or place.parts[:1] in (("..",), ("~",)):
            fields[key] = f"{prefix}{place.name}"
    return replace(recipe, fields=fields)
