"""Trained weights of each kind: what is saved, verified and loaded, and what is refused."""

import json
import os
import shutil
import struct
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from conftest import TINY_MODEL
from huggingface_hub import save_torch_state_dict
from peft import get_peft_model
from safetensors.torch import load_file, save_file
from tiny_model import build_tiny_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel
from trl import ModelConfig

from radrecipes.errors import InputError
from radrecipes.models.base import base_on_meta, load_base, weights_digest
from radrecipes.models.weights import FullModel, Weights, lora_config, weights_in, weights_to_train

COMMIT = "0a1b2c3d4e5f60718293a4b5c6d7e8f901234567"
RECIPES = {
    "adapter": ModelConfig(
        model_name_or_path=TINY_MODEL,
        model_revision=COMMIT,
        dtype="float32",
        use_peft=True,
        lora_r=2,
        lora_target_modules=["all-linear"],
    ),
    "model": ModelConfig(model_name_or_path=TINY_MODEL, model_revision=COMMIT, dtype="float32", use_peft=False),
}
FILES = {"adapter": "adapter_model.safetensors", "model": "model.safetensors"}
PROBE = [1, 5, 7]


class Trained(NamedTuple):
    """A trained model, the recipe's part on it, its state, and where its weights were saved."""

    model: PreTrainedModel
    recipe: ModelConfig
    state: dict[str, torch.Tensor]
    folder: Path

    @property
    def file(self) -> Path:
        """The file of the tensors."""
        return self.folder / FILES[self.folder.name]

    def verify(self, probe_ids=None):
        """As after training in one process."""
        return weights_in(self.folder).verify(self.model, self.recipe, probe_ids, self.state, load_base(self.recipe))

    def load(self, weights: Weights | None = None, base: PreTrainedModel | None = None) -> PreTrainedModel:
        """As to predict."""
        return (weights or weights_in(self.folder)).load(base or load_base(self.recipe, row_tokens=64), self.recipe)

    def damage(self, change):
        """Replace the saved tensors by others."""
        save_file(change(load_file(self.file)), self.file, metadata={"format": "pt"})


def train(recipe: ModelConfig, parent: Path, change=torch.nn.init.normal_) -> Trained:
    """A tiny model whose B matrices, or all of whose matrices, were changed, saved."""
    model = load_base(recipe, row_tokens=64)
    if recipe.use_peft:
        model = get_peft_model(model, lora_config(recipe))
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name or (not recipe.use_peft and weight.dim() == 2):
            change(weight)
    weights = weights_to_train(recipe, parent)
    weights.save(model, recipe, model.state_dict())
    return Trained(model, recipe, model.state_dict(), weights.folder)


@pytest.fixture(params=RECIPES)
def trained(request, workspace):
    """Trained weights of each kind."""
    return train(RECIPES[request.param], workspace)


@pytest.fixture
def adapter(workspace):
    """A trained adapter."""
    return train(RECIPES["adapter"], workspace)


@pytest.fixture
def full(workspace):
    """A trained model."""
    return train(RECIPES["model"], workspace)


def test_what_was_saved_answers_as_the_trained_model_and_without_it_as_the_base(trained):
    found = trained.verify(PROBE)
    assert found["output_change"] > 0 and found["sha256"] == weights_in(trained.folder).sha256
    assert found["tensors"] == len(load_file(trained.file)) > 10
    probe = torch.tensor([PROBE])
    loaded, base = trained.load(), load_base(trained.recipe, row_tokens=64)
    with torch.no_grad():
        assert torch.allclose(loaded(probe).logits, trained.model.eval()(probe).logits, atol=1e-5)
        expected = base(probe).logits
        assert not torch.allclose(loaded(probe).logits, expected, atol=1e-2)
        weights = weights_in(trained.folder)
        asked = loaded if weights.needs_base else base
        with weights.untuned(asked):
            assert torch.equal(asked(probe).logits, expected)


def test_verification_catches_a_changed_tensor(trained):
    name = max(load_file(trained.file))
    trained.damage(lambda saved: {**saved, name: saved[name] + 1e-3})
    with pytest.raises(RuntimeError, match="differs from the trained one"):
        trained.verify()


