"""How many labelled rows does it take? Train every system on growing parts of a dataset, and test all on the same rows.

    python benchmarks/learning_curve.py                                               the shipped orders
    python benchmarks/learning_curve.py --dataset runs/mine --sizes 100 300 all       your own

Each recipe is trained with scripts/sft.py and evaluated with scripts/evaluate_model.py, which fits the baselines on the same rows.
Of few rows the epochs of a recipe are too few steps to learn anything: --fewest-steps trains more of them.
The rows of a size are drawn at random with the seed of the run, and smaller sizes are parts of larger ones. Validation rows, on
which baselines, thresholds and epochs are chosen, are drawn in the same proportion, because they are labelled rows too. The test
rows are always all.

Finished runs are kept in --work, so the same command continues what was interrupted. Writes <output>.json, and the table and
figure of it, <output>.md and <output>.svg. An existing <output>.json of the same dataset keeps what other commands measured, so
that recipes can be added one at a time. Nothing of the rows but counts and figures is written there.
"""

import argparse
import io
import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import radrecipes  # noqa: F401  (before any library: turns telemetry off)

# isort: split
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from measuring import at_least, evaluate_run, merged, train_recipe

from radrecipes import environment
from radrecipes.cli import positive, run
from radrecipes.data.dataset_folder import SPLITS, write_dataset_folder
from radrecipes.data.prepared import PreparedDataset, load_prepared_dataset
from radrecipes.errors import InputError
from radrecipes.evaluation.label_systems import ADAPTER
from radrecipes.files import read_json_object
from radrecipes.recipe import parse_recipe
from radrecipes.reporting.label_page import SYSTEM_TITLES

ALL = "all"
RECIPES = ["recipes/all-minilm-l6-v2/protocol_head.yaml", "recipes/smollm2-135m/protocol_lora.yaml"]
FEWEST_STEPS = 100
# Distinguishable also in grey.
_MARKERS = "osD^vPX*"


def main() -> None:
    """Train and evaluate what is missing, then write the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, default=Path("data/protocol_synthetic"), help="a prepared dataset")
    parser.add_argument("--recipes", nargs="+", default=RECIPES, help="recipes of label tasks to train")
    parser.add_argument(
        "--sizes", nargs="+", default=["100", "300", "1000", "3000", ALL], help="numbers of training rows"
    )
    parser.add_argument("--seeds", type=positive, default=3, help="runs of each size (default: 3)")
    parser.add_argument(
        "--fewest-steps",
        type=positive,
        default=FEWEST_STEPS,
        help=f"a run has at least as many epochs as this many optimizer steps need (default: {FEWEST_STEPS})",
    )
    parser.add_argument("--encoder", help="as of scripts/evaluate_model.py: a baseline encoder, or none")
    parser.add_argument("--work", type=Path, default=Path("runs/learning_curve"), help="folder of the runs")
    parser.add_argument("--output", type=Path, default=Path("docs/learning-curve"), help="result without a suffix")
    args = parser.parse_args()

    dataset = load_prepared_dataset(args.dataset)
    rows = len(dataset.splits["train"])
    sizes = sorted({_size(word, rows) for word in args.sizes})
    path = args.output.with_suffix(".json")
    earlier = read_json_object(path) if path.is_file() else {}
    # What was measured on another dataset belongs to another page.
    earlier = earlier["points"] if earlier.get("dataset", {}).get("digest") == dataset.digest else []
    points, result = [], {}
    for size in sizes:
        for seed in range(1, args.seeds + 1):
            folder = args.work / args.dataset.name / str(size) / f"seed-{seed}"
            part = args.dataset if size == rows else draw(dataset, size, seed, folder / "data")
            for recipe in args.recipes:
                print(f"{size:,} rows, seed {seed}: {recipe}", flush=True)
                options = at_least(args.fewest_steps, recipe, size)
                points += measure(recipe, part, size, seed, folder, options, args.encoder)
                result = {
                    "dataset": {"name": dataset.manifest.get("name", args.dataset.name), "digest": dataset.digest},
                    "test_rows": len(dataset.splits["test"]),
                    "points": merged(earlier, points, ("system", "rows", "seed")),
                }
                write(result, args.output)
    print(as_markdown(result))


def write(result: Mapping[str, Any], output: Path) -> None:
    """The result, its page and its figure; after every run, so that nothing is lost if the next one is interrupted."""
    output.parent.mkdir(parents=True, exist_ok=True)
    output.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    output.with_suffix(".md").write_text(as_document(result, output.with_suffix(".svg").name), encoding="utf-8")
    output.with_suffix(".svg").write_text(as_svg(result), encoding="utf-8")


def _size(word: str, rows: int) -> int:
    if word == ALL:
        return rows
    if not word.isdigit() or not 0 < int(word) <= rows:
        raise InputError(f"must be numbers from 1 to {rows:,} or {ALL}, not {word}", "--sizes")
    return int(word)


def draw(dataset: PreparedDataset, size: int, seed: int, folder: Path, validation_share: float | None = None) -> Path:
    """Write a dataset with `size` training rows and, unless stated, as large a share of the validation rows; all test rows."""
    if folder.is_dir():
        return folder
    share = size / len(dataset.splits["train"]) if validation_share is None else validation_share
    splits = {name: split.data.table for name, split in dataset.splits.items()}
    for name, count in (("train", size), ("validation", max(1, round(share * len(dataset.splits["validation"]))))):
        places = np.sort(np.random.default_rng([seed, SPLITS.index(name)]).permutation(len(splits[name]))[:count])
        splits[name] = splits[name].take(places)
    kept = {
        name: value for name, value in dataset.manifest.items() if name not in ("digest", "splits", "format_version")
    }
    card = f"{size} training rows of {dataset.manifest.get('name', dataset.folder.name)}, drawn at random\n"
    write_dataset_folder(folder, splits=splits, manifest=kept, card=card, label_set=dataset.label_set)
    return folder


def measure(
    recipe: str, dataset: Path, rows: int, seed: int, folder: Path, options: Sequence[str], encoder: str | None
) -> list[dict[str, Any]]:
    """Train and evaluate a recipe unless that is done; the exact accuracy of every system."""
    name = parse_recipe(recipe).name
    trained = train_recipe(recipe, dataset, seed, folder / name.replace("/", "_"), options)
    systems = evaluate_run(trained, dataset, trained / "evaluation", encoder)["systems"]
    return [
        {
            # Baselines do not depend on the recipe with which they were evaluated.
            "system": name if system == ADAPTER else SYSTEM_TITLES.get(system, system),
            "rows": rows,
            "seed": seed,
            "accuracy": found["exact_accuracy"]["value"],
            "processor": environment.hardware()["processor"],
        }
        for system, found in systems.items()
    ]


def summarise(points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mean and range over seeds of each system at each size."""
    found = defaultdict(list)
    for point in points:
        found[point["system"], point["rows"]].append(point["accuracy"])
    return [
        {
            "system": system,
            "rows": rows,
            "accuracy": statistics.fmean(of_seeds),
            "low": min(of_seeds),
            "high": max(of_seeds),
        }
        for (system, rows), of_seeds in sorted(found.items())
    ]


