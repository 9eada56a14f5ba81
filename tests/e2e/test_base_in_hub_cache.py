"""A base model that is in the Hub's cache instead of `models/`: the same weights answer, others are refused."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import TINY_MODEL
from hub_cache import lay_in_hub_cache
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from e2e.conftest import RECIPE, RUN
from radrecipes.inference.predictors import predictor
from radrecipes.models import base as models
from radrecipes.training import run

REVISION = "0a1b2c3d4e5f60718293a4b5c6d7e8f901234567"  # the tiny recipe's
PREDICT = ("predict", "--adapter", RUN, "--text", "knee pain")


@pytest.fixture
def cache(finished_copy, tmp_path, monkeypatch) -> Path:
    """An empty cache; the base that the run was trained on waits under `elsewhere/`."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    shutil.move(f"models/{TINY_MODEL}", "elsewhere")
    return tmp_path / "hub-cache"


def change_a_weight():
    file = "elsewhere/model.safetensors"
    tensors = load_file(file)
    name = next(iter(tensors))
    save_file({**tensors, name: tensors[name] + 1e-3}, file, metadata={"format": "pt"})


def test_the_weights_of_training_answer_from_the_cache_too(cache, call):
    lay_in_hub_cache(cache, TINY_MODEL, REVISION, Path("elsewhere"))
    done = call(*PREDICT)
    assert done.code == 0, done.stderr


def test_other_weights_in_the_cache_are_refused(cache, call):
    change_a_weight()
    lay_in_hub_cache(cache, TINY_MODEL, REVISION, Path("elsewhere"))
    done = call(*PREDICT)
    assert done.code == 2 and "trained on other weights" in done.stderr and "--allow-other-weights" in done.stderr
    assert call(*PREDICT, "--allow-other-weights").code == 0


@pytest.mark.parametrize("changed", [False, True])
def test_weights_that_arrive_while_they_are_loaded_are_compared_then(changed, cache, call, monkeypatch):
    # In place of the download: tokenizer and configuration are there before, the weights only after a request for them.
    snapshot = lay_in_hub_cache(cache, TINY_MODEL, REVISION, Path("elsewhere"))
    (snapshot / "model.safetensors").unlink()
    if changed:
        change_a_weight()
    load_base = models.load_base

    def download_and_load(*words, **named):
        shutil.copy("elsewhere/model.safetensors", snapshot)
        return load_base(*words, **named)

    monkeypatch.setattr(predictor, "load_base", download_and_load)
    done = call(*PREDICT)
    assert done.code == (2 if changed else 0), done.stderr
    assert ("trained on other weights" in done.stderr) is changed


def test_training_knows_the_weights_that_it_had_to_download(cache, call, monkeypatch):
    # Otherwise the run that resumes would take them for others than those of the checkpoint.
    snapshot = lay_in_hub_cache(cache, TINY_MODEL, REVISION, Path("elsewhere"))
    (snapshot / "model.safetensors").unlink()
    load_base = models.load_base

    def download_and_load(*words, **named):
        shutil.copy("elsewhere/model.safetensors", snapshot)
        return load_base(*words, **named)

    monkeypatch.setattr(run, "load_base", download_and_load)
    words = ("sft", "--config", RECIPE, "--output_dir", "runs/downloaded")
    assert call(*words, "--stop-after", "3").code == 75
    done = call(*words)
    assert done.code == 0, done.stderr
    assert "resuming after step 3" in done.stdout
    manifest = json.loads(Path("runs/downloaded/manifest.json").read_text("utf-8"))
    assert manifest["base"]["weights_sha256"] == models.weights_digest(TINY_MODEL, REVISION) is not None
