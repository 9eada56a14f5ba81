"""Prepare a dataset: read a table or generate orders, clean, split by group, audit, and write it with its card."""

import argparse
import hashlib
from pathlib import Path
from typing import Any

from radrecipes.command_line import run
from radrecipes.data.example import Example
from radrecipes.data.label_sets import LabelSet
from radrecipes.data.preparation import COLUMNS, derive_label_set, prepare_labelled_notes
from radrecipes.data.prepared import ACCESS_LEVELS, LABEL_SET_FILE, check_output_folder, write_prepared_dataset
from radrecipes.data.synthetic_protocol import generate_orders
from radrecipes.data.tables import read_examples
from radrecipes.errors import InputError
from radrecipes.reporting.dataset_card import render_dataset_card, render_preparation_summary

SYNTHETIC_LABEL_SET = Path(__file__).resolve().parent.parent / "data" / "label_sets" / "protocol_ct_mr.yaml"

EXAMPLES = """\
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


def parse_arguments() -> argparse.Namespace:
    """Parse the command line; one subcommand per task."""
    parser = argparse.ArgumentParser(description=__doc__)
    tasks = parser.add_subparsers(dest="task", required=True, metavar="TASK")
    protocol = tasks.add_parser(
        "protocol",
        help="orders with the imaging protocol that was chosen for each",
        description="Prepare orders with the imaging protocol that was chosen for each.",
        epilog=EXAMPLES,
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
    return parser.parse_args()


def main() -> None:
    """Prepare one dataset."""
    arguments = parse_arguments()
    check_output_folder(arguments.output, arguments.overwrite)
    origin: dict[str, Any] = {"source": [], "generator": None, "label_set_derived": False}

    # Read or generate
    if arguments.synthetic:
        if arguments.rows < 1:
            raise InputError(f"--rows is {arguments.rows}; choose 1 or more")
        label_set = LabelSet.load(arguments.label_set or SYNTHETIC_LABEL_SET)
        orders = generate_orders(seed=arguments.seed, rows=arguments.rows)
        examples = [
            Example(order["id"], order["group"], {"note": order["note"]}, order["label"], f"generated:{number}")
            for number, order in enumerate(orders, start=1)
        ]
        origin["generator"] = {
            "name": generate_orders.__module__ + "." + generate_orders.__qualname__,
            "seed": arguments.seed,
            "rows": arguments.rows,
        }
    else:
        for option, value in (("--text-column", arguments.text_column), ("--label-column", arguments.label_column)):
            if not value:
                raise InputError(f"{option} is missing; name the column, see --help", where=str(arguments.source))
        examples = read_examples(
            arguments.source,
            inputs={"note": arguments.text_column},
            target=arguments.label_column,
            id_column=arguments.id_column,
            group_column=arguments.group_column,
        )
        if arguments.label_set:
            label_set = LabelSet.load(arguments.label_set)
        else:
            label_set = derive_label_set(examples, arguments.output.resolve().name, arguments.source.name)
            origin["label_set_derived"] = True
        sha256 = hashlib.sha256(arguments.source.read_bytes()).hexdigest()
        origin["source"] = [{"file": arguments.source.name, "sha256": sha256, "rows": len(examples)}]

    # Clean, split, audit
    preparation = prepare_labelled_notes(
        examples,
        label_set,
        conflicts=arguments.conflicts,
        on_bad_row=arguments.on_bad_row,
        on_unknown_label=arguments.on_unknown_label,
        near_duplicate_threshold=arguments.near_duplicate_threshold,
        max_dropped=arguments.max_dropped,
        split_seed=arguments.split_seed,
    )

    # Write
    manifest = {
        "name": arguments.output.resolve().name,
        "task": arguments.task,
        "access": arguments.access or ("synthetic" if arguments.synthetic else "credentialed"),
        "license": arguments.license or ("apache-2.0" if arguments.synthetic else "other"),
        "language": arguments.language,
        **origin,
        **preparation.facts,
    }
    dataset = write_prepared_dataset(
        arguments.output,
        splits=preparation.splits,
        columns=COLUMNS,
        manifest=manifest,
        card=render_dataset_card(manifest),
        label_set=label_set,
        overwrite=arguments.overwrite,
    )

    # Say what came of it
    print(render_preparation_summary(dataset.manifest))
    if arguments.source and not arguments.label_set:
        print(
            f"\n{len(label_set.labels)} labels were derived from the labels of the source. To give them aliases, copy"
        )
        print(f"{dataset.folder / LABEL_SET_FILE}, edit it, and prepare again with --label-set COPY --overwrite.")
    print(f"\nwritten to {dataset.folder} (access: {dataset.access}, digest {dataset.digest[:12]})")


if __name__ == "__main__":
    run(main)
