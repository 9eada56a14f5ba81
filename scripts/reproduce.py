"""Record what a recipe reaches over several seeds, as one result file beside it.

    python scripts/reproduce.py record recipes/smollm2-135m/protocol_lora.yaml --seeds 5

Trains and evaluates every seed (42, 1, 2, …; finished ones are kept), writes <recipe>.results.json, and makes the tables of
README.md and of the model's README.md anew. The untuned base is evaluated with the first seed only: it does not depend on
the seed. An evaluation is kept where it measures this adapter on this dataset. Interrupted, the same command continues.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import radrecipes  # noqa: F401  (before any library: turns telemetry off)
from radrecipes import run_folder
from radrecipes.command_line import positive, run
from radrecipes.evaluation import BASE
from radrecipes.recipe import parse_recipe
from radrecipes.reporting.result_tables import results_table, with_results
from radrecipes.reproduction import standing_evaluation
from radrecipes.results import code_of_seeds, results_path, seeds_to_record, summarise

BIN = Path(sys.executable).parent


def main() -> None:
    """Parse arguments and do what was asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    record = verbs.add_parser("record", help="run a recipe over seeds and write its result file")
    record.add_argument("recipe", help="the recipe, a YAML file")
    record.add_argument("--seeds", type=positive, default=5, help="how many (default: 5); 42, 1, 2, … in this order")
    record.add_argument("--launch", default="accelerate_configs/cpu.yaml", help="launch configuration (default: cpu)")
    _record(parser.parse_args())


def _record(args: argparse.Namespace) -> None:
    """Train and evaluate every seed, write the result and the tables that are made from it."""
    seeds = seeds_to_record(args.seeds)
    recipes = {seed: parse_recipe(args.recipe, ["--seed", str(seed)]) for seed in seeds}

    # Every seed, one after another; what is finished is not done again
    runs = []
    for number, (seed, recipe) in enumerate(recipes.items(), 1):
        print(f"seed {seed} ({number} of {len(seeds)})", flush=True)
        _train(args.launch, "--config", args.recipe, "--seed", seed)
        manifest = run_folder.read_manifest(recipe.output_dir)
        runs.append((manifest, _evaluate(recipe.output_dir, manifest["data"]["digest"], with_base=number == 1)))

    # The result file
    result = summarise(runs, f"python scripts/reproduce.py record {args.recipe} --seeds {args.seeds}")
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
    if len(commits := code_of_seeds(result)) > 1:
        print(
            "the seeds stem from different commits: "
            + "; ".join(f"{name} {', '.join(commits[name])}" for name in commits)
        )


def _train(launch: str, *words: object) -> None:
    """Run scripts/sft.py, which continues what was interrupted and leaves what is finished."""
    _run([BIN / "accelerate", "launch", "--quiet", "--config_file", launch, "scripts/sft.py", *words])


def _evaluate(folder: Path, dataset_digest: str, with_base: bool) -> dict:
    """Figures of a run on the test split of its dataset; an evaluation that fits is kept."""
    metrics = standing_evaluation(folder, folder / "evaluation", dataset_digest)
    if metrics is None or (with_base and BASE not in metrics["systems"]):
        words = [] if with_base else ["--skip-base"]
        _run([BIN / "python", "scripts/evaluate_model.py", "--run", folder, "--restart", *words])
        metrics = json.loads((folder / "evaluation" / "metrics.json").read_text(encoding="utf-8"))
    return metrics


def _run(command: list, **environment: str) -> None:
    """Run a step; where it fails, this script ends with the same exit code. What stops this script stops the step first."""
    # In a session of its own, so that Ctrl-C in a terminal reaches it once, from here.
    step = subprocess.Popen([str(word) for word in command], start_new_session=True, env=os.environ | environment)
    before = {
        number: signal.signal(number, lambda number, frame: step.send_signal(number))
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
    }
    try:
        code = step.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if code == 75:
        print("interrupted; run the same command again, it continues", file=sys.stderr)
    elif code:
        print("this step failed, see above; run the same command again once it is mended", file=sys.stderr)
    if code:
        sys.exit(code if code > 0 else 128 - code)


if __name__ == "__main__":
    run(main)
