"""How often does a threshold promise too much? Draw samples of answers, choose a threshold on each, and compare it with the truth.

    python benchmarks/threshold_simulation.py                  six minutes on an idle core
    python benchmarks/threshold_simulation.py --draws 100      a first impression

Rows of a group share their error rate: it is drawn from a beta distribution with the stated intraclass correlation. Confidences
are informative, that is, the error rate falls with the square of the confidence's rank, and all answers together are right in
four points less than the target; or they are uninformative and the accuracy is half a point below the target, so that any
threshold is one too many. A draw fails if the true accuracy above its threshold is below the target: a level of 90 % allows that
in 10 % of the draws. The table is printed, and written into README.md.
"""

import argparse
import itertools

import radrecipes  # noqa: F401  (before any library: turns telemetry off)

# isort: split
import numpy as np
from measuring import DOCUMENT, with_table

from radrecipes.cli import positive, run
from radrecipes.inference.abstention import choose_threshold

TARGETS = (0.90, 0.95, 0.98)
CORRELATIONS = (0.0, 0.1, 0.2, 0.4)
# Accuracy of all answers, below the target
INFORMATIVE, UNINFORMATIVE = 0.04, 0.005
# Of the error rate over the rank
_STEEPNESS = 2


def main() -> None:
    """Print a line for each setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=positive, default=1000, help="samples of each setting (default: 1000)")
    parser.add_argument("--groups", type=positive, default=36, help="groups of a sample (default: 36)")
    parser.add_argument("--rows", type=positive, default=18, help="rows of a group (default: 18)")
    args = parser.parse_args()

    lines = [
        f"{args.groups} groups of {args.rows} rows, {args.draws:,} draws",
        "",
        "| confidences | target | correlation | failed | answered automatically |",
        "|---|---:|---:|---:|---:|",
    ]
    print("\n".join(lines))
    for informative, target, correlation in itertools.product((True, False), TARGETS, CORRELATIONS):
        found = simulate(informative, target, correlation, args.groups, args.rows, args.draws)
        kind = "informative" if informative else "uninformative"
        lines.append(
            f"| {kind} | {target:.0%} | {correlation:.1f} | {found['failed']:.1%} | {found['coverage']:.1%} |"
        )
        print(lines[-1], flush=True)
    document = with_table(DOCUMENT.read_text("utf-8"), "thresholds", "threshold_simulation.py", "\n".join(lines))
    DOCUMENT.write_text(document, encoding="utf-8")


def simulate(
    informative: bool, target: float, correlation: float, groups: int, rows: int, draws: int
) -> dict[str, float]:
    """Over the draws: the share that failed, and the mean coverage."""
    generator = np.random.default_rng([int(informative), round(target * 100), round(correlation * 10)])
    error_rate = 1 - target + (INFORMATIVE if informative else UNINFORMATIVE)
    names = np.repeat(np.arange(groups), rows).astype(str)
    # The truth, from a sample large enough
    population_ranks, population_errors = draw(generator, informative, error_rate, correlation, 100_000, 10)
    order = np.argsort(-population_ranks)
    accuracy_above = 1 - np.cumsum(population_errors[order]) / np.arange(1, len(order) + 1)
    population_ranks = population_ranks[order]

    failed, coverage = 0, 0.0
    for _ in range(draws):
        ranks, errors = draw(generator, informative, error_rate, correlation, groups, rows)
        choice = choose_threshold(ranks, generator.random(len(ranks)) >= errors, names, target)
        if choice.threshold is None:
            continue
        answered = int(np.searchsorted(-population_ranks, -choice.threshold, side="right"))
        failed += bool(accuracy_above[answered - 1] < target)
        coverage += choice.automatic_rows / len(ranks)
    return {"failed": failed / draws, "coverage": coverage / draws}


def draw(
    generator: np.random.Generator, informative: bool, error_rate: float, correlation: float, groups: int, rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Confidences, which are ranks from 0 to 1, and the probability of an error, of all rows, group after group."""
    of_group = np.full(groups, error_rate)
    if correlation:
        spread = 1 / correlation - 1
        of_group = generator.beta(error_rate * spread, (1 - error_rate) * spread, size=groups)
    ranks = generator.random(groups * rows)
    relative = (_STEEPNESS + 1) * (1 - ranks) ** _STEEPNESS if informative else 1.0
    return ranks, np.minimum(1.0, np.repeat(of_group, rows) * relative)


if __name__ == "__main__":
    run(main)
