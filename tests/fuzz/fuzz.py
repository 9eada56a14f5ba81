"""Runs the scripts on damaged and hostile files, and reports every traceback, growth beyond 2 GiB and timeout.

    make fuzz                     # ten minutes; MINUTES=60 for an hour
    python tests/fuzz/fuzz.py --minutes 1 --only recipe --seed 7

Each input is given to the real script in a process of its own, forked from one that has imported the libraries. An input that
fails is kept in --output, with what the script printed.
"""

import argparse
import collections
import contextlib
import importlib
import io
import itertools
import json
import os
import random
import resource
import runpy
import shutil
import signal
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]

import openpyxl  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
from conftest import TINY_MODEL, build_workspace  # noqa: E402  (sets the environment before any library)
from hypothesis import HealthCheck, Phase, given, seed, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from mutations import (  # noqa: E402
    archive_like,
    bytes_like,
    compress,
    either,
    gzip_like,
    pack_tar,
    pack_zip,
    parquet_like,
    safetensors_like,
)

SECONDS = 60
GROWTH_MIB = 2048
# Beyond this the system refuses memory, so that a fault here does not end the machine.
_ADDRESS_SPACE = 6 * 2**30
RUN = "runs/fuzz"
RECIPE = "recipes/tiny/protocol_lora.yaml"
_BATCH = 12
TABLE = (
    *("prepare_data", "protocol", "--output", "{out}/d", "--text-column", "note", "--label-column", "protocol"),
    *("--max-dropped", "0.9", "--source"),
)
REPORTS = (
    *(
        "prepare_data",
        "report",
        "--output",
        "{out}/d",
        "--processes",
        "1",
        "--sections",
        "any",
        "--max-dropped",
        "0.9",
    ),
    "--source",
)
PREDICT = ("predict", "--adapter", RUN, "--note", "knee pain")
CHECK = ("recipes", "check", RECIPE)
PUBLISH = (
    *("publish", "adapter", "--run", RUN, "--tag", "v1.0", "--repo", "lab/fuzz", "--dry-run"),
    *("--license", "apache-2.0", "--base-license", "apache-2.0"),
)


_LABELS = b"name: s\nversion: 1\nlabels:\n- name: MR Knee\n  aliases: [knee]\n- name: CT Head\n"
_ORDERS = [(f"{20 + n} yo M, {('bleed', 'knee pain')[n % 2]} {n}", ("CT Head", "MR Knee")[n % 2]) for n in range(40)]
_CSV = "".join(
    ["note,protocol,mrn\n", *(f'"{note}",{label},{n}\n' for n, (note, label) in enumerate(_ORDERS))]
).encode()
_ROWS = "".join(json.dumps({"note": note, "protocol": label}) + "\n" for note, label in _ORDERS).encode()
_PAIRS = "".join(
    json.dumps({"prompt": "Edema: positive", "completion": f"Findings: There is edema, film {n}.", "patient": str(n)})
    + "\n"
    for n in range(40)
).encode()


def _report(number: int) -> bytes:
    return f" FINDINGS: \n There is edema on film number {number}.\n IMPRESSION: \n Edema.\n".encode()


def _xml(number: int) -> bytes:
    return (
        f'<?xml version="1.0"?><e><uId id="CXR{number}"/><AbstractText Label="FINDINGS">There is edema on film {number}.'
        '</AbstractText><AbstractText Label="IMPRESSION">Edema.</AbstractText></e>'
    ).encode()


@dataclass(frozen=True)
class Target:
    """A file of the workspace that is replaced, and the command that reads it; `{out}` is a folder to write to.

    `valid` is its content, with which the command ends with 0, and `change` makes a strategy for other content of it.
    """

    name: str
    file: str
    valid: bytes
    change: Callable[[bytes], st.SearchStrategy]
    command: tuple[str, ...]


@dataclass
class Counts:
    """What the inputs of a target led to."""

    inputs: int = 0
    codes: collections.Counter = field(default_factory=collections.Counter)
    faults: collections.Counter = field(default_factory=collections.Counter)
    slowest: float = 0.0
    largest: int = 0  # MiB


