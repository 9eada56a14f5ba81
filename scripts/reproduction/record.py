"""Record what a recipe reaches over several seeds."""

import argparse
import json
from pathlib import Path

from radrecipes.evaluation.results import code_of_seeds, results_path, seeds_to_record, summarise
from radrecipes.recipe import parse_recipe
from radrecipes.reporting.result_tables import results_table, summary_table, with_results
from radrecipes.training import run_folder

from reproduction.steps import evaluate_run, train_run


def record(args: argparse.Namespace) -> None:
    """Train and evaluate every seed, write the result and the tables that are made from it."""
    seeds = seeds_to_record(args.seeds)
    recipes = {seed: parse_recipe(args.recipe, ["--seed", str(seed)]) for seed in seeds}

    # Every seed, one after another; what is finished is not done again
    runs = []
    for number, (seed, recipe) in enumerate(recipes.items(), 1):
        print(f"seed {seed} ({number} of {len(seeds)})", flush=True)
        train_run(args.launch, "--config", args.recipe, "--seed", seed)
        manifest = run_folder.read_manifest(recipe.output_dir)
        runs.append((manifest, evaluate_run(recipe.output_dir, manifest["data"]["digest"], with_base=number == 1)))

    # The result file
    result = summarise(runs, f"python scripts/reproduce.py record {args.recipe} --seeds {args.seeds}")
    results_path(args.recipe).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")

    # The tables that are generated from the result files
    folder = Path(args.recipe).parent
    for document, root, table in (
        (Path("README.md"), Path("recipes"), summary_table),
        (folder / "README.md", folder, results_table),
    ):
        if document.is_file():
            found = [json.loads(path.read_text("utf-8")) for path in sorted(root.rglob("*.results.json"))]
            text = with_results(document.read_text("utf-8"), table(found), str(document))
            document.write_text(text, encoding="utf-8")
    print(results_table([result]))
    if len(commits := code_of_seeds(result)) > 1:
        made = "; ".join(f"{name} {', '.join(steps)}" for name, steps in commits.items())
        print(f"the seeds stem from different commits: {made}")
