"""The `radrecipes` command, and how every script ends: an exit code, and a line on standard error, not a traceback."""

import argparse
import io
import os
import re
import sys
import types
from collections.abc import Callable
from typing import NoReturn

from radrecipes import __version__
from radrecipes.errors import InputError, InterruptedRunError, RadrecipesError, one_line
from radrecipes.shipped import ROOT

# Command -> script, and what it does.
COMMANDS = {
    "recipes": ("recipes", "list, check and inspect recipes, and plan what they cost"),
    "prepare": ("prepare_data", "make a dataset from a table of orders or a folder of reports"),
    "prepare-model": ("prepare_model", "put the default base model into models/"),
    "train": ("sft", "fine-tune a model with a recipe"),
    "evaluate": ("evaluate_model", "evaluate a trained model, or the base model, on a test split"),
    "predict": ("predict", "predict labels or write texts for new rows"),
    "serve": ("serve", "answer over HTTP, FHIR and HL7 with a model that stays loaded"),
    "review": ("review", "review predicted rows on a local page; decisions become training rows"),
    "monitor": ("monitor", "compare answers of current orders with those of a reference period"),
    "publish": ("publish", "publish a model or a dataset on the Hugging Face Hub"),
    "reproduce": ("reproduce", "train and evaluate again, and compare with recorded results"),
    "audit-log": ("audit_log", "verify the audit log of predictions"),
    "launch": ("launch", "start a script on one or several processes, like `accelerate launch`"),
    "bundle": ("bundle", "write a folder that installs, trains and predicts without a network"),
    "completion": ("completion", "print a script that completes these commands in a shell"),
}
_CLOSED_PIPE = 141  # what a shell says of a program that writes to nobody
# Names of scripts, and earlier names of commands.
_ALIASES = {"prepare-data": "prepare", "sft": "train", "evaluate-model": "evaluate"}


def main() -> None:
    """`radrecipes COMMAND …`: run the command's script with the remaining arguments in this process."""
    run(_run_command)


def _run_command() -> None:
    command, *words = sys.argv[1:] or ["--help"]
    if command in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        lines = [f"  {name:{width}}  {what}" for name, (_, what) in COMMANDS.items()]
        print(
            "usage: radrecipes COMMAND [ARGUMENT ...]\n",
            *lines,
            "\nradrecipes COMMAND --help lists the arguments; radrecipes --version prints the version.",
            sep="\n",
        )
        return
    if command == "--version":
        print(f"radrecipes {__version__}")
        return
    command = command.replace("_", "-")
    command = _ALIASES.get(command, command)
    if command not in COMMANDS:
        raise InputError(f"unknown command `{command}`; use one of {', '.join(COMMANDS)}", "radrecipes")
    run_script(command, words)


def run_script(command: str, words: list[str]) -> None:
    """Run the script of a command in this process, as Python runs a file."""
    name, _ = COMMANDS[command]
    script = ROOT / "scripts" / f"{name}.py"
    if not script.is_file():
        raise InputError(f"scripts/{name}.py is missing; install the package again", "radrecipes")
    sys.argv = [f"radrecipes {command}", *words]
    sys.path[0] = str(script.parent)  # as Python does for a script
    # Not `runpy.run_path`, which sets sys.argv[0], and so the program's name in `--help`, to the file.
    sys.modules["__main__"] = script_module = types.ModuleType("__main__")
    script_module.__file__ = str(script)
    exec(compile(script.read_text(encoding="utf-8"), str(script), "exec"), vars(script_module))


class _Terminal(io.TextIOWrapper):
    """Standard output or error on which no name or text can move the cursor, change colours or reorder a line.

    What it cannot print is escaped: control characters except tab and line ends, and characters that the console's encoding lacks.
    """

    # Also the marks that change the direction of writing, and Unicode's own line ends.
    _CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
    # What tqdm writes to get from the line of one bar to that of another.
    _BETWEEN_BARS = re.compile(r"[\r\n]*(?:\x1b\[A)*")

    def write(self, text: str) -> int:
        if not self._BETWEEN_BARS.fullmatch(text):
            text = self._CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)
        return super().write(text)


def _escape_output() -> None:
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if type(stream) is io.TextIOWrapper:  # not what a test or a notebook put there
            stream.reconfigure(errors="backslashreplace")  # handlers of logs may hold it
            stream.flush()
            options = {"line_buffering": stream.line_buffering, "write_through": stream.write_through}
            setattr(sys, name, _Terminal(stream.buffer, stream.encoding, "backslashreplace", **options))