def targets(workspace: Path) -> list[Target]:
    """All targets of a workspace with a finished run; their files are made here if they are not part of it."""

    def content(file: str) -> bytes:
        return (workspace / file).read_bytes()

    (workspace / "labels.yaml").write_bytes(_LABELS)
    (workspace / "fuzz.csv").write_bytes(_CSV)
    (workspace / "b.csv").write_bytes(b"note,id\nknee pain,1\nbleed,2\n")
    (workspace / "template.jinja").write_bytes(content(f"models/{TINY_MODEL}/chat_template.jinja"))
    # One report makes no splits, so there are good ones beside the one that is changed.
    for number in range(2, 42):
        for root, name, data in (
            ("mimic", f"files/p10/p100000{number:02}/s{number}.txt", _report(number)),
            ("mimic-gz", f"files/p10/p100000{number:02}/s{number}.txt", _report(number)),
            ("xml", f"{number}.xml", _xml(number)),
        ):
            (workspace / root / name).parent.mkdir(parents=True, exist_ok=True)
            (workspace / root / name).write_bytes(data)
    studies = {f"files/p10/p100000{number:02}/s{number}.txt": _report(number) for number in range(40)}
    records = {f"ecgen-radiology/{number}.xml": _xml(number) for number in range(40)}
    tsv = _CSV.replace(b",", b"\t").replace(b"M\t ", b"M, ")
    sources = {
        "a.csv": (_CSV, bytes_like, TABLE),
        "a.tsv": (tsv, bytes_like, TABLE),
        "a.csv.gz": (compress(_CSV), lambda _: gzip_like(_CSV), TABLE),
        "a.jsonl": (_ROWS, bytes_like, TABLE),
        "a.jsonl.gz": (compress(_ROWS), lambda _: gzip_like(_ROWS), TABLE),
        "a.xlsx": (pack_zip(_excel()), lambda _: archive_like(_excel(), pack_zip), TABLE),
        "a.parquet": (_parquet(_ROWS), lambda _: parquet_like(["note", "protocol"]), TABLE),
        "pairs.jsonl": (_PAIRS, bytes_like, (*REPORTS, "jsonl")),
        "mimic/files/p10/p10000001/s1.txt": (_report(1), bytes_like, (*REPORTS, "mimic-cxr")),
        "mimic-gz/files/p10/p10000001/s1.txt.gz": (
            *(compress(_report(1)), lambda _: gzip_like(_report(1)), (*REPORTS, "mimic-cxr")),
        ),
        "zip/mimic-cxr-reports.zip": (
            *(pack_zip(studies), lambda _: archive_like(studies, pack_zip), (*REPORTS, "mimic-cxr")),
        ),
        "xml/1.xml": (_xml(1), bytes_like, (*REPORTS, "openi")),
        "tgz/NLMCXR_reports.tgz": (pack_tar(records), lambda _: archive_like(records, pack_tar), (*REPORTS, "openi")),
    }
    found = []
    for file, (valid, change, command) in sources.items():
        place = ("--root", file.split("/")[0]) if command[1] == "report" else (file,)
        found.append(Target(file, file, valid, change, (*command, *place)))
    files = {
        RECIPE: CHECK,
        "labels.yaml": (*TABLE, "fuzz.csv", "--label-set", "labels.yaml"),
        "template.jinja": ("recipes", "inspect", "recipes/tiny/template.yaml"),
        "b.csv": ("predict", "--adapter", RUN, "--input", "b.csv", "--output", "{out}/o.csv"),
        "data/tiny/manifest.json": ("recipes", "inspect", RECIPE),
        **dict.fromkeys((f"{RUN}/manifest.json", f"{RUN}/recipe.yaml"), PREDICT),
        **{
            f"{RUN}/adapter/{file}": PREDICT
            for file in ("adapter_config.json", "adapter_model.safetensors", "decision_policy.json", "label_set.yaml")
        },
        **{
            f"models/{TINY_MODEL}/{file}": CHECK for file in ("config.json", "tokenizer.json", "tokenizer_config.json")
        },
        f"models/{TINY_MODEL}/model.safetensors": (*PREDICT, "--allow-other-weights"),
        f"{RUN}/evaluation/metrics.json": PUBLISH,
    }
    return found + [Target(file, file, content(file), _change_for(file), command) for file, command in files.items()]


def _excel() -> dict[str, bytes]:
    """The members of a workbook with the orders, the sheet first."""
    book, buffer = openpyxl.Workbook(), io.BytesIO()
    for row in (("note", "protocol"), *_ORDERS):
        book.active.append(row)
    book.save(buffer)
    with zipfile.ZipFile(buffer) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    sheet = "xl/worksheets/sheet1.xml"
    return {sheet: members.pop(sheet), **members}


