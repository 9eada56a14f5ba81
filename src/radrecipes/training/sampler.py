"""The order of the rows in an epoch: several processes together see each row once, as one process does.

By default accelerate fills an epoch's last step with rows from its beginning, so losses would depend on the number of processes.
"""

from collections.abc import Iterator

from accelerate.data_loader import SeedableRandomSampler
from datasets import Dataset, concatenate_datasets
from torch.utils.data import Sampler

from radrecipes.training.collators import IGNORED

# The index of an empty row.
NO_ROW = -1


def with_empty_row(rows: Dataset, pad_token_id: int) -> Dataset:
    """Append an empty row to rows with columns `input_ids`, `labels` and `index`: one padding token without loss."""
    empty = {"input_ids": [[pad_token_id]], "labels": [[IGNORED]], "index": [NO_ROW]}
    return concatenate_datasets([rows, Dataset.from_dict(empty, features=rows.features)])


class EpochSampler(Sampler[int]):
    """Numbers of `rows` rows in the order that one process uses, then the empty row, numbered `rows`, until the last step is full.

    A step takes `step_rows` rows over all processes; the order differs between epochs.
    """

    def __init__(self, rows: int, step_rows: int, seed: int):
        self.order = SeedableRandomSampler(range(rows), data_seed=seed)
        self.rows, self.fill = rows, -rows % step_rows

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
