"""Orders a second and latency of `scripts/serve.py`, in turn with the rate of `scripts/predict.py` on the same orders.

    python benchmarks/serving.py                                 the recommended recipe's run; two minutes
    python benchmarks/serving.py --run runs/x --seconds 3 --batch-size 32 --note "next to a training"

Each round answers the orders in batches of 32, as a table is answered (without loading the model), and then sends them one at a
time from 1, 8 and 32 clients, each with a connection of its own, to one server with an audit log. The table has the median of the
rounds; it is printed, and written into README.md, and the rounds into serving.json.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import threading
import time
from http.client import HTTPConnection
from pathlib import Path

import radrecipes  # noqa: F401  (before any library: turns telemetry off)

# isort: split
import numpy as np
from measuring import DOCUMENT, read_results, store_result, with_table

from radrecipes.cli import positive, run
from radrecipes.errors import InputError
from radrecipes.training.run_folder import is_complete

RESULTS = Path(__file__).parent / "serving.json"
CLIENTS = (1, 8, 32)
_BATCH = 32


def main() -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/all-minilm-l6-v2/protocol_head/seed-42"))
    parser.add_argument("--dataset", default="data/protocol_synthetic", help="orders: its test split")
    parser.add_argument("--seconds", type=positive, default=10, help="of each measurement (default: 10)")
    parser.add_argument("--rounds", type=positive, default=3, help="(default: 3)")
    parser.add_argument("--batch-size", type=positive, default=1, help="of the server (default: 1)")
    parser.add_argument("--note", default="", help="what else ran, for the table")
    args = parser.parse_args()
    if not is_complete(args.run):
        raise InputError("no finished run; train it first, for example with make demo", str(args.run))
    from radrecipes.data.prepared import load_prepared_dataset
    from radrecipes.inference.predictors import load_predictor

    predictor = load_predictor(args.run)
    rows = load_prepared_dataset(args.dataset).splits["test"].select(range(256))
    texts = [row[predictor.task.input_column] for row in rows]
    with tempfile.TemporaryDirectory() as folder:
        words = (
            "--adapter",
            args.run,
            "--port",
            "0",
            "--audit-log",
            Path(folder, "log"),
            "--batch-size",
            args.batch_size,
        )
        command = [sys.executable, "scripts/serve.py", *map(str, words)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
            port = int(server.stdout.readline().rpartition(":")[2])
            rounds = []
            for _ in range(args.rounds):
                measured = {"batch": batch_rate(predictor, texts, args.seconds)}
                for clients in CLIENTS:
                    measured[str(clients)] = served_rate(port, texts, clients, args.seconds)
                rounds.append(measured)
                print(json.dumps(measured), flush=True)
            server.terminate()
    name = f"{predictor.recipe.model.model_name_or_path}, {predictor.decode}, {str(predictor.model.dtype)[6:]}"
    name += f", server's batch size {args.batch_size}"
    store_result({"name": name, "note": args.note, "seconds": args.seconds, "rounds": rounds}, RESULTS)
    lines = [table(entry) for entry in read_results(RESULTS).values()]
    print(lines[-1])
    document = with_table(DOCUMENT.read_text("utf-8"), "serving", "serving.py", "\n\n".join(lines))
    DOCUMENT.write_text(document, encoding="utf-8")


def batch_rate(predictor, texts: list[str], seconds: float) -> float:
    """Rows a second of whole passes over the texts."""
    inputs = [predictor.task.read_input(text) for text in texts]
    began, passes = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        predictor.answer(inputs, _BATCH)
        passes += 1
    return passes * len(texts) / (time.perf_counter() - began)


def served_rate(port: int, texts: list[str], clients: int, seconds: float) -> dict[str, float]:
    """Answers a second of so many clients, and how long they waited, in milliseconds."""
    waited: list[float] = []
    began = time.perf_counter()

    def post(first: int) -> None:
        connection = HTTPConnection("127.0.0.1", port)
        for text in itertools.cycle(texts[first:] + texts[:first]):
            sent = time.perf_counter()
            if sent - began > seconds:
                return
            connection.request("POST", "/v1/predict", json.dumps({"text": text}), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise RuntimeError(f"the server answered {answer.status}")
            waited.append(1000 * (time.perf_counter() - sent))

    threads = [threading.Thread(target=post, args=(number * 8,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rate = len(waited) / (time.perf_counter() - began)
    return {"rate": rate, "p50_ms": float(np.median(waited)), "p95_ms": float(np.percentile(waited, 95))}


def table(entry: dict) -> str:
    """The medians of an entry's rounds."""
    rounds = entry["rounds"]
    batch = np.median([measured["batch"] for measured in rounds])
    lines = [
        f"{entry['name']}; {entry['cores']} cores of {entry['processor']}{entry['note'] and ', ' + entry['note']}",
        "",
        "| | orders a second | p50 ms | p95 ms | of predict.py |",
        "|---|---:|---:|---:|---:|",
        f"| predict.py, batches of {_BATCH} | {batch:.0f} | | | |",
    ]
    for clients in map(str, CLIENTS):
        rate, half, most = (np.median([it[clients][name] for it in rounds]) for name in ("rate", "p50_ms", "p95_ms"))
        lines.append(f"| served, {clients} clients | {rate:.0f} | {half:.0f} | {most:.0f} | {rate / batch:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
