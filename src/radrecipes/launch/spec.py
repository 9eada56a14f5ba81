"""What a launch configuration requests (processes, engine, device), and whether the running processes match it.

accelerate degrades silently: FSDP on a CPU becomes DDP, `MULTI_CPU` and `--cpu` start one process, several processes ignore
`use_cpu`, and a configuration for GPUs trains on the CPU if there is none. Here each of these is an [`InputError`].
"""

import argparse
import enum
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from radrecipes.errors import InputError, shown
from radrecipes.files import YAML_LIMIT, compose_yaml, read_text
from radrecipes.shipped import find_shipped

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import TrainingArguments

# Set by scripts/launch.py for the processes that it starts: their launch spec as JSON.
LAUNCH_SPEC_VARIABLE = "RADRECIPES_LAUNCH_SPEC"
# accelerate's own variable, which keeps a process on the CPU.
USE_CPU_VARIABLE = "ACCELERATE_USE_CPU"


class Engine(enum.StrEnum):
    """How several processes train together."""

    ONE_PROCESS = "one process"
    DDP = "DDP"
    FSDP1 = "FSDP1"
    FSDP2 = "FSDP2"
    ZERO2 = "ZeRO-2"
    ZERO3 = "ZeRO-3"


_FSDP = {1: Engine.FSDP1, 2: Engine.FSDP2}
_ZERO = {2: Engine.ZERO2, 3: Engine.ZERO3}
# DDP with one process is one process; accelerate itself calls it that on a CPU.
_UNSHARDED = (Engine.ONE_PROCESS, Engine.DDP)


