"""Verify the audit log that `scripts/predict.py --audit-log FILE` keeps: one line a predicted row, each chained to the one before.

    python scripts/predict.py --adapter runs/smollm2-135m/protocol_lora/seed-42 \
        --note "r/o renal recurrence, hx RCC" --audit-log predictions.jsonl
    python scripts/audit_log.py verify predictions.jsonl

A line that was edited, removed, inserted or moved is named. That the last lines were cut off, or all rewritten from some line on,
shows only against a head that you kept elsewhere (both commands print it): give it with --head. A log that has grown since still
holds it.

Texts stand in the log as HMAC-SHA256 under the key in predictions.jsonl.key. What is the digest of this text?

    printf %s "r/o renal recurrence, hx RCC" |
        openssl dgst -sha256 -mac HMAC -macopt hexkey:$(cat predictions.jsonl.key)

Exit codes: 0 the chain is whole, 1 it is broken (the line is named), 2 the file or the head cannot be read.
"""

import argparse

import radrecipes  # noqa: F401  (before any library: turns telemetry off)
from radrecipes.cli import run
from radrecipes.inference.audit_log import verify


def main() -> None:
    """Parse arguments, verify, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    command = verbs.add_parser("verify", help="recompute the chain; needs no key")
    command.add_argument("file", metavar="FILE", help="the file that was given to --audit-log")
    command.add_argument("--head", metavar="SHA256", help="a head printed earlier, which the log must still hold")
    args = parser.parse_args()

    found = verify(args.file, args.head)
    print(
        f"{args.file}: whole, {found.entries:,} entries"
        + (f", {found.first} to {found.last}" if found.entries else "")
    )
    if found.since_known_head is not None:
        print(f"the known head is there; {found.since_known_head:,} entries came after it")
    print(f"head {found.head}")


if __name__ == "__main__":
    run(main)
