"""Generation by vLLM if it is installed. Untested: vLLM is not a requirement of this project and needs a GPU."""

import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

from radrecipes.errors import InputError
from radrecipes.inference.answers import WrittenText
from radrecipes.inference.generation import Sampling, positions_of
from radrecipes.models import base as models
from radrecipes.models.weights import Weights
from radrecipes.recipe import Recipe

# What vLLM has kernels for: https://docs.vllm.ai/en/latest/features/lora/
_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


def check_usable() -> None:
    """Raise an [`InputError`] if vLLM is not installed or several processes were launched, before anything is loaded."""
    if find_spec("vllm") is None:
        raise InputError("vLLM is not installed; install it (it needs a GPU), or omit --engine", "--engine vllm")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("vLLM distributes the work over GPUs itself; run a single process", "--engine vllm")


class VllmEngine:
    """Generation by vLLM with the weights of a run, up to the same stop tokens."""

    def __init__(self, recipe: Recipe, weights: Weights, stops: Sequence[int]):
        if weights.needs_base and models.is_text_part(recipe.model):
            # vLLM would load the complete model, whose modules have other names than the adapter's weights.
            raise InputError(
                f"the adapter belongs to the text part of {recipe.model.model_name_or_path}, which vLLM cannot load separately; "
                "omit --engine, or serve the merged model (scripts/publish.py adapter --merge)",
                "--engine vllm",
            )
        from vllm import LLM
        from vllm.lora.request import LoRARequest

        options: dict[str, Any] = {"model": str(weights.folder)}
        if weights.needs_base:
            location = models.locate_base(recipe.model.model_name_or_path)
            options = {
                "model": location,
                "revision": models.revision_for(location, recipe.model.model_revision),
                "enable_lora": True,
                "max_lora_rank": next(rank for rank in _LORA_RANKS if rank >= recipe.model.lora_r),
            }
        self._engine = LLM(dtype=recipe.model.dtype or "auto", trust_remote_code=False, **options)
        self._adapter = LoRARequest("adapter", 1, str(weights.folder)) if weights.needs_base else None
        self._stops, self._positions = list(stops), positions_of(models.load_config(recipe.model))

    def generate(
        self,
        prompts: Sequence[list[int]],
        max_new_tokens: int,
        on_progress: Callable[[int], None] | None,
        untuned: bool,
        sampling: Sampling | None,
    ) -> list[WrittenText]:
        """Like [`~inference.generation.generate`]; vLLM forms its own batches and returns results in order."""
        if untuned and self._adapter is None:
            raise InputError("vLLM loaded the fine-tuned model, not its base model; omit --engine", "--engine vllm")
        from vllm import SamplingParams

        decoding = {"temperature": sampling.temperature, "seed": sampling.seed} if sampling else {"temperature": 0.0}
        rooms = [int(min(max_new_tokens, self._positions - len(prompt))) for prompt in prompts]
        parameters = [SamplingParams(max_tokens=room, stop_token_ids=self._stops, **decoding) for room in rooms]
        results = self._engine.generate(
            [{"prompt_token_ids": token_ids} for token_ids in prompts],
            parameters,
            lora_request=None if untuned else self._adapter,
            use_tqdm=False,
        )
        if on_progress:
            on_progress(len(prompts))
        written = (result.outputs[0] for result in results)
        return [WrittenText(it.text.strip(), it.finish_reason == "stop", len(it.token_ids)) for it in written]
