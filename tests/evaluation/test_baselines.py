"""The nearest note and the majority class."""

import numpy as np
import pytest

from radrecipes.errors import InputError
from radrecipes.evaluation.baselines import NearestNeighbour, majority_class

NOTES = ["r/o bleed head", "head trauma, r/o sdh", "acl tear knee", "knee locking", "chest pain r/o pe", "lung mass"]
LABELS = ["CT Head", "CT Head", "MRI Knee", "MRI Knee", "CT Chest", "CT Chest"]


def test_the_nearest_neighbour_equals_a_search_over_every_training_note():
    baseline = NearestNeighbour(NOTES, LABELS)
    notes = ["bleed", "knee injury with lock", "chest pain, cough", "acl tear knee"]
    train_vectors, vectors = (baseline.vectoriser.transform(texts).toarray() for texts in (NOTES, notes))
    similarities = [[float(one @ other) for other in train_vectors] for one in vectors]
    assert baseline.predict(notes) == [LABELS[int(np.argmax(row))] for row in similarities]


def test_the_nearest_neighbour_predicts_the_majority_class_if_no_word_is_known():
    baseline = NearestNeighbour(["head", "knee", "knee"], ["CT Head", "MRI Knee", "MRI Knee"])
    assert baseline.predict(["", "foot"]) == ["MRI Knee", "MRI Knee"]
    # Two training notes that are alike: the first one counts.
    assert NearestNeighbour(["head", "head"], ["b", "a"]).predict(["head"]) == ["b"]
    with pytest.raises(InputError, match="contains a word"):
        NearestNeighbour(["...", "!!"], ["CT", "MR"])


def test_majority_class_breaks_ties_by_name():
    assert majority_class(["b", "a", "b", "c", "a"]) == "a"
    assert majority_class(["c", "b", "c"]) == "c"
    with pytest.raises(InputError, match="empty"):
        majority_class([])
