"""Errors that a user can fix, each with the exit code that the scripts return for it."""

import reprlib
from collections.abc import Iterable

_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = _BRIEF.maxlong = 80
_BRIEF.maxlevel, _BRIEF.maxlist, _BRIEF.maxtuple, _BRIEF.maxdict = 2, 4, 4, 4


def quoted(value: object) -> str:
    """A value from outside for a message, as `repr` but always short, and with control characters escaped."""
    if isinstance(value, int) and abs(value) > 10**40:
        return "a number with more than 40 digits"
    return _BRIEF.repr(value)


def one_line(text: str) -> str:
    """A text with line breaks, control characters, and whatever else is invisible or moves a cursor escaped."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def shown(text: object, longest: int = 200) -> str:
    """Text from outside for a message: one line, cut, with control characters escaped."""
    escaped = one_line(" ".join(str(text)[: 4 * longest].split()))
    return escaped if len(escaped) <= longest else escaped[:longest] + "…"


def nearest(name: str, known: Iterable[str], cutoff: float, of_parts: bool = False) -> str | None:
    """The known name that is most like an unknown one, `None` below `cutoff` (of 100); `of_parts` also compares parts of names."""
    from rapidfuzz import fuzz, process

    scorer = fuzz.WRatio if of_parts else fuzz.ratio
    matches = process.extract(name, list(known), scorer=scorer, score_cutoff=cutoff, limit=None)
    # Parts alone favour short names: `lora_r` for `lora_modules`
    return max(matches, key=lambda match: match[1] + fuzz.ratio(name, match[0]), default=(None,))[0]


class RadrecipesError(Exception):
    """An error with a one-line message for the user; scripts print it and exit with `exit_code`.

    The message is [`one_line`], whatever names of files, columns and labels it contains.
    If every process of a run raises it at the same point (`met_by_all`), only the first one prints it.
    """

    exit_code = 1
    met_by_all = False

    def __str__(self) -> str:
        """The message on one line."""
        return one_line(super().__str__())


class InputError(RadrecipesError):
    """The recipe or input is wrong, nothing was written: says where (`recipes/x.yaml:12`), what, and how to fix it."""

    exit_code = 2

    def __init__(self, message: str, where: str | None = None):
        super().__init__(f"{where}: {message}" if where else message)


class NoCheckpointError(RadrecipesError):
    """There is no valid checkpoint to resume from."""

    exit_code = 3


class OutputInUseError(RadrecipesError):
    """Another run has locked this output folder."""

    exit_code = 5


class FullDiskError(RadrecipesError):
    """The disk is full; files that were complete before are still complete."""


class OutOfMemoryError(RadrecipesError):
    """A batch did not fit into memory."""


class LostProcessError(RadrecipesError):
    """Another process of this job is gone."""


class DivergedError(RadrecipesError):
    """The loss or the gradient is NaN or infinite."""

    exit_code = 4
    met_by_all = True


class InterruptedRunError(RadrecipesError):
    """The run stopped on request; the same command continues it. The exit code is `EX_TEMPFAIL` of sysexits.h."""

    exit_code = 75
    met_by_all = True
