"""Batched generation: what a model writes behind a prompt, up to its stop token."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Generation:
    """What a model wrote for one prompt.

    Args:
        text (`str`):
            The decoded answer, without its stop token, spaces at both ends removed.
        stopped (`bool`):
            Whether a stop token was written; `False` where the answer was cut at `max_new_tokens`.
        tokens (`int`):
            Generated tokens, the stop token included.
    """

    text: str
    stopped: bool
    tokens: int


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    stops: Sequence[int],
    max_new_tokens: int,
    batch_size: int = 64,
    on_progress: Callable[[int], None] | None = None,
) -> list[Generation]:
    """Greedy answers, batched over prompts of like length and padded on the left.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            The model, in evaluation mode; its generation settings are replaced.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer, with a padding token that is no stop token.
        prompts (`Sequence[list[int]]`):
            Token ids of the rendered prompts.
        stops (`Sequence[int]`):
            Tokens that end an answer.
        max_new_tokens (`int`):
            Longest answer in tokens.
        batch_size (`int`, *optional*, defaults to `64`):
            Prompts a batch.
        on_progress (`Callable[[int], None]`, *optional*):
            Called after every batch with the number of prompts done in it.

    Returns:
        `list[Generation]`: one a prompt, in the order of `prompts`.
    """
    decoding = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=list(stops),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    # Transformers fills what `decoding` leaves open from the model's own settings, for example a repetition penalty.
    model.generation_config = decoding
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))  # longest first: memory peaks at once
    answers: list[Generation | None] = [None] * len(prompts)
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        length = len(prompts[batch[0]])
        input_ids = torch.full((len(batch), length), tokenizer.pad_token_id)
        attention_mask = torch.zeros((len(batch), length), dtype=torch.long)
        for row, index in enumerate(batch):
            own = len(prompts[index])
            input_ids[row, length - own :] = torch.tensor(prompts[index])
            attention_mask[row, length - own :] = 1
        with torch.inference_mode():
            written = model.generate(
                input_ids=input_ids.to(model.device),
                attention_mask=attention_mask.to(model.device),
                generation_config=decoding,
            )
        for row, index in enumerate(batch):
            answers[index] = _read(written[row, length:].tolist(), stops, tokenizer)
        if on_progress:
            on_progress(len(batch))
    return answers


def _read(token_ids: list[int], stops: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> Generation:
    """Cut at the first stop token; behind it stands padding."""
    end = next((index for index, token in enumerate(token_ids) if token in stops), None)
    text = tokenizer.decode(token_ids[:end], skip_special_tokens=True).strip()
    return Generation(text, end is not None, len(token_ids) if end is None else end + 1)
