"""Batched generation up to a stop token, with a shared prefix computed once."""

import contextlib
import copy
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

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


class DrawToken(LogitsProcessor):
    """Leaves one token to each text, drawn from its distribution at a temperature, so that greedy decoding takes it.

    The draw is an inverse transform with one random number a text. `torch.multinomial` draws one for each token of the vocabulary,
    which is a quarter of the time on a CPU.
    """

    def __init__(self, temperature: float):
        self.temperature = temperature

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """`scores` of shape `(texts, vocabulary)`: 0 for the drawn token, otherwise -inf."""
        cumulative = (scores.float() / self.temperature).softmax(-1).cumsum(-1)
        # Times the last sum, which rounding leaves a little beside 1
        at = torch.rand(len(scores), 1, device=scores.device) * cumulative[:, -1:]
        drawn = torch.searchsorted(cumulative, at, right=True).clamp(max=scores.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(1, drawn, 0.0)


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
    """The text that completes each prompt, shorter where the model has no more positions; arguments as for [`generate_ids`]."""
    places: dict[int, list[int]] = {}  # by the tokens that can follow
    for place, prompt in enumerate(prompts):
        places.setdefault(int(min(max_new_tokens, positions_of(model.config) - len(prompt))), []).append(place)
    written: dict[int, WrittenText] = {}
    for room in sorted(places, reverse=True):
        of_room = [prompts[place] for place in places[room]]
        completions = generate_ids(
            model, tokenizer, of_room, stops, room, batch_size, sampling, on_progress, distributed
        )
        texts = [as_text(token_ids, stops, tokenizer) for (token_ids,) in completions]
        written.update(zip(places[room], texts, strict=True))
    return [written[place] for place in range(len(prompts))]


def generate_ids(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    stops: Sequence[int],
    max_new_tokens: int,
    batch_size: int = 32,
    sampling: Sampling | None = None,
    on_progress: Callable[[int], None] | None = None,
    distributed: bool = False,
    samples: int = 1,
) -> list[list[list[int]]]:
    """Complete prompts in batches of similar length; the prefix that all prompts share is computed once.

    A batch is laid out as `[prefix][padding][rest of the prompt]`; positions follow from the attention mask, so padding in the
    middle changes nothing.

    Args:
        model: In evaluation mode; its generation settings are replaced.
        tokenizer: Its padding token must not be a stop token.
        stops: Token ids that end a completion.
        batch_size: Completions that are generated together.
        on_progress: Called after every batch with its number of prompts.
        distributed: All processes call this with the same prompts and share the batches; with `sampling` each process generates
            all, because the random state of a batch follows from the one before.
        samples: Completions of each prompt, which is computed once for all of them.

    Returns:
        For each prompt the token ids of its completions, each with its stop token if it has one.
    """
    settings = decoding(tokenizer, stops, max_new_tokens)
    if sampling:
        torch.manual_seed(sampling.seed)
    prefix, cache = shared_prefix(model, prompts)
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))  # longest first: memory peaks first

    def complete(batch: list[int]) -> list[list[list[int]]]:
        input_ids, attention_mask = _padded([prompts[index] for index in batch], prefix, tokenizer.pad_token_id)
        input_ids, attention_mask = input_ids.to(model.device), attention_mask.to(model.device)
        with torch.inference_mode():
            batch_cache = copy.deepcopy(cache)  # generation appends to it
            if batch_cache is not None:
                batch_cache.batch_repeat_interleave(len(batch))
            if samples > 1:
                batch_cache = _prompts_cache(model, input_ids, attention_mask, prefix, batch_cache)
                if batch_cache is not None:
                    batch_cache.batch_repeat_interleave(samples)
                input_ids, attention_mask = (it.repeat_interleave(samples, 0) for it in (input_ids, attention_mask))
            completed = model.generate(
                input_ids=input_ids,
                attention_mask=attention_mask,
                past_key_values=batch_cache,
                generation_config=settings,
                logits_processor=[DrawToken(sampling.temperature)] if sampling else [],
            )
        rows = [_up_to_stop(row.tolist(), stops) for row in completed[:, input_ids.shape[1] :]]
        return [rows[start : start + samples] for start in range(0, len(rows), samples)]

    # A state would be carried on from padding into the prompt, so such a model gets prompts of one length together.
    groups = itertools.groupby(
        order, (lambda index: len(prompts[index])) if carries_state(model.config) else lambda index: 0
    )
    batches, at_once = [], max(batch_size // samples, 1)
    for group in [list(group) for _, group in groups]:
        batches += [group[start : start + at_once] for start in range(0, len(group), at_once)]
    on_done = (lambda batch: on_progress(len(batch))) if on_progress else None
    # The last position is a strided slice, for which torch would copy the LM head once per row: 40 % of the time on a CPU.
    with _generation_config(model, settings), lm_head_input(model, torch.Tensor.contiguous):
        completed = map_batches(batches, complete, distributed and not sampling, on_done)
    answers = dict(zip(order, itertools.chain.from_iterable(completed), strict=True))
    return [answers[index] for index in range(len(prompts))]


def _padded(prompts: Sequence[list[int]], prefix: int, pad_token_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask of a batch of prompts, the longest first: `[prefix][padding][rest of the prompt]`."""
    length = len(prompts[0])
    input_ids = torch.full((len(prompts), length), pad_token_id)
    attention_mask = torch.zeros((len(prompts), length), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        padding_end = prefix + length - len(prompt)
        input_ids[row, :prefix] = torch.tensor(prompt[:prefix], dtype=torch.long)
        attention_mask[row, :prefix] = 1
        input_ids[row, padding_end:] = torch.tensor(prompt[prefix:])
        attention_mask[row, padding_end:] = 1
    return input_ids, attention_mask


def _prompts_cache(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    prefix: int,
    cache: DynamicCache | None,
) -> DynamicCache | None:
    """The cache of a batch's prompts without their last token, from that of their `prefix`; `None` if there is none."""
    end = input_ids.shape[1] - 1
    if carries_state(model.config) or end <= prefix:
        return cache
    positions = (attention_mask.cumsum(1) - 1).clamp(min=0)[:, prefix:end]
    found = model(
        input_ids=input_ids[:, prefix:end],
        attention_mask=attention_mask[:, :end],
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).past_key_values
    return found if isinstance(found, DynamicCache) else None


def positions_of(config: PreTrainedConfig) -> float:
    """Tokens that a model reads at most, prompt and answer together."""
    return getattr(config, "max_position_embeddings", None) or math.inf


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


def as_text(token_ids: Sequence[int], stops: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> WrittenText:
    """A completion as text, without its stop token."""
    stopped = bool(token_ids) and token_ids[-1] in stops
    text = tokenizer.decode(token_ids[:-1] if stopped else token_ids, skip_special_tokens=True).strip()
    return WrittenText(text, stopped, len(token_ids))


@contextlib.contextmanager
def _generation_config(model: PreTrainedModel, settings: GenerationConfig) -> Iterator[None]:
    """Replace a model's own settings for a while.

    Transformers fills unset fields from them, for example a repetition penalty; a checkpoint of all weights saves them.
    """
    own = model.generation_config
    model.generation_config = settings
    try:
        yield
    finally:
        model.generation_config = own


def _up_to_stop(token_ids: list[int], stops: Sequence[int]) -> list[int]:
    """Without the padding that follows the first stop token."""
    end = next((index for index, token in enumerate(token_ids) if token in stops), len(token_ids))
    return token_ids[: end + 1]
