"""Answers of a text task: the task checks every text before it is returned."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from radrecipes.inference.answers import MODEL, TEMPLATE, WrittenText
from radrecipes.inference.generation import Sampling
from radrecipes.inference.guard import GuardedText, guard_texts
from radrecipes.inference.predictors.predictor import Predictor
from radrecipes.tasks.text_task import TextTask

DEFAULT_TRIES = 4
# Below 1, because another attempt should differ in a word, not in a finding.
TEMPERATURE = 0.7


class TextPredictor(Predictor):
    """Predicts texts with a run's weights followed by the guard.

    The model may write `tries` times, at least once, before the task's fallback is used; other arguments as for [`Predictor`].
    """

    OPTIONS = ("tries",)
    DOES = "writes text"
    decode = "generate"
    counted_column = "written_by"
    task: TextTask

    def __init__(
        self,
        folder: str | Path,
        allow_other_weights: bool = False,
        engine: str = "transformers",
        tries: int = DEFAULT_TRIES,
    ):
        super().__init__(folder, allow_other_weights, engine)
        self.tries = tries
        self._load_model()

    def _decisive_parts(self) -> dict[str, Any]:
        return super()._decisive_parts() | {"tries": self.tries, "temperature": TEMPERATURE}

    def guard(
        self,
        inputs: Sequence[dict[str, str]],
        batch_size: int = 32,
        on_progress: Callable[[int], None] | None = None,
        *,
        first_tries: Sequence[WrittenText],
    ) -> list[GuardedText]:
        """Check what [`generate`] returned; rejected texts are sampled again, and finally replaced by the task's fallback."""

        def write_again(places: list[int], number: int) -> list[WrittenText]:
            sampling = Sampling(TEMPERATURE, seed=number)
            return self.generate([inputs[place] for place in places], batch_size, sampling=sampling)

        guarded = guard_texts(inputs, first_tries, write_again, self.task, self.tries)
        if on_progress:
            on_progress(len(inputs))
        return guarded

    def answer(
        self,
        inputs: Sequence[dict[str, str]],
        batch_size: int = 32,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[GuardedText]:
        """See [`Predictor`]: guarded texts."""
        return self.guard(inputs, batch_size, first_tries=self.generate(inputs, batch_size, on_progress))

    def summary(self, table_counts: dict[str | None, int]) -> str:
        """See [`Predictor`]."""
        written = f"{table_counts.get(MODEL, 0):,} by the model"
        if self.task.fallback_writer:
            written += f", {table_counts.get(TEMPLATE, 0):,} by {self.task.fallback_writer}"
        return written

    def as_text(self, answer: GuardedText) -> str:
        """See [`Predictor`]."""
        written = answer.written
        lines = [written.text, "", f"check: {_in_words(answer.reasons)}"]
        if written.reasons:
            lines.append(f"earlier attempts were rejected: {_in_words(written.reasons)}")
        writer = f"the model, attempt {written.tries}" if written.source == MODEL else self.task.fallback_writer
        return "\n".join([*lines, f"written by {writer}; a draft for review by a person"])

    def answer_columns(self, answers: Sequence[GuardedText]) -> dict[str, list]:
        """See [`Predictor`]: the text, `check` (`ok`, or what is wrong), `written_by` (`model` or `template`), `tries` of the
        model, and `refused`, what was wrong with the earlier attempts.
        """
        return {
            self.task.output_column: [answer.written.text for answer in answers],
            "check": [_in_words(answer.reasons) for answer in answers],
            "written_by": [answer.written.source for answer in answers],
            "tries": [str(answer.written.tries) for answer in answers],
            "refused": ["; ".join(answer.written.reasons) for answer in answers],
        }


def _in_words(reasons: Sequence[str]) -> str:
    return "; ".join(reasons) or "ok"
