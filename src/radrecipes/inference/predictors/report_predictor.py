"""Answers of a task that writes a report: every text checked against its request before it is given out."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from radrecipes.data.example import Example
from radrecipes.errors import InputError
from radrecipes.inference.answers import MODEL, TEMPLATE, WrittenReport
from radrecipes.inference.generation import Generation, Sampling
from radrecipes.inference.guard import GuardedReport, guard_reports
from radrecipes.inference.predictors.predictor import Predictor

DEFAULT_TRIES = 4
# Cooler than the model's own distribution: a second try shall differ in a word, not in a finding.
TEMPERATURE = 0.7


class ReportPredictor(Predictor):
    """Reports for inputs, by a run's adapter behind the guard.

    Args:
        folder, allow_other_weights, engine:
            As for [`Predictor`].
        tries (`int`, *optional*, defaults to 4):
            How often the model may write before the template writer does; at least 1.

    Raises:
        [`InputError`]: as [`Predictor`], or no try.
    """

    OPTIONS = ("tries",)
    decode = "generate"

    def __init__(
        self,
        folder: str | Path,
        allow_other_weights: bool = False,
        engine: str = "transformers",
        tries: int = DEFAULT_TRIES,
    ):
        super().__init__(folder, allow_other_weights, engine)
        if tries < 1:
            raise InputError(f"must be 1 or more, not {tries}", "--tries")
        self.tries = tries
        self._load_model()

    def _decisive_parts(self) -> dict[str, Any]:
        return super()._decisive_parts() | {"tries": self.tries, "temperature": TEMPERATURE}

    def write(
        self,
        inputs: Sequence[dict[str, str]],
        batch_size: int = 32,
        on_progress: Callable[[int], None] | None = None,
        untuned: bool = False,
        sampling: Sampling | None = None,
    ) -> list[WrittenReport]:
        """What the model writes, unchecked; the arguments are those of [`Predictor.generate`]."""
        return [_written(text) for text in self.generate(inputs, batch_size, untuned, sampling, on_progress)]

    def guard(
        self,
        inputs: Sequence[dict[str, str]],
        batch_size: int = 32,
        on_progress: Callable[[int], None] | None = None,
        *,
        first_tries: Sequence[WrittenReport],
    ) -> list[GuardedReport]:
        """Check what [`write`] gave; what fails is written again, drawn instead of greedily, and at last by the template writer.

        Args:
            inputs, batch_size, on_progress:
                As for [`answer`].
            first_tries (`Sequence[WrittenReport]`):
                What the model wrote to the inputs.

        Returns:
            `list[GuardedReport]`: one a row, in order.
        """

        def write_again(places: list[int], number: int) -> list[WrittenReport]:
            sampling = Sampling(TEMPERATURE, seed=number)
            return self.write([inputs[place] for place in places], batch_size, sampling=sampling)

        requests = [self.task.request(row) for row in inputs]
        guarded = guard_reports(requests, first_tries, write_again, self.task, self.tries)
        if on_progress:
            on_progress(len(inputs))
        return guarded

    def answer(
        self,
        inputs: Sequence[dict[str, str]],
        batch_size: int = 32,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[GuardedReport]:
        """See [`Predictor`]: guarded reports."""
        return self.guard(inputs, batch_size, first_tries=self.write(inputs, batch_size, on_progress))

    @property
    def counted_column(self) -> str:
        """See [`Predictor`]."""
        return "written_by"

    def summary(self, table_counts: dict[str | None, int]) -> str:
        """See [`Predictor`]."""
        return f"{table_counts.get(MODEL, 0):,} by the model, {table_counts.get(TEMPLATE, 0):,} by the template writer"

    def as_text(self, answer: GuardedReport) -> str:
        """See [`Predictor`]."""
        report = answer.report
        lines = [report.text, "", f"check: {_in_words(answer.reasons)}"]
        if report.reasons:
            lines.append(f"earlier tries were refused: {_in_words(report.reasons)}")
        writer = f"the model, try {report.tries}" if report.source == MODEL else "the template writer"
        return "\n".join([*lines, f"written by {writer}; a draft for review by a person"])

    def answers_table(
        self, examples: Sequence[Example], answers: Sequence[GuardedReport], keep_input: bool
    ) -> pa.Table:
        """See [`Predictor`]: `id`, the input where kept, `report`, `check` (`ok`, or what is wrong), `written_by` (`model` or
        `template`), `tries` of the model, and `refused`, what was wrong with the tries before."""
        columns: dict[str, list[str]] = {"id": [example.id for example in examples]}
        if keep_input:
            columns[self.task.input_column] = [example.inputs[self.task.input_column] for example in examples]
        columns["report"] = [answer.report.text for answer in answers]
        columns["check"] = [_in_words(answer.reasons) for answer in answers]
        columns["written_by"] = [answer.report.source for answer in answers]
        columns["tries"] = [str(answer.report.tries) for answer in answers]
        columns["refused"] = ["; ".join(answer.report.reasons) for answer in answers]
        return pa.table(columns, schema=pa.schema((name, pa.string()) for name in columns))


def _written(text: Generation) -> WrittenReport:
    return WrittenReport(text.text, text.stopped, text.tokens)


def _in_words(reasons: Sequence[str]) -> str:
    return "; ".join(reasons) or "ok"