def run(main: Callable[[], None]) -> None:
    """Run a script's `main` and exit with the project's exit codes, after a line on standard error instead of a traceback."""
    _escape_output()
    try:
        main()
    except RadrecipesError as error:
        if not (error.met_by_all and os.environ.get("RANK", "0") != "0"):
            # Stopping a run is not an error.
            print(f"{'' if isinstance(error, InterruptedRunError) else 'error: '}{error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        extra = _extra_with(error.name or "")
        if extra is None:
            raise
        print(f'error: {error.name} is not installed; pip install "radrecipes[{extra}]"', file=sys.stderr)
        sys.exit(InputError.exit_code)
    except OSError as error:
        # Of the file system or the network, which can fail at any time; some kinds have no reason.
        if error.strerror is None:
            raise
        _end_with(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    finally:
        _flush_output()


def _end_with(error: OSError) -> NoReturn:
    if isinstance(error, BrokenPipeError):  # nobody reads on, which is no error
        sys.exit(_CLOSED_PIPE)
    place = "" if error.filename is None else f"{one_line(str(error.filename))}: "  # a full disk has no file
    print(f"error: {place}{error.strerror}", file=sys.stderr)
    sys.exit(1)


def _flush_output() -> None:
    """Write what is still to be printed, which Python itself would do too late to end with a line."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python would try again
        if not getattr(error.__context__, "code", error.__context__):  # otherwise an error has been printed
            _end_with(error)


def _extra_with(module: str) -> str | None:
    """The extra of setup.cfg that installs a module; `None` if none does."""
    from importlib.metadata import PackageNotFoundError, requires

    name = re.sub(r"[._]+", "-", module.partition(".")[0])
    try:
        lines = requires("radrecipes") or ()
    except PackageNotFoundError:  # run from a checkout that is not installed
        return None
    # A package may have a longer name than its module: cyclonedx-python-lib.
    found = (re.fullmatch(rf"{name}\b[^;\[]*;.*extra == ['\"]([a-z]+)['\"].*", line) for line in lines)
    return next((match[1] for match in found if match), None)


def positive(text: str) -> int:
    """Argparse `type`: an integer of at least 1."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def non_negative(text: str) -> int:
    """Argparse `type`: an integer of at least 0."""
    if int(text) < 0:
        raise ValueError
    return int(text)


def fraction(text: str) -> float:
    """Argparse `type`: a number between 0 and 1, exclusive."""
    if not 0 < float(text) < 1:
        raise ValueError
    return float(text)


def add_answer_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that name a finished run and decide how it answers."""
    about = "folder of a finished run, or org/name@v1.0"
    parser.add_argument("--adapter", "--run", required=True, metavar="RUN", help=about)
    parser.add_argument("--label-set", metavar="FILE", help="labels: a label set that adds labels to the run's")
    parser.add_argument(
        "--target-accuracy",
        type=fraction,
        help="labels: use the threshold for this accuracy (default: that of the evaluation)",
    )
    parser.add_argument("--tries", type=positive, help="texts: attempts before the fallback text is used (default: 4)")
    parser.add_argument(
        "--allow-other-weights",
        action="store_true",
        help="use the base model even if its weights differ from those in training",
    )


# How a table is written, by the names of the fields of `data.sources.table_form.TableForm`.
_TABLE_FORM = (
    ("delimiter", str, "CHARACTER", "between the cells of a text file: a character, or comma, semicolon, tab or pipe"),
    ("encoding", str, "NAME", "of a text file, for example cp1252, cp1250, mac_roman or utf-16"),
    ("skip_rows", int, "N", "lines above the header, for example titles"),
    ("skip_footer", int, "N", "rows at the foot that are no rows, for example a total; 0 keeps all"),
    ("sheet", str, "NAME", "of an Excel file, or its number (default: the first)"),
)


def add_table_form(parser: argparse.ArgumentParser, of: str) -> None:
    """Add the options that say how a table is written; `of` is the option that names it."""
    group = parser.add_argument_group(
        f"how {of} is written", "What is not given is detected, and said if it is not the usual form."
    )
    for name, kind, metavar, meaning in _TABLE_FORM:
        group.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar=metavar, help=meaning)


def table_form(args: argparse.Namespace) -> dict[str, str | int | None]:
    """The values of [`add_table_form`]'s options by name."""
    return {name: vars(args)[name] for name, *_ in _TABLE_FORM}
