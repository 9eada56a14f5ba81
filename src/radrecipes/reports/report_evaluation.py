"""From the reports that each system wrote to the figures of `metrics.json` and the rows of `predictions.parquet`."""

from collections.abc import Sequence
from dataclasses import dataclass

from radrecipes.reports.observations import Labels

ADAPTER = "adapter"
ADAPTER_GUARDED = "adapter_guarded"
BASE = "base"
NEAREST_LABELS = "nearest_labels"
TEMPLATE_WRITER = "template_writer"

# Sources of a written report.
MODEL = "model"
TEMPLATE = "template"


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


@dataclass(frozen=True)
class ReportRows:
    """The rows that every system wrote a report for, in one order.

    Args:
        ids (`Sequence[str]`):
            Study of each row.
        groups (`Sequence[str]`):
            Patient of each row.
        requests (`Sequence[Labels]`):
            Requested observations.
        findings (`Sequence[str]`):
            Findings of the reference report.
        impressions (`Sequence[str]`):
            Impression of the reference report.
    """

    ids: Sequence[str]
    groups: Sequence[str]
    requests: Sequence[Labels]
    findings: Sequence[str]
    impressions: Sequence[str]
