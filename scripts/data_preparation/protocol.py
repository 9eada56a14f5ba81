"""`scripts/prepare_data.py protocol`: read a table or generate orders, clean, split by group, audit, write."""

import argparse
import hashlib
from pathlib import Path
from typing import Any

from radrecipes.data.dataset_folder import LABEL_SET_FILE, check_output_folder
from radrecipes.data.example import Example
from radrecipes.data.label_sets import LabelSet
from radrecipes.data.preparation import COLUMNS, derive_label_set, prepare_labelled_notes
from radrecipes.data.prepared import write_prepared_dataset
from radrecipes.data.sources.tables import read_examples
from radrecipes.data.synthetic_protocol import generate_orders
from radrecipes.errors import InputError
from radrecipes.publishing.cards.dataset_card import render_dataset_card, render_preparation_summary

SYNTHETIC_LABEL_SET = Path(__file__).resolve().parents[2] / "data" / "label_sets" / "protocol_ct_mr.yaml"


def prepare_protocol(arguments: argparse.Namespace) -> None:
    """Prepare one dataset of orders."""
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
