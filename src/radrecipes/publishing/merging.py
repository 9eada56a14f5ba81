"""Merged models: the trained weights added to the base model's own, and compared with base model plus adapter."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import kl_div, log_softmax
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from radrecipes.data.label_sets import LabelSet
from radrecipes.data.prepared import LABEL_SET_FILE, PreparedDataset
from radrecipes.errors import InputError
from radrecipes.inference.predictors import LabelPredictor, Predictor, load_predictor
from radrecipes.models.base import load_base, load_tokenizer, stop_token_ids
from radrecipes.models.compute_dtype import compute_dtype
from radrecipes.models.weights import weights_in
from radrecipes.publishing.release import FinishedRun
from radrecipes.recipe import Recipe
from radrecipes.tasks.rendering import render_examples, render_prompts
from radrecipes.training import run_folder

# Rounding to bfloat16 changes every weight by at most 0.2 %; a failed merge is far beyond this.
_LARGEST_MEAN_DIVERGENCE = 0.01  # nats per token
# Rows whose logits are compared; answers are compared on the whole test split.
_COMPARED_ROWS = 16


def merge_and_compare(
    run: FinishedRun, dataset: PreparedDataset, folder: Path, on_progress: Callable[[int], None] | None = None
) -> dict[str, Any]:
    """Merge a run's adapter into a new folder, and check on the dataset's test split that only rounding changed.

    Returns `dtype`, `logits` (see [`compare_logits`]), the number of compared `answers`, and how many are `same_answers`.
    `on_progress` gets the number of rows answered since the last call; each row is answered twice.
    """
    if not run.recipe.model.use_peft:
        raise InputError("the run trained all weights, so there is no adapter to merge; leave it out", "--merge")
    recipe, task, adapter = run.recipe, run.task, run_folder.weights_folder(run.folder)
    dtype = merge_adapter(recipe, adapter, folder)
    tokenizer = load_tokenizer(recipe.model, recipe.training.chat_template_path)
    style, test = recipe.arguments.prompt_style, dataset.splits["test"]
    compared = test.select(range(min(_COMPARED_ROWS, len(test)))).to_list()
    inputs, targets = [task.inputs(row) for row in compared], [task.target(row) for row in compared]
    if recipe.has_head:
        rows = render_prompts(task, inputs, tokenizer, style)
    else:
        examples = render_examples(task, inputs, targets, tokenizer, style, stop_token_ids(tokenizer))
        rows = [example.prompt_ids + example.completion_ids for example in examples]
    logits = compare_logits(recipe, adapter, load_merged(folder, has_head=recipe.has_head), rows)
    inputs = [task.inputs(row) for row in test]
    # The model is replaced before the first answer, which fills caches that depend on it.
    by_adapter, by_merged = load_predictor(run.folder), load_predictor(run.folder)
    dtype_here, device = compute_dtype(recipe.model.dtype), by_merged.model.device
    by_merged.model = load_merged(folder, dtype_here, recipe.has_head).to(device)
    answers = zip(*(_answers(predictor, inputs, on_progress) for predictor in (by_adapter, by_merged)), strict=True)
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "logits": logits,
        "answers": len(inputs),
        "same_answers": sum(one == other for one, other in answers),
    }


def merge_adapter(recipe: Recipe, adapter: Path, folder: Path) -> torch.dtype:
    """Merge an adapter into its base model and save `config.json` and `model*.safetensors` in the recipe's dtype, which it returns.

    The base model is loaded unquantised even if training quantised it, because four bits cannot represent the adapter's changes.
    The sum is computed in float32 and rounded once.
    """
    model = _with_adapter(recipe, adapter)
    if getattr(model.get_base_model(), "is_quantized", False):
        what = (
            "its own weights are quantised, so nothing can be merged into them; publish the adapter, without --merge"
        )
        raise InputError(what, recipe.model.model_name_or_path)
    dtype = compute_dtype(recipe.model.dtype)
    model.merge_and_unload(safe_merge=True).to(dtype).save_pretrained(folder)
    return dtype


def compare_logits(
    recipe: Recipe, adapter: Path, merged: PreTrainedModel, rows: Sequence[Sequence[int]]
) -> dict[str, float]:
    """Compare every position of `rows` (token ids) in float32, to see only rounding; a [`RuntimeError`] if the merge failed.

    Returns `mean_divergence`, the Kullback-Leibler divergence in nats per token; `largest_difference` of any logit; and `same_top`,
    the fraction of `positions` with the same most probable token.
    """
    reference = _with_adapter(recipe, adapter)
    positions, same, divergence, largest = 0, 0, 0.0, 0.0
    with torch.inference_mode():
        for row in rows:
            ids = torch.tensor([list(row)])
            # A head has logits for the row alone.
            expected, found = (model(input_ids=ids).logits.flatten(0, -2).float() for model in (reference, merged))
            positions += len(expected)
            same += int((expected.argmax(-1) == found.argmax(-1)).sum())
            largest = max(largest, float((expected - found).abs().max()))
            divergence += float(
                kl_div(log_softmax(found, -1), log_softmax(expected, -1), reduction="sum", log_target=True)
            )
    mean = divergence / positions
    if not mean <= _LARGEST_MEAN_DIVERGENCE:
        raise RuntimeError(
            f"the merged model predicts differently from base model plus adapter: {mean:.3g} nats per token"
        )
    return {
        "positions": positions,
        "largest_difference": largest,
        "mean_divergence": mean,
        "same_top": same / positions,
    }


def load_merged(folder: Path, dtype: torch.dtype = torch.float32, has_head: bool = False) -> PreTrainedModel:
    """A merged model, loaded from its folder."""
    kind = AutoModelForSequenceClassification if has_head else AutoModelForCausalLM
    return kind.from_pretrained(folder, dtype=dtype, use_safetensors=True, trust_remote_code=False).eval()


def _answers(
    predictor: Predictor, inputs: Sequence[dict[str, str]], on_progress: Callable[[int], None] | None
) -> list[str | None]:
    """The label or text for each input."""
    if isinstance(predictor, LabelPredictor):
        return [answer.label for answer in predictor.answer(inputs, on_progress=on_progress)]
    return [text.text for text in predictor.generate(inputs, on_progress=on_progress)]


def _with_adapter(recipe: Recipe, adapter: Path) -> PreTrainedModel:
    plain = replace(recipe.model, load_in_4bit=False, load_in_8bit=False, dtype="float32")
    labels = LabelSet.load(adapter / LABEL_SET_FILE).names if recipe.has_head else None
    base = load_base(plain, labels=labels)
    if labels:  # others find the last token of each row by it
        base.config.pad_token_id = load_tokenizer(plain, recipe.training.chat_template_path).pad_token_id
    return weights_in(adapter).load(base, plain)
