"""Record what a recipe reaches over several seeds, as one result file beside it.

    python scripts/reproduce.py record recipes/smollm2-135m/protocol_lora.yaml --seeds 42

Trains and evaluates every seed (finished ones are kept), writes <recipe>.results.json, and makes the tables of README.md
and of the model's README.md anew. The untuned base is evaluated with the first seed only: it does not depend on the seed.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import radrecipes  # noqa: F401  (before any library: turns telemetry off)
from radrecipes import run_folder
from radrecipes.command_line import run
from radrecipes.errors import InputError
from radrecipes.recipe import parse_recipe
from radrecipes.reporting.result_tables import results_table, with_results
from radrecipes.results import results_path, summarise

BIN = Path(sys.executable).parent


def main() -> None:
    """Parse arguments, run the seeds, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    record = verbs.add_parser("record", help="train, evaluate and publish into the result file")
    record.add_argument("recipe", help="the recipe, a YAML file")
    record.add_argument("--seeds", type=int, nargs="+", default=[42, 1, 2], help="default: 42 1 2")
    record.add_argument("--launch", default="accelerate_configs/cpu.yaml", help="launch configuration (default: cpu)")
    args = parser.parse_args()

    # Every seed, one after another; what is finished is not done again
    recipes = {seed: parse_recipe(args.recipe, ["--seed", str(seed)]) for seed in args.seeds}
    for number, (seed, recipe) in enumerate(recipes.items()):
        print(f"seed {seed}", flush=True)
        launch = [BIN / "accelerate", "launch", "--quiet", "--config_file", args.launch]
        _run([*launch, "scripts/sft.py", "--config", args.recipe, "--seed", str(seed)])
        skip = ["--skip-base"] if number else []
        _run([BIN / "python", "scripts/evaluate_model.py", "--run", recipe.output_dir, *skip])

    # The result file
    runs = []
    for recipe in recipes.values():
        metrics = (recipe.output_dir / "evaluation" / "metrics.json").read_text(encoding="utf-8")
        runs.append((run_folder.read_manifest(recipe.output_dir), json.loads(metrics)))
    seeds = " ".join(map(str, args.seeds))
    result = summarise(runs, f"python scripts/reproduce.py record {args.recipe} --seeds {seeds}")
    results_path(args.recipe).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")

    # The tables that are generated from the result files
    for document, root in (
        (Path("README.md"), "recipes"),
        (Path(args.recipe).parent / "README.md", Path(args.recipe).parent),
    ):
        if document.is_file():
            found = [json.loads(path.read_text("utf-8")) for path in sorted(Path(root).rglob("*.results.json"))]
            document.write_text(with_results(document.read_text("utf-8"), found, str(document)), encoding="utf-8")
    print(results_table([result]))


def _run(command: list) -> None:
    if subprocess.run([str(word) for word in command]).returncode:
        raise InputError("this step failed, see above; run the same command again once it is mended")


if __name__ == "__main__":
    run(main)
