"""Trained weights: what is saved, verified and loaded, and what is refused."""

import json
import shutil

import pytest
import torch
from conftest import TINY_MODEL
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_model import build_tiny_model
from transformers import AutoModelForCausalLM
from trl import ModelConfig

from radrecipes.errors import InputError
from radrecipes.models.base import load_base
from radrecipes.models.weights import weights_in

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def trained(workspace):
    """A tiny model whose adapter differs from zero, saved: the model, its folder, its state."""
    base = load_base(ModelConfig(model_name_or_path=TINY_MODEL, dtype="float32"), row_tokens=64)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear"))
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    state = model.state_dict()
    weights_in(workspace / "adapter").save(model, TINY_MODEL, "main", state)
    return model, workspace / "adapter", state


def load_tiny_base():
    return load_base(ModelConfig(model_name_or_path=TINY_MODEL, dtype="float32"), row_tokens=64)


def test_saved_adapter_names_the_hub_id_and_answers_as_the_trained_one(trained):
    model, folder, state = trained
    found = weights_in(folder).verify(model, [1, 5, 7], state)
    assert found["tensors"] == 2 * 2 * 7
    assert found["largest_b"] > 0
    assert found["output_change"] > 0
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    assert (config["base_model_name_or_path"], config["revision"]) == (TINY_MODEL, "main")
    assert sorted(file.name for file in folder.iterdir()) == ["adapter_config.json", WEIGHTS]

    assert weights_in(folder).base_model == TINY_MODEL

    probe = torch.tensor([[1, 5, 7]])
    loaded = weights_in(folder).load(load_tiny_base(), TINY_MODEL)
    with torch.no_grad():
        assert torch.allclose(loaded(probe).logits, model.eval()(probe).logits, atol=1e-5)
        with weights_in(folder).untuned(loaded):
            assert torch.equal(loaded(probe).logits, load_tiny_base().eval()(probe).logits)


def damage(folder, change):
    tensors = load_file(folder / WEIGHTS)
    save_file(change(tensors), folder / WEIGHTS, metadata={"format": "pt"})


def test_verification_catches_a_changed_tensor(trained):
    model, folder, state = trained
    name = next(name for name in load_file(folder / WEIGHTS) if "lora_A" in name)
    damage(folder, lambda saved: {**saved, name: saved[name] + 1e-3})
    with pytest.raises(RuntimeError, match="differs from the trained one"):
        weights_in(folder).verify(model, None, state)


def test_verification_catches_a_missing_tensor(trained):
    model, folder, state = trained
    damage(folder, lambda saved: dict(list(saved.items())[1:]))
    with pytest.raises(RuntimeError, match="contains other tensors"):
        weights_in(folder).verify(model, None, state)


def test_verification_catches_an_adapter_that_learned_nothing(trained, workspace):
    model, _, _ = trained
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.zeros_(weight)
    state = model.state_dict()
    weights_in(workspace / "zero").save(model, TINY_MODEL, None, state)
    with pytest.raises(RuntimeError, match="every B matrix is zero"):
        weights_in(workspace / "zero").verify(model, [1, 5, 7], state)


def test_verification_leaves_the_model_as_it_was(trained):
    model, folder, state = trained
    weights_in(folder).verify(model, [1, 5, 7], state)
    assert list(model.peft_config) == ["default"]
    assert model.active_adapter == "default"


def test_adapter_of_another_base_is_refused(trained):
    _, folder, _ = trained
    with pytest.raises(InputError, match="belongs to tiny/llama, not to tiny/other"):
        weights_in(folder).load(load_tiny_base(), "tiny/other")


def test_adapter_of_another_shape_is_refused(trained, workspace):
    _, folder, _ = trained
    other = build_tiny_model(workspace / "models", "tiny/wide", grouped_query=False)
    base = AutoModelForCausalLM.from_pretrained(other)
    with pytest.raises(InputError, match="do not fit tiny/llama"):
        weights_in(folder).load(base, TINY_MODEL)


@pytest.mark.parametrize("missing", ["adapter_config.json", WEIGHTS, None])
def test_folder_that_is_not_an_adapter_is_refused(trained, missing):
    _, folder, _ = trained
    if missing:
        (folder / missing).unlink()
    else:
        shutil.rmtree(folder)
    with pytest.raises(InputError, match=rf"^{folder}: .*(adapter_config.json|{WEIGHTS})"):
        weights_in(folder).load(load_tiny_base(), TINY_MODEL)


def test_pickled_weights_are_not_loaded(trained):
    _, folder, _ = trained
    torch.save(load_file(folder / WEIGHTS), folder / "adapter_model.bin")
    (folder / WEIGHTS).unlink()
    with pytest.raises(InputError, match="only safetensors are loaded"):
        weights_in(folder).load(load_tiny_base(), TINY_MODEL)
