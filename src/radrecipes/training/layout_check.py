"""Whether a model gives the tokens of a shared-prefix row what it gives them in a row of their own.

Compared token by token, because in a mean differences of both signs cancel. A model whose layers carry a state along the row reads
the examples before; one that ignores the mask or the positions reads too much, or in another order.
"""

import contextlib
import itertools
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import TrainerCallback

from radrecipes.errors import InputError, OutOfMemoryError
from radrecipes.training.collators import IGNORED, PaddedCollator, SharedPrefixCollator, shared_prefix_length
from radrecipes.training.trainer import RunTrainer, is_out_of_memory, smaller_batch
from radrecipes.training.validation import evaluation_mode

# Largest difference of a token's log-likelihood L in nats, as a fraction of 1 + |L|: in float32, and in lower precision or with a
# quantised base. With other neighbours an honest model repeats the same sums with other zeros: SmolLM2-135M differs by exactly 0 in
# float32, bfloat16, 4-bit and 8-bit. In another layout it takes sums in another order: by 0.00001, 0.05, 0.05 and 0.06.
_WITH_OTHER_NEIGHBOURS = (0.001, 0.05)
_IN_ANOTHER_LAYOUT = (0.01, 0.1)
# Examples that are compared: long ones need the most memory, short ones share rows.
_LONGEST, _SHORTEST = 2, 4
# Rows that are looked at for each, because some repeat others.
_CANDIDATES = 100
_FIX = "set `batch_layout: padded`"


class ChecksLayout(TrainerCallback):
    """Under FSDP and ZeRO, [`check_layout`] before the first step: before that, no process has the weights."""

    def __init__(self, trainer: RunTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        """Check in all processes together."""
        if self.trainer.is_sharded:
            check_layout(self.trainer)


def check_layout(trainer: RunTrainer) -> None:
    """Score examples in both layouts, and beside other neighbours in their row; an [`InputError`] if a token differs.

    All processes call this together, and each compares what its own part of the model says.
    """
    if not isinstance(trainer.data_collator, SharedPrefixCollator):
        return
    try:
        with _row_by_row(trainer.model_wrapped), torch.no_grad(), trainer.accelerator.autocast():
            found = _largest_differences(trainer, _probes(trainer.train_dataset))
    except (RuntimeError, TypeError, ValueError, AttributeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise OutOfMemoryError(smaller_batch(trainer)) from error
        raise InputError(
            f"this model cannot score a shared-prefix batch ({' '.join(str(error).split())[:120]}); {_FIX}"
        ) from error
    args, model = trainer.args, trainer.model
    exact = model.dtype == torch.float32 and not (args.bf16 or args.tf32 or getattr(model, "is_quantized", False))
    # The largest of all processes, so that all of them stop.
    neighbours, layouts = (max(values) for values in zip(*gather_object([found]), strict=True))
    for difference, tolerances, what in (
        (neighbours, _WITH_OTHER_NEIGHBOURS, "depends on the other examples of its row"),
        (layouts, _IN_ANOTHER_LAYOUT, "differs from that in a padded batch"),
    ):
        tolerance = tolerances[0 if exact else 1]
        if not difference <= tolerance:  # also if it is NaN
            raise InputError(
                f"with this model the log-likelihood of a token in a shared-prefix batch {what} (by {difference:.1%} of "
                f"1 + |log-likelihood|, more than {tolerance:.1%}); {_FIX}"
            )


@contextlib.contextmanager
def _row_by_row(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode in which bitsandbytes computes each row of a batch by itself."""
    thresholds, bitsandbytes = {}, sys.modules.get("bitsandbytes")  # not there unless the base is quantised
    for module in model.modules():
        if bitsandbytes and isinstance(module, bitsandbytes.nn.Linear8bitLt):
            # Otherwise an outlier in one example changes how all others of the batch are rounded, in every layout.
            thresholds[module], module.state.threshold = module.state.threshold, 0.0
    try:
        with evaluation_mode(model):
            yield
    finally:
        for module, threshold in thresholds.items():
            module.state.threshold = threshold


def _probes(rows: Dataset) -> list[dict[str, Any]]:
    """The longest and the shortest examples with scored tokens, each text once."""
    lengths = [len(input_ids) for input_ids in rows["input_ids"]]
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    found: dict[tuple[int, ...], dict[str, Any]] = {}
    for wanted, candidates in ((_SHORTEST, order), (_SHORTEST + _LONGEST, reversed(order))):
        for row in map(rows.__getitem__, itertools.islice(candidates, _CANDIDATES)):
            if len(found) < wanted and any(label != IGNORED for label in row["labels"]):
                found.setdefault(tuple(row["input_ids"]), row)
    return list(found.values())


def _largest_differences(trainer: RunTrainer, examples: Sequence[dict[str, list[int]]]) -> tuple[float, float]:
    """Largest difference of a token's log-likelihood beside other neighbours, and between the layouts."""
    collator = trainer.data_collator
    padded, _ = _token_scores(trainer, examples, PaddedCollator(collator.pad_token_id))
    shared, last = _token_scores(trainer, examples, collator)
    beside_others, _ = _token_scores(trainer, _with_other_neighbours(examples, last), collator)

    def largest(indices: Iterable[int], scores: Sequence[torch.Tensor]) -> float:
        differences = [(shared[index] - scores[index]).abs() / (1 + padded[index].abs()) for index in indices]
        return float(torch.cat(differences).max())

    return largest(last, beside_others), largest(range(len(examples)), padded)


def _token_scores(
    trainer: RunTrainer,
    examples: Sequence[dict[str, list[int]]],
    collator: SharedPrefixCollator | PaddedCollator,
) -> tuple[list[torch.Tensor], set[int]]:
    """The log-likelihood of each scored token or label of each example, and which examples are the last of their rows."""
    # Running numbers as labels say where the collator puts each of them.
    owners, right = zip(
        *((index, label) for index, example in enumerate(examples) for label in example["labels"] if label != IGNORED),
        strict=True,
    )
    numbers = iter(range(len(owners)))
    numbered = [
        {
            "input_ids": example["input_ids"],
            "labels": [IGNORED if label == IGNORED else next(numbers) for label in example["labels"]],
        }
        for example in examples
    ]
    batch = {key: value.to(trainer.model.device) for key, value in collator(numbered).items()}
    order = trainer.scored(batch["labels"])
    logits = trainer.score(trainer.model_wrapped, batch).logits[: len(owners)].float()
    targets = torch.tensor(right, device=order.device)[order]
    found = logits.log_softmax(dim=-1).gather(1, targets[:, None])[:, 0]
    scores = torch.empty(len(owners)).index_copy_(0, order.cpu(), found.cpu())
    last = {owners[int(row[row != IGNORED][-1])] for row in batch["labels"]}
    counts = [owners.count(index) for index in range(len(examples))]
    return list(scores.split(counts)), last


def _with_other_neighbours(
    examples: Sequence[dict[str, list[int]]], kept: Collection[int]
) -> list[dict[str, list[int]]]:
    """The same examples, but those that are not `kept` read backwards after the shared prefix and one token that differs."""
    begins = shared_prefix_length(examples) + 1
    return [
        example
        if index in kept
        else {**example, "input_ids": example["input_ids"][:begins] + example["input_ids"][begins:][::-1]}
        for index, example in enumerate(examples)
    ]
