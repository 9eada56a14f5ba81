"""Change the input of the LM head within a context."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from transformers import PreTrainedModel


@contextlib.contextmanager
def lm_head_input(model: PreTrainedModel, change: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Pass `change(hidden states)` to the LM head, by a hook that works under DDP, FSDP and ZeRO alike."""
    handle = model.get_output_embeddings().register_forward_pre_hook(lambda module, args: (change(args[0]),))
    try:
        yield
    finally:
        handle.remove()


def at_positions(positions: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """Select positions of a batch, counted over its flattened rows; the logits have shape `(positions, vocabulary)`."""
    return lambda hidden: hidden.flatten(0, 1)[positions]
