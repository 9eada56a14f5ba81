"""What remains of accuracy, and of the promise of a threshold, on orders that another hospital writes?

    python benchmarks/other_style.py

Each recipe is trained on the shipped orders, in the folders of learning_curve.py, and tested twice: on their test split, and on the
same scenarios in the generator's second style, of which training and validation contain nothing. Baselines are fitted on the same
rows. Writes <output>.json and its table, <output>.md. Finished runs are kept, so that an interrupted command continues, and an
existing <output>.json keeps the systems that were not measured again.
"""

import argparse
import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import radrecipes  # noqa: F401  (before any library: turns telemetry off)

# isort: split
from learning_curve import FEWEST_STEPS, RECIPES
from measuring import at_least, evaluate_run, merged, run_script, train_recipe

from radrecipes import environment
from radrecipes.cli import positive, run
from radrecipes.data.prepared import load_prepared_dataset
from radrecipes.evaluation.label_systems import ADAPTER
from radrecipes.files import read_json
from radrecipes.recipe import parse_recipe
from radrecipes.reporting.label_page import SYSTEM_TITLES

DATASET = Path("data/protocol_synthetic")
TARGET = 0.95


def main() -> None:
    """Train and evaluate what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=RECIPES, help="recipes of label tasks to train")
    parser.add_argument("--seeds", type=positive, default=3, help="runs of each recipe (default: 3)")
    parser.add_argument("--encoder", help="as of scripts/evaluate_model.py: a baseline encoder, or none")
    parser.add_argument("--other", type=Path, default=Path("runs/second_style"), help="the orders in the other style")
    parser.add_argument("--work", type=Path, default=Path("runs/learning_curve"), help="folder of the runs")
    parser.add_argument("--output", type=Path, default=Path("docs/other-style"), help="result without a suffix")
    args = parser.parse_args()

    if not args.other.is_dir():
        words = ("--synthetic", "--test-style", "second", "--output", args.other)
        run_script("scripts/prepare_data.py", "protocol", *words)
    rows = len(load_prepared_dataset(DATASET).splits["train"])
    path = args.output.with_suffix(".json")
    earlier, points = read_json(path) if path.is_file() else [], []
    for seed in range(1, args.seeds + 1):
        for recipe in args.recipes:
            print(f"seed {seed}: {recipe}", flush=True)
            name = parse_recipe(recipe).name
            folder = args.work / DATASET.name / str(rows) / f"seed-{seed}" / name.replace("/", "_")
            trained = train_recipe(recipe, DATASET, seed, folder, at_least(FEWEST_STEPS, recipe, rows))
            for style, dataset, output in (("same", DATASET, "evaluation"), ("other", args.other, "evaluation-other")):
                metrics = evaluate_run(trained, dataset, trained / output, args.encoder)
                points += points_of(metrics, name, style, seed)
    found = merged(earlier, points, ("system", "style", "seed"))
    write(found, args.output)
    print(as_markdown(found))


def write(points: Sequence[Mapping[str, Any]], output: Path) -> None:
    """The points, and their page."""
    output.parent.mkdir(parents=True, exist_ok=True)
    output.with_suffix(".json").write_text(json.dumps(points, indent=2) + "\n", encoding="utf-8")
    page = f"# What remains on orders that another hospital writes?\n\n{as_markdown(points)}"
    output.with_suffix(".md").write_text(page, encoding="utf-8")


def points_of(metrics: Mapping[str, Any], recipe: str, style: str, seed: int) -> list[dict[str, Any]]:
    """Accuracy of every system, and what its threshold for the target gives."""
    points = []
    for name, system in metrics["systems"].items():
        (at_target,) = [row for row in system["selective"]["thresholds"] if row["target_accuracy"] == TARGET]
        tested = at_target["test"]
        points.append(
            {
                "system": recipe if name == ADAPTER else SYSTEM_TITLES.get(name, name),
                "style": style,
                "seed": seed,
                "processor": environment.hardware()["processor"],
                "accuracy": system["exact_accuracy"]["value"],
                "coverage": tested and tested["coverage"]["value"],
                "selective_accuracy": tested and tested["accuracy"] and tested["accuracy"]["value"],
            }
        )
    return points


def as_markdown(points: Sequence[Mapping[str, Any]]) -> str:
    """A row for each system, the most accurate in its own style first; the mean over seeds, lowest to highest."""
    found = defaultdict(dict)
    for point in points:
        for figure in ("accuracy", "coverage", "selective_accuracy"):
            found[point["system"]].setdefault((figure, point["style"]), {})[point["seed"]] = point[figure]
    seeds = max(Counter((point["system"], point["style"]) for point in points).values())
    processors = ", ".join(sorted({point["processor"] for point in points}))
    lines = [
        f"Exact accuracy on the test orders, and what the threshold for {TARGET:.0%}, fitted on validation orders in the style of",
        f"training, gives on those in the other style: mean (lowest to highest) of {seeds} seeds on {processors}.",
        "",
        "| system | accuracy, same style | other style | answered automatically, other style | of these right |",
        "|---|---:|---:|---:|---:|",
    ]
    columns = (("accuracy", "same"), ("accuracy", "other"), ("coverage", "other"), ("selective_accuracy", "other"))
    for system, figures in sorted(found.items(), key=lambda item: -_mean(item[1][columns[0]])):
        lines.append(f"| {system} | {' | '.join(_cell(figures[column]) for column in columns)} |")
    return "\n".join(lines) + "\n"


def _values(of_seeds: Mapping[int, float | None]) -> list[float]:
    return [value for value in of_seeds.values() if value is not None]


def _mean(of_seeds: Mapping[int, float | None]) -> float:
    return statistics.fmean(_values(of_seeds) or [0.0])


def _cell(of_seeds: Mapping[int, float | None]) -> str:
    values = _values(of_seeds)
    return f"{_mean(of_seeds):.3f} ({min(values):.3f} to {max(values):.3f})" if values else "–"


if __name__ == "__main__":
    run(main)
