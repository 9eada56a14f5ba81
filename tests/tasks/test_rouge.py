"""ROUGE-L against hand-computed values and a slow, obvious version."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radrecipes.tasks.text_task import rouge_l

SENTENCES = st.lists(st.sampled_from(["no", "Edema", "heart", "is", "normal.", "1.2"]), max_size=10).map(" ".join)


def naive_rouge_l(reference, text):
    first, second = (re.findall(r"[a-z0-9]+", words.lower()) for words in (reference, text))

    def longest(i, j):
        if i == len(first) or j == len(second):
            return 0
        if first[i] == second[j]:
            return 1 + longest(i + 1, j + 1)
        return max(longest(i + 1, j), longest(i, j + 1))

    common = longest(0, 0)
    return 2 * common / (len(first) + len(second)) if common else 0.0


def test_hand_computed_figures():
    # The longest common subsequence is "the heart is", 3 of 4 and 3 of 5 words.
    assert rouge_l("the heart is normal", "the heart is not enlarged") == pytest.approx(2 * 3 / 9)
    assert rouge_l("a", "") == rouge_l("", "a") == 0.0


@settings(deadline=None)
@given(SENTENCES, SENTENCES)
def test_rouge_is_the_naive_one(reference, text):
    assert rouge_l(reference, text) == pytest.approx(naive_rouge_l(reference, text))


@settings(deadline=None)
@given(SENTENCES.filter(bool))
def test_a_text_against_itself_is_perfect(text):
    assert rouge_l(text, text) == 1.0
