"""The adapter of a model that several processes hold in parts: gathered whole, and kept in checkpoints."""

import contextlib
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

# What FSDP1 puts into a module's path for each of its wrappers.
_WRAPPED = "_fsdp_wrapped_module."
# In a checkpoint under FSDP1.
_KEPT_ADAPTER = "adapter.safetensors"


def gather_adapter(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The trained tensors of a model, whole and on the CPU, whatever holds them; every process has to call it at the same point.

    accelerate's `get_state_dict` would gather the frozen base as well, which need not fit one GPU or the memory of one machine,
    and of a 4-bit base under FSDP1 it may not be possible (bitsandbytes#1405).

    Args:
        model (`torch.nn.Module`):
            The Trainer's model: as it is under one process, DDP, FSDP2, ZeRO-2 and ZeRO-3, wrapped under FSDP1.

    Returns:
        `dict[str, torch.Tensor]`: the names as without a wrapper.
    """
    gathered = {}
    modules = dict(model.named_modules())
    for path, module in modules.items():
        own = [parameter for parameter in module.parameters(recurse=False) if parameter.requires_grad]
        if not own:
            continue
        with _whole(own, modules.get(path.rpartition(".")[0])):
            for name, parameter in module.named_parameters(path, recurse=False):
                tensor = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter  # FSDP2
                gathered[name.replace(_WRAPPED, "")] = tensor.detach().cpu().clone()
    return gathered


def part_of_this_process(parameter: torch.nn.Parameter) -> torch.Tensor:
    """What this process holds of a parameter: all of it, or its shard under FSDP and ZeRO-3."""
    if isinstance(parameter, DTensor):  # FSDP2
        return parameter.to_local()
    return getattr(parameter, "ds_tensor", parameter)  # ZeRO-3, where the parameter itself is empty


def _whole(parameters: list[torch.nn.Parameter], around: torch.nn.Module | None) -> contextlib.AbstractContextManager:
    """A context in which a module's own parameters are whole, `around` the module above it."""
    if isinstance(around, FullyShardedDataParallel):  # FSDP1, whose wrapper of a trained layer holds that layer alone
        return FullyShardedDataParallel.summon_full_params(around, recurse=False, writeback=False)
    if any(hasattr(parameter, "ds_id") for parameter in parameters):  # ZeRO-3
        import deepspeed  # of the extra [gpu]

        return deepspeed.zero.GatheredParameters(parameters)
    return contextlib.nullcontext()


class KeepsAdapter(TrainerCallback):
    """Under FSDP1, writes the adapter into every checkpoint before it is sealed; what the Trainer writes there holds none.

    PEFT looks for the tensors of an adapter by the paths of its modules, and under FSDP1 the paths of wrapped layers are not the
    names of a state dict: since peft#3490 it finds nothing and writes nothing, and reads nothing, without a word. Optimizer and
    random states are not PEFT's, and are whole.
    """

    def on_save(self, args, state, control, model=None, **kwargs):
        """Gather in all processes, write in the first one."""
        if isinstance(model, FullyShardedDataParallel):
            adapter = gather_adapter(model)
            if state.is_world_process_zero:
                save_file(adapter, Path(args.output_dir) / f"checkpoint-{state.global_step}" / _KEPT_ADAPTER)


def load_kept_adapter(model: torch.nn.Module, checkpoint: Path) -> None:
    """Load what [`KeepsAdapter`] wrote, if it wrote anything; before the model is wrapped.

    Args:
        model (`torch.nn.Module`):
            The model with its adapter.
        checkpoint (`Path`):
            A verified checkpoint.

    Raises:
        [`RuntimeError`]: it is the adapter of another recipe.
    """
    if not (checkpoint / _KEPT_ADAPTER).is_file():
        return
    kept = load_file(checkpoint / _KEPT_ADAPTER)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if kept.keys() != trained.keys():
        raise RuntimeError(f"{checkpoint / _KEPT_ADAPTER}: holds another adapter than the recipe's")
    for name, parameter in trained.items():
        # In its own precision: accelerate trains in float32 what was loaded in bfloat16.
        parameter.data = kept[name].to(parameter.device)


def begin_optimizer_state(optimizer: torch.optim.Optimizer) -> None:
    """Give every parameter a state that a checkpoint can be loaded into; no weight changes.

    accelerate loads what the optimizer has already, and under FSDP1 that is nothing before the first step: the moments would begin
    anew, without a word. torch's own loading for FSDP2 begins them as is done here, with a step of no length.

    Args:
        optimizer (`~torch.optim.Optimizer`):
            The optimizer, not yet used.
    """
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
