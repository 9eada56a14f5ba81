"""All measurements that need a GPU, in under ten minutes: speed, utilisation and memory at the shape of real models.

    python benchmarks/gpu.py                             all phases, within 570 seconds, into benchmarks/results_gpu.json
    python benchmarks/gpu.py lora lora_trl --seconds 300 some of them
    python benchmarks/gpu.py --list                      the phases and what each measures
    python benchmarks/gpu.py --rehearse                  every phase on the CPU with tiny shapes, within a minute

Weights are random with the shapes of real models, because speed and memory do not depend on their values; notes are synthetic.
Each phase runs in its own process with a time limit and writes its rows as they are measured, so a phase that is killed keeps
them. Whatever did not fit into memory, failed or was skipped is a row, too. Training is measured for some seconds after warm-up
steps; the time of an epoch is extrapolated, and its row says from how many steps. Goals are the last rows. No network is needed.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import radrecipes  # noqa: F401  (before any library: turns telemetry off)
from radrecipes.cli import positive, run
from radrecipes.errors import InputError
from radrecipes.files import write_atomically

RESULTS = Path(__file__).parent / "results_gpu.json"
# In order of importance, each with its limit in seconds; gpu_phases documents what they measure.
PHASES = {
    "machine": 45,
    "weights": 120,
    "lora": 70,
    "lora_trl": 90,
    "qlora": 75,
    "qlora_trl": 90,
    "layouts": 100,
    "smollm2": 110,
    "biogpt": 60,
    "plan": 60,
}
_NEED_WEIGHTS = ("lora", "lora_trl", "qlora", "qlora_trl", "layouts", "biogpt", "plan")
_SHORTEST = 5  # seconds; with less left a phase is not started
_ROOM = {True: 24e9, False: 200e6}  # bytes of scratch, on a GPU and in a rehearsal
SAME_LOSS = 0.02  # of the mean over the first steps: dropout differs, and bfloat16 rounds


def main() -> None:
    """Run the phases one after another; print and store their rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phases", nargs="*", metavar="PHASE", help=f"default: all of {', '.join(PHASES)}")
    parser.add_argument("--seconds", type=positive, default=570, help="for all phases together (default: 570)")
    parser.add_argument(
        "--scratch", type=Path, help="folder for 17 GB of weights (default: in memory if there is room)"
    )
    parser.add_argument(
        "--output", type=Path, help="results (default: benchmarks/results_gpu.json; a rehearsal: none)"
    )
    parser.add_argument("--list", action="store_true", help="list what the phases measure")
    parser.add_argument("--rehearse", action="store_true", help="every phase on the CPU with tiny shapes")
    args = parser.parse_args()
    for name in args.phases:
        if name not in PHASES:
            parser.error(f"no phase {name}; choose from {', '.join(PHASES)}")

    # Before any library is imported: one GPU (none in a rehearsal), no network
    os.environ["CUDA_VISIBLE_DEVICES"] = (
        "" if args.rehearse else os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    )
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    deadline = time.monotonic() + args.seconds
    import gpu_phases
    import torch

    if args.list:
        for name, limit in PHASES.items():
            print(f"{name:<10} {limit:>4} s  {vars(gpu_phases)[name].__doc__.splitlines()[0]}")
        return
    if not args.rehearse and not torch.cuda.is_available():
        raise InputError("PyTorch finds no GPU, so nothing was measured (--rehearse needs none)")
    wanted = {"machine", *(args.phases or PHASES)}
    if wanted.intersection(_NEED_WEIGHTS):
        wanted.add("weights")
    chosen = [name for name in PHASES if name in wanted]
    place = args.scratch or Path(tempfile.mkdtemp(prefix="radrecipes-gpu-", dir=None if args.rehearse else _roomy()))
    place.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(place).free) < _ROOM[not args.rehearse]:
        needed = _ROOM[not args.rehearse]
        raise InputError(f"has {free / 1e9:.0f} GB of free space; {needed / 1e9:.0f} are needed", str(place))
    output = args.output or (place / RESULTS.name if args.rehearse else RESULTS)

    # Results are written after each phase
    from gpu_sizes import FULL, REHEARSAL

    size, found = REHEARSAL if args.rehearse else FULL, []
    try:
        for name in chosen:
            limit = min(PHASES[name], deadline - time.monotonic())
            found += run_phase(vars(gpu_phases)[name], place, size, limit)
            store([*found, *goals(found)], place, output, args.rehearse)
    finally:
        if not args.scratch:
            shutil.rmtree(place, ignore_errors=True)
    _print_rows([*found, *goals(found)], args.rehearse)


def _print_rows(rows: Sequence[dict[str, Any]], rehearsal: bool) -> None:
    for row in rows:
        shown = {key: value for key, value in row.items() if key not in ("name", "what", "losses")}
        print(f"{row['name']:<30}" + ", ".join(f"{key} {value}" for key, value in shown.items()))
    if rehearsal:
        print("a rehearsal: every row is there, but its values and verdicts are meaningless")


