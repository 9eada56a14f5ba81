"""Several machines under Ray Train: one worker per machine starts scripts/launch.py, which starts one process per GPU.

    ray job submit -- python /shared/radrecipes/launch/ray/train.py --repository /shared/radrecipes \
        --machines 2 --gpus 8 --config recipes/smollm2-135m/protocol_lora.yaml [--learning_rate 1e-4 …]

Needs Ray on the cluster (tested with 2.60; it is not a dependency of this project) and a file system that all machines share, with
the repository, its .venv, data/, models/ and runs/. Ray starts launchers instead of training processes, so exit codes, signals and
checkpoints are the same as everywhere else. See launch/README.md.
"""

import argparse
import ctypes
import os
import signal
import socket
import subprocess
import sys
from typing import Any

try:
    import ray.train
    import ray.util
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.collective import broadcast_from_rank_zero
    from ray.train.torch import TorchConfig, TorchTrainer
except ModuleNotFoundError:
    print(
        "error: Ray is not installed; run this in the cluster's environment, or `pip install 'ray[train]'`",
        file=sys.stderr,
    )
    sys.exit(2)

# Exit codes of errors that a retry does not fix; Ray retries after all others.
FINAL = (2, 3, 4)
# Ray sets them for its own workers; the launcher would read them.
RAY_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")


def launch_words(settings: dict[str, Any], rank: int, machines: int, address: str, port: int) -> list[str]:
    """The command of one machine."""
    words = ["scripts/launch.py", "--config_file", settings["launch_config"]]
    words += ["--num_processes", str(machines * settings["processes"]), "--main_process_port", str(port)]
    if machines > 1:
        words += ["--num_machines", str(machines), "--machine_rank", str(rank), "--main_process_ip", address]
    return [*words, "scripts/sft.py", "--config", settings["config"], *settings["overrides"]]


def train_on_this_machine(settings: dict[str, Any]) -> int:
    """Ray's training function: run one launcher and return its exit code."""
    context = ray.train.get_context()
    rank, machines = context.get_world_rank(), context.get_world_size()
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    address, port = broadcast_from_rank_zero((ray.util.get_node_ip_address(), port))

    words = [settings["python"], *launch_words(settings, rank, machines, address, port)]
    environment = {name: value for name, value in os.environ.items() if name not in RAY_VARIABLES}
    launcher = subprocess.Popen(words, cwd=settings["repository"], env=environment, preexec_fn=end_with_ray)
    code = launcher.wait()
    if code not in (0, *FINAL):
        raise RuntimeError(f"scripts/launch.py ended with {code} on machine {rank}")
    return code


def end_with_ray() -> None:
    """Let the system stop the launcher when Ray's worker dies; it would continue and keep the GPUs."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def main() -> None:
    """Parse arguments, train, exit with the exit code of the training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--repository", required=True, metavar="FOLDER", help="on a file system that all machines share"
    )
    parser.add_argument("--config", required=True, metavar="RECIPE", help="the recipe, a YAML file")
    parser.add_argument("--machines", type=int, default=1, metavar="N", help="number of machines (default: 1)")
    parser.add_argument("--gpus", type=int, default=8, metavar="N", help="per machine; 0: CPU only (default: 8)")
    parser.add_argument("--launch-config", default="accelerate_configs/ddp.yaml", metavar="FILE")
    parser.add_argument("--python", default=".venv/bin/python", metavar="PROGRAM", help="relative to the repository")
    parser.add_argument("--tries", type=int, default=3, metavar="N", help="restarts after a failure (default: 3)")
    args, overrides = parser.parse_known_args()

    trainer = TorchTrainer(
        train_on_this_machine,
        train_loop_config={**vars(args), "processes": max(args.gpus, 1), "overrides": overrides},
        torch_config=TorchConfig(backend="gloo"),  # for Ray's workers, which compute nothing
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
    sys.exit(trainer.fit().return_value)  # raises if all attempts failed


if __name__ == "__main__":
    main()
