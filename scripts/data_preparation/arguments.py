"""The arguments of `scripts/prepare_data.py`, one function for each of its subcommands."""

import argparse
from pathlib import Path

from radrecipes.cli import non_negative, positive
from radrecipes.data.dataset_folder import ACCESS_LEVELS

_PROTOCOL_EXAMPLES = """\
examples:
  # Your own orders. Labels that differ only in case or punctuation are one label; a label set is derived.
  python scripts/prepare_data.py protocol --source orders.csv --text-column order_text --label-column protocol \\
      --group-column patient_id --output data/our_orders

  # The same with a label set of your own: aliases, modality, contrast. An unknown label is then an error.
  python scripts/prepare_data.py protocol --source orders.csv --text-column order_text --label-column protocol \\
      --group-column patient_id --label-set data/label_sets/ours.yaml --output data/our_orders --overwrite

  # The synthetic orders that come with the repository.
  python scripts/prepare_data.py protocol --synthetic --seed 0 --output data/protocol_synthetic --overwrite
"""

_SYNTHETIC_REPORT_EXAMPLES = """\
examples:
  # The tree, and a dataset from it.
  python scripts/prepare_data.py synthetic-reports --output data/synthetic_cxr --seed 0
  python scripts/prepare_data.py report --source mimic-cxr --root data/synthetic_cxr --output data/synthetic_reports
"""


def add_protocol_arguments(tasks: argparse._SubParsersAction) -> None:
    """Add `protocol`: orders with the imaging protocol that was chosen for each."""
    protocol = tasks.add_parser(
        "protocol",
        help="orders with the imaging protocol that was chosen for each",
        description="Prepare orders with the imaging protocol that was chosen for each.",
        epilog=_PROTOCOL_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    origin = protocol.add_mutually_exclusive_group(required=True)
    origin.add_argument("--source", type=Path, metavar="FILE", help="CSV, TSV, JSONL (also .gz) or Parquet, in UTF-8")
    origin.add_argument("--synthetic", action="store_true", help="generate orders instead of reading them")
    protocol.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="for example data/our_orders")
    protocol.add_argument("--overwrite", action="store_true", help="replace the dataset that stands in --output")

    columns = protocol.add_argument_group("columns of --source")
    columns.add_argument("--text-column", metavar="NAME", help="the free text of the order")
    columns.add_argument("--label-column", metavar="NAME", help="the protocol that was chosen")
    columns.add_argument("--id-column", metavar="NAME", help="identifies a row; without it rows are numbered")
    columns.add_argument("--group-column", metavar="NAME", help="patient or order: kept in one split")

    generator = protocol.add_argument_group("generator of --synthetic")
    generator.add_argument("--seed", type=int, default=0, help="seed of the generator (default: 0)")
    generator.add_argument("--rows", type=int, default=6600, help="orders to generate (default: 6600)")

    choices = protocol.add_argument_group("labels and rows")
    choices.add_argument("--label-set", type=Path, metavar="FILE", help="YAML; default: derived from the labels")
    choices.add_argument(
        "--conflicts", choices=("drop", "vote"), default="drop", help="same note, different labels (default: drop)"
    )
    choices.add_argument(
        "--on-bad-row", choices=("error", "drop"), default="error", help="empty note or label (default: error)"
    )
    choices.add_argument(
        "--on-unknown-label", choices=("error", "drop"), default="error", help="not in --label-set (default: error)"
    )
    choices.add_argument(
        "--max-dropped", type=float, default=0.005, help="share of rows that may be dropped (default: 0.005)"
    )
    choices.add_argument(
        "--near-duplicate-threshold",
        type=float,
        default=0.8,
        help="5-gram Jaccard similarity from which notes stay in one split (default: 0.8)",
    )
    choices.add_argument("--split-seed", type=int, default=0, help="seed of the split (default: 0)")

    terms = protocol.add_argument_group("terms of use")
    terms.add_argument(
        "--access",
        choices=ACCESS_LEVELS,
        help="decides what may be shown (default: credentialed; --synthetic: synthetic)",
    )
    terms.add_argument("--license", help="Hub licence identifier (default: other; --synthetic: apache-2.0)")
    terms.add_argument("--language", default="en", help="language code of the notes (default: en)")


