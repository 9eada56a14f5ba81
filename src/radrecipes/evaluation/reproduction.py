"""Whether a published result can be reproduced: what has changed since it was made, and how the metrics compare."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from scipy import stats

from radrecipes.data.prepared import MADE_BY, PreparedDataset, load_prepared_dataset
from radrecipes.errors import InputError
from radrecipes.evaluation.results import (
    RESULTS_FILE,
    figures_of_metrics,
    figures_of_seed,
    figures_over_seeds,
    figures_to_compare,
    results_fit,
    results_path,
)
from radrecipes.files import read_json, read_json_object
from radrecipes.hub.pull import pull
from radrecipes.inference.abstention import COVERAGE_STEP
from radrecipes.models.base import load_tokenizer
from radrecipes.recipe import Recipe, diff_values, parse_recipe
from radrecipes.shipped import ROOT, find_shipped
from radrecipes.tasks import HeadlineMetric
from radrecipes.training import run_folder
from radrecipes.training.identity import NOT_OF_REPRODUCTION, without
from radrecipes.training.manifest import made_of, made_with

# Tolerance of a metric of the same weights, in units of the last decimal that tables show (0.01 of a rate). Other CPUs and
# versions sum in a different order, which flips answers between almost equally probable labels: measured for one adapter with
# and without bfloat16 instructions, 3 of 988 answers, and up to 0.005 of any rate. No prediction interval is narrower.
TOLERANCE_UNITS = 10
# Relative tolerance of the first losses if CPU, versions or threads differ; otherwise they must be bit-identical. Measured with
# SmolLM2-135M in bfloat16: with the instructions of older CPUs (AVX2, AVX-512 without bfloat16) the first ten losses move by at
# most 0.0064; one thread and two give the same bits.
LOSS_TOLERANCE = 0.02

# Parts of a manifest, the most likely causes of a different result first.
_PARTS = ("recipe", "data", "prompt", "base", "code", "constraints_sha256", "packages", "hardware", "determinism")
_DECISIVE_PARTS = ("recipe", "data", "prompt", "base.weights_sha256")
_NOT_COMPARED = ("data.folder", "data.access", "data.license")
# Of an evaluation: what they leave out is counted.
_HARMLESS_OPTIONS = {"max_rows", "skip_base"}
# If these and the versions are the same, the losses are bit-identical.
_DECIDE_ROUNDING = ("processor", "processor_version", "instruction_set", "bfloat16_instructions")


@dataclass(frozen=True)
class Claim:
    """A published result that is to be reproduced."""

    name: str  # `<model>/<recipe>` or `org/name@tag`
    recipe: Recipe
    results: dict[str, Any]  # over seeds
    facts: dict[str, Any]  # what it was made from, see [`facts_of`]
    seed: int  # the recorded seed that `first_losses` are from
    first_losses: list[float]
    run: Path | None  # a recorded run or a pulled release whose evaluation can be repeated
    run_name: str | None  # its name for `scripts/evaluate_model.py`
    metrics: dict[str, float | None]  # published for this run
    data_repo: str | None = None  # `org/name@tag` of the published dataset

    @property
    def seeds(self) -> list[int]:
        """The recorded seeds."""
        return [row["seed"] for row in self.results["seeds"]]

    @property
    def new_seed(self) -> int:
        """The smallest positive seed that is not recorded."""
        return min(set(range(1, len(self.seeds) + 2)) - set(self.seeds))

    @property
    def work_folder(self) -> Path:
        """The folder of a check, in which it can be resumed."""
        return Path("runs", "check", self.name)


@dataclass(frozen=True)
class Difference:
    """A field, such as `recipe.learning_rate`, that changed; a decisive one changes the result."""

    field: str
    before: Any  # None if not set
    now: Any
    decisive: bool


@dataclass(frozen=True)
class Verdict:
    """A metric compared with its published value, and the interval that it must be in, both ends included."""

    metric: HeadlineMetric
    published: float | None  # of the same weights, or the mean over seeds
    low: float | None  # None if there is no interval, or if it contains all possible values
    high: float | None
    now: float | None

    @property
    def passed(self) -> bool | None:
        """Whether it is in the interval; `None` without one."""
        if self.low is None:
            return None
        return self.now is not None and self.low <= self.now <= self.high


def read_claim(name: str) -> Claim:
    """The claim of a recipe with a result file next to it, or of a release, `org/name@tag`, which is pulled and verified.

    Raises an [`InputError`] if there is no such recipe or release, or it has no results over seeds.
    """
    return _claim_of_release(name) if run_folder.is_reference(name) else _claim_of_recipe(find_shipped(name))


def find_dataset(claim: Claim, named: str | None = None) -> PreparedDataset:
    """The named dataset, a folder or `org/name@tag`; by default the recipe's folder, or what the release's manifest names."""
    if named:
        return load_prepared_dataset(pull(named, "dataset") if run_folder.is_reference(named) else named)
    folder = find_shipped(claim.recipe.arguments.dataset)
    if claim.data_repo:
        here = load_prepared_dataset(folder) if folder.is_dir() else None
        if here and here.digest == claim.facts["data"]["digest"]:
            return here
        return load_prepared_dataset(pull(claim.data_repo, "dataset"))
    if not folder.is_dir() and str(folder) not in MADE_BY:
        raise InputError("does not exist; set --dataset to a folder or to org/name@v1.0", str(folder))
    return load_prepared_dataset(folder)


def facts_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """What a run or a result was made from, in one form: `resolved` of its recipe, and other parts of a manifest."""
    recipe = document if "resolved" in document else document["recipe"]
    facts = {"recipe": {"resolved": recipe["resolved"]}}
    return facts | {part: document[part] for part in _PARTS[1:] if document.get(part) is not None}


def facts_here(recipe: Recipe, dataset: PreparedDataset) -> dict[str, Any]:
    """What a run would be made from here and now, as in [`facts_of`]; nothing is trained, and no weights are loaded."""
    tokenizer = load_tokenizer(recipe.model, recipe.training.chat_template_path)
    manifest = made_of(recipe, dataset, tokenizer) | made_with()
    return facts_of(json.loads(json.dumps(manifest, default=str)))  # with the types as read from a file


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """What differs between two [`facts_of`], the most likely causes of a different result first.

    Manifests of different versions record different facts, so one that only one side has counts only if it is of the recipe.
    """
    fields = diff_values(*(without(facts["recipe"]["resolved"], NOT_OF_REPRODUCTION) for facts in (before, now)))
    changed = {f"recipe.{name}": values for name, values in fields.items()}
    for part in _PARTS[1:]:
        known, found = _flat(part, before.get(part)), _flat(part, now.get(part))
        common = [name for name in known if name in found and name not in _NOT_COMPARED]
        changed |= diff_values({name: known[name] for name in common}, {name: found[name] for name in common})
    decisive = tuple(f"{part}." for part in _DECISIVE_PARTS)
    return [Difference(name, *values, f"{name}.".startswith(decisive)) for name, values in changed.items()]


def prediction_interval(recorded: Mapping[str, Any] | None, smallest: float) -> tuple[float, float] | None:
    """The 95 % prediction interval for one more seed of the same recipe, from `mean`, `sd` and `n` of the recorded ones.

    mean ± t(0.975, n − 1) · sd · √(1 + 1/n), for a normal distribution of unknown mean and variance (Hahn and Meeker,
    Statistical Intervals, Wiley, 1991, chapter 4). Two-sided, because a better metric is not a reproduction either. Its half
    width is at least `smallest`; `None` for fewer than two seeds.
    """
    if recorded is None or recorded["n"] < 2:
        return None
    count = recorded["n"]
    half = float(stats.t.ppf(0.975, count - 1)) * recorded["sd"] * math.sqrt(1 + 1 / count)
    half = max(half, smallest)
    return recorded["mean"] - half, recorded["mean"] + half


def compare_new_seed(results: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[Verdict]:
    """The metrics of a run with a new seed against the prediction intervals of the recorded seeds.

    A metric that some recorded seeds lack, such as selective accuracy at a coverage of 0, counts only if the new run has it, and
    an optional one only if both evaluations have it.
    """
    recorded, found = figures_over_seeds(results), figures_of_metrics(metrics)
    verdicts = []
    for metric in (metric for metric in figures_to_compare(results) if metric.name in found):
        over, now = recorded[metric.name], found[metric.name]
        interval = prediction_interval(over, tolerance(metric))
        if over and over["n"] < len(results["seeds"]) and now is None:
            interval = None
        verdicts.append(_verdict(metric, over["mean"] if over else None, interval, now))
    return verdicts


def compare_same_weights(claim: Claim, metrics: Mapping[str, Any]) -> list[Verdict]:
    """The metrics of the published weights, evaluated again, against the published ones; optional ones if both have them."""
    found = figures_of_metrics(metrics)
    verdicts = []
    for metric in (metric for metric in figures_to_compare(metrics) if metric.name in claim.metrics):
        published, reach = claim.metrics[metric.name], tolerance(metric)
        interval = None if published is None else (published - reach, published + reach)
        verdicts.append(_verdict(metric, published, interval, found[metric.name]))
    return verdicts


def _verdict(
    metric: HeadlineMetric, published: float | None, interval: tuple[float, float] | None, now: float | None
) -> Verdict:
    # An interval of all possible values cannot be missed, so it proves nothing.
    if interval is None or (interval[0] <= 0 and interval[1] >= metric.largest):
        return Verdict(metric, published, None, None, now)
    return Verdict(metric, published, *interval, now)


def tolerance(metric: HeadlineMetric) -> float:
    """How far a metric of the same weights may move; coverage one step more, because thresholds are tested in such steps."""
    reach = TOLERANCE_UNITS * 10.0**-metric.digits
    return reach + COVERAGE_STEP if metric.name == "coverage" else reach


def same_arithmetic(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether losses must be bit-identical: same versions and CPU, no GPU. The caller sets the recorded number of threads."""
    processors = [[facts["hardware"].get(key) for key in _DECIDE_ROUNDING] for facts in (before, now)]
    return (
        before["packages"] == now["packages"]
        and None not in processors[0]
        and processors[0] == processors[1]
        and not any("gpus" in facts["hardware"] for facts in (before, now))
    )


