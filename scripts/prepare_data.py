"""Prepare a dataset: read a table or reports, clean, split by group or patient, audit, and write it with its card.

Exit codes: 0 written, 1 memory or disk ran out, 2 wrong input; no dataset was written.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path
from shlex import quote
from typing import Any

import radrecipes  # noqa: F401  (before any library: turns telemetry off)
from radrecipes.access import ACCESS_LEVELS, protect
from radrecipes.cli import add_table_form, non_negative, positive, run, table_form
from radrecipes.data.dataset_folder import LABEL_SET_FILE, check_output_folder, write_dataset_folder
from radrecipes.data.sources.registry import REPORT_SOURCES
from radrecipes.data.sources.report_source import ReportSource
from radrecipes.errors import InputError
from radrecipes.files import file_sha256, recorded_name
from radrecipes.shipped import ROOT
from radrecipes.tasks import TASKS, LabelTask, ReportWritingTask, Task


def main() -> None:
    """Run one subcommand."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    subcommands = parser.add_subparsers(required=True, metavar="TASK")
    for task in TASKS.values():
        if task.name == task.dataset_task and not isinstance(task, ReportWritingTask):
            _add_table_arguments(subcommands, task)
    _add_report_arguments(subcommands)
    _add_synthetic_report_arguments(subcommands)
    arguments = parser.parse_args()
    arguments.prepare(arguments)


def prepare_table(args: argparse.Namespace) -> None:
    """Prepare a table of texts, each with its label or target text."""
    from radrecipes.data.example import ACCEPTABLE
    from radrecipes.data.preparation import prepare_rows, replace_test
    from radrecipes.publishing.cards.dataset_card import render_dataset_card, render_preparation_summary

    task: Task = args.task
    _refuse_ignored(args)
    args.access = args.access or ("synthetic" if args.synthetic else "credentialed")
    protect(args.access)
    check_output_folder(args.output, args.overwrite)

    # Read or generate
    unreadable: list[str] = []
    examples, origin = _generate(args) if args.synthetic else _read_table(args, unreadable)
    label_set, options = None, {}
    if isinstance(task, LabelTask):
        label_set = _label_set(args, examples, origin)
        options = {"conflicts": args.conflicts, "on_unknown_label": args.on_unknown_label}

    # Clean, split, audit
    splits, facts = prepare_rows(
        examples,
        input_column=task.input_column,
        target_column=task.target_column,
        label_set=label_set,
        on_bad_row=args.on_bad_row,
        near_duplicate_threshold=args.near_duplicate_threshold,
        max_dropped=args.max_dropped,
        split_seed=args.split_seed,
        unreadable=unreadable,
        warn=partial(print, file=sys.stderr),
        **options,
    )

    if args.synthetic and args.test_style:
        others, _ = _generate(args, style=args.test_style)
        splits, facts = replace_test(splits, facts, others, task.input_column, task.target_column, label_set)

    # Write
    columns = "id", "group", task.input_column, task.target_column, *origin.get("slice_columns", ())
    if args.acceptable_column:
        columns += (ACCEPTABLE,)
    manifest = {**_common_facts(args, task.name, columns, bool(args.synthetic)), **origin, **facts}
    card = render_dataset_card(manifest)
    written = write_dataset_folder(
        args.output, splits=splits, manifest=manifest, card=card, label_set=label_set, overwrite=args.overwrite
    )

    # Report
    print(render_preparation_summary(written))
    if origin.get("label_set_derived"):
        print(f"\n{len(label_set.labels)} labels were derived from the labels of the source. To give them aliases,")
        print(
            f"copy {quote(str(args.output / LABEL_SET_FILE))}, edit it, and prepare again with --label-set COPY --overwrite."
        )
    _print_written(args, written)


