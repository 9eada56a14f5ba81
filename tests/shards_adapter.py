"""Run by two processes: a tiny adapted model under one of torch's wrappers, what it computes, and what of it is gathered.

python shards_adapter.py DDP|FSDP1|FSDP2 MODEL [4bit|8bit]
"""

import os
import sys

import torch
from peft import LoraConfig, get_peft_model
from peft.utils.other import fsdp_auto_wrap_policy
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from radrecipes.training import gather_adapter

QUANTISATION = {
    "4bit": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_storage=torch.float32),
    "8bit": BitsAndBytesConfig(load_in_8bit=True),
}


def with_adapter(folder, bits):
    """The same in every process: numbers in every matrix, a rank that two processes cannot share evenly."""
    quantisation = QUANTISATION[bits] if bits else None
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=quantisation, dtype=torch.float32)
    config = LoraConfig(r=3, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    return get_peft_model(model, config, autocast_adapter_dtype=False)


def wrapped(model, wrapper):
    if wrapper == "DDP":
        return DistributedDataParallel(model).module  # as the Trainer keeps it
    if wrapper == "FSDP2":
        for layer in (*model.base_model.model.model.layers, model):
            fully_shard(layer, mesh=init_device_mesh("cpu", (2,)))
        return model
    os.environ["FSDP_TRANSFORMER_CLS_TO_WRAP"] = "LlamaDecoderLayer"
    policy = fsdp_auto_wrap_policy(model)  # the one that the Trainer takes
    return FullyShardedDataParallel(model, auto_wrap_policy=policy, device_id=torch.device("cpu"))


def main():
    wrapper, folder, bits = (*sys.argv[1:], None)[:3]
    torch.distributed.init_process_group("gloo")
    tokens = torch.arange(3, 19).reshape(2, 8)
    loss = float(with_adapter(folder, bits)(input_ids=tokens, labels=tokens).loss.detach())
    model = with_adapter(folder, bits)
    trained = {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}
    numbers = sum(weight.numel() for weight in model.parameters())
    model = wrapped(model, wrapper)
    held = sum(getattr(weight, "_local_tensor", weight).numel() for weight in model.parameters())
    assert held == numbers if wrapper == "DDP" else held < 0.6 * numbers, f"{held} of {numbers} numbers are held"
    output = model(input_ids=tokens, labels=tokens)
    assert abs(float(output.loss.detach()) - loss) < 1e-5
    output.loss.backward()
    gathered = gather_adapter(model)
    assert gathered.keys() == trained.keys()
    for name, weight in trained.items():
        assert torch.equal(gathered[name], weight), name
    print(f"{len(gathered)} tensors")
    torch.distributed.destroy_process_group()


main()
