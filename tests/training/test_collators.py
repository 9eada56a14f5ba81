"""Both layouts contain every example exactly once, and the mask shows each token what it would see alone."""

import time

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from radrecipes.training.collators import (
    _ATTENTION_PARITY_TOKENS,
    IGNORED,
    PaddedCollator,
    SharedPrefixCollator,
    divide_into_rows,
    shared_prefix_length,
)

PAD = 0


def example(prompt, answer):
    return {"input_ids": [*prompt, *answer], "labels": [IGNORED] * len(prompt) + list(answer)}


@st.composite
def batches(draw):
    """Up to eight examples; few distinct tokens, so that beginnings really are shared."""
    tokens = st.integers(1, 3)
    beginning = draw(st.lists(tokens, max_size=10))
    prompts = st.lists(tokens, min_size=1, max_size=8).map(lambda own: beginning + own)
    answers = st.lists(tokens, min_size=1, max_size=4)
    return draw(st.lists(st.builds(example, prompts, answers), min_size=1, max_size=8))


def read_back(batch):
    """Every example of a shared-prefix batch, rebuilt from mask, positions and labels alone.

    A row's parts are told apart by the mask: the last token of a part is seen by no later token, and what it sees is its
    whole example.
    """
    found = []
    visible = batch["attention_mask"][:, 0] == 0
    for row in range(len(visible)):
        length = int((batch["input_ids"][row] != PAD).sum())
        seen_later = [bool(visible[row, index + 1 : length, index].any()) for index in range(length)]
        for last in [index for index, seen in enumerate(seen_later) if not seen]:
            own = visible[row, last].nonzero().flatten()
            assert batch["position_ids"][row, own].tolist() == list(range(len(own)))
            found.append((batch["input_ids"][row, own].tolist(), batch["labels"][row, own].tolist()))
    return found


def check_contains_each_example_once(examples, batch):
    found = read_back(batch)
    wanted = [(one["input_ids"], one["labels"]) for one in examples]
    assert sorted(found) == sorted(wanted)


@settings(max_examples=150, deadline=None)
@given(batches(), st.integers(1, 60))
def test_shared_prefix_layout_contains_every_example_exactly_once(examples, row_tokens):
    batch = SharedPrefixCollator(PAD, torch.float32, row_tokens)(examples)

    check_contains_each_example_once(examples, batch)
    scored = sum(label != IGNORED for one in examples for label in one["labels"])
    assert int((batch["labels"] != IGNORED).sum()) == scored


@settings(max_examples=150, deadline=None)
@given(batches(), st.integers(1, 60))
def test_a_scored_token_and_its_predictor_belong_to_one_example(examples, row_tokens):
    prefix = shared_prefix_length(examples)
    batch = SharedPrefixCollator(PAD, torch.float32, row_tokens)(examples)
    visible = batch["attention_mask"][:, 0] == 0

    assert bool((batch["labels"][:, : prefix + 1] == IGNORED).all())
    for row, place in (batch["labels"] != IGNORED).nonzero().tolist():
        predictor = place - 1
        assert (
            predictor >= prefix
        )  # the beginning is there once for all examples: it cannot predict each one's own answer
        assert bool(visible[row, place, predictor])
        assert batch["position_ids"][row, place] == batch["position_ids"][row, predictor] + 1


@settings(max_examples=100, deadline=None)
@given(batches(), st.integers(1, 60))
def test_mask_shows_the_beginning_and_the_own_earlier_tokens_only(examples, row_tokens):
    prefix = shared_prefix_length(examples)
    batch = SharedPrefixCollator(PAD, torch.float32, row_tokens)(examples)
    visible = batch["attention_mask"][:, 0] == 0
    positions = batch["position_ids"]

    assert batch["attention_mask"].shape == (len(positions), 1, positions.shape[1], positions.shape[1])
    for row in range(len(positions)):
        start = prefix
        for place in range(positions.shape[1]):
            if batch["input_ids"][row, place] == PAD:
                break
            if place >= prefix and positions[row, place] == prefix:
                start = place  # a new example's own part
            wanted = [*range(prefix), *range(start, place + 1)] if place >= prefix else list(range(place + 1))
            assert visible[row, place].nonzero().flatten().tolist() == wanted


@settings(max_examples=100, deadline=None)
@given(batches(), st.integers(20, 60))
def test_rows_keep_to_their_target_length_and_no_row_is_empty(examples, row_tokens):
    prefix = shared_prefix_length(examples)
    batch = SharedPrefixCollator(PAD, torch.float32, row_tokens)(examples)
    longest = max(len(one["input_ids"]) for one in examples)

    # Filling the shortest row first, no row exceeds the mean by more than one example.
    assert (
        batch["input_ids"].shape[1] < max(row_tokens, longest) + longest - prefix + 16
    )  # rounded up to a multiple of 16
    assert batch["input_ids"].shape[1] % 32 == 0
    assert bool((batch["labels"] != IGNORED).any(dim=1).all())


