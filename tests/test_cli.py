"""The `radrecipes` command, and how a script ends: one line and an exit code for what a user can fix, otherwise a traceback."""

import errno
import os
import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest
from conftest import REPOSITORY, run_script

from radrecipes import __version__, cli
from radrecipes.cli import COMMANDS, fraction, non_negative, positive, run
from radrecipes.errors import InputError, InterruptedRunError, NoCheckpointError, OutputInUseError, RadrecipesError


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    "error, code, line",
    [
        (InputError("unknown label", "orders.csv:17"), 2, "error: orders.csv:17: unknown label\n"),
        (InputError("no such file"), 2, "error: no such file\n"),
        (NoCheckpointError("none"), 3, "error: none\n"),
        (OutputInUseError("locked"), 5, "error: locked\n"),
        (InterruptedRunError("stopped by SIGTERM"), 75, "stopped by SIGTERM\n"),
        (RadrecipesError("other"), 1, "error: other\n"),
        (InputError("a\x1b[2J\n\u202eb\x85", "x\r\ny.csv"), 2, "error: x\\r\\ny.csv: a\\x1b[2J\\n\\u202eb\\x85\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (OSError(errno.EACCES, "Permission denied", "a.csv"), 1, "error: a.csv: Permission denied\n"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "error: No space left on device\n"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 141, ""),
    ],
)
def test_an_error_is_one_line_and_its_exit_code(error, code, line, capsys):
    with pytest.raises(SystemExit) as ended:
        run(raising(error))
    assert ended.value.code == code
    assert capsys.readouterr() == ("", line)


def test_success_does_not_exit(capsys):
    run(lambda: None)
    assert capsys.readouterr() == ("", "")


PRINTS = """
import logging, sys
from tqdm import tqdm
from radrecipes.cli import run
handler = logging.StreamHandler()  # of a library, made before

def main():
    print("⟦CT⟧ \\x1b[31mred\\x9b \\u202e", "tab\\there", sep="\\n")
    with tqdm(total=1, desc="outer") as outer, tqdm(total=1, desc="inner\\x1b[2J") as inner:
        outer.update(), inner.update()
    handler.emit(logging.makeLogRecord({"msg": "⟦logged"}))

run(main)
"""


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252"])
def test_no_text_takes_over_the_terminal_and_every_console_can_print_it(encoding):
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(REPOSITORY / "src")}
    done = subprocess.run([sys.executable, "-c", PRINTS], env=environment, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    bracket, end = ("⟦", "⟧") if encoding == "utf-8" else ("\\u27e6", "\\u27e7")
    assert done.stdout.decode(encoding) == f"{bracket}CT{end} \\x1b[31mred\\x9b \\u202e\ntab\there\n"
    shown = done.stderr.decode(encoding)
    assert shown.endswith(f"{bracket}logged\n") and "inner\\x1b[2J" in shown
    # tqdm moves between its bars as ever.
    assert set(re.findall("\x1b..", shown)) == {"\x1b[A"}


@pytest.mark.parametrize("words", [["--help"], ["recipes", "--help"], ["recipes", "list"]])
def test_a_closed_pipe_and_a_full_disk_end_a_command_without_a_traceback(words, tmp_path):
    # A limit for the size of files fails like a full disk.
    limited = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); from radrecipes.cli import main; main()"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src"), "PYTHONUNBUFFERED": ""}
    reader, writer = os.pipe()
    os.close(reader)
    file = os.open(tmp_path / "full", os.O_WRONLY | os.O_CREAT)
    for output, code, said in ((writer, 141, b""), (file, 1, b"error: File too large\n")):
        command = [sys.executable, "-c", limited, *words]
        done = subprocess.run(
            command, stdout=output, stderr=subprocess.PIPE, env=environment, cwd=REPOSITORY, timeout=60
        )
        os.close(output)
        assert (done.returncode, done.stderr) == (code, said)


def test_a_defect_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run(raising(ZeroDivisionError()))


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [(positive, "3", "0"), (non_negative, "0", "-1"), (fraction, "0.5", "1"), (fraction, "1e-3", "0")],
)
def test_types_of_arguments(kind, right, wrong):
    assert kind(right) == type(kind(right))(right)
    with pytest.raises(ValueError):
        kind(wrong)