@dataclass(frozen=True)
class LaunchSpec:
    """What a launch configuration requests; `on_cpu` is `None` if the launcher does not say."""

    processes: int
    engine: Engine
    on_cpu: bool | None

    def __str__(self) -> str:
        """For a message: `2 processes (DDP) on the CPU`."""
        place = {True: " on the CPU", False: " on GPUs", None: ""}[self.on_cpu]
        if self.engine == Engine.ONE_PROCESS:
            return f"1 process{place.replace('GPUs', 'a GPU')}"
        return f"{self.processes} process{'' if self.processes == 1 else 'es'} ({self.engine}){place}"

    def to_json(self) -> str:
        """The form in [`LAUNCH_SPEC_VARIABLE`]."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "LaunchSpec":
        """Read back what [`LaunchSpec.to_json`] wrote."""
        fields = json.loads(text)
        return LaunchSpec(fields["processes"], Engine(fields["engine"]), fields["on_cpu"])


def check_file(path: str | Path) -> None:
    """Refuse a configuration file that is not a small file of plain YAML, which accelerate would read without limits."""
    if not os.path.isfile(path):
        raise InputError(
            "no such accelerate configuration; accelerate_configs/ contains the available ones", shown(path)
        )
    compose_yaml(read_text(path, YAML_LIMIT), str(path))


def arguments_from_file(path: str | Path) -> argparse.Namespace:
    """The `accelerate launch` arguments that a configuration file stands for; nothing is started."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    path = find_shipped(path)
    check_file(path)
    # Without an explicit number of threads accelerate prints a warning.
    words = ["--config_file", str(path), "--num_cpu_threads_per_process", "1", "scripts/sft.py"]
    try:
        args, *_ = _validate_launch_command(launch_command_parser().parse_args(words))
    except (ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise InputError(f"accelerate cannot read it: {shown(error)}", str(path)) from error
    return args


def spec_from_arguments(args: argparse.Namespace) -> LaunchSpec:
    """The launch spec of complete `accelerate launch` arguments; an [`InputError`] if accelerate would start something else."""
    on_cpu, processes, machines = bool(args.cpu or args.use_cpu), args.num_processes or 1, args.num_machines or 1
    engine = Engine.ONE_PROCESS if args.cpu else _requested_engine(args)
    where = args.config_file
    if engine not in _UNSHARDED and on_cpu:
        raise InputError(f"{engine} needs GPUs; on a CPU accelerate runs DDP instead: use cpu_2proc.yaml", where)
    if engine == Engine.ONE_PROCESS and max(processes, machines) > 1:
        raise InputError(
            f"accelerate would start one process per machine instead of {max(processes, machines)} in total; write "
            "`distributed_type: MULTI_GPU`, on a CPU with `use_cpu: true`, and remove --cpu",
            where,
        )
    if processes % machines:
        raise InputError(
            f"--num_processes {processes} is the total over all machines and is not divisible by --num_machines {machines}",
            where,
        )
    if machines > 1 and not (args.main_process_ip and args.main_process_port):
        raise InputError(
            "several machines need --main_process_ip and --main_process_port, a fixed port (not 0) that is the same on all",
            where,
        )
    return LaunchSpec(processes, engine, on_cpu)


def _requested_engine(args: argparse.Namespace) -> Engine:
    """The engine, by the rules with which accelerate chooses its launcher."""
    if args.use_deepspeed:
        return _zero_engine(args.deepspeed_config_file, args.zero_stage, args.config_file)
    if args.use_fsdp:
        return _FSDP[int(args.fsdp_version)]
    if args.use_megatron_lm or args.tpu:
        raise InputError(
            "Megatron-LM and TPUs are not supported; accelerate_configs/README.md lists what is", args.config_file
        )
    return Engine.DDP if args.multi_gpu else Engine.ONE_PROCESS


def _zero_engine(deepspeed_file: str | None, stage: int | str | None, where: str | None = None) -> Engine:
    if deepspeed_file:
        raise InputError(
            f"DeepSpeed configuration files ({deepspeed_file}) are not supported; set `zero_stage` as in zero3.yaml",
            where,
        )
    stage = 2 if stage is None else int(stage)  # accelerate's default
    if stage not in _ZERO:
        raise InputError(
            f"ZeRO stage {stage} is not supported; use accelerate_configs/zero2.yaml or zero3.yaml", where
        )
    return _ZERO[stage]


def spec_from_environment(environment: Mapping[str, str]) -> LaunchSpec | None:
    """The launch spec of this process, from scripts/launch.py or the variables of accelerate and torchrun.

    `None` without a launcher. An [`InputError`] if `accelerate launch` started one process instead of several.
    """
    if LAUNCH_SPEC_VARIABLE in environment:
        return LaunchSpec.from_json(environment[LAUNCH_SPEC_VARIABLE])
    if "WORLD_SIZE" in environment:
        engine = _engine_of_workers(environment)
        return LaunchSpec(int(environment["WORLD_SIZE"]), engine, None if engine == Engine.DDP else False)
    if USE_CPU_VARIABLE not in environment:
        return None
    if "MASTER_ADDR" in environment:  # accelerate sets it if more than one process was requested
        raise InputError(
            "accelerate started one process although several were requested, as it does for `distributed_type: MULTI_CPU` and "
            "--cpu; use accelerate_configs/cpu_2proc.yaml (if you want one process, unset MASTER_ADDR)"
        )
    from accelerate.utils import str_to_bool

    return LaunchSpec(1, Engine.ONE_PROCESS, bool(str_to_bool(environment[USE_CPU_VARIABLE])))


def _engine_of_workers(environment: Mapping[str, str]) -> Engine:
    if environment.get("ACCELERATE_USE_DEEPSPEED") == "true":
        deepspeed_file = environment.get("ACCELERATE_DEEPSPEED_CONFIG_FILE")
        return _zero_engine(deepspeed_file, environment.get("ACCELERATE_DEEPSPEED_ZERO_STAGE"))
    if environment.get("ACCELERATE_USE_FSDP") == "true":
        return _FSDP[int(environment.get("FSDP_VERSION", "1"))]
    return Engine.DDP


def check_gpus(spec: LaunchSpec | None) -> None:
    """Reject a launch spec for GPUs on a machine without any."""
    import torch

    if spec is not None and spec.on_cpu is False and not torch.accelerator.is_available():
        raise InputError(
            f"the launch configuration requests {spec}, but PyTorch finds no GPU here; use cpu.yaml or cpu_2proc.yaml of "
            "accelerate_configs/"
        )


def check_processes(spec: LaunchSpec | None, args: "TrainingArguments") -> LaunchSpec:
    """Reject a world size or device other than requested; returns what is running, by the recipe's `args`, and the engine."""
    processes, on_cpu = args.distributed_state.num_processes, args.device.type == "cpu"
    if args.n_gpu > 1:
        raise InputError(
            f"one process sees {args.n_gpu} GPUs and would copy the model to each; set CUDA_VISIBLE_DEVICES=0, or start one "
            "process per GPU with accelerate_configs/ddp.yaml"
        )
    if spec is None:
        return LaunchSpec(processes, Engine.DDP if processes > 1 else Engine.ONE_PROCESS, on_cpu)
    check_world_size(spec, processes)
    if spec.on_cpu is not None and on_cpu != spec.on_cpu:
        found = "the CPU" if on_cpu else "a GPU"
        fix = f"set {USE_CPU_VARIABLE}=true, or start it with scripts/launch.py"
        if on_cpu:
            fix = f"unset {USE_CPU_VARIABLE}, or use cpu.yaml or cpu_2proc.yaml of accelerate_configs/"
        raise InputError(f"the launcher requested {spec}, but this process is on {found}; {fix}")
    return LaunchSpec(processes, spec.engine, on_cpu)


def check_unsharded(spec: LaunchSpec | None) -> None:
    """Reject FSDP, under which all but the first process would answer with a model without weights, and ZeRO."""
    if spec is not None and spec.engine not in _UNSHARDED:
        raise InputError(
            f"the launch configuration requests {spec}, but here each process needs the complete model for its part of the "
            "rows; use ddp.yaml"
        )


def check_world_size(spec: LaunchSpec | None, processes: int) -> None:
    """Reject a number of processes other than requested."""
    if spec and processes != spec.processes:
        raise InputError(f"the launcher requested {spec}, but the world size is {processes}")


def check_engine(spec: LaunchSpec | None, accelerator: "Accelerator") -> None:
    """Reject an engine other than requested, before any file is written; `accelerator` is the Trainer's."""
    if spec is None or (accelerator.num_processes == 1 and spec.engine in _UNSHARDED):
        return
    found = engine_of(accelerator)
    if found != spec.engine:
        raise InputError(f"the launcher requested {spec}, but accelerate runs {found or 'an unknown engine'}")


def engine_of(accelerator: "Accelerator") -> Engine | None:
    """The engine that an accelerator really uses, `None` if this project does not support it."""
    from accelerate.utils import DistributedType

    if accelerator.distributed_type == DistributedType.NO:
        return Engine.ONE_PROCESS
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        return _ZERO.get(accelerator.state.deepspeed_plugin.zero_stage)
    if accelerator.distributed_type == DistributedType.FSDP:
        return _FSDP.get(accelerator.state.fsdp_plugin.fsdp_version)
    return Engine.DDP if accelerator.distributed_type.name.startswith("MULTI_") else None
