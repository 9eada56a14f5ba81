"""Merging: the sum is right, in the right dtype, never into quantised weights; a wrong sum is noticed."""

import shutil

import pytest
import torch
from conftest import TINY_RECIPE, TINY_WRITER
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from tiny_model import build_tiny_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from radrecipes.errors import InputError
from radrecipes.models import base as models
from radrecipes.models.weights import lora_config, weights_in
from radrecipes.publishing.merging import compare_logits, load_merged, merge_adapter
from radrecipes.recipe import parse_recipe

ROWS = [[5, 17, 200, 33, 4, 90, 12], [7, 300, 2]]


@pytest.fixture
def recipe_of(workspace):
    """Makes a recipe on the wider tiny model, with these additional fields."""

    def make(**fields):
        lines = "".join(f"{key}: {value}\n" for key, value in fields.items())
        text = TINY_RECIPE.replace("model_name_or_path: tiny/llama", f"model_name_or_path: {TINY_WRITER}")
        text = "".join(line + "\n" for line in text.splitlines() if line.split(":")[0] not in fields) + lines
        (workspace / "recipe.yaml").write_text(text, encoding="utf-8")
        return parse_recipe(workspace / "recipe.yaml")

    return make


@pytest.fixture
def adapter(workspace, recipe_of):
    """An adapter on every linear layer whose B matrices are not zero."""
    torch.manual_seed(0)
    base = models.load_base(recipe_of().model)
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    weights_in(workspace / "adapter").save(model, recipe_of().model, model.state_dict())
    return workspace / "adapter"


def test_the_merged_model_predicts_as_base_plus_adapter_and_otherwise_than_the_base(recipe_of, adapter, workspace):
    recipe = recipe_of()
    merge_adapter(recipe, adapter, workspace / "merged")
    found = compare_logits(recipe, adapter, load_merged(workspace / "merged"), ROWS)
    assert found["positions"] == 10 and found["same_top"] == 1.0
    assert found["largest_difference"] < 1e-3 and found["mean_divergence"] < 1e-6
    # The comparison can fail: the base alone is not the merged model.
    with pytest.raises(RuntimeError, match="predicts differently from base model plus adapter"):
        compare_logits(recipe, adapter, models.load_base(recipe.model), ROWS)


def test_weights_are_the_hand_made_sum_in_the_recipes_dtype(recipe_of, adapter, workspace):
    merge_adapter(recipe_of(dtype="bfloat16"), adapter, workspace / "merged")
    base = load_file(workspace / "models" / TINY_WRITER / "model.safetensors")
    lora, merged = load_file(adapter / "adapter_model.safetensors"), load_file(workspace / "merged/model.safetensors")
    assert merged.keys() == base.keys()
    for name, weight in base.items():
        prefix = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{prefix}.lora_A.weight" in lora:
            weight = weight + 8 / 4 * lora[f"{prefix}.lora_B.weight"] @ lora[f"{prefix}.lora_A.weight"]
        assert merged[name].dtype == torch.bfloat16
        assert torch.allclose(merged[name].float(), weight, rtol=2**-8, atol=1e-6), name


def test_a_base_that_training_quantised_is_merged_unquantised(recipe_of, adapter, workspace):
    recipe = recipe_of(load_in_4bit="true", dtype="bfloat16")
    merge_adapter(recipe, adapter, workspace / "merged")
    merged = load_file(workspace / "merged" / "model.safetensors")
    assert {tensor.dtype for tensor in merged.values()} == {torch.bfloat16}
    assert "quantization_config" not in (workspace / "merged" / "config.json").read_text("utf-8")
    assert compare_logits(recipe, adapter, load_merged(workspace / "merged"), ROWS)["mean_divergence"] < 1e-3


def test_a_base_that_is_there_quantised_only_is_not_merged(recipe_of, workspace):
    plain, quantised = workspace / "models" / "tiny" / "wide", workspace / "models" / "tiny" / "four"
    build_tiny_model(workspace / "models", "tiny/wide", hidden_size=128)
    four_bits = BitsAndBytesConfig(load_in_4bit=True)
    AutoModelForCausalLM.from_pretrained(plain, quantization_config=four_bits).save_pretrained(quantised)
    for path in plain.iterdir():
        if not (quantised / path.name).exists():
            shutil.copyfile(path, quantised / path.name)
    recipe = recipe_of(model_name_or_path="tiny/four")
    model = get_peft_model(models.load_base(recipe.model), lora_config(recipe.model))
    weights_in(workspace / "adapter").save(model, recipe.model, model.state_dict())
    with pytest.raises(InputError, match="tiny/four: its own weights are quantised"):
        merge_adapter(recipe, workspace / "adapter", workspace / "merged")
    assert not (workspace / "merged").exists()
