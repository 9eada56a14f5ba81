"""Where something stands in a text, told without quoting it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TextSpan:
    """A place in a text, and what stands there.

    Args:
        kind (`str`):
            What it is, or looks like, in words: `"medical record number"`, `"Hugging Face token"`.
        start (`int`):
            Offset of its first character.
        end (`int`):
            Offset behind its last character.
    """

    kind: str
    start: int
    end: int

    def overlaps(self, start: int, end: int) -> bool:
        """Whether it shares a character with another place."""
        return self.start < end and start < self.end
