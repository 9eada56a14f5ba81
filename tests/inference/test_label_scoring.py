"""Label scoring gives what scoring every label on its own gives, whatever the layout, and says what it left out."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from scipy.special import logsumexp
from tiny_model import build_tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from radrecipes.errors import InputError
from radrecipes.inference import label_scoring
from radrecipes.inference.label_scoring import LabelScorer, LabelTrie, score_separately

LABELS = [
    "CT Head",
    "CT Head and Neck",
    "CT Dedicated Kidney",
    "CTA Head",
    "MR Brain",
    "MR Brain Stroke",
    "MR Knee",
    "XR",
]
NOTES = [
    "r/o bleed",
    "c/f stroke, 71 yo M, sudden onset weakness",
    "knee pain",
    "r/o bleed",
    "hx RCC s/p nephrectomy" * 4,
]


def load(folder, **options):
    torch.manual_seed(3)
    return AutoModelForCausalLM.from_pretrained(folder, **options).eval()


def tokens(folder):
    """Tokenizer, prompts that begin alike, and labels with their stop token."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompts = [
        tokenizer(f"Choose the imaging protocol for this order.\n{note}\nAnswer:")["input_ids"] for note in NOTES
    ]
    completions = [[*tokenizer(" " + label)["input_ids"], tokenizer.eos_token_id] for label in LABELS]
    return tokenizer, prompts, completions


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return build_tiny_model(tmp_path_factory.mktemp("models"), "tests/llama")


@pytest.mark.parametrize("grouped_query", [True, False])
@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma2", "mistral", "phi3", "biogpt", "gpt_neox"])
def test_equals_scoring_every_label_on_its_own(architecture, grouped_query, tmp_path):
    folder = build_tiny_model(tmp_path, "tests/model", architecture, grouped_query)
    tokenizer, prompts, completions = tokens(folder)
    model = load(folder)
    expected = score_separately(model, tokenizer.pad_token_id, prompts, completions)
    for batch_size in (1, 3, 32):
        scores = LabelScorer(model, tokenizer, completions, left_out_mass=0.0).score(prompts, batch_size)
        np.testing.assert_allclose(scores.log_likelihoods, expected, atol=1e-4, rtol=0)
        assert not scores.left_out.any()


@pytest.mark.parametrize(
    ("architecture", "fields"),
    [
        ("bamba", {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "attn_layer_indices": [1]}),
        ("mamba2", {"num_heads": 4, "head_dim": 16, "state_size": 8}),
    ],
)
def test_a_model_that_carries_a_state_scores_every_label_on_its_own(architecture, fields, tmp_path):
    fields |= {"mamba_n_groups" if architecture == "bamba" else "n_groups": 1, "initializer_range": 0.3}
    folder = build_tiny_model(tmp_path, "tests/model", architecture, **fields)
    tokenizer, prompts, completions = tokens(folder)
    model = load(folder)
    scores = LabelScorer(model, tokenizer, completions).score(prompts, 3)
    for prompt, row in zip(prompts, scores.log_likelihoods, strict=True):
        for completion, found in zip(completions, row, strict=True):
            with torch.inference_mode():
                predicted = model(input_ids=torch.tensor([prompt + completion])).logits[0].log_softmax(-1)
            expected = sum(
                float(predicted[len(prompt) - 1 + offset, token]) for offset, token in enumerate(completion)
            )
            assert found == pytest.approx(expected, abs=1e-3)
    assert not scores.left_out.any()


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_the_tokenizers_padding_side_changes_nothing(padding_side, llama):
    tokenizer, prompts, completions = tokens(llama)
    tokenizer.padding_side = padding_side
    model = load(llama)
    # The sequence scores as the tokenizer pads them: the naive reference of this test
    expected = np.empty((len(prompts), len(completions)))
    for row, prompt in enumerate(prompts):
        for column, completion in enumerate(completions):
            batch = tokenizer.pad(
                {"input_ids": [prompt + completion, prompts[-1] + completions[-1]]}, return_tensors="pt"
            )
            positions = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
            with torch.inference_mode():
                predicted = model(**batch, position_ids=positions).logits.log_softmax(-1)
            start = int(batch["attention_mask"][0].argmax()) + len(prompt)
            expected[row, column] = sum(
                predicted[0, start + offset - 1, token] for offset, token in enumerate(completion)
            )
    scores = LabelScorer(model, tokenizer, completions, left_out_mass=0.0).score(prompts)
    np.testing.assert_allclose(scores.log_likelihoods, expected, atol=1e-4, rtol=0)


