"""What a system answered for one row: a label or a text."""

from dataclasses import dataclass

# Sources of a text.
MODEL = "model"
TEMPLATE = "template"


@dataclass(frozen=True)
class SystemOutput:
    """The answer of one system to one row of a label task."""

    text: str
    label: str | None  # the canonical label that `text` names; None if it names none
    stopped: bool = True  # whether the system ended its answer itself, before the length limit
    generated_tokens: int = 0  # including the stop token; 0 for a system that does not generate
    confidence: float | None = None  # on the system's own scale; higher is more certain
    top: tuple[tuple[str, float], ...] = ()  # the most probable labels with their probabilities, descending
    automatic: bool | None = None  # whether it may be used without review; None without a threshold
    review_reason: str | None = None


@dataclass(frozen=True)
class WrittenText:
    """The answer of one system to one row of a text task, or a text that a model generated."""

    text: str  # of a model: without the stop token, stripped
    stopped: bool = True  # as in `SystemOutput`
    generated_tokens: int = 0
    source: str = MODEL  # or `TEMPLATE` if the guard used the task's fallback
    tries: int = 1  # how many texts the model wrote for this row
    reasons: tuple[str, ...] = ()  # why the earlier texts were rejected, each reason once
