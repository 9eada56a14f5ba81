"""Data sets and adapters through the libraries that users take."""

import pytest


def push_dataset(folder):
    import datasets
    from huggingface_hub import DatasetCard, HfApi

    rows = {"note": [f"note {n}" for n in range(50)], "label": ["CT Head", "MR Brain"] * 25}
    splits = datasets.DatasetDict({"train": datasets.Dataset.from_dict(rows)})
    splits["test"] = splits["train"].select(range(5))
    splits.push_to_hub("radiology/protocols", private=True)
    HfApi().create_tag("radiology/protocols", tag="v1.0", repo_type="dataset")
    card = DatasetCard.load("radiology/protocols", ignore_metadata_errors=False)
    card.data.license = "apache-2.0"
    card.push_to_hub("radiology/protocols")
    splits["train"] = splits["train"].select(range(10))
    splits.push_to_hub("radiology/protocols")
    return rows


def read_dataset():
    import datasets

    tagged = datasets.load_dataset("radiology/protocols", revision="v1.0")
    streamed = datasets.load_dataset("radiology/protocols", split="train", streaming=True)
    return {
        "tagged": tagged["train"].to_dict(),
        "splits": {name: len(split) for name, split in tagged.items()},
        "streamed": [row["note"] for row in streamed],
    }


@pytest.mark.slow
def test_datasets_push_load_by_tag_and_stream(hub, hub_client, tmp_path):
    rows = hub_client(push_dataset, tmp_path)
    repository = hub.repo("radiology/protocols", "dataset")
    assert repository.private
    readme = repository.files()["README.md"].decode()
    assert "license: apache-2.0" in readme and "config_name: default" in readme
    got = hub_client(read_dataset)
    assert got["tagged"] == rows
    assert got["splits"] == {"train": 50, "test": 5}
    assert got["streamed"] == rows["note"][:10]


def push_adapter(models):
    import peft
    import transformers
    from tiny_model import build_tiny_model

    build_tiny_model(models, "tiny/llama")
    base = transformers.AutoModelForCausalLM.from_pretrained(models / "tiny" / "llama")
    base.push_to_hub("radiology/llama")
    base = transformers.AutoModelForCausalLM.from_pretrained("radiology/llama")
    adapted = peft.get_peft_model(base, peft.LoraConfig(target_modules="all-linear", init_lora_weights=False))
    adapted.push_to_hub("radiology/adapter")
    loaded = peft.AutoPeftModelForCausalLM.from_pretrained("radiology/adapter")
    wanted = peft.get_peft_model_state_dict(adapted)
    got = peft.get_peft_model_state_dict(loaded)
    return len(wanted), wanted.keys() == got.keys() and all(wanted[name].equal(got[name]) for name in wanted)


@pytest.mark.slow
def test_peft_pushes_and_loads_an_adapter(hub, hub_client, tmp_path):
    tensors, equal = hub_client(push_adapter, tmp_path)
    assert tensors > 0 and equal
    assert set(hub.repo("radiology/adapter").files()) == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    }