def test_adapters_merged_and_quantised_models_are_scored_alike(llama):
    tokenizer, prompts, completions = tokens(llama)
    torch.manual_seed(5)
    adapted = get_peft_model(load(llama), LoraConfig(target_modules="all-linear", init_lora_weights=False)).eval()
    scores = LabelScorer(adapted, tokenizer, completions, left_out_mass=0.0).score(prompts).log_likelihoods
    expected = score_separately(adapted, tokenizer.pad_token_id, prompts, completions)
    np.testing.assert_allclose(scores, expected, atol=1e-4, rtol=0)
    plain = score_separately(load(llama), tokenizer.pad_token_id, prompts, completions)
    assert np.abs(expected - plain).max() > 0.01

    merged = adapted.merge_and_unload()
    scores = LabelScorer(merged, tokenizer, completions, left_out_mass=0.0).score(prompts).log_likelihoods
    np.testing.assert_allclose(scores, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_models_are_scored_alike(bits, tmp_path):
    folder = build_tiny_model(tmp_path, "tests/model", hidden_size=128)
    tokenizer, prompts, completions = tokens(folder)
    quantised = load(
        folder, quantization_config=BitsAndBytesConfig(**{f"load_in_{bits}bit": True}), dtype=torch.float32
    )
    scores = LabelScorer(quantised, tokenizer, completions, left_out_mass=0.0).score(prompts).log_likelihoods
    expected = score_separately(quantised, tokenizer.pad_token_id, prompts, completions)
    # 8-bit rounds every activation: a last-bit difference before it can become a whole step after it.
    np.testing.assert_allclose(scores, expected, atol=1e-4 if bits == 4 else 0.1, rtol=0)


def peaked_model(folder):
    """A model whose next-token distributions are as sharp as a fine-tuned model's."""
    model = load(folder)
    model.lm_head.weight.data *= 60
    return model


@pytest.mark.parametrize("left_out_mass", [1e-6, 1e-3, 0.05])
def test_what_is_left_out_could_not_matter(left_out_mass, llama):
    tokenizer, prompts, completions = tokens(llama)
    model = peaked_model(llama)
    whole = LabelScorer(model, tokenizer, completions, left_out_mass=0.0).score(prompts).log_likelihoods
    scores = LabelScorer(model, tokenizer, completions, left_out_mass=left_out_mass).score(prompts)
    assert scores.left_out.any() and not scores.left_out.all(axis=1).any()
    np.testing.assert_allclose(
        scores.log_likelihoods[~scores.left_out], whole[~scores.left_out], atol=1e-4 * 60, rtol=0
    )
    # In truth each of these labels has less than the allowed share
    shares = np.exp(whole - logsumexp(whole, axis=1, keepdims=True))
    assert shares[scores.left_out].max() <= left_out_mass * (1 + 1e-3)
    bound = np.exp(scores.log_likelihoods - logsumexp(whole, axis=1, keepdims=True))
    assert bound[scores.left_out].max() <= left_out_mass * (1 + 1e-3)


def test_labels_without_a_common_beginning_and_a_list_of_one(llama):
    tokenizer, prompts, _ = tokens(llama)
    model = load(llama)
    completions = [[token, tokenizer.eos_token_id] for token in range(20, 60)]
    scores = LabelScorer(model, tokenizer, completions, left_out_mass=0.0).score(prompts).log_likelihoods
    expected = score_separately(model, tokenizer.pad_token_id, prompts, completions)
    np.testing.assert_allclose(scores, expected, atol=1e-4, rtol=0)
    one = LabelScorer(model, tokenizer, completions[:1], left_out_mass=0.0).score(prompts[:1]).log_likelihoods
    np.testing.assert_allclose(one, expected[:1, :1], atol=1e-4, rtol=0)


def test_equal_prompts_are_computed_once_and_progress_counts_them_all(llama, monkeypatch):
    tokenizer, prompts, completions = tokens(llama)
    model, seen, passes = load(llama), [], []
    monkeypatch.setattr(
        model, "forward", lambda *args, **kw: passes.append(1) or type(model).forward(model, *args, **kw)
    )
    scorer = LabelScorer(model, tokenizer, completions)
    scorer.score(prompts[:1])
    passes.clear()
    scores = scorer.score(prompts[:1] * 50, batch_size=1, on_progress=seen.append).log_likelihoods
    assert sum(seen) == 50 and len(passes) < 10
    assert (scores == scores[0]).all()
    assert scorer.score([]).log_likelihoods.shape == (0, len(LABELS))


def test_a_model_that_ignores_the_mask_is_refused(llama, monkeypatch):
    tokenizer, prompts, completions = tokens(llama)
    model = load(llama)
    model.model.embed_tokens.weight.data *= 20

    def blind(*args, attention_mask=None, **kw):
        mask = (
            torch.zeros_like(attention_mask)
            if attention_mask is not None and attention_mask.ndim == 4
            else attention_mask
        )
        return type(model).forward(model, *args, attention_mask=mask, **kw)

    monkeypatch.setattr(model, "forward", blind)
    with pytest.raises(InputError, match="decode: generate"):
        LabelScorer(model, tokenizer, completions).score(prompts)


def test_one_note_that_rounding_moves_far_is_not_a_reason_to_refuse(llama, monkeypatch):
    tokenizer, prompts, completions = tokens(llama)
    longest = max(prompts, key=len)  # the first of the first batch

    def moved(model, pad_token_id, rows, labels):
        return score_separately(model, pad_token_id, rows, labels) + (rows == [longest])

    monkeypatch.setattr(label_scoring, "score_separately", moved)
    LabelScorer(load(llama), tokenizer, completions).score(prompts)
    with pytest.raises(InputError, match="differently from a single one"):
        LabelScorer(load(llama), tokenizer, completions).score([longest])


def test_a_model_that_cannot_take_the_mask_is_refused(tmp_path):
    folder = build_tiny_model(tmp_path, "tests/model", "bloom")
    tokenizer, prompts, completions = tokens(folder)
    with pytest.raises(InputError, match=r"does not support several labels in a row|differently from a single one"):
        LabelScorer(load(folder), tokenizer, completions).score(prompts)


def test_a_sliding_window_shorter_than_a_prompt_is_refused(llama):
    tokenizer, prompts, completions = tokens(llama)
    model = load(llama)
    model.config.sliding_window = 8
    with pytest.raises(InputError, match=r"attends to 8 tokens.*decode: generate"):
        LabelScorer(model, tokenizer, completions).score(prompts)


def test_labels_with_the_same_tokens_are_refused():
    with pytest.raises(InputError, match="same tokens"):
        LabelTrie([[1, 2, 0], [1, 2, 0]])
    with pytest.raises(InputError, match="has none"):
        LabelTrie([[1, 0], []])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.integers(1, 4), max_size=6).map(tuple), min_size=1, max_size=12, unique=True))
def test_the_trie_contains_every_label_once_and_knows_its_ancestors(labels):
    completions = [[*label, 0] for label in labels]
    trie = LabelTrie(completions)
    assert len(set(trie.leaves)) == len(labels) and trie.labels_below[0] == len(labels)
    assert len(trie.tokens) == 1 + len({tuple(label[: end + 1]) for label in completions for end in range(len(label))})
    for leaf, completion in zip(trie.leaves, completions, strict=True):
        path = trie.paths[leaf]
        assert trie.ancestors[leaf, path].all()
        assert [trie.tokens[node] for node in path[1:]] == completion and trie.is_leaf(leaf)
        assert trie.ancestors[leaf].sum() == len(completion) + 1
    # Every inner node is part of exactly one chain that starts below the root or after a fork
    chained = []
    for node in range(1, len(trie.tokens)):
        parent = trie.paths[node][-2]
        if not trie.is_leaf(node) and (parent == 0 or len(trie.children[parent]) > 1):
            chained += trie.chain(node)
    assert sorted(chained) == [node for node in range(1, len(trie.tokens)) if not trie.is_leaf(node)]