def _parquet(rows: bytes) -> bytes:
    """JSON lines as Parquet."""
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([json.loads(line) for line in rows.splitlines()]), buffer)
    return buffer.getvalue()


def _change_for(file: str) -> Callable[[bytes], st.SearchStrategy]:
    if file.endswith(".safetensors"):
        return safetensors_like
    return either if file.endswith(".json") else bytes_like


def make_workspace(folder: Path) -> Path:
    """A workspace as the tests have, with a finished and evaluated run."""
    workspace = build_workspace(folder)
    recipe = (workspace / RECIPE).read_text(encoding="utf-8")
    (workspace / "recipes/tiny/template.yaml").write_text(
        f"{recipe}chat_template_path: template.jinja\n", encoding="utf-8"
    )
    for command in (
        ("sft", "--config", RECIPE, "--output_dir", RUN),
        ("evaluate_model", "--run", RUN, "--skip-base"),
    ):
        ended = run_script(workspace, command, folder / "log")
        if ended.code != 0:
            raise RuntimeError(f"{' '.join(command)} failed:\n{(folder / 'log').read_text(errors='replace')}")
    return workspace


@dataclass(frozen=True)
class Ended:
    """How a script ended; `fault` is empty if it ended as it should."""

    code: int
    fault: str
    seconds: float
    growth: int  # MiB


