"""Start a script on one or several processes: `accelerate launch` with the script's own exit codes and with its signals.

    python scripts/launch.py --config_file accelerate_configs/cpu.yaml scripts/sft.py --config RECIPE

It takes the arguments of `accelerate launch`. That works as well, but its exit codes are 0 or 1, and a SIGTERM to it ends
it at once and does not wait for the script to save. Jobs that are queued again when they end with 75 need this one.
"""

import sys

import radrecipes  # noqa: F401  (before any library: turns telemetry off)

# isort: split
from accelerate.commands.launch import launch_command_parser

from radrecipes.cli import run
from radrecipes.launch import launcher


def main() -> None:
    """Start the script; with one process this never returns."""
    outcome = launcher.launch(launch_command_parser().parse_args())
    if outcome.unexplained:
        print(outcome.unexplained, file=sys.stderr)
    sys.exit(outcome.exit_code)


if __name__ == "__main__":
    run(main)
