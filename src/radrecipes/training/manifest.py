"""The manifest of a finished run: what it was made of, so that somebody else can make it again and compare."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedModel

from radrecipes import environment
from radrecipes.models import base as models
from radrecipes.recipe import Recipe
from radrecipes.training.data import TrainingData
from radrecipes.training.trainer import CompletionTrainer

# The beginning of training that a short check repeats.
FIRST_STEPS = 10


def describe_run(
    recipe: Recipe,
    data: TrainingData,
    base: PreTrainedModel,
    trainer: CompletionTrainer,
    log: Sequence[Mapping[str, Any]],
    identity: Mapping[str, Any],
    progress: Mapping[str, Any],
    adapter: Mapping[str, Any],
) -> dict[str, Any]:
    """The manifest of a finished run.

    Args:
        recipe ([`Recipe`]):
            What was trained.
        data ([`TrainingData`]):
            What on.
        base ([`~transformers.PreTrainedModel`]):
            The loaded base.
        trainer ([`CompletionTrainer`]):
            The trainer, its training done.
        log (`Sequence[Mapping]`):
            The lines of `train_log.jsonl`.
        identity (`Mapping`):
            From [`~run_folder.run_identity`].
        progress (`Mapping`):
            `seconds`, `checkpoint_seconds`, `peak_memory_gib` and `resumes`, over all tries of the run.
        adapter (`Mapping`):
            What checking the saved adapter found.

    Returns:
        `dict`: content of `manifest.json`.
    """
    dataset, rows, args = data.dataset, data.rows, trainer.args
    losses = [line["loss"] for line in log]
    trained_rows = trainer.state.epoch * len(rows.rows)
    style = recipe.arguments.prompt_style
    template = data.tokenizer.chat_template if style == "chat" else None
    return {
        "recipe": {
            "name": recipe.name,
            "digest": recipe.digest,
            "fields": recipe.fields,
            "resolved": recipe.resolved,
        },
        "base": {
            "model_id": recipe.model.model_name_or_path,
            "revision": recipe.model.model_revision,
            "weights_sha256": identity["base.weights_sha256"],
            "dtype": str(base.dtype).removeprefix("torch."),
            "attention": base.config._attn_implementation,
            "text_part": models.is_text_part(recipe.model),
        },
        "data": {
            "folder": recipe.arguments.dataset,
            "digest": dataset.digest,
            "access": dataset.access,
            "label_set_sha256": dataset.manifest.get("label_set", {}).get("sha256"),
            "rows": {name: len(split) for name, split in dataset.splits.items()},
            "splits_sha256": {name: split["sha256"] for name, split in dataset.manifest["splits"].items()},
        },
        "prompt": {
            "style": style,
            "sha256": identity["prompt.sha256"],
            "chat_template_sha256": hashlib.sha256(template.encode()).hexdigest() if template else None,
        },
        "training": {
            "rows": len(rows.rows),
            "left_out_as_too_long": len(rows.too_long),
            "truncated": 0,
            "tokens": rows.tokens,
            "scored_tokens": rows.scored_tokens,
            "steps": trainer.state.global_step,
            "mean_loss": round(sum(losses) / max(len(losses), 1), 6),
            "first_losses": losses[:FIRST_STEPS],
            "loss_spikes": [line["step"] for line in log if line.get("loss_spike")],
            "global_batch_size": recipe.arguments.global_batch_size,
            "per_device_batch_size": args.per_device_train_batch_size,
            "accumulation_steps": args.gradient_accumulation_steps,
            "processes": trainer.accelerator.num_processes,
            "seed": recipe.training.seed,
            "trainable_parameters": trainer.model.get_nb_trainable_parameters()[0],
            "seconds": round(progress["seconds"], 1),
            "samples_per_second": round(trained_rows / max(progress["seconds"], 1e-9), 3),
            "peak_memory_gib": progress["peak_memory_gib"],
            "checkpoint_seconds": progress["checkpoint_seconds"],
            "resumes": progress["resumes"],
        },
        "adapter": dict(adapter),
        "packages": environment.packages(),
        "constraints_sha256": environment.constraints_sha256(),
        "hardware": environment.hardware(),
        "determinism": environment.determinism(),
        "code": environment.code_version(),
    }