def run_script(workspace: Path, command: Sequence[str], log: Path) -> Ended:
    """Run a script in a fork of this process, whose imports it shares."""
    started, child = time.monotonic(), os.fork()
    if child == 0:
        _run_in_child(workspace, command, log)
    before = _resident(child)  # less than that of this process: files that are mapped are not counted yet
    status, usage = 0, None
    while usage is None:
        ended, status, found = os.wait4(child, os.WNOHANG)
        if ended:
            usage = found
        elif time.monotonic() - started > SECONDS:
            os.killpg(child, signal.SIGKILL)
            _, status, usage = os.wait4(child, 0)
            return Ended(-1, "timeout", time.monotonic() - started, usage.ru_maxrss // 1024 - before)
        else:
            time.sleep(0.01)
    growth = max(0, usage.ru_maxrss // 1024 - before)
    code = os.waitstatus_to_exitcode(status)
    printed = log.read_text(encoding="utf-8", errors="replace")
    fault = ""
    if growth > GROWTH_MIB or "MemoryError" in printed:
        fault = "memory"
    elif "Traceback (most recent call last)" in printed:
        fault = "traceback"
    elif code < 0 or code not in (0, 1, 2, 3, 4, 5):
        fault = f"signal {-code}" if code < 0 else f"code {code}"
    return Ended(code, fault, time.monotonic() - started, growth)


def _run_in_child(workspace: Path, command: Sequence[str], log: Path) -> None:
    code = 70
    try:
        os.setpgid(0, 0)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(output, 1)
        os.dup2(output, 2)
        # Those of this process may write elsewhere, as under pytest.
        sys.stdout, sys.stderr = (os.fdopen(os.dup(number), "w", encoding="utf-8") for number in (1, 2))
        sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr  # as in any process: kept open if they are wrapped
        os.chdir(workspace)
        resource.setrlimit(resource.RLIMIT_AS, (_virtual() + _ADDRESS_SPACE,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        name, *words = command
        sys.argv = [f"scripts/{name}.py", *words]
        sys.path.insert(0, "scripts")
        runpy.run_path(f"scripts/{name}.py", run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        code = 1
        os.write(2, traceback.format_exc().encode("utf-8", "backslashreplace"))
    finally:
        try:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(ValueError, OSError):  # closed
                    stream.flush()
        finally:
            os._exit(code)


def _resident(process: int) -> int:
    pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() // 2**20


def _virtual() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()


def fuzz(
    workspace: Path, chosen: Sequence[Target], deadline: float, first_seed: int, output: Path, most: int = 10**9
) -> dict[str, Counts]:
    """Try inputs for all targets in turn until the deadline, or `most` inputs for each."""
    counts = {target.name: Counts() for target in chosen}
    for number in itertools.count(first_seed):
        for target in random.Random(number).sample(chosen, len(chosen)):
            _try_inputs(workspace, target, number, min(_BATCH, most), counts[target.name], deadline, output)
        if time.monotonic() > deadline or min(found.inputs for found in counts.values()) >= most:
            return counts
    raise AssertionError("unreachable")


def _try_inputs(
    workspace: Path, target: Target, number: int, inputs: int, counts: Counts, deadline: float, output: Path
) -> None:
    path = workspace / target.file
    path.parent.mkdir(parents=True, exist_ok=True)

    @seed(number)
    @settings(
        max_examples=int(inputs),
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(target.change(target.valid))
    def one(data: bytes) -> None:
        if time.monotonic() > deadline:
            return
        with tempfile.TemporaryDirectory() as scratch:
            path.write_bytes(data)
            log = Path(scratch, "log")
            ended = run_script(workspace, [word.format(out=scratch) for word in target.command], log)
            counts.inputs += 1
            counts.codes[ended.code] += 1
            counts.slowest, counts.largest = max(counts.slowest, ended.seconds), max(counts.largest, ended.growth)
            if ended.fault:
                counts.faults[ended.fault] += 1
                kept = output / f"{target.name.replace('/', '-')}-{number}-{counts.inputs}"
                output.mkdir(parents=True, exist_ok=True)
                Path(f"{kept}.input").write_bytes(data)
                shutil.copyfile(log, Path(f"{kept}.log"))

    try:
        one()
    finally:
        path.write_bytes(target.valid)


def check_valid(workspace: Path, chosen: Sequence[Target]) -> None:
    """Raise unless the command of each target succeeds with the valid file: otherwise damage to it would not be tried."""
    for target in chosen:
        (workspace / target.file).parent.mkdir(parents=True, exist_ok=True)
        (workspace / target.file).write_bytes(target.valid)
        with tempfile.TemporaryDirectory() as scratch:
            log = Path(scratch, "log")
            ended = run_script(workspace, [word.format(out=scratch) for word in target.command], log)
            if ended.code != 0 or ended.fault:
                raise RuntimeError(
                    f"{target.name}: the valid file ends with {ended}:\n{log.read_text(errors='replace')}"
                )


def show(counts: dict[str, Counts], printed: Callable[[str], None] = print) -> int:
    """Print the table, and return the number of faults."""
    printed(f"{'target':<44} {'inputs':>7}  exit codes{'':<20} slowest  growth  faults")
    for name, found in counts.items():
        codes = ", ".join(f"{code}: {times}" for code, times in sorted(found.codes.items()))
        faults = ", ".join(f"{times} {what}" for what, times in sorted(found.faults.items())) or "none"
        printed(f"{name:<44} {found.inputs:>7}  {codes:<30} {found.slowest:5.1f} s {found.largest:>4} MiB  {faults}")
    total = sum(sum(found.faults.values()) for found in counts.values())
    printed(f"{sum(found.inputs for found in counts.values())} inputs, {total} faults")
    return total


LIBRARIES = (
    *(
        "datasets",
        "peft",
        "trl",
        "radrecipes.training.run",
        "radrecipes.training.stages",
        "radrecipes.planning.machine_plan",
    ),
    *("radrecipes.inference.predictors", "radrecipes.evaluation.evaluate", "radrecipes.reporting.page"),
    *("radrecipes.data.sources.registry", "radrecipes.data.report_preparation", "radrecipes.publishing.gates"),
)


def main() -> None:
    """Fuzz for some minutes; exit code 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--minutes", type=float, default=10, help="how long (default: 10)")
    parser.add_argument("--only", action="append", metavar="WORD", help="targets whose names contain this word")
    parser.add_argument("--seed", type=int, default=0, help="of the inputs (default: 0)")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/fuzz"), help="for inputs that fail (default: runs/fuzz)"
    )
    args = parser.parse_args()
    output = args.output.resolve()
    for name in LIBRARIES:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory(prefix="radrecipes-fuzz-") as folder:
        workspace = make_workspace(Path(folder))
        chosen = [
            target for target in targets(workspace) if not args.only or any(word in target.name for word in args.only)
        ]
        check_valid(workspace, chosen)
        counts = fuzz(workspace, chosen, time.monotonic() + 60 * args.minutes, args.seed, output)
    faults = show(counts)
    if faults:
        print(f"the inputs and what was printed are in {output}")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
