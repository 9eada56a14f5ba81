"""Errors that a user can mend, each with the exit code that the scripts return for it."""


class RadrecipesError(Exception):
    """An error with one clear line for the user. Scripts print that line and exit with `exit_code`."""

    exit_code = 1


class InputError(RadrecipesError):
    """The recipe or the input is wrong; nothing was written.

    Args:
        message (`str`):
            One line that names the file, line, row or key, and the mend.
        where (`str`, *optional*):
            Where the fault stands, for example `recipes/x.yaml:12`; printed before the message.
    """

    exit_code = 2

    def __init__(self, message: str, where: str | None = None):
        super().__init__(f"{where}: {message}" if where else message)


class NoCheckpointError(RadrecipesError):
    """There is no valid checkpoint to resume from."""

    exit_code = 3


class OutputInUseError(RadrecipesError):
    """Another run holds this output folder."""

    exit_code = 5
