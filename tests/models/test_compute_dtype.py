import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from radrecipes.models import compute_dtype as module
from radrecipes.models.compute_dtype import (
    compute_dtype,
    describe_choice,
    linear_weights_cast,
    measure_products,
    measured_rates,
)


def test_a_stated_dtype_is_obeyed_whatever_the_processor(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)  # no bfloat16 instructions
    assert compute_dtype("bfloat16") == torch.bfloat16
    assert compute_dtype("float32") == compute_dtype(None) == torch.float32


@pytest.mark.parametrize(("bfloat16", "chosen"), [(90e9, "float32"), (300e9, "bfloat16")])
def test_auto_is_the_faster_one_of_this_processor(monkeypatch, bfloat16, chosen):
    monkeypatch.setattr(module, "measured_rates", lambda: {"float32": 150e9, "bfloat16": bfloat16})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert compute_dtype("auto") == getattr(torch, chosen)
    rates = f"150 GFLOP/s in float32 and {bfloat16 / 1e9:.0f} GFLOP/s in bfloat16"
    assert describe_choice(chosen) == f"{chosen}; matrix products run here at {rates}"
    (other,) = {"float32", "bfloat16"} - {chosen}
    assert describe_choice(other).startswith(f"{other}, as this run began;")


def test_auto_is_bfloat16_on_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert compute_dtype("auto") == torch.bfloat16


def test_both_dtypes_are_measured_without_random_numbers():
    before = torch.get_rng_state()
    rates = measured_rates(seconds=0.05)
    assert rates.keys() == {"float32", "bfloat16"} and all(1e8 < rate < 1e16 for rate in rates.values())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_measured_rate_is_that_of_the_products():
    assert 1e8 < measure_products(torch.float32, 128, (256, 512), seconds=0.05) < 1e16


def test_weights_cast_once_compute_the_same_bits_and_come_back():
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 64,
    }
    model = LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=True)).eval()
    before = {module: dict(module._parameters) for module in model.modules()}
    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    ids = torch.arange(40).reshape(2, 20)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = model(ids).logits
        with linear_weights_cast(model):
            assert {module.weight.dtype for module in linear} == {torch.bfloat16}
            assert model.get_input_embeddings().weight.dtype == torch.float32  # tied to the LM head, and not autocast
            assert torch.equal(model(ids).logits, expected)
    assert all(module._parameters[name] is weight for module, kept in before.items() for name, weight in kept.items())
    with linear_weights_cast(model):
        assert {module.weight.dtype for module in linear} == {torch.float32}
