"""Verbatim memory: how much of what an adapter writes it copies from its training texts."""

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from radrecipes.data.prepared import PreparedDataset
from radrecipes.inference.predictors import TextPredictor

# Tokens, words and punctuation marks alike, from which on a shared run is looked at.
SHORTEST_RUN = 8
# What stands in the texts of this many groups is how reports are written; what stands in fewer points to a person.
COMMON_FROM = 5
# Training rows that are asked for when a run is published.
ROWS = 64
_TOKEN = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class VerbatimOverlap:
    """What outputs share with training texts, prompts, the base's own outputs and common phrases left out.

    Args:
        longest (`tuple[int, ...]`):
            Tokens of the longest shared run of each output; 0 where none reaches `SHORTEST_RUN`.
        repeated (`int`):
            Tokens of all outputs that stand in such a run.
        tokens (`int`):
            Tokens of all outputs.
    """

    longest: tuple[int, ...]
    repeated: int
    tokens: int

    def figures(self) -> dict[str, Any]:
        """Plain values for a manifest: `rows`, `longest_run`, `rows_with_a_run`, `repeated_share` and how they were found."""
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
    """Longest runs of tokens that outputs share with a training text, but neither with their prompt nor with the base.

    A run is counted in windows of `SHORTEST_RUN` tokens, case ignored. A window is left out where it stands in the output's
    prompt, in anything that the base wrote, or in the texts of `COMMON_FROM` groups: "no pleural effusion or pneumothorax" is
    nobody's. A run goes on only as long as one and the same training text does.

    Args:
        outputs (`Sequence[str]`):
            What the adapter wrote.
        training_texts (`Sequence[str]`):
            All texts that it was trained to write.
        prompts (`Sequence[str]`):
            What stood before each output.
        base_outputs (`Sequence[str]`):
            What the untuned base wrote to the same prompts.
        groups (`Sequence[Hashable]`, *optional*):
            Patient of each training text; left out, each text is a group of its own.

    Returns:
        [`VerbatimOverlap`]
    """
    written = [_windows(text) for text in outputs]
    by_base = {window for text in base_outputs for window in _windows(text)}
    asked = [set(_windows(text)) | by_base for text in prompts]
    # Only windows that an output holds are looked up, so that memory does not grow with the training texts.
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
    predictor: TextPredictor,
    dataset: PreparedDataset,
    rows: int = ROWS,
    batch_size: int = 32,
    on_progress: Callable[[int], None] | None = None,
) -> VerbatimOverlap:
    """Ask a run for reports that it was trained on, and compare what it writes, unguarded, with all its training texts.

    Args:
        predictor ([`TextPredictor`]):
            The run.
        dataset ([`PreparedDataset`]):
            The dataset that it was trained on.
        rows (`int`, *optional*, defaults to 64):
            How many training rows, evenly over the split.
        batch_size (`int`, *optional*, defaults to 32):
            Rows a batch.
        on_progress (`Callable[[int], None]`, *optional*):
            Called after every batch with the number of answers in it; two a row, the adapter's and the base's.

    Returns:
        [`VerbatimOverlap`]
    """
    train, task = dataset.splits["train"], predictor.task
    places = np.linspace(0, len(train) - 1, min(rows, len(train))).round().astype(int).tolist()
    inputs = [task.inputs(train[place]) for place in places]
    outputs, by_base = (
        [text.text for text in predictor.generate(inputs, batch_size, untuned, on_progress=on_progress)]
        for untuned in (False, True)
    )
    texts = [task.target(row) for row in train]
    return verbatim_overlap(outputs, texts, [task.question(row) for row in inputs], by_base, train["group"])


def _tokens(text: str) -> list[str]:
    return _TOKEN.findall(text.casefold())


def _windows(text: str) -> list[tuple[str, ...]]:
    tokens = _tokens(text)
    return [tuple(tokens[start : start + SHORTEST_RUN]) for start in range(len(tokens) - SHORTEST_RUN + 1)]
