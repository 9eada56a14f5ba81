"""The documents are short enough, their links lead somewhere, and what they name exists."""

import ast
import re
import shutil

import pytest
import test_recipes_folder
from conftest import REPOSITORY

from radrecipes.recipe import find_recipes

DOCUMENTS = [
    path
    for pattern in ("*.md", "docs/*.md", "*/README.md", "*/*/README.md")
    for path in sorted(REPOSITORY.glob(pattern))
    if path.relative_to(REPOSITORY).parts[0] not in ("models", "runs", "tests")
]
# Pages that name places in the code.
ABOUT_CODE = [
    path
    for path in DOCUMENTS
    if path.name in ("architecture.md", "extending.md", "CONTRIBUTING.md") or path.parent.name == "docs"
]
FOLDERS = ("src", "scripts", "tests", "benchmarks", "docs", "recipes", "data", "launch", "accelerate_configs")


def title(path):
    return str(path.relative_to(REPOSITORY))


def prose(path):
    """A document without its code blocks."""
    return re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(path):
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def definitions(path):
    """Names that a module defines: functions, classes, their methods and attributes, constants, also as `Class.method`."""
    tree, names = ast.parse(path.read_text("utf-8")), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        if isinstance(node, ast.ClassDef):
            for child in node.body:
                if isinstance(child, ast.FunctionDef):
                    names.add(f"{node.name}.{child.name}")
                elif isinstance(child, ast.AnnAssign | ast.Assign):
                    targets = child.targets if isinstance(child, ast.Assign) else [child.target]
                    names |= {f"{node.name}.{target.id}" for target in targets if isinstance(target, ast.Name)}
    return names


def source():
    """The text of the library and the scripts, with string literals that continue on the next line joined."""
    text = "\n".join(
        path.read_text("utf-8") for root in ("src", "scripts") for path in sorted((REPOSITORY / root).rglob("*.py"))
    )
    return re.sub(r'"\s*\n\s*f?"', "", text)


def test_the_readme_is_short():
    assert len((REPOSITORY / "README.md").read_text("utf-8").splitlines()) <= 150


@pytest.mark.parametrize("path", DOCUMENTS, ids=title)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        there = (path.parent / name).resolve() if name else path
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


def test_every_page_is_in_both_indexes():
    pages = {path.name for path in (REPOSITORY / "docs").glob("*.md")} - {"README.md"}
    for index, prefix in ((REPOSITORY / "README.md", "docs/"), (REPOSITORY / "docs" / "README.md", "")):
        linked = set(re.findall(rf"\]\({prefix}([\w-]+\.md)\)", index.read_text("utf-8")))
        assert pages <= linked, index


@pytest.mark.parametrize("path", DOCUMENTS, ids=title)
def test_paths_in_backticks_exist(path):
    for word in re.findall(r"`([^`\n]+)`", prose(path)):
        for part in re.findall(rf"(?<![\w/.])(?:{'|'.join(FOLDERS)})/[\w./-]*", word):
            made_by_a_reader = re.match(r"data/(our|mimic|openi)_|runs/|docs/images", part)
            exists = (REPOSITORY / part).exists() or (REPOSITORY / "src" / "radrecipes" / part).exists()
            assert exists or made_by_a_reader or "<" in word or "*" in word, part


@pytest.mark.parametrize("path", ABOUT_CODE, ids=title)
def test_names_of_the_code_exist(path):
    """`name` in `src/…/file.py`, `file.py::name` and `test_file.py::name` are defined there."""
    text = prose(path)
    pairs = re.findall(r"`([A-Za-z_][\w.]*)(?:\(\))?` (?:in|of) (?:\[)?`([\w/]+\.py)`", text)
    pairs += [(name, file) for file, name in re.findall(r"`([\w/]+\.py)::([\w.]+)`", text)]
    for name, file in pairs:
        candidates = [REPOSITORY / file, REPOSITORY / "src" / "radrecipes" / file, REPOSITORY / "scripts" / file]
        found = next((candidate for candidate in candidates if candidate.is_file()), None)
        assert found, f"{file} does not exist"
        assert name in definitions(found), f"{name} is not in {file}"


