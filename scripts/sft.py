"""Fine-tune a model by a recipe: loss on the completion only, an adapter as result.

    accelerate launch --config_file accelerate_configs/cpu.yaml scripts/sft.py \
        --config recipes/smollm2-135m/protocol_lora.yaml

Any field of the recipe can be set behind it: --learning_rate 5e-4 --seed 1 --output_dir runs/mine
The same command starts a run, continues one that was interrupted or killed, and leaves a finished one as it is; --restart
trains anew. Ctrl-C or SIGTERM ends it behind the running step, with a checkpoint and exit code 75.
The token ids of the dataset are kept in its folder, as .tokenised/: one process makes them, the others and later runs read them.
"""

import argparse
import os
import shutil
import sys
from typing import Any

from tqdm import tqdm

import radrecipes  # noqa: F401  (before any library: turns telemetry off)
from radrecipes.cli import positive, run
from radrecipes.data.dataset_folder import LABEL_SET_FILE, SHOWABLE_ACCESS
from radrecipes.errors import OutputInUseError
from radrecipes.launch import compatibility, peer_watchdog
from radrecipes.launch import spec as launch_spec
from radrecipes.launch.spec import LaunchSpec
from radrecipes.models import base as models
from radrecipes.recipe import Recipe, parse_recipe
from radrecipes.tasks import TASKS
from radrecipes.tasks.rendering import prompt_template_digest
from radrecipes.training import checkpoints, run_folder
from radrecipes.training import trainer as training
from radrecipes.training.data import TrainingData, load_training_data, masked_example
from radrecipes.training.divergence import DivergenceGuard
from radrecipes.training.interruption import StopRequests, stop_with_launcher
from radrecipes.training.manifest import describe_run
from radrecipes.training.sharded_adapter import KeepsAdapter


