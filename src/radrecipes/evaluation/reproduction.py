"""Whether a published result holds here: what differs from the time when it was made, and which figures lie where they should."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy import stats

from radrecipes import environment
from radrecipes.data.prepared import PreparedDataset, load_prepared_dataset
from radrecipes.errors import InputError
from radrecipes.evaluation.results import (
    OF_ONE_RUN,
    RESULTS_FILE,
    figures_of_metrics,
    figures_of_seed,
    figures_over_seeds,
    figures_to_compare,
    results_fit,
    results_path,
)
from radrecipes.hub.pull import pull
from radrecipes.inference.abstention import COVERAGE_STEP
from radrecipes.inference.predictors import is_reference, run_of
from radrecipes.models import base as models
from radrecipes.recipe import Recipe, parse_recipe
from radrecipes.tasks import TASKS, HeadlineMetric
from radrecipes.tasks.rendering import prompt_template_digest
from radrecipes.training import run_folder

# How far a figure may move without a reason, in units of the last decimal that tables show (0.01 of a rate). Other processors and
# versions sum in another order, which flips answers between labels that are about equally probable: measured for one adapter with
# and without bfloat16 instructions, 3 of 988 answers, and up to 0.005 of any rate. No band of seeds is narrower, because the very
# same adapter may move so far.
SAME_FIGURE_UNITS = 10
# How far a loss of the first steps may be from the recorded one, as a share of it, where processor, versions or threads differ;
# where they are the same it must be the same number. Measured with SmolLM2-135M in bfloat16: with the instructions of older
# processors (AVX2, AVX-512 without bfloat16) the first ten losses move by at most 0.0064; one thread or two give the same bits.
SAME_LOSS = 0.02

# Of a manifest, most likely to explain another result first. The first four must be the same.
_PARTS = ("recipe", "data", "prompt", "base", "code", "constraints_sha256", "packages", "hardware", "determinism")
_DECISIVE_PARTS = ("recipe", "data", "prompt", "base.weights_sha256")
# Of a recipe: where data and chat template lie is no part of it, because their digests are compared; and what follows from the
# machine.
_NOT_COMPARED = (*OF_ONE_RUN, "dataset", "chat_template_path", "bf16", "use_cpu")
# Where these are the same, so are the losses, to the bit.
_DECIDE_ROUNDING = ("processor", "processor_version", "instruction_set", "bfloat16_instructions")


@dataclass(frozen=True)
class Claim:
    """What was published and is to be reproduced.

    Args:
        name (`str`):
            `<model>/<recipe>` or `org/name@tag`.
        recipe ([`Recipe`]):
            What was trained.
        results (`dict`):
            Its result over seeds.
        facts (`dict`):
            What it was made of, as [`facts_of`] gives it.
        seed (`int`):
            A recorded seed whose first losses are known.
        first_losses (`list[float]` or `None`):
            These losses; `None` where an older run did not keep them.
        run (`Path` or `None`):
            A recorded run, or the release as it was pulled, whose evaluation can be repeated.
        run_name (`str` or `None`):
            What `scripts/evaluate_model.py` calls it.
        figures (`dict[str, float | None]`):
            What was published of this run, by name of the figure.
        data_repo (`str` or `None`):
            Where its dataset is published, `org/name@tag`.
    """

    name: str
    recipe: Recipe
    results: dict[str, Any]
    facts: dict[str, Any]
    seed: int
    first_losses: list[float] | None
    run: Path | None
    run_name: str | None
    figures: dict[str, float | None]
    data_repo: str | None = None

    @property
    def seeds(self) -> list[int]:
        """The recorded seeds."""
        return [row["seed"] for row in self.results["seeds"]]

    @property
    def new_seed(self) -> int:
        """The smallest seed from 1 on that is not recorded."""
        return min(set(range(1, len(self.seeds) + 2)) - set(self.seeds))

    @property
    def work_folder(self) -> Path:
        """Where a check of it works, and can be continued."""
        return Path("runs", "check", self.name)


@dataclass(frozen=True)
class Difference:
    """One thing that is not as it was.

    Args:
        field (`str`):
            For example `"recipe.learning_rate"`.
        before, now (`Any`):
            Its values; `None` where it was, or is, not set.
        decisive (`bool`):
            Whether the result cannot be expected to be the same.
    """

    field: str
    before: Any
    now: Any
    decisive: bool


@dataclass(frozen=True)
class Verdict:
    """One figure beside what was published.

    Args:
        figure ([`HeadlineMetric`]):
            Which.
        published (`float` or `None`):
            The published value, or the mean over seeds.
        low, high (`float` or `None`):
            Between which it must lie, both included; `None` where nothing can be said, also because the band of a few seeds
            that differ much holds every possible value.
        now (`float` or `None`):
            What was measured.
    """

    figure: HeadlineMetric
    published: float | None
    low: float | None
    high: float | None
    now: float | None

    @property
    def passed(self) -> bool | None:
        """Whether it lies there; `None` where that cannot be said."""
        if self.low is None:
            return None
        return self.now is not None and self.low <= self.now <= self.high


def read_claim(name: str) -> Claim:
    """What a recipe's result file, or a release on the Hub, says of itself.

    Args:
        name (`str`):
            A recipe, beside which its result file stands, or `org/name@tag`, which is pulled and verified.

    Returns:
        [`Claim`]

    Raises:
        [`InputError`]: no such recipe or release, or it holds no results over seeds.
    """
    return _claim_of_release(name) if is_reference(name) else _claim_of_recipe(Path(name))


def find_dataset(claim: Claim, named: str | None = None) -> PreparedDataset:
    """The dataset of a claim: the named one; else the recipe's folder; for a release also the one that its manifest names.

    Args:
        claim ([`Claim`]):
            What is to be reproduced.
        named (`str`, *optional*):
            A folder, or `org/name@tag`.

    Raises:
        [`InputError`]: it is not here and not to be had, or damaged.
    """
    if named:
        return load_prepared_dataset(pull(named, "dataset") if is_reference(named) else named)
    folder = Path(claim.recipe.arguments.dataset)
    if claim.data_repo:
        here = load_prepared_dataset(folder) if folder.is_dir() else None
        if here and here.digest == claim.facts["data"]["digest"]:
            return here
        return load_prepared_dataset(pull(claim.data_repo, "dataset"))
    if not folder.is_dir():
        raise InputError("is not here; name the dataset with --dataset, a folder or org/name@v1.0", str(folder))
    return load_prepared_dataset(folder)


def facts_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """What a run or a result was made of, in one form.

    Args:
        document (`Mapping[str, Any]`):
            Content of a run's `manifest.json`, or of a `*.results.json`.

    Returns:
        `dict`: `recipe` (`fields`, and `resolved` where the document knows them) and the other parts of a manifest.
    """
    recipe = document if "fields" in document else document["recipe"]
    facts = {"recipe": {key: recipe[key] for key in ("fields", "resolved") if key in recipe}}
    return facts | {part: document[part] for part in _PARTS[1:] if document.get(part) is not None}


def facts_here(recipe: Recipe, dataset: PreparedDataset) -> dict[str, Any]:
    """What a run would be made of here and now; nothing is trained, and no weights are loaded.

    Args:
        recipe ([`Recipe`]):
            What would be trained.
        dataset ([`PreparedDataset`]):
            On what.

    Returns:
        `dict`: as [`facts_of`] gives it. Base weights that would have to be downloaded first are not in it.
    """
    tokenizer = models.load_tokenizer(recipe.model, recipe.training.chat_template_path)
    style = recipe.arguments.prompt_style
    template = tokenizer.chat_template if style == "chat" else None
    weights = models.weights_digest(recipe.model.model_name_or_path, recipe.model.model_revision)
    splits = dataset.manifest["splits"]
    facts = {
        "recipe": {"fields": recipe.fields, "resolved": recipe.resolved},
        "data": {
            "digest": dataset.digest,
            "label_set_sha256": dataset.manifest.get("label_set", {}).get("sha256"),
            "rows": {name: len(split) for name, split in dataset.splits.items()},
            "splits_sha256": {name: splits[name]["sha256"] for name in splits},
        },
        "prompt": {
            "style": style,
            "sha256": prompt_template_digest(TASKS[recipe.arguments.task], tokenizer, style),
            "chat_template_sha256": hashlib.sha256(template.encode()).hexdigest() if template else None,
        },
        "base": {"weights_sha256": weights} if weights else {},
        "code": environment.code_version(),
        "constraints_sha256": environment.constraints_sha256(),
        "packages": environment.packages(),
        "hardware": environment.hardware(),
    }
    # As a file holds it, so that both sides are of the same types.
    return json.loads(json.dumps(facts, default=str))


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """What differs between two [`facts_of`], most likely to explain another result first.

    The order: fields of the recipe, data, prompt, base, code, versions, hardware and threads. What only one side knows, as
    between manifests of different ages, is no difference, but for a field of the recipe.

    Args:
        before, now (`Mapping[str, Any]`):
            When it was published, and here.
    """
    kind = "resolved" if all("resolved" in facts["recipe"] for facts in (before, now)) else "fields"
    recipes = [
        {key: value for key, value in facts["recipe"][kind].items() if key not in _NOT_COMPARED}
        for facts in (before, now)
    ]
    names = dict.fromkeys([*recipes[0], *recipes[1]])
    pairs = [(f"recipe.{name}", recipes[0].get(name), recipes[1].get(name)) for name in names]
    for part in _PARTS[1:]:
        known, found = _flat(part, before.get(part)), _flat(part, now.get(part))
        pairs += [(name, known[name], found[name]) for name in known if name in found]
    decisive = tuple(f"{part}." for part in _DECISIVE_PARTS)
    return [
        Difference(name, earlier, later, f"{name}.".startswith(decisive))
        for name, earlier, later in pairs
        if earlier != later and name not in ("data.folder", "data.access")
    ]


def prediction_band(recorded: Mapping[str, Any] | None, smallest: float) -> tuple[float, float] | None:
    """Where one more seed of the same recipe lies with a probability of 95 %.

    mean ± t(0.975, n − 1) · sd · √(1 + 1/n), the two-sided prediction interval for one more observation of a normal
    distribution of unknown mean and variance (Hahn and Meeker, Statistical Intervals, Wiley, 1991, chapter 4). Two-sided on
    purpose: a figure that is better than its band was not reproduced either, because something is not as it was described.

    Args:
        recorded (`Mapping` or `None`):
            `mean`, `sd` and `n` over the recorded seeds.
        smallest (`float`):
            Half the width that the band has at least, also where all seeds gave the same figure.

    Returns:
        `tuple[float, float]` or `None`: both ends; `None` for fewer than two seeds, of which nothing follows.
    """
    if recorded is None or recorded["n"] < 2:
        return None
    count = recorded["n"]
    half = float(stats.t.ppf(0.975, count - 1)) * recorded["sd"] * math.sqrt(1 + 1 / count)
    half = max(half, smallest)
    return recorded["mean"] - half, recorded["mean"] + half


def judge_new_seed(results: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[Verdict]:
    """The figures of a run with a new seed beside the bands of the recorded ones.

    A figure that some recorded seeds lack, as the accuracy of automatic answers where there were none, is judged only where
    the new run has it too.

    Args:
        results (`Mapping[str, Any]`):
            Content of a `*.results.json`.
        metrics (`Mapping[str, Any]`):
            Content of the new run's `metrics.json`.
    """
    recorded, found = figures_over_seeds(results), figures_of_metrics(metrics)
    verdicts = []
    for figure in figures_to_compare(results):
        over, now = recorded[figure.name], found[figure.name]
        band = prediction_band(over, same_figure(figure))
        if over and over["n"] < len(results["seeds"]) and now is None:
            band = None
        verdicts.append(_verdict(figure, over["mean"] if over else None, band, now))
    return verdicts


def judge_same_adapter(claim: Claim, metrics: Mapping[str, Any]) -> list[Verdict]:
    """The figures of a published adapter, measured again, beside the published ones.

    Args:
        claim ([`Claim`]):
            What was published.
        metrics (`Mapping[str, Any]`):
            Content of the new `metrics.json`.
    """
    found = figures_of_metrics(metrics)
    verdicts = []
    for figure in figures_to_compare(metrics):
        published, reach = claim.figures[figure.name], same_figure(figure)
        band = None if published is None else (published - reach, published + reach)
        verdicts.append(_verdict(figure, published, band, found[figure.name]))
    return verdicts


def _verdict(
    figure: HeadlineMetric, published: float | None, band: tuple[float, float] | None, now: float | None
) -> Verdict:
    """A verdict without a band where all that is possible lies in it, because nothing could fail."""
    if band is None or (band[0] <= 0 and band[1] >= figure.largest):
        return Verdict(figure, published, None, None, now)
    return Verdict(figure, published, *band, now)


def same_figure(figure: HeadlineMetric) -> float:
    """How far a figure may move without a reason; coverage by a step more, because thresholds are tried in steps of it."""
    reach = SAME_FIGURE_UNITS * 10.0**-figure.digits
    return reach + COVERAGE_STEP if figure.name == "coverage" else reach


def same_arithmetic(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether losses must be the same to the bit: the same versions and kind of processor. Threads are set as recorded.

    Args:
        before, now (`Mapping[str, Any]`):
            From [`facts_of`].
    """
    processors = [[facts["hardware"].get(key) for key in _DECIDE_ROUNDING] for facts in (before, now)]
    return (
        before["packages"] == now["packages"]
        and None not in processors[0]
        and processors[0] == processors[1]
        and not any("gpus" in facts["hardware"] for facts in (before, now))
    )


