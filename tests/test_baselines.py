"""The linear baseline and the commonest label."""

import numpy as np
import pytest

from radrecipes.baselines import fit_linear_baseline, majority_label
from radrecipes.errors import InputError

TRAIN = {
    "CT Head": ["r/o bleed head", "head trauma, r/o sdh", "acute stroke head ct", "fall, hit head"],
    "MRI Knee": ["knee pain r/o meniscus tear", "acl tear knee", "knee locking", "medial meniscus knee injury"],
    "CT Chest": ["lung nodule f/u", "cough, lung mass", "chest pain r/o pe", "lung ca staging chest"],
}
VALIDATION = (["r/o bleed, fall on head", "meniscus tear", "lung nodule", "pe chest"], [*TRAIN, "CT Chest"])


def rows():
    return zip(*[(note, label) for label, notes in TRAIN.items() for note in notes], strict=True)


def fit(notes=None, labels=None):
    train_notes, train_labels = rows()
    return fit_linear_baseline(notes or train_notes, labels or train_labels, *VALIDATION)


def test_learns_and_gives_a_probability_for_each_label():
    baseline = fit()
    notes = ["acute bleed head", "meniscus", "lung mass growing"]
    probabilities = baseline.predict_probabilities(notes)
    assert baseline.predict(notes) == ["CT Head", "MRI Knee", "CT Chest"]
    assert probabilities.shape == (3, len(baseline.labels))
    assert probabilities.sum(axis=1) == pytest.approx(1)
    assert [baseline.labels[column] for column in probabilities.argmax(axis=1)] == baseline.predict(notes)


def test_same_rows_same_classifier():
    notes = ["fall", "pain", "unknown words only"]
    assert np.array_equal(fit().predict_probabilities(notes), fit().predict_probabilities(notes))


def test_pairs_of_words_tell_notes_with_the_same_words_apart():
    notes = ["no bleed old fracture", "old bleed no fracture"] * 4
    labels = ["MRI", "CT"] * 4
    baseline = fit_linear_baseline(notes, labels, notes, labels)
    assert baseline.predict(notes) == labels


def test_regularisation_is_chosen_on_the_validation_split_the_strongest_among_equals():
    # Under strong regularisation only the frequencies of the labels are left, so the rare label is never answered.
    notes = [*["bleed"] * 9, *["tumour"] * 3]
    labels = [*["CT"] * 9, *["MR"] * 3]
    choices = (1e-4, 10.0, 100.0)
    on_both = fit_linear_baseline(notes, labels, ["bleed", "tumour"], ["CT", "MR"], choices)
    assert (on_both.inverse_regularisation, on_both.validation_accuracy) == (10.0, 1.0)
    on_common = fit_linear_baseline(notes, labels, ["bleed"], ["CT"], choices)
    assert (on_common.inverse_regularisation, on_common.validation_accuracy) == (1e-4, 1.0)
    assert on_common.predict(["tumour"]) == ["CT"]


def test_bad_input_says_what_is_wrong():
    with pytest.raises(InputError, match="fewer than two labels"):
        fit(notes=["a b", "c d"], labels=["CT", "CT"])
    with pytest.raises(InputError, match="validation split is empty"):
        fit_linear_baseline(["a", "b"], ["CT", "MR"], [], [])
    with pytest.raises(InputError, match="holds a word"):
        fit(notes=["...", "!!"], labels=["CT", "MR"])


def test_majority_label_breaks_ties_by_name():
    assert majority_label(["b", "a", "b", "c", "a"]) == "a"
    assert majority_label(["c", "b", "c"]) == "c"
    with pytest.raises(InputError, match="empty"):
        majority_label([])
