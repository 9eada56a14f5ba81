"""A head's scores are those of each prompt alone, whatever the batch, the prefix and the order of the labels."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_model import build_tiny_encoder, build_tiny_model
from transformers import AutoTokenizer
from trl import ModelConfig

from radrecipes.inference.head_scoring import HeadScorer
from radrecipes.models.base import load_base

LABELS = ["CT Head", "MR Brain", "MR Knee", "XR"]
NOTES = ["r/o bleed", "c/f stroke, 71 yo M, sudden onset weakness", "knee pain", "r/o bleed", "s/p nephrectomy " * 3]
CAUSAL = ModelConfig(model_name_or_path="tiny/causal", dtype="float32", lora_task_type="SEQ_CLS", use_peft=True)


@pytest.fixture(params=["llama", "qwen3", "gemma3_text", "mistral", "biogpt", "bert"])
def scored(request, tmp_path, monkeypatch):
    """Model, tokenizer, prompts that begin alike, and the scores of each prompt alone."""
    monkeypatch.chdir(tmp_path)
    root, model = tmp_path / "models", CAUSAL
    if request.param == "bert":
        folder = build_tiny_encoder(root, "tiny/bert", initializer_range=0.3)
        model = replace(CAUSAL, model_name_or_path="tiny/bert", use_peft=False)
    else:
        window = {"sliding_window": 24} if request.param == "mistral" else {}
        folder = build_tiny_model(root, "tiny/causal", request.param, initializer_range=0.3, **window)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(1)
    classifier = load_base(model, labels=LABELS).eval()
    prompts = [tokenizer(f"Choose the imaging protocol. {note}")["input_ids"] for note in NOTES]
    with torch.inference_mode():
        alone = [classifier(input_ids=torch.tensor([prompt])).logits[0].log_softmax(-1) for prompt in prompts]
    return classifier, tokenizer, prompts, torch.stack(alone).double().numpy()


def test_equals_each_prompt_alone(scored):
    model, tokenizer, prompts, expected = scored
    assert np.ptp(expected, axis=0).max() > 0.1
    for batch_size in (1, 3, 32):
        done = []
        scores = HeadScorer(model, tokenizer, range(4)).score(prompts, batch_size, done.append)
        np.testing.assert_allclose(scores.log_likelihoods, expected, atol=1e-4, rtol=0)
        assert not scores.left_out.any() and sum(done) == len(prompts)
    order = [2, 0, 3, 1]
    np.testing.assert_allclose(
        HeadScorer(model, tokenizer, order).score(prompts).log_likelihoods, expected[:, order], atol=1e-4, rtol=0
    )
    assert HeadScorer(model, tokenizer, order).score([]).log_likelihoods.shape == (0, 4)


def test_a_prompt_may_end_with_the_padding_token(scored):
    model, tokenizer, prompts, expected = scored
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(prompts[0][-1])
    scores = HeadScorer(model, tokenizer, range(4)).score(prompts)
    np.testing.assert_allclose(scores.log_likelihoods, expected, atol=1e-4, rtol=0)
