"""What a launch configuration promises (processes, engine, device), and whether the processes that run keep it.

accelerate degrades without a word: FSDP on a CPU becomes DDP, `MULTI_CPU` and `--cpu` start one process, several processes
forget `use_cpu`, and a configuration for a GPU trains on the CPU where there is none. Here each of these is an error with
exit code 2.
"""

import argparse
import enum
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, str_to_bool

from radrecipes.errors import InputError

if TYPE_CHECKING:  # the launcher is to start without the seconds that this import takes
    from transformers import TrainingArguments

# In the environment of what `radrecipes.launch.launcher` starts: the promise, as JSON.
PROMISE_VARIABLE = "RADRECIPES_PROMISE"
# accelerate's own, by which a process learns that it has to stay on the CPU.
USE_CPU_VARIABLE = "ACCELERATE_USE_CPU"


class Engine(enum.StrEnum):
    """What keeps several processes together."""

    ONE_PROCESS = "one process"
    DDP = "DDP"
    FSDP1 = "FSDP1"
    FSDP2 = "FSDP2"
    ZERO2 = "ZeRO-2"
    ZERO3 = "ZeRO-3"


_FSDP = {1: Engine.FSDP1, 2: Engine.FSDP2}
_ZERO = {2: Engine.ZERO2, 3: Engine.ZERO3}
# DDP of one process is one process; on a CPU accelerate calls it so.
_PLAIN = (Engine.ONE_PROCESS, Engine.DDP)


