"""What training builds from a recipe besides data and weights, built to find out whether it can be."""

import contextlib
from collections.abc import Iterator

import torch
import torch.utils.checkpoint
from accelerate.utils import TorchDynamoPlugin
from peft import get_peft_model
from transformers import PreTrainedConfig, PreTrainedModel, Trainer, get_scheduler
from transformers.integrations import get_reporting_integration_callbacks, is_deepspeed_zero3_enabled
from trl import get_quantization_config

from radrecipes.errors import InputError, shown
from radrecipes.models.base import base_without_weights, folder_on_this_machine, load_config
from radrecipes.models.compute_dtype import compute_dtype
from radrecipes.models.weights import lora_config
from radrecipes.recipe import Recipe
from radrecipes.training.trainer import check_trainable


def check_construction(recipe: Recipe) -> None:
    """Build optimizer, schedule, callbacks and, if the base model's configuration is on this machine, the model to train.

    An [`InputError`] names the field with which that fails, for example because a package is missing. Nothing is written and no
    weights are needed.
    """
    args = recipe.training
    model = None
    # Under ZeRO-3 Transformers would divide it among the processes as it is built; `recipes.py check` builds it.
    local = folder_on_this_machine(recipe.model.model_name_or_path, recipe.model.model_revision)
    if local and not is_deepspeed_zero3_enabled():
        config = load_config(recipe.model)
        with building(recipe, "lora_target_modules", "attn_implementation", "use_dora"):
            model = build_on_meta(
                recipe, config, compute_dtype(recipe.model.dtype), recipe.model.attn_implementation or "eager"
            )
    with building(recipe, "optim", "optim_args"):
        kind, options = Trainer.get_optimizer_cls_and_kwargs(args, model)
        # Some optimizers are given what they optimise as an option.
        given = [options.pop(name) for name in ("params", "model", "optimizer_dict") if name in options]
        # Not the model's, because a fused optimizer takes no parameter on the meta device.
        optimizer = kind(*(given[:1] or [[torch.nn.Parameter(torch.zeros(1))]]), **options)
    with building(recipe, "lr_scheduler_type", "lr_scheduler_kwargs"):
        # Without warm-up steps the first learning rate already follows from the other options.
        get_scheduler(args.lr_scheduler_type, optimizer, 0, 100, scheduler_specific_kwargs=args.lr_scheduler_kwargs)
    _check_running(recipe)
    with building(recipe, "report_to"):
        for callback in get_reporting_integration_callbacks(args.report_to):
            callback()


def build_on_meta(recipe: Recipe, config: PreTrainedConfig, dtype: torch.dtype, attention: str) -> PreTrainedModel:
    """The base model, with a new adapter if the recipe trains one, on the meta device: every shape, no memory.

    `dtype` is the base model's, also of layers that training quantises; with eager attention it keeps attention's matrix. Raises an
    [`InputError`] if the recipe does not fit the base model.
    """
    with torch.device("meta"):
        base = base_without_weights(recipe.model, config, dtype, attention)
        check_trainable(recipe, base)
        if not recipe.model.use_peft:
            return base
        return get_peft_model(base, lora_config(recipe.model), low_cpu_mem_usage=True)


def _check_running(recipe: Recipe) -> None:
    """Build what feeds, recomputes and compiles the model."""
    args = recipe.training
    with building(recipe, *(name for name in recipe.fields if name.startswith("dataloader_"))):
        torch.utils.data.DataLoader(
            [0],
            num_workers=args.dataloader_num_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            persistent_workers=args.dataloader_persistent_workers,
        )
    if args.activation_checkpointing_kwargs:
        with building(recipe, "activation_checkpointing_kwargs"):
            options = {"use_reentrant": False, **args.activation_checkpointing_kwargs}
            torch.utils.checkpoint.checkpoint(torch.neg, torch.zeros(1, requires_grad=True), **options)
    if args.torch_compile:
        with building(recipe, "torch_compile_backend", "torch_compile_mode"):
            plugin = TorchDynamoPlugin(backend=args.torch_compile_backend, mode=args.torch_compile_mode)
            torch.compile(torch.nn.Identity(), **plugin.to_kwargs())
    with building(recipe, "bnb_4bit_quant_storage", "bnb_4bit_quant_type"):
        get_quantization_config(recipe.model)


@contextlib.contextmanager
def building(recipe: Recipe, *fields: str) -> Iterator[None]:
    """Make an [`InputError`] that names fields of the recipe of whatever a library raises."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # each library raises its own
        named = ", ".join(f"{field}: {shown(recipe.fields[field], 60)}" for field in fields if field in recipe.fields)
        named = named or ", ".join(fields)
        raise InputError(
            f"training cannot start {f'with `{named}` ' if named else ''}here ({type(error).__name__}: {shown(error)})",
            str(recipe.path),
        ) from error
