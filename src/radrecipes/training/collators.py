"""Batch layouts without padding waste: the prefix that all prompts share is computed once per row."""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch

IGNORED = -100
# Row length at which attention costs as much as the linear layers, measured with SmolLM2-135M on a CPU.
_ATTENTION_PARITY_TOKENS = 1260


@dataclass
class SharedPrefixCollator:
    """Puts several examples into one row, after the prefix that their prompts share.

    A row reads `[prefix][rest of example 1][rest of example 2]…`. Each rest attends to the prefix and itself, with positions that
    count from the prefix's end, so every token gets exactly the attention that it has in a row of its own. The prefix never has the
    last prompt token, whose next token differs between examples.

    Args:
        dtype: Of the additive attention mask: the model's compute dtype.
        row_tokens: Longest row to aim for. Longer rows compute the prefix less often, but attention grows with the square.
        round_to: Rows are padded to a multiple of it, because oneDNN caches kernels for every new shape (25 MB a step otherwise).
    """

    pad_token_id: int
    dtype: torch.dtype
    row_tokens: int = 384
    round_to: int = 32

    def __call__(self, examples: Sequence[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        """Lay out a batch of examples with `input_ids` and `labels`, -100 if not scored, and optionally an `index`.

        Returns:
            `input_ids`, `labels` and `position_ids` of shape `(rows, length)`, the additive `attention_mask` of shape
            `(rows, 1, length, length)`, and `index` of shape `(examples,)` if the examples have one.
        """
        examples = without_empty(examples)
        prefix = shared_prefix_length(examples)
        lengths = [len(example["input_ids"]) - prefix for example in examples]
        input_ids, labels, position_ids, segments = [], [], [], []
        for row in divide_into_rows(lengths, prefix, self.row_tokens, self.round_to):
            rests = [examples[index]["input_ids"][prefix:] for index in row]
            input_ids.append([*examples[0]["input_ids"][:prefix], *chain(*rests)])
            labels.append(
                [IGNORED] * prefix + [label for index in row for label in examples[index]["labels"][prefix:]]
            )
            position_ids.append([*range(prefix), *chain(*(range(prefix, prefix + len(rest)) for rest in rests))])
            # 0 for the prefix, 1, 2, … for the rests, -1 for padding
            segments.append([0] * prefix + [number for number, rest in enumerate(rests, 1) for _ in rest])
        length = -(-max(map(len, input_ids)) // self.round_to) * self.round_to
        segment = _filled(segments, length, -1)
        visible = (segment[:, :, None] == segment[:, None, :]) | (segment[:, None, :] == 0)
        visible &= torch.ones((length, length), dtype=torch.bool).tril()
        attention_mask = torch.zeros(visible.shape, dtype=self.dtype).masked_fill_(
            ~visible, torch.finfo(self.dtype).min
        )
        return {
            "input_ids": _filled(input_ids, length, self.pad_token_id),
            "labels": _filled(labels, length, IGNORED),
            "position_ids": _filled(position_ids, length, 0),
            "attention_mask": attention_mask[:, None],
            **_indices(examples),
        }


@dataclass
class PaddedCollator:
    """One example per row, padded on the right: for models whose attention takes no custom mask."""

    pad_token_id: int

    def __call__(self, examples: Sequence[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        """Lay out a batch: `input_ids`, `labels` and the 0/1 `attention_mask` of shape `(examples, length)`, and `index`."""
        examples = without_empty(examples)
        rows = [example["input_ids"] for example in examples]
        length = max(map(len, rows))
        return {
            "input_ids": _filled(rows, length, self.pad_token_id),
            "labels": _filled([example["labels"] for example in examples], length, IGNORED),
            "attention_mask": _filled([[1] * len(row) for row in rows], length, 0),
            **_indices(examples),
        }


def _filled(rows: Sequence[list[int]], length: int, padding: int) -> torch.Tensor:
    """Rows as a tensor of shape `(rows, length)`."""
    return torch.tensor([row + [padding] * (length - len(row)) for row in rows])


def _indices(examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    return {"index": torch.tensor([example["index"] for example in examples])} if "index" in examples[0] else {}


def without_empty(examples: Sequence[dict[str, list[int]]]) -> Sequence[dict[str, list[int]]]:
    """The examples of a batch that have scored tokens; if none has, one example, because every process needs a batch."""
    return [example for example in examples if any(label != IGNORED for label in example["labels"])] or examples[:1]


def shared_prefix_length(examples: Sequence[dict[str, list[int]]]) -> int:
    """Number of leading tokens that all examples share and that predict no scored token."""
    # The token before the first scored one predicts it, so it must stay in the example's own part.
    limit = min(
        next((index for index, label in enumerate(example["labels"]) if label != IGNORED), len(example["labels"])) - 1
        for example in examples
    )
    first = examples[0]["input_ids"]
    length = 0
    while length < limit and all(example["input_ids"][length] == first[length] for example in examples):
        length += 1
    return max(length, 0)


def divide_into_rows(lengths: Sequence[int], prefix: int, row_tokens: int, round_to: int) -> list[list[int]]:
    """The cheapest division of sequences of `lengths` (without the prefix) over rows of near-equal length, as indices per row."""
    room = max(row_tokens - prefix, max(lengths), 1)
    total, longest = sum(lengths), max(lengths)
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])

    def cost(count: int, fullest: int) -> float:
        length = -(-(prefix + fullest) // round_to) * round_to
        return count * length * (1 + length / _ATTENTION_PARITY_TOKENS)

    cheapest, lowest = [], math.inf
    for count in range(max(min(len(lengths), -(-total // room)), 1), len(lengths) + 1):
        # A lower bound on the cost with this many rows, so that most counts need not be tried.
        if cost(count, max(longest, -(-total // count))) < lowest:
            rows = _divide(lengths, order, count)
            found = cost(count, max(sum(lengths[index] for index in row) for row in rows))
            if found < lowest:
                cheapest, lowest = rows, found
    return cheapest


def _divide(lengths: Sequence[int], order: Sequence[int], count: int) -> list[list[int]]:
    """Divide over `count` rows: the longest remaining sequence goes to the shortest row, the first in a tie."""
    rows: list[list[int]] = [[] for _ in range(count)]
    shortest_first = [(0, number) for number in range(count)]
    for index in order:
        filled, number = shortest_first[0]
        rows[number].append(index)
        heapq.heapreplace(shortest_first, (filled + lengths[index], number))
    return rows