def _label_set(args: argparse.Namespace, examples: list, origin: dict) -> Any:
    """The label set of the user or the generator, or one derived from the labels; adds what is known of it to `origin`."""
    from radrecipes.data.label_sets import LabelSet
    from radrecipes.data.preparation import derive_label_set

    file = args.label_set
    if args.synthetic:
        file = file or ROOT / args.task.synthetic[args.synthetic].label_set
    if file:
        label_set = LabelSet.load(file)
    else:
        name, source = _dataset_name(args), recorded_name(args.source.name)
        label_set = derive_label_set(examples, name, source)
    origin["label_set_derived"] = file is None
    if parts := origin.get("label_parts"):
        named = {label_set.canonical(label): parts[label] for label in sorted(parts)}
        origin["label_parts"] = {name: cells for name, cells in named.items() if name}
    return label_set


def _refuse_ignored(args: argparse.Namespace) -> None:
    """Refuse options of --source with --synthetic, those of the generator with --source, and a slice column named twice."""
    generator, target = ("seed", "rows", "test_style"), f"{args.target_option}_column"
    columns = ("text_column", "target", "id_column", "group_column", "slice_column", "acceptable_column")
    of, ignored = ("--synthetic", (*columns, *table_form(args))) if args.synthetic else ("--source", generator)
    for name in ignored:
        if getattr(args, name, None) is not None:
            option = (target if name == "target" else name).replace("_", "-")
            raise InputError(f"--{option} has no effect with {of}; remove it")
    for column in args.slice_column or ():
        if args.slice_column.count(column) > 1:
            raise InputError(f"column {column!r} is named twice; name it once", "--slice-column")


def _read_table(args: argparse.Namespace, unreadable: list[str]) -> tuple[list, dict]:
    from radrecipes.data.sources.table_form import TableForm
    from radrecipes.data.sources.table_rows import open_table, usual_names
    from radrecipes.data.sources.tables import ExampleTable, check_columns, named_columns

    form = TableForm(**table_form(args))
    for option, columns in (("text", args.text_column), (args.target_option, args.target)):
        if not columns or not all(columns):
            names = usual_names(open_table(args.source, form=form).header)
            found = f": the table has {names}" if names else ", see --help"
            raise InputError(f"--{option}-column is missing; name the column{found}", where=str(args.source))
    check_columns(args.text_column, args.target)
    if len(args.target) > 1 and not isinstance(args.task, LabelTask):
        raise InputError(
            f"name one column; a {args.target_option} text is not joined", f"--{args.target_option}-column"
        )
    source = ExampleTable(
        args.source,
        inputs={args.task.input_column: named_columns(args.text_column)},
        target=named_columns(args.target),
        id_column=args.id_column,
        group_column=args.group_column,
        slice_columns=args.slice_column or (),
        acceptable_column=args.acceptable_column,
        form=form,
    )
    # Only rows that may be dropped are passed over.
    examples = source.read(unreadable if args.on_bad_row == "drop" else None)
    table = source.table
    if table.said:
        print(table.said)
    file = {
        "file": recorded_name(args.source.name),
        "sha256": file_sha256(args.source),
        "rows": len(examples) + len(unreadable),
    }
    slices = {"slice_columns": args.slice_column} if args.slice_column else {}
    return examples, {"source": [file | table.facts], "generator": None, **source.rendered, **slices}


def _generate(args: argparse.Namespace, **style: str) -> tuple[list, dict]:
    from radrecipes.data.example import Example

    task, kind = args.task, args.task.synthetic[args.synthetic]
    if args.test_style and args.test_style not in kind.test_styles:
        raise InputError(f"{args.synthetic} has no other style", f"--test-style {args.test_style}")
    rows, seed = kind.rows if args.rows is None else args.rows, args.seed or 0
    examples = [
        Example(
            row["id"],
            row["group"],
            task.inputs(row),
            row[task.target_column],
            f"generated:{number}",
            {column: row[column] for column in kind.slice_columns},
        )
        for number, row in enumerate(kind.generate(seed=seed, rows=rows, **style), start=1)
    ]
    origin = {
        "source": [],
        "generator": {
            "name": f"{kind.generate.__module__}.{kind.generate.__qualname__}",
            "seed": seed,
            "rows": rows,
            **({"groups": kind.groups} if kind.groups else {}),
            **({"test_style": args.test_style} if args.test_style else {}),
        },
        **({"slice_columns": list(kind.slice_columns)} if kind.slice_columns else {}),
        **({"about": kind.about} if kind.about else {}),
    }
    return examples, origin


