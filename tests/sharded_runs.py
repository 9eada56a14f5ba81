"""Runs of `scripts/sft.py` under the shipped configurations for several GPUs, as two processes on the CPU.

accelerate makes DDP of FSDP and DeepSpeed where there is no GPU. Here it is told otherwise, by what `as_on_gpus` patches;
everything else is as on GPUs: the variables that the launcher sets for the shipped file, accelerate, the Trainer, torch's FSDP and
DeepSpeed's ZeRO. DeepSpeed has to be there when the libraries are imported, so that its runs have a process of their own, with
DeepSpeed's folder in PYTHONPATH:

python sharded_runs.py zero2/LoRA zero3/LoRA
"""

import dataclasses
import functools
import importlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import torch
from accelerate.commands import launch as accelerate_launch
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from safetensors.torch import load_file
from sft_faults import all_of, before, break_weight, die, in_step, losses_of, two_ranks

from radrecipes.errors import DivergedError
from radrecipes.training.sharded import local_part

BASE = "tiny/wide"
WEIGHTS = "*/*model.safetensors"
# Two epochs of six steps.
SFT = ("scripts/sft.py", "--model_name_or_path", BASE, "--num_train_epochs", "2", "--save_steps", "5", "--config")
# Dropout, so that a wrong random state shows, and a rank that two processes cannot share evenly.
LORA = (*SFT, "recipes/tiny/protocol_lora.yaml", "--lora_dropout", "0.2", "--lora_r", "3")
METHODS = {
    "full": (*SFT, "recipes/tiny/protocol_full.yaml"),
    "LoRA": LORA,
    "8bit": (*LORA, "--dtype", "bfloat16", "--load_in_8bit", "true"),
    "4bit": (*LORA, "--dtype", "bfloat16", "--load_in_4bit", "true", "--bnb_4bit_quant_storage", "bfloat16"),
}


class Proved(NamedTuple):
    """How a run under a configuration compares with one under DDP.

    Attributes:
        share (`float`):
            Of the bytes of weights that a process holds under DDP.
        losses_off (`float`):
            Largest difference of a step's loss.
        weights_off (`float`):
            Largest difference of a trained number.
    """

    share: float
    losses_off: float
    weights_off: float


def prove(configuration: str, method: str, workspace: Path) -> Proved:
    """Train under DDP and under the configuration, train again with both processes killed in between, and compare."""
    runs = Path(tempfile.mkdtemp(dir=workspace))
    words, environment = METHODS[method], environment_of(configuration)
    ddp = under_ddp(method, workspace)
    whole = train_and_look(workspace, runs / "whole", *words, environment=environment)

    kill = [partial(in_step, 8, die)] * 2
    train(workspace, runs / "killed", *words, environment=environment, faults=kill, code=-signal.SIGKILL)
    assert [path.name for path in (runs / "killed/checkpoints").glob("checkpoint-*")] == ["checkpoint-5"]
    resumed = train(workspace, runs / "killed", *words, environment=environment)
    assert resumed == whole.losses, "the losses continued differently"
    killed, uninterrupted = (next((runs / name).glob(WEIGHTS)) for name in ("killed", "whole"))
    assert killed.read_bytes() == uninterrupted.read_bytes(), "other weights"

    broken = [partial(break_weight, 5)]
    train(workspace, runs / "broken", *words, environment=environment, faults=broken, code=DivergedError.exit_code)
    assert not list((runs / "broken/checkpoints").glob("checkpoint-*")), "an infinite weight was kept"

    assert whole.weights.keys() == ddp.weights.keys()
    return Proved(
        share=whole.held_bytes / ddp.held_bytes,
        losses_off=max(abs(one - other) for one, other in zip(whole.losses, ddp.losses, strict=True)),
        weights_off=max(float((tensor - ddp.weights[name]).abs().max()) for name, tensor in whole.weights.items()),
    )


class Trained(NamedTuple):
    """A complete run: its losses, what it trained, and the bytes of weights that a process held at most between two steps."""

    losses: list[float]
    weights: dict[str, torch.Tensor]
    held_bytes: int


@functools.cache
def under_ddp(method: str, workspace: Path) -> Trained:
    """A method on two CPU processes as `cpu_2proc.yaml` starts them."""
    return train_and_look(workspace, Path(tempfile.mkdtemp(dir=workspace)) / "ddp", *METHODS[method])


