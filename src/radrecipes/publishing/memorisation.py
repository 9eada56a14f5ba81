"""Memorisation: how much of its output an adapter copies verbatim from its training texts."""

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from radrecipes.data.prepared import PreparedDataset
from radrecipes.inference.predictors import TextPredictor
from radrecipes.statistics import spread_evenly

# Shortest shared run that counts, in tokens: words and punctuation marks.
SHORTEST_RUN = 8
# Phrases shared by this many groups are common style; rarer ones may point to a person.
COMMON_FROM = 5
# Training rows to prompt the model with when a run is published.
ROWS = 64
_TOKEN = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class VerbatimOverlap:
    """What outputs share with training texts, except prompts, the base model's own output and common phrases.

    In tokens: `longest` is the longest shared run of each output, 0 if none reaches `SHORTEST_RUN`; `repeated` counts tokens in
    such a run and `tokens` all, over all outputs.
    """

    longest: tuple[int, ...]
    repeated: int
    tokens: int

    def figures(self) -> dict[str, Any]:
        """Plain values for a manifest."""
        return {
            "rows": len(self.longest),
            "longest_run": max(self.longest, default=0),
            "rows_with_a_run": sum(length > 0 for length in self.longest),
            "repeated_share": round(self.repeated / self.tokens, 6) if self.tokens else 0.0,
            "shortest_run": SHORTEST_RUN,
            "common_from_groups": COMMON_FROM,
        }


def verbatim_overlap(
    outputs: Sequence[str],
    training_texts: Sequence[str],
    prompts: Sequence[str],
    base_outputs: Sequence[str],
    groups: Sequence[Hashable] | None = None,
) -> VerbatimOverlap:
    """Longest runs of tokens that outputs share with a training text, but not with their prompt or the base model's output.

    Runs are found by windows of `SHORTEST_RUN` tokens, ignoring case, within one training text. A window does not count if it is in
    the output's prompt, in any output of the untuned base model to the same prompts, or in the texts of `COMMON_FROM` groups (the
    patient of each training text; by default each text is a group).
    """
    written = [_windows(text) for text in outputs]
    by_base = {window for text in base_outputs for window in _windows(text)}
    asked = [set(_windows(text)) | by_base for text in prompts]
    # Only windows of the outputs are looked up, so that memory does not grow with the training texts.
    wanted = {
        window for windows, known in zip(written, asked, strict=True) for window in windows if window not in known
    }
    places, owners = defaultdict(list), defaultdict(set)
    for number, text in enumerate(training_texts):
        for position, window in enumerate(_windows(text)):
            if window in wanted:
                places[window].append((number, position))
                owners[window].add(number if groups is None else groups[number])

    longest, repeated = [], 0
    for windows, known in zip(written, asked, strict=True):
        best, covered, runs = 0, set(), {}
        for start, window in enumerate(windows):
            found = [] if window in known or len(owners.get(window, ())) >= COMMON_FROM else places.get(window, [])
            runs = {(number, place): runs.get((number, place - 1), SHORTEST_RUN - 1) + 1 for number, place in found}
            best = max([best, *runs.values()])
            if runs:
                covered.update(range(start, start + SHORTEST_RUN))
        longest.append(best)
        repeated += len(covered)
    return VerbatimOverlap(tuple(longest), repeated, sum(len(_tokens(text)) for text in outputs))


def measure_memory(
    predictor: TextPredictor, dataset: PreparedDataset, on_progress: Callable[[int], None] | None = None
) -> VerbatimOverlap:
    """Prompt a run with `ROWS` training rows, evenly spaced, and compare its output without guard with all training texts.

    `on_progress` gets the number of answers in each batch; there are two per row, the adapter's and the base model's.
    """
    train, task = dataset.splits["train"], predictor.task
    places = spread_evenly(len(train), ROWS)
    inputs = [task.inputs(train[place]) for place in places]
    # Training left rows out that are too long, too.
    inputs = [row for row, reason in zip(inputs, predictor.refusals(inputs), strict=True) if not reason]
    outputs, by_base = (
        [text.text for text in predictor.generate(inputs, untuned=untuned, on_progress=on_progress)]
        for untuned in (False, True)
    )
    texts = [task.target(row) for row in train]
    return verbatim_overlap(outputs, texts, [task.question(row) for row in inputs], by_base, train["group"])


def _tokens(text: str) -> list[str]:
    return _TOKEN.findall(text.casefold())


def _windows(text: str) -> list[tuple[str, ...]]:
    tokens = _tokens(text)
    return list(zip(*(tokens[start:] for start in range(SHORTEST_RUN)), strict=False))
