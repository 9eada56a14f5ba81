"""How a script ends: one line and an exit code for what a user can mend, a traceback for what we must."""

import pytest

from radrecipes.cli import run
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
        (OutputInUseError("held"), 5, "error: held\n"),
        (InterruptedRunError("stopped by SIGTERM"), 75, "stopped by SIGTERM\n"),
        (RadrecipesError("other"), 1, "error: other\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
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


def test_a_defect_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run(raising(ZeroDivisionError()))