def same_losses(recorded: Sequence[float], now: Sequence[float], exact: bool) -> list[bool]:
    """Whether each loss of the first steps is the recorded one.

    Args:
        recorded, now (`Sequence[float]`):
            One loss a step, from the first on.
        exact (`bool`):
            Whether they must be the same number; else within `SAME_LOSS` of it.

    Returns:
        `list[bool]`: one a recorded step; a step that was not reached is not the same.
    """
    reached = [*now, *[math.nan] * len(recorded)]
    reach = 0.0 if exact else SAME_LOSS
    return [abs(later - earlier) <= reach * abs(earlier) for earlier, later in zip(recorded, reached, strict=False)]


def standing_evaluation(run: Path, folder: Path, dataset_digest: str) -> dict[str, Any] | None:
    """An evaluation of a run that can be kept: of the adapter that the run holds, on the whole test split of this dataset.

    Args:
        run (`Path`):
            A finished run, or a release as it was pulled.
        folder (`Path`):
            The evaluation's folder.
        dataset_digest (`str`):
            Digest of the dataset that it must have measured.

    Returns:
        `dict` or `None`: content of its `metrics.json`; `None` where there is none, or of something else.
    """
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        whole = metrics["rows"] == run_folder.read_manifest(run)["data"]["rows"]["test"]
        fits = metrics["split"] == "test" and whole and metrics["dataset"]["digest"] == dataset_digest
    except (OSError, ValueError, LookupError, TypeError):
        return None
    adapter = run_folder.weights_of(run).sha256
    return metrics if fits and metrics.get("adapter_sha256") == adapter else None


