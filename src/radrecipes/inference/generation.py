"""Batched generation: what a model writes behind a prompt, up to its stop token."""

import copy
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import DynamicCache, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from radrecipes.inference.distributed import answer_batches
from radrecipes.models.lm_head import lm_head_input

_WORTH_SHARING = 4  # tokens


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


@dataclass(frozen=True)
class Sampling:
    """Drawing tokens instead of taking the most probable one.

    Args:
        temperature (`float`):
            Above 0; below 1 the probable tokens become more probable.
        seed (`int`):
            Of the draws; the same prompts in the same batches give the same texts.
    """

    temperature: float
    seed: int


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    stops: Sequence[int],
    max_new_tokens: int,
    batch_size: int = 32,
    sampling: Sampling | None = None,
    on_progress: Callable[[int], None] | None = None,
    shared: bool = False,
) -> list[Generation]:
    """Answers, batched over prompts of like length; the beginning that all prompts share is computed once.

    A batch reads `[beginning][padding][rest of the prompt]`; positions are counted from the attention mask, so padding in the
    middle changes nothing.

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
        batch_size (`int`, *optional*, defaults to `32`):
            Prompts a batch.
        sampling ([`Sampling`], *optional*):
            How to draw; left out, every token is the most probable one.
        on_progress (`Callable[[int], None]`, *optional*):
            Called after every batch with the number of prompts done in it.
        shared (`bool`, *optional*, defaults to `False`):
            All processes are here with the same prompts, and share the batches. Not where tokens are drawn: the draws of a batch
            follow those of the one before, so each process writes all.

    Returns:
        `list[Generation]`: one a prompt, in the order of `prompts`.
    """
    drawing = {"temperature": sampling.temperature, "top_k": 0} if sampling else {}
    decoding = GenerationConfig(
        do_sample=bool(sampling),
        **drawing,
        max_new_tokens=max_new_tokens,
        eos_token_id=list(stops),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    # Transformers fills what `decoding` leaves open from the model's own settings, for example a repetition penalty.
    model.generation_config = decoding
    if sampling:
        torch.manual_seed(sampling.seed)
    prefix, cache = shared_beginning(model, prompts)
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))  # longest first: memory peaks at once

    def write(batch: list[int]) -> list[Generation]:
        length = len(prompts[batch[0]])
        input_ids = torch.full((len(batch), length), tokenizer.pad_token_id)
        attention_mask = torch.zeros((len(batch), length), dtype=torch.long)
        for row, index in enumerate(batch):
            padding_end = prefix + length - len(prompts[index])
            input_ids[row, :prefix] = torch.tensor(prompts[index][:prefix], dtype=torch.long)
            attention_mask[row, :prefix] = 1
            input_ids[row, padding_end:] = torch.tensor(prompts[index][prefix:])
            attention_mask[row, padding_end:] = 1
        with torch.inference_mode():
            batch_cache = copy.deepcopy(cache)  # generation appends to it
            if batch_cache is not None:
                batch_cache.batch_repeat_interleave(len(batch))
            written = model.generate(
                input_ids=input_ids.to(model.device),
                attention_mask=attention_mask.to(model.device),
                past_key_values=batch_cache,
                generation_config=decoding,
            )
        return [_read(row[length:].tolist(), stops, tokenizer) for row in written]

    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    on_done = (lambda batch: on_progress(len(batch))) if on_progress else None
    # The last position is a strided slice, for which torch would copy the whole head once a row: 40 % of the time on a CPU.
    with lm_head_input(model, torch.Tensor.contiguous):
        written = answer_batches(batches, write, shared and not sampling, on_done)
    answers = dict(zip(order, itertools.chain.from_iterable(written), strict=True))
    return [answers[index] for index in range(len(prompts))]


def shared_beginning(model: PreTrainedModel, prompts: Sequence[list[int]]) -> tuple[int, DynamicCache | None]:
    """Length and key/value cache of what all prompts begin with; 0 and `None` where it is not worth a pass of its own."""
    if len(prompts) < 2:
        return 0, None
    # The lexicographically first and last prompt differ wherever any two do.
    pairs = zip(min(prompts), max(prompts), strict=False)
    length = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    length = min(length, min(map(len, prompts)) - 1)  # each keeps a token of its own to predict from
    if length < _WORTH_SHARING:
        return 0, None
    with torch.inference_mode():
        beginning = torch.tensor([prompts[0][:length]], device=model.device)
        cache = model(input_ids=beginning, use_cache=True).past_key_values
    return (length, cache) if isinstance(cache, DynamicCache) else (0, None)


def _read(token_ids: list[int], stops: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> Generation:
    """Cut at the first stop token; behind it stands padding."""
    end = next((index for index, token in enumerate(token_ids) if token in stops), None)
    text = tokenizer.decode(token_ids[:end], skip_special_tokens=True).strip()
    return Generation(text, end is not None, len(token_ids) if end is None else end + 1)
