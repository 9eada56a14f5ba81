"""Every command in a code block of a document, in a help text and in the header of a recipe is run.

They run in a workspace of tiny stand-ins with the documented names. Each recipe is the tiny recipe of its task, its base model
the tiny model; data/protocol_synthetic and (after `make demo-report` used the real one) data/report_synthetic are tiny datasets;
a table that a command reads is written with the columns that the command names; `hf download` provides the tiny model with
pickled weights; the Hub is the tests' own. Launch configurations for GPUs are parsed, and the script runs on the CPU. Only
checked with `make -n`: what would install, or run these tests. A command that only prints runs once in a session.
"""

import ast
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from accelerate.commands.launch import launch_command_parser
from conftest import (
    REPOSITORY,
    TINY_MODEL,
    TINY_RECIPE,
    TINY_REPORT_RECIPE,
    TINY_WRITER,
    run_script,
    write_tiny_dataset,
    write_tiny_reports,
)
from report_trees import (
    write_fhir_reports,
    write_hl7_reports,
    write_mimic,
    write_openi,
    write_report_table,
    write_text_reports,
)
from review_server import ReviewServer
from safetensors.torch import load_file
from tiny_model import build_tiny_encoder, build_tiny_model

from e2e.conftest import Called

BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
ENCODER, ENCODER_BASE = "all-minilm-l6-v2/protocol_head", "sentence-transformers/all-MiniLM-L6-v2"
LANGUAGE_MODEL = "smollm2-135m/protocol_lora"
REPORT_RECIPE = "recipes/smollm2-135m/report_lora.yaml"
REPORT_RUN = "runs/smollm2-135m/report_lora/seed-42"
DEMO_REPORT_RUN = "runs/of-make-demo-report"
ONLY_CHECKED = (
    "make test",
    "make test-all",
    "make bench",
    "make lint",
    "make clean",
    "make openi",
    "make install",
    "make model",
    "make platforms",
)
# Commands that write nothing: if several documents name one, it runs once.
ONLY_PRINTS = re.compile(
    r"python scripts/(recipes\.py |predict\.py --adapter runs/\S+ --(text|note) )(?!.*--audit-log)"
)
QUESTIONS = {"CT Head": "worst headache of life, r/o bleed", "MR Knee": "chronic knee pain, r/o meniscal tear"}


