r"""Review predicted orders on a page in your browser: each row with NEEDS_REVIEW gets its right label from a person.

    python scripts/review.py answers.csv --input orders.csv --text-column order_text --id-column order_id
    python scripts/review.py answers_with_text.csv --sample auto --label-set data/our_orders/label_set.yaml

The first form reads the texts from the table that was predicted; the second one from answers of `predict.py --keep-text`. With
--sample some automatic answers, drawn at random, are among the rows, unmarked, to measure how many of them are right.

Open the address that the command prints; it is valid on this machine while the command runs, which Ctrl-C ends. Every decision is
on disk before it is shown as saved. The same command continues. Several windows, and several of these commands, may work on one
file: each row is shown to one of them.

corrections.csv, next to the answers, has the columns of a training table, the model's label and probability, the decision
(accepted or changed), reviewer, time (UTC), comment, and whether the row was sampled. It is made from corrections.csv.journal:
keep both. To train with it: scripts/prepare_data.py protocol --source corrections.csv.

Exit codes: 0 ended, 1 memory or disk ran out, 2 wrong input.
"""

import argparse
import getpass
import secrets
import socket
from pathlib import Path

import radrecipes  # noqa: F401  (before any library: turns telemetry off)
from radrecipes.access import protect
from radrecipes.cli import add_table_form, fraction, non_negative, positive, run, table_form
from radrecipes.errors import InputError, shown
from radrecipes.files import file_sha256


def sample(text: str) -> int | str:
    """Argparse `type`: a number of rows, or `auto`."""
    return text if text == "auto" else non_negative(text)


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("answers", type=Path, metavar="FILE", help="what predict.py wrote")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="the table of corrections, .csv (default: corrections.csv next to the answers)",
    )
    parser.add_argument(
        "--reviewer", metavar="NAME", help="written next to each decision (default: the system's user)"
    )
    parser.add_argument(
        "--label-set", metavar="FILE", help="the labels that can be chosen (default: those that occur in the answers)"
    )
    parser.add_argument(
        "--sample",
        type=sample,
        default=0,
        metavar="N",
        help="automatic rows to mix in: a number, or auto for an interval of 3 points to either side (default: 0)",
    )
    parser.add_argument(
        "--target-accuracy",
        type=fraction,
        default=0.95,
        help="accuracy that the sample is to show (default: 0.95)",
    )
    parser.add_argument("--port", type=positive, default=0, help="of 127.0.0.1 (default: any that is free)")
    texts = parser.add_argument_group("texts that the answers do not have")
    texts.add_argument("--input", type=Path, metavar="FILE", help="the table that was predicted")
    texts.add_argument("--text-column", nargs="+", metavar="NAME", help="as for predict.py")
    texts.add_argument("--id-column", metavar="NAME", help="as for predict.py (default: the row's number)")
    texts.add_argument("--group-column", metavar="NAME", help="copied as `group`, for example the patient")
    add_table_form(parser, "--input")
    return parser.parse_args()


def main() -> None:
    """Read the answers, then serve the page until Ctrl-C."""
    args = parse_args()
    protect(None)  # the class of the orders is unknown
    from radrecipes.data.label_sets import LabelSet
    from radrecipes.review.journal import Journal
    from radrecipes.review.rows import fewest_without_error, read_rows, sample_size

    if args.sample == "auto":
        args.sample = sample_size(args.target_accuracy)
    digest = file_sha256(args.answers) if args.answers.is_file() else ""
    rows, names = read_rows(args.answers, digest, args.sample, _orders(args))
    label_set = LabelSet.load(args.label_set) if args.label_set else None
    if label_set and (unknown := sorted(name for name in names if name not in label_set.names)):
        raise InputError(f"lacks {len(unknown)} labels of the answers, first {unknown[0]!r}", args.label_set)
    journal = Journal(args.output or args.answers.with_name("corrections.csv"), digest)
    app, listener, token = _page(args, rows, journal, names, label_set)

    from radrecipes.review.server import serve

    if args.sample:
        fewest, wide = fewest_without_error(args.target_accuracy), sample_size(args.target_accuracy)
        print(
            f"{args.sample:,} automatic rows are mixed in; {fewest:,} without an error show {args.target_accuracy:.0%} with 95 % "
            f"confidence, {wide:,} measure it to 3 points"
        )
    print(f"{len(rows):,} rows to review; decisions go to {journal.corrections}; Ctrl-C ends")
    print(f"open http://127.0.0.1:{listener.getsockname()[1]}/?token={token}", flush=True)
    serve(app, listener)
    with journal.updated():
        print(f"{len(journal.decided):,} reviewed; decisions are in {journal.corrections}")


def _page(args: argparse.Namespace, rows: list, journal, names: set[str], label_set) -> tuple:
    """The application on a port of its own, after the last errors that can be found before it is shown."""
    try:
        from radrecipes.review.server import Review, application, named_labels
    except ModuleNotFoundError as error:
        raise InputError(f"needs {error.name}; install the extra: pip install 'radrecipes[serve]'", "review") from None
    review = Review(rows, journal, named_labels(names, label_set), shown(args.reviewer or getpass.getuser()))
    try:
        listener = socket.create_server(("127.0.0.1", args.port))
    except (OSError, OverflowError):
        raise InputError("cannot be opened; choose another one, or leave it out", f"--port {args.port}") from None
    journal.start()
    if journal.decided:
        journal.write_table()
    token, port = secrets.token_urlsafe(24), listener.getsockname()[1]
    return application(review, token, port, args.answers.name), listener, token


def _orders(args: argparse.Namespace):
    """Where the texts are, if the answers do not have them."""
    from radrecipes.data.sources.table_form import TableForm
    from radrecipes.review.rows import Orders

    if args.input is None:
        return None
    if not args.text_column:
        raise InputError("--input needs --text-column, the column of the texts", "command line")
    return Orders(args.input, args.text_column, args.id_column, args.group_column, TableForm(**table_form(args)))


if __name__ == "__main__":
    run(main)
