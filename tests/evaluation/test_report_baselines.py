"""The nearest-labels baseline against a slow, obvious search."""

import random
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radrecipes.errors import InputError
from radrecipes.evaluation.report_baselines import (
    MOST_EMBEDDED,
    LeadSentences,
    NearestEmbedding,
    NearestLabels,
    label_states,
)
from radrecipes.radiology.observations import OBSERVATIONS, Status

LABELS = st.dictionaries(st.sampled_from(OBSERVATIONS[:4]), st.sampled_from(Status))
P, N, U = Status.POSITIVE, Status.NEGATIVE, Status.UNCERTAIN


def distance(first, second):
    return sum(first.get(name) != second.get(name) for name in OBSERVATIONS)


def test_absent_differs_from_negative_and_from_uncertain():
    train = [{}, {"Edema": N}, {"Edema": U}, {"Edema": P, "Fracture": P}]
    nearest = NearestLabels(train, ["absent", "negative", "uncertain", "positive"], [""] * 4)
    requests = [{}, {"Edema": N}, {"Edema": U}, {"Edema": P, "Fracture": N}]
    assert [findings for findings, _ in nearest.reports(requests)] == ["absent", "negative", "uncertain", "positive"]


def test_the_representative_is_the_report_most_like_the_others():
    findings = ["the heart is big", "edema edema edema", "the heart is big now", "the heart is large now"]
    nearest = NearestLabels([{"Edema": P}] * 4, findings, ["one", "two", "three", "four"])
    assert nearest.reports([{"Edema": P}]) == [("the heart is big now", "three")]


def test_the_commonest_vector_wins_among_equal_distances():
    train = [{"Edema": P}, {"Edema": N}, {"Edema": N}]
    assert NearestLabels(train, ["a", "b", "b"], ["", "", ""]).reports([{"Edema": U}]) == [("b", "")]


@settings(deadline=None)
@given(st.lists(LABELS, min_size=1, max_size=12), st.lists(LABELS, min_size=1, max_size=6), st.randoms())
def test_it_is_nearest_and_does_not_depend_on_the_order(train, requests, shuffler):
    texts = [f"report {number}" for number in range(len(train))]
    nearest = NearestLabels(train, texts, texts)
    for request, place in zip(requests, nearest.nearest(requests), strict=True):
        assert distance(train[place], request) == min(distance(labels, request) for labels in train)
    order = list(range(len(train)))
    shuffler.shuffle(order)
    shuffled = NearestLabels(*([column[place] for place in order] for column in (train, texts, texts)))
    assert shuffled.reports(requests) == nearest.reports(requests)


def test_an_empty_train_split_is_an_error_and_texts_may_be_empty():
    with pytest.raises(InputError, match="train split is empty"):
        NearestLabels([], [], [])
    assert NearestLabels([{}], [""], [""]).reports([{"Edema": P}]) == [("", "")]
    assert label_states([]).shape == (0, 14)


class CountingEmbedder:
    """Embeds a text as its number of each vowel."""

    def embed(self, texts):
        return np.array([[text.count(vowel) for vowel in "aeiou"] for text in texts], dtype=float)


def test_the_nearest_embedding_lends_its_target_and_a_large_training_split_is_sampled():
    nearest = NearestEmbedding(["aa", "ee", "ee"], ["first", "second", "third"], CountingEmbedder())
    assert nearest.predict(["xexe", "a"]) == ["second", "first"]
    inputs = [str(number) for number in range(3 * MOST_EMBEDDED)]
    embedded = []
    embedder = CountingEmbedder()
    embedder.embed = lambda texts: embedded.extend(texts) or np.ones((len(texts), 1))
    NearestEmbedding(inputs, inputs, embedder)
    assert len(embedded) == MOST_EMBEDDED and (embedded[0], embedded[-1]) == (inputs[0], inputs[-1])


def test_the_number_of_lead_sentences_is_chosen_on_validation():
    texts = ["Heart large. Lungs clear. No effusion.", "Edema. Effusion. Old fracture."]
    for number, references in ((1, ["Heart large", "Edema"]), (2, ["Heart large. Lungs clear", "Edema. Effusion."])):
        lead = LeadSentences(texts, references)
        assert lead.sentences == number
        assert lead.predict(["One. Two. Three.", "Alone."]) == [" ".join(["One.", "Two."][:number]), "Alone."]


def test_five_thousand_by_one_thousand_takes_seconds():
    generator = random.Random(0)

    def labels():
        return {name: generator.choice(list(Status)) for name in OBSERVATIONS if generator.random() < 0.3}

    words = [f"word{number}" for number in range(200)]
    texts = [" ".join(generator.choices(words, k=50)) for _ in range(5000)]
    started = time.perf_counter()
    reports = NearestLabels([labels() for _ in texts], texts, texts).reports([labels() for _ in range(1000)])
    assert len(reports) == 1000
    assert time.perf_counter() - started < 15
