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

from rich.console import Console
from rich.text import Text

import radrecipes  # noqa: F401  (before any library that reports home: turns telemetry off)
from radrecipes import compatibility, gpu_planning, inspection, launch_files, planning, training
from radrecipes.command_line import positive, run, share
from radrecipes.errors import InputError
from radrecipes.recipe import find_recipes, header, parse_recipe
from radrecipes.tasks import TASKS

RECIPES_FOLDER = Path("recipes")
PLAN_HELP = """Estimate what a recipe costs, from its data and the base's configuration; weights are not needed.

Without --gpu: memory and time of one process of this machine. With it: memory of each GPU and time under every launch
configuration that does not refuse the recipe's method, what fits, and the batch with which the others would.

    plan recipes/smollm2-135m/report_lora.yaml                                     this machine
    plan recipes/smollm2-135m/report_lora.yaml --gpu l4                            that GPU, one of it and several
    plan recipes/smollm2-135m/report_lora.yaml --gpu h100 --config fsdp2 --processes 8 --global_batch_size 64

What was assumed stands below the figures. How far plans were from real runs: benchmarks/README.md.
"""


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
    configuration = compatibility.configuration_of(launch_files.promise_in(launch)) if launch else None
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


def inspect(path: Path, shown: int, overrides: Sequence[str]) -> None:
    """Print training examples with the trained tokens marked, and what all rows look like."""
    recipe = parse_recipe(path, overrides)
    data = inspection.load_training_data(recipe, max_dropped_fraction=1.0)
    tokenizer, rows, console = data.tokenizer, data.rows, Console(highlight=False, soft_wrap=True)

    # Examples: colour on a terminal, the brackets everywhere
    for number in range(min(shown, len(rows.rows))):
        prompt, answer = inspection.prompt_and_answer(rows.rows[number], tokenizer)
        console.print(Text(f"example {number + 1}; only ⟦…⟧ carries loss", style="bold"))
        console.print(Text.assemble((prompt, "dim"), (f"⟦{answer}⟧", "bold green")), end="\n\n")

    # Tokens and lengths
    lengths = inspection.summarise_lengths([len(ids) for ids in rows.rows["input_ids"]])
    answers = inspection.summarise_lengths(inspection.answer_lengths(rows.rows["labels"]))
    print("stop tokens        " + ", ".join(f"{tokenizer.decode([stop])} ({stop})" for stop in data.stops))
    print(f"padding token      {tokenizer.pad_token} ({tokenizer.pad_token_id})")
    for name, found in (("tokens a row", lengths), ("tokens an answer", answers)):
        print(
            f"{name:18} min {found.smallest}, median {found.median:g}, 95 % {found.percentile_95}, max {found.largest}"
        )
    print(
        f"carry loss         {rows.scored_tokens:,} of {rows.tokens:,} tokens ({rows.scored_tokens / rows.tokens:.1%})"
    )
    total = len(rows.rows) + len(rows.too_long)
    first = f", first: row {rows.too_long[0]}" if rows.too_long else ""
    print(
        f"left out           {len(rows.too_long)} of {total:,} rows, longer than {recipe.training.max_length}{first}"
    )

    # What the rows are examples of
    task = TASKS[recipe.arguments.task]
    labels = inspection.count_categories(data.dataset.splits["train"], task)
    print(f"{'labels' if task.writes == 'label' else 'observations':18} {len(labels)}")
    for name, entries in (("most rows", labels[:3]), ("least rows", labels[-3:])):
        print(f"{name:18} " + ", ".join(f"{label} ({count})" for label, count in entries))


def plan(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Print what a recipe will cost on this machine, or on GPUs that are not at hand."""
    recipe = parse_recipe(args.recipe, overrides)
    if not args.gpu and (args.config or args.processes or args.utilisation):
        raise InputError(
            "--config, --processes and --utilisation go with --gpu; without it the plan is for this machine"
        )
    if args.gpu:
        gpu = gpu_planning.find_gpu(args.gpu)
        basis = planning.load_basis(recipe)
        chosen = [args.config] if args.config else None
        found = gpu_planning.make_gpu_plan(
            *(recipe, basis.rows, basis.tokenizer, gpu, chosen, args.processes, args.utilisation), config=basis.config
        )
        lines = gpu_planning.describe(found, recipe, args.gpu)
    else:
        training.divide_batch(recipe, processes=1)
        basis = planning.load_basis(recipe)
        found = planning.make_plan(recipe, basis.rows, basis.tokenizer, config=basis.config)
        lines = planning.describe(found, recipe)
    if basis.note:
        print(f"note         {basis.note}")
    print("\n".join(lines))
    print("methods      " + "\n             ".join(compatibility.describe(recipe.method)))


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
    planner.add_argument("recipe", type=Path, metavar="RECIPE")
    planner.add_argument("--gpu", metavar="NAME", help=f"one of {', '.join(gpu_planning.GPUS)}")
    planner.add_argument(
        "--config", metavar="NAME", help=f"with --gpu: only that of {', '.join(gpu_planning.gpu_configurations())}"
    )
    planner.add_argument(
        "--processes",
        type=positive,
        metavar="N",
        help="with --gpu: GPUs in all (default: 8, 4 or 2, as the batch divides)",
    )
    planner.add_argument(
        "--utilisation",
        type=share,
        metavar="SHARE",
        help="with --gpu: share of the peak that products reach, such as 0.4",
    )
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