def same_losses(recorded: Sequence[float], now: Sequence[float], exact: bool) -> list[bool]:
    """Whether each recorded loss was reproduced, exactly or within `LOSS_TOLERANCE`; a missing step was not."""
    reached = [*now, *[math.nan] * len(recorded)]
    reach = 0.0 if exact else LOSS_TOLERANCE
    return [abs(later - earlier) <= reach * abs(earlier) for earlier, later in zip(recorded, reached, strict=False)]


def existing_evaluation(run: Path, folder: Path, dataset_digest: str) -> dict[str, Any] | None:
    """The `metrics.json` in a folder if it is for this run's weights and the complete test split of this dataset, or `None`.

    One that was made with options that change figures does not count.
    """
    try:
        metrics = read_json_object(folder / "metrics.json")
        rows = metrics["rows"] + metrics.get("left_out", {}).get("test", 0)
        complete = rows == run_folder.read_manifest(run)["data"]["rows"]["test"]
        fits = (
            "task" in metrics
            and metrics["split"] == "test"
            and complete
            and metrics.get("options", {}).keys() <= _HARMLESS_OPTIONS
            and metrics["dataset"]["digest"] == dataset_digest
        )
    except (OSError, InputError, ValueError, LookupError, TypeError, AttributeError):
        return None
    return metrics if fits and metrics.get("adapter_sha256") == run_folder.weights_of(run).sha256 else None