def test_the_example_of_a_task_is_a_task():
    (block,) = re.findall(r"^```python\n(.*?)^```", (REPOSITORY / "docs/extending.md").read_text("utf-8"), re.M | re.S)
    defined = {}
    exec(block, defined)
    task = defined["PriorityTask"]()
    assert task.question(task.read_input("  fell, hip pain ")).splitlines() == [task.instruction, "fell, hip pain"]
    row = {"note": "fell, hip pain", "label": "urgent"}
    assert task.reward(row, task.target(row)) == 1 and task.categories(row) == ["urgent"]


@pytest.mark.parametrize("name", ["troubleshooting.md", "faults.md"])
def test_quoted_messages_are_those_of_the_code(name):
    text, messages = source(), (REPOSITORY / "docs" / name).read_text("utf-8")
    column = 0 if name == "troubleshooting.md" else 2
    for line in re.findall(r"^\| (.+) \|$", messages, re.MULTILINE):
        cells = line.split(" | ")
        for message in re.findall(r"`([^`]+)`", cells[column]) if len(cells) > column + 1 or column == 0 else []:
            # Values that the code fills in are left out: what is between `…`, numbers, and NaN.
            for piece in re.split(r"…|\{.*?\}|\b\d[\w.%]*|\bnan\b|\b\w+\.pt\b|checkpoint-\d+|node-\d+", message):
                piece = piece.strip(" ;?:,()")
                if len(piece) > 3 and not message.startswith(("scripts/", "kill ", "--")):
                    assert piece in text, f"{message}: {piece!r} is not in the code"


def test_the_first_change_of_a_contributor_is_complete(tmp_path, monkeypatch):
    """The example of CONTRIBUTING.md, done in a copy: its edits apply, and the tests that it names pass."""
    text = (REPOSITORY / "CONTRIBUTING.md").read_text("utf-8")
    shutil.copytree(REPOSITORY / "recipes", tmp_path / "recipes")
    shutil.copytree(REPOSITORY / "accelerate_configs", tmp_path / "accelerate_configs")
    source_file, new_file = re.search(r"^cp (\S+) (\S+)$", text, re.MULTILINE).groups()
    assert not (REPOSITORY / new_file).exists(), "the example was added: choose another one"
    shutil.copy(tmp_path / source_file, tmp_path / new_file)
    for name, block in re.findall(r"^```diff (\S+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        content = (tmp_path / name).read_text("utf-8")
        for old, new in re.findall(r"((?:^-.*\n)+)((?:^\+.*\n)+)", block, re.MULTILINE):
            old, new = (re.sub(r"^[-+]", "", part, flags=re.MULTILINE) for part in (old, new))
            # Lines that carry a comment in the file are shown without it.
            for old_line, new_line in zip(old.splitlines(), new.splitlines()[: len(old.splitlines())], strict=True):
                assert content.count(old_line) == 1, old_line
                content = content.replace(old_line, new_line)
            more = "".join(f"\n{line}" for line in new.splitlines()[len(old.splitlines()) :])
            content = content.replace(new_line, new_line + more)
        (tmp_path / name).write_text(content, encoding="utf-8")

    monkeypatch.setattr(test_recipes_folder, "REPOSITORY", tmp_path)
    monkeypatch.setattr(test_recipes_folder, "RECIPES", find_recipes(tmp_path / "recipes"))
    monkeypatch.chdir(tmp_path)
    checks = test_recipes_folder.TestEveryRecipe()
    checks.test_builds_its_configuration_objects(tmp_path / new_file)
    checks.test_header_says_model_method_task_hardware_time_and_batch(tmp_path / new_file)
    checks.test_header_and_readme_say_where_no_result_is_recorded(tmp_path / new_file)
    checks.test_second_line_is_the_command_with_its_own_path(tmp_path / new_file)
    test_recipes_folder.test_the_table_of_models_says_what_the_recipes_say()
