"""Texts in and logits out of a base model with a head over labels: tokens, batches of similar length, predictions.

[`~models.base.load_base`] loads such a model if it gets labels, [`~models.base.load_tokenizer`] its tokenizer.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from transformers import DataCollatorWithPadding, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

# Of what a tokenizer says if it has no limit
_UNLIMITED = 10**9


def longest_input(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> int | None:
    """Tokens that the model reads at most; `None` if neither the tokenizer nor the model has a limit."""
    limits = [tokenizer.model_max_length, getattr(config, "max_position_embeddings", None)]
    return min((int(limit) for limit in limits if limit and limit < _UNLIMITED), default=None)


def token_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], longest: int | None) -> list[list[int]]:
    """Token ids of texts with the model's own special tokens, the end cut off beyond `longest` tokens."""
    options = {"truncation": True, "max_length": longest} if longest else {}
    encoded = tokenizer(list(texts), return_attention_mask=False, return_token_type_ids=False, **options)
    return encoded["input_ids"]


def batches_by_length(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Places of rows in batches of similar length, which need little padding; the longest first, so that memory peaks first."""
    order = sorted(range(len(lengths)), key=lambda place: (-lengths[place], place))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def padded_batch(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Sequence[int]], device: torch.device
) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask` of rows of token ids, padded to the longest of them."""
    features = [{"input_ids": list(row)} for row in rows]
    return {name: tensor.to(device) for name, tensor in DataCollatorWithPadding(tokenizer)(features).items()}


def predict_logits(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Sequence[int]],
    batch_size: int = 32,
    on_progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Logits of shape `(rows, labels)` for rows of token ids, in float64; `on_progress` gets the rows of each finished batch."""
    logits = np.empty((len(rows), model.config.num_labels))
    model.eval()
    with torch.inference_mode():
        for places in batches_by_length([len(row) for row in rows], batch_size):
            batch = padded_batch(tokenizer, [rows[place] for place in places], model.device)
            logits[places] = model(**batch).logits.double().cpu().numpy()
            if on_progress:
                on_progress(len(places))
    return logits
