"""What the comparisons share: a command with the peak memory of its processes, and the results file."""

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import threading
from datetime import date
from pathlib import Path
from typing import Any

import psutil

from radrecipes import environment

BIN = Path(sys.executable).parent
RESULTS = Path(__file__).parent / "results.json"


class LeftOutError(Exception):
    """A comparison that cannot run here; the message says what is needed."""


def read_results(path: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """The entries of a results file by name; none if it does not exist."""
    if not path.is_file():
        return {}
    return {entry["name"]: entry for entry in json.loads(path.read_text(encoding="utf-8"))}


def store_result(entry: dict[str, Any], path: Path = RESULTS) -> None:
    """Add an entry with the facts of this machine to a results file, or replace it."""
    hardware = environment.hardware()
    facts = {
        "date": date.today().isoformat(),
        "versions": environment.packages(),
        "processor": hardware["processor"],
        "cores": hardware["cores"],
        "system": platform.system(),
    }
    entries = read_results(path) | {entry["name"]: entry | facts}
    path.write_text(json.dumps(list(entries.values()), indent=2) + "\n", encoding="utf-8")


def cpu_seconds_of_children() -> float:
    """CPU time of ended child processes, which is more reliable than wall-clock time on a busy machine."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run_with_peak_memory(command: list) -> tuple[float, str]:
    """Run a command; returns the peak resident memory of all its processes in GiB, and its output.

    Raises:
        `RuntimeError`: the command failed; the end of its output is in the message.
    """
    # Launchers choose different numbers of threads (one, or all cores); both sides get all cores.
    environment = {**os.environ, "OMP_NUM_THREADS": str(psutil.cpu_count(logical=False) or psutil.cpu_count())}
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen([str(word) for word in command], stdout=output, stderr=output, env=environment)
        peak = 0
        watched = psutil.Process(process.pid)
        done = threading.Event()

        def watch() -> None:
            nonlocal peak
            while not done.is_set():
                try:
                    family = [watched, *watched.children(recursive=True)]
                    peak = max(peak, sum(member.memory_info().rss for member in family))
                except psutil.Error:
                    pass
                done.wait(0.1)

        watcher = threading.Thread(target=watch)
        watcher.start()
        process.wait()
        done.set()
        watcher.join()
        output.seek(0)
        printed = output.read()
    if process.returncode:
        raise RuntimeError(f"{command[:3]} failed:\n{printed[-2000:]}")
    return peak / 2**30, printed