def train_and_look(workspace: Path, run: Path, *words: str, environment: Mapping[str, str] | None = None) -> Trained:
    """As [`train`], and look at what came out."""
    notes = [run.with_name(f"held-{run.name}-{rank}") for rank in (0, 1)]
    faults = [partial(note_held_bytes, note) for note in notes]
    losses = train(workspace, run, *words, environment=environment, faults=faults)
    return Trained(losses, load_file(next(run.glob(WEIGHTS))), max(int(note.read_text("utf-8")) for note in notes))


def train(
    workspace: Path,
    run: Path,
    *words: str,
    environment: Mapping[str, str] | None = None,
    faults: Sequence[Callable[[], None]] = (),
    code: int = 0,
) -> list[float]:
    """Train in two processes; returns the losses so far.

    Args:
        workspace (`Path`):
            Their working directory.
        run (`Path`):
            The run's folder.
        words (`str`):
            Script and arguments.
        environment (`Mapping`, *optional*):
            From [`environment_of`]; DDP without one.
        faults (`Sequence[Callable]`, *optional*):
            One for the first process, one for the second.
        code (`int`, *optional*, defaults to 0):
            With which both have to end.
    """
    before_script = [as_on_gpus] if environment else []
    calls = {rank: partial(all_of, *before_script, *faults[rank : rank + 1]) for rank in (0, 1)}
    scripts = two_ranks(workspace, *words, "--output_dir", run, faults=calls, environment=environment)
    codes = [script.end(120).code for script in scripts]
    assert codes == [code, code], (codes, *(script.stderr for script in scripts))
    return losses_of(run)


def environment_of(configuration: str) -> dict[str, str]:
    """The variables that `accelerate launch` sets for two processes of a shipped configuration."""
    words = ["--config_file", f"accelerate_configs/{configuration}.yaml", "--num_processes", "2", "script.py"]
    found = []
    with (
        patch.object(accelerate_launch, "multi_gpu_launcher", lambda args: found.append(prepare_multi_gpu_env(args))),
        patch.object(
            accelerate_launch, "deepspeed_launcher", lambda args: found.append(prepare_deepspeed_cmd_env(args)[1])
        ),
    ):
        accelerate_launch.launch_command(accelerate_launch.launch_command_parser().parse_args(words))
    (whole,) = found
    ours = {name: value for name, value in whole.items() if name.startswith(("ACCELERATE_", "FSDP_"))}
    return ours | {"ACCELERATE_TORCH_DEVICE": "cpu"}


def as_on_gpus() -> None:
    """Have accelerate and this project take this process, which is on the CPU, for one of several on GPUs."""
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType
    from accelerate.utils import dataclasses as plugins
    from torch.distributed.fsdp import _init_utils
    from transformers import training_args

    from radrecipes.launch import spec as launch_spec

    torch.accelerator.is_available = training_args.is_torch_bf16_gpu_available = lambda: True
    PartialState._prepare_backend = lambda *args, **options: ("gloo", DistributedType.MULTI_GPU)
    # FSDP1 sends the weights to a GPU of each process, and checks whether they are there.
    plugins.is_cuda_available, torch.cuda.current_device = (lambda: True), (lambda: torch.device("cpu"))
    _init_utils._check_module_states_for_sync_module_states = lambda states: None
    if "ACCELERATE_USE_DEEPSPEED" in os.environ:
        # For CPUs alone, and it wants a compiler.
        importlib.import_module("deepspeed.comm.torch").build_shm_op = lambda: None
    check, anywhere = launch_spec.check_processes, partial(dataclasses.replace, on_cpu=None)
    launch_spec.check_processes = lambda spec, args: dataclasses.replace(check(anywhere(spec), args), on_cpu=False)


def note_held_bytes(path: Path) -> None:
    """Note how many bytes of the model this process has between two steps."""
    before("radrecipes.training.trainer", "CompletionTrainer.training_step", partial(_note_held_bytes, path), call=2)


def _note_held_bytes(path, trainer, *ignored):
    parts = map(local_part, trainer.model.parameters())
    storages = {part.untyped_storage().data_ptr(): part.untyped_storage().nbytes() for part in parts}
    path.write_text(str(sum(storages.values())), encoding="utf-8")


def forget_the_table() -> None:
    """Have methods trained that are refused."""
    from radrecipes.launch import compatibility

    compatibility.check = lambda recipe, configuration: None


def main() -> None:
    """Print the figures of each cell as a line of JSON."""
    for cell in sys.argv[1:]:
        print(json.dumps([cell, *prove(*cell.split("/"), Path.cwd())]), flush=True)


if __name__ == "__main__":
    main()