def write_pairs(path):
    """Prompt and completion pairs, twenty patients."""
    rows = [{"prompt": "Edema: 1", "completion": f"Edema number {n}.", "patient": n % 20} for n in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


# Stand-ins for the reports that a command reads; a generated tree is written by the command before.
REPORT_SOURCES = {
    "mimic-cxr": lambda root: root.exists() or root.parts[0] == "data" or write_mimic(root),
    "openi": lambda root: write_openi(root / "ecgen-radiology"),
    "jsonl": write_pairs,
    "table": write_report_table,
    "text": write_text_reports,
    "hl7": write_hl7_reports,
    "fhir": write_fhir_reports,
}


def commands_in_fences(text):
    """Command lines of the ```bash blocks, joined where they end with a backslash, without comments."""
    blocks = re.findall(r"^```(?:bash|sh|shell|console)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [command for block in blocks for command in command_lines(block)]


def command_lines(text):
    """Single commands: backslash lines joined, `&&` chains parted, comments and empty lines left out."""
    commands = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line.strip().removeprefix("$ "), comments=True)
        while "&&" in words:
            commands.append(shlex.join(words[: words.index("&&")]))
            words = words[words.index("&&") + 1 :]
        if words:
            commands.append(shlex.join(words))
    return commands


def commands_in_text(text):
    """Commands of a help text or of comment lines: the lines that begin with a program of this project."""
    joined = re.sub(r"^#+ ?", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    lines = re.findall(r"^ *((?:python scripts/|accelerate launch ).*)$", joined, re.MULTILINE)
    return [command for line in lines for command in command_lines(line)]


def documents():
    """Name and commands of every document."""
    found = {
        str(path.relative_to(REPOSITORY)): commands_in_fences(path.read_text("utf-8"))
        for pattern in ("*.md", "docs/*.md", "*/README.md", "*/*/README.md")
        for path in sorted(REPOSITORY.glob(pattern))
        if path.relative_to(REPOSITORY).parts[0] not in ("models", "runs", "tests")
    }
    for path in sorted(REPOSITORY.glob("scripts/**/*.py")):
        texts = [node.value for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Constant)]
        texts = [text for text in texts if isinstance(text, str) and "\n" in text]
        found[str(path.relative_to(REPOSITORY))] = [command for text in texts for command in commands_in_text(text)]
    for path in sorted(REPOSITORY.glob("recipes/*/*.yaml")):
        head = "\n".join(line for line in path.read_text("utf-8").splitlines() if line.startswith("#"))
        found[str(path.relative_to(REPOSITORY))] = commands_in_text(head)
    return {name: commands for name, commands in found.items() if commands}


DOCUMENTS = documents()
RECIPE_OR_RUN = re.compile(r"(recipes|runs)/[\w.-]+/(protocol|report|impression)_\w+")


def represented_by(name):
    """The document that runs a document's commands: the first that has them all in this order, whatever the recipe's name.

    One recipe of a task represents all, and a page of `docs/` the script whose help shows the same commands.
    """
    alike = {
        other: [RECIPE_OR_RUN.sub(r"\1/\2", command) for command in commands] for other, commands in DOCUMENTS.items()
    }
    part = alike[name]
    longest_first = sorted(alike, key=lambda other: -len(alike[other]))
    return next(
        other
        for other in longest_first
        if any(alike[other][start : start + len(part)] == part for start in range(len(alike[other])))
    )


@pytest.fixture(scope="module")
def printed():
    """The commands that only print and ran already."""
    return set()


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A clone of stand-ins in which `make demo` ran, also for a language model, and `make demo-report`."""
    folder = tmp_path_factory.mktemp("clone") / "clone"
    build_tiny_model(folder / "models", TINY_MODEL)
    (folder / "models" / BASE).parent.mkdir(parents=True)
    shutil.copytree(folder / "models" / TINY_MODEL, folder / "models" / BASE)
    build_tiny_encoder(folder / "models", ENCODER_BASE, max_position_embeddings=256)
    write_tiny_dataset(folder / "data" / "protocol_synthetic")
    shutil.copytree(REPOSITORY / "data" / "label_sets", folder / "data" / "label_sets")
    shutil.copytree(REPOSITORY / "data" / "report_synthetic", folder / "data" / "report_synthetic")
    report = TINY_REPORT_RECIPE.replace("data/tiny_reports", "data/report_synthetic").replace(TINY_WRITER, BASE)
    report = report.replace("max_length: 160", "max_length: 512") + "max_dropped_fraction: 0.5\nmax_steps: 2\n"
    recipes = {
        "protocol": TINY_RECIPE.replace("data/tiny", "data/protocol_synthetic").replace(
            f": {TINY_MODEL}", f": {BASE}"
        ),
        "report": report,
        "impression": report.replace("task: report", "task: impression"),
    }
    for path in REPOSITORY.glob("recipes/*/*.yaml"):
        stand_in = folder / path.relative_to(REPOSITORY)
        stand_in.parent.mkdir(parents=True, exist_ok=True)
        stand_in.write_text(recipes[path.name.partition("_")[0]], encoding="utf-8")
    shutil.copy(REPOSITORY / "recipes" / f"{ENCODER}.yaml", folder / "recipes" / f"{ENCODER}.yaml")
    for name in (
        "scripts",
        "accelerate_configs",
        "setup.cfg",
        "setup.py",
        "pyproject.toml",
        "constraints.txt",
        "Makefile",
    ):
        (folder / name).symlink_to(REPOSITORY / name)
    # The environment that runs these tests, with stamps that say it is complete: `make` must not install anything here.
    (folder / ".venv").mkdir()
    for entry in Path(sys.prefix).iterdir():
        if not entry.name.startswith("."):
            (folder / ".venv" / entry.name).symlink_to(entry)
    (folder / ".venv" / ".installed").touch()
    (folder / ".venv" / ".fetched").touch()
    made = [
        subprocess.run(["make", *words], cwd=folder, capture_output=True, text=True, timeout=300)
        for words in (
            ["demo", "EVALUATE=--encoder none"],
            ["demo", f"RECIPE=recipes/{LANGUAGE_MODEL}.yaml"],
            ["demo-report", "EVALUATE=--max-rows 3 --skip-base --tries 1"],
        )
    ]
    # From here on a tiny dataset takes the place of the real one, and a run on it that of the demo's.
    shutil.rmtree(folder / "data" / "report_synthetic")
    write_tiny_reports(folder / "data" / "report_synthetic")
    (folder / REPORT_RUN).rename(folder / DEMO_REPORT_RUN)
    trained = run_script(folder, "scripts/sft.py", "--config", REPORT_RECIPE)
    assert trained.returncode == 0, trained.stderr
    return folder, *made


def options_of(words):
    """`--key value` pairs of a command; of several values the first."""
    return {word: words[index + 1] for index, word in enumerate(words[:-1]) if word.startswith("--")}


def columns_of(words):
    """The columns that a command names, also several for one option."""
    option, named = "", []
    for word in words:
        if word.startswith("--"):
            option = word
        elif option.endswith("-column"):
            named.append(word)
    return named


def write_predicted(commands):
    """The answers and corrections that review and monitoring read, unless a command of the document writes them."""
    written = {options_of(shlex.split(command)).get("--output") for command in commands}
    for words in map(shlex.split, commands):
        if words[1:2] not in (["scripts/review.py"], ["scripts/monitor.py"]):
            continue
        read = {options_of(words).get("--input")}
        for name in words[2:]:
            if not re.fullmatch(r"\w+\.(csv|jsonl)", name) or name in written | read or Path(name).exists():
                continue
            rows = []
            for number in range(80 if words[1] == "scripts/review.py" else 600):  # as many as there are orders
                label = list(QUESTIONS)[number % 2]
                row = {"id": f"p{number}", "note": f"{20 + number % 60} yo, {QUESTIONS[label]}", "label": label}
                row |= {"probability": 0.5, "decision": "NEEDS_REVIEW" if number % 20 == 0 else "auto", "top_1": label}
                if name == "corrections.csv":
                    row |= {"decision": "accepted", "sampled": "yes"}
                if name.endswith(".jsonl"):
                    row |= {"time": f"2024-01-{1 + number // 30:02}T12:00:00+00:00"}
                rows.append(row)
            if name.endswith(".jsonl"):
                Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            else:
                pd.DataFrame(rows).to_csv(name, index=False)


def review_all(words):
    """Run the review that a document shows, and decide every row."""
    # A stand-in for another command, or of another example: here it has to be that of this review.
    for name in ("corrections.csv", "corrections.csv.journal"):
        Path(name).unlink(missing_ok=True)
    with ReviewServer(*words, cwd=Path.cwd()) as server:
        server.decide_all(lambda row: list(QUESTIONS)[int(row["id"].strip("p")) % 2])
        assert server.stop()[0] == 0


def write_tables(commands):
    """The tables and label sets that a document's commands read, each with the columns that any command names."""
    columns, notes = {}, {}
    write_predicted(commands)
    for command in commands:
        words = shlex.split(command)
        options = options_of(words)
        if options.get("--source") in REPORT_SOURCES:
            REPORT_SOURCES[options["--source"]](Path(options["--root"]))
            continue
        for option in ("--source", "--input"):
            if option in options:
                columns.setdefault(options[option], {}).update(dict.fromkeys(columns_of(words) or ["note"]))
                notes.setdefault(options[option], options.get("--text-column", "note"))
        if "--csv" in options:
            Path(options["--csv"]).write_text("text,Edema\nThere is edema.,1\nNo edema in the chest.,0\n", "utf-8")
        if "--label-set" in options and not Path(options["--label-set"]).exists():
            Path(options["--label-set"]).parent.mkdir(parents=True, exist_ok=True)
            labels = [{"name": name} for name in QUESTIONS]
            Path(options["--label-set"]).write_text(yaml.safe_dump({"name": "ours", "version": 1, "labels": labels}))
    for name, header in columns.items():
        rows = []
        for number in range(80):
            label = list(QUESTIONS)[number % 2]
            row = dict.fromkeys(header, f"p{number}")
            row |= {column: label for column in header if column in ("label", "protocol", "contrast")}
            asked = "Edema: positive" if notes[name] == "observations" else f"{20 + number} yo, {QUESTIONS[label]}"
            rows.append(row | {notes[name]: asked})
        table = pd.DataFrame(rows, columns=list(header))
        table.to_excel(name, index=False) if name.endswith(".xlsx") else table.to_csv(name, index=False)


def test_the_documentation_shows_the_way_from_a_clone_to_a_report():
    commands = "\n".join(
        command for name in DOCUMENTS if name == "README.md" or "docs/" in name for command in DOCUMENTS[name]
    )
    for part in (
        "make demo", "make install", "make bench", "scripts/prepare_data.py protocol --source", "scripts/recipes.py list",
        "scripts/recipes.py check", "scripts/recipes.py inspect", "scripts/recipes.py plan", "accelerate launch",
        "scripts/sft.py", "scripts/evaluate_model.py --run", "scripts/predict.py",
    ):  # fmt: skip
        assert part in commands, part


@pytest.mark.slow
@pytest.mark.parametrize(("place", "recipe", "trained"), [(1, ENCODER, "model"), (2, LANGUAGE_MODEL, "adapter")])
def test_make_demo_trains_evaluates_and_answers(place, recipe, trained, demo):
    folder, made = demo[0], demo[place]
    assert made.returncode == 0, made.stderr
    assert f"{trained} checked and saved" in made.stdout
    assert "words_characters_svm" in made.stdout
    page = f"runs/{recipe}/seed-42/evaluation/report.html"
    assert f"open {page} in a browser" in made.stdout.splitlines()
    assert (folder / page).is_file()
    assert "installing" not in made.stdout


@pytest.mark.slow
def test_make_demo_report_prepares_what_is_shipped_then_trains_evaluates_and_writes_a_checked_report(demo):
    folder, _, _, made = demo
    assert made.returncode == 0, made.stderr
    assert "2400 synthetic reports" in made.stdout and "(access: synthetic" in made.stdout
    assert "adapter_guarded" in made.stdout and "\ncheck: ok\n" in made.stdout
    assert f"open {REPORT_RUN}/evaluation/report.html in a browser" in made.stdout.splitlines()
    assert (folder / DEMO_REPORT_RUN / "evaluation" / "report.html").is_file()


@pytest.mark.slow
def test_make_says_one_line_for_a_fault(demo):
    folder = demo[0]
    made = subprocess.run(
        ["make", "demo", "RECIPE=none.yaml"], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert made.returncode != 0 and "Traceback" not in made.stderr
    assert (
        len([line for line in made.stderr.splitlines() if line.startswith("error: ") and "no such recipe" in line])
        == 1
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in DOCUMENTS if represented_by(name) == name])
def test_every_command_of_a_document_runs(name, demo, printed, tmp_path, monkeypatch, call, hub):
    hub.add_user("radiology", "token-that-writes", organizations=("your-org",))
    folder = tmp_path / "clone"
    shutil.copytree(demo[0], folder, symlinks=True)
    monkeypatch.chdir(folder)
    commands = DOCUMENTS[name]
    write_tables(commands)
    for command in commands:
        if ONLY_PRINTS.match(command):
            if command in printed:
                continue
            printed.add(command)
        words = shlex.split(command)
        while re.match(r"[A-Z_]+=", words[0]):
            words.pop(0)
        words[0] = words[0].removeprefix(".venv/bin/")
        run_documented(command, words, call)


@pytest.mark.parametrize("name", [name for name in DOCUMENTS if name.startswith("recipes/")])
def test_a_recipe_and_the_text_next_to_it_name_recipes_of_that_model(name):
    model = Path(name).parent
    for command in DOCUMENTS[name]:
        for recipe in re.findall(r"recipes/[\w./-]+\.yaml", command):
            assert Path(REPOSITORY, recipe).is_file() and Path(recipe).parent == model
            assert Path(name).suffix == ".md" or recipe == name


def run_documented(command, words, call):
    """Run one command, or fail if this runner does not know it."""
    if words[:2] == ["git", "clone"] or words[0] == "cd" or words[:2] == ["source", ".venv/bin/activate"]:
        return
    if words[0] == "cp":
        shutil.copy(*words[1:])
        return
    if words[:2] == ["hf", "download"]:  # no test reaches for the Hub: a stand-in whose weights are pickled
        folder = Path(options_of(words)["--local-dir"])
        shutil.copytree(Path("models", BASE), folder)
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
        return
    if words[0] == "make":
        # `make demo` ran in the fixture; of the others and of further variables the recipe lines are expanded.
        assert words[1] in ("demo", "demo-report", "demo-publish") or " ".join(words[:2]) in ONLY_CHECKED, (
            f"not covered: {command}"
        )
        expanded = subprocess.run([*words[:1], "-n", *words[1:]], cwd=REPOSITORY, capture_output=True, text=True)
        assert expanded.returncode == 0, expanded.stderr
        return
    # In this process the launcher of the project would take its place.
    if words[:2] in (["accelerate", "launch"], ["python", "scripts/launch.py"]):
        launch = launch_command_parser().parse_args(words[2:])
        assert yaml.safe_load(Path(launch.config_file).read_text("utf-8"))["num_machines"] == 1
        words = ["python", launch.training_script, *launch.training_script_args]
    if words[1].startswith("benchmarks/"):
        if words[1] == "benchmarks/learning_curve.py":  # one small run
            words += ["--recipes", f"recipes/{LANGUAGE_MODEL}.yaml", "--sizes", "all", "--seeds", "1"]
        done = subprocess.run(
            [sys.executable, REPOSITORY / words[1], *words[2:]], capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        return
    assert words[0] == "python" and re.fullmatch(r"scripts/\w+\.py", words[1]), f"not covered: {command}"
    if words[1] == "scripts/review.py":
        review_all(words[2:])
        return
    arguments = words[2:]
    if words[1] == "scripts/serve.py":
        serve_and_stop(words[1], *arguments)
        return
    if "RECIPE" in arguments:  # a placeholder of a usage line
        arguments[arguments.index("RECIPE")] = f"recipes/{LANGUAGE_MODEL}.yaml"
    if "synthetic-reports" in arguments:
        arguments += ["--patients", "150", "--studies", "300"]
    if "--seeds" in arguments:  # as few as say anything
        arguments[arguments.index("--seeds") + 1] = "2"
    if "--synthetic" in arguments:  # thousands of rows: next to the tiny dataset, not in its place
        arguments[arguments.index("--output") + 1] = "data/generated"
    if "your-org/" in command and "--dry-run" not in arguments:
        # The Hub's client reads its settings once: a process of its own knows the test's Hub.
        spoke = run_script(Path.cwd(), words[1], *arguments, HF_HUB_OFFLINE="0")
        done = Called(spoke.returncode, spoke.stdout, spoke.stderr)
    else:
        done = call(Path(words[1]).stem, *arguments)
    if "check" in arguments and "--smoke" not in arguments and "reproduce" in words[1]:
        # Two seeds of a stand-in say little about a third: any verdict will do, but there must be one.
        assert done.stdout.splitlines()[-1].startswith(("PASS: ", "FAIL: ")), f"{command}\n{done.stderr}"
        assert (
            done.code == int(done.stdout.splitlines()[-1].startswith("FAIL: "))
            and "not as published" not in done.stdout
        )
        return
    assert done.code == 0, f"{command}\n{done.stderr}"
    assert done.stdout.strip(), f"{command} said nothing"


def serve_and_stop(*words):
    """Start a server on a free port, and stop it once it serves."""
    command = [sys.executable, *words, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout.readline().startswith("serving runs/")
        server.terminate()
    assert server.returncode == 0


def test_the_runner_reads_blocks_as_a_shell_does_and_refuses_what_it_does_not_know(call):
    block = "# first\n$ python scripts/x.py --a \\\n    'b # c'   # why\nmake demo && make test\n"
    text = f"```bash\n{block}```\n\n```yaml\na: b\n```\n"
    assert commands_in_fences(text) == ["python scripts/x.py --a 'b # c'", "make demo", "make test"]
    for command in ("make everything", "curl x | sh", "pip install y", "python other.py"):
        with pytest.raises(AssertionError, match="not covered"):
            run_documented(command, shlex.split(command), call)


def test_every_script_and_launch_configuration_is_documented():
    commands = "\n".join(command for found in DOCUMENTS.values() for command in found)
    for path in REPOSITORY.glob("scripts/*.py"):
        assert f"scripts/{path.name}" in commands
    for path in REPOSITORY.glob("accelerate_configs/*.yaml"):
        assert f"accelerate_configs/{path.name} " in path.read_text("utf-8")