def radrecipes(*words):
    return run_script(REPOSITORY, "-c", "from radrecipes.cli import main; main()", *words)


def test_the_command_is_installed_and_every_script_has_a_command():
    command = Path(sys.executable).with_name("radrecipes")
    listed = subprocess.run([command, "recipes", "list"], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert listed.returncode == 0 and "smollm2-135m/protocol_lora" in listed.stdout, listed.stderr
    assert {script for script, _ in COMMANDS.values()} == {path.stem for path in (REPOSITORY / "scripts").glob("*.py")}


def test_help_lists_the_commands():
    for words in ((), ("--help",)):
        shown = radrecipes(*words)
        assert (shown.returncode, shown.stderr) == (0, "")
        lines = [line.split()[0] for line in shown.stdout.splitlines() if line.startswith("  ")]
        assert lines == list(COMMANDS)


def test_the_version_is_that_of_the_package():
    shown = radrecipes("--version")
    assert (shown.returncode, shown.stdout) == (0, f"radrecipes {__version__}\n")


def test_a_command_is_its_script():
    for words, code in ((("list",), 0), (("plan", "none.yaml"), 2), (("list", "--x"), 2), (("plan",), 2)):
        script, command = run_script(REPOSITORY, "scripts/recipes.py", *words), radrecipes("recipes", *words)
        assert script.returncode == command.returncode == code
        assert command.stdout == script.stdout
        renamed = re.sub(r"(^usage: |^|: )recipes.py ", r"\1radrecipes recipes ", script.stderr, flags=re.MULTILINE)
        assert command.stderr.split() == renamed.split()
    for name, command in (("evaluate_model", "evaluate"), ("sft", "train"), ("prepare-data", "prepare")):
        assert f"usage: radrecipes {command} [-h]" in radrecipes(name, "--help").stdout


def test_an_unknown_command_is_one_line():
    ended = radrecipes("tune")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: radrecipes: unknown command `tune`; use one of recipes, ")


def test_a_script_that_is_missing_is_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(cli, "ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", ["radrecipes", "sft"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == ("error: radrecipes: scripts/sft.py is missing; install the package again\n")


@pytest.mark.parametrize(
    ("module", "extra"),
    [
        ("bitsandbytes.nn", "train"),
        ("cyclonedx", "bundle"),
        ("spacy", "publish"),
        ("prometheus_client", "serve"),
        ("fhir.resources", "serve"),
    ],
)
def test_a_package_of_an_extra_that_is_missing_is_one_line(module, extra, monkeypatch, capsys):
    monkeypatch.setattr("importlib.metadata.requires", lambda name: declared_requirements())
    with pytest.raises(SystemExit) as ended:
        run(raising(ModuleNotFoundError("gone", name=module)))
    assert ended.value.code == 2
    assert capsys.readouterr().err == f'error: {module} is not installed; pip install "radrecipes[{extra}]"\n'


def declared_requirements():
    """As the metadata of a wheel gives the extras of setup.cfg."""
    settings = ConfigParser()
    settings.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    extras = settings["options.extras_require"].items()
    lines = ((line.partition(";"), extra) for extra, text in extras for line in text.split("\n") if line)
    return [
        f"{name}; ({marker.strip()}) and extra == '{extra}'" if marker else f"{name}; extra == '{extra}'"
        for (name, _, marker), extra in lines
    ]


def test_a_missing_package_of_no_extra_is_a_defect(monkeypatch):
    monkeypatch.setattr("importlib.metadata.requires", lambda name: declared_requirements())
    for module in ("torch", "spac", "radrecipes.none"):
        with pytest.raises(ModuleNotFoundError):
            run(raising(ModuleNotFoundError("gone", name=module)))


def test_a_file_that_fails_during_the_work_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.run(lambda: (tmp_path / "none" / "file").write_text("x"))
    assert ended.value.code == 1
    assert capsys.readouterr().err == f"error: {tmp_path}/none/file: No such file or directory\n"
    with pytest.raises(OSError, match="of nothing in particular"):
        cli.run(lambda: (_ for _ in ()).throw(OSError("of nothing in particular")))
