"""The inputs of a plan: training rows, tokenizer and configuration of a recipe's base model, without its weights."""

import contextlib
import copy
from dataclasses import dataclass, replace

from datasets import Dataset
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from radrecipes.errors import InputError
from radrecipes.models.base import load_config
from radrecipes.models.classification_head import describe_labels
from radrecipes.models.convert import DEFAULT_BASE
from radrecipes.planning.base_shapes import shape_of
from radrecipes.recipe import Recipe
from radrecipes.training.data import TrainingData, load_training_data, tokenizer_is_local
from radrecipes.training.drafts import load_with_drafts


@dataclass(frozen=True)
class Basis:
    """The inputs of a plan; `rows` and `validation` have the columns `input_ids` and `labels`."""

    rows: Dataset
    tokenizer: PreTrainedTokenizerBase
    config: PretrainedConfig
    note: str = ""  # what replaces files that are not on this machine, and how to get them
    validation: Dataset | None = None  # the sample, if the recipe validates
    has_drafts: bool = False  # whether the rows include drafts, which are there already


def load_basis(recipe: Recipe) -> Basis:
    """Training rows, tokenizer and configuration of a recipe.

    If the files of a base model are not on this machine and its shape is known ([`~base_shapes.SHAPES`]), the shape and the
    default base model's tokenizer replace them, and nothing is downloaded.
    """
    model_id = recipe.model.model_name_or_path
    shape = shape_of(model_id)
    if shape is None or tokenizer_is_local(recipe):
        data = _load(recipe)
        return _basis(data, load_config(recipe.model, data.labels))
    # Our own chat templates belong to the tokenizer that is missing here.
    other = replace(recipe, model=copy.copy(recipe.model), training=copy.copy(recipe.training))
    other.model.model_name_or_path, other.model.model_revision = DEFAULT_BASE, None
    other.training.chat_template_path = None
    files = " ".join(f"--include '{pattern}'" for pattern in ("*.json", "tokenizer*", "*.txt", "*.jinja"))
    revision = f" --revision {recipe.model.model_revision}" if recipe.model.model_revision else ""
    fetch = f"`hf download {model_id}{revision} {files}` downloads them"
    if not tokenizer_is_local(other):
        raise InputError(
            f"the tokenizer of {model_id} is not on this machine ({fetch}), nor that of {DEFAULT_BASE}, which could replace it "
            "(`make model`)",
            str(recipe.path),
        )
    data = load_training_data(other, max_dropped_fraction=1.0)
    note = (
        f"configuration and tokenizer of {model_id} are not on this machine: known shape, and lengths by {DEFAULT_BASE}'s "
        f"tokenizer; {fetch}"
    )
    if data.labels:
        describe_labels(shape, data.labels)
    return _basis(data, shape, note)


def _load(recipe: Recipe) -> TrainingData:
    """What a recipe trains on, with its drafts if they are written."""
    if recipe.arguments.stage == "rejection":
        with contextlib.suppress(InputError):
            return load_with_drafts(recipe)
    return load_training_data(recipe)


def _basis(data: TrainingData, config: PretrainedConfig, note: str = "") -> Basis:
    sample = data.validation and data.validation.rows
    return Basis(data.rows.rows, data.tokenizer, config, note, sample, data.drafts is not None)
