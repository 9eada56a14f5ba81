"""`scripts/prepare_data.py report`: read reports, take their sections, clean, label, split by patient, write."""

import argparse
from pathlib import Path

from tqdm import tqdm

from radrecipes.data.dataset_folder import check_output_folder, write_dataset_folder
from radrecipes.data.report_preparation import COLUMNS, ReportOptions, prepare_reports
from radrecipes.data.sources.mimic_cxr import MimicCxr
from radrecipes.data.sources.openi import OpenI
from radrecipes.data.sources.report_pairs import ReportPairs
from radrecipes.data.sources.report_source import ReportSource
from radrecipes.errors import InputError
from radrecipes.publishing.cards.report_dataset_card import render_report_dataset_card, render_report_summary


def prepare_report(arguments: argparse.Namespace) -> None:
    """Prepare one dataset of reports."""
    check_arguments(arguments)
    check_output_folder(arguments.output, arguments.overwrite)

    # Find the reports
    source = open_source(arguments)
    synthetic = source.generator is not None
    if arguments.access == "synthetic" and not synthetic:
        raise InputError(
            "--access synthetic is for reports that were generated, which generator.json beside them says",
            where=str(arguments.root),
        )

    # Read, clean, label, split. The bar begins with the first reports, when all processes run.
    bar = None

    def progress(done: int) -> None:
        nonlocal bar
        bar = bar or tqdm(total=source.count, unit=" reports", smoothing=0.05)
        bar.update(done)

    rejected = Path(f"{arguments.output}.rejected.csv")
    try:
        preparation = prepare_reports(
            source,
            ReportOptions(
                labels="relabel" if arguments.label_source == "relabel" else "stated",
                sections=arguments.sections,
                earlier_studies=arguments.earlier_studies,
                deidentified=arguments.deidentified,
                details=arguments.details,
            ),
            rejected_path=rejected,
            official_split=arguments.split == "official",
            split_seed=arguments.split_seed,
            max_dropped=arguments.max_dropped,
            processes=arguments.processes,
            progress=progress,
        )
    finally:
        if bar:
            bar.close()

    # Write
    default_access = {"mimic-cxr": "credentialed", "openi": "open", "jsonl": "credentialed"}[arguments.source]
    manifest = {
        "name": arguments.output.resolve().name,
        "task": arguments.task,
        "access": arguments.access or ("synthetic" if synthetic else default_access),
        "license": arguments.license or ("apache-2.0" if synthetic else "other"),
        "language": arguments.language,
        "generator": source.generator,
        "origin": arguments.source,
        "label_source": arguments.label_source,
        "labels": arguments.labels,
        **preparation.facts,
    }
    written = write_dataset_folder(
        arguments.output,
        splits=preparation.splits,
        columns=COLUMNS,
        manifest=manifest,
        card=render_report_dataset_card(manifest),
        overwrite=arguments.overwrite,
    )

    # Say what came of it
    print(render_report_summary(written))
    if written["rows"]["dropped"]:
        print(f"\ndropped reports are listed in {rejected}")
    print(f"\nwritten to {arguments.output} (access: {written['access']}, digest {written['digest'][:12]})")


def check_arguments(arguments: argparse.Namespace) -> None:
    """Fill in the defaults that depend on the source; refuse what the source does not have."""
    if not 0 <= arguments.max_dropped <= 1:
        raise InputError(f"--max-dropped is {arguments.max_dropped}; choose a share between 0 and 1, for example 0.02")
    stated = {"mimic-cxr": "csv", "openi": None, "jsonl": "prompt"}[arguments.source]
    arguments.label_source = arguments.label_source or ("prompt" if arguments.source == "jsonl" else "relabel")
    if arguments.label_source not in ("relabel", stated):
        possible = f"{stated} or relabel" if stated else "relabel"
        raise InputError(
            f"--source {arguments.source} has no labels of the kind --label-source {arguments.label_source};"
            f" choose {possible}"
        )
    if arguments.label_source == "csv":
        arguments.labels = arguments.labels or "chexpert"
    elif arguments.labels:
        raise InputError("--labels chooses a CSV file, which is only read with --label-source csv; add that")
    if arguments.split == "official" and arguments.source != "mimic-cxr":
        raise InputError(f"--source {arguments.source} has no official split; choose --split patient")


def open_source(arguments: argparse.Namespace) -> ReportSource:
    """The reader for `--source`."""
    if arguments.source == "openi":
        return OpenI(arguments.root)
    if arguments.source == "jsonl":
        return ReportPairs(
            arguments.root,
            prompt_column=arguments.prompt_column,
            completion_column=arguments.completion_column,
            id_column=arguments.id_column,
            group_column=arguments.group_column,
            read_prompts=arguments.label_source == "prompt",
        )
    return MimicCxr(arguments.root, labels=arguments.labels, official_split=arguments.split == "official")