def code_digest(scripts: Path = Path("scripts")) -> str:
    """sha256 over the files of this package and of the scripts, which a commit does not tell where the checkout was changed."""
    package = Path(__file__).parent
    digest = hashlib.sha256()
    for root in (package, scripts):
        for file in sorted(path for path in root.rglob("*") if path.suffix in (".py", ".yaml", ".jinja")):
            digest.update(f"{file.relative_to(root)}\n".encode() + file.read_bytes())
    return digest.hexdigest()


def _claim_of_recipe(path: Path) -> Claim:
    recipe = parse_recipe(path)
    file = results_path(path)
    if not file.is_file():
        raise InputError(
            f"is missing, so there is nothing to compare with; `python scripts/reproduce.py record {path}` makes it",
            str(file),
        )
    results = _read_results(file)
    run, figures = None, {}
    for row in results["seeds"]:
        folder = parse_recipe(path, ["--seed", str(row["seed"])]).output_dir
        if run_folder.is_complete(folder) and run_folder.weights_of(folder).sha256 == row.get("adapter_sha256"):
            run, figures = folder, figures_of_seed(results, row["seed"])
            break
    first = results["seeds"][0]
    return Claim(
        recipe.name,
        recipe,
        results,
        facts_of(results),
        first["seed"],
        first.get("first_losses"),
        run,
        str(run) if run else None,
        figures,
    )


