"""The audit log as a user keeps it: predicted with, killed and continued, verified by the script."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from e2e.conftest import RUN, files_in
from e2e.test_predict_tables import start, watch, words, write_orders
from radrecipes.inference.audit_log import text_digest, verify
from radrecipes.inference.unfinished_prediction import UnfinishedPrediction

LOG = "log.jsonl"
# predict.py, killed by the system when the entry for row 40 is about to be written.
KILLED_WHILE_IT_LOGS = """
import os, runpy, signal, sys
from radrecipes.inference import audit_log
chained = audit_log._chained
def chain(number, prediction, row, *more):
    if row == 40:
        os.kill(os.getpid(), signal.SIGKILL)
    return chained(number, prediction, row, *more)
audit_log._chained = chain
sys.argv = ["scripts/predict.py", *sys.argv[1:]]
sys.path.insert(0, "scripts")  # as Python does for the script that it starts
runpy.run_path("scripts/predict.py", run_name="__main__")
"""


def logged():
    return [json.loads(line) for line in Path(LOG).read_text("utf-8").splitlines()]


def rows_of(output):
    with Path(output).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.slow
def test_a_prediction_killed_while_it_works_and_while_it_logs_leaves_one_entry_a_row(finished_copy, call):
    rejected = write_orders("orders.csv", 120)
    arguments = words("out.csv", "--chunk-rows", "15", "--keep-text", "--audit-log", LOG)
    process = start(finished_copy, *arguments)
    watch(process, "out.csv", 2)
    assert process.poll() is None, "it must be killed while it works"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not Path(LOG).exists() and Path(f"{LOG}.key").exists()

    killed = subprocess.run(
        [sys.executable, "-c", KILLED_WHILE_IT_LOGS, *map(str, arguments)],
        cwd=finished_copy,
        capture_output=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    left = Path(LOG).read_bytes()
    assert 5 < left.count(b"\n") < 40 and not Path("out.csv").exists()
    Path(LOG).write_bytes(left[:-200])  # the system may cut a write anywhere
    assert call("audit_log", "verify", LOG).code == 1

    # Meanwhile another prediction logs, too; complete entries of the killed one stay where they are.
    note = call("predict", "--adapter", RUN, "--note", "chronic knee pain, r/o meniscal tear", "--audit-log", LOG)
    assert note.code == 0, note.stderr
    assert re.search(
        r"\naudit log log.jsonl: 1 entries of .*head [0-9a-f]{64}; removed an incomplete line of a killed writer\n$",
        note.stdout,
    )

    done = call("predict", *arguments)
    assert done.code == 0, done.stderr
    rows, entries = rows_of("out.csv"), logged()
    of_the_note = left.count(b"\n") - 1
    assert note.stdout.startswith(entries[of_the_note]["label"] + "\n") and entries[of_the_note]["row"] == 1
    table = entries[:of_the_note] + entries[of_the_note + 1 :]
    assert len(table) == len(rows) == 120 - rejected and len({entry["prediction"] for entry in table}) == 1
    key = bytes.fromhex(Path(f"{LOG}.key").read_text("ascii"))
    for number, (entry, row) in enumerate(zip(table, rows, strict=True), start=1):
        assert entry["row"] == number and entry["probability"] == float(row["probability"])
        assert all((entry[name] or "") == row[name] for name in ("id", "label", "decision", "reason"))
        assert entry["input_hmac_sha256"] == text_digest(key, row["note"])
    assert done.stdout.endswith(
        f"audit log {LOG}: {len(rows)} entries of this prediction, head {entries[-1]['sha256']}\n"
    )
    text = Path(LOG).read_text("utf-8")
    for word in ("knee pain", "headache", "weakness", "hx of fall", " yo "):
        assert word not in text
    checked = call("audit_log", "verify", LOG, "--head", entries[of_the_note]["sha256"])
    assert checked.code == 0 and f"intact, {len(rows) + 1} entries, " in checked.stdout, checked.stderr
    after = len(entries) - of_the_note - 1
    assert f"the known head is in the log; {after} entries follow it\n" in checked.stdout
    assert checked.stdout.endswith(f"head {entries[-1]['sha256']}\n")

    # An edit is named, with exit code 1; without its output nothing changes.
    Path(LOG).write_text(text.replace('"row":17,', '"row":18,', 1), encoding="utf-8")
    broken = call("audit_log", "verify", LOG)
    assert (broken.code, broken.stdout) == (1, "") and broken.stderr.startswith(
        f"error: {LOG}:17: does not match its own"
    )


def test_a_kill_after_the_last_entry_logs_nothing_twice(finished_copy, call, monkeypatch):
    write_orders("orders.csv", 20, bad=False)

    def end(work, targets):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(UnfinishedPrediction, "finish", end)
        assert call("predict", *words("out.csv", "--audit-log", LOG)).code == 130
    before = Path(LOG).read_bytes()
    assert verify(LOG).entries == 20 and not Path("out.csv").exists()
    done = call("predict", *words("out.csv", "--audit-log", LOG))
    assert done.code == 0 and "20 entries of this prediction" in done.stdout, done.stderr
    assert Path(LOG).read_bytes() == before and len(rows_of("out.csv")) == 20
    # The same table once more is another prediction.
    assert call("predict", *words("again.csv", "--audit-log", LOG)).code == 0
    assert verify(LOG).entries == 40 and len({entry["prediction"] for entry in logged()}) == 2


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("none/log.jsonl", "none/log.jsonl: the folder of the audit log does not exist"),
        ("orders.csv", "orders.csv: is read or written already"),
        ("out.csv", "out.csv: is read or written already"),
        ("out.rejects.csv", "out.rejects.csv: is read or written already"),
        ("answers.csv", "answers.csv:5: is not an audit log"),
    ],
)
def test_a_log_that_cannot_be_written_is_reported_before_any_work(finished_copy, call, log, said):
    write_orders("orders.csv", 5, bad=False)
    before = files_in(finished_copy)
    done = call("predict", *words("out.csv", "--audit-log", log))
    assert done.code == 2 and done.stdout == "" and done.stderr.startswith(f"error: {said}"), done.stderr
    assert done.stderr.count("\n") == 1 and files_in(finished_copy) == before


def test_the_script_says_what_it_cannot_verify(tmp_path, call, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    missing = call("audit_log", "verify", tmp_path / "none")
    assert missing.code == 2 and missing.stderr.count("\n") == 1 and "no such file" in missing.stderr
    empty = tmp_path / "empty"
    empty.touch()
    assert call("audit_log", "verify", empty, "--head", "12").code == 2
    assert call("audit_log", "verify", empty).stdout == f"{empty}: intact, 0 entries\nhead {'0' * 64}\n"


def test_a_log_that_cannot_be_read_is_not_a_broken_one(tmp_path, call, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.chdir(Path(__file__).parents[2])
    monkeypatch.setattr("radrecipes.inference.audit_log.lock", refuse)
    log = tmp_path / "log.jsonl"
    log.touch()
    refused = call("audit_log", "verify", log)
    assert refused.code == 2 and refused.stderr.startswith(f"error: {log}") and refused.stderr.count("\n") == 1
    assert "cannot be read: Permission denied" in refused.stderr
