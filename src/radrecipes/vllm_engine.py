"""Generation by vLLM where it is installed. Not tested: vLLM is no requirement of this project and needs a GPU."""

import os
from importlib.util import find_spec

from radrecipes import models
from radrecipes.errors import InputError
from radrecipes.evaluation import SystemOutput
from radrecipes.predictor import Predictor

# What vLLM has kernels for: https://docs.vllm.ai/en/latest/features/lora/
_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


def check_usable() -> None:
    """Refuse `--engine vllm` where it cannot work, before anything is loaded.

    Raises:
        [`InputError`]: vLLM is not installed, or several processes were launched.
    """
    if find_spec("vllm") is None:
        raise InputError(
            "vLLM is not installed here; install it (it needs a GPU), or leave --engine out", "--engine vllm"
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("vLLM shares the work over GPUs by itself; run one process", "--engine vllm")


class VllmPredictor(Predictor):
    """A [`Predictor`] whose answers vLLM generates, greedily and up to the same stop tokens.

    Not tested with vLLM.

    Args:
        args, kwargs:
            As for [`Predictor`].

    Raises:
        [`InputError`]: as [`Predictor`], or the recipe scores labels.
    """

    def _load_model(self) -> None:
        if self.decode != "generate":
            raise InputError(
                "vLLM generates only, and the recipe scores labels (decode: score); leave --engine out",
                "--engine vllm",
            )
        from vllm import LLM, SamplingParams
        from vllm.lora.request import LoRARequest

        recipe, location = self.recipe, models.locate_base(self.recipe.model.model_name_or_path)
        self._engine = LLM(
            model=location,
            revision=models.revision_for(location, recipe.model.model_revision),
            dtype=recipe.model.dtype or "auto",
            enable_lora=True,
            max_lora_rank=next(rank for rank in _LORA_RANKS if rank >= recipe.model.lora_r),
        )
        self._adapter = LoRARequest("adapter", 1, str(self.folder / "adapter"))
        self._sampling = SamplingParams(
            temperature=0.0, max_tokens=recipe.arguments.max_new_tokens, stop_token_ids=list(self.stops)
        )

    def _generate(self, inputs, batch_size, untuned, on_progress) -> list[SystemOutput]:
        prompts = [{"prompt_token_ids": token_ids} for token_ids in self.prompts(inputs)]
        adapter = None if untuned else self._adapter
        outputs = []
        # vLLM makes its own batches and answers in order; `batch_size` has no meaning here.
        for result in self._engine.generate(prompts, self._sampling, lora_request=adapter, use_tqdm=False):
            answer = result.outputs[0]
            text = answer.text.strip()
            label = self.task.read_output(text, self.label_set)
            outputs.append(SystemOutput(text, label, answer.finish_reason == "stop", len(answer.token_ids)))
        if on_progress:
            on_progress(len(outputs))
        return outputs