def _claim_of_release(name: str) -> Claim:
    folder = pull(name)
    if not run_folder.is_release(folder):
        raise InputError("is no release of an adapter; name the adapter that it was made from, or for", name)
    if not (folder / RESULTS_FILE).is_file():
        raise InputError(
            f"holds no {RESULTS_FILE}: its recipe's result over seeds was not recorded when it was published", name
        )
    results, facts = _read_results(folder / RESULTS_FILE), run_folder.read_manifest(folder)
    if not results_fit(facts, results):
        raise InputError(f"{RESULTS_FILE} is of another recipe, data, base or prompt than the adapter", name)
    data = facts["data"]
    return Claim(
        name,
        run_of(folder)[1],
        results,
        facts_of(facts),
        facts["training"]["seed"],
        facts["training"].get("first_losses"),
        folder,
        name,
        figures_of_metrics(json.loads((folder / "metrics.json").read_text(encoding="utf-8"))),
        f"{data['repo']}@{data['tag']}" if "tag" in data else None,
    )


def _read_results(path: Path) -> dict[str, Any]:
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        # Whatever is read of it later.
        facts_of(results), figures_over_seeds(results), results["seeds"][0]["seed"]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError("is no result over seeds; record it again", str(path)) from error
    return results


def _flat(name: str, value: Any) -> dict[str, Any]:
    """Leaves of nested mappings by their dotted names."""
    if not isinstance(value, Mapping):
        return {} if value is None else {name: value}
    return {leaf: found for key, part in value.items() for leaf, found in _flat(f"{name}.{key}", part).items()}
