"""Estimate what a recipe costs, here or on GPUs that are not at hand."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from radrecipes.cli import positive, share
from radrecipes.errors import InputError
from radrecipes.launch import compatibility
from radrecipes.planning import cpu as planning
from radrecipes.planning import gpu as gpu_planning
from radrecipes.recipe import parse_recipe
from radrecipes.training import trainer as training

PLAN_HELP = """Estimate what a recipe costs, from its data and the base's configuration; weights are not needed.

Without --gpu: memory and time of one process of this machine. With it: memory of each GPU and time under every launch
configuration that does not refuse the recipe's method, what fits, and the batch with which the others would.

    plan recipes/smollm2-135m/report_lora.yaml                                     this machine
    plan recipes/smollm2-135m/report_lora.yaml --gpu l4                            that GPU, one of it and several
    plan recipes/smollm2-135m/report_lora.yaml --gpu h100 --config fsdp2 --processes 8 --global_batch_size 64

What was assumed stands below the figures. How far plans were from real runs: benchmarks/README.md.
"""


def add_plan_arguments(planner: argparse.ArgumentParser) -> None:
    """The arguments of `plan`."""
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
