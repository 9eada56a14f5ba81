"""Search for the best recipe: train each candidate of a YAML file, validate after every epoch, and write a table.

    python benchmarks/recipe_search.py benchmarks/recipe_search.yaml

The file lists candidates: a recipe, the fields to change, how many training rows to draw if not all, and a name if the changes are
not a good one. So many candidates can be compared on few rows, and the best of them on all (successive halving). Each is trained
with scripts/sft.py and measured on the whole validation split; test rows are never read. The results are written next to the file,
as <file>.json, and their table as <file>.md. A candidate with the same settings as one in <file>.json is not trained again, and an
interrupted one continues: a longer file costs only what is new.
"""

import argparse
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from learning_curve import draw
from measuring import launch_training

import radrecipes  # noqa: F401  (before any library: turns telemetry off)
from radrecipes.cli import run
from radrecipes.data.prepared import load_prepared_dataset
from radrecipes.errors import InputError
from radrecipes.files import read_json, read_json_object
from radrecipes.recipe import parse_recipe
from radrecipes.training.identity import NOT_OF_REPRODUCTION, without

ALL_ROWS = 1_000_000


def main() -> None:
    """Train what is missing; write the results after each candidate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "candidates", type=Path, help="a YAML file: `metric`, and `candidates` with `recipe` and `changes`"
    )
    parser.add_argument("--work", type=Path, default=Path("runs/recipe_search"), help="folder of the runs")
    args = parser.parse_args()

    search = yaml.safe_load(args.candidates.read_text("utf-8"))
    path = args.candidates.with_suffix(".json")
    results = {found["settings"]: found for found in read_json(path)} if path.is_file() else {}
    for number, candidate in enumerate(search["candidates"], 1):
        print(f"candidate {number} of {len(search['candidates'])}: {describe(candidate)}", flush=True)
        settings = settings_of(candidate)
        if settings not in results:
            results[settings] = {
                "name": describe(candidate),
                "settings": settings,
                **measure(candidate, search["metric"], args.work),
            }
            path.write_text(json.dumps(list(results.values()), indent=2) + "\n", encoding="utf-8")
            args.candidates.with_suffix(".md").write_text(
                as_markdown(list(results.values()), search["metric"]), encoding="utf-8"
            )
    print(as_markdown(list(results.values()), search["metric"]))


def describe(candidate: Mapping[str, Any]) -> str:
    """Its recipe, its name or what is changed, and the rows if not all."""
    changes = (
        [candidate["name"]]
        if "name" in candidate
        else [
            f"{key} {' '.join(value) if isinstance(value, list) else value}"
            for key, value in (candidate.get("changes") or {}).items()
        ]
    )
    changes += [f"{candidate['rows']:,} rows"] if "rows" in candidate else []
    return ", ".join([Path(candidate["recipe"]).with_suffix("").as_posix().removeprefix("recipes/"), *changes])


def settings_of(candidate: Mapping[str, Any]) -> str:
    """A digest of what decides the result: the fields of the recipe with the changes, and the rows."""
    words = [word for key, value in (candidate.get("changes") or {}).items() for word in (f"--{key}", str(value))]
    fields = without(parse_recipe(candidate["recipe"], words).resolved, NOT_OF_REPRODUCTION)
    return hashlib.sha256(json.dumps([fields, candidate.get("rows")], sort_keys=True).encode()).hexdigest()


def measure(candidate: Mapping[str, Any], metric: str, work: Path) -> dict[str, Any]:
    """Train a candidate unless that is done; its metric after each epoch, and the training time."""
    folder = work / "".join(letter if letter.isalnum() else "_" for letter in describe(candidate))
    changes = {"eval_strategy": "epoch", "eval_rows": ALL_ROWS, **(candidate.get("changes") or {})}
    words = [word for key, value in changes.items() for word in (f"--{key}", str(value))]
    if "rows" in candidate:
        dataset = load_prepared_dataset(Path(parse_recipe(candidate["recipe"]).arguments.dataset))
        part = work / f"{dataset.folder.name}_{candidate['rows']}"
        words += ["--dataset", str(draw(dataset, candidate["rows"], seed=1, folder=part, validation_share=1.0))]
    launch_training("--config", candidate["recipe"], "--output_dir", folder, *words)
    manifest = read_json_object(folder / "manifest.json")
    training = manifest["training"]
    log = training["validation"]["evaluations"]
    if f"eval_{metric}" not in log[0]:
        raise InputError(f"{metric} is not measured; there is {', '.join(log[0])}", str(folder))
    return {
        "rows": candidate.get("rows"),
        "values": [line[f"eval_{metric}"] for line in log],
        "losses": [line["eval_loss"] for line in log],
        "minutes": (training["seconds"] - training["validation"]["seconds"]) / 60,
        "processor": manifest["hardware"]["processor"],
    }


def as_markdown(results: Sequence[Mapping[str, Any]], metric: str) -> str:
    """A row for each candidate: those of all rows first, then the best."""
    processors = ", ".join(sorted({result["processor"] for result in results}))
    lines = [
        f"{metric} on validation after each epoch, one seed; training time without validation on {processors}.",
        "",
        f"| candidate | {metric} | loss | minutes |",
        "|---|---|---|---:|",
    ]
    order = sorted(
        results,
        key=lambda result: (-(result["rows"] or math.inf), -max(result["values"]), min(result["losses"])),
    )
    for result in order:
        values, losses = (", ".join(f"{value:.3f}" for value in result[key]) for key in ("values", "losses"))
        lines.append(f"| {result['name']} | {values} | {losses} | {result['minutes']:.1f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run(main)
