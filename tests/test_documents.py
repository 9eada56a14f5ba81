"""The documents are short enough, their links lead somewhere, and what they name exists."""

import ast
import functools
import inspect
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
# What the code fills into a message.
VALUE = "\0"
# In columns of messages: options, commands, and the words of a document about them.
NO_MESSAGE = r"--[\w-]+( \w+)?$|(python |accelerate |kill |scripts/|radrecipes )"
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


def template(node):
    """The text of a string expression with `VALUE` where the code fills something in; `None` if it is not a string."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(template(part) or VALUE for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = template(node.left), template(node.right)
        return None if left is None and right is None else (left or VALUE) + (right or VALUE)
    return None


def templates(node):
    """The string expressions below a node, each as a whole, without docstrings."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return
    if (text := template(node)) is not None:
        yield text
    pieces = isinstance(node, ast.JoinedStr | ast.BinOp)
    for child in ast.iter_child_nodes(node):
        # A literal piece of a longer string is no message.
        if not (pieces and isinstance(child, ast.Constant | ast.JoinedStr)):
            yield from templates(child)


@functools.cache
def messages():
    """All string expressions of the library and the scripts, one per line."""
    paths = (path for root in ("src", "scripts") for path in sorted((REPOSITORY / root).rglob("*.py")))
    found = {text for path in paths for text in templates(ast.parse(path.read_text("utf-8")))}
    # A name that the code puts between backticks is quoted without them.
    return "\n".join(sorted(text.replace("\n", " ").replace("`", "") for text in found))


def is_message(quoted):
    """Whether the code has a message that a document quotes, from a clause's beginning to a clause's end.

    `…` and numbers are what the code fills in; a `…` at the end is also the rest of the message.
    """
    inner = quoted.removesuffix("…")
    parts = re.split(r"(…|(?<![\w.-])\d[\d.]*%?)", inner)
    pattern = "".join(f"{VALUE}(?: {VALUE})*" if number % 2 else re.escape(part) for number, part in enumerate(parts))
    begins = "" if quoted.startswith("…") else rf"(?:(?<=^)|(?<=[:;,] )|(?<={VALUE} )|(?<={VALUE}\) ))"
    ends = "" if quoted.endswith("…") else rf"(?=$|[;:.,?]| \(|{VALUE})"
    return re.search(begins + pattern + ends, messages(), re.MULTILINE) is not None


def quotations(name):
    """The messages that a page quotes in its tables; not commands, options, and names of files."""
    column = 0 if name == "troubleshooting.md" else 2
    for line in re.findall(r"^\| (.+) \|$", (REPOSITORY / "docs" / name).read_text("utf-8"), re.MULTILINE):
        cells = line.split(" | ")
        if len(cells) > max(column, 1):
            quoted = re.findall(r"`([^`]+)`", cells[column])
            yield from (text for text in quoted if " " in text and not re.match(NO_MESSAGE, text))


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
    assert task.target(row) == "urgent" and task.categories(row) == ["urgent"]


@pytest.mark.parametrize("name", ["troubleshooting.md", "faults.md"])
def test_quoted_messages_are_those_of_the_code(name):
    quoted = list(quotations(name))
    assert len(quoted) > 10
    assert [text for text in quoted if not is_message(text)] == []


@pytest.mark.parametrize("name", ["troubleshooting.md", "faults.md"])
def test_a_message_that_changed_by_one_word_is_noticed(name):
    for quoted in quotations(name):
        for word in re.finditer(r"[a-z]{2,}", quoted):
            changed = quoted[: word.start()] + "xyz" + quoted[word.end() :]
            assert not is_message(changed), changed
        assert not is_message(quoted[1:]) or quoted.startswith("…"), quoted
        assert not is_message(quoted[:-1]) or quoted.endswith("…"), quoted


def test_the_readme_names_the_commands_that_run_the_tests():
    blocks = re.findall(r"^```bash\n(.*?)^```", (REPOSITORY / "README.md").read_text("utf-8"), re.M | re.S)
    commands = {line.partition("#")[0].strip() for block in blocks for line in block.splitlines()}
    assert {"make demo", "make test", "make test-all"} <= commands


def failing_tests(recipe):
    """The tests of tests/test_recipes_folder.py that fail, each run for one recipe."""
    checks, failing = test_recipes_folder.TestEveryRecipe(), set()
    for holder in (checks, test_recipes_folder):
        for name in (name for name in dir(holder) if name.startswith("test_")):
            test = getattr(holder, name)
            given = {"path": recipe, "processes": 2}
            try:
                test(**{parameter: given[parameter] for parameter in inspect.signature(test).parameters})
            except AssertionError:
                failing.add(name)
    return failing


def apply_diff(file, block):
    """Replace the lines `-` of a diff by the lines `+`; lines that carry a comment in the file may be shown without it."""
    content = file.read_text("utf-8")
    for old, new in re.findall(r"((?:^-.*\n)+)((?:^\+.*\n)+)", block, re.MULTILINE):
        old, new = (re.sub(r"^[-+]", "", part, flags=re.MULTILINE).splitlines() for part in (old, new))
        for old_line, new_line in zip(old, new[: len(old)], strict=True):
            assert content.count(old_line) == 1, old_line
            content = content.replace(old_line, new_line)
        content = content.replace(new_line, "\n".join([new_line, *new[len(old) :]]))
    file.write_text(content, encoding="utf-8")


def test_the_first_change_of_a_contributor_is_complete(tmp_path, monkeypatch):
    """The example of CONTRIBUTING.md, done in a copy: the tests that it names fail, and pass after the last edit."""
    text = (REPOSITORY / "CONTRIBUTING.md").read_text("utf-8")
    shutil.copytree(REPOSITORY / "recipes", tmp_path / "recipes")
    shutil.copytree(REPOSITORY / "accelerate_configs", tmp_path / "accelerate_configs")
    (tmp_path / "data").symlink_to(REPOSITORY / "data")
    source_file, new_file = re.search(r"^cp (\S+) (\S+)$", text, re.MULTILINE).groups()
    assert not (REPOSITORY / new_file).exists(), "the example was added: choose another one"
    shutil.copy(tmp_path / source_file, tmp_path / new_file)
    recipe_diff, *readme_diffs = re.findall(r"^```diff (\S+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    apply_diff(tmp_path / recipe_diff[0], recipe_diff[1])

    monkeypatch.setattr(test_recipes_folder, "REPOSITORY", tmp_path)
    monkeypatch.setattr(test_recipes_folder, "RECIPES", find_recipes(tmp_path / "recipes"))
    monkeypatch.chdir(tmp_path)
    (said,) = re.findall(r"^Two tests fail, (.*?):\n", text, re.MULTILINE | re.DOTALL)
    assert failing_tests(tmp_path / new_file) == set(re.findall(r"`(test_\w+)`", said))
    for name, block in readme_diffs:
        apply_diff(tmp_path / name, block)
    assert failing_tests(tmp_path / new_file) == set()
