"""What a checkpoint under FSDP1 keeps, and an optimizer that can take a state; complete runs: `e2e/test_sharded_engines.py`."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from tiny_model import build_tiny_model
from torch.distributed.checkpoint.state_dict import _init_optim_state
from transformers import AutoModelForCausalLM

from radrecipes.training.sharded import gather_trained, load_trained_weights


@pytest.fixture
def adapted(tmp_path):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(build_tiny_model(tmp_path, "tiny/llama"), dtype=torch.float32)
    return get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))


def test_saved_weights_are_loaded_in_the_precision_it_was_trained_in(adapted, tmp_path):
    kept = {name: weight + 1e-4 for name, weight in gather_trained(adapted).items()}
    save_file(kept, tmp_path / "adapter.safetensors")
    adapted.to(torch.bfloat16)
    load_trained_weights(adapted, tmp_path)
    loaded = gather_trained(adapted)
    assert loaded.keys() == kept.keys() and all(torch.equal(loaded[name], kept[name]) for name in kept)


def test_the_weights_of_another_recipe_are_not_loaded(adapted, tmp_path):
    kept = gather_trained(adapted)
    del kept[min(kept)]
    save_file(kept, tmp_path / "adapter.safetensors")
    with pytest.raises(RuntimeError, match="contains other weights than the recipe trains"):
        load_trained_weights(adapted, tmp_path)


def test_a_checkpoint_of_another_engine_changes_nothing(adapted, tmp_path):
    before = gather_trained(adapted)
    load_trained_weights(adapted, tmp_path)
    assert all(torch.equal(weight, before[name]) for name, weight in gather_trained(adapted).items())


def test_a_private_part_of_torch_gives_an_optimizer_a_state_and_moves_no_weight():
    weights = [torch.nn.Parameter(torch.randn(5, 3)), torch.nn.Parameter(torch.randn(3))]
    before = [weight.detach().clone() for weight in weights]
    groups = [{"params": weights[:1], "lr": 0.1, "weight_decay": 0.5}, {"params": weights[1:], "lr": 0.2}]
    optimizer = torch.optim.AdamW(groups)
    _init_optim_state(optimizer)
    assert all(torch.equal(weight, old) for weight, old in zip(weights, before, strict=True))
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.2]
    for weight in weights:
        assert weight.grad is None and not optimizer.state[weight]["exp_avg"].any()
