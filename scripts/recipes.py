"""Look at recipes before training: list them, check them, see what they train on, estimate what they cost.

    python scripts/recipes.py list
    python scripts/recipes.py cp smollm2-135m/protocol_lora runs/mine.yaml   # a copy to change
    python scripts/recipes.py check                                   # all recipes, or the given ones
    python scripts/recipes.py inspect recipes/smollm2-135m/protocol_lora.yaml --rows 2
    python scripts/recipes.py check recipes/smollm2-135m/protocol_lora.yaml --launch accelerate_configs/fsdp2.yaml
    python scripts/recipes.py plan recipes/smollm2-135m/protocol_lora.yaml --lora_r 8
    python scripts/recipes.py plan recipes/smollm2-135m/protocol_lora.yaml --gpu h100 --config fsdp2 --processes 8

Any field of a recipe can be set after it, as in scripts/sft.py.
"""

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import radrecipes  # noqa: F401  (before any library: turns telemetry off)
from radrecipes.cli import fraction, positive, run
from radrecipes.errors import InputError
from radrecipes.files import YAML_LIMIT, check_writable, read_text, write_atomically
from radrecipes.launch import compatibility
from radrecipes.launch.settings import check_settings, settings_from_arguments
from radrecipes.launch.spec import arguments_from_file, spec_from_arguments
from radrecipes.planning.gpus import GPUS, did_you_mean, find_gpu
from radrecipes.recipe import find_recipes, name_of, parse_recipe, summarise_recipe
from radrecipes.shipped import ROOT

if TYPE_CHECKING:
    from radrecipes.recipe import Recipe
    from radrecipes.training.data import TrainingData

# torch and libraries based on it are imported by the functions that need them, so that `list` and `--help` are fast.

RECIPES_FOLDER = Path("recipes")
PLAN_HELP = """Estimate what a recipe costs, from its data and the configuration of the base model; weights are not needed.

Without --gpu: memory and time of one process on this machine. With it: memory per GPU and time under every launch
configuration that supports the recipe's method, what fits, and the batch size with which the others would.

    plan recipes/smollm2-135m/report_lora.yaml                                     this machine
    plan recipes/smollm2-135m/report_lora.yaml --gpu l4                            that GPU, one and several of it
    plan recipes/smollm2-135m/report_lora.yaml --gpu h100 --config fsdp2 --processes 8 --global_batch_size 64

The assumptions are printed below the numbers. How close plans were to real runs: benchmarks/README.md.
"""


def list_recipes() -> None:
    """Print one line for each recipe under `recipes/`."""
    lines = [("recipe", "task", "method", "base model", "batch", "hardware and time")]
    for path in all_recipes():
        try:
            *cells, header = summarise_recipe(path)
            lines.append((*cells, "".join(header.split(". ")[1:2])))
        except InputError:
            lines.append(
                (str(path), "-", "-", "-", "-", f"cannot be read: python scripts/recipes.py check {quote(str(path))}")
            )
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def check(paths: Sequence[Path], launch: str | None, overrides: Sequence[str]) -> None:
    """Print `ok` or the error of each recipe; exit with code 2 if any is wrong."""
    from radrecipes.training.construction import check_construction
    from radrecipes.training.data import check_data
    from radrecipes.training.start import check_start

    launching = arguments_from_file(launch) if launch else None
    configuration = compatibility.configuration_of(spec_from_arguments(launching)) if launching else None
    wrong = 0
    for path in paths or all_recipes():
        try:
            # A GPU computes in bfloat16, whatever is faster on this machine.
            on_gpu = configuration and not configuration.startswith("cpu")
            recipe = parse_recipe(path, overrides, auto_dtype="bfloat16" if on_gpu else None)
            if configuration:
                compatibility.check(recipe, configuration)
                training = recipe.training
                check_settings(settings_from_arguments(launching), training.bf16, training.tf32, launch)
            found = check_data(recipe)
            check_construction(recipe)
            check_start(recipe)
            print(f"ok     {path}: {found}")
        except InputError as error:
            wrong += 1
            message = str(error)
            print(f"error: {message}" if str(path) in message else f"error: {path}: {message}", file=sys.stderr)
    if wrong:
        sys.exit(InputError.exit_code)


