"""How often does `scripts/monitor.py` alarm without a change, and how often with one? Draws windows of the synthetic orders.

    python benchmarks/monitor_simulation.py                       four minutes on an idle core
    python benchmarks/monitor_simulation.py --windows 100         a first impression

Each draw takes new orders, without replacement, for a reference period and for one window, so that both differ by chance alone.
The answers are simulated: the right label for 95 % of the orders, otherwise another one, and a probability from a beta distribution
that is lower for wrong answers; below 0.8 they need review. 100 automatic answers are sampled, and 95 % of them are right, which is
the target: without a change the least favourable case. The changes:

- a new protocol takes 5 % of the orders: they have a word of their own, an old label at random and a low probability,
- another order form: each order has two fixed words more and loses a third of its own,
- a label renamed: one label has another name from then on.

Writes <output>.json, and the table of <output>.md between its marks.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import radrecipes  # noqa: F401  (before any library: turns telemetry off)

# isort: split
import numpy as np
from measuring import with_table

from radrecipes.cli import fraction, positive, run
from radrecipes.data.prepared import load_prepared_dataset
from radrecipes.monitoring.answers import Answers, Reviewed, words_of
from radrecipes.monitoring.checks import Monitor
from radrecipes.statistics import clopper_pearson_interval

REFERENCE, SIZES = 2000, (200, 500, 2000)
SAMPLED, ACCURACY, THRESHOLD = 100, 0.95, 0.8


def main() -> None:
    """Print and write a line for each change and window size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, default=Path("data/protocol_synthetic"), help="a prepared dataset")
    parser.add_argument(
        "--windows", type=positive, default=2000, help="windows without change of each size (default: 2000)"
    )
    parser.add_argument("--false-alarms", type=fraction, default=0.01, help="the stated rate (default: 0.01)")
    parser.add_argument("--output", type=Path, default=Path("docs/monitoring"), help="result without a suffix")
    args = parser.parse_args()

    orders = read_orders(args.dataset)
    found = []
    for name, change in CHANGES.items():
        draws = args.windows if name == "none" else max(1, args.windows // 10)
        for size in SIZES:
            found.append({"change": name, "size": size, **simulate(orders, change, size, draws, args.false_alarms)})
            print(json.dumps(found[-1]), flush=True)
    result = {"reference": REFERENCE, "false_alarms": args.false_alarms, "found": found}
    args.output.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    page = args.output.with_suffix(".md")
    text = with_table(page.read_text("utf-8"), "monitoring", "monitor_simulation.py", as_markdown(result))
    page.write_text(text, encoding="utf-8")


def read_orders(folder: Path) -> Answers:
    """All orders of a dataset, with their right labels."""
    splits = load_prepared_dataset(folder).splits.values()
    texts = [words_of(note) for split in splits for note in split["note"]]
    labels = np.array([label for split in splits for label in split["label"]])
    words = np.fromiter(map(frozenset, texts), dtype=object, count=len(texts))
    lengths = np.array([len(text) for text in texts])
    nothing = np.zeros(len(labels))
    return Answers(np.arange(len(labels)).astype(str), labels, nothing, nothing.astype(bool), words, lengths)


def answered(generator: np.random.Generator, orders: Answers, names: np.ndarray) -> Answers:
    """Simulated answers."""
    right = generator.random(len(orders)) < ACCURACY
    labels = np.where(right, orders.labels, generator.choice(names, len(orders)))
    probabilities = np.where(right, generator.beta(12, 0.8, len(orders)), generator.beta(4, 2, len(orders)))
    return replace(orders, labels=labels, probabilities=probabilities, needs_review=probabilities < THRESHOLD)


def new_protocol(generator: np.random.Generator, window: Answers, names: np.ndarray) -> Answers:
    """5 % of the orders are for a protocol that the model does not know."""
    new = generator.random(len(window)) < 0.05
    probabilities = np.where(new, generator.beta(4, 2, len(window)), window.probabilities)
    words = [
        of_order | {"newprotocol"} if is_new else of_order for of_order, is_new in zip(window.words, new, strict=True)
    ]
    return replace(
        window,
        labels=np.where(new, generator.choice(names, len(window)), window.labels),
        probabilities=probabilities,
        needs_review=probabilities < THRESHOLD,
        words=np.fromiter(words, dtype=object, count=len(words)),
    )


def other_form(generator: np.random.Generator, window: Answers, names: np.ndarray) -> Answers:
    """Every order has two words more, and a third of its own fewer."""
    words = [
        frozenset(sorted(of_order)[: -(-2 * len(of_order) // 3)]) | {"formfield", "priority"}
        for of_order in window.words
    ]
    lengths = np.ceil(window.lengths * 2 / 3).astype(int) + 2
    return replace(window, words=np.fromiter(words, dtype=object, count=len(words)), lengths=lengths)


def renamed(generator: np.random.Generator, window: Answers, names: np.ndarray) -> Answers:
    """One label has another name."""
    return replace(window, labels=np.where(window.labels == names[0], "renamed", window.labels))


Change = Callable[[np.random.Generator, Answers, np.ndarray], Answers]
CHANGES: dict[str, Change] = {
    "none": lambda generator, window, names: window,
    "new protocol, 5 % of orders": new_protocol,
    "another order form": other_form,
    "a label renamed": renamed,
}


def simulate(orders: Answers, change: Change, size: int, draws: int, false_alarms: float) -> dict[str, Any]:
    """How many windows alarm, with the exact 95 % interval, and which checks do."""
    generator, names = np.random.default_rng([size, draws]), np.unique(orders.labels)
    alarms, by_check = 0, {}
    for _ in range(draws):
        places = generator.permutation(len(orders))[: REFERENCE + size]
        drawn = answered(generator, orders.part(places), names)
        monitor = Monitor(drawn.part(slice(REFERENCE)), ACCURACY, seed=int(generator.integers(2**32)))
        right = int(generator.binomial(SAMPLED, ACCURACY))
        checks = monitor.checks(change(generator, drawn.part(slice(REFERENCE, None)), names), Reviewed(SAMPLED, right))
        alarming = [check.name for check in checks if check.alarms(false_alarms / len(checks))]
        alarms += bool(alarming)
        for name in alarming:
            by_check[name] = by_check.get(name, 0) + 1
    low, high = clopper_pearson_interval(alarms, draws)
    return {"windows": draws, "alarms": alarms, "rate": alarms / draws, "low": low, "high": high, "by_check": by_check}


def as_markdown(result: dict[str, Any]) -> str:
    """A row for each change, a column for each window size."""
    found, sizes = result["found"], [row["size"] for row in result["found"] if row["change"] == "none"]
    windows = {row["change"] == "none": row["windows"] for row in found}
    lines = [
        f"Share of windows with an alarm (95 % interval), at a stated rate of {result['false_alarms']:.0%}; reference "
        f"{result['reference']:,} orders; of each size {windows[True]:,} windows without change and {windows[False]:,} with each.",
        "",
        f"| change | {' | '.join(f'{size:,} orders' for size in sizes)} |",
        f"|---|{'---:|' * len(sizes)}",
    ]
    for change in dict.fromkeys(row["change"] for row in found):
        cells = [
            f"{row['rate']:.1%} ({row['low']:.1%} to {row['high']:.1%})" for row in found if row["change"] == change
        ]
        lines.append(f"| {change} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run(main)