def make_parser() -> argparse.ArgumentParser:
    """The arguments beside the recipe's fields."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, metavar="RECIPE", help="the recipe, a YAML file")
    parser.add_argument("--restart", action="store_true", help="replace what the output folder holds")
    parser.add_argument(
        "--allow-change",
        nargs="+",
        choices=run_folder.PARTS,
        default=[],
        help="resume although these changed since the checkpoint; the manifest records it",
    )
    parser.add_argument(
        "--stop-after", type=positive, metavar="STEP", help="end behind this step with a checkpoint and exit code 75"
    )
    return parser


def main() -> None:
    """Parse arguments; from here on a signal ends the run in order, and the loss of another machine ends it at all."""
    args, overrides = make_parser().parse_known_args()
    stop_with_launcher()
    with StopRequests(args.stop_after) as stop:
        # Launcher and recipe: every fault of the user's shows before any work
        spec = launch_spec.spec_from_environment(os.environ)
        launch_spec.check_gpus(spec)
        recipe = parse_recipe(args.config, overrides)
        found = launch_spec.check_processes(spec, recipe.training)
        compatibility.check(recipe, compatibility.configuration_of(found))
        with peer_watchdog.watched():
            train(args, recipe, found, stop)


def train(args: argparse.Namespace, recipe: Recipe, launch: LaunchSpec, stop: StopRequests) -> None:
    """Train one recipe, or what is left of it."""
    # Output folder: what lies there must be an earlier try of this recipe
    folder, state = recipe.output_dir, recipe.training.distributed_state
    run_folder.check_can_hold(recipe, args.restart, args.allow_change)
    training.divide_batch(recipe, state.num_processes)

    # Data: verified against its manifest, rendered by the task, the prompt masked
    data = load_training_data(recipe, keep=True)
    dataset, tokenizer, rows = data.dataset, data.tokenizer, data.rows
    if run_folder.is_complete(folder) and not args.restart:
        run_folder.check_finished(folder, _identity(recipe, data, launch))
        if state.is_main_process:
            run_folder.remove_leftovers(folder)
            print(f"{folder} holds this run, finished; nothing to do (--restart trains anew)")
        return

    # Only the first process writes into the folder, once nothing of the user's can be wrong any more
    with run_folder.held_by_main(folder, state.is_main_process) as earlier:
        base = models.load_base(recipe.model, training.longest_row(recipe))
        if state.is_main_process and run_folder.is_complete(folder) and not args.restart:
            raise OutputInUseError(f"{folder}: another run finished here in the meantime; run the command again")
        identity = _identity(recipe, data, launch)  # the base is on this machine now
        anew = run_folder.Resumption()
        resumed = anew if args.restart else run_folder.find_resumption(folder, identity, args.allow_change)
        peer_watchdog.check_same_run(folder, identity, resumed.step)

        # Trainer
        recipe.training.output_dir = str(folder)
        trainer = training.make_trainer(recipe, base, tokenizer, rows.rows)
        launch_spec.check_engine(launch, trainer.accelerator)
        with checkpoints.room_for(folder, trainer.model, trainer.is_sharded):
            state.wait_for_everyone()  # all have looked at the checkpoints before the first one tidies up
            if state.is_main_process:
                run_folder.start(folder, recipe, resumed.step)
                if earlier:
                    print(f"an earlier try ({earlier}) ended without letting this folder go")
                for line in resumed.rejected:
                    print(f"left out: {line}")
                if resumed.step:
                    print(f"resuming behind step {resumed.step} ({resumed.last.folder})")
                if dataset.access in SHOWABLE_ACCESS:
                    print(masked_example(rows.rows[0], tokenizer))
                else:
                    print(
                        f"the dataset's access is {dataset.access}: no example is shown, because its texts may not leave it"
                    )
                print(
                    f"{len(rows.rows):,} rows, longest {rows.longest} tokens; 0 truncated, {len(rows.too_long)} left out as longer "
                    f"than {recipe.training.max_length}; {rows.scored_tokens:,} of {rows.tokens:,} tokens carry loss"
                )
            trainer.args.output_dir = str(checkpoints.unfinished_folder(folder))
            progress = checkpoints.Progress(resumed.last, resumed.changed)
            losses = [line["loss"] for line in run_folder.read_train_log(folder)] if resumed.step else []
            for callback in (
                DivergenceGuard(folder, trainer.rows_of_step, rows.ids, _warn, losses),
                training.TrainLog(folder / run_folder.TRAIN_LOG, progress),
                stop,
                KeepsAdapter(),
                checkpoints.WholeCheckpoints(folder, identity, progress),
            ):
                trainer.add_callback(callback)
            trainable, total = trainer.model.get_nb_trainable_parameters()
            if state.is_main_process:
                print(f"{trainable:,} of {total:,} parameters are trained ({trainable / total:.2%})")
            training.check_layout(trainer)

            # Train
            training.train(trainer, resumed.last.folder if resumed.last else None, stop)
            counted = progress.so_far()

            # Save the adapter, load it back, check it
            trainer.accelerator.wait_for_everyone()
            adapter = checkpoints.unfinished_folder(folder) / "adapter"
            check = training.save_and_verify(trainer, recipe, adapter, probe_ids=rows.rows[0]["input_ids"])
            if state.is_main_process:
                tokenizer.save_pretrained(adapter)
                if dataset.label_set:
                    shutil.copy(dataset.folder / LABEL_SET_FILE, adapter)
                log = run_folder.read_train_log(folder)
                facts = describe_run(recipe, data, base, trainer, log, identity, counted, check)
                run_folder.finish(folder, facts, adapter)
                print(
                    f"trained in {counted['seconds'] / 60:.1f} minutes, peak memory {counted['peak_memory_gib']:.1f} GiB"
                )
                print(f"adapter checked and saved: {folder / 'adapter'}")
    training.close(trainer)


def _identity(recipe: Recipe, data: TrainingData, launch: LaunchSpec) -> dict[str, Any]:
    prompt = prompt_template_digest(TASKS[recipe.arguments.task], data.tokenizer, recipe.arguments.prompt_style)
    weights = models.weights_digest(recipe.model.model_name_or_path, recipe.model.model_revision)
    return run_folder.run_identity(recipe, data.dataset.digest, weights, prompt, launch)


def _warn(line: str) -> None:
    tqdm.write(f"warning: {line}", file=sys.stderr)


if __name__ == "__main__":
    run(main)
