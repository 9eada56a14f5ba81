"""A head on a base model: where it reads, in which precision, and which weights may be new."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_model import build_tiny_encoder, build_tiny_model
from transformers import AutoModelForSequenceClassification
from trl import ModelConfig

from radrecipes.errors import InputError
from radrecipes.models.base import load_base
from radrecipes.models.classification_head import classification_head, head_at, is_encoder

LABELS = ["CT Head", "MR Brain", "MR Knee"]
ROWS = [[5, 6, 7, 8, 9, 10, 11], [5, 6, 12], [5, 6, 7, 7, 7]]
CAUSAL = ModelConfig(model_name_or_path="tiny/causal", dtype="float32", lora_task_type="SEQ_CLS", use_peft=True)
ENCODER = replace(CAUSAL, model_name_or_path="tiny/bert", use_peft=False)


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "models"


def naive(model, row):
    """Transformers' own forward pass of one row, of which the last token is no padding."""
    with torch.inference_mode():
        return model(input_ids=torch.tensor([row])).logits[0]


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma2", "mistral", "phi3", "biogpt", "gpt_neox", "gpt2"])
def test_a_head_at_the_last_tokens_gives_what_each_row_gives_alone(architecture, root):
    build_tiny_model(root, "tiny/causal", architecture, initializer_range=0.3)
    model = load_base(CAUSAL, labels=LABELS).eval()
    assert not is_encoder(model.config)
    expected = [naive(model, row) for row in ROWS]
    assert not torch.allclose(expected[0], expected[1], atol=1e-2)
    model.config.pad_token_id = 9  # a token of the first row: padding is what the mask says, whatever the id
    for side in ("right", "left"):
        ids, mask = torch.full((3, 9), 9), torch.zeros(3, 9, dtype=torch.long)
        begins = [0 if side == "right" else 9 - len(row) for row in ROWS]
        for number, (row, begin) in enumerate(zip(ROWS, begins, strict=True)):
            ids[number, begin : begin + len(row)] = torch.tensor(row)
            mask[number, begin : begin + len(row)] = 1
        ends = torch.tensor([[begin + len(row) - 1] for row, begin in zip(ROWS, begins, strict=True)])
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        with torch.inference_mode(), head_at(model, ends):
            logits = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
        assert logits.shape == (3, 1, 3)
        torch.testing.assert_close(logits[:, 0], torch.stack(expected), atol=1e-4, rtol=0)
    # The hooks are gone
    model.config.pad_token_id = 0
    torch.testing.assert_close(naive(model, ROWS[0]), expected[0])


def test_a_head_computes_in_float32_on_a_bfloat16_base(root):
    build_tiny_model(root, "tiny/causal")
    model = load_base(replace(CAUSAL, dtype="bfloat16"), labels=LABELS).eval()
    assert model.model.embed_tokens.weight.dtype == torch.bfloat16
    assert classification_head(model).weight.dtype == torch.float32
    assert naive(model, ROWS[0]).dtype == torch.float32


def test_a_model_with_a_head_names_its_labels_and_loads_in_transformers(root):
    build_tiny_encoder(root, "tiny/bert")
    model = load_base(ENCODER, labels=LABELS).eval()
    assert is_encoder(model.config)
    model.save_pretrained(root / "saved")
    plain = AutoModelForSequenceClassification.from_pretrained(root / "saved").eval()
    assert plain.config.id2label == dict(enumerate(LABELS))
    torch.testing.assert_close(naive(plain, ROWS[0]), naive(model, ROWS[0]))


def test_the_seed_decides_a_new_head(root):
    build_tiny_model(root, "tiny/causal")

    def head(seed):
        torch.manual_seed(seed)
        return classification_head(load_base(CAUSAL, labels=LABELS)).weight

    assert torch.equal(head(1), head(1)) and not torch.equal(head(1), head(2))


def test_a_layer_before_the_head_may_be_new_only_if_it_is_trained(root):
    folder = build_tiny_encoder(root, "tiny/bert")
    tensors = load_file(folder / "model.safetensors")
    save_file({name: it for name, it in tensors.items() if "pooler" not in name}, folder / "model.safetensors")
    assert load_base(ENCODER, labels=LABELS).bert.pooler.dense.weight.std() > 0
    with pytest.raises(InputError, match=r"lack bert\.pooler\.dense\.bias.*set `use_peft: false`, which trains it"):
        load_base(replace(ENCODER, use_peft=True), labels=LABELS)
    save_file({name: it for name, it in tensors.items() if "layer.1" not in name}, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"layers and the weights have|lack bert\.encoder.*download tiny/bert again"):
        load_base(ENCODER, labels=LABELS)


def test_an_architecture_without_a_head_is_refused(root):
    fields = {"num_heads": 4, "head_dim": 16, "state_size": 8, "n_groups": 1}
    build_tiny_model(root, "tiny/causal", "mamba2", **fields)
    with pytest.raises(InputError, match="has no mamba2 with a classification head; set `decode: score`"):
        load_base(CAUSAL, labels=LABELS)
    assert "architectures" in json.loads((root / "tiny/causal/config.json").read_text("utf-8"))