def prepare_report(args: argparse.Namespace) -> None:
    """Prepare chest X-ray reports with the observations that they state."""
    from radrecipes.data.report_preparation import COLUMNS, ReportOptions, prepare_reports
    from radrecipes.publishing.cards.report_dataset_card import (
        recognition_warning,
        render_report_dataset_card,
        render_report_summary,
    )

    _check_report_arguments(args)
    check_output_folder(args.output, args.overwrite)

    source = _open_reports(args)
    synthetic = source.generator is not None

    # Read, clean, label, split
    rejected = Path(f"{args.output}.rejected.csv")
    labels = "relabel" if args.label_source == "relabel" else "stated"
    deidentified = args.deidentified or source.deidentified
    options = ReportOptions(
        labels, args.sections, args.earlier_studies, deidentified, args.details, args.turned_normal
    )
    with _progress(source.count) as progress:
        splits, facts = prepare_reports(
            source,
            options,
            rejected_path=rejected,
            official_split=args.split == "official",
            split_seed=args.split_seed,
            max_dropped=args.max_dropped,
            processes=args.processes,
            progress=progress,
        )

    # Write
    manifest = {
        **_common_facts(args, "report", COLUMNS, synthetic),
        "generator": source.generator,
        "origin": args.source,
        "label_source": args.label_source,
        "labels": args.labels,
        **facts,
    }
    card = render_report_dataset_card(manifest)
    written = write_dataset_folder(args.output, splits=splits, manifest=manifest, card=card, overwrite=args.overwrite)

    # Report
    print(render_report_summary(written))
    if written["rows"]["dropped"]:
        print(f"\ndropped reports are listed in {rejected}")
    _print_written(args, written)
    if warning := recognition_warning(written):
        print(f"warning: {warning}", file=sys.stderr)


def _open_reports(args: argparse.Namespace) -> ReportSource:
    """Find the reports, and set the access class and licence that they have."""
    kind = REPORT_SOURCES[args.source]
    source = kind.open(args.root, vars(args))
    for found in source.said:
        print(found)
    synthetic = source.generator is not None
    if args.access == "synthetic" and not synthetic:
        raise InputError(
            "--access synthetic is for generated reports only, which have a generator.json next to them",
            where=str(args.root),
        )

    args.access = args.access or ("synthetic" if synthetic else kind.access)
    args.license = args.license or (None if synthetic else kind.license)
    protect(args.access)
    return source


def _check_report_arguments(args: argparse.Namespace) -> None:
    """Fill in the defaults that depend on the source; reject what the source does not have."""
    source = REPORT_SOURCES[args.source]
    if not 0 <= args.max_dropped <= 1:
        raise InputError(f"--max-dropped is {args.max_dropped}; choose a fraction between 0 and 1, for example 0.02")
    args.label_source = args.label_source or source.label_sources[0]
    if args.label_source not in source.label_sources:
        raise InputError(
            f"--source {args.source} has no labels of the kind --label-source {args.label_source};"
            f" choose {' or '.join(source.label_sources)}"
        )
    if args.label_source == "relabel" and args.language.lower().split("-")[0].split("_")[0] not in ("en", "eng"):
        stated = [kind for kind in source.label_sources if kind != "relabel"]
        instead = f"use the labels of the source with --label-source {stated[0]}" if stated else "use English reports"
        raise InputError(f"--language is {args.language}: the labelling rules know English only; {instead}")
    of_some = {option for kind in REPORT_SOURCES.values() for option in kind.options} - set(source.options)
    for option in sorted(option for option in of_some if getattr(args, option) is not None):
        takers = " and ".join(name for name, kind in REPORT_SOURCES.items() if option in kind.options)
        raise InputError(
            f"--source {args.source} does not take --{option.replace('_', '-')}, only {takers}; remove it"
        )
    if args.label_source == "csv":
        args.labels = args.labels or "chexpert"
    elif args.labels:
        raise InputError("--labels chooses a CSV file, which is only read with --label-source csv; add that")
    if args.split == "official" and not source.official_split:
        raise InputError(f"--source {args.source} has no official split; choose --split patient")
    if args.split == "official" and args.split_seed is not None:
        raise InputError("--split-seed has no effect with --split official; remove it")
    args.split_seed = args.split_seed or 0


