"""`scripts/review.py` as a process, and a client of its page."""

import csv
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from http.cookiejar import CookieJar
from pathlib import Path

from conftest import REPOSITORY

LABELS = ("CT Head", "MR Brain", "MR Knee", "CT Dedicated Kidney")


def write_answers(path, rows=12, automatic=8, text=True, **changes):
    """Answers as predict.py writes them: first those that need review; returns the texts by id."""
    header = ["id", *(["note"] if text else []), "label", "probability", "decision", "reason"]
    header += [f"top_{place}{kind}" for place in (1, 2, 3) for kind in ("", "_probability")]
    texts = {f"A{number}": f"order {number}, knee pain" for number in range(rows)} | changes
    with Path(path).open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        for number, (row, note) in enumerate(texts.items()):
            first, second, third = (LABELS[(number + place) % 4] for place in range(3))
            decided = ["auto", ""] if number >= rows - automatic else ["NEEDS_REVIEW", "below threshold"]
            top = [first, 0.5, second, 0.3, third, 0.1]
            writer.writerow([row, *([note] if text else []), first, 0.5, *decided, *top])
    return texts


class ReviewServer:
    """A running command, while the `with` block lasts; `post` returns the status and the answer."""

    def __init__(self, *words, cwd):
        command = [sys.executable, str(REPOSITORY / "scripts" / "review.py"), *map(str, words)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY / "src")}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, cwd=cwd, stdout=pipe, stderr=pipe, text=True, env=environment)
        self.said = []
        while not (self.said and self.said[-1].startswith("open ")):
            line = self.process.stdout.readline()
            assert line, self.process.stderr.read()
            self.said.append(line)
        self.address = self.said[-1].split()[1]
        self.url = self.address.partition("/?")[0]
        self.opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        self.page = self.opener.open(self.address, timeout=30)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.stop()

    def stop(self):
        """End the command as Ctrl-C does; returns its exit code, what it printed at the end, and its errors."""
        self.process.send_signal(2)
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err

    def kill(self):
        """End the process as a crash does."""
        self.process.kill()
        self.process.communicate()

    def post(self, action, window="one", headers=None, **values):
        """A request of a window of the page."""
        body = json.dumps({"window": window, **values}).encode()
        request = urllib.request.Request(
            f"{self.url}/{action}", body, {"content-type": "application/json", **(headers or {})}
        )
        try:
            with self.opener.open(request, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            text = error.read().decode()
            return error.code, json.loads(text) if text.startswith("{") else text

    def decide_all(self, choose):
        """Review every row as `choose(row)` says."""
        _, view = self.post("open")
        while row := view["row"]:
            status, view = self.post("decide", id=row["id"], label=choose(row), place=view["place"])
            assert status == 200
        return view
