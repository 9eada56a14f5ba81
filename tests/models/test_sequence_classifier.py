"""A base model with a head over labels: what is loaded, batches of similar length, logits."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_model import build_tiny_encoder
from trl import ModelConfig

from radrecipes.errors import InputError
from radrecipes.models.base import load_base, load_tokenizer
from radrecipes.models.sequence_classifier import batches_by_length, longest_input, predict_logits, token_ids

ENCODER = ModelConfig(model_name_or_path="tiny/bert", dtype="float32")
LABELS = ["CT Head", "MR Knee", "MR Brain"]
TEXTS = ["knee", "worst headache of life, r/o bleed", "", "chronic knee pain", "knee pain " * 100]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return build_tiny_encoder(tmp_path / "models", "tiny/bert")


def classifier(model=ENCODER, labels=LABELS):
    torch.manual_seed(0)
    return load_base(model, labels=labels).eval()


def test_only_the_head_of_an_encoder_may_be_random(folder, capfd):
    model = classifier()
    assert model.config.id2label == dict(enumerate(LABELS)) and model.config.num_labels == 3
    assert torch.equal(model.classifier.weight, classifier().classifier.weight)
    assert "MISSING" not in "".join(capfd.readouterr())
    tensors = load_file(folder / "model.safetensors")
    # A pooling layer belongs to the head: encoders that predict masked words lack it.
    save_file({name: tensor for name, tensor in tensors.items() if "pooler" not in name}, folder / "model.safetensors")
    assert classifier().config.num_labels == 3
    save_file(
        {name: tensor for name, tensor in tensors.items() if "layer.1." not in name}, folder / "model.safetensors"
    )
    with pytest.raises(InputError, match=r"config\.json has 2 layers"):
        classifier()


def test_a_causal_model_gets_a_head_too(shared_workspace, monkeypatch):
    monkeypatch.chdir(shared_workspace)
    llama = ModelConfig(model_name_or_path="tiny/llama", dtype="float32")
    model, tokenizer = classifier(llama), load_tokenizer(llama)
    rows = token_ids(tokenizer, TEXTS[:2], longest_input(tokenizer, model.config))
    together = predict_logits(model, tokenizer, rows)
    alone = np.concatenate([predict_logits(model, tokenizer, [row]) for row in rows])
    assert together.shape == (2, 3) and together == pytest.approx(alone, abs=1e-5)


def test_logits_are_those_of_each_text_alone_in_its_place(folder):
    model, tokenizer = classifier(), load_tokenizer(ENCODER)
    rows = token_ids(tokenizer, TEXTS, longest_input(tokenizer, model.config))
    done = []
    logits = predict_logits(model, tokenizer, rows, 2, done.append)
    assert logits.dtype == np.float64 and done == [2, 2, 1]
    with torch.inference_mode():
        for row, found in zip(rows, logits, strict=True):
            assert model(torch.tensor([row])).logits[0].tolist() == pytest.approx(found.tolist(), abs=1e-5)
    assert model(torch.tensor([rows[0]])).logits.argmax() in range(3)


def test_a_long_text_loses_its_end_and_keeps_its_special_tokens(folder):
    tokenizer = load_tokenizer(ENCODER)
    longest = longest_input(tokenizer, classifier().config)
    (row,) = token_ids(tokenizer, ["knee " * 500], longest)
    assert longest == len(row) == 64 and (row[0], row[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    tokenizer.model_max_length = 10**30
    assert longest_input(tokenizer, type("Config", (), {})()) is None
    assert len(token_ids(tokenizer, ["knee " * 500], None)[0]) > 500


def test_batches_contain_every_row_once_the_longest_first():
    lengths = [3, 9, 1, 9, 4]
    batches = batches_by_length(lengths, 2)
    assert batches == [[1, 3], [4, 0], [2]]
    assert batches_by_length([], 2) == []