def test_verification_catches_a_missing_tensor(trained):
    trained.damage(lambda saved: dict(list(saved.items())[1:]))
    with pytest.raises(RuntimeError, match=r"contains other tensors|lacks the trained tensor"):
        trained.verify()


@pytest.mark.parametrize("kind", RECIPES)
def test_verification_catches_weights_that_learned_nothing(kind, workspace):
    unchanged = torch.nn.init.zeros_ if kind == "adapter" else lambda weight: None
    with pytest.raises(InputError, match=r"every B matrix is zero|answers as the base model"):
        train(RECIPES[kind], workspace, unchanged).verify(PROBE)


def test_weights_of_another_base_are_refused(trained):
    build_tiny_model(Path("models"), "tiny/other", max_position_embeddings=99)
    other = replace(trained.recipe, model_name_or_path="tiny/other")
    said = "belongs to tiny/llama, not to tiny/other|`max_position_embeddings` is not as in tiny/other"
    with pytest.raises(InputError, match=said):
        trained._replace(recipe=other).load()


def test_weights_of_another_shape_are_refused(trained, workspace):
    build_tiny_model(workspace / "models", "tiny/wide", grouped_query=False)
    base = load_base(replace(trained.recipe, model_name_or_path="tiny/wide"))
    with pytest.raises(InputError, match=r"4 tensors do not fit tiny/llama and the recipe, first .*k_proj"):
        trained.load(base=base)


# What may have happened to the tensors since they were saved; each digest is right, as a stranger's manifest could say it.
DAMAGED = {
    "a tensor is missing": (lambda saved: dict(list(saved.items())[1:]), "1 tensors do not fit"),
    "one too many": (lambda saved: saved | {"base_model.model.lm_head.weight": torch.ones(2)}, "1 tensors do not fit"),
    "another shape": (lambda saved: {name: torch.ones(1, 1) for name in saved}, "(28|20) tensors do not fit"),
    "none": (lambda saved: {}, "(28|20) tensors do not fit"),
    "not a number": (lambda saved: saved | {min(saved): saved[min(saved)] * torch.nan}, "NaN or infinite"),
    "infinite": (lambda saved: saved | {min(saved): saved[min(saved)] / 0}, "NaN or infinite"),
}


@pytest.mark.parametrize("damaged", DAMAGED)
def test_exactly_the_tensors_of_the_recipe_are_loaded(damaged, trained):
    change, said = DAMAGED[damaged]
    trained.damage(change)
    with pytest.raises(InputError, match=rf"{trained.folder}.*: .*{said}"):
        trained.load(weights_in(trained.folder, weights_in(trained.folder).sha256))
    if "NaN" not in said:  # Seen without weights of the base model, as for vLLM
        with pytest.raises(InputError, match=said):
            weights_in(trained.folder).check_fit(base_on_meta(trained.recipe), trained.recipe)


def header(text):
    return struct.pack("<Q", len(text)) + text


