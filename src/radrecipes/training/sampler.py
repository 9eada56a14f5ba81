"""The order of the rows in an epoch, in which several processes see each row once, as one process does.

Left to itself, accelerate fills the last step of an epoch with rows from its beginning, so that all processes have as many:
those rows would count twice, and the losses would depend on the number of processes.
"""

from collections.abc import Iterator

from accelerate.data_loader import SeedableRandomSampler
from datasets import Dataset, concatenate_datasets
from torch.utils.data import Sampler

from radrecipes.training.collators import IGNORED

# What an empty row has in place of its number.
NO_ROW = -1


def with_empty_row(rows: Dataset, pad_token_id: int) -> Dataset:
    """Rows with an empty one behind the last: one token, of which nothing is learned.

    Args:
        rows ([`~datasets.Dataset`]):
            Columns `input_ids`, `labels` and `index`.
        pad_token_id (`int`):
            Its token.

    Returns:
        [`~datasets.Dataset`]
    """
    empty = {"input_ids": [[pad_token_id]], "labels": [[IGNORED]], "index": [NO_ROW]}
    return concatenate_datasets([rows, Dataset.from_dict(empty, features=rows.features)])


class EachRowOnce(Sampler[int]):
    """Row numbers in the order in which one process takes them, then the empty row until the last step is full.

    Args:
        rows (`int`):
            Rows without the empty one, whose number this is.
        step_rows (`int`):
            Rows an optimizer step, over all processes.
        seed (`int`):
            Of the order; each epoch has one of its own.
    """

    def __init__(self, rows: int, step_rows: int, seed: int):
        self.order = SeedableRandomSampler(range(rows), data_seed=seed)
        self.rows, self.fill = rows, -rows % step_rows

    def __len__(self) -> int:
        """Rows of an epoch with the empty ones."""
        return self.rows + self.fill

    def __iter__(self) -> Iterator[int]:
        """One epoch."""
        yield from self.order
        yield from [self.rows] * self.fill

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch, counted from 0."""
        self.order.set_epoch(epoch)
