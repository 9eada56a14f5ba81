"""How time and memory grow with labels and rows, from 36 labels and 5,000 orders to 1,000 labels and 500,000 orders.

    python benchmarks/growth.py                     about half an hour; finished measurements are kept and not repeated
    python benchmarks/growth.py --stage evaluation  one stage
    python benchmarks/growth.py --restart           measure again what this processor has measured before

Every measurement runs in its own process (growth_side.py), which is where the peak memory comes from. A stage with a model is
measured on some orders and given by its rate for the test split, 15 % of the rows. Preparation is measured up to 50,000 rows.
Training is not here: its rate depends on the length of the orders and not on the number of labels. Results are stored in
growth.json, and the table in README.md is generated from them.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import radrecipes  # noqa: F401  (before any library: turns telemetry off)

# isort: split
from growth_side import STAGES
from measuring import BIN, DOCUMENT, run_with_peak_memory, store_result, with_table

from radrecipes.cli import run

RESULTS = Path(__file__).with_name("growth.json")
LABELS, ROWS = (36, 300, 1_000), (5_000, 50_000, 500_000)
MOST_PREPARED = 50_000


def main() -> None:
    """Measure what is missing, store and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=STAGES, action="append", help="only this stage; can be repeated")
    parser.add_argument("--restart", action="store_true", help="measure again what is already stored")
    args = parser.parse_args()
    found = {name: {} for name in STAGES} | ({} if args.restart else stored())
    for stage in args.stage or STAGES:
        for labels, rows in cases(stage):
            key = f"{labels} labels, {rows} rows"
            if key in found[stage]:
                continue
            print(f"{stage}: {key}", file=sys.stderr, flush=True)
            side = Path(__file__).with_name("growth_side.py")
            peak, printed = run_with_peak_memory([BIN / "python", side, stage, labels, rows])
            measured = json.loads(printed.splitlines()[-1]) | {"peak_memory_gib": peak}
            found[stage][key] = {name: float(f"{value:.4g}") for name, value in measured.items()}
            # After every measurement, so that nothing is lost if the next one is interrupted
            store_result({"name": "growth", "stages": found}, RESULTS)
    table = markdown(found)
    DOCUMENT.write_text(with_table(DOCUMENT.read_text("utf-8"), "growth", "growth.py", table), encoding="utf-8")
    print(table)


def stored() -> dict[str, dict[str, Any]]:
    """The measurements in the results file."""
    if not RESULTS.is_file():
        return {}
    (entry,) = json.loads(RESULTS.read_text(encoding="utf-8"))
    return entry["stages"]


def cases(stage: str) -> list[tuple[int, int]]:
    """Numbers of labels and rows that a stage is measured with; a rate does not depend on the rows."""
    if stage in ("scoring", "head"):
        return [(labels, ROWS[0]) for labels in LABELS]
    return [(labels, rows) for labels in LABELS for rows in ROWS if stage != "preparation" or rows <= MOST_PREPARED]


def markdown(found: dict[str, dict[str, Any]]) -> str:
    """A row for each number of labels and rows, and a column for each stage; `–` where nothing was measured."""
    lines = [
        "| labels | rows | preparation | label scoring | head | evaluation | page |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for labels in LABELS:
        for rows in ROWS:
            key = f"{labels} labels, {rows} rows"
            cells = [
                _time(found["preparation"].get(key)),
                *(_by_rate(found[name], labels, rows) for name in ("scoring", "head")),
            ]
            evaluated = found["evaluation"].get(key)
            page = f"{evaluated['page_seconds']:.1f} s, {evaluated['page_mib']:.1f} MiB" if evaluated else "–"
            lines.append(f"| {labels:,} | {rows:,} | {' | '.join([*cells, _time(evaluated), page])} |")
    return "\n".join(lines)


def _time(measured: dict[str, float] | None) -> str:
    return f"{measured['seconds']:,.1f} s, {measured['peak_memory_gib']:.1f} GiB" if measured else "–"


def _by_rate(measured: dict[str, dict[str, float]], labels: int, rows: int) -> str:
    of_rate = measured.get(f"{labels} labels, {ROWS[0]} rows")
    if not of_rate:
        return "–"
    minutes = of_rate["seconds"] * rows / ROWS[0] / 60
    return f"{minutes:,.1f} min ({of_rate['rows_per_second']:.1f}/s), {of_rate['peak_memory_gib']:.1f} GiB"


if __name__ == "__main__":
    run(main)
