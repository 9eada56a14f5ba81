r"""Review predicted orders on a page in your browser: each row with NEEDS_REVIEW gets its right label from a person.

    python scripts/review.py answers.csv --input orders.csv --text-column order_text --id-column order_id
    python scripts/review.py answers_with_text.csv --sample auto --label-set data/our_orders/label_set.yaml

The first form reads the texts from the table that was predicted; the second one from answers of `predict.py --keep-text`. With
--sample some automatic answers, drawn at random, are among the rows, unmarked, to measure how many of them are right; no row shows
its probabilities then.

Open the address that the command prints; it is valid on this machine while the command runs, which Ctrl-C ends. Every decision is
on disk before it is shown as saved. The same command continues. Several windows, and several of these commands, may work on one
file: each row is shown to one of them.

corrections.csv, next to the answers, has the columns of a training table, the model's label and probability, the decision
(accepted or changed), reviewer, time (UTC), comment, and whether the row was sampled. It is made from corrections.csv.journal:
keep both. To train with it: scripts/prepare_data.py protocol --source corrections.csv.

Exit codes: 0 ended, 1 memory or disk ran out, 2 wrong input.
"""

import argparse
import contextlib
import getpass
import secrets
import socket
from pathlib import Path

import radrecipes  # noqa: F401  (before any library: turns telemetry off)
from radrecipes.access import protect
from radrecipes.cli import add_table_form, non_negative, positive, run, table_form
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
    from radrecipes.review.rows import read_rows, sample_size, with_texts

    if args.input and not args.text_column:
        raise InputError("--input needs --text-column, the column of the texts", "command line")
    for name in () if args.input else ("text_column", "id_column", "group_column", *table_form(args)):
        if getattr(args, name) is not None:
            raise InputError(f"--{name.replace('_', '-')} has no effect without --input; remove it, or name the table")
    if args.sample == "auto":
        args.sample = sample_size()
    digest = file_sha256(args.answers) if args.answers.is_file() else ""
    rows, labels = read_rows(args.answers, digest, args.sample, has_texts=not args.input)
    if args.input:
        from radrecipes.data.sources.table_form import TableForm

        form = TableForm(**table_form(args))
        rows = with_texts(rows, args.input, args.text_column, args.id_column, args.group_column, form)
    serve(args, rows, labels, digest)


def serve(args: argparse.Namespace, rows: list, labels: set[str], digest: str) -> None:
    """Show the page, after the last errors that can be found before it."""
    import uvicorn

    from radrecipes.inference.abstention import AUTO
    from radrecipes.review.journal import Journal
    from radrecipes.review.server import Review, application

    journal = Journal(args.output or args.answers.with_name("corrections.csv"), digest)
    reviewer = shown(args.reviewer or _user())
    review = Review(rows, journal, _labels(args.label_set, labels), reviewer, blind=bool(args.sample))
    try:
        listener = socket.create_server(("127.0.0.1", args.port))
    except (OSError, OverflowError):
        raise InputError("cannot be opened; choose another one, or leave it out", f"--port {args.port}") from None
    journal.start()
    token, port = secrets.token_urlsafe(24), listener.getsockname()[1]
    app = application(review, token, port, args.answers.name)
    if args.sample:
        sampled = sum(row.decision == AUTO for row in rows)
        print(
            f"{sampled:,} automatic rows are mixed in: 59 without an error show an accuracy of 95 % with 95 % confidence"
        )
    print(f"{len(rows):,} rows to review; decisions go to {journal.corrections}; Ctrl-C ends")
    print(f"open http://127.0.0.1:{port}/?token={token}", flush=True)
    # Without a line for each request.
    config = uvicorn.Config(app, lifespan="off", log_level="warning", access_log=False, server_header=False)
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])
    with journal.updated():
        print(f"{len(journal.decided):,} reviewed; decisions are in {journal.corrections}")


def _user() -> str:
    """The name of the system's user."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a number without a name, as in a container
        raise InputError("the system does not name its user; write who decides", "--reviewer") from None


def _labels(path: str | None, of_answers: set[str]) -> dict[str, tuple[str, ...]]:
    """The labels that may be chosen, with their other spellings."""
    from radrecipes.data.label_sets import LabelSet

    if path is None:
        return dict.fromkeys(sorted(of_answers), ())
    labels = {label.name: label.aliases for label in LabelSet.load(path).labels}
    if unknown := sorted(of_answers - labels.keys()):
        raise InputError(f"lacks {len(unknown)} labels of the answers, first {unknown[0]!r}", path)
    return labels


if __name__ == "__main__":
    run(main)
