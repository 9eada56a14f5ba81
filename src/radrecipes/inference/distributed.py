"""Inference across the processes of a job: each processes some of the batches and gets all results.

Batches are never divided, so the results are bit-identical to those of a single process.
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
Result = TypeVar("Result")


def join_processes(longest_wait: timedelta) -> PartialState:
    """Join the other processes of this job; call it before reading a recipe, whose settings join them with another timeout.

    Raises an [`InputError`] if the launch spec shards the model, or requested a different number of processes.
    """
    spec = spec_from_environment(os.environ)
    check_unsharded(spec)
    processes = PartialState(cpu=inference_device().type == "cpu", timeout=longest_wait)
    check_world_size(spec, processes.num_processes)
    return processes


def map_batches(
    batches: Sequence[Batch],
    process: Callable[[Batch], Result],
    distributed: bool,
    on_done: Callable[[Batch], None] | None = None,
) -> list[Result]:
    """The results of all batches, in order; if `distributed`, all processes call this with the same batches and share the work.

    `process` must return something that can be pickled. `on_done` is called for every batch, including those of other
    processes. Raises a [`LostProcessError`] if another process ends before its results arrive.
    """
    processes, rank = (PartialState().num_processes, PartialState().process_index) if distributed else (1, 0)
    results = []
    for start in range(0, len(batches), processes):
        in_round = batches[start : start + processes]
        if rank < len(in_round):
            results.append(process(in_round[rank]))
        for batch in in_round if on_done else ():
            on_done(batch)
    if processes == 1:
        return results
    try:
        gathered = gather_object([results])
    except RuntimeError as error:  # what torch raises for a lost connection and for a timeout
        raise LostProcessError(
            "another process of this job ended or hangs, so its results are missing; nothing was written: see its own error "
            "message, then run the command again"
        ) from error
    return [gathered[number % processes][number // processes] for number in range(len(batches))]
