"""Trained weights of a model that is sharded across processes: gathered, and kept in checkpoints."""

import contextlib
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

# What FSDP1 inserts into a module's path for each of its wrappers.
_WRAPPED = "_fsdp_wrapped_module."
# In a checkpoint under FSDP1.
_SAVED = "adapter.safetensors"


def gather_trained(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The complete trained tensors of a model on the CPU, by their unwrapped names; all processes must call it together.

    accelerate's `get_state_dict` would gather the frozen base model as well, which may fit neither one GPU nor the host's memory,
    and may fail for a 4-bit base model under FSDP1 (bitsandbytes#1405). `model` is the Trainer's: under FSDP1 the wrapped one.
    """
    gathered = {}
    modules = dict(model.named_modules())
    for path, module in modules.items():
        own = [parameter for parameter in module.parameters(recurse=False) if parameter.requires_grad]
        if not own:
            continue
        with _unsharded(own, modules.get(path.rpartition(".")[0])):
            for name, parameter in module.named_parameters(path, recurse=False):
                tensor = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter  # FSDP2
                gathered[name.replace(_WRAPPED, "")] = tensor.detach().cpu().clone()
    return gathered


def local_part(parameter: torch.nn.Parameter) -> torch.Tensor:
    """What this process has of a parameter: all of it, or its shard under FSDP and ZeRO-3."""
    if isinstance(parameter, DTensor):  # FSDP2
        return parameter.to_local()
    return getattr(parameter, "ds_tensor", parameter)  # ZeRO-3, where the parameter itself is empty


def _unsharded(
    parameters: list[torch.nn.Parameter], around: torch.nn.Module | None
) -> contextlib.AbstractContextManager:
    """A context in which a module's own parameters are complete, `around` the module above it."""
    if isinstance(around, FullyShardedDataParallel):  # FSDP1, which wraps each trained layer on its own
        return FullyShardedDataParallel.summon_full_params(around, recurse=False, writeback=False)
    if any(hasattr(parameter, "ds_id") for parameter in parameters):  # ZeRO-3
        import deepspeed  # from the extra [gpu]

        return deepspeed.zero.GatheredParameters(parameters)
    return contextlib.nullcontext()


class SavesTrainedWeights(TrainerCallback):
    """Under FSDP1, writes the trained weights into every checkpoint before it is sealed, because the Trainer saves none.

    PEFT finds an adapter's tensors by module paths, which under FSDP1 do not match the state dict: since peft#3490 it silently
    saves and loads nothing. Optimizer and random states are complete.
    """

    def on_save(self, args, state, control, model=None, **kwargs):
        """Gather in all processes, write in the first one."""
        if isinstance(model, FullyShardedDataParallel):
            trained = gather_trained(model)
            if state.is_world_process_zero:
                save_file(trained, Path(args.output_dir) / f"checkpoint-{state.global_step}" / _SAVED)


def load_trained_weights(model: torch.nn.Module, checkpoint: Path) -> None:
    """Load what [`SavesTrainedWeights`] wrote, if anything, into a model that is not wrapped yet."""
    if not (checkpoint / _SAVED).is_file():
        return
    saved = read_trained_weights(checkpoint)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if saved.keys() != trained.keys():
        raise RuntimeError(f"{checkpoint / _SAVED}: contains other weights than the recipe trains")
    for name, parameter in trained.items():
        # In the model's own precision: accelerate trains in float32 what was loaded in bfloat16.
        parameter.data = saved[name].to(parameter.device)


def read_trained_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """What [`SavesTrainedWeights`] wrote, by unwrapped names."""
    return load_file(checkpoint / _SAVED)