# Bytes that are no safetensors, or say more than they hold
CONTENTS = {
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
    whole = trained.file.read_bytes()
    for kind, content in CONTENTS.items():
        with subtests.test(kind):
            trained.file.write_bytes(content(whole) if callable(content) else content)
            with pytest.raises(InputError, match=rf"{trained.file.name}: is not a complete safetensors file"):
                trained.load()


@pytest.mark.parametrize("changed", ["one bit", "negated"])
def test_weights_are_those_of_their_manifest(changed, trained):
    recorded = weights_in(trained.folder).sha256
    assert weights_in(trained.folder, recorded).sha256 == recorded
    if changed == "negated":
        trained.damage(lambda saved: {name: -tensor for name, tensor in saved.items()})
    else:
        whole = trained.file.read_bytes()
        trained.file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    for use in (lambda it: it.sha256, lambda it: it.check(trained.recipe), trained.load):
        with pytest.raises(InputError, match=rf"{trained.folder}.*: .*changed since training"):
            use(weights_in(trained.folder, recorded))


# Contents that are no object in JSON
TEXTS = (b"", b"[]", b"{", b'"x"', b"[" * 100_000, b"\xff")


def test_a_configuration_that_is_no_object_is_refused(trained, subtests):
    path = trained.folder / weights_in(trained.folder).CONFIG
    for content in TEXTS:
        with subtests.test(content[:9]):
            path.write_bytes(content)
            with pytest.raises(
                InputError, match=rf"{path.name}:.* restore the file|{path.name}: not a UTF-8 text file"
            ):
                weights_in(trained.folder).check(trained.recipe)


# Fields of adapter_config.json that are not those of the recipe: another model, slow patterns, modules to import
ADAPTER_FIELDS = (
    {"r": 4}, {"lora_alpha": 64}, {"use_rslora": True}, {"use_dora": True}, {"peft_type": "LOHA"}, {"bias": "all"},
    {"rank_pattern": {"(a+)+b": 8}}, {"exclude_modules": "(a+)+b"}, {"layer_replication": [[0, 2], [1, 2]]},
    {"megatron_config": {}, "megatron_core": "own"}, {"modules_to_save": ["lm_head"]},
)  # fmt: skip
# Fields of config.json that are not the base model's: others mean another model by them, or run code.
MODEL_FIELDS = (
    {"model_type": "gpt2"}, {"num_hidden_layers": 3}, {"rope_parameters": {"rope_theta": 5.0, "rope_type": "default"}},
    {"tie_word_embeddings": False}, {"auto_map": {"AutoModelForCausalLM": "model.Own"}}, {"quantization_config": {}},
)  # fmt: skip


def test_a_configuration_that_says_other_weights_than_the_recipe_is_refused(trained, subtests):
    path = trained.folder / weights_in(trained.folder).CONFIG
    saved = json.loads(path.read_text("utf-8"))
    weights_in(trained.folder).check(trained.recipe)
    for field in ADAPTER_FIELDS if trained.recipe.use_peft else MODEL_FIELDS:
        with subtests.test(str(field)):
            path.write_text(json.dumps(saved | field), encoding="utf-8")
            with pytest.raises(InputError, match=rf"{path.name}: `({'|'.join(field)})` is not .*as in "):
                weights_in(trained.folder).check(trained.recipe)


def test_weights_of_the_other_kind_are_refused(trained):
    (other,) = (recipe for recipe in RECIPES.values() if recipe.use_peft != trained.recipe.use_peft)
    with pytest.raises(InputError, match="and the recipe trains"):
        weights_in(trained.folder).check(other)


def test_files_have_the_modes_that_new_files_get(workspace):
    mask = os.umask(0o002)
    try:
        folders = [train(recipe, workspace / "shared").folder for recipe in RECIPES.values()]
    finally:
        os.umask(mask)
    assert {oct(path.stat().st_mode & 0o777) for folder in folders for path in folder.iterdir()} == {"0o664"}


@pytest.mark.parametrize("missing", ["configuration", "tensors", None])
def test_folder_without_weights_is_refused(trained, missing):
    if missing:
        (trained.folder / weights_in(trained.folder).CONFIG if missing == "configuration" else trained.file).unlink()
    else:
        shutil.rmtree(trained.folder)
    with pytest.raises(InputError, match=rf"^{trained.folder}: .*(config.json|{trained.file.name})"):
        trained.load()


def test_pickled_weights_are_not_loaded(trained):
    torch.save(load_file(trained.file), trained.file.with_suffix(".bin"))
    trained.file.unlink()
    with pytest.raises(InputError, match="only safetensors are loaded"):
        trained.load()


def test_an_adapter_names_the_hub_id_and_its_layers_in_an_order_of_their_own(adapter):
    assert adapter.verify(PROBE)["tensors"] == 2 * 2 * 7 and adapter.verify()["largest_b"] > 0
    config = json.loads((adapter.folder / "adapter_config.json").read_text(encoding="utf-8"))
    assert (config["base_model_name_or_path"], config["revision"]) == (TINY_MODEL, COMMIT)
    assert sorted(file.name for file in adapter.folder.iterdir()) == ["adapter_config.json", FILES["adapter"]]
    assert config["target_modules"] == sorted(config["target_modules"]) and len(config["target_modules"]) == 14


def test_verification_leaves_the_adapted_model_as_it_was(adapter):
    adapter.verify(PROBE)
    assert list(adapter.model.peft_config) == ["default"]
    assert adapter.model.active_adapter == "default"


def test_a_model_is_loaded_by_others_and_its_digest_is_that_of_a_base_model(full):
    assert sorted(file.name for file in full.folder.iterdir()) == ["config.json", "model.safetensors"]
    probe = torch.tensor([PROBE])
    loaded = AutoModelForCausalLM.from_pretrained(full.folder, trust_remote_code=False)
    assert torch.allclose(loaded(probe).logits, full.load()(probe).logits, atol=1e-5)
    shutil.copytree(full.folder, "models/tiny/tuned")
    assert weights_digest("tiny/tuned") == weights_in(full.folder).sha256
    assert "models/" not in (full.folder / "config.json").read_text("utf-8")


def test_a_model_is_saved_in_the_dtype_of_the_recipe_and_loaded_in_that_of_the_base(workspace):
    full = train(replace(RECIPES["model"], dtype="bfloat16"), workspace)
    assert {tensor.dtype for tensor in load_file(full.file).values()} == {torch.bfloat16}
    assert AutoConfig.from_pretrained(full.folder).dtype == torch.bfloat16
    assert full.verify(PROBE)["output_change"] > 0
    assert full.load(base=load_base(full.recipe, dtype=torch.float32)).dtype == torch.float32


def in_two_files(full):
    """The same tensors in several files with an index, as of a large model."""
    tensors = load_file(full.file)
    full.file.unlink()
    save_torch_state_dict(tensors, full.folder, max_shard_size=60_000, metadata={"format": "pt"})
    assert len(list(full.folder.glob("model-*.safetensors"))) > 1


def test_a_model_in_several_files_is_the_same_model_and_its_index_names_no_other_file(full):
    one, probe = weights_in(full.folder).sha256, torch.tensor([PROBE])
    expected = full.load()(probe).logits
    in_two_files(full)
    weights = weights_in(full.folder)
    assert torch.equal(full.load()(probe).logits, expected) and weights.sha256 != one and full.verify(PROBE)
    last = max(full.folder.glob("model-*.safetensors"))
    index = full.folder / "model.safetensors.index.json"
    saved = index.read_text("utf-8")
    for content in (saved.replace(last.name, "../model.safetensors"), saved.replace(last.name, "x.bin"), "[]", "{"):
        index.write_text(content, encoding="utf-8")
        with pytest.raises(InputError, match=rf"^{full.folder}: the index .*restore it"):
            full.load()
    index.write_text(saved, encoding="utf-8")
    of_first = load_file(min(full.folder.glob("model-*.safetensors")))
    save_file(load_file(last) | of_first, last)
    with pytest.raises(InputError, match=f"{last.name}: repeats {min(of_first)} of another file"):
        full.load()
    last.unlink()
    with pytest.raises(InputError, match="is missing"):
        full.load()


def test_a_model_of_another_class_is_saved_and_loaded_by_the_class_that_is_given(workspace):
    recipe = RECIPES["model"]
    config = AutoConfig.from_pretrained(f"models/{TINY_MODEL}", num_labels=3)
    model = AutoModelForSequenceClassification.from_config(config)
    weights = FullModel(workspace / "model")
    weights.save(model, recipe, model.state_dict())
    with torch.device("meta"):
        base = AutoModelForSequenceClassification.from_config(config)
    probe = torch.tensor([PROBE])
    assert torch.equal(weights_in(weights.folder).load(base, recipe)(probe).logits, model.eval()(probe).logits)
    with torch.device("meta"):
        base = AutoModelForSequenceClassification.from_config(
            config.__class__(**{**config.to_dict(), "num_labels": 2})
        )
    with pytest.raises(InputError, match=r"1 tensors do not fit tiny/llama and the recipe, first score.weight"):
        weights_in(weights.folder).load(base, recipe)