def make_synthetic_reports(args: argparse.Namespace) -> None:
    """Write invented reports in the layout of MIMIC-CXR, from which `report` prepares a dataset."""
    from radrecipes.data.synthetic_reports.generator import write_synthetic_tree

    with _progress(args.studies) as progress:
        facts = write_synthetic_tree(
            args.output, seed=args.seed, patients=args.patients, studies=args.studies, on_progress=progress
        )
    print(f"{facts['studies']} synthetic reports of {facts['patients']} patients, {facts['normal_studies']} normal")
    print(f"written to {args.output}; prepare them with --source mimic-cxr --root {quote(str(args.output))}")


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar that starts with the first reports, so that an earlier error is printed alone."""
    from tqdm import tqdm

    with ExitStack() as stack:
        bar = cache(lambda: stack.enter_context(tqdm(total=total, unit=" reports", smoothing=0.05)))
        yield lambda done: bar().update(done)


def _dataset_name(args: argparse.Namespace) -> str:
    return recorded_name(Path(os.path.realpath(args.output)).name)


def _common_facts(args: argparse.Namespace, task: str, columns: Sequence[str], synthetic: bool) -> dict:
    return {
        "name": _dataset_name(args),
        "task": task,
        "columns": list(columns),
        "access": args.access,
        "license": args.license or ("apache-2.0" if synthetic else "other"),
        "language": args.language,
    }


def _print_written(args: argparse.Namespace, written: dict) -> None:
    print(f"\nwritten to {args.output} (access: {written['access']}, digest {written['digest'][:12]})")


def _add_subcommand(
    subcommands: argparse._SubParsersAction, name: str, description: str, epilog: str, prepare: Callable
) -> argparse.ArgumentParser:
    parser = subcommands.add_parser(
        name,
        help=description,
        description=f"{description[0].upper()}{description[1:]}.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(prepare=prepare)
    return parser


def _add(group: argparse._ArgumentGroup, option: str, meaning: str, default: Any, **settings: Any) -> None:
    group.add_argument(option, default=default, help=f"{meaning} (default: {default})", **settings)


def _add_output(parser: argparse.ArgumentParser, example: str) -> None:
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help=f"for example {example}")
    parser.add_argument("--overwrite", action="store_true", help="replace the dataset in --output")


def _add_terms(parser: argparse.ArgumentParser, rows: str, access: str, synthetic: str) -> None:
    terms = parser.add_argument_group("terms of use")
    terms.add_argument(
        "--access",
        choices=ACCESS_LEVELS,
        help=f"decides what may be printed, and who may read the files (default: {access})",
    )
    terms.add_argument("--license", help=f"Hub licence identifier (default: other{synthetic})")
    _add(terms, "--language", f"language code of the {rows}", "en")


def _table_examples(task: Task, target: str, labels: bool, synthetic: Mapping[str, Any]) -> str:
    words = task.words
    command = f"  python scripts/prepare_data.py {task.name}"
    columns = f"--text-column {words.rows.removesuffix('s')}_text --{target}-column {words.answer}"
    table = f"{command} --source {words.rows}.csv {columns} \\\n     "
    examples = [f"  # A table.\n{table} --group-column patient --output data/our_{words.rows}\n"]
    if labels:
        examples.append(
            f"  # An export of Excel: several columns as one text, and one {words.answer} of two columns.\n"
            f"{command} --source {words.rows}.xlsx --text-column exam indication age \\\n"
            f"      --{target}-column {words.answer} contrast --group-column patient --output data/our_{words.rows} --overwrite\n"
        )
        examples.append(
            "  # With a label set of your own: aliases, modality, contrast. An unknown label is then an error. Without\n"
            "  # one, labels that differ only in case or punctuation are one label.\n"
            f"{table} --label-set labels.yaml --output data/our_{words.rows} --overwrite\n"
        )
    for number, (name, kind) in enumerate(synthetic.items()):
        folder, kind_option = (
            (f"{task.name}_{name}_synthetic", f" {name}") if number else (f"{task.name}_synthetic", "")
        )
        examples.append(
            f"  # Synthetic {words.rows} of the repository.\n"
            f"{command} --synthetic{kind_option} --seed 0 --output data/{folder} --overwrite\n"
        )
        for style in kind.test_styles:
            examples.append(
                f"  # The same, with test {words.rows} in another hospital's style.\n"
                f"{command} --synthetic{kind_option} --test-style {style} --output data/{folder}_{style} --overwrite\n"
            )
    return "examples:\n" + "\n".join(examples)


def _add_table_arguments(subcommands: argparse._SubParsersAction, task: Task) -> None:
    labels = isinstance(task, LabelTask)
    target, words, synthetic = "label" if labels else "target", task.words, task.synthetic if labels else {}
    description, examples = (
        f"{words.rows}, each with its {words.answer}",
        _table_examples(task, target, labels, synthetic),
    )
    parser = _add_subcommand(subcommands, task.name, description, examples, prepare_table)
    parser.set_defaults(task=task, target_option=target, synthetic=None, slice_column=None, acceptable_column=None)

    origin = parser.add_mutually_exclusive_group(required=True)
    formats = "CSV, TSV, TXT, JSON, JSONL (also .gz), Excel (.xlsx), Parquet, or FHIR ServiceRequest (.ndjson)"
    origin.add_argument("--source", type=Path, metavar="FILE", help=formats)
    if synthetic:
        _add_generator(parser, origin, words.rows, synthetic)
    _add_output(parser, f"data/our_{words.rows}")

    _add_columns(parser, task, target, labels)
    add_table_form(parser, "--source")

    rows = parser.add_argument_group("labels and rows" if labels else "rows")
    if labels:
        rows.add_argument("--label-set", type=Path, metavar="FILE", help="YAML (default: derived from the labels)")
        conflicts = "equal texts with different labels; vote keeps the majority"
        _add(rows, "--conflicts", conflicts, "drop", choices=("drop", "vote"))
        _add(rows, "--on-unknown-label", "labels that are not in --label-set", "error", choices=("error", "drop"))
    _add(
        rows,
        "--on-bad-row",
        f"empty text or {target}, control tokens in a {target}, or a row that cannot be read",
        "error",
        choices=("error", "drop"),
    )
    _add(rows, "--max-dropped", "fraction of rows that may be dropped", 0.005, type=float)
    similar = "texts with at least this 5-gram Jaccard similarity stay in one split"
    _add(rows, "--near-duplicate-threshold", similar, 0.8, type=float)
    _add(rows, "--split-seed", "seed of the split", 0, type=int)
    access, licence = ("; --synthetic: synthetic", "; --synthetic: apache-2.0") if synthetic else ("", "")
    _add_terms(parser, words.rows, f"credentialed{access}", licence)


def _add_generator(
    parser: argparse.ArgumentParser, origin: argparse._MutuallyExclusiveGroup, rows: str, kinds: Mapping[str, Any]
) -> None:
    names, styles = list(kinds), sorted({style for kind in kinds.values() for style in kind.test_styles})
    generate = f"generate {rows} instead of reading them (default: {names[0]})"
    origin.add_argument("--synthetic", nargs="?", const=names[0], choices=names, help=generate)
    generator = parser.add_argument_group("generator of --synthetic")
    generator.add_argument("--seed", type=int, help="seed of the generator (default: 0)")
    default = ", ".join(f"{name}: {kind.rows}" for name, kind in kinds.items())
    generator.add_argument("--rows", type=int, help=f"{rows} to generate (default: {default})")
    if styles:
        written = f"write the test split, and only it, in another hospital's style ({names[0]})"
        generator.add_argument("--test-style", choices=styles, help=written)


def _add_columns(parser: argparse.ArgumentParser, task: Task, target: str, labels: bool) -> None:
    answer = task.words.answer
    columns = parser.add_argument_group("columns of --source")
    several = {"nargs": "+", "action": "extend", "metavar": "NAME"}
    columns.add_argument(
        "--text-column",
        help=f"the {task.input_column}; several columns become lines `name: cell`, in this order, without empty cells",
        **several,
    )
    columns.add_argument(
        f"--{target}-column",
        dest="target",
        help=f"the {answer}" + (f"; several columns become one {answer}, `cell | name: cell`" if labels else ""),
        **several | ({} if labels else {"nargs": 1}),
    )
    columns.add_argument("--id-column", metavar="NAME", help="identifies a row (default: rows are numbered)")
    columns.add_argument(
        "--group-column",
        metavar="NAME",
        help="for example the patient; rows of one group stay in one split (default: each row is its own group)",
    )
    if labels:
        columns.add_argument(
            "--slice-column",
            help="for example the site or the scanner: evaluation also gives results for each of its values",
            **several,
        )
        columns.add_argument(
            "--acceptable-column",
            metavar="NAME",
            help=f"other {task.words.answers} that would be acceptable, separated by semicolons: evaluation also counts these",
        )


_REPORT_EXAMPLES = """\
examples (mimic-cxr and openi are folders with the downloaded files):
  # MIMIC-CXR as PhysioNet provides it. Labels are extracted from the text that is kept, so that they fit it.
  python scripts/prepare_data.py report --source mimic-cxr --root mimic-cxr --output data/mimic_reports

  # The official split, and CheXpert's labels as published (of the impression alone if there is one).
  python scripts/prepare_data.py report --source mimic-cxr --root mimic-cxr --output data/mimic_official \\
      --split official --label-source csv --labels chexpert

  # OpenI (Indiana University), which needs no credentials.
  python scripts/prepare_data.py report --source openi --root openi --output data/openi_reports

  # A table of a department, in any of the usual forms: columns with usual names are found, and named.
  python scripts/prepare_data.py report --source table --root indiana_reports.csv --output data/indiana
  python scripts/prepare_data.py report --source table --root export.xlsx --report-column "Report Text" \\
      --group-column MRN --exam-column Procedure --output data/our_reports

  # JSON or JSONL with columns of sections, and the split that a column states.
  python scripts/prepare_data.py report --source table --root reports.jsonl --split official --output data/our_json

  # A folder of text files named 2024/P017_1.txt, where P017 is the patient.
  python scripts/prepare_data.py report --source text --root reports --group-pattern 'P[0-9]+' --output data/our_texts

  # HL7 v2 result messages, or FHIR DiagnosticReport resources.
  python scripts/prepare_data.py report --source hl7 --root messages --output data/our_messages
  python scripts/prepare_data.py report --source fhir --root DiagnosticReport.ndjson --output data/our_resources

  # Prompt and completion pairs; --group-column keeps a patient's reports in one split.
  python scripts/prepare_data.py report --source jsonl --root pairs.jsonl --group-column patient --sections any \\
      --output data/our_pairs
