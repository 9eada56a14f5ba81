r"""Verify the audit log that `scripts/predict.py --audit-log FILE` keeps: one line per predicted row, chained to the one before.

    python scripts/predict.py --adapter runs/smollm2-135m/protocol_lora/seed-42 \
        --text "r/o renal recurrence, hx RCC" --audit-log predictions.jsonl
    python scripts/audit_log.py verify predictions.jsonl

A line that was edited, removed, inserted or moved is reported. A truncated end, or a log that was rewritten from some line on, is
detected only with a head that you kept elsewhere (both commands print it): pass it with --head. A log that has grown since then
still passes.

Texts are logged as HMAC-SHA256 under the key in predictions.jsonl.key. To compute the digest of a text:

    printf %s "r/o renal recurrence, hx RCC" |
        openssl dgst -sha256 -mac HMAC -macopt hexkey:$(cat predictions.jsonl.key)

Exit codes: 0 the chain is intact, 1 it is broken (the line is named), 2 the file or the head cannot be read.
"""

import argparse

import radrecipes  # noqa: F401  (before any library: turns telemetry off)
from radrecipes.cli import run
from radrecipes.errors import InputError


def main() -> None:
    """Parse arguments, verify, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    verify = commands.add_parser("verify", help="recompute the chain; needs no key")
    verify.add_argument("file", metavar="FILE", help="the file that was given to --audit-log")
    verify.add_argument("--head", metavar="SHA256", help="a head printed earlier, which the log must still contain")
    args = parser.parse_args()
    from radrecipes.inference.audit_log import verify

    try:
        found = verify(args.file, args.head)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", str(error.filename or args.file)) from None
    print(
        f"{args.file}: intact, {found.entries:,} entries"
        + (f", {found.first} to {found.last}" if found.entries else "")
    )
    if found.since_known_head is not None:
        print(f"the known head is in the log; {found.since_known_head:,} entries follow it")
    print(f"head {found.head}")


if __name__ == "__main__":
    run(main)
