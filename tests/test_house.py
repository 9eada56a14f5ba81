"""Rules of the code base that ruff and import-linter do not know: the length of functions, of prose, and one place per task."""

import ast
import re

import pytest
from conftest import REPOSITORY

from radrecipes.tasks import TASKS

SOURCES = sorted(path for folder in ("src", "scripts") for path in (REPOSITORY / folder).rglob("*.py"))
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
LONGEST_FUNCTION = 60
# Of all lines.
DOCSTRING_SHARE = 0.11


def docstring_lines(node: ast.AST) -> int:
    """Lines of a node's docstring; 0 without one."""
    if ast.get_docstring(node, clean=False) is None:
        return 0
    return node.body[0].end_lineno - node.body[0].lineno + 1


def long_functions(text: str) -> list[str]:
    """Functions that are too long, unless the comment line above them gives the reason."""
    lines, found = text.splitlines(), []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            length = node.end_lineno - first + 1 - docstring_lines(node)
            reason = re.match(r"\s*# Long: \w", lines[first - 2] if first > 1 else "")
            if length > LONGEST_FUNCTION and not reason:
                found.append(f"{node.lineno}: {node.name} has {length} lines")
    return found


def task_dispatch(text: str) -> list[str]:
    """Places that tell tasks apart by their names, or families of tasks by `writes`; a user's own word may be compared."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
            flat = [inner for part in parts for inner in (part.elts if isinstance(part, _SEQUENCES) else [part])]
            if any(isinstance(part, ast.Attribute) and part.attr == "writes" for part in parts):
                found.append(f"{node.lineno}: compares `writes`")
            elif any(map(_names_task, flat)) and any(
                "task" in ast.unparse(part) for part in parts if not _typed(part)
            ):
                found.append(f"{node.lineno}: compares with the name of a task")
        elif isinstance(node, ast.Dict):
            keys = {key.value for key in node.keys if isinstance(key, ast.Constant)}
            # One alone may be a column: `report` and `impression` are.
            if len(keys & TASKS.keys()) > 1 and "findings" not in keys:
                found.append(f"{node.lineno}: a dictionary by the names of tasks")
    return found


_SEQUENCES = ast.Tuple | ast.List | ast.Set


def _names_task(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value in TASKS


def _typed(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "arguments"


# Calls that read a file without a limit, or wait for a pipe.
_RAW_READERS = frozenset(
    (
        "read_text",
        "read_bytes",
        "open",
        "load",
        "safe_load",
        "compose",
        "ZipFile",
        "FileIO",
        "ParquetFile",
        "read_table",
    )
)
# What is read there was written by this project a moment ago, is part of it, or is bounded on the way.
_MAY_READ_RAW = {
    "src/radrecipes/files.py": "the readers",
    "src/radrecipes/data/parquet.py": "the reader of Parquet",
    "src/radrecipes/data/synthetic_protocol/bank.py": "part of the package",
    "src/radrecipes/data/synthetic_reports/bank.py": "part of the package",
    "src/radrecipes/data/synthetic_reports/generator.py": "writes",
    "src/radrecipes/data/sources/mimic_cxr.py": "archives, member by member with `bounded`",
    "src/radrecipes/data/sources/excel.py": "archives whose content is bounded before",
    "src/radrecipes/data/sources/openi.py": "an archive, through `unpacked`",
    "src/radrecipes/radiology/labeller.py": "part of the package",
    "src/radrecipes/evaluation/linear_labeller.py": "part of the package",
    "src/radrecipes/publishing/licences.py": "part of the package",
    "src/radrecipes/publishing/vocabulary.py": "part of the package, and of one of constraints.txt",
    "src/radrecipes/publishing/project_json.py": "part of the package",
    "src/radrecipes/publishing/gates.py": "part of the package",
    "src/radrecipes/publishing/release_texts.py": "a dataset that load_prepared_dataset has read",
    "src/radrecipes/evaluation/reproduction.py": "the code itself",
    "src/radrecipes/cli.py": "the scripts themselves",
    "src/radrecipes/environment.py": "/proc",
    "src/radrecipes/inference/audit_log.py": "line by line, private",
    "src/radrecipes/inference/prediction_stream.py": "writes, and reads its own parts",
    "src/radrecipes/inference/unfinished_prediction.py": "its own parts, line by line",
    "src/radrecipes/models/template_probe.py": "what its parent process sends",
    "src/radrecipes/launch/peer_watchdog.py": "the state of this run's processes",
    "src/radrecipes/training/trainer.py": "writes",
    "scripts/bundle.py": "wheels that pip has just downloaded and read",
    "scripts/publish.py": "a card that it has written",
    "scripts/reproduce.py": "a README of this project",
}


def raw_readers(text: str) -> list[str]:
    """Calls that read a file other than with `files.py`."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            plain = isinstance(node.func, ast.Name) and name in ("read_text", "read_bytes", "read_table")
            owner = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
            loads = name in ("load", "safe_load", "compose") and owner not in ("yaml", "json", "pickle", "torch")
            if name in _RAW_READERS and not plain and not loads and owner not in ("kind", "os"):
                found.append(f"{node.lineno}: {ast.unparse(node.func)} has no limit; see radrecipes/files.py")
    return found


