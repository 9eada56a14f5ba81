"""Look at recipes before training: list them, check them, see what they train on, estimate what they cost.

    python scripts/recipes.py list
    python scripts/recipes.py check                                   # all recipes, or the named ones
    python scripts/recipes.py inspect recipes/smollm2-135m/protocol_lora.yaml --rows 2
    python scripts/recipes.py check --launch accelerate_configs/fsdp2.yaml   # does each method run there?
    python scripts/recipes.py plan recipes/smollm2-135m/protocol_lora.yaml --lora_r 8
    python scripts/recipes.py plan recipes/smollm2-135m/protocol_lora.yaml --gpu h100 --config fsdp2 --processes 8

Any field of a recipe can be set behind it, as in scripts/sft.py.
"""

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

import radrecipes  # noqa: F401  (before any library that reports home: turns telemetry off)
from radrecipes.cli import run
from radrecipes.errors import InputError
from radrecipes.launch import compatibility
from radrecipes.launch.spec import spec_from_file
from radrecipes.recipe import find_recipes, header, parse_recipe
from radrecipes.training import data as inspection

from recipe_verbs.inspect import inspect
from recipe_verbs.plan import PLAN_HELP, add_plan_arguments, plan

RECIPES_FOLDER = Path("recipes")


def list_recipes() -> None:
    """Print one line for each recipe under `recipes/`."""
    lines = [("recipe", "task", "method", "base model", "batch", "what it is")]
    for path in find_recipes(RECIPES_FOLDER):
        try:
            recipe = parse_recipe(path)
        except InputError:
            lines.append((str(path), "-", "-", "-", "-", f"cannot be read: python scripts/recipes.py check {path}"))
            continue
        batch = str(recipe.arguments.global_batch_size)
        base = recipe.model.model_name_or_path
        lines.append((recipe.name, recipe.arguments.task, recipe.method, base, batch, header(path)))
    if len(lines) == 1:
        raise InputError(f"no recipes under {RECIPES_FOLDER}/; run this in the repository's folder")
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def check(paths: Sequence[Path], launch: str | None, overrides: Sequence[str]) -> None:
    """Print `ok` or the error of each recipe; leave with exit code 2 if any is wrong."""
    configuration = compatibility.configuration_of(spec_from_file(launch)) if launch else None
    paths = paths or find_recipes(RECIPES_FOLDER)
    if not paths:
        raise InputError(f"no recipes under {RECIPES_FOLDER}/; run this in the repository's folder")
    wrong = 0
    for path in paths:
        try:
            recipe = parse_recipe(path, overrides)
            if configuration:
                compatibility.check(recipe, configuration)
            print(f"ok     {path}: {inspection.check_data(recipe)}")
        except InputError as error:
            wrong += 1
            message = str(error)
            print(f"error: {message}" if str(path) in message else f"error: {path}: {message}", file=sys.stderr)
    if wrong:
        sys.exit(InputError.exit_code)


def main() -> None:
    """Run one subcommand."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("list", help="all recipes under recipes/")
    launching = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    launching.add_argument(
        "--launch", metavar="FILE", help="also: does the method run under this configuration of accelerate?"
    )
    checker = commands.add_parser(
        "check", help="is every key, value, hash, template and length right?", parents=[launching], allow_abbrev=False
    )
    checker.add_argument("recipes", nargs="*", type=Path, metavar="RECIPE", help="default: all under recipes/")
    inspector = commands.add_parser("inspect", help="what the model will read and learn to write", allow_abbrev=False)
    inspector.add_argument("recipe", type=Path, metavar="RECIPE")
    inspector.add_argument("--rows", type=int, default=3, metavar="N", help="examples to show (default: 3)")
    planner = commands.add_parser(
        "plan",
        help="steps, tokens, parameters, memory, time",
        description=PLAN_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_plan_arguments(planner)
    args, overrides = parser.parse_known_args()

    if args.command == "list":
        if overrides:
            raise InputError(f"list takes no further words: {' '.join(overrides)}")
        list_recipes()
    elif args.command == "check":
        # argparse would take the value of an override for one more RECIPE
        _, words = launching.parse_known_args(sys.argv[sys.argv.index("check") + 1 :])
        named = list(itertools.takewhile(lambda word: not word.startswith("--"), words))
        check([Path(word) for word in named], args.launch, words[len(named) :])
    elif args.command == "inspect":
        inspect(args.recipe, args.rows, overrides)
    else:
        plan(args, overrides)


if __name__ == "__main__":
    run(main)
