"""The hook of the LM head's input is gone after its context, however that ended."""

import pytest
import torch
from tiny_model import build_tiny_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from radrecipes.inference.generation import generate
from radrecipes.models.lm_head import at_positions, lm_head_input


@pytest.fixture(scope="module")
def model():
    config = AutoConfig.for_model(
        "llama", vocab_size=256, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    return AutoModelForCausalLM.from_config(config).eval()


def test_an_error_removes_the_hook(model):
    with pytest.raises(ZeroDivisionError), lm_head_input(model, at_positions(torch.tensor([2]))):
        assert model(input_ids=torch.tensor([[1, 3, 4]])).logits.shape == (1, 256)
        raise ZeroDivisionError
    assert not model.lm_head._forward_pre_hooks
    assert model(input_ids=torch.tensor([[1, 3, 4]])).logits.shape == (1, 3, 256)


def test_an_error_in_generation_removes_the_hook(model):
    def fails(rows):
        assert model.lm_head._forward_pre_hooks
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        generate(model, build_tiny_tokenizer(), [[1, 3], [1, 4]], [2], max_new_tokens=2, on_progress=fails)
    assert not model.lm_head._forward_pre_hooks
