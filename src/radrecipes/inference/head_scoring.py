"""Scores of a classification head: one pass over each prompt gives all labels."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from radrecipes.inference.distributed import map_batches
from radrecipes.inference.generation import shared_prefix
from radrecipes.inference.label_scoring import LabelScores, batches_of_similar_length, padded, rows_of_cache
from radrecipes.models.classification_head import head_at, is_encoder

_ROUND_TO = 8  # row lengths are padded to a multiple of it: oneDNN caches compiled kernels for every new shape


class HeadScorer:
    """Scores the labels of a classification head, as [`LabelScorer`] does; `order` has the head's index of each label."""

    left_out_mass = 0.0  # every label is scored

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, order: Sequence[int]):
        self.model = model
        self.pad_token_id = model.config.pad_token_id = (
            tokenizer.pad_token_id
        )  # without one Transformers refuses several rows
        self.order = list(order)
        self._encodes = is_encoder(model.config)

    def score(
        self,
        prompts: Sequence[list[int]],
        batch_size: int = 32,
        on_progress: Callable[[int], None] | None = None,
        distributed: bool = False,
    ) -> LabelScores:
        """The logarithm of each label's probability for every prompt; arguments as for [`LabelScorer.score`]."""
        places: dict[tuple[int, ...], list[int]] = {}
        for index, prompt in enumerate(prompts):
            places.setdefault(tuple(prompt), []).append(index)
        distinct = sorted(places, key=len, reverse=True)  # longest first: memory peaks first
        log_likelihoods = np.empty((len(prompts), len(self.order)))
        with torch.inference_mode():
            prefix, cache = self._prefix(distinct)
            batches = list(batches_of_similar_length(distinct, prefix, batch_size))
            scored = map_batches(
                batches,
                lambda batch: self._score_batch(batch, prefix, cache),
                distributed,
                lambda batch: on_progress(sum(len(places[prompt]) for prompt in batch)) if on_progress else None,
            )
        for batch, scores in zip(batches, scored, strict=True):
            for prompt, row in zip(batch, scores, strict=True):
                log_likelihoods[places[prompt]] = row[self.order]
        return LabelScores(log_likelihoods, np.zeros(log_likelihoods.shape, dtype=bool))

    def _prefix(self, prompts: Sequence[tuple[int, ...]]) -> tuple[int, DynamicCache | None]:
        """Length and cache of the prefix that all prompts share, if the model reads from left to right."""
        window = getattr(self.model.config.get_text_config(), "sliding_window", None)
        if self._encodes or (window and prompts and len(prompts[0]) > window):
            return 0, None
        return shared_prefix(self.model, prompts)

    def _score_batch(self, batch: Sequence[tuple[int, ...]], prefix: int, cache: DynamicCache | None) -> np.ndarray:
        """Logarithms of probabilities, shape `(prompts, labels of the head)`."""
        device = self.model.device
        rests = [prompt[prefix:] for prompt in batch]
        length = -(-max(map(len, rests)) // _ROUND_TO) * _ROUND_TO
        ends = torch.tensor([len(rest) - 1 for rest in rests], device=device)
        inputs = {
            "input_ids": torch.from_numpy(padded(rests, length, self.pad_token_id)).to(device),
            "attention_mask": (torch.arange(prefix + length, device=device) <= prefix + ends[:, None]).long(),
        }
        if self._encodes:
            logits = self.model(**inputs).logits
        else:
            if cache is not None:
                inputs["past_key_values"] = rows_of_cache(cache, [0] * len(batch), self.model)
            with head_at(self.model, ends[:, None]):
                logits = self.model(**inputs, use_cache=cache is not None).logits[:, 0]
        return logits.float().log_softmax(dim=-1).double().cpu().numpy()
