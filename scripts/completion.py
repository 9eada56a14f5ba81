"""Print a script that completes commands, options, files and the names of recipes in a shell.

    python scripts/completion.py bash

Once for every new shell: `radrecipes completion bash > ~/.local/share/bash-completion/completions/radrecipes`, or for zsh
`radrecipes completion zsh > FOLDER/_radrecipes` with a FOLDER of $fpath.

Exit codes: 0 printed, 2 wrong option.
"""

import argparse
import sys
from unittest import mock

import radrecipes  # noqa: F401  (before any library: turns telemetry off)
from radrecipes.cli import COMMANDS, run, run_script
from radrecipes.recipe import find_recipes
from radrecipes.shipped import ROOT

SHELLS = ("bash", "zsh")
# Functions of the shells; NAMES are the recipes that come with the project.
_RECIPES = {
    "bash": """_radrecipes_recipe() { compgen -W "NAMES" -- "$1"; compgen -f -X '!*.yaml' -- "$1"; compgen -d -- "$1"; }""",
    "zsh": """_radrecipes_recipe() { _alternative 'shipped:recipe:(NAMES)' 'files:file:_files' }""",
}
# By what the help calls an argument.
_COMPLETED = {
    "FILE": {"bash": "_shtab_compgen_files", "zsh": "_files"},
    "RUN": {"bash": "_shtab_compgen_dirs", "zsh": "_files -/"},
    "RECIPE": dict.fromkeys(SHELLS, "_radrecipes_recipe"),
}


class _Parser(BaseException):
    """Carries a script's parser to [`parser_of`]: a script builds it just before it parses."""


def parser_of(command: str) -> argparse.ArgumentParser:
    """The parser of a command; nothing after it runs, so nothing heavy is imported."""

    def stop(parser: argparse.ArgumentParser, *words: object, **options: object) -> None:
        raise _Parser(parser)

    taken = dict.fromkeys(("parse_args", "parse_known_args", "print_help"), stop)
    with mock.patch.multiple(argparse.ArgumentParser, **taken), mock.patch.object(sys, "argv", sys.argv[:]):
        try:
            run_script(command, ["--help"])
        except _Parser as found:
            return found.args[0]
    raise AssertionError(f"{command} has no parser")


def mark_files(parser: argparse.ArgumentParser) -> None:
    """Say which arguments are files, folders or recipes."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                mark_files(command)
        elif action.metavar in _COMPLETED:
            action.complete = _COMPLETED[action.metavar]


def main() -> None:
    """Build one parser from those of all commands, and print the completion that shtab makes of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shell", choices=SHELLS, help="bash or zsh")
    shell = parser.parse_args().shell
    import shtab

    names = " ".join(path.relative_to(ROOT).as_posix() for path in find_recipes(ROOT / "recipes"))
    whole = argparse.ArgumentParser(prog="radrecipes")
    commands = whole.add_subparsers()
    for command, (_, what) in COMMANDS.items():
        found = parser if command == "completion" else parser_of(command)
        mark_files(found)
        commands.add_parser(command, parents=[found], add_help=False, help=what)
    print(
        shtab.complete(whole, shell, preamble={name: text.replace("NAMES", names) for name, text in _RECIPES.items()})
    )


if __name__ == "__main__":
    run(main)
