"""Batch layouts without padding waste: the prefix that all prompts share is computed once per row."""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
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
        rests = [len(example["input_ids"]) - prefix for example in examples]
        divided = divide_into_rows(rests, prefix, self.row_tokens, self.round_to)
        rows = [[examples[index] for index in row] for row in divided]
        length = max(prefix + sum(len(example["input_ids"]) - prefix for example in row) for row in rows)
        length = -(-length // self.round_to) * self.round_to
        input_ids = torch.full((len(rows), length), self.pad_token_id)
        labels = torch.full((len(rows), length), IGNORED)
        position_ids = torch.zeros((len(rows), length), dtype=torch.long)
        segment = torch.full((len(rows), length), -1)  # 0 for the prefix, 1, 2, … for the rests, -1 for padding
        for index, row in enumerate(rows):
            input_ids[index, :prefix] = torch.tensor(row[0]["input_ids"][:prefix], dtype=torch.long)
            position_ids[index, :prefix] = torch.arange(prefix)
            segment[index, :prefix] = 0
            start = prefix
            for number, example in enumerate(row, start=1):
                end = start + len(example["input_ids"]) - prefix
                input_ids[index, start:end] = torch.tensor(example["input_ids"][prefix:])
                labels[index, start:end] = torch.tensor(example["labels"][prefix:])
                position_ids[index, start:end] = torch.arange(prefix, prefix + end - start)
                segment[index, start:end] = number
                start = end
        visible = (segment[:, :, None] == segment[:, None, :]) | (segment[:, None, :] == 0)
        visible &= torch.ones((length, length), dtype=torch.bool).tril()
        attention_mask = torch.zeros(visible.shape, dtype=self.dtype).masked_fill_(
            ~visible, torch.finfo(self.dtype).min
        )
        return {
            "input_ids": input_ids,
            "labels": labels,
            "position_ids": position_ids,
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
        length = max(len(example["input_ids"]) for example in examples)
        input_ids = torch.full((len(examples), length), self.pad_token_id)
        labels = torch.full((len(examples), length), IGNORED)
        attention_mask = torch.zeros((len(examples), length), dtype=torch.long)
        for index, example in enumerate(examples):
            end = len(example["input_ids"])
            input_ids[index, :end] = torch.tensor(example["input_ids"])
            labels[index, :end] = torch.tensor(example["labels"])
            attention_mask[index, :end] = 1
        return {"input_ids": input_ids, "labels": labels, "attention_mask": attention_mask, **_indices(examples)}


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
