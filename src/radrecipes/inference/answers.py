"""What a system answered to one row: a label, or a text."""

from dataclasses import dataclass

# Sources of a written report.
MODEL = "model"
TEMPLATE = "template"


@dataclass(frozen=True)
class SystemOutput:
    """What one system answered to one row.

    Args:
        text (`str`):
            The answer as it was written.
        label (`str` or `None`):
            The canonical label that the answer names; `None` where it names none.
        stopped (`bool`, *optional*, defaults to `True`):
            Whether the system ended its answer by itself, before the limit on its length.
        generated_tokens (`int`, *optional*, defaults to 0):
            Number of generated tokens, the stop token included; 0 for a system that does not generate.
        confidence (`float` or `None`, *optional*):
            How sure the system is of its answer, on a scale of its own on which more is surer.
        top (`tuple[tuple[str, float], ...]`, *optional*, defaults to `()`):
            The most probable labels with their probabilities, descending.
        automatic (`bool` or `None`, *optional*):
            Whether the answer may be used without a look; `None` where no threshold is known.
        review_reason (`str` or `None`, *optional*):
            Why a person must look at it.
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
class WrittenReport:
    """What one system wrote for one row.

    Args:
        text (`str`):
            The report as it was written, headers included.
        stopped (`bool`, *optional*, defaults to `True`):
            Whether the system ended its report by itself, before the limit on its length.
        generated_tokens (`int`, *optional*, defaults to 0):
            Number of generated tokens, the stop token included; 0 for a system that does not generate.
        source (`str`, *optional*, defaults to `"model"`):
            `model`, or `template` where the guard fell back to the template writer.
        tries (`int`, *optional*, defaults to 1):
            How many reports the model wrote for this row.
        reasons (`tuple[str, ...]`, *optional*, defaults to `()`):
            Why the tries before this report were refused, as in [`ReportCheck.reasons`]; each reason once.
    """

    text: str
    stopped: bool = True
    generated_tokens: int = 0
    source: str = MODEL
    tries: int = 1
    reasons: tuple[str, ...] = ()
