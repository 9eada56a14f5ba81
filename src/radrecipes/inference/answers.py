"""What a system answered to one row: a label, or a text."""

from dataclasses import dataclass

# Sources of a written text.
MODEL = "model"
TEMPLATE = "template"


@dataclass(frozen=True)
class SystemOutput:
    """The answer of one system to one row of a label task.

    Args:
        text: The answer as written.
        label: The canonical label that it names; `None` if it names none.
        stopped: Whether the system ended its answer itself, before the limit on its length.
        generated_tokens: Including the stop token; 0 for a system that does not generate.
        confidence: On a scale of the system's own; higher is more certain.
        top: The most probable labels with their probabilities, descending.
        automatic: Whether the answer may be used without review; `None` without a threshold.
        review_reason: Why a person must review it.
    """

    text: str
    label: str | None
    stopped: bool = True
    generated_tokens: int = 0
    confidence: float | None = None
    top: tuple[tuple[str, float], ...] = ()
    automatic: bool | None = None
    review_reason: str | None = None


@dataclass(frozen=True)
class WrittenText:
    """The answer of one system to one row of a text task.

    Args:
        text: The text as written, including section headers.
        stopped: Whether the system ended its text itself, before the limit on its length.
        generated_tokens: Including the stop token; 0 for a system that does not generate.
        source: `MODEL`, or `TEMPLATE` if the guard used the task's fallback.
        tries: How many texts the model wrote for this row.
        reasons: Why the earlier tries were refused, each reason once.
    """

    text: str
    stopped: bool = True
    generated_tokens: int = 0
    source: str = MODEL
    tries: int = 1
    reasons: tuple[str, ...] = ()
