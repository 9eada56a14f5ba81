"""How fast the stages of docs/large-datasets.md are on one core, and how they grow; writes into results.json.

    python benchmarks/scale_rates.py                    takes some minutes; medians of five runs, processor time
    python benchmarks/scale_rates.py --studies 2000     with fewer reports

Measured are this project's own parts on its synthetic reports and orders. Rates are those of one core's processor time, which says
more than the clock on a machine that other work shares; label scoring and training are measured by run.py.
"""

import argparse
import json
import multiprocessing
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path

import radrecipes  # noqa: F401  (before any library: turns telemetry off)

# isort: split
import psutil
import pyarrow.parquet as pq
from datasets import Dataset
from measuring import BIN, run_with_peak_memory

from radrecipes import environment
from radrecipes.cli import positive, run
from radrecipes.data.duplicates import near_duplicate_groups
from radrecipes.data.synthetic_protocol.generator import generate_orders
from radrecipes.data.synthetic_reports import write_synthetic_tree
from radrecipes.models import base as models
from radrecipes.publishing.identifiers import find_identifiers
from radrecipes.recipe import parse_recipe
from radrecipes.tasks import TASKS
from radrecipes.training import trainer as training

RESULTS = Path(__file__).parent / "results.json"
NAME = "scale_rates"
REPORT_RECIPE = "recipes/smollm2-135m/report_lora.yaml"
TEXTS = 400  # reports for identifiers and tokenising: both are the same for every report


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
        # Preparing: trees of two sizes, so that starting Python can be taken off
        trees = {size: Path(scratch, f"tree-{size}") for size in (args.studies // 10, args.studies)}
        prepared = Path(scratch, "prepared")
        for size, tree in trees.items():
            write_synthetic_tree(tree, seed=0, patients=size * 3 // 8, studies=size)
        busy = {size: [prepare(tree, prepared) for _ in range(3)] for size, tree in trees.items()}
        small, large = (statistics.median(seconds) for seconds in busy.values())
        rates = {"prepare_reports_per_second": 0.9 * args.studies / (large - small), "start_of_prepare_seconds": small}
        reports = pq.read_table(prepared / "train.parquet").to_pylist()

    # Identifiers, tokenising
    chosen = reports[:TEXTS]
    texts = [f"FINDINGS: {row['findings']}\nIMPRESSION: {row['impression']}" for row in chosen]
    seconds = timed(lambda: [find_identifiers(text) for text in texts], args.runs)
    rates["identifiers_reports_per_second"] = len(texts) / seconds
    rates["words_a_report"] = statistics.fmean(len(text.split()) for text in texts)
    rates["bytes_a_report"] = statistics.fmean(len(text.encode()) for text in texts)
    recipe = parse_recipe(REPORT_RECIPE)
    tokenizer, task = models.load_tokenizer(recipe.model), TASKS["report"]
    stops, split = models.stop_token_ids(tokenizer), Dataset.from_list(chosen)
    words = (split, task, tokenizer, recipe.arguments.prompt_style, stops, 2048, 0.0)
    rates["render_and_tokenise_rows_per_second"] = len(chosen) / timed(lambda: training.tokenise(*words), args.runs)
    ids = tokenizer(texts)["input_ids"]
    rates["tokens_a_report"] = statistics.fmean(map(len, ids))
    tokens = sum(map(len, ids))
    rates["tokeniser_tokens_per_second"] = tokens / timed(lambda: [tokenizer(text) for text in texts], args.runs)

    # What grows: each number of texts in a process of its own, for its memory
    many = Dataset.from_list((reports * (TEXTS * 10 // len(reports) + 1))[: TEXTS * 10])
    held = grown(lambda: training.tokenise(many, *words[1:]))["mib"] * 2**20
    rates["tokenised_bytes_a_token"] = held / training.tokenise(many, *words[1:]).tokens
    orders = [order["note"] for order in generate_orders(7, 2 * args.studies)]
    written = [f"{row['findings']} {row['impression']}" for row in reports]
    growth = {
        kind: [
            {"texts": count, **grown(partial(near_duplicate_groups, texts[:count]))}
            for count in (len(texts) // 4, len(texts) // 2, len(texts))
        ]
        for kind, texts in (("orders", orders), ("reports", written))
    }
    hardware = environment.hardware()
    entry = {
        "name": NAME,
        "measured": f"stages on one core, processor time, medians; synthetic reports, {args.studies} in the largest tree",
        "runs": args.runs,
        "rates": {name: float(f"{rate:.4g}") for name, rate in rates.items()},
        "near_duplicates": growth,
        "date": date.today().isoformat(),
        "versions": environment.packages(),
        "processor": hardware["processor"],
        "cores": hardware["cores"],
        "system": platform.system(),
    }
    entries = {one["name"]: one for one in json.loads(args.output.read_text())} if args.output.is_file() else {}
    entries[NAME] = entry
    args.output.write_text(json.dumps(list(entries.values()), indent=2) + "\n", encoding="utf-8")
    print(json.dumps({"rates": entry["rates"], "near_duplicates": growth}, indent=2))


def prepare(tree: Path, output: Path) -> float:
    """Prepare a tree in one process as by default; processor seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run_with_peak_memory(
        [BIN / "python", "scripts/prepare_data.py", "report", "--source", "mimic-cxr", "--root", tree,
         "--output", output, "--overwrite", "--processes", 1]
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def timed(work: Callable, runs: int) -> float:
    """Median processor seconds behind one run that is not counted."""
    work()
    seconds = []
    for _ in range(runs):
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    return statistics.median(seconds)


def grown(work: Callable, runs: int = 3) -> dict[str, float]:
    """Processor seconds, and what the peak of memory grew by, each run in a process of its own; medians."""
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
    # A child begins with its parent's peak: what the parent freed again would hide what grows here
    before, began = psutil.Process().memory_info().rss, time.process_time()
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak counts from here on: man 5 proc
    work()
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = 1024 * int(status.partition("VmHWM:")[2].split()[0])
    queue.put({"seconds": round(time.process_time() - began, 2), "mib": round((peak - before) / 2**20, 1)})


if __name__ == "__main__":
    run(main)
