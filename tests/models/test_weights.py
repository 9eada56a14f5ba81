"""Trained weights: what is saved, verified and loaded, and what is refused."""

import json
import os
import shutil
import struct
from dataclasses import replace

import pytest
import torch
from conftest import TINY_MODEL
from peft import get_peft_model
from safetensors.torch import load_file, save_file
from tiny_model import build_tiny_model
from trl import ModelConfig

from radrecipes.errors import InputError
from radrecipes.models.base import base_without_weights, load_base, load_config
from radrecipes.models.weights import lora_config, weights_in

WEIGHTS = "adapter_model.safetensors"
MODEL = ModelConfig(
    model_name_or_path=TINY_MODEL, dtype="float32", use_peft=True, lora_r=2, lora_target_modules=["all-linear"]
)


@pytest.fixture
def trained(workspace):
    """A tiny model whose adapter differs from zero, saved: the model, its folder, its state."""
    model = get_peft_model(load_tiny_base(), lora_config(MODEL))
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    state = model.state_dict()
    weights_in(workspace / "adapter").save(model, TINY_MODEL, "main", state)
    return model, workspace / "adapter", state


def load_tiny_base():
    return load_base(MODEL, row_tokens=64)


def test_saved_adapter_names_the_hub_id_and_answers_as_the_trained_one(trained):
    model, folder, state = trained
    found = weights_in(folder).verify(model, [1, 5, 7], state)
    assert found["tensors"] == 2 * 2 * 7
    assert found["largest_b"] > 0
    assert found["output_change"] > 0
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    assert (config["base_model_name_or_path"], config["revision"]) == (TINY_MODEL, "main")
    assert sorted(file.name for file in folder.iterdir()) == ["adapter_config.json", WEIGHTS]

    probe = torch.tensor([[1, 5, 7]])
    loaded = weights_in(folder).load(load_tiny_base(), MODEL)
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
    with pytest.raises(InputError, match="every B matrix is zero"):
        weights_in(workspace / "zero").verify(model, [1, 5, 7], state)


def test_verification_leaves_the_model_as_it_was(trained):
    model, folder, state = trained
    weights_in(folder).verify(model, [1, 5, 7], state)
    assert list(model.peft_config) == ["default"]
    assert model.active_adapter == "default"


def test_adapter_of_another_base_is_refused(trained):
    _, folder, _ = trained
    with pytest.raises(InputError, match="belongs to tiny/llama, not to tiny/other"):
        weights_in(folder).load(load_tiny_base(), replace(MODEL, model_name_or_path="tiny/other"))


def test_adapter_of_another_shape_is_refused(trained, workspace):
    _, folder, _ = trained
    build_tiny_model(workspace / "models", "tiny/wide", grouped_query=False)
    base = load_base(replace(MODEL, model_name_or_path="tiny/wide"))
    with pytest.raises(InputError, match=r"4 tensors do not fit tiny/llama and the recipe, first .*k_proj.lora_B"):
        weights_in(folder).load(base, MODEL)


# What may have happened to the tensors since they were saved; each digest is right, as a stranger's manifest could say it.
DAMAGED = {
    "a tensor is missing": (lambda saved: dict(list(saved.items())[1:]), "1 tensors do not fit"),
    "one too many": (lambda saved: saved | {"base_model.model.lm_head.weight": torch.ones(2)}, "1 tensors do not fit"),
    "another rank": (lambda saved: {name: torch.ones(1, 1) for name in saved}, "28 tensors do not fit"),
    "none": (lambda saved: {}, "28 tensors do not fit"),
    "not a number": (lambda saved: saved | {min(saved): saved[min(saved)] * torch.nan}, "NaN or infinite"),
    "infinite": (lambda saved: saved | {min(saved): saved[min(saved)] / 0}, "NaN or infinite"),
}


@pytest.mark.parametrize("damaged", DAMAGED)
def test_exactly_the_tensors_of_the_recipe_are_loaded(damaged, trained):
    _, folder, _ = trained
    change, said = DAMAGED[damaged]
    damage(folder, change)
    with pytest.raises(InputError, match=rf"{WEIGHTS}: .*{said}"):
        weights_in(folder, weights_in(folder).sha256).load(load_tiny_base(), MODEL)
    if "NaN" not in said:  # Seen without weights of the base model, as for vLLM
        with torch.device("meta"), pytest.raises(InputError, match=said):
            weights_in(folder).check_fit(
                base_without_weights(MODEL, load_config(MODEL), torch.float32, "eager"), MODEL
            )


def header(text):
    return struct.pack("<Q", len(text)) + text


