"""Prepare a dataset: read what you have, clean, split by group or patient, audit, and write it with its card."""

import argparse

import radrecipes  # noqa: F401  (before any library: turns telemetry off)
from radrecipes.cli import run

from data_preparation.arguments import add_protocol_arguments, add_report_arguments, add_synthetic_report_arguments


def parse_arguments() -> argparse.Namespace:
    """Parse the command line; one subcommand for each task."""
    parser = argparse.ArgumentParser(description=__doc__)
    tasks = parser.add_subparsers(dest="task", required=True, metavar="TASK")
    add_protocol_arguments(tasks)
    add_report_arguments(tasks)
    add_synthetic_report_arguments(tasks)
    return parser.parse_args()


def main() -> None:
    """Run one subcommand. Its parts are imported when it is chosen: those of the others take their time to load."""
    arguments = parse_arguments()
    if arguments.task == "protocol":
        from data_preparation.protocol import prepare_protocol

        prepare_protocol(arguments)
    elif arguments.task == "report":
        from data_preparation.report import prepare_report

        prepare_report(arguments)
    elif arguments.task == "synthetic-reports":
        from data_preparation.synthetic_reports import make_synthetic_reports

        make_synthetic_reports(arguments)


if __name__ == "__main__":
    run(main)
