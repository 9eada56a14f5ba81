"""What the phases of gpu.py share: rows that survive a kill, a clock for training steps, and FLOPs."""

import contextlib
import gc
import json
import math
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from radrecipes.errors import InputError, OutOfMemoryError
from radrecipes.planning.gpus import GPUS

WARM_UP_STEPS = 3  # select kernels and allocate memory
NEEDS_A_GPU = "needs a GPU"


@dataclass(frozen=True)
class Size:
    """The size of all measurements, the only difference between a rehearsal and the real run."""

    on_gpu: bool
    shapes: dict[str, dict[str, Any]]  # configurations of the random models by model id
    notes: int  # of an epoch
    tokenised: int  # notes that are generated and trained on
    train_seconds: float  # after the warm-up steps
    lora_batch: int  # notes per optimizer step in bf16 LoRA: fewer leave the GPU waiting for Python
    batches: tuple[int, ...]  # notes per micro-batch; the last one is expected not to fit
    row_lengths: tuple[int, ...]  # tokens per row of several notes, in addition to the collator's default
    answered: int  # prompts for label scoring and generation
    scoring_batches: tuple[int, ...]
    product_tokens: tuple[int, ...]  # rows of the timed matrix products
    real_words: tuple[str, ...] = ()  # additional arguments for the real recipe
    report_words: tuple[str, ...] = ()  # additional arguments for the report recipe
    real_rows: int | None = None  # test rows of the real recipe; None for all

    @property
    def device(self) -> str:
        """The device of tensors."""
        return "cuda" if self.on_gpu else "cpu"


class Rows:
    """Appends rows to a JSON Lines file as they are measured, so that a phase that is killed keeps them."""

    def __init__(self, path: Path, on_gpu: bool):
        self.path, self.on_gpu = path, on_gpu
        if on_gpu:
            torch.cuda.init()  # for its memory counters

    def add(self, name: str, what: str, **values: Any) -> None:
        """Write one row."""
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"name": name, "what": what, **values}) + "\n")

    @contextlib.contextmanager
    def attempt(self, name: str, what: str) -> Iterator[dict[str, Any]]:
        """Write a row with what the block puts into the `dict`; an exception becomes `out_of_memory`, `refused` or `failed`."""
        values: dict[str, Any] = {}
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        try:
            yield values
        except (torch.OutOfMemoryError, OutOfMemoryError) as error:
            values |= {"out_of_memory": True, "said": _first_line(error)}
        except InputError as error:
            values |= {"refused": _first_line(error)}
        except Exception as error:  # must not affect the other measurements
            place = traceback.extract_tb(error.__traceback__)[-1]
            values |= {"failed": f"{type(error).__name__}: {_first_line(error)}"}
            values |= {"at": f"{Path(place.filename).name}:{place.lineno}"}
        values |= {"peak_memory_gib": NEEDS_A_GPU}
        if self.on_gpu:
            with contextlib.suppress(RuntimeError):  # after some failures CUDA is unusable
                values |= _cuda_memory()
        self.add(name, what, **values)
        gc.collect()
        if self.on_gpu:
            with contextlib.suppress(RuntimeError):
                torch.cuda.empty_cache()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:300]


def _cuda_memory() -> dict[str, float]:
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info()
    sizes = {
        "peak_memory_gib": torch.cuda.max_memory_allocated(),
        "reserved_memory_gib": torch.cuda.max_memory_reserved(),
        "context_gib": total - free - torch.cuda.memory_reserved(),  # not used by tensors
    }
    return {name: round(size / 2**30, 2) for name, size in sizes.items()}


