"""Fine-tune a model by a recipe: loss on the completion only, an adapter as result.

    accelerate launch --config_file accelerate_configs/cpu.yaml scripts/sft.py \
        --config recipes/smollm2-135m/protocol_lora.yaml

Any field of the recipe can be set behind it: --learning_rate 5e-4 --seed 1 --output_dir runs/mine
A finished run is left as it is; --restart trains it anew.
"""

import argparse
import shutil
import time

import radrecipes  # noqa: F401  (before any library: turns telemetry off)
from radrecipes import manifest, models, run_folder, training
from radrecipes.command_line import run
from radrecipes.data.dataset_folder import LABEL_SET_FILE, SHOWABLE_ACCESS
from radrecipes.errors import OutputInUseError
from radrecipes.inspection import load_training_data, masked_example
from radrecipes.recipe import parse_recipe
from radrecipes.tasks import TASKS
from radrecipes.tasks.rendering import prompt_template_digest


def main() -> None:
    """Train one recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, metavar="RECIPE", help="the recipe, a YAML file")
    parser.add_argument("--restart", action="store_true", help="replace what the output folder holds")
    args, overrides = parser.parse_known_args()

    # Recipe and output folder: every fault of the user's shows before any work
    recipe = parse_recipe(args.config, overrides)
    folder, state = recipe.output_dir, recipe.training.distributed_state
    run_folder.check_can_hold(recipe, args.restart)
    if run_folder.is_complete(folder) and not args.restart:
        if state.is_main_process:
            print(f"{folder} holds this run, finished; nothing to do (--restart trains anew)")
        return
    training.divide_batch(recipe, state.num_processes)

    # Data: verified against its manifest, rendered by the task, the prompt masked
    data = load_training_data(recipe)
    dataset, tokenizer, rows = data.dataset, data.tokenizer, data.rows
    task, style = TASKS[recipe.arguments.task], recipe.arguments.prompt_style

    # Only the first process writes into the folder, once nothing of the user's can be wrong any more
    with run_folder.held_by_main(folder, state.is_main_process):
        base = models.load_base(recipe.model, training.longest_row(recipe))
        if state.is_main_process:
            if run_folder.is_complete(folder) and not args.restart:
                raise OutputInUseError(f"{folder}: another run finished here in the meantime; run the command again")
            run_folder.start(folder, recipe)
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

        # Trainer
        recipe.training.output_dir = str(folder / "checkpoints")
        log = training.TrainLog(folder / "train_log.jsonl")
        trainer = training.make_trainer(recipe, base, tokenizer, rows.rows, [log])
        trainable, total = trainer.model.get_nb_trainable_parameters()
        if state.is_main_process:
            print(f"{trainable:,} of {total:,} parameters are trained ({trainable / total:.2%})")
        training.check_layout(trainer)

        # Train
        began = time.monotonic()
        result = trainer.train()
        seconds = time.monotonic() - began

        # Save the adapter, load it back, check it
        trainer.accelerator.wait_for_everyone()
        check = training.save_and_verify(trainer, recipe, folder / "adapter", probe_ids=rows.rows[0]["input_ids"])
        if state.is_main_process:
            tokenizer.save_pretrained(folder / "adapter")
            if dataset.label_set:
                shutil.copy(dataset.folder / LABEL_SET_FILE, folder / "adapter")
            run_folder.finish(
                folder,
                {
                    "recipe": {"name": recipe.name, "digest": recipe.digest, "fields": recipe.fields},
                    "base": {
                        "model_id": recipe.model.model_name_or_path,
                        "revision": recipe.model.model_revision,
                        "weights_sha256": models.weights_digest(recipe.model.model_name_or_path),
                        "dtype": str(base.dtype).removeprefix("torch."),
                        "attention": base.config._attn_implementation,
                    },
                    "data": {
                        "folder": recipe.arguments.dataset,
                        "digest": dataset.digest,
                        "access": dataset.access,
                        "label_set_sha256": dataset.manifest.get("label_set", {}).get("sha256"),
                        "rows": {name: len(split) for name, split in dataset.splits.items()},
                    },
                    "prompt": {"style": style, "sha256": prompt_template_digest(task, tokenizer, style)},
                    "training": {
                        "rows": len(rows.rows),
                        "left_out_as_too_long": len(rows.too_long),
                        "truncated": 0,
                        "tokens": rows.tokens,
                        "scored_tokens": rows.scored_tokens,
                        "steps": result.global_step,
                        "mean_loss": round(result.training_loss, 6),
                        "global_batch_size": recipe.arguments.global_batch_size,
                        "processes": state.num_processes,
                        "seed": recipe.training.seed,
                        "trainable_parameters": trainable,
                        "seconds": round(seconds, 1),
                        "samples_per_second": round(result.metrics["train_samples_per_second"], 3),
                        "peak_memory_gib": manifest.peak_memory_gib(),
                    },
                    "adapter": check,
                    "packages": manifest.packages(),
                    "hardware": manifest.hardware(),
                    "code": manifest.code_version(),
                },
            )
            print(f"trained in {seconds / 60:.1f} minutes, peak memory {manifest.peak_memory_gib():.1f} GiB")
            print(f"adapter checked and saved: {folder / 'adapter'}")
    training.close(trainer)


if __name__ == "__main__":
    run(main)
