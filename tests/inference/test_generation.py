"""Batched, left-padded generation against one prompt at a time through the plain model."""

import pytest
import torch
from tiny_model import build_tiny_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from radrecipes.inference.generation import DrawToken, Sampling, as_text, generate, generate_ids, shared_prefix
from radrecipes.models.base import carries_state

STOPS = [2]
MOST_TOKENS = 10
RECURRENT = {
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "attn_layer_indices": [1],
}


@pytest.fixture(scope="module")
def tokenizer():
    return build_tiny_tokenizer()


@pytest.fixture(scope="module", params=["llama", "biogpt", "bamba"])
def model(tokenizer, request):
    """Random, with weights so large that the prompt decides what is written, and a head that likes to stop.

    Llama turns keys by their position; BioGPT learned a vector for each, so that a position counted wrongly shows at once; Bamba
    carries a state, into which no padding may go.
    """
    config = AutoConfig.for_model(
        request.param,
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.5,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        **(RECURRENT if request.param == "bamba" else {}),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight[2] *= 3.0
    return model


@pytest.fixture(scope="module")
def prompts():
    source = torch.Generator().manual_seed(4)
    lengths = [1, 3, 30, 7, 7, 12, 2, 21, 5, 16, 9, 4]
    return [torch.randint(3, 250, (length,), generator=source).tolist() for length in lengths]


def one_at_a_time(model, tokenizer, prompts):
    """Text, whether it stopped, and tokens, by the largest logit one token at a time, without padding or cache."""
    answers = []
    for prompt in prompts:
        ids, stopped = list(prompt), False
        while len(ids) - len(prompt) < MOST_TOKENS and not stopped:
            with torch.no_grad():
                ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
            stopped = ids[-1] in STOPS
        text = tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True).strip()
        answers.append((text, stopped, len(ids) - len(prompt)))
    return answers


@pytest.fixture(scope="module")
def naive(model, tokenizer, prompts):
    return one_at_a_time(model, tokenizer, prompts)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_batches_answer_as_one_prompt_at_a_time(batch_size, model, tokenizer, prompts, naive):
    # Else the test would not tell a cut answer from a stopped one, or one prompt's answer from another's.
    assert {stopped for _, stopped, _ in naive} == {True, False} and len(set(naive)) > 6

    found = generate(model, tokenizer, prompts, STOPS, MOST_TOKENS, batch_size)
    assert [(answer.text, answer.stopped, answer.generated_tokens) for answer in found] == naive


def test_prompts_that_begin_alike_answer_as_one_at_a_time(model, tokenizer, prompts):
    """Their beginning is computed once, and the padding is between it and the rest of a shorter prompt."""
    alike = [[2, 17, 5, 33, 8, 41, *prompt] for prompt in prompts]  # from the stop token on, as BioGPT's prompts are
    assert shared_prefix(model, alike)[0] == (0 if carries_state(model.config) else 6)
    found = generate(model, tokenizer, alike, STOPS, MOST_TOKENS, batch_size=5)
    expected = one_at_a_time(model, tokenizer, alike)
    assert len(set(expected)) > 6
    assert [(answer.text, answer.stopped, answer.generated_tokens) for answer in found] == expected


def test_every_stop_token_ends_an_answer(model, tokenizer, prompts, naive):
    long = next(index for index, (_, _, tokens) in enumerate(naive) if tokens == MOST_TOKENS)
    unstopped = model.generate(
        torch.tensor([prompts[long]]), max_new_tokens=3, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    second = int(unstopped[0, len(prompts[long]) + 1])
    answer = generate(model, tokenizer, [prompts[long]], [2, second], MOST_TOKENS)[0]
    assert answer.stopped and answer.generated_tokens <= 2


def test_progress_is_reported_after_every_batch(model, tokenizer, prompts):
    told = []
    generate(model, tokenizer, prompts, STOPS, 2, 5, on_progress=told.append)
    # Padding would enter a state, so such a model gets only prompts of one length together.
    assert told == ([1, 1, 1, 1, 1, 2, 1, 1, 1, 1, 1] if carries_state(model.config) else [5, 5, 2])


def test_no_prompts_give_no_answers(model, tokenizer):
    assert generate(model, tokenizer, [], STOPS, 2) == []


def test_generation_settings_of_the_model_are_not_used(model, tokenizer, prompts, naive, monkeypatch):
    """A base model may ship sampling settings; answers are greedy all the same."""
    monkeypatch.setattr(model.generation_config, "do_sample", True)
    monkeypatch.setattr(model.generation_config, "temperature", 5.0)
    monkeypatch.setattr(model.generation_config, "repetition_penalty", 3.0)
    found = generate(model, tokenizer, prompts, STOPS, MOST_TOKENS, 4)
    assert [answer.text for answer in found] == [text for text, _, _ in naive]


@pytest.mark.parametrize("prefix", [0, 9])
def test_several_texts_to_a_prompt_are_those_that_it_gets_alone(model, tokenizer, prompts, prefix):
    prompts = [list(range(10, 10 + prefix)) + prompt for prompt in prompts]
    found = generate_ids(model, tokenizer, prompts, STOPS, MOST_TOKENS, batch_size=6, samples=3)
    expected = one_at_a_time(model, tokenizer, prompts)
    for texts, (text, stopped, tokens) in zip(found, expected, strict=True):
        assert len(texts) == 3 and texts[0] == texts[1] == texts[2] and len(texts[0]) == tokens
        written = as_text(texts[0], STOPS, tokenizer)
        assert (written.text, written.stopped) == (text, stopped)


def test_sampled_texts_to_a_prompt_differ_and_are_repeatable(model, tokenizer, prompts):
    first, again = (
        generate_ids(model, tokenizer, prompts[:3], STOPS, MOST_TOKENS, sampling=Sampling(2.0, seed=5), samples=4)
        for _ in range(2)
    )
    assert first == again and all(len({tuple(text) for text in texts}) > 1 for texts in first)


def test_tokens_are_drawn_with_their_probabilities():
    torch.manual_seed(0)
    logits = torch.tensor([2.0, -torch.inf, 0.0, 1.0, -3.0, -torch.inf])
    kept = DrawToken(temperature=0.7)(None, logits.repeat(100_000, 1))
    assert torch.equal(kept.exp().sum(1), torch.ones(len(kept)))  # exactly one of each
    expected = (logits / 0.7).softmax(0)
    counts = torch.bincount(kept.argmax(1), minlength=6)
    assert counts[[1, 5]].sum() == 0
    assert torch.allclose(counts / len(kept), expected, atol=5 * 0.5 / len(kept) ** 0.5)
