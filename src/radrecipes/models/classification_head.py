"""A classification head on a base model: which labels it has, where it sits, and where in a row it is applied."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from transformers import MODEL_FOR_MASKED_LM_MAPPING, PreTrainedConfig, PreTrainedModel

# What Transformers calls the head of its `...ForSequenceClassification` classes, of causal models and of encoders.
HEAD_NAMES = frozenset(("score", "classifier"))


def describe_labels(config: PreTrainedConfig, labels: Sequence[str]) -> None:
    """Write the labels of a head, in the order of its logits, into a base model's configuration, in place."""
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}


def is_encoder(config: PreTrainedConfig) -> bool:
    """Whether each token of the base model attends to all others, as in BERT, and not only to the earlier ones."""
    return type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)


def classification_head(model: torch.nn.Module) -> torch.nn.Module | None:
    """The head of a model, adapted and wrapped or not; `None` if it writes text."""
    return next((it for path, it in model.named_modules() if path.rpartition(".")[2] in HEAD_NAMES), None)


def output_layer(model: PreTrainedModel) -> torch.nn.Module | None:
    """The LM head of a model that writes text, the classification head of one that classifies."""
    return model.get_output_embeddings() or classification_head(model)


def keep_head_in_float32(model: PreTrainedModel) -> None:
    """Let the head compute in float32 whatever the base model's dtype: bfloat16 logits have two or three digits."""
    head = classification_head(model).float()
    head.register_forward_pre_hook(_in_float32)


def _in_float32(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return (args[0].float(), *args[1:])


@contextlib.contextmanager
def head_at(model: PreTrainedModel, positions: torch.Tensor) -> Iterator[None]:
    """Apply a causal model's head at `positions` of shape `(rows, n)`; its logits then have shape `(rows, n, labels)`."""
    # Transformers applies it everywhere and returns the logits of one position per row, which it finds by the padding token.
    head, lengths = classification_head(model), []

    def select(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        lengths.append(args[0].shape[1])
        return (args[0].gather(1, positions[:, :, None].expand(-1, -1, args[0].shape[2])),)

    def spread(module: torch.nn.Module, args: tuple[torch.Tensor, ...], logits: torch.Tensor) -> torch.Tensor:
        return logits[:, None].expand(-1, lengths.pop(), -1, -1)  # whichever position is returned has all of them

    handles = head.register_forward_pre_hook(select, prepend=True), head.register_forward_hook(spread)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
