"""A merged model: the adapter added to its base's own weights, and compared with base plus adapter."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch.nn.functional import kl_div, log_softmax
from transformers import AutoModelForCausalLM, PreTrainedModel

from radrecipes.data.prepared import PreparedDataset
from radrecipes.errors import InputError
from radrecipes.inference.predictors import LabelPredictor, Predictor, load_predictor
from radrecipes.models import base as models
from radrecipes.models.weights import weights_in
from radrecipes.publishing.release import FinishedRun
from radrecipes.recipe import Recipe
from radrecipes.tasks.rendering import render_example

# Rounding to bfloat16 moves every weight by 0.2 % at most; a merge that went wrong is far beyond this.
_LARGEST_MEAN_DIVERGENCE = 0.01  # nats a token
# Rows whose every token is predicted by both; the whole test split is answered by both.
_COMPARED_ROWS = 16
_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class LogitComparison:
    """Next-token predictions of a merged model beside those of base plus adapter.

    Args:
        positions (`int`):
            Tokens that were predicted.
        largest_difference (`float`):
            Of any logit.
        mean_divergence (`float`):
            Kullback-Leibler divergence in nats a token.
        same_top (`float`):
            Share of positions with the same most probable token.
    """

    positions: int
    largest_difference: float
    mean_divergence: float
    same_top: float


def merge_and_compare(
    run: FinishedRun, dataset: PreparedDataset, folder: Path, on_progress: Callable[[int], None] | None = None
) -> dict[str, Any]:
    """Merge a run's adapter, and measure that nothing but rounding changed.

    Args:
        run ([`FinishedRun`]):
            The run.
        dataset ([`PreparedDataset`]):
            Its dataset, of which the test split is answered by both models.
        folder (`Path`):
            Where to save the merged model.
        on_progress (`Callable[[int], None]`, *optional*):
            Called with the number of rows answered since; each row is answered twice.

    Returns:
        `dict`: `dtype`, `logits` ([`LogitComparison`]), `answers` that were compared and how many of them are `same_answers`.

    Raises:
        [`InputError`]: see [`merge_adapter`].
        [`RuntimeError`]: see [`compare_logits`].
    """
    recipe, task, adapter = run.recipe, run.task, run.folder / "adapter"
    merge_adapter(recipe, adapter, folder)
    tokenizer = models.load_tokenizer(recipe.model, recipe.training.chat_template_path)
    stops, style = models.stop_token_ids(tokenizer), recipe.arguments.prompt_style
    test = dataset.splits["test"]
    examples = [
        render_example(task, task.inputs(row), task.target(row), tokenizer, style, stops)
        for row in test.select(range(min(_COMPARED_ROWS, len(test))))
    ]
    rows = [example.prompt_ids + example.completion_ids for example in examples]
    logits = compare_logits(recipe, adapter, load_merged(folder), rows)
    inputs = [task.inputs(row) for row in test]
    merged = load_merged(folder, models.compute_dtype(recipe.model.dtype))
    return {
        "dtype": str(_merged_dtype(recipe)).removeprefix("torch."),
        "logits": asdict(logits),
        "answers": len(inputs),
        "same_answers": count_same_answers(run.folder, merged, inputs, on_progress=on_progress),
    }


def merge_adapter(recipe: Recipe, adapter: Path, folder: Path) -> None:
    """Add an adapter to its base and save the result, in the recipe's dtype, as any model of Transformers.

    The base is loaded unquantised, also where training quantised it: four bits cannot hold what the adapter adds. The sum is
    made in float32 and rounded once.

    Args:
        recipe ([`Recipe`]):
            Names the base.
        adapter (`Path`):
            Folder of the adapter.
        folder (`Path`):
            Where to save `config.json` and `model*.safetensors`.

    Raises:
        [`InputError`]: the base cannot be loaded, or is there in quantised weights only, or the adapter does not fit it.
    """
    model = _with_adapter(recipe, adapter)
    if getattr(model.get_base_model(), "is_quantized", False):
        what = "its weights are quantised themselves, and nothing is merged into such; publish the adapter, without --merge"
        raise InputError(what, recipe.model.model_name_or_path)
    merged = model.merge_and_unload(safe_merge=True)
    merged.to(_merged_dtype(recipe)).save_pretrained(folder)


def compare_logits(
    recipe: Recipe, adapter: Path, merged: PreTrainedModel, rows: Sequence[Sequence[int]]
) -> LogitComparison:
    """Compare a merged model with base plus adapter, both computed in float32, so that only the rounding shows.

    Args:
        recipe ([`Recipe`]):
            Names the base.
        adapter (`Path`):
            Folder of the adapter.
        merged ([`~transformers.PreTrainedModel`]):
            From [`load_merged`].
        rows (`Sequence[Sequence[int]]`):
            Token ids to read; every position of each is compared.

    Returns:
        [`LogitComparison`]

    Raises:
        [`RuntimeError`]: they predict too differently for a merge that went right.
    """
    reference = _with_adapter(recipe, adapter)
    positions, same, divergence, largest = 0, 0, 0.0, 0.0
    with torch.inference_mode():
        for row in rows:
            ids = torch.tensor([list(row)])
            expected, found = reference(input_ids=ids).logits[0].float(), merged(input_ids=ids).logits[0].float()
            positions += len(expected)
            same += int((expected.argmax(-1) == found.argmax(-1)).sum())
            largest = max(largest, float((expected - found).abs().max()))
            divergence += float(
                kl_div(log_softmax(found, -1), log_softmax(expected, -1), reduction="sum", log_target=True)
            )
    found = LogitComparison(positions, largest, divergence / positions, same / positions)
    if not found.mean_divergence <= _LARGEST_MEAN_DIVERGENCE:
        raise RuntimeError(
            f"the merged model predicts otherwise than base plus adapter: {found.mean_divergence:.3g} nats a token"
        )
    return found


def load_merged(folder: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A merged model from its folder."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, use_safetensors=True).eval()


def count_same_answers(
    run: Path,
    merged: PreTrainedModel,
    inputs: Sequence[dict[str, str]],
    batch_size: int = 32,
    on_progress: Callable[[int], None] | None = None,
) -> int:
    """How many inputs a merged model answers with the very same label or text as the adapter.

    Args:
        run (`Path`):
            Folder of the run.
        merged ([`~transformers.PreTrainedModel`]):
            From [`load_merged`].
        inputs (`Sequence[dict[str, str]]`):
            Input columns of each row.
        batch_size (`int`, *optional*, defaults to 32):
            Rows a batch.
        on_progress (`Callable[[int], None]`, *optional*):
            Called with the number of rows answered since.

    Returns:
        `int`
    """
    answers = []
    for model in (None, merged):
        predictor = load_predictor(run)
        if model is not None:  # before it answers: what it keeps of a model, it makes then
            predictor.model = model.to(predictor.model.device)
        answers.append(_answers(predictor, inputs, batch_size, on_progress))
    return sum(one == other for one, other in zip(*answers, strict=True))


def _answers(
    predictor: Predictor,
    inputs: Sequence[dict[str, str]],
    batch_size: int,
    on_progress: Callable[[int], None] | None,
) -> list[Any]:
    if isinstance(predictor, LabelPredictor):
        return [answer.label for answer in predictor.answer(inputs, batch_size, on_progress=on_progress)]
    return [text.text for text in predictor.generate(inputs, batch_size, on_progress=on_progress)]


def _merged_dtype(recipe: Recipe) -> torch.dtype:
    return _DTYPES.get(recipe.model.dtype, torch.float32)


def _with_adapter(recipe: Recipe, adapter: Path) -> PeftModel:
    plain = replace(recipe.model, load_in_4bit=False, load_in_8bit=False, dtype="float32")
    return weights_in(adapter).load(models.load_base(plain), plain.model_name_or_path)
