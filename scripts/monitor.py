r"""Compare the answers of current orders with those of a reference period, and alarm if they differ by more than chance.

    python scripts/monitor.py week_31.csv week_32.csv --reference first_weeks.csv
    python scripts/monitor.py answers.csv --every 500 --reference first_weeks.csv --corrections corrections.csv
    python scripts/monitor.py predictions.jsonl --per week --reference first_weeks.csv --last 1

Files are what predict.py wrote (CSV, JSONL, Parquet), or audit logs of it (.jsonl), which have times but no texts. With the texts
(predict.py --keep-text) of both periods their words and lengths are compared, too. Each file is a window, or each --every orders,
or each --per period. corrections.csv is that of review.py: with automatic answers sampled there (--sample), their accuracy is
tested against the target.

A window alarms if a check has a p-value below --false-alarms divided by the number of checks, and a difference that is large enough
to matter. Writes OUTPUT/monitor.html and OUTPUT/monitor.json, without any text of an order, replacing those of an earlier run.

Exit codes: 0 no alarm, 1 alarm (or memory or disk ran out, with a line that begins with `error:`), 2 wrong input.
"""

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

import radrecipes  # noqa: F401  (before any library: turns telemetry off)
from radrecipes.access import protect
from radrecipes.cli import fraction, positive, run
from radrecipes.errors import InputError
from radrecipes.files import check_writable


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("answers", nargs="+", type=Path, metavar="FILE", help="current answers, oldest first")
    parser.add_argument(
        "--reference", nargs="+", type=Path, required=True, metavar="FILE", help="answers of a period without problems"
    )
    windows = parser.add_mutually_exclusive_group()
    windows.add_argument(
        "--every", type=positive, metavar="N", help="a window for each N orders (default: for each file)"
    )
    windows.add_argument(
        "--per", choices=("day", "week", "month"), help="a window for each of these, UTC; needs times"
    )
    parser.add_argument("--corrections", nargs="+", type=Path, default=[], metavar="FILE", help="what review.py wrote")
    parser.add_argument(
        "--target-accuracy", type=fraction, default=0.95, help="of the automatic answers (default: 0.95)"
    )
    parser.add_argument(
        "--false-alarms", type=fraction, default=0.01, help="share of windows that may alarm by chance (default: 0.01)"
    )
    parser.add_argument("--last", type=positive, metavar="N", help="only the last N windows decide the exit code")
    parser.add_argument("--output", type=Path, default=Path("monitor"), metavar="FOLDER", help="default: monitor")
    return parser.parse_args()


def main() -> None:
    """Read, compare, write, print; exit with 1 after an alarm."""
    args = parse_args()
    protect(None)  # the class of the orders is unknown
    from radrecipes.monitoring.answers import read_answers, read_corrections, windows
    from radrecipes.monitoring.checks import FEWEST_REFERENCE, Monitor

    check_writable(args.output)
    if args.output.exists() and not args.output.is_dir():
        raise InputError("is a file; name a folder, which is made if it does not exist", f"--output {args.output}")
    reference, _ = read_answers(args.reference)
    if len(reference) < FEWEST_REFERENCE:
        raise InputError(f"has {len(reference)} orders; at least {FEWEST_REFERENCE} are needed", "--reference")
    answers, sizes = read_answers(args.answers)
    found = windows(answers, args.answers, sizes, args.every, args.per, datetime.now(UTC))
    corrections = read_corrections(args.corrections, answers)

    from radrecipes.monitoring.report import TITLES, measure, write

    result = measure(Monitor(reference, args.target_accuracy), answers, found, corrections, args.false_alarms)
    for window in result["windows"]:
        names = [TITLES[name][0] for name, check in window["checks"].items() if check["alarm"]]
        verdict = f"ALARM: {'; '.join(names)}" if names else "no alarm"
        print(f"{window['name']}: {window['orders']:,} orders, {len(window['checks'])} checks, {verdict}")
    for path in write(args.output, result):
        print(path)
    if any(window["alarm"] for window in result["windows"][-(args.last or 0) :]):
        sys.exit(1)


if __name__ == "__main__":
    run(main)