class StepClock(TrainerCallback):
    """Records the time of every logged step (logging a loss synchronises), and ends training some seconds after warm-up."""

    def __init__(self, seconds: float):
        self.seconds, self.times, self.losses = seconds, [], []

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Record time and loss."""
        if logs and "loss" in logs:
            self.times.append(time.perf_counter())
            self.losses.append(float(logs["loss"]))

    def on_step_end(self, args, state, control, **kwargs):
        """Stop when the time is over."""
        if len(self.times) > WARM_UP_STEPS and self.times[-1] - self.times[WARM_UP_STEPS - 1] > self.seconds:
            control.should_training_stop = True

    def speed(self, batch: int, notes: int) -> dict[str, Any]:
        """Notes per second after warm-up, the time of an epoch of `notes`, and the losses."""
        steps = len(self.times) - WARM_UP_STEPS
        if steps < 1:
            return {"failed": f"only {len(self.times)} steps were trained in time"}
        seconds = self.times[-1] - self.times[WARM_UP_STEPS - 1]
        return {
            "notes_per_second": round(steps * batch / seconds, 2),
            "seconds_a_step": round(seconds / steps, 4),
            "notes_measured": steps * batch,
            "epoch_minutes": round(notes * seconds / steps / batch / 60, 2),
            "epoch_is": "trained completely"
            if len(self.times) * batch >= notes
            else f"extrapolated from {steps} steps",
            "losses": [round(loss, 4) for loss in self.losses],
        }


def known_as(device_name: str) -> str | None:
    """The name in `planning.gpus.GPUS` of the GPU that PyTorch calls so, if any."""
    known = [name for name in GPUS if all(word in device_name.lower() for word in name.split("-"))]
    return max(known, key=len, default=None)


def flops_of_note(model: torch.nn.Module, tokens: float) -> float:
    """FLOPs of training on a note of `tokens` in a row of its own, without padding.

    6 per trained weight and token: 2 for the forward pass, 2 for the gradient of the input and 2 for that of the weight
    (Chowdhery et al. 2022, PaLM, appendix B); 4 per frozen weight, which has no gradient. Causal attention takes
    6 · width · tokens² per layer, half of that appendix's 12 without a mask. The LM head, which sees few positions, is ignored.
    """
    head, config = model.get_output_embeddings(), model.config
    frozen = trained = 0
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and module is not head:
            size = module.in_features * module.out_features  # the weight itself of a quantised layer is packed
            frozen, trained = (frozen, trained + size) if module.weight.requires_grad else (frozen + size, trained)
    attention = 6 * config.num_hidden_layers * config.hidden_size * tokens * tokens
    return tokens * (4 * frozen + 6 * trained) + attention


def utilisation(model: torch.nn.Module, tokens: float, computed: float, notes_per_second: float) -> dict[str, Any]:
    """Tokens per second and model FLOPs utilisation, of a note's own tokens (as if no prefix were shared) and of those computed."""
    rates = {
        "tokens_per_second": round(notes_per_second * tokens),
        "computed_tokens_per_second": round(notes_per_second * computed),
        "model_tflops": round(notes_per_second * flops_of_note(model, tokens) / 1e12, 3),
    }
    if not torch.cuda.is_available():
        return rates | {"utilisation": NEEDS_A_GPU, "utilisation_of_computed": NEEDS_A_GPU}
    if (known := known_as(torch.cuda.get_device_name())) is None:
        unknown = f"planning.gpus does not know the peak of {torch.cuda.get_device_name()}"
        return rates | {"utilisation": unknown, "utilisation_of_computed": unknown}
    peak = GPUS[known].bf16_flops
    own, done = flops_of_note(model, tokens), computed / tokens * flops_of_note(model, tokens)
    return rates | {
        "utilisation": round(notes_per_second * own / peak, 3),
        "utilisation_of_computed": round(notes_per_second * done / peak, 3),
    }


def median_seconds(work: Callable[[], Any], on_gpu: bool, repeats: int = 20) -> float:
    """Median time of a piece of work, after three warm-up runs."""
    times = []
    for _ in range(repeats + 3):
        began = time.perf_counter()
        work()
        if on_gpu:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return statistics.median(times[3:])


def end_to_end(examples: Sequence[dict[str, list[int]]]) -> dict[str, Any]:
    """All examples in one row, with the positions and boundaries that variable-length attention kernels take."""
    lengths = [len(example["input_ids"]) for example in examples]
    return {
        "input_ids": torch.tensor([[token for example in examples for token in example["input_ids"]]]),
        "labels": torch.tensor([[label for example in examples for label in example["labels"]]]),
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
        "cu_seq_lens_q": torch.tensor([0, *lengths]).cumsum(0).to(torch.int32),
        "max_length_q": max(lengths),
    }


def register_varlen() -> None:
    """Register PyTorch's variable-length FlashAttention in Transformers; on a CPU SDPA, note by note.

    Raises an `ImportError` if this PyTorch has none.
    """
    from torch.nn.attention.varlen import varlen_attn
    from transformers import AttentionInterface

    def attend(module, query, key, value, attention_mask, scaling=None, **kwargs):
        ends, longest = kwargs["cu_seq_lens_q"], kwargs["max_length_q"]
        if query.is_cuda:
            query, key, value = (part[0].transpose(0, 1).contiguous() for part in (query, key, value))
            # (-1, 0): everything before, nothing after, that is, causal
            out = varlen_attn(query, key, value, ends, ends, longest, longest, scale=scaling, window_size=(-1, 0))
            return out[None], None
        pieces = [
            torch.nn.functional.scaled_dot_product_attention(
                query[:, :, start:end], key[:, :, start:end], value[:, :, start:end], is_causal=True, scale=scaling
            )
            for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)
        ]
        return torch.cat(pieces, dim=2).transpose(1, 2), None

    AttentionInterface.register("varlen", attend)


def mean_of(losses: Sequence[float], count: int) -> float:
    """Mean of the first losses; NaN if there are none."""
    return statistics.fmean(losses[:count]) if losses[:count] else math.nan