# Bytes that are no safetensors, or say more than they hold
FILES = {
    "empty": b"",
    "cut": lambda whole: whole[:-5],
    "cut in the header": lambda whole: whole[:100],
    "no JSON": header(b"knee pain"),
    "nested": header(b"[" * 100_000),
    "a header longer than the file": struct.pack("<Q", 2**40) + b"{}",
    "a shape larger than the data": header(b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4]}}')
    + bytes(4),
    "overlapping": header(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    )
    + bytes(4),
    "pickle": b"\x80\x04K\x01.",
}


def test_a_file_that_is_no_whole_safetensors_gets_one_line(trained, subtests):
    _, folder, _ = trained
    whole = (folder / WEIGHTS).read_bytes()
    for kind, content in FILES.items():
        with subtests.test(kind):
            (folder / WEIGHTS).write_bytes(content(whole) if callable(content) else content)
            with pytest.raises(InputError, match=rf"{WEIGHTS}: is not a complete safetensors file"):
                weights_in(folder).load(load_tiny_base(), MODEL)


@pytest.mark.parametrize("changed", ["one bit", "negated"])
def test_weights_are_those_of_their_manifest(changed, trained):
    _, folder, _ = trained
    recorded, path = weights_in(folder).sha256, folder / WEIGHTS
    assert weights_in(folder, recorded).sha256 == recorded
    if changed == "negated":
        damage(folder, lambda saved: {name: -tensor for name, tensor in saved.items()})
    else:
        path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))
    for use in (lambda it: it.sha256, lambda it: it.check(MODEL), lambda it: it.load(load_tiny_base(), MODEL)):
        with pytest.raises(InputError, match=rf"{WEIGHTS}: changed since training"):
            use(weights_in(folder, recorded))


# Fields of adapter_config.json that are not those of the recipe: another model, slow patterns, modules to import
FIELDS = (
    {"r": 4}, {"lora_alpha": 64}, {"use_rslora": True}, {"use_dora": True}, {"peft_type": "LOHA"}, {"bias": "all"},
    {"rank_pattern": {"(a+)+b": 8}}, {"exclude_modules": "(a+)+b"}, {"layer_replication": [[0, 2], [1, 2]]},
    {"megatron_config": {}, "megatron_core": "own"}, {"modules_to_save": ["lm_head"]},
)  # fmt: skip
# Contents that are no object in JSON
TEXTS = (b"", b"[]", b"{", b'"x"', b"[" * 100_000, b"\xff")


def test_a_configuration_that_says_another_adapter_than_the_recipe_is_refused(trained, subtests):
    _, folder, _ = trained
    path = folder / "adapter_config.json"
    saved = json.loads(path.read_text("utf-8"))
    for field in FIELDS:
        with subtests.test(str(field)):
            path.write_text(json.dumps(saved | field), encoding="utf-8")
            with pytest.raises(
                InputError, match=rf"adapter_config.json: `({'|'.join(field)})` is not .* as in the recipe"
            ):
                weights_in(folder).check(MODEL)
    for content in TEXTS:
        with subtests.test(content[:9]):
            path.write_bytes(content)
            with pytest.raises(
                InputError, match=r"adapter_config.json:.* restore the file|adapter_config.json: not a UTF-8 text file"
            ):
                weights_in(folder).check(MODEL)


def test_files_have_the_modes_that_new_files_get_and_an_order_of_their_own(trained, workspace):
    model, _, state = trained
    mask = os.umask(0o002)
    try:
        weights_in(workspace / "shared").save(model, TINY_MODEL, "main", state)
    finally:
        os.umask(mask)
    assert {oct(path.stat().st_mode & 0o777) for path in (workspace / "shared").iterdir()} == {"0o664"}
    layers = json.loads((workspace / "shared" / "adapter_config.json").read_text("utf-8"))["target_modules"]
    assert layers == sorted(layers) and len(layers) == 14


@pytest.mark.parametrize("missing", ["adapter_config.json", WEIGHTS, None])
def test_folder_that_is_not_an_adapter_is_refused(trained, missing):
    _, folder, _ = trained
    if missing:
        (folder / missing).unlink()
    else:
        shutil.rmtree(folder)
    with pytest.raises(InputError, match=rf"^{folder}: .*(adapter_config.json|{WEIGHTS})"):
        weights_in(folder).load(load_tiny_base(), MODEL)


def test_pickled_weights_are_not_loaded(trained):
    _, folder, _ = trained
    torch.save(load_file(folder / WEIGHTS), folder / "adapter_model.bin")
    (folder / WEIGHTS).unlink()
    with pytest.raises(InputError, match="only safetensors are loaded"):
        weights_in(folder).load(load_tiny_base(), MODEL)