def in_sources(check, folders: tuple[str, ...] = ()) -> list[str]:
    """What a check finds, with paths, except in some folders."""
    return [
        f"{path.relative_to(REPOSITORY)}:{line}"
        for path in SOURCES
        if not any(path.is_relative_to(REPOSITORY / folder) for folder in folders)
        for line in check(path.read_text(encoding="utf-8"))
    ]


def test_functions_fit_on_a_screen_or_give_their_reason():
    assert not in_sources(long_functions)


def test_only_tasks_know_tasks_by_name():
    assert not in_sources(task_dispatch, folders=("src/radrecipes/tasks",))


def test_files_of_others_are_read_within_limits():
    assert not in_sources(raw_readers, folders=tuple(_MAY_READ_RAW))
    assert all(raw_readers((REPOSITORY / path).read_text(encoding="utf-8")) for path in _MAY_READ_RAW), (
        "no longer needed"
    )


def test_docstrings_stay_short():
    texts = [path.read_text(encoding="utf-8") for path in SOURCES if path.is_relative_to(REPOSITORY / "src")]
    nodes = (node for text in texts for node in ast.walk(ast.parse(text)) if isinstance(node, DOCUMENTED))
    assert sum(map(docstring_lines, nodes)) <= DOCSTRING_SHARE * sum(len(text.splitlines()) for text in texts)


def test_test_modules_have_names_of_their_own():
    """Most folders of tests are not packages, so pytest imports each module by its base name."""
    paths = (REPOSITORY / "tests").rglob("test_*.py")
    names = [path.stem for path in paths if not (path.parent / "__init__.py").exists()]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize(
    ("check", "text", "found"),
    [
        (long_functions, "def f():\n" + "    pass\n" * 60, 1),
        (long_functions, "def f():\n" + "    pass\n" * 59, 0),
        (long_functions, '@d\ndef f():\n    """Many\n    words."""\n' + "    pass\n" * 58, 0),
        (long_functions, "# Long: the steps share one state\n@d\ndef f():\n" + "    pass\n" * 60, 0),
        (task_dispatch, 'if task.writes == "label": pass', 1),
        (task_dispatch, 'if task.name in ("protocol", "other"): pass', 1),
        (task_dispatch, 'if arguments.task == "protocol" or "impression" in headers: pass', 0),
        (task_dispatch, 'WORDS = {"protocol": 1, "report": 2}', 1),
        (task_dispatch, 'ROW = {"findings": 1, "impression": 2, "report": 3}', 0),
        (raw_readers, "Path(p).read_text(encoding='utf-8')", 1),
        (raw_readers, "with p.open() as f: json.load(f)", 2),
        (raw_readers, "read_text(p); read_json(p); LabelSet.load(p); os.open(p)", 0),
        (task_dispatch, 'row["report"] = {"report": text}', 0),
    ],
)
def test_the_rules_find_what_breaks_them(check, text, found):
    assert len(check(text)) == found
