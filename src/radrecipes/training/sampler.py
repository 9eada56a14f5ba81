"""The order of the rows in an epoch: several processes together see each row once, as one process does.

By default accelerate fills an epoch's last step with rows from its beginning, so losses would depend on the number of processes.
"""

from collections.abc import Iterator, Sequence

import torch
from accelerate.data_loader import SeedableRandomSampler
from datasets import Dataset, concatenate_datasets
from torch.utils.data import Sampler

from radrecipes.training.collators import IGNORED

# The index of an empty row.
NO_ROW = -1
# Steps whose rows are sorted together: more leave less padding, and fewer ways to put the rows together.
_SORTED_STEPS = 50


def with_empty_row(rows: Dataset, pad_token_id: int) -> Dataset:
    """Append an empty row to rows with columns `input_ids`, `labels` and `index`: one padding token without loss."""
    empty = {"input_ids": [[pad_token_id]], "labels": [[IGNORED]], "index": [NO_ROW]}
    return concatenate_datasets([rows, Dataset.from_dict(empty, features=rows.features)])


class SimilarLengthSampler(SeedableRandomSampler):
    """Numbers of rows in a random order in which the rows of a step have similar lengths, so that little of it is padding."""

    def __init__(self, lengths: Sequence[int], step_rows: int, seed: int):
        super().__init__(range(len(lengths)), data_seed=seed)
        self.lengths, self.step_rows = lengths, step_rows

    def __iter__(self) -> Iterator[int]:
        """One epoch; a last step that is incomplete stays the last one."""
        order = list(super().__iter__())
        steps = []
        for start in range(0, len(order), _SORTED_STEPS * self.step_rows):
            rows = order[start : start + _SORTED_STEPS * self.step_rows]
            rest = len(rows) % self.step_rows
            whole = sorted(rows[: len(rows) - rest], key=self.lengths.__getitem__)
            steps += [whole[place : place + self.step_rows] for place in range(0, len(whole), self.step_rows)]
        for step in torch.randperm(len(steps), generator=self.generator).tolist():
            yield from steps[step]
        yield from order[len(order) - len(order) % self.step_rows :]


class EpochSampler(Sampler[int]):
    """Numbers of rows in the order that one process uses, then the empty row, which follows them, until the last step is full.

    A step takes `step_rows` rows over all processes; the order differs between epochs.
    """

    def __init__(self, order: SeedableRandomSampler, step_rows: int):
        self.order, self.rows = order, len(order)
        self.fill = -self.rows % step_rows

    def __len__(self) -> int:
        """Rows of an epoch, including empty ones."""
        return self.rows + self.fill

    def __iter__(self) -> Iterator[int]:
        """One epoch."""
        yield from self.order
        yield from [self.rows] * self.fill

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch, counted from 0."""
        self.order.set_epoch(epoch)
