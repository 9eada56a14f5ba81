"""The guard: the task checks the model's texts; rejected ones are generated again, and finally replaced by the task's fallback."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from radrecipes.inference.answers import TEMPLATE, WrittenText
from radrecipes.tasks.text_task import Check, TextTask

NEVER_STOPPED = "never stopped"


@dataclass(frozen=True)
class GuardedText:
    """A text with its check; `written` records its source, the attempt, and why earlier ones were rejected."""

    written: WrittenText
    check: Check

    @property
    def reasons(self) -> list[str]:
        """Why the text is rejected; empty if it is accepted."""
        return [*self.check.reasons, *[NEVER_STOPPED] * (not self.written.stopped)]


def guard_texts(
    inputs: Sequence[Mapping[str, str]],
    first_tries: Sequence[WrittenText],
    write_again: Callable[[list[int], int], list[WrittenText]],
    task: TextTask,
    tries: int,
) -> list[GuardedText]:
    """Accept each text whose check passes; the others get `tries` attempts in all, then the task's fallback.

    `write_again` gets the indices of the rejected texts and the number of the attempt (2, 3, …). Without a fallback the last
    text is returned although it is rejected.
    """
    taken = [GuardedText(text, task.check(row, text.text)) for text, row in zip(first_tries, inputs, strict=True)]

    def take(place: int, text: WrittenText, number: int) -> None:
        earlier = taken[place].written
        reasons = tuple(dict.fromkeys([*earlier.reasons, *taken[place].reasons]))
        tokens = earlier.generated_tokens + text.generated_tokens
        text = replace(text, tries=number, reasons=reasons, generated_tokens=tokens)
        taken[place] = GuardedText(text, task.check(inputs[place], text.text))

    for number in range(2, tries + 1):
        rejected = [place for place, candidate in enumerate(taken) if candidate.reasons]
        for place, text in zip(rejected, write_again(rejected, number) if rejected else [], strict=True):
            take(place, text, number)
    for place, candidate in enumerate(taken):
        if candidate.reasons and (text := task.fallback(inputs[place])) is not None:
            take(place, WrittenText(text, source=TEMPLATE), tries)
    return taken
