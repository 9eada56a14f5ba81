"""Scores of labels for prompts: every distinct prompt once, in batches of similar length, after a prefix that all of them share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel

from radrecipes.inference.distributed import map_batches

# Row lengths are padded to a multiple of it: oneDNN caches compiled kernels for every new shape.
ROUND_TO = 8


@dataclass(frozen=True)
class LabelScores:
    """Log-likelihoods of all labels for all notes.

    Args:
        log_likelihoods: Shape `(notes, labels)`, in nats, including the stop token. For a pruned label the log-likelihood of
            its branch minus the logarithm of the number of labels in it: an upper bound on their mean.
        left_out: Shape `(notes, labels)`, `True` for pruned labels, whose branch contains at most `left_out_mass`.
    """

    log_likelihoods: np.ndarray
    left_out: np.ndarray


class PromptScorer(ABC):
    """Scores a fixed list of labels with one model."""

    model: PreTrainedModel
    labels: int  # how many

    def score(
        self,
        prompts: Sequence[list[int]],
        batch_size: int = 32,
        on_progress: Callable[[int], None] | None = None,
        distributed: bool = False,
    ) -> LabelScores:
        """Score every label for every prompt.

        If `distributed`, all processes call this with the same prompts and share the batches. Raises an [`InputError`] if the
        model cannot read the longest prompt, or does not support what the scoring needs.
        """
        places: dict[tuple[int, ...], list[int]] = {}
        for index, prompt in enumerate(prompts):
            places.setdefault(tuple(prompt), []).append(index)
        distinct = sorted(places, key=len, reverse=True)  # longest first: memory peaks first
        log_likelihoods = np.empty((len(prompts), self.labels))
        left_out = np.empty(log_likelihoods.shape, dtype=bool)
        with torch.inference_mode():
            prefix, cache = self._shared(distinct)
            batches = list(batches_of_similar_length(distinct, prefix, batch_size))
            scored = map_batches(
                batches,
                lambda batch: self._score_batch(batch, prefix, cache),
                distributed,
                lambda batch: on_progress(sum(len(places[prompt]) for prompt in batch)) if on_progress else None,
            )
        for batch, scores in zip(batches, scored, strict=True):
            for row, prompt in enumerate(batch):
                log_likelihoods[places[prompt]] = scores.log_likelihoods[row]
                left_out[places[prompt]] = scores.left_out[row]
        return LabelScores(log_likelihoods, left_out)

    @abstractmethod
    def _shared(self, prompts: Sequence[tuple[int, ...]]) -> tuple[int, DynamicCache | None]:
        """Length and cache of the prefix that all prompts share; the prompts are sorted, the longest first."""

    @abstractmethod
    def _score_batch(self, batch: Sequence[tuple[int, ...]], prefix: int, cache: DynamicCache | None) -> LabelScores:
        """The scores of a batch of distinct prompts."""


def batches_of_similar_length(
    prompts: Sequence[tuple[int, ...]], prefix: int, batch_size: int
) -> Iterator[list[tuple[int, ...]]]:
    """Batches of prompts of similar length: a new one begins when padding would exceed a tenth of the batch."""
    batch, tokens = [], 0
    for prompt in prompts:  # longest first
        longest = len(batch[0]) - prefix if batch else 0
        if batch and (len(batch) == batch_size or (len(batch) + 1) * longest > 1.1 * (tokens + len(prompt) - prefix)):
            yield batch
            batch, tokens = [], 0
        batch.append(prompt)
        tokens += len(prompt) - prefix
    if batch:
        yield batch


def rows_of_cache(cache: DynamicCache | None, rows: Sequence[int], model: PreTrainedModel) -> DynamicCache:
    """A new cache with copies of the given rows, in order; empty without a cache."""
    selected = DynamicCache(config=model.config)
    if cache is not None:
        index = torch.tensor(rows, device=model.device)
        for number, layer in enumerate(cache.layers):
            selected.update(layer.keys[index], layer.values[index], number)
    return selected


def padded(rows: Sequence[Sequence[int]], length: int, value: int) -> np.ndarray:
    """Rows of at most `length` numbers as an array, filled up with `value`."""
    filled = np.full((len(rows), length), value, dtype=np.int64)
    for index, row in enumerate(rows):
        filled[index, : len(row)] = row
    return filled
