"""Batches shared over the processes of a job: each answers its part, and all have the answers to all.

Whole batches are shared, because a batch of other rows rounds otherwise: the answers are those of one process, to the bit.
"""

import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TypeVar

from accelerate import PartialState
from accelerate.utils import gather_object

from radrecipes.errors import LostProcessError
from radrecipes.launch.spec import check_unsharded, check_world_size, spec_from_environment
from radrecipes.models.base import inference_device

Batch = TypeVar("Batch")
Answers = TypeVar("Answers")


def join_processes(longest_wait: timedelta) -> PartialState:
    """Join the other processes of this job, before a recipe is read: its settings would join them with a time limit of their own.

    Args:
        longest_wait (`timedelta`):
            How far apart the processes may reach a point where they wait for each other.

    Returns:
        [`~accelerate.PartialState`]: of one process where no launcher stands above it.

    Raises:
        [`InputError`]: the launch configuration shards the model, or requested another number of processes.
    """
    spec = spec_from_environment(os.environ)
    check_unsharded(spec)
    processes = PartialState(cpu=inference_device().type == "cpu", timeout=longest_wait)
    check_world_size(spec, processes.num_processes)
    return processes


def answer_batches(
    batches: Sequence[Batch],
    answer: Callable[[Batch], Answers],
    shared: bool,
    on_done: Callable[[Batch], None] | None = None,
) -> list[Answers]:
    """Answer batches, alone or with the other processes.

    Args:
        batches (`Sequence`):
            The same in all processes.
        answer (`Callable`):
            Gives what can be pickled.
        shared (`bool`):
            Whether all processes of this job are here with the same batches.
        on_done (`Callable`, *optional*):
            Called with every batch once this process has answered it, or its own of the same round.

    Returns:
        `list`: the answers to all batches, in order.

    Raises:
        [`LostProcessError`]: another process ended before its answers were here.
    """
    processes, own = (PartialState().num_processes, PartialState().process_index) if shared else (1, 0)
    answers = []
    for start in range(0, len(batches), processes):
        of_round = batches[start : start + processes]
        if own < len(of_round):
            answers.append(answer(of_round[own]))
        for batch in of_round if on_done else ():
            on_done(batch)
    if processes == 1:
        return answers
    try:
        of_processes = gather_object([answers])
    except RuntimeError as error:  # torch's word for a lost connection and for a time limit
        raise LostProcessError(
            "another process of this job ended or hangs, so that its answers are missing; nothing was written: its own line says "
            "why, run the command again"
        ) from error
    return [of_processes[number % processes][number // processes] for number in range(len(batches))]
