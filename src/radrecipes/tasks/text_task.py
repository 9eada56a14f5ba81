"""Tasks whose answer is a text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

from radrecipes.tasks.task import HeadlineMetric, Task


class Check(Protocol):
    """What a check returns: a text without `reasons` is accepted."""

    @property
    def reasons(self) -> Sequence[str]:
        """Why the text is rejected, without quoting it; empty if it is accepted."""


@dataclass(frozen=True)
class TextCheck:
    """The plain form of [`Check`]: only its reasons."""

    reasons: tuple[str, ...] = ()


class TextTask(Task):
    """A task that writes text; `output_column` is its column in tables of predictions."""

    main_system = "adapter_guarded"
    hub_task = "text-generation"
    validation_metrics = ("rouge_l", "passed_rate")
    headline = (
        HeadlineMetric("passed_rate", "passes all checks"),
        HeadlineMetric("rouge_l", "ROUGE-L", hub_id="rouge"),
        HeadlineMetric("bleu", "BLEU", digits=1, largest=100.0, hub_id="bleu"),
        HeadlineMetric("distinct_2", "distinct-2", optional=True),
        HeadlineMetric("never_stopped_rate", "never stopped", lower_is_better=True),
    )
    # Whether the text stops and its check accepts it, and ROUGE-L against the row's own
    reward_names: tuple[str, ...] = ("passes", "likeness")
    output_column = "answer"
    fallback_writer: str | None = None

    def categories(self, row: Mapping[str, Any]) -> list[str]:
        """None: texts have no categories in general."""
        return []

    def check(self, inputs: Mapping[str, str], text: str) -> Check:
        """Whether a text may be returned for an input; accepts every text unless a subclass overrides it."""
        return TextCheck()

    def fallback(self, inputs: Mapping[str, str]) -> str | None:
        """The answer when the check rejects every text of the model; `None` returns the last of them."""
        return None

    def comparable(self, text: str) -> str:
        """The part of a text that ROUGE-L and BLEU compare."""
        return text

    def reference(self, row: Mapping[str, Any]) -> str:
        """The text of a dataset row that [`comparable`] texts are compared with."""
        return self.comparable(self.target(row))

    def rewards(self, row: Mapping[str, Any], text: str, stopped: bool) -> dict[str, float]:
        """How good a generated text for a dataset row is, from 0 to 1 in each of [`reward_names`]."""
        check = self.check(self.inputs(row), text)
        return {
            "passes": float(stopped and not check.reasons),
            "likeness": rouge_l(self.reference(row), self.comparable(text)),
        }


def rouge_l(reference: str, text: str) -> float:
    """ROUGE-L: F1 over the longest common subsequence of lower-case words (Lin, 2004), not stemmed; 0 if either is empty."""
    return _scorer().score(reference, text)["rougeL"].fmeasure


@cache
def _scorer():
    from rouge_score.rouge_scorer import RougeScorer  # imports nltk, which takes a second

    return RougeScorer(["rougeL"])
