"""How well does a language model choose labels that it was never trained on, added to the label set afterwards?

    python benchmarks/held_out_labels.py                                        the shipped orders
    python benchmarks/held_out_labels.py --dataset data/our_orders --seeds 5    your own

Each seed draws some labels, trains the recipe without their rows and names, and then scores every label for all test rows. A
classifier with a fixed list of labels cannot answer with a new one at all, so it has no row here.

Finished runs are kept in --work, so the same command continues what was interrupted. Writes <output>.json and its table,
<output>.md, which contain no text of the rows.
"""

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import radrecipes  # noqa: F401  (before any library: turns telemetry off)

# isort: split
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from measuring import evaluate_run, train_recipe

from radrecipes.cli import positive, run
from radrecipes.data.dataset_folder import write_dataset_folder
from radrecipes.data.label_sets import LabelSet
from radrecipes.data.prepared import PreparedDataset, load_prepared_dataset
from radrecipes.errors import InputError
from radrecipes.evaluation.label_systems import ADAPTER
from radrecipes.recipe import parse_recipe

LABEL = "label"  # the column of a prepared dataset
TOP = 3


def main() -> None:
    """Train and evaluate what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, default=Path("data/protocol_synthetic"), help="a prepared dataset")
    parser.add_argument("--recipe", default="recipes/smollm2-135m/protocol_lora.yaml", help="it must score labels")
    parser.add_argument("--labels", type=positive, default=4, help="labels that are held out (default: 4)")
    parser.add_argument("--seeds", type=positive, default=3, help="runs, each with labels of its own (default: 3)")
    parser.add_argument("--work", type=Path, default=Path("runs/held_out_labels"), help="folder of the runs")
    parser.add_argument("--output", type=Path, default=Path("docs/held-out-labels"), help="result without a suffix")
    args = parser.parse_args()

    dataset, recipe = load_prepared_dataset(args.dataset), parse_recipe(args.recipe)
    if recipe.arguments.decode != "score":
        raise InputError("labels can be added only to a model that scores their names: `decode: score`", args.recipe)
    found = []
    for seed in range(1, args.seeds + 1):
        held_out = draw(dataset, args.labels, seed)
        print(f"seed {seed}: without {', '.join(held_out)}", flush=True)
        folder = args.work / args.dataset.name / recipe.name.replace("/", "_") / f"seed-{seed}"
        found.append({"seed": seed, "held_out": held_out, **measure(args.recipe, dataset, held_out, seed, folder)})
    result = {"dataset": dataset.manifest.get("name", args.dataset.name), "recipe": recipe.name, "runs": found}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    page = f"# How well are labels chosen that were added after training?\n\n{as_markdown(result)}"
    args.output.with_suffix(".md").write_text(page, encoding="utf-8")
    print(as_markdown(result))


def draw(dataset: PreparedDataset, count: int, seed: int) -> list[str]:
    """Labels to hold out, of those that have test rows, in alphabetical order."""
    names = sorted(set(dataset.splits["test"][LABEL][:]))
    if count >= len(names):
        raise InputError(f"must be fewer than the {len(names)} labels of the test rows", "--labels")
    return sorted(np.random.default_rng(seed).choice(names, count, replace=False).tolist())


def write_without(dataset: PreparedDataset, held_out: Sequence[str], folder: Path) -> Path:
    """Write the dataset without some labels and the rows that have them, unless it exists."""
    if folder.is_dir():
        return folder
    tables = {name: split.data.table for name, split in dataset.splits.items()}
    splits = {
        name: table.filter(pc.invert(pc.is_in(table[LABEL], pa.array(held_out, table[LABEL].type))))
        for name, table in tables.items()
    }
    labels = yaml.safe_load(dataset.label_set.text)
    labels["labels"] = [label for label in labels["labels"] if label["name"] not in held_out]
    pairs = labels.pop("costly_confusions", [])
    if kept_pairs := [pair for pair in pairs if not set(pair) & set(held_out)]:
        labels["costly_confusions"] = kept_pairs
    for label in labels["labels"]:
        if acceptable := label.pop("acceptable", None):
            label["acceptable"] = [name for name in acceptable if name not in held_out]
    kept = ("task", "access", "license", "language", "columns", "slice_columns", "name")
    manifest = {key: dataset.manifest[key] for key in kept if key in dataset.manifest}
    card = f"{manifest.get('name', dataset.folder.name)} without {len(held_out)} of its labels\n"
    label_set = LabelSet.from_text(yaml.safe_dump(labels, sort_keys=False, allow_unicode=True))
    write_dataset_folder(folder, splits=splits, manifest=manifest, card=card, label_set=label_set)
    return folder


def measure(recipe: str, dataset: PreparedDataset, held_out: Sequence[str], seed: int, folder: Path) -> dict[str, Any]:
    """Train without the labels, evaluate with them; how often the right label is the first, and among the first three."""
    part, trained, output = write_without(dataset, held_out, folder / "data"), folder / "run", folder / "evaluation"
    train_recipe(recipe, part, seed, trained)
    evaluate_run(trained, dataset.folder, output, encoder="none")
    answers = pd.read_parquet(output / "predictions.parquet")
    columns = (answers[f"{ADAPTER}_top{place}_label"] for place in range(1, TOP + 1))
    top = [(column == answers["reference"]).fillna(False).to_numpy(dtype=int) for column in columns]
    new = answers["reference"].isin(held_out).to_numpy()
    return {
        name: {
            "rows": int(rows.sum()),
            "first": float(top[0][rows].mean()),
            f"top_{TOP}": float(sum(top)[rows].mean()),
        }
        for name, rows in (("new_labels", new), ("trained_labels", ~new))
    }


def as_markdown(result: Mapping[str, Any]) -> str:
    """A row for the labels that were held out, and one for the others: the mean over the runs, lowest to highest."""
    runs = result["runs"]
    count = f"{len(runs)} run{'s' if len(runs) > 1 else ''}"
    lines = [
        f"{result['dataset']}, {result['recipe']}: {len(runs[0]['held_out'])} labels held out in {count}, others every "
        "time; mean (lowest to highest).",
        "",
        f"| test rows | right label first | among the first {TOP} |",
        "|---|---:|---:|",
    ]
    for title, key in (("of labels that were not trained", "new_labels"), ("of the others", "trained_labels")):
        cells = [[run[key][column] for run in runs] for column in ("first", f"top_{TOP}")]
        shown = [f"{statistics.fmean(cell):.3f} ({min(cell):.3f} to {max(cell):.3f})" for cell in cells]
        lines.append(f"| {title} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run(main)
