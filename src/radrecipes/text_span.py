"""A location in a text, reported without quoting it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TextSpan:
    """A location in a text, and the kind of what is there, for example `"medical record number"`."""

    kind: str
    start: int
    end: int

    def overlaps(self, start: int, end: int) -> bool:
        """Whether it shares a character with another location."""
        return self.start < end and start < self.end
