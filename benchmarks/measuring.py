"""A command run to its end, with the peak memory of its processes."""

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import psutil

BIN = Path(sys.executable).parent


class LeftOutError(Exception):
    """A comparison that cannot be made here; the message says what it would take."""


def run_with_peak_memory(command: list) -> tuple[float, str]:
    """Run a command to its end.

    Returns:
        `tuple[float, str]`: peak resident memory of its processes together in GiB, and what it printed.

    Raises:
        `RuntimeError`: the command failed; the end of its output is in the message.
    """
    # Launchers choose the number of threads differently (one, or all cores); both sides get all cores.
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
