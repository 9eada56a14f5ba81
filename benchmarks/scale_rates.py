"""Speed and growth on one core of the stages of docs/large-datasets.md, stored in results.json for scale_costs.py.

    python benchmarks/scale_rates.py                    takes some minutes; medians of five runs, CPU time
    python benchmarks/scale_rates.py --studies 2000     with fewer reports

It measures this project's own parts on synthetic reports and orders, in CPU time of one core, which is more reliable than
wall-clock time on a shared machine; label scoring and training are measured by run.py.
"""

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import radrecipes  # noqa: F401  (before any library: turns telemetry off)

# isort: split
import psutil
import pyarrow.parquet as pq
from datasets import Dataset
from measuring import BIN, RESULTS, cpu_seconds_of_children, run_with_peak_memory, store_result
from transformers import PreTrainedTokenizerBase

from radrecipes.cli import positive, run
from radrecipes.data.duplicates import near_duplicate_groups
from radrecipes.data.synthetic_protocol.generator import generate_orders
from radrecipes.data.synthetic_reports.generator import write_synthetic_tree
from radrecipes.models import base as models
from radrecipes.publishing.identifiers import find_identifiers
from radrecipes.recipe import parse_recipe
from radrecipes.tasks import TASKS
from radrecipes.training.data import TokenisedRows, fitting_rows, render_rows

NAME = "scale_rates"
REPORT_RECIPE = "recipes/smollm2-135m/report_lora.yaml"
TEXTS = 400  # reports for identifiers and tokenising, whose cost per report is constant


def main() -> None:
    """Measure every stage, print and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--studies", type=positive, default=20_000, help="reports of the largest tree (default: 20000)"
    )
    parser.add_argument("--runs", type=positive, default=5, help="runs of each measurement (default: 5)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: benchmarks/results.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="radrecipes-bench-") as scratch:
        # Preparation: trees of two sizes, so that the start of Python can be subtracted
        trees = {size: Path(scratch, f"tree-{size}") for size in (args.studies // 10, args.studies)}
        prepared = Path(scratch, "prepared")
        for size, tree in trees.items():
            write_synthetic_tree(tree, seed=0, patients=size * 3 // 8, studies=size)
        busy = {size: [prepare(tree, prepared) for _ in range(3)] for size, tree in trees.items()}
        small, large = (statistics.median(seconds) for seconds in busy.values())
        rates = {"prepare_reports_per_second": 0.9 * args.studies / (large - small), "start_of_prepare_seconds": small}
        reports = pq.read_table(prepared / "train.parquet").to_pylist()

    rates |= rates_per_report(reports[:TEXTS], args.runs)
    growth, rates["tokenised_bytes_a_token"] = measure_growth(reports, 2 * args.studies)
    entry = {
        "name": NAME,
        "measured": f"stages on one core, CPU time, medians; synthetic reports, {args.studies} in the largest tree",
        "runs": args.runs,
        "rates": {name: float(f"{rate:.4g}") for name, rate in rates.items()},
        "near_duplicates": growth,
    }
    store_result(entry, args.output)
    print(json.dumps({"rates": entry["rates"], "near_duplicates": growth}, indent=2))


def rates_per_report(reports: list[dict], runs: int) -> dict[str, float]:
    """Rates of finding identifiers and of tokenising, and the mean size of a report."""
    texts = [f"FINDINGS: {row['findings']}\nIMPRESSION: {row['impression']}" for row in reports]
    rates = {"identifiers_reports_per_second": len(texts) / timed(lambda: list(map(find_identifiers, texts)), runs)}
    rates["words_a_report"] = statistics.fmean(len(text.split()) for text in texts)
    rates["bytes_a_report"] = statistics.fmean(len(text.encode()) for text in texts)
    tokenise_split, tokenizer, split = *tokenisation(), Dataset.from_list(reports)
    rates["render_and_tokenise_rows_per_second"] = len(reports) / timed(lambda: tokenise_split(split), runs)
    lengths = [len(ids) for ids in tokenizer(texts)["input_ids"]]
    rates["tokens_a_report"] = statistics.fmean(lengths)
    rates["tokeniser_tokens_per_second"] = sum(lengths) / timed(lambda: list(map(tokenizer, texts)), runs)
    return rates


def measure_growth(reports: list[dict], orders: int) -> tuple[dict[str, list[dict]], float]:
    """Time and memory of the search for near-duplicates by number of texts, and bytes per token while tokenising."""
    tokenise_split, _ = tokenisation()
    many = Dataset.from_list((reports * (TEXTS * 10 // len(reports) + 1))[: TEXTS * 10])
    bytes_a_token = grown(partial(tokenise_split, many))["mib"] * 2**20 / tokenise_split(many).tokens
    by_kind = {
        "orders": [order["note"] for order in generate_orders(7, orders)],
        "reports": [f"{row['findings']} {row['impression']}" for row in reports],
    }
    growth = {
        kind: [
            {"texts": count, **grown(partial(near_duplicate_groups, texts[:count]))}
            for count in (len(texts) // 4, len(texts) // 2, len(texts))
        ]
        for kind, texts in by_kind.items()
    }
    return growth, bytes_a_token


def tokenisation() -> tuple[Callable[[Dataset], TokenisedRows], PreTrainedTokenizerBase]:
    """Rendering and tokenising as `sft.py` does, and the tokenizer."""
    recipe = parse_recipe(REPORT_RECIPE)
    tokenizer = models.load_tokenizer(recipe.model)
    style, stops = recipe.arguments.prompt_style, models.stop_token_ids(tokenizer)

    def tokenise(split: Dataset) -> TokenisedRows:
        return fitting_rows(render_rows(split, TASKS["report"], tokenizer, style, stops), split["id"][:], 2048, 0.0)

    return tokenise, tokenizer


def prepare(tree: Path, output: Path) -> float:
    """CPU seconds of preparing a tree with the defaults in one process."""
    before = cpu_seconds_of_children()
    run_with_peak_memory(
        [BIN / "python", "scripts/prepare_data.py", "report", "--source", "mimic-cxr", "--root", tree,
         "--output", output, "--overwrite", "--processes", 1]
    )  # fmt: skip
    return cpu_seconds_of_children() - before


def timed(work: Callable, runs: int) -> float:
    """Median CPU seconds, after a warm-up run."""
    work()
    seconds = []
    for _ in range(runs):
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    return statistics.median(seconds)


def grown(work: Callable, runs: int = 3) -> dict[str, float]:
    """Median CPU seconds and growth of peak memory, each run in its own process."""
    context = multiprocessing.get_context("fork")
    found = []
    for _ in range(runs):
        queue = context.SimpleQueue()
        process = context.Process(target=_measured, args=(work, queue))
        process.start()
        found.append(queue.get())
        process.join()
    return {name: statistics.median(one[name] for one in found) for name in found[0]}


def _measured(work: Callable, queue) -> None:
    # A child inherits its parent's peak, which would hide its own growth
    before, began = psutil.Process().memory_info().rss, time.process_time()
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # resets the peak: man 5 proc
    work()
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = 1024 * int(status.partition("VmHWM:")[2].split()[0])
    queue.put({"seconds": round(time.process_time() - began, 2), "mib": round((peak - before) / 2**20, 1)})


if __name__ == "__main__":
    run(main)