def code_digest(scripts: Path = ROOT / "scripts") -> str:
    """sha256 over the files of this package and of the scripts; unlike the commit it includes uncommitted changes."""
    digest = hashlib.sha256()
    for root in (Path(__file__).parents[1], scripts):
        for file in sorted(path for path in root.rglob("*") if path.suffix in (".py", ".yaml", ".jinja")):
            digest.update(f"{file.relative_to(root)}\n".encode() + file.read_bytes())
    return digest.hexdigest()


def _claim_of_recipe(path: Path) -> Claim:
    recipe = parse_recipe(path)
    file = results_path(path)
    if not file.is_file():
        raise InputError(
            f"is missing, so there is nothing to compare with; create it with "
            f"`python scripts/reproduce.py record {quote(str(path))}`",
            str(file),
        )
    results = _read_results(file)
    run, metrics = None, {}
    for row in results["seeds"]:
        folder = parse_recipe(path, ["--seed", str(row["seed"])]).output_dir
        if run_folder.is_complete(folder) and run_folder.weights_of(folder).sha256 == row.get("adapter_sha256"):
            run, metrics = folder, figures_of_seed(results, row["seed"])
            break
    first = results["seeds"][0]
    return Claim(
        recipe.name,
        recipe,
        results,
        facts_of(results),
        first["seed"],
        first["first_losses"],
        run,
        str(run) if run else None,
        metrics,
    )


def _claim_of_release(name: str) -> Claim:
    folder = pull(name)
    if not run_folder.is_release(folder):
        raise InputError("is not a release of an adapter; give the adapter that it was made from or for", name)
    if not (folder / RESULTS_FILE).is_file():
        raise InputError(
            f"has no {RESULTS_FILE}: its recipe's result over seeds was not recorded when it was published", name
        )
    results, manifest = _read_results(folder / RESULTS_FILE), run_folder.read_manifest(folder)
    if not results_fit(manifest, results):
        raise InputError(f"{RESULTS_FILE} is of another recipe, data, base model or prompt than the adapter", name)
    data = manifest["data"]
    return Claim(
        name,
        run_folder.run_of(folder)[1],
        results,
        facts_of(manifest),
        manifest["training"]["seed"],
        manifest["training"]["first_losses"],
        folder,
        name,
        figures_of_metrics(read_json_object(folder / "metrics.json")),
        f"{data['repo']}@{data['tag']}" if "tag" in data else None,
    )


def _read_results(path: Path) -> dict[str, Any]:
    try:
        results = read_json(path)
        # Everything that is read from it later
        facts_of(results), figures_over_seeds(results), [results["seeds"][0][key] for key in ("seed", "first_losses")]
    except (InputError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError("is not a result over seeds; record it again", str(path)) from error
    return results


def _flat(name: str, value: Any) -> dict[str, Any]:
    """Leaves of nested mappings by their dotted names, without `None`."""
    if not isinstance(value, Mapping):
        return {} if value is None else {name: value}
    return {leaf: found for key, part in value.items() for leaf, found in _flat(f"{name}.{key}", part).items()}