_REPORT_EXAMPLES = """\
examples (mimic-cxr and openi are folders with what was downloaded):
  # MIMIC-CXR as PhysioNet delivers it. Labels are read off the text that is kept, so that they fit it.
  python scripts/prepare_data.py report --source mimic-cxr --root mimic-cxr --output data/mimic_reports

  # The official split, and CheXpert's labels as published (of the impression alone where there is one).
  python scripts/prepare_data.py report --source mimic-cxr --root mimic-cxr --output data/mimic_official \\
      --split official --label-source csv --labels chexpert

  # OpenI (Indiana University), which needs no credentials.
  python scripts/prepare_data.py report --source openi --root openi --output data/openi_reports

  # Prompt and completion pairs; --group-column keeps a patient's reports in one split.
  python scripts/prepare_data.py report --source jsonl --root pairs.jsonl --group-column patient --sections any \\
      --output data/our_reports
"""


def add_report_arguments(tasks: argparse._SubParsersAction) -> None:
    """Add `report`: chest X-ray reports with the observations that they state."""
    report = tasks.add_parser(
        "report",
        help="chest X-ray reports with the observations that they state",
        description="Prepare chest X-ray reports with the observations that they state.",
        epilog=_REPORT_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    report.add_argument("--source", choices=("mimic-cxr", "openi", "jsonl"), required=True, help="layout of --root")
    report.add_argument(
        "--root",
        type=Path,
        required=True,
        metavar="PATH",
        help="mimic-cxr: folder with files/ or mimic-cxr-reports.zip, and the CSV files; openi: folder with"
        " ecgen-radiology/ or NLMCXR_reports.tgz; jsonl: the file",
    )
    report.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="for example data/our_reports")
    report.add_argument("--overwrite", action="store_true", help="replace the dataset that stands in --output")

    labels = report.add_argument_group("labels and splits")
    labels.add_argument(
        "--label-source",
        choices=("relabel", "csv", "prompt"),
        help="read off the text that is kept, or as the CSV (mimic-cxr) or the prompt (jsonl) states them"
        " (default: relabel; jsonl: prompt). CSV labels describe the impression alone where there is one",
    )
    labels.add_argument("--labels", choices=("chexpert", "negbio"), help="which CSV (default: chexpert)")
    labels.add_argument(
        "--split", choices=("patient", "official"), default="patient", help="official: mimic-cxr (default: patient)"
    )
    labels.add_argument("--split-seed", type=non_negative, default=0, help="seed of the split by patient (default: 0)")

    text = report.add_argument_group("text")
    text.add_argument(
        "--sections", choices=("both", "any"), default="both", help="that must have words (default: both)"
    )
    text.add_argument(
        "--earlier-studies", choices=("drop", "keep"), default="drop", help="comparisons with them (default: drop)"
    )
    text.add_argument(
        "--deidentified",
        choices=("drop", "normalise"),
        default="drop",
        help="drop sentences with ___ or XXXX, or write every mark as ___ (default: drop)",
    )
    text.add_argument(
        "--details",
        choices=("drop", "keep"),
        default="drop",
        help="sides and measurements, which no observation holds, so that a written one is invented (default: drop)",
    )

    columns = report.add_argument_group("columns of jsonl")
    columns.add_argument("--prompt-column", default="prompt", metavar="NAME", help="observations (default: prompt)")
    columns.add_argument("--completion-column", default="completion", metavar="NAME", help="default: completion")
    columns.add_argument("--id-column", metavar="NAME", help="identifies a report; without it lines are numbered")
    columns.add_argument("--group-column", metavar="NAME", help="patient: kept in one split")

    work = report.add_argument_group("work")
    work.add_argument("--processes", type=positive, help="default: one for each core")
    work.add_argument(
        "--max-dropped", type=float, default=0.005, help="share of bad reports that is put up with (default: 0.005)"
    )

    terms = report.add_argument_group("terms of use")
    terms.add_argument(
        "--access",
        choices=ACCESS_LEVELS,
        help="decides what may be shown (default: credentialed; openi: open; a generated tree: synthetic)",
    )
    terms.add_argument("--license", help="Hub licence identifier (default: other; a generated tree: apache-2.0)")
    terms.add_argument("--language", default="en", help="language code of the reports (default: en)")


def add_synthetic_report_arguments(tasks: argparse._SubParsersAction) -> None:
    """Add `synthetic-reports`: a folder of invented reports, from which `report` prepares a dataset."""
    reports = tasks.add_parser(
        "synthetic-reports",
        help="invented chest X-ray reports in the layout of MIMIC-CXR",
        description="Write invented chest X-ray reports in the layout of MIMIC-CXR, with label and split tables.",
        epilog=_SYNTHETIC_REPORT_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    reports.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="must not exist yet")
    reports.add_argument("--seed", type=non_negative, default=0, help="decides every word (default: 0)")
    reports.add_argument("--patients", type=positive, default=2100, help="1 to 8 studies each (default: 2100)")
    reports.add_argument("--studies", type=positive, default=5600, help="reports in all (default: 5600)")
