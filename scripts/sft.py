r"""Fine-tune a model with a recipe: the loss is on the completion only, the result is an adapter, or with
`use_peft: false` a model.

    accelerate launch --config_file accelerate_configs/cpu.yaml scripts/sft.py \
        --config recipes/smollm2-135m/protocol_lora.yaml

Any field of the recipe can be set after it: --learning_rate 5e-4 --seed 1 --output_dir runs/mine
The same command starts a run, resumes one that was interrupted or killed, and leaves a finished one as it is; --restart
trains from scratch. Ctrl-C or SIGTERM ends it after the current step, with a checkpoint and exit code 75.
The token ids of the dataset are cached in its folder, as .tokenised/: one process writes them, the others and later runs read them.

Exit codes: 0 done, 1 memory or disk ran out or another machine was lost, 2 wrong recipe, data or option, 3 no checkpoint is
valid, 4 the training diverged, 5 another run uses the folder, 75 stopped with a checkpoint (the same command resumes).
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import radrecipes  # noqa: F401  (before any library: turns telemetry off)
from radrecipes.cli import positive, run
from radrecipes.training import PARTS

if TYPE_CHECKING:  # these take seconds, which would delay `--help`
    from radrecipes.recipe import Recipe
    from radrecipes.training.interruption import StopRequests


def make_parser() -> argparse.ArgumentParser:
    """The arguments in addition to the recipe's fields."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, metavar="RECIPE", help="the recipe, a YAML file")
    parser.add_argument("--restart", action="store_true", help="replace the run in the output folder")
    parser.add_argument(
        "--allow-change",
        nargs="+",
        choices=PARTS,
        default=[],
        help="resume even if these changed since the checkpoint; the manifest records the change",
    )
    parser.add_argument(
        "--stop-after", type=positive, metavar="STEP", help="end after this step with a checkpoint and exit code 75"
    )
    return parser


def main() -> None:
    """Parse arguments; from here on a signal ends the run cleanly."""
    args, overrides = make_parser().parse_known_args()
    import radrecipes.inference.validation  # these take seconds, so they are imported before signals are handled
    import radrecipes.training.run  # noqa: F401
    from radrecipes.training.interruption import StopRequests, stop_with_launcher

    stop_with_launcher()
    with StopRequests(args.stop_after) as stop:
        train_recipe(args, overrides, stop)


def train_recipe(args: argparse.Namespace, overrides: Sequence[str], stop: "StopRequests") -> None:
    """Train one recipe, or what is left of it."""
    from accelerate.utils import broadcast_object_list

    from radrecipes.inference.drafts import GroupWriter
    from radrecipes.inference.validation import task_metrics
    from radrecipes.launch import compatibility, settings, spec
    from radrecipes.models.compute_dtype import AUTO
    from radrecipes.models.weights import weights_to_train
    from radrecipes.recipe import parse_recipe
    from radrecipes.training.layout_check import check_layout
    from radrecipes.training.run import make_trainer, open_run, save
    from radrecipes.training.run_folder import recorded_dtype
    from radrecipes.training.trainer import close, train
    from radrecipes.training.validation import check_metrics

    # Launcher and recipe: every user error is reported before any work
    requested = spec.spec_from_environment(os.environ)
    spec.check_gpus(requested)
    recipe = parse_recipe(args.config, overrides)
    if recipe.fields.get("dtype") == AUTO and not args.restart:  # a resumed run keeps the one that it began with
        recipe = parse_recipe(args.config, overrides, recorded_dtype(recipe.output_dir))
    launch = spec.check_processes(requested, recipe.training)
    if recipe.fields.get("dtype") == AUTO:  # measured in every process, and the first one decides
        recipe = parse_recipe(args.config, overrides, broadcast_object_list([recipe.model.dtype])[0])
    settings.check_settings(os.environ, recipe.training.bf16, recipe.training.tf32)
    compatibility.check(recipe, compatibility.configuration_of(launch))

    if recipe.arguments.stage == "rejection":
        write_missing_drafts(recipe, args)
    with open_run(recipe, launch, args.restart, args.allow_change) as opened:
        say = print if opened.is_main_process else _say_nothing
        if opened.is_finished:
            say(f"{opened.folder} contains this run, finished; nothing to do (--restart trains from scratch)")
            return
        metrics = task_metrics(recipe, opened.data) if recipe.validates else None
        write = GroupWriter(recipe, opened.data) if recipe.arguments.stage == "grpo" else None
        trainer = make_trainer(opened, stop, _tell, metrics, write)
        if not trainer.is_sharded:
            check_layout(trainer)
        check_metrics(trainer)
        opened.start(trainer)
        say(*opened.describe(trainer), sep="\n")
        train(trainer, opened.checkpoint, stop)
        counted = save(trainer, opened)
        say(f"trained in {counted['seconds'] / 60:.1f} minutes, peak memory {counted['peak_memory_gib']:.1f} GiB")
        weights = weights_to_train(recipe.model, opened.folder)
        say(f"{weights.NAME} checked and saved: {weights.folder}")
        close(trainer)


def write_missing_drafts(recipe: "Recipe", args: argparse.Namespace) -> None:
    """Let the run that the recipe continues from write texts to the training prompts, those that are not there yet."""
    from tqdm import tqdm

    from radrecipes.inference.drafts import write_drafts
    from radrecipes.training import run_folder
    from radrecipes.training.construction import check_construction
    from radrecipes.training.data import load_training_data
    from radrecipes.training.drafts import drafts_of
    from radrecipes.training.manifest import made_of

    run_folder.check_can_hold(recipe, args.restart, args.allow_change)
    if run_folder.is_complete(recipe.output_dir) and not args.restart:
        return
    check_construction(recipe)
    data = load_training_data(recipe, keep=True)
    drafts = drafts_of(recipe, data)
    drafts.start.check_fits(made_of(recipe, data.dataset, data.tokenizer))
    with tqdm(total=len(drafts.places), desc="drafts", unit="prompt", initial=drafts.done) as progress:
        write_drafts(recipe, data, drafts, progress.update)


def _tell(line: str) -> None:
    from tqdm import tqdm

    tqdm.write(line, file=sys.stderr)


def _say_nothing(*lines: str, **options: str) -> None:
    """In all processes but the first."""


if __name__ == "__main__":
    run(main)
