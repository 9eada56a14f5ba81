"""The command that compares periods: its exit codes are for a scheduler, its files for their owner."""

import json
import stat
from pathlib import Path

import pytest
from conftest import REPOSITORY, run_script

LABELS = ("CT Head", "MR Knee", "MR Brain")


def write_answers(name, rows, label=None, start=0, time=None):
    """Answers without a difference between files, unless all have one `label`."""
    lines = ["id,note,label,probability,decision,reason" + (",time" if time else "")]
    for number in range(start, start + rows):
        said = f'"knee pain {number}"', label or LABELS[number % 3], f"{0.5 + number % 50 / 100:.2f}"
        row = [f"A{number}", *said, "auto" if number % 10 else "NEEDS_REVIEW", ""]
        lines.append(",".join(row + ([time] if time else [])))
    Path(name).write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("scripts").symlink_to(REPOSITORY / "scripts")
    write_answers("reference.csv", 300)
    write_answers("quiet.csv", 200, start=300)
    write_answers("changed.csv", 200, "MR Hip", start=500)
    return tmp_path


def test_the_exit_code_tells_a_scheduler_whether_anything_changed(folder, call):
    words = ("--reference", "reference.csv", "--output", "out")
    found = call("monitor", "quiet.csv", *words)
    assert found.code == 0 and "quiet.csv: 200 orders, 7 checks, no alarm\n" in found.stdout
    found = call("monitor", "changed.csv", "quiet.csv", *words)
    assert found.code == 1 and found.stderr == ""
    assert (
        "changed.csv: 200 orders, 7 checks, ALARM: Shares of the labels, PSI; Orders with a new label\n"
        in found.stdout
    )
    assert [window["alarm"] for window in json.loads(Path("out/monitor.json").read_text("utf-8"))["windows"]] == [
        True,
        False,
    ]
    assert call("monitor", "changed.csv", "quiet.csv", *words, "--last", "1").code == 0, (
        "the alarm is of an earlier window"
    )
    assert call("monitor", "changed.csv", *words, "--false-alarms", "1e-300").code == 0
    for name in ("monitor.html", "monitor.json"):
        assert stat.S_IMODE(Path("out", name).stat().st_mode) == 0o600
        assert "knee" not in Path("out", name).read_text("utf-8")


def test_wrong_input_is_one_line_and_writes_nothing(folder, call):
    write_answers("small.csv", 20)
    for words, said in (
        (("quiet.csv", "--reference", "small.csv"), "error: --reference: has 20 orders; at least 50 are needed\n"),
        (("none.csv", "--reference", "reference.csv"), "error: none.csv: no such file; check the path\n"),
        (
            ("quiet.csv", "--reference", "reference.csv", "--output", "small.csv"),
            "error: --output small.csv: is a file; name a folder, which is made if it does not exist\n",
        ),
        (
            ("quiet.csv", "--reference", "reference.csv", "--per", "week"),
            "error: --per: a file has no column `time`; give",
        ),
        (("quiet.csv", "--reference", "reference.csv", "--every", "500"), "error: quiet.csv: no window is complete"),
        (
            ("quiet.csv", "--reference", "reference.csv", "--corrections", "quiet.csv"),
            "error: quiet.csv: no column 'sampled'",
        ),
    ):
        refused = call("monitor", *words)
        assert refused.code == 2 and refused.stderr.startswith(said) and refused.stderr.count("\n") == 1, (
            refused.stderr
        )
    assert not Path("monitor").exists()


@pytest.mark.slow
def test_it_runs_as_a_process_without_the_libraries_of_training(folder):
    done = run_script(folder, "-X", "importtime", "scripts/monitor.py", "quiet.csv", "--reference", "reference.csv")
    assert done.returncode == 0 and Path("monitor/monitor.html").is_file()
    assert "scipy" in done.stderr and "| torch\n" not in done.stderr and "transformers" not in done.stderr
