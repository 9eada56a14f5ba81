"""Compare the speed with what a user would choose instead.

    python benchmarks/run.py                                  every comparison
    python benchmarks/run.py train_vs_trl_sft --runs 3        one of them

Each comparison runs both sides alternately and reports the ratio of their speeds: the median over the pairs, with the lowest
and the highest. Results go to benchmarks/results.json, one entry per comparison.
"""

import argparse
import statistics
from functools import partial

import radrecipes  # noqa: F401  (before any library: turns telemetry off)

# isort: split
from measuring import LeftOutError, read_results, store_result
from prepare_vs_reference import PrepareVsReference
from scoring import ScoringComparison
from train_vs_padded_trainer import TrainVsPaddedTrainer
from train_vs_trl_sft import TrainVsTrlSft

from radrecipes.cli import run

COMPARISONS = {
    "prepare_vs_reference": PrepareVsReference,
    "prepare_all_vs_reference": partial(
        PrepareVsReference,
        ("--label-source", "csv", "--split", "official", "--sections", "any"),
        "earlier studies, marks and details removed as well (the defaults)",
    ),
    "train_vs_trl_sft": TrainVsTrlSft,
    "train_vs_padded_trainer": TrainVsPaddedTrainer,
    "score_vs_separate": partial(
        ScoringComparison, "separate", "each label scored separately after the note, without a cache", 24
    ),
    "score_vs_generate": partial(
        ScoringComparison,
        "transformers_generate",
        "greedy generation of one label as Transformers documents it (no probabilities)",
        256,
    ),
    "score_vs_own_generate": partial(
        ScoringComparison, "own_generate", "this project's own greedy generation of one label (no probabilities)", 256
    ),
    "score_vs_pipeline": partial(
        ScoringComparison, "pipeline", "one pipeline() call per note, stopping at the stop token", 48
    ),
    "head_vs_score": partial(ScoringComparison, "score", "label scoring", 256, "smollm2-135m/protocol_head"),
    "encoder_vs_score": partial(ScoringComparison, "score", "label scoring", 256, "all-minilm-l6-v2/protocol_head"),
}


def main() -> None:
    """Run the chosen comparisons, print a table, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(COMPARISONS)}")
    parser.add_argument("--runs", type=int, default=3, help="pairs of runs per comparison (default: 3)")
    args = parser.parse_args()
    for name in args.names:
        if name not in COMPARISONS:
            parser.error(f"no comparison {name}; choose from {', '.join(COMPARISONS)}")

    for name in args.names or COMPARISONS:
        try:
            store_result(measure(name, args.runs))
        except LeftOutError as reason:
            print(f"{name}: skipped; {reason}")
    print(table(read_results().values()))


def measure(name: str, runs: int) -> dict:
    """Run one comparison: ours and the alternative in turn, `runs` times."""
    comparison = COMPARISONS[name]()
    print(f"{name}: {comparison.description}")
    pairs = []
    for number in range(1, runs + 1):
        # The order alternates, so that neither side always runs on the warmer machine.
        sides = [comparison.ours, comparison.theirs]
        measured = {side.__name__: side() for side in (sides if number % 2 else sides[::-1])}
        pairs.append((measured["ours"], measured["theirs"]))
        ratio = measured["ours"]["samples_per_second"] / measured["theirs"]["samples_per_second"]
        print(f"  pair {number} of {runs}: {ratio:.2f} times", flush=True)
    ratios = [ours["samples_per_second"] / theirs["samples_per_second"] for ours, theirs in pairs]
    return {
        "name": name,
        "compared": comparison.description,
        "ratio": {
            "median": round(statistics.median(ratios), 2),
            "low": round(min(ratios), 2),
            "high": round(max(ratios), 2),
        },
        "runs": runs,
        "ours": _median(ours for ours, _ in pairs),
        "theirs": _median(theirs for _, theirs in pairs),
        **comparison.checks(),
    }


def table(results) -> str:
    """The results as a table for the terminal."""
    lines = [f"{'comparison':<26}{'ratio':<20}{'samples/s':<18}{'peak GiB':<16}runs"]
    for entry in results:
        if "ratio" not in entry:  # an entry of another script
            continue
        ratio, ours, theirs = entry["ratio"], entry["ours"], entry["theirs"]
        speeds = f"{ours['samples_per_second']:.1f} / {theirs['samples_per_second']:.1f}"
        peaks = f"{ours['peak_memory_gib']:.2f} / {theirs['peak_memory_gib']:.2f}"
        ratios = f"{ratio['median']} ({ratio['low']}–{ratio['high']})"
        lines.append(f"{entry['name']:<26}{ratios:<20}{speeds:<18}{peaks:<16}{entry['runs']}")
    return "\n".join(lines)


def _median(measurements) -> dict[str, float]:
    rows = list(measurements)
    return {key: round(statistics.median(row[key] for row in rows), 3) for key in rows[0]}


if __name__ == "__main__":
    run(main)
