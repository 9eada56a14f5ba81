"""Start a script on one or several processes: `accelerate launch`, but with the script's own exit codes and signal handling.

    python scripts/launch.py --config_file accelerate_configs/cpu.yaml scripts/sft.py --config RECIPE

It takes all arguments of `accelerate launch`, which works as well, but exits with 0 or 1 only and does not wait for the
script to save after SIGTERM. Jobs that are requeued if they end with exit code 75 need this script.
"""

import argparse
import sys

import radrecipes  # noqa: F401  (before any library: turns telemetry off)
from radrecipes.cli import run

# The options that most launches need; accelerate's own parser handles these and all others.
OPTIONS = {
    "--config_file FILE": "what to start: a file of accelerate_configs/, or your own",
    "--num_processes N": "total number of processes over all machines, one per GPU",
    "--num_machines N": "machines; the same command runs on each of them",
    "--machine_rank N": "number of this machine, from 0",
    "--main_process_ip ADDRESS": "address of machine 0",
    "--main_process_port PORT": "a free port there, the same in all commands",
    "--gpu_ids IDS": "GPUs of this machine to use, such as 0,1",
    "--max_restarts N": "times to start again after a worker failed (default: 0)",
}


def print_help() -> None:
    """Print the help; accelerate's own parser would import torch first."""
    parser = argparse.ArgumentParser(
        usage=f"{sys.argv[0]} [OPTION ...] SCRIPT [ARGUMENT ...]",
        description=__doc__,
        epilog="`accelerate launch --help` lists all options. Everything after SCRIPT is passed on to it.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for option, text in OPTIONS.items():
        name, metavar = option.split()
        parser.add_argument(name, metavar=metavar, help=text)
    parser.print_help()


def main() -> None:
    """Start the script; with one process this never returns."""
    if sys.argv[1:2] in (["-h"], ["--help"]):
        print_help()
        return
    from accelerate.commands.launch import launch_command_parser

    from radrecipes.launch.launcher import launch

    outcome = launch(launch_command_parser().parse_args())
    if outcome.unexplained:
        print(outcome.unexplained, file=sys.stderr)
    sys.exit(outcome.exit_code)


if __name__ == "__main__":
    run(main)
