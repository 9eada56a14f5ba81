"""Several machines under Ray Train: one worker a machine, each starts scripts/launch.py, which starts a process a GPU.

    ray job submit -- python /shared/radrecipes/launch/ray/train.py --repository /shared/radrecipes \
        --machines 2 --gpus 8 --config recipes/smollm2-135m/protocol_lora.yaml [--learning_rate 1e-4 …]

Needs Ray on the cluster (tried with 2.60; it is no dependency of this project) and a file system that all machines see, with the
repository, its .venv, data/, models/ and runs/. Ray starts launchers and not training processes, because exit codes, signals and
checkpoints are then the same as anywhere else. See launch/README.md.
"""

import argparse
import ctypes
import os
import signal
import socket
import subprocess
import sys
from typing import Any

import ray.train
import ray.util
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import TorchConfig, TorchTrainer

# By these a script says in one line why it stopped for good; everything else Ray tries again.
FOR_GOOD = (2, 3, 4)
# Set by Ray for its own workers; the launcher would take them for its own.
OF_RAY = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")


def launch_words(settings: dict[str, Any], rank: int, machines: int, address: str, port: int) -> list[str]:
    """The command of one machine."""
    words = ["scripts/launch.py", "--config_file", settings["launch_config"]]
    words += ["--num_processes", str(machines * settings["processes"]), "--main_process_port", str(port)]
    if machines > 1:
        words += ["--num_machines", str(machines), "--machine_rank", str(rank), "--main_process_ip", address]
    return [*words, "scripts/sft.py", "--config", settings["config"], *settings["overrides"]]


def train_on_this_machine(settings: dict[str, Any]) -> int:
    """Ray's training function: one launcher, and its exit code."""
    context = ray.train.get_context()
    rank, machines = context.get_world_rank(), context.get_world_size()
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    address, port = broadcast_from_rank_zero((ray.util.get_node_ip_address(), port))

    words = [settings["python"], *launch_words(settings, rank, machines, address, port)]
    environment = {name: value for name, value in os.environ.items() if name not in OF_RAY}
    launcher = subprocess.Popen(words, cwd=settings["repository"], env=environment, preexec_fn=end_with_ray)
    code = launcher.wait()
    if code not in (0, *FOR_GOOD):
        raise RuntimeError(f"scripts/launch.py ended with {code} on machine {rank}")
    return code


def end_with_ray() -> None:
    """Have the system stop the launcher when Ray's worker dies; it would go on and keep the GPUs."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def main() -> None:
    """Parse arguments, train, leave with the exit code of the training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", required=True, metavar="FOLDER", help="on a file system that all machines see")
    parser.add_argument("--config", required=True, metavar="RECIPE", help="the recipe, a YAML file")
    parser.add_argument("--machines", type=int, default=1, metavar="N", help="how many (default: 1)")
    parser.add_argument("--gpus", type=int, default=8, metavar="N", help="of each machine, 0: CPU only (default: 8)")
    parser.add_argument("--launch-config", default="accelerate_configs/ddp.yaml", metavar="FILE")
    parser.add_argument("--python", default=".venv/bin/python", metavar="PROGRAM", help="within the repository")
    parser.add_argument("--tries", type=int, default=3, metavar="N", help="starts behind a failure (default: 3)")
    args, overrides = parser.parse_known_args()

    trainer = TorchTrainer(
        train_on_this_machine,
        train_loop_config={**vars(args), "processes": max(args.gpus, 1), "overrides": overrides},
        torch_config=TorchConfig(backend="gloo"),  # of Ray's workers, which compute nothing
        scaling_config=ScalingConfig(
            num_workers=args.machines,
            use_gpu=args.gpus > 0,
            resources_per_worker={"GPU": args.gpus} if args.gpus else {"CPU": 1},
            placement_strategy="STRICT_SPREAD",
        ),
        run_config=RunConfig(
            storage_path=os.path.abspath(os.path.join(args.repository, "runs", "ray")),
            failure_config=FailureConfig(max_failures=args.tries),
        ),
    )
    sys.exit(trainer.fit().return_value)  # raises where all tries failed


if __name__ == "__main__":
    main()
