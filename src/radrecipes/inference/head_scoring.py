"""Scores of a classification head: one pass over each prompt gives all labels."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from radrecipes.inference.generation import shared_prefix
from radrecipes.inference.prompt_scorer import ROUND_TO, LabelScores, PromptScorer, padded, rows_of_cache
from radrecipes.models.classification_head import head_at, is_encoder


class HeadScorer(PromptScorer):
    """The logarithms of the probabilities that a classification head gives; `order` has the head's index of each label."""

    left_out_mass = 0.0  # every label is scored

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, order: Sequence[int]):
        self.model = model
        # Without one Transformers refuses several rows.
        self.pad_token_id = model.config.pad_token_id = tokenizer.pad_token_id
        self.order, self.labels = list(order), len(order)
        self._encodes = is_encoder(model.config)

    def _shared(self, prompts: Sequence[tuple[int, ...]]) -> tuple[int, DynamicCache | None]:
        window = getattr(self.model.config.get_text_config(), "sliding_window", None)
        # An encoder reads in both directions.
        if self._encodes or (window and prompts and len(prompts[0]) > window):
            return 0, None
        return shared_prefix(self.model, prompts)

    def _score_batch(self, batch: Sequence[tuple[int, ...]], prefix: int, cache: DynamicCache | None) -> LabelScores:
        device = self.model.device
        rests = [prompt[prefix:] for prompt in batch]
        length = -(-max(map(len, rests)) // ROUND_TO) * ROUND_TO
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
        logarithms = logits.float().log_softmax(dim=-1).double().cpu().numpy()[:, self.order]
        return LabelScores(logarithms, np.zeros(logarithms.shape, dtype=bool))