def all_recipes() -> list[Path]:
    """All recipes under `recipes/`; an error if there are none."""
    paths = find_recipes(RECIPES_FOLDER)
    if not paths:
        raise InputError(f"no recipes under {RECIPES_FOLDER}/; run this in another folder")
    return paths


def copy(name: str, target: Path) -> None:
    """Copy a recipe that comes with the project, and say what to change."""
    known = {"/".join(path.with_suffix("").parts[-2:]): path for path in find_recipes(ROOT / RECIPES_FOLDER)}
    wanted = name.removeprefix("recipes/").removesuffix(".yaml")
    if wanted not in known:
        raise InputError(f"no such recipe; {did_you_mean(wanted, known)}", name)
    if target.suffix not in (".yaml", ".yml"):
        raise InputError("the name of a recipe ends with .yaml", str(target))
    check_writable(target)
    if target.exists():
        raise InputError("exists already; choose another name, or remove it", str(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, read_text(known[wanted], YAML_LIMIT))
    print(f"wrote {target}. Its runs go to runs/{name_of(target)}/. What most users change:")
    print("  dataset               the folder that `radrecipes prepare` wrote")
    print("  model_name_or_path    another base model, with its model_revision; max_length counts its tokens")
    print("  learning_rate, num_train_epochs, global_batch_size")
    print(f"then: radrecipes recipes check {quote(str(target))}")


def inspect(path: Path, shown: int, overrides: Sequence[str]) -> None:
    """Print training examples with the trained tokens marked, and statistics of all rows."""
    from radrecipes.access import may_show
    from radrecipes.tasks import TASKS
    from radrecipes.training import data as training_data

    recipe = parse_recipe(path, overrides)
    data = training_data.load_training_data(recipe, max_dropped_fraction=1.0)
    tokenizer, rows = data.tokenizer, data.rows

    # Examples
    closed = not may_show(data.dataset.access)
    if closed:
        print(f"no example is shown, because texts of {data.dataset.access} datasets are never printed")
        shown = 0
    for number in range(min(shown, len(rows.rows))):
        explanation = data.explain_example(learns=recipe.arguments.stage != "grpo")
        print(f"example {number + 1}; {explanation}\n{data.example(number)}\n")
    if recipe.learns_from_own_texts and shown:
        print_rewarded(recipe, data, count=3)

    # Tokens and lengths
    lengths = training_data.summarise_lengths([len(ids) for ids in rows.rows["input_ids"]])
    if not data.labels:
        print("stop tokens        " + ", ".join(f"{tokenizer.decode([stop])} ({stop})" for stop in data.stops))
    print(f"padding token      {tokenizer.pad_token} ({tokenizer.pad_token_id})")
    print(f"tokens per row     {lengths}")
    if not data.labels:
        answers = training_data.summarise_lengths(training_data.answer_lengths(rows.rows["labels"]))
        print(f"tokens per answer  {answers}")
        fraction = rows.scored_tokens / rows.tokens
        print(f"in the loss        {rows.scored_tokens:,} of {rows.tokens:,} tokens ({fraction:.1%})")
    total = len(rows.rows) + len(rows.too_long)
    first = f", first: row {rows.too_long[0]} of train.parquet" if rows.too_long else ""
    print(
        f"left out           {len(rows.too_long)} of {total:,} rows, longer than {recipe.training.max_length}{first}"
    )

    # What the rows are examples of
    task = TASKS[recipe.arguments.task]
    counts = training_data.count_categories(data.dataset.splits["train"], task)
    if counts:
        print(f"{task.words.categories:18} {len(counts)}")
        if closed and data.dataset.manifest.get("label_set_derived"):
            return  # labels that nobody chose: if the wrong column was named, they are notes
        for name, entries in (("most frequent", counts[:3]), ("rarest", counts[3:][-3:])):
            print(f"{name:18} " + ", ".join(f"{category} ({count})" for category, count in entries))


def print_rewarded(recipe: "Recipe", data: "TrainingData", count: int) -> None:
    """Print texts that the starting run writes to the first example, with their rewards; why not if it is not there."""
    from radrecipes.inference.drafts import write_rewarded

    try:
        written = write_rewarded(recipe, data, data.places[0], count)
    except InputError as error:
        print(f"no text with its rewards is shown: {error}\n")
        return
    print(f"{count} texts to example 1, written by {recipe.arguments.start_from}, with their rewards:\n")
    for text, rewards in written:
        print(", ".join(f"{name} {value:.2f}" for name, value in rewards.items()), text, sep="\n", end="\n\n")


def plan(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Print what a recipe costs on this machine, or on GPUs that need not be available."""
    recipe = parse_recipe(args.recipe, overrides, auto_dtype="bfloat16" if args.gpu else None)
    if not args.gpu and (args.config or args.processes or args.utilisation):
        raise InputError("--config, --processes and --utilisation need --gpu; without it the plan is for this machine")
    from radrecipes.planning import gpu_plan, machine_plan, validation_plan
    from radrecipes.planning.basis import load_basis
    from radrecipes.training.trainer import divide_batch

    if args.gpu:
        gpu, basis = find_gpu(args.gpu), load_basis(recipe)
        chosen = [args.config] if args.config else None
        found = gpu_plan.make_gpu_plan(recipe, basis, gpu, chosen, args.processes, args.utilisation)
        lines = gpu_plan.describe(found, recipe, args.gpu)
    else:
        divide_batch(recipe, processes=1)
        basis = load_basis(recipe)
        found = machine_plan.make_plan(recipe, basis)
        lines = machine_plan.describe(found, recipe)
    lines += validation_plan.describe(recipe, basis, found)
    if recipe.arguments.stage == "rejection" and not basis.has_drafts and recipe.training.max_steps <= 0:
        lines.append("not counted  the texts that pass, at most one to each prompt: up to 2 × as many steps")
    if recipe.learns_from_own_texts:
        lines.append("not counted  the texts that the model writes, which take longer than learning from them")
    if basis.note:
        print(f"note         {basis.note}")
    print("\n".join(lines))
    print("methods      " + "\n             ".join(compatibility.describe(recipe.method)))


def make_parsers() -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    """The script's parser, and the one for what `check` takes in addition to recipes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser(
        "list", help="all recipes under recipes/ or, if there is none, those that come with the project"
    )
    copier = commands.add_parser("cp", help="copy a recipe that comes with the project, to change it")
    copier.add_argument("name", metavar="RECIPE", help="for example smollm2-135m/protocol_lora")
    copier.add_argument("target", type=Path, metavar="FILE", help="the file to write, *.yaml")
    launching = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    launching.add_argument(
        "--launch", metavar="FILE", help="also check that the method runs under this accelerate configuration"
    )
    checker = commands.add_parser(
        "check",
        help="are all keys, values, hashes, templates and lengths right?",
        parents=[launching],
        allow_abbrev=False,
    )
    checker.add_argument("recipes", nargs="*", type=Path, metavar="RECIPE", help="default: all under recipes/")
    inspector = commands.add_parser("inspect", help="what the model reads and learns to write", allow_abbrev=False)
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
    planner.add_argument("--gpu", metavar="NAME", help=f"one of {', '.join(GPUS)}")
    planner.add_argument(
        "--config", metavar="NAME", help=f"with --gpu: only this of {', '.join(compatibility.GPU_CONFIGURATIONS)}"
    )
    planner.add_argument(
        "--processes",
        type=positive,
        metavar="N",
        help="with --gpu: total number of GPUs (default: 8, 4 or 2, whichever divides the batch)",
    )
    planner.add_argument(
        "--utilisation",
        type=fraction,
        metavar="FRACTION",
        help="with --gpu: fraction of the peak that matrix products reach, such as 0.4",
    )
    return parser, launching


def main() -> None:
    """Run one subcommand."""
    parser, launching = make_parsers()
    args, overrides = parser.parse_known_args()
    if args.command in ("list", "cp"):
        if overrides:
            raise InputError(f"{args.command} takes no such arguments: {' '.join(overrides)}")
        list_recipes() if args.command == "list" else copy(args.name, args.target)
    elif args.command == "check":
        # argparse would treat the value of an override as another RECIPE
        _, words = launching.parse_known_args(sys.argv[sys.argv.index("check") + 1 :])
        named = list(itertools.takewhile(lambda word: not word.startswith("--"), words))
        check([Path(word) for word in named], args.launch, words[len(named) :])
    elif args.command == "inspect":
        inspect(args.recipe, args.rows, overrides)
    else:
        plan(args, overrides)


if __name__ == "__main__":
    run(main)
