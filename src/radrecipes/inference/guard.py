"""The guard: what a model wrote is relabelled and compared with the request; what fails is written again, at last by rule."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from radrecipes.inference.answers import TEMPLATE, WrittenReport
from radrecipes.radiology.consistency import ReportCheck, check_report
from radrecipes.radiology.observations import Labels
from radrecipes.radiology.template_writer import write_report
from radrecipes.tasks import ReportWritingTask

NEVER_STOPPED = "never stopped"


@dataclass(frozen=True)
class GuardedReport:
    """A report with its check.

    Args:
        report ([`WrittenReport`]):
            What is given out; `source`, `tries` and `reasons` say who wrote it, in which try, and why earlier tries were refused.
        check ([`ReportCheck`]):
            Its comparison with the request.
    """

    report: WrittenReport
    check: ReportCheck

    @property
    def reasons(self) -> list[str]:
        """Why it is refused; empty where it passes."""
        return self.check.reasons + [NEVER_STOPPED] * (not self.report.stopped)


def checked(report: WrittenReport, request: Labels, task: ReportWritingTask) -> GuardedReport:
    """A report with its check against a request of a task."""
    return GuardedReport(report, check_report(report.text, request, task.sections, task.states_all))


def guard_reports(
    requests: Sequence[Labels],
    first_tries: Sequence[WrittenReport],
    write_again: Callable[[list[int], int], list[WrittenReport]],
    task: ReportWritingTask,
    tries: int,
) -> list[GuardedReport]:
    """Take each report whose check passes; let the others be written again, and at last by the template writer.

    Args:
        requests (`Sequence[Labels]`):
            What each report must agree with.
        first_tries (`Sequence[WrittenReport]`):
            What the model wrote first.
        write_again (`Callable[[list[int], int], list[WrittenReport]]`):
            Given the places of refused reports and the number of the try (2, 3, …), lets the model write those anew.
        task ([`ReportWritingTask`]):
            Says which sections a report must have.
        tries (`int`):
            Tries of the model, the first included.

    Returns:
        `list[GuardedReport]`: one a request, in order.
    """
    taken = [checked(report, request, task) for report, request in zip(first_tries, requests, strict=True)]
    for number in range(2, tries + 2):
        refused = [place for place, candidate in enumerate(taken) if candidate.reasons]
        if not refused:
            break
        if number <= tries:
            written = write_again(refused, number)
        else:
            texts = [task.compose(*write_report(requests[place])) for place in refused]
            written = [WrittenReport(text, source=TEMPLATE) for text in texts]
        for place, report in zip(refused, written, strict=True):
            reasons = tuple(dict.fromkeys([*taken[place].report.reasons, *taken[place].reasons]))
            report = replace(report, tries=min(number, tries), reasons=reasons)
            taken[place] = checked(report, requests[place], task)
    return taken
