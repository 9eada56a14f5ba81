"""ROUGE-L and BLEU against hand-computed values and a slow, obvious version."""

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radrecipes.evaluation.text_metrics import corpus_bleu, rouge_l

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
    assert rouge_l(["the heart is normal"], ["the heart is not enlarged"]) == [pytest.approx(2 * 3 / 9)]
    assert rouge_l(["a", ""], ["", "a"]) == [0.0, 0.0]
    # n-grams in common 4/5, 3/4, 2/3, 1/2; as long as the reference.
    expected = 100 * math.prod([4 / 5, 3 / 4, 2 / 3, 1 / 2]) ** (1 / 4)
    assert corpus_bleu(["the heart is normal today"], ["the heart is normal again"]) == pytest.approx(expected)
    with pytest.raises(ValueError):
        rouge_l(["a"], [])


@settings(deadline=None)
@given(st.lists(st.tuples(SENTENCES, SENTENCES), min_size=1, max_size=3))
def test_rouge_is_the_naive_one_and_figures_stay_in_range(pairs):
    references, texts = zip(*pairs, strict=True)
    figures = rouge_l(references, texts)
    assert figures == pytest.approx([naive_rouge_l(*pair) for pair in pairs])
    assert all(0 <= figure <= 1 for figure in figures)
    assert 0 <= corpus_bleu(references, texts) <= 100 + 1e-9


@settings(deadline=None)
@given(SENTENCES.filter(bool))
def test_a_text_against_itself_is_perfect(text):
    assert rouge_l([text], [text]) == [1.0]