def run_phase(phase: Callable, scratch: Path, size: Any, limit: float) -> list[dict[str, Any]]:
    """Run a phase in its own process and kill it after `limit` seconds; returns its rows, and a row about a failure if any.

    On a GPU the process is spawned, because CUDA does not survive a fork; in a rehearsal it is forked, which saves imports.
    """
    name = phase.__name__
    if limit < _SHORTEST:
        return [{"name": f"{name}_unfinished", "what": "the phase was not started", "left_out": "no time was left"}]
    print(f"{name}: at most {limit:.0f} s", flush=True)
    began = time.monotonic()
    process = multiprocessing.get_context("spawn" if size.on_gpu else "fork").Process(
        target=_in_process, args=(phase, scratch, size)
    )
    process.start()
    try:
        process.join(limit)
    finally:  # also after Ctrl-C
        cut_off = process.is_alive()
        if cut_off:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with the workers of its data loader
            process.kill()
            process.join()
    written = scratch / f"{name}.jsonl"
    rows = [json.loads(line) for line in written.read_text(encoding="utf-8").splitlines()] if written.is_file() else []
    if process.exitcode:
        how = _last_line(scratch / f"{name}.log")
        if process.exitcode < 0:
            how = f"killed after {limit:.0f} s" if cut_off else f"ended by signal {-process.exitcode}; {how}"
        rows.append({"name": f"{name}_unfinished", "what": "the phase did not end by itself", "failed": how})
    print(f"{name}: {len(rows)} rows in {time.monotonic() - began:.0f} s", flush=True)
    return rows


def _in_process(phase: Callable, scratch: Path, size: Any) -> None:
    """Run a phase in the current process; its output goes into a log."""
    from gpu_measuring import Rows

    os.setpgid(0, 0)
    with (scratch / f"{phase.__name__}.log").open("w", encoding="utf-8", buffering=1) as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
        sys.stdout = sys.stderr = log
        try:
            phase(Rows(scratch / f"{phase.__name__}.jsonl", size.on_gpu), scratch, size)
        except BaseException:
            traceback.print_exc(file=log)
            log.flush()
            os._exit(1)


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.is_file() else []
    return lines[-1][-300:] if lines else "no output"


def goals(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each goal: whether it was reached, or that it was not measured."""
    by_name = {row["name"]: row for row in rows}

    def value(name: str, key: str) -> Any:
        return by_name.get(name, {}).get(key)

    found = []

    def add(name: str, what: str, measured: dict[str, Any], reached: bool | None) -> None:
        verdict = "not measured" if reached is None else "pass" if reached else "fail"
        found.append({"name": f"goal_{name}", "what": what, **measured, "verdict": verdict})

    for name in ("lora", "qlora"):
        minutes = value(name, "epoch_minutes")
        add(f"{name}_epoch", "30,000 notes in 10 minutes", {"minutes": minutes}, minutes and minutes <= 10)
        other = f"{name}_trl_halved" if f"{name}_trl_halved" in by_name else f"{name}_trl"
        ours, theirs = value(name, "notes_per_second"), value(other, "notes_per_second")
        means = _means_of_same_steps(value(name, "losses"), value(other, "losses"))
        same = bool(means) and abs(means[0] - means[1]) <= SAME_LOSS * abs(means[1])
        add(
            f"{name}_ratio",
            f"1.5 times TRL's script at equal loss (means over the same steps within {SAME_LOSS:.0%})",
            {"ratio": round(ours / theirs, 2), "mean_losses": means, "equal_loss": same} if ours and theirs else {},
            ours >= 1.5 * theirs and same if ours and theirs else None,
        )
    reached = value("lora", "utilisation")
    what = "40 % of peak in bf16 LoRA, tokens without padding"
    add("utilisation", what, {"share": reached}, reached >= 0.4 if isinstance(reached, float) else None)
    metrics = [value("smollm2_scoring", name) for name in ("exact_accuracy", "macro_f1")]
    inside = [metric["inside"] for metric in metrics if metric]
    add(
        "smollm2",
        "the real recipe within the prediction interval of its recorded seeds",
        {},
        all(inside) if inside else None,
    )
    return found


def _means_of_same_steps(ours: Sequence[float] | None, theirs: Sequence[float] | None) -> list[float]:
    from gpu_measuring import mean_of

    steps = min(len(ours or []), len(theirs or []))
    return [round(mean_of(losses, steps), 4) for losses in (ours, theirs)] if steps else []


def store(rows: Sequence[dict[str, Any]], scratch: Path, output: Path, rehearsal: bool) -> None:
    """Write all rows so far with the facts of the machine, atomically."""
    file = scratch / "facts.json"
    facts = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    document = {"date": date.today().isoformat(), "rehearsal": rehearsal, **facts, "rows": list(rows)}
    write_atomically(output, json.dumps(document, indent=2, default=str).replace("NaN", "null") + "\n")


def _roomy() -> str | None:
    """The RAM disk if it has ample room for the weights, otherwise `None`: the default for temporary files."""
    place = Path("/dev/shm")
    return str(place) if place.is_dir() and shutil.disk_usage(place).free > 1.5 * _ROOM[True] else None


if __name__ == "__main__":
    run(main)
