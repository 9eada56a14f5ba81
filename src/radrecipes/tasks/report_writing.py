"""Tasks that write a chest X-ray report or part of it, checked against the requested observations."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from radrecipes.radiology.consistency import FINDINGS, IMPRESSION, ReportCheck, check_report, read_sections
from radrecipes.radiology.observations import Labels, Status, parse_observations
from radrecipes.radiology.template_writer import write_report
from radrecipes.tasks.task import HeadlineMetric
from radrecipes.tasks.text_task import TextTask, rouge_l


class ReportWritingTask(TextTask):
    """A task on prepared reports; with `states_all` a text must state all that is requested positive or uncertain."""

    dataset_task = "report"
    reward_names = ("passes", "labels", "likeness")
    output_column = "report"
    fallback_writer = "the template writer"
    headline = (
        *TextTask.headline[:-1],
        HeadlineMetric("template_sentence_rate", "template sentences", lower_is_better=True, optional=True),
        HeadlineMetric("label_recall", "label recall", hub_id="recall"),
        HeadlineMetric("label_precision", "label precision", hub_id="precision"),
        HeadlineMetric("judge_finding_recall", "recall, 2nd labeller", optional=True),
        HeadlineMetric("contradiction_rate", "contradictions", lower_is_better=True),
        HeadlineMetric("judge_contradiction_rate", "contradictions, 2nd", lower_is_better=True, optional=True),
        HeadlineMetric("invented_positive_rate", "invented positives", lower_is_better=True),
        TextTask.headline[-1],
    )
    sections: tuple[str, ...]
    states_all: bool

    def target(self, row: Mapping[str, Any]) -> str:
        """The text of the row's findings and impression."""
        return self.compose(row["findings"], row["impression"])

    def categories(self, row: Mapping[str, Any]) -> list[str]:
        """The observations, each with its status."""
        return [f"{name}: {status}" for name, status in parse_observations(row["observations"]).items()]

    def rewards(self, row: Mapping[str, Any], text: str, stopped: bool) -> dict[str, float]:
        """See [`TextTask`]; `labels` is the fraction of observations, requested or stated, that the text states as requested."""
        request = self.request(self.inputs(row))
        check = self.check_against(request, text)
        stated = {
            name for found in (request, check.written) for name, status in found.items() if status != Status.NEGATIVE
        }
        return {
            "passes": float(stopped and not check.reasons),
            "labels": max(0.0, 1.0 - check.wrong_labels / max(len(stated), 1)),
            "likeness": rouge_l(self.reference(row), self.comparable(text)),
        }

    @abstractmethod
    def compose(self, findings: str, impression: str) -> str:
        """The text as the model writes it."""

    @abstractmethod
    def request(self, inputs: Mapping[str, str]) -> Labels:
        """The observations that the text must agree with."""

    def check(self, inputs: Mapping[str, str], text: str) -> ReportCheck:
        """Compare a text with the request: labels, sections, repetition, earlier studies and details."""
        return self.check_against(self.request(inputs), text)

    def check_against(self, request: Labels, text: str) -> ReportCheck:
        """[`check`] for a known request; labelling findings again costs as much as the check."""
        return check_report(text, request, self.sections, self.states_all)

    def fallback(self, inputs: Mapping[str, str]) -> str:
        """The request in fixed sentences."""
        return self.compose(*write_report(self.request(inputs)))

    def comparable(self, text: str) -> str:
        """The text without section headers, which every report shares."""
        read = read_sections(text, headless=self.sections[0])
        return f"{read[FINDINGS]} {read[IMPRESSION]}".strip()
