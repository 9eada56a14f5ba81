"""`--help` of every script and subcommand, and what only looks at files, answer without importing a heavy library."""

import re
import subprocess
import sys

import pytest
from conftest import REPOSITORY

HEAVY = {
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "bitsandbytes",
    "datasets",
    "pandas",
    "sklearn",
    "scipy",
}
SUBCOMMANDS = {
    "audit_log": ["verify"],
    "bundle": [],
    "completion": [],
    "evaluate_model": [],
    "launch": [],
    "monitor": [],
    "predict": [],
    "prepare_data": ["protocol", "report", "synthetic-reports"],
    "prepare_model": [],
    "publish": ["adapter", "dataset"],
    "recipes": ["list", "cp", "check", "inspect", "plan"],
    "reproduce": ["record", "check"],
    "review": [],
    "serve": [],
    "sft": [],
}


def imported(*words):
    """Standard output of `python WORDS…`, and the top-level packages that it imported."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *words], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    modules = re.findall(r"^import time: +\d+ \| +\d+ \| +([\w.]+)$", done.stderr, re.MULTILINE)
    return done.stdout, {module.partition(".")[0] for module in modules}


def test_every_script_is_listed():
    assert {path.stem for path in (REPOSITORY / "scripts").glob("*.py")} == set(SUBCOMMANDS)


@pytest.mark.parametrize(
    "words",
    [(name, *command) for name, commands in SUBCOMMANDS.items() for command in [(), *((word,) for word in commands)]],
    ids=" ".join,
)
def test_help_imports_nothing_heavy(words):
    name, *command = words
    text, packages = imported(f"scripts/{name}.py", *command, "--help")
    assert text.startswith("usage: ")
    if not command:
        assert (
            re.findall(r"^ {4}([\w-]+)(?: \(\w+\))?(?:  .*)?$", text, re.MULTILINE) == SUBCOMMANDS[name]
        )  # and aliases
    assert "radrecipes" in packages and not packages & HEAVY


def test_recipes_are_listed_without_anything_heavy():
    text, packages = imported("scripts/recipes.py", "list")
    assert "smollm2-135m/protocol_lora" in text
    assert "radrecipes" in packages and not packages & HEAVY


def test_the_command_lists_its_verbs_without_anything_heavy():
    text, packages = imported("-c", "from radrecipes.cli import main; main()", "--help")
    assert "radrecipes COMMAND" in text
    assert not packages & (HEAVY | {"numpy", "yaml"})