def as_document(result: Mapping[str, Any], figure: str) -> str:
    """The page of a result: figure, table, and how it was measured."""
    processors = ", ".join(sorted({point["processor"] for point in result["points"]}))
    return "\n".join(
        [
            f"# How many labelled rows does it take? {result['dataset']['name']}",
            "",
            f"![Exact accuracy of each system over the number of training rows, on a logarithmic scale]({figure})",
            "",
            as_markdown(result),
            "The rows of a size are drawn at random, with validation rows in proportion; all sizes are tested on the same rows.",
            "Recipes train for their own number of epochs, or for more where the rows are too few for a hundred steps.",
            f"`benchmarks/learning_curve.py` writes this page, and makes one for your own dataset. Trained on {processors}.",
            "",
        ]
    )


def as_markdown(result: Mapping[str, Any]) -> str:
    """A table with a row for each system, the best one of the largest size first, and a column for each size."""
    cells = {(point["system"], point["rows"]): point for point in summarise(result["points"])}
    sizes = sorted({rows for _, rows in cells})
    systems = sorted({system for system, _ in cells}, key=lambda system: -_accuracy(cells, system, sizes[-1]))
    lines = [
        f"{result['dataset']['name']}: exact accuracy on all {result['test_rows']:,} test rows, mean (lowest to highest) of "
        f"{max(Counter((point['system'], point['rows']) for point in result['points']).values())} seeds.",
        "",
        "| system | " + " | ".join(f"{size:,} rows" for size in sizes) + " |",
        "|---|" + "---:|" * len(sizes),
    ]
    for system in systems:
        found = [cells.get((system, size)) for size in sizes]
        values = [f"{it['accuracy']:.3f} ({it['low']:.3f} to {it['high']:.3f})" if it else "" for it in found]
        lines.append(f"| {system} | " + " | ".join(values) + " |")
    return "\n".join(lines) + "\n"


def _accuracy(cells: Mapping[tuple[str, int], Mapping[str, Any]], system: str, size: int) -> float:
    return cells[system, size]["accuracy"] if (system, size) in cells else -1.0


@matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "radrecipes", "legend.frameon": False})
def as_svg(result: Mapping[str, Any]) -> str:
    """Accuracy over the number of training rows, a line for each system; the bars are the range over seeds."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    by_system = defaultdict(list)
    for point in summarise(result["points"]):
        by_system[point["system"]].append(point)
    for number, (system, points) in enumerate(by_system.items()):
        rows, middle = [[point[key] for point in points] for key in ("rows", "accuracy")]
        ends = [[abs(point["accuracy"] - point[end]) for point in points] for end in ("low", "high")]
        axes.errorbar(rows, middle, ends, marker=_MARKERS[number % len(_MARKERS)], capsize=2, label=system)
    axes.set_xscale("log")
    sizes = sorted({point["rows"] for point in result["points"]})
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.set(xlabel="training rows", ylabel="exact accuracy on the test rows")
    axes.grid(axis="y", linewidth=0.5, alpha=0.5)
    figure.legend(loc="outside upper center", ncols=2)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


if __name__ == "__main__":
    run(main)