@dataclass(frozen=True)
class Promise:
    """What a launch configuration promises.

    Args:
        processes (`int`):
            World size, over all machines.
        engine ([`Engine`]):
            What keeps them together.
        on_cpu (`bool` or `None`):
            Whether they train on the CPU; `None` where the launcher does not say.
    """

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
        """For the environment."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "Promise":
        """Read back what [`Promise.to_json`] wrote."""
        fields = json.loads(text)
        return Promise(fields["processes"], Engine(fields["engine"]), fields["on_cpu"])


def promised_by(args: argparse.Namespace) -> Promise:
    """What `accelerate launch` will be asked for.

    Args:
        args (`argparse.Namespace`):
            Its arguments, the configuration file's values filled in (accelerate's `_validate_launch_command` does that).

    Returns:
        [`Promise`]

    Raises:
        [`InputError`]: accelerate would start something else than what was asked for, or an engine that no test here knows.
    """
    on_cpu, processes, machines = bool(args.cpu or args.use_cpu), args.num_processes or 1, args.num_machines or 1
    engine = Engine.ONE_PROCESS if args.cpu else _engine_asked_for(args)
    where = args.config_file
    if engine not in _PLAIN and on_cpu:
        raise InputError(f"{engine} needs GPUs; on a CPU accelerate makes DDP of it: take cpu_2proc.yaml", where)
    if engine == Engine.ONE_PROCESS and max(processes, machines) > 1:
        raise InputError(
            f"accelerate would start one process a machine and not {max(processes, machines)} in all; write `distributed_type: "
            "MULTI_GPU`, on a CPU with `use_cpu: true`, and leave --cpu out",
            where,
        )
    if processes % machines:
        raise InputError(
            f"--num_processes {processes} counts the processes of all machines and cannot be divided by --num_machines {machines}",
            where,
        )
    if machines > 1 and not (args.main_process_ip and args.main_process_port):
        raise InputError(
            "several machines meet at --main_process_ip and --main_process_port, a port that all know (not 0)", where
        )
    return Promise(processes, engine, on_cpu)


def _engine_asked_for(args: argparse.Namespace) -> Engine:
    """In the order in which accelerate chooses its launcher."""
    if args.use_deepspeed:
        return _zero(args.deepspeed_config_file, args.zero_stage, args.config_file)
    if args.use_fsdp:
        return _FSDP[int(args.fsdp_version)]
    if args.use_megatron_lm or args.tpu:
        raise InputError(
            "neither Megatron-LM nor TPUs; accelerate_configs/README.md lists what there is", args.config_file
        )
    return Engine.DDP if args.multi_gpu else Engine.ONE_PROCESS


def _zero(own_file: str | None, stage: int | str | None, where: str | None = None) -> Engine:
    if own_file:
        raise InputError(
            f"DeepSpeed's own file {own_file} is not read here; write `zero_stage`, as zero3.yaml does", where
        )
    stage = 2 if stage is None else int(stage)  # accelerate's default
    if stage not in _ZERO:
        raise InputError(
            f"ZeRO stage {stage} is not known here; take accelerate_configs/zero2.yaml or zero3.yaml", where
        )
    return _ZERO[stage]


def promise_of(environment: Mapping[str, str]) -> Promise | None:
    """What the launcher above this process promised.

    Args:
        environment (`Mapping[str, str]`):
            That of this process.

    Returns:
        [`Promise`] or `None`: that of scripts/launch.py; else what can be read from the variables that accelerate and torchrun
        set; `None` without a launcher.

    Raises:
        [`InputError`]: several processes were asked for, and `accelerate launch` started one.
    """
    if PROMISE_VARIABLE in environment:
        return Promise.from_json(environment[PROMISE_VARIABLE])
    if "WORLD_SIZE" in environment:
        engine = _engine_of_workers(environment)
        return Promise(int(environment["WORLD_SIZE"]), engine, None if engine == Engine.DDP else False)
    if USE_CPU_VARIABLE not in environment:
        return None
    if "MASTER_ADDR" in environment:  # accelerate sets it where more than one process was asked for
        raise InputError(
            "accelerate started one process where several were asked for, as it does for `distributed_type: MULTI_CPU` and --cpu; "
            "take accelerate_configs/cpu_2proc.yaml (or, if one is meant, unset MASTER_ADDR)"
        )
    return Promise(1, Engine.ONE_PROCESS, bool(str_to_bool(environment[USE_CPU_VARIABLE])))


def _engine_of_workers(environment: Mapping[str, str]) -> Engine:
    if environment.get("ACCELERATE_USE_DEEPSPEED") == "true":
        own_file = environment.get("ACCELERATE_DEEPSPEED_CONFIG_FILE")
        return _zero(own_file, environment.get("ACCELERATE_DEEPSPEED_ZERO_STAGE"))
    if environment.get("ACCELERATE_USE_FSDP") == "true":
        return _FSDP[int(environment.get("FSDP_VERSION", "1"))]
    return Engine.DDP


def check_gpus(promise: Promise | None) -> None:
    """Refuse to start what is for GPUs where there are none.

    Args:
        promise ([`Promise`] or `None`):
            From [`promised_by`] or [`promise_of`].

    Raises:
        [`InputError`]: names what was promised, and the mend.
    """
    if promise is not None and promise.on_cpu is False and not torch.accelerator.is_available():
        raise InputError(
            f"the launch configuration is for {promise}, and PyTorch finds no GPU here; take cpu.yaml or cpu_2proc.yaml of "
            "accelerate_configs/"
        )


def check_processes(promise: Promise | None, args: "TrainingArguments") -> Promise:
    """Refuse to go on where world size or device are not those promised; right behind the recipe, before any work.

    Args:
        promise ([`Promise`] or `None`):
            From [`promise_of`].
        args ([`~transformers.TrainingArguments`]):
            The recipe's; they know the processes of this run and their device.

    Returns:
        [`Promise`]: what is really there, its engine still the promised one.

    Raises:
        [`InputError`]: names what was promised and what is there.
    """
    processes, on_cpu = args.distributed_state.num_processes, args.device.type == "cpu"
    if args.n_gpu > 1:
        raise InputError(
            f"one process sees {args.n_gpu} GPUs, and would copy the model onto each; set CUDA_VISIBLE_DEVICES=0, or start one "
            "process a GPU with accelerate_configs/ddp.yaml"
        )
    if promise is None:
        return Promise(processes, Engine.DDP if processes > 1 else Engine.ONE_PROCESS, on_cpu)
    check_world_size(promise, processes)
    if promise.on_cpu is not None and on_cpu != promise.on_cpu:
        if on_cpu:
            found, mend = (
                "the CPU",
                f"unset {USE_CPU_VARIABLE}, or take cpu.yaml or cpu_2proc.yaml of accelerate_configs/",
            )
        else:
            found, mend = "a GPU", f"set {USE_CPU_VARIABLE}=true, or start it with scripts/launch.py"
        raise InputError(f"the launcher promised {promise}, and this process is on {found}; {mend}")
    return Promise(processes, promise.engine, on_cpu)


def check_whole_model(promise: Promise | None) -> None:
    """Refuse FSDP and ZeRO where each process needs the whole model, as in evaluation and prediction.

    Transformers gives all but the first process of FSDP a model without weights, and they would answer with it.

    Args:
        promise ([`Promise`] or `None`):
            From [`promise_of`].

    Raises:
        [`InputError`]: names what was promised, and the mend.
    """
    if promise is not None and promise.engine not in _PLAIN:
        raise InputError(
            f"the launch configuration is for {promise}, and here each process holds the whole model and answers its share; take "
            "ddp.yaml"
        )


def check_world_size(promise: Promise | None, processes: int) -> None:
    """Refuse to go on with another number of processes than the one promised.

    Args:
        promise ([`Promise`] or `None`):
            From [`promise_of`].
        processes (`int`):
            Of this run.

    Raises:
        [`InputError`]: names both.
    """
    if promise and processes != promise.processes:
        raise InputError(f"the launcher promised {promise}, and the world size is {processes}")


def check_engine(promise: Promise | None, accelerator: Accelerator) -> None:
    """Refuse to train with another engine than the one promised; once the Trainer is made, before any file is written.

    Args:
        promise ([`Promise`] or `None`):
            From [`promise_of`].
        accelerator ([`~accelerate.Accelerator`]):
            The Trainer's.

    Raises:
        [`InputError`]: names what was promised and what is there.
    """
    if promise is None or (accelerator.num_processes == 1 and promise.engine in _PLAIN):
        return
    found = engine_of(accelerator)
    if found != promise.engine:
        raise InputError(f"the launcher promised {promise}, and accelerate made {found or 'something else'} of it")


def engine_of(accelerator: Accelerator) -> Engine | None:
    """The engine that an accelerator really uses, `None` for one that this project does not know."""
    if accelerator.distributed_type == DistributedType.NO:
        return Engine.ONE_PROCESS
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        return _ZERO.get(accelerator.state.deepspeed_plugin.zero_stage)
    if accelerator.distributed_type == DistributedType.FSDP:
        return _FSDP.get(accelerator.state.fsdp_plugin.fsdp_version)
    return Engine.DDP if accelerator.distributed_type.name.startswith("MULTI_") else None