def test_one_example_is_its_own_row():
    one = example([5, 6, 7], [8, 9])
    batch = SharedPrefixCollator(PAD, torch.float32, round_to=1)([one])

    assert batch["input_ids"].tolist() == [one["input_ids"]]
    assert batch["labels"].tolist() == [one["labels"]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4]]
    assert torch.equal(batch["attention_mask"][0, 0] == 0, torch.ones(5, 5, dtype=torch.bool).tril())


def test_identical_prompts_keep_their_last_token_apart():
    examples = [example([5, 6, 7], [8, 9]), example([5, 6, 7], [8, 4])]
    batch = SharedPrefixCollator(PAD, torch.float32, round_to=1)(examples)

    assert shared_prefix_length(examples) == 2
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9, 7, 8, 4]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 2, 3, 4]]


def test_examples_without_a_shared_beginning_do_not_see_each_other():
    examples = [example([5, 6], [8]), example([6, 6], [9])]
    batch = SharedPrefixCollator(PAD, torch.float32)(examples)

    assert shared_prefix_length(examples) == 0
    assert not bool((batch["attention_mask"][0, 0, 3:, :3] == 0).any())
    check_contains_each_example_once(examples, batch)


def test_an_example_longer_than_a_row_is_kept_whole():
    examples = [example(range(1, 40), [41, 42]), example(range(1, 5), [43])]
    batch = SharedPrefixCollator(PAD, torch.float32, row_tokens=8)(examples)

    check_contains_each_example_once(examples, batch)


def test_a_prompt_of_one_token_shares_nothing():
    examples = [example([5], [8, 9]), example([5], [7])]
    batch = SharedPrefixCollator(PAD, torch.float32)(examples)

    assert shared_prefix_length(examples) == 0
    check_contains_each_example_once(examples, batch)


def test_mask_is_additive_in_the_requested_dtype_and_hides_nothing_completely():
    batch = SharedPrefixCollator(PAD, torch.bfloat16, 8)([example([5, 6], [8]), example([5, 6, 7, 7, 7, 7], [9])])

    assert batch["attention_mask"].dtype == torch.bfloat16
    assert bool(torch.isfinite(batch["attention_mask"]).all())  # -inf over a whole row, padding, would give NaN
    assert bool((batch["attention_mask"] == 0).any(dim=-1).all())


@settings(max_examples=100, deadline=None)
@given(batches())
def test_padded_layout_is_the_examples_with_padding_after_them(examples):
    batch = PaddedCollator(PAD)(examples)

    for row, one in enumerate(examples):
        own = len(one["input_ids"])
        assert batch["input_ids"][row].tolist() == one["input_ids"] + [PAD] * (batch["input_ids"].shape[1] - own)
        assert batch["labels"][row, :own].tolist() == one["labels"]
        assert bool((batch["labels"][row, own:] == IGNORED).all())
        assert batch["attention_mask"][row].tolist() == [1] * own + [0] * (batch["input_ids"].shape[1] - own)


def divide_naively(lengths, beginning, row_tokens, round_to):
    """Every count of rows tried: what `divide_into_rows` must find without trying them all."""
    room = max(row_tokens - beginning, max(lengths), 1)
    fewest = max(min(len(lengths), -(-sum(lengths) // room)), 1)
    choices = []
    for count in range(fewest, len(lengths) + 1):
        rows, filled = [[] for _ in range(count)], [0] * count
        for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
            shortest = filled.index(min(filled))
            rows[shortest].append(index)
            filled[shortest] += lengths[index]
        length = -(-(beginning + max(filled)) // round_to) * round_to
        choices.append((count * length * (1 + length / _ATTENTION_PARITY_TOKENS), count, rows))
    return min(choices)[2]


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.integers(1, 90) | st.integers(1, 6), min_size=1, max_size=48),
    st.integers(0, 120),
    st.integers(1, 500),
    st.sampled_from([1, 16, 32, 128]),
)
def test_rows_are_those_of_trying_every_count(lengths, beginning, row_tokens, round_to):
    wanted = divide_naively(lengths, beginning, row_tokens, round_to)
    assert divide_into_rows(lengths, beginning, row_tokens, round_to) == wanted


def test_a_micro_batch_of_512_is_laid_out_in_less_time_than_a_step_takes():
    lengths = [20 + index * 37 % 61 for index in range(512)]
    began = time.process_time()
    for beginning in (0, 10, 40):
        divide_into_rows(lengths, beginning, 384, 32)
    assert time.process_time() - began < 1  # trying every count takes four
