"""The manifest of a finished run: what it was made of, so that others can reproduce it and compare."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerBase, Trainer

from radrecipes import environment
from radrecipes.data.prepared import PreparedDataset
from radrecipes.files import text_sha256
from radrecipes.models.base import is_text_part, weights_digest
from radrecipes.models.compute_dtype import compute_dtype
from radrecipes.models.weights import count_parameters
from radrecipes.recipe import Recipe
from radrecipes.tasks import TASKS
from radrecipes.tasks.rendering import prompt_template_digest
from radrecipes.training.data import ValidationRows
from radrecipes.training.run_folder import read_train_log
from radrecipes.training.validation import evaluations

if TYPE_CHECKING:
    from radrecipes.training.run import Run

# First steps of training, which a quick reproduction repeats.
FIRST_STEPS = 10


def made_of(recipe: Recipe, dataset: PreparedDataset, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What a run is made of: the manifest's `recipe`, `base`, `data` and `prompt`, before the base model is loaded.

    The digest of a base model that is not downloaded yet is `None`.
    """
    style, model = recipe.arguments.prompt_style, recipe.model
    template = tokenizer.chat_template if style == "chat" else None
    return {
        "recipe": {"name": recipe.name, "digest": recipe.digest, "fields": recipe.fields, "resolved": recipe.resolved},
        "base": {
            "model_id": model.model_name_or_path,
            "revision": model.model_revision,
            "weights_sha256": weights_digest(model.model_name_or_path, model.model_revision),
            "dtype": str(compute_dtype(model.dtype)).removeprefix("torch."),
        },
        "data": {
            "folder": recipe.arguments.dataset,
            "digest": dataset.digest,
            "access": dataset.access,
            "license": dataset.manifest.get("license"),
            "label_set_sha256": dataset.label_set_sha256,
            "rows": {name: len(split) for name, split in dataset.splits.items()},
            "splits_sha256": {name: split["sha256"] for name, split in dataset.manifest["splits"].items()},
            # The columns of a table that became one text.
            **{name: dataset.manifest[name] for name in ("input_columns",) if name in dataset.manifest},
        },
        "prompt": {
            "style": style,
            "sha256": prompt_template_digest(TASKS[recipe.arguments.task], tokenizer, style),
            "chat_template_sha256": text_sha256(template) if template else None,
        },
    }


def made_with() -> dict[str, Any]:
    """Packages, hardware and code of this machine, as in the manifest."""
    return {
        "packages": environment.packages(),
        "constraints_sha256": environment.constraints_sha256(),
        "hardware": environment.hardware(),
        "code": environment.code_version(),
    }


def describe_run(
    run: "Run", trainer: Trainer, counted: Mapping[str, Any], weights: Mapping[str, Any]
) -> dict[str, Any]:
    """A finished run's `manifest.json`, from what [`Progress`] counted, and under the name of its weights what
    [`~models.weights.Weights.verify`] found.
    """
    return {
        **run.facts,
        "base": {
            **run.facts["base"],
            "attention": run.base.config._attn_implementation,
            "text_part": is_text_part(run.recipe.model),
        },
        "training": _training_facts(run, trainer, counted),
        **weights,
        **made_with(),
        "determinism": environment.determinism(),
    }


def _training_facts(run: "Run", trainer: Trainer, counted: Mapping[str, Any]) -> dict[str, Any]:
    recipe, rows, args, log = run.recipe, run.data.rows, trainer.args, read_train_log(run.folder)
    losses = [line["loss"] for line in log]
    trained_rows = trainer.state.epoch * len(rows.rows)
    return {
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
        "trainable_parameters": count_parameters(trainer.model)[0],
        "seconds": round(counted["seconds"], 1),
        "samples_per_second": round(trained_rows / max(counted["seconds"], 1e-9), 3),
        **{key: counted[key] for key in ("peak_memory_gib", "checkpoint_seconds", "resumes")},
        **({"drafts": run.data.drafts} if run.data.drafts else {}),
        **({"validation": _validation_facts(run.data.validation, trainer)} if run.data.validation else {}),
    }


def _validation_facts(validation: ValidationRows, trainer: Trainer) -> dict[str, Any]:
    """What was measured during training, and which step's weights were kept."""
    args, state, found = trainer.args, trainer.state, evaluations(trainer.state)
    best = state.best_global_step if args.load_best_model_at_end else None
    return {
        "rows": len(validation.rows),
        "left_out_as_too_long": validation.too_long,
        "seconds": round(sum(line["eval_runtime"] for line in found), 1),
        "metric_for_best_model": args.metric_for_best_model,
        "best_step": state.best_global_step,
        "best_metric": state.best_metric,
        "kept_step": best or state.global_step,
        "evaluations": found,
    }
