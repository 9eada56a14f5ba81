"""Batched generation up to a stop token, with a shared prefix computed once."""

import copy
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from radrecipes.inference.answers import WrittenText
from radrecipes.inference.distributed import map_batches
from radrecipes.models.base import carries_state, decoding
from radrecipes.models.lm_head import lm_head_input

_SHORTEST_SHARED_PREFIX = 4  # tokens


@dataclass(frozen=True)
class Sampling:
    """Sampling instead of greedy decoding; the same seed and batches give the same texts."""

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
    distributed: bool = False,
) -> list[WrittenText]:
    """Complete prompts in batches of similar length; the prefix that all prompts share is computed once.

    A batch is laid out as `[prefix][padding][rest of the prompt]`; positions follow from the attention mask, so padding in the
    middle changes nothing.

    Args:
        model: In evaluation mode; its generation settings are replaced.
        tokenizer: Its padding token must not be a stop token.
        stops: Token ids that end a completion.
        on_progress: Called after every batch with its number of prompts.
        distributed: All processes call this with the same prompts and share the batches; with `sampling` each process generates
            all, because the random state of a batch follows from the one before.
    """
    temperature = {"temperature": sampling.temperature, "top_k": 0} if sampling else {}
    settings = decoding(tokenizer, stops, max_new_tokens, **temperature)
    # Otherwise Transformers fills unset fields from the model's own settings, for example a repetition penalty.
    model.generation_config = settings
    if sampling:
        torch.manual_seed(sampling.seed)
    prefix, cache = shared_prefix(model, prompts)
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))  # longest first: memory peaks first

    def complete(batch: list[int]) -> list[WrittenText]:
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
            completed = model.generate(
                input_ids=input_ids.to(model.device),
                attention_mask=attention_mask.to(model.device),
                past_key_values=batch_cache,
                generation_config=settings,
            )
        return [_decode(row[length:].tolist(), stops, tokenizer) for row in completed]

    # A state would be carried on from padding into the prompt, so such a model gets prompts of one length together.
    groups = itertools.groupby(
        order, (lambda index: len(prompts[index])) if carries_state(model.config) else lambda index: 0
    )
    batches = []
    for group in [list(group) for _, group in groups]:
        batches += [group[start : start + batch_size] for start in range(0, len(group), batch_size)]
    on_done = (lambda batch: on_progress(len(batch))) if on_progress else None
    # The last position is a strided slice, for which torch would copy the LM head once per row: 40 % of the time on a CPU.
    with lm_head_input(model, torch.Tensor.contiguous):
        completed = map_batches(batches, complete, distributed and not sampling, on_done)
    answers = dict(zip(order, itertools.chain.from_iterable(completed), strict=True))
    return [answers[index] for index in range(len(prompts))]


def places_by_room(prompts: Sequence[list[int]], longest: int, positions: float) -> dict[int, list[int]]:
    """The places of prompts by the tokens that can follow: `longest`, or fewer if the model has no more positions left."""
    places: dict[int, list[int]] = {}
    for place, prompt in enumerate(prompts):
        places.setdefault(int(min(longest, positions - len(prompt))), []).append(place)
    return dict(sorted(places.items(), reverse=True))


def shared_prefix(model: PreTrainedModel, prompts: Sequence[list[int]]) -> tuple[int, DynamicCache | None]:
    """Length and key/value cache of the prefix that all prompts share; 0 and `None` if too short or not possible."""
    if len(prompts) < 2 or carries_state(model.config):
        return 0, None
    # The lexicographically first and last prompts differ at the first token where any two do.
    pairs = zip(min(prompts), max(prompts), strict=False)
    length = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    length = min(length, min(map(len, prompts)) - 1)  # each prompt keeps a token to predict from
    if length < _SHORTEST_SHARED_PREFIX:
        return 0, None
    with torch.inference_mode():
        input_ids = torch.tensor([prompts[0][:length]], device=model.device)
        cache = model(input_ids=input_ids, use_cache=True).past_key_values
    return (length, cache) if isinstance(cache, DynamicCache) else (0, None)


def _decode(token_ids: list[int], stops: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> WrittenText:
    """Cut at the first stop token; padding follows it."""
    end = next((index for index, token in enumerate(token_ids) if token in stops), None)
    text = tokenizer.decode(token_ids[:end], skip_special_tokens=True).strip()
    return WrittenText(text, end is not None, len(token_ids) if end is None else end + 1)
