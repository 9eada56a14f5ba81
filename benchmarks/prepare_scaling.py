"""How the cost of preparing reports grows with their number: synthetic trees of 2,000, 20,000 and 200,000 reports.

python benchmarks/prepare_scaling.py                    generates the trees (some minutes) and removes them again
python benchmarks/prepare_scaling.py --trees FOLDER     keeps them there, and uses existing ones
"""

import argparse
import tempfile
import time
from pathlib import Path

from measuring import BIN, cpu_seconds_of_children, run_with_peak_memory

from radrecipes.cli import positive, run
from radrecipes.data.synthetic_reports.generator import write_synthetic_tree

SIZES = (2_000, 20_000, 200_000)
WORK = {
    "sections and stated labels": ("--label-source", "csv", "--split", "official", "--earlier-studies", "keep",
                                   "--details", "keep", "--deidentified", "normalise"),
    "defaults: all filters, relabelled": (),
}  # fmt: skip


def main() -> None:
    """Prepare every tree in every way, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trees", type=Path, metavar="FOLDER", help="default: a temporary folder")
    parser.add_argument("--processes", type=positive, default=1, help="default: 1")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="radrecipes-bench-") as temporary:
        trees = args.trees or Path(temporary)
        print(f"{'work':<36}{'reports':>9}{'reports/s':>11}{'CPU s':>8}{'CPU ms/report':>17}{'peak GiB':>10}")
        for size in SIZES:
            tree = trees / f"reports-{size}"
            if not tree.exists():
                write_synthetic_tree(tree, seed=0, patients=size * 3 // 8, studies=size)
            for what, words in WORK.items():
                command = [
                    BIN / "python", "scripts/prepare_data.py", "report", "--source", "mimic-cxr", "--root", tree,
                    "--output", Path(temporary) / "prepared", "--overwrite", "--processes", args.processes, *words,
                ]  # fmt: skip
                before, start = cpu_seconds_of_children(), time.perf_counter()
                peak, _ = run_with_peak_memory(command)
                seconds, busy = time.perf_counter() - start, cpu_seconds_of_children() - before
                print(
                    f"{what:<36}{size:>9}{size / seconds:>11.0f}{busy:>8.1f}{1000 * busy / size:>17.3f}{peak:>10.2f}"
                )


if __name__ == "__main__":
    run(main)
