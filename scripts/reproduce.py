"""Record what a recipe reaches over several seeds, and check whether what was published holds here.

    python scripts/reproduce.py record recipes/smollm2-135m/protocol_lora.yaml --seeds 5
    python scripts/reproduce.py check recipes/smollm2-135m/protocol_lora.yaml --smoke
    python scripts/reproduce.py check recipes/smollm2-135m/protocol_lora.yaml

record trains and evaluates every seed (42, 1, 2, …; finished ones are kept), writes <recipe>.results.json, and makes the tables
of README.md and of the model's README.md anew. The untuned base is evaluated with the first seed only: it does not depend on
the seed. An evaluation is kept where it measures this adapter on this dataset.

check takes a recipe with its result file, or a release, org/name@v1.0. First it compares the recipe, the digest of the data, the
prompt and the base's weights with those that were published; where one differs it names it and ends. Then it evaluates the
published adapter again, whose figures must be the same, and trains with a new seed, whose figures must lie in
mean ± t · sd · √(1 + 1/n) of the recorded seeds; a better one fails too. 95 of 100 sound figures lie there, not all: try another
--seed before you look for a fault. --smoke only compares the losses of the first steps.

Exit codes: 0 where everything passed, 1 where something failed, 2 for wrong input, 75 when interrupted. The same command
continues what was interrupted.
"""

import argparse
import sys

import radrecipes  # noqa: F401  (before any library: turns telemetry off)
from radrecipes.cli import non_negative, positive, run


def main() -> None:
    """Parse arguments and do what was asked. Its parts are imported when it is chosen: they take their time to load."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    to_record = verbs.add_parser("record", help="run a recipe over seeds and write its result file")
    to_record.add_argument("recipe", help="the recipe, a YAML file")
    to_record.add_argument(
        "--seeds", type=positive, default=5, help="how many (default: 5); 42, 1, 2, … in this order"
    )
    to_check = verbs.add_parser("check", help="compare what was published with what comes out here")
    to_check.add_argument("claim", help="a recipe with its result file, or a release, org/name@v1.0")
    to_check.add_argument(
        "--dataset", help="where the dataset lies, a folder or org/name@v1.0, if not where the recipe says"
    )
    to_check.add_argument(
        "--seed", type=non_negative, help="the new seed (default: the smallest from 1 on that is not recorded)"
    )
    to_check.add_argument(
        "--smoke", action="store_true", help="only compare the losses of the first steps, in minutes"
    )
    to_check.add_argument(
        "--anyway", action="store_true", help="measure although something differs; it fails all the same"
    )
    to_check.add_argument("--restart", action="store_true", help="measure anew what an earlier check measured")
    for verb in (to_record, to_check):
        verb.add_argument(
            "--launch", default="accelerate_configs/cpu.yaml", help="launch configuration (default: cpu)"
        )
    args = parser.parse_args()
    if args.verb == "record":
        from reproduction.record import record

        record(args)
    else:
        from reproduction.check import check

        sys.exit(0 if check(args) else 1)


if __name__ == "__main__":
    run(main)
