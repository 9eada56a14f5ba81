"""How a script ends: its exit code, and one line on standard error instead of a traceback."""

import os
import sys
from collections.abc import Callable

from radrecipes.errors import InterruptedRunError, RadrecipesError


def run(main: Callable[[], None]) -> None:
    """Run a script's `main` and leave with the project's exit codes.

    Args:
        main (`Callable[[], None]`):
            The script's entry point. A [`RadrecipesError`] that it raises becomes one line on standard error and the
            error's exit code; Ctrl-C becomes exit code 130.
    """
    try:
        main()
    except RadrecipesError as error:
        if not (error.met_by_all and os.environ.get("RANK", "0") != "0"):
            # Whoever stops a run made no error.
            print(f"{'' if isinstance(error, InterruptedRunError) else 'error: '}{error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def positive(text: str) -> int:
    """A whole number of at least 1, as the `type` of an argument; argparse says which argument was wrong."""
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def whole(text: str) -> int:
    """A whole number of at least 0, as the `type` of an argument; for seeds."""
    value = int(text)
    if value < 0:
        raise ValueError
    return value


def share(text: str) -> float:
    """A number between 0 and 1, both left out, as the `type` of an argument."""
    value = float(text)
    if not 0 < value < 1:
        raise ValueError
    return value
