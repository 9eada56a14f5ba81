"""Measure training and label scoring, alone and next to another busy process, with several settings of OpenMP's waiting threads.

    python benchmarks/busy_machine.py --runs 3

Each run trains the default recipe for a few steps and scores some notes with the adapter of `make demo`, with every setting in
turn. Prints the median seconds per training step and per note, and how often each is slower than the best one.
"""

import argparse
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import radrecipes  # noqa: F401  (before any library: turns telemetry off)

# isort: split
from measuring import BIN, run_with_peak_memory
from scoring import LANGUAGE_MODEL
from training_side import RECIPE

from radrecipes.cli import positive, run

SETTINGS = {
    "libgomp's default": {"GOMP_SPINCOUNT": "300000"},
    "10,000 spins": {"GOMP_SPINCOUNT": "10000"},
    "1,000 spins": {"GOMP_SPINCOUNT": "1000"},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
}
_STEPS, _NOTES = 4, 32


def main() -> None:
    """Measure every setting alone and busy, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=positive, default=3, help="runs per setting (default: 3)")
    args = parser.parse_args()
    seconds = defaultdict(list)
    for number in range(args.runs):
        for busy in (False, True):
            for name, environment in SETTINGS.items():
                with _other_process() if busy else contextlib.nullcontext(), _environment(environment):
                    seconds[name, busy, "training step"].append(_train())
                    seconds[name, busy, "scored note"].append(_score())
        print(f"run {number + 1} of {args.runs} done", file=sys.stderr)
    print("| | " + " | ".join(SETTINGS) + " |\n|---" * 1 + "|---" * len(SETTINGS) + "|")
    for what in ("training step", "scored note"):
        for busy in (False, True):
            medians = [statistics.median(seconds[name, busy, what]) for name in SETTINGS]
            cells = [f"{median:.3f} s ({median / min(medians):.2f})" for median in medians]
            print(f"| {what}, {'busy' if busy else 'alone'} | " + " | ".join(cells) + " |")


@contextlib.contextmanager
def _other_process() -> Iterator[None]:
    """Another process that computes on one core."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    os.environ.pop("GOMP_SPINCOUNT", None)  # this project's own
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            del os.environ[name]


def _train() -> float:
    """Median seconds of a training step, without the first."""
    with tempfile.TemporaryDirectory(prefix="radrecipes-bench-") as folder:
        output = Path(folder) / "run"
        options = [f"--output_dir={output}", f"--max_steps={_STEPS}", "--save_strategy='no'"]
        run_with_peak_memory([BIN / "python", "scripts/sft.py", "--config", RECIPE, *options])
        log = [json.loads(line) for line in (output / "train_log.jsonl").read_text(encoding="utf-8").splitlines()]
    ends = [line["seconds"] for line in log if "loss" in line]
    return statistics.median(after - before for before, after in itertools.pairwise(ends))


def _score() -> float:
    """Seconds per scored note."""
    with tempfile.TemporaryDirectory(prefix="radrecipes-bench-") as folder:
        output = Path(folder) / "scored.json"
        run_with_peak_memory(
            [
                BIN / "python",
                Path(__file__).with_name("scoring_side.py"),
                "score",
                Path("runs", LANGUAGE_MODEL, "seed-42"),
                _NOTES,
                output,
            ]
        )
        return 1 / json.loads(output.read_text("utf-8"))["samples_per_second"]


if __name__ == "__main__":
    run(main)