"""


def _add_report_arguments(subcommands: argparse._SubParsersAction) -> None:
    description = "chest X-ray reports with the observations that they state"
    report = _add_subcommand(subcommands, "report", description, _REPORT_EXAMPLES, prepare_report)
    report.add_argument("--source", choices=tuple(REPORT_SOURCES), required=True, help="layout of --root")
    layouts = "; ".join(f"{name}: {source.layout}" for name, source in REPORT_SOURCES.items())
    report.add_argument("--root", type=Path, required=True, metavar="PATH", help=layouts)
    _add_output(report, "data/our_reports")

    labels = report.add_argument_group("labels and splits")
    kinds = tuple(dict.fromkeys(kind for source in REPORT_SOURCES.values() for kind in source.label_sources))
    labels.add_argument(
        "--label-source",
        choices=kinds,
        help="extracted from the text that is kept, or as the CSV (mimic-cxr) or the prompt (jsonl) states them"
        " (default: relabel; jsonl: prompt). CSV labels describe the impression alone if there is one",
    )
    labels.add_argument(
        "--labels", choices=("chexpert", "negbio"), help="CSV of --label-source csv (default: chexpert)"
    )
    official = "official: mimic-cxr has one, a table if a column states it"
    _add(labels, "--split", official, "patient", choices=("patient", "official"))
    labels.add_argument("--split-seed", type=non_negative, help="seed of the split by patient (default: 0)")

    text = report.add_argument_group("text")
    for option, choices, meaning in (
        ("--sections", ("both", "any"), "sections that must contain text"),
        ("--earlier-studies", ("drop", "keep"), "comparisons with earlier studies"),
        ("--details", ("drop", "keep"), "sides and measurements, which a model could only make up"),
        ("--turned-normal", ("drop", "keep"), "studies whose findings are all in the text that is removed"),
    ):
        _add(text, option, meaning, choices[0], choices=choices)
    text.add_argument(
        "--deidentified",
        choices=("drop", "repair", "normalise"),
        help="drop sentences with ___ or XXXX, repair them (the mark is cut out, or becomes the word that it must have been), or"
        " write every mark as ___ (default: repair; mimic-cxr: drop)",
    )

    _add_file_arguments(report)
    work = report.add_argument_group("work")
    work.add_argument("--processes", type=positive, help="worker processes (default: one per core)")
    _add(work, "--max-dropped", "fraction of reports that may be dropped", 0.005, type=float)
    access = "credentialed; openi: registered; a generated tree: synthetic"
    _add_terms(report, "reports", access, "; openi: cc-by-nc-nd-4.0; a generated tree: apache-2.0")


def _add_file_arguments(report: argparse.ArgumentParser) -> None:
    """The columns of a file of reports, and how it is written."""
    columns = report.add_argument_group(
        "columns of table and jsonl", "Of a table, columns with usual names are found; an empty NAME means no column."
    )
    for role, meaning in (
        ("findings", "the findings (table)"),
        ("impression", "the impression (table)"),
        ("report", "the complete report, if it is not in sections (table)"),
        ("exam", "the exam; other exams than chest X-rays are left out (table)"),
        ("split", "train, validation or test, for --split official (table)"),
        ("id", "identifies a report (default: rows are numbered)"),
        ("group", "the patient; a patient's reports stay in one split"),
    ):
        columns.add_argument(f"--{role}-column", metavar="NAME", help=meaning)
    columns.add_argument("--prompt-column", metavar="NAME", help="observations (jsonl; default: prompt)")
    columns.add_argument("--completion-column", metavar="NAME", help="the report (jsonl; default: completion)")

    add_table_form(report, "--root (table; the encoding also of text and hl7)")
    report.add_argument_group("files of text").add_argument(
        "--group-pattern",
        metavar="REGEX",
        help="finds the patient in the path of a text file, for example 'P[0-9]+' (default: the folder of the file)",
    )


_SYNTHETIC_REPORT_EXAMPLES = """\
examples:
  # The tree, and a dataset from it.
  python scripts/prepare_data.py synthetic-reports --output data/synthetic_cxr --seed 0
  python scripts/prepare_data.py report --source mimic-cxr --root data/synthetic_cxr --output data/synthetic_reports
"""


def _add_synthetic_report_arguments(subcommands: argparse._SubParsersAction) -> None:
    description = "invented chest X-ray reports in the layout of MIMIC-CXR, with label and split tables"
    reports = _add_subcommand(
        subcommands, "synthetic-reports", description, _SYNTHETIC_REPORT_EXAMPLES, make_synthetic_reports
    )
    reports.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="must not exist yet")
    _add(reports, "--seed", "seed of the generator", 0, type=non_negative)
    _add(reports, "--patients", "1 to 8 studies each", 900, type=positive)
    _add(reports, "--studies", "reports in total", 2400, type=positive)


if __name__ == "__main__":
    run(main)
