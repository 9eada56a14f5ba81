"""Sizes of bases that are not on this machine: those of the shipped recipes, with the parameters that their makers publish."""

from dataclasses import replace

import pytest
import torch
from conftest import REPOSITORY
from transformers import AutoModel, AutoModelForCausalLM

from radrecipes.errors import InputError
from radrecipes.models.classification_head import is_encoder
from radrecipes.models.convert import DEFAULT_BASE
from radrecipes.planning import basis as basis_module
from radrecipes.planning.base_shapes import SHAPES, shape_of
from radrecipes.planning.basis import load_basis
from radrecipes.planning.machine_plan import make_plan
from radrecipes.recipe import find_recipes, parse_recipe
from radrecipes.training import trainer as training

RECIPE = "recipes/tiny/protocol_lora.yaml"
# Billions, as the models' cards and reports say; of MedGemma-4B the text part, of Gemma 3's report.
PUBLISHED = {
    "epfl-llm/meditron-7b": 6.74,
    "EPFLiGHT/Meditron3-8B": 8.03,
    "meta-llama/Llama-3.1-8B-Instruct": 8.03,
    "meta-llama/Llama-3.2-3B-Instruct": 3.21,
    "BioMistral/BioMistral-7B": 7.24,
    "Qwen/Qwen3-0.6B": 0.596,
    "Qwen/Qwen3-4B": 4.02,
    "Qwen/Qwen3-8B": 8.19,
    "microsoft/Phi-4-mini-instruct": 3.84,
    "google/gemma-3-1b-it": 1.0,
    "google/medgemma-4b-it": 3.88,
    "google/medgemma-27b-text-it": 27.0,
    "HuggingFaceTB/SmolLM3-3B": 3.08,
    "HuggingFaceTB/SmolLM2-360M-Instruct": 0.362,
    "answerdotai/ModernBERT-base": 0.149,
    "thomas-sounack/BioClinical-ModernBERT-base": 0.149,
    "sentence-transformers/all-MiniLM-L6-v2": 0.0227,
    "microsoft/biogpt": 0.347,
    "microsoft/BioGPT-Large": 1.57,
}


def test_every_base_of_a_shipped_recipe_can_be_planned_without_its_files():
    named = {parse_recipe(path).model.model_name_or_path for path in find_recipes(REPOSITORY / "recipes")}
    assert named - {DEFAULT_BASE} == set(SHAPES)


@pytest.mark.parametrize("model_id", sorted(SHAPES))
def test_sizes_make_the_published_number_of_parameters(model_id):
    with torch.device("meta"):
        config = shape_of(model_id)
        model = (AutoModel if is_encoder(config) else AutoModelForCausalLM).from_config(config)
    assert model.num_parameters() / 1e9 == pytest.approx(PUBLISHED[model_id], rel=0.005)


def test_sizes_and_another_tokenizer_stand_in_for_what_is_not_here(workspace, monkeypatch):
    model_id = "HuggingFaceTB/SmolLM2-360M-Instruct"
    recipe = parse_recipe(RECIPE, [f"--model_name_or_path={model_id}", "--chat_template_path=theirs.jinja"])
    with pytest.raises(
        InputError, match=rf"tokenizer of {model_id} is not on this machine \(`hf download .*make model"
    ):
        load_basis(recipe)
    monkeypatch.setattr(basis_module, "DEFAULT_BASE", "tiny/llama")
    basis = load_basis(recipe)
    assert (basis.config.num_hidden_layers, basis.config.hidden_size) == (32, 960)
    own = load_basis(parse_recipe(RECIPE))
    assert basis.rows["input_ids"] == own.rows["input_ids"]
    assert own.note == "" and own.config.hidden_size == 32
    assert f"`hf download {model_id}" in basis.note and "lengths by tiny/llama's tokenizer" in basis.note
    # A plan takes these sizes and asks for no file
    config = own.config
    config.num_hidden_layers = 1
    training.divide_batch(recipe, processes=1)
    plan = make_plan(recipe, replace(basis, config=config), measure_seconds=0.01)
    assert plan.trainable_parameters == 4 * (4 * 32 + 2 * (32 + 16) + 3 * (32 + 64))  # q, o; k, v; gate, up, down
