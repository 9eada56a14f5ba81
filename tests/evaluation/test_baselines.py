"""The linear classifiers, the nearest note and the majority class."""

import numpy as np
import pytest

from radrecipes.errors import InputError
from radrecipes.evaluation.baselines import (
    LOGISTIC_REGRESSION,
    SUPPORT_VECTOR_MACHINE,
    fit_linear_baseline,
    fit_nearest_neighbour,
    majority_class,
)

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
    return fit_linear_baseline(*LOGISTIC_REGRESSION, notes or train_notes, labels or train_labels, *VALIDATION)


def test_learns_and_a_confidence_is_the_probability_of_the_predicted_label():
    baseline, notes = fit(), ["acute bleed head", "meniscus", "lung mass growing", "unknown words only"]
    probabilities, labels = baseline.pipeline.predict_proba(notes), list(baseline.pipeline.classes_)
    assert baseline.predict(notes)[:3] == ["CT Head", "MRI Knee", "CT Chest"]
    columns = [labels.index(label) for label in baseline.predict(notes)]
    assert baseline.confidences(notes) == pytest.approx(probabilities[range(4), columns])


@pytest.mark.parametrize("kept", [3, 2])
def test_a_support_vector_margin_is_what_parts_the_best_label_from_the_second(kept):
    pairs = [(note, label) for note, label in zip(*rows(), strict=True) if label in list(TRAIN)[:kept]]
    validation = [(note, label) for note, label in zip(*VALIDATION, strict=True) if label in list(TRAIN)[:kept]]
    baseline = fit_linear_baseline(*SUPPORT_VECTOR_MACHINE, *zip(*pairs, strict=True), *zip(*validation, strict=True))
    notes = ["acute bleed head", "meniscus", "head injury, knee"]
    assert baseline.predict(notes[:2]) == ["CT Head", "MRI Knee"]
    classifier = baseline.pipeline[-1]
    # The naive way: the decision value of every label from the weights, for two labels those of both signs.
    weights, intercepts = classifier.coef_, classifier.intercept_
    if kept == 2:
        weights, intercepts = np.vstack([-weights, weights]), np.concatenate([-intercepts, intercepts])
    decisions = baseline.pipeline[0].transform(notes) @ weights.T + intercepts
    expected = [sorted(row)[-1] - sorted(row)[-2] for row in decisions]
    assert baseline.confidences(notes) == pytest.approx(expected)
    # A note that speaks for both labels is less sure than one that speaks for one.
    assert baseline.confidences(notes)[2] < baseline.confidences(notes)[:2].min()


def test_the_nearest_neighbour_equals_a_search_over_every_training_note():
    train_notes, train_labels = rows()
    baseline = fit_nearest_neighbour(train_notes, train_labels)
    notes = ["bleed", "knee injury with lock", "chest pain, cough", "acl tear knee"]
    train_vectors, vectors = (baseline.vectoriser.transform(texts).toarray() for texts in (train_notes, notes))
    similarities = [[float(one @ other) for other in train_vectors] for one in vectors]
    assert baseline.confidences(notes) == pytest.approx([max(row) for row in similarities])
    assert baseline.predict(notes) == [train_labels[int(np.argmax(row))] for row in similarities]
    assert baseline.confidences(notes)[3] == pytest.approx(1)


def test_the_nearest_neighbour_predicts_the_majority_class_if_no_word_is_known():
    baseline = fit_nearest_neighbour(["head", "knee", "knee"], ["CT Head", "MRI Knee", "MRI Knee"])
    assert baseline.predict(["", "foot"]) == ["MRI Knee", "MRI Knee"]
    assert list(baseline.confidences(["", "foot"])) == [0, 0]
    # Two training notes that are alike: the first one counts.
    assert fit_nearest_neighbour(["head", "head"], ["b", "a"]).predict(["head"]) == ["b"]


def test_same_rows_same_classifier():
    notes = ["fall", "pain", "unknown words only"]
    for classifier in (LOGISTIC_REGRESSION, SUPPORT_VECTOR_MACHINE):
        one, other = (fit_linear_baseline(*classifier, *rows(), *VALIDATION) for _ in range(2))
        assert np.array_equal(one.confidences(notes), other.confidences(notes))


def test_pairs_of_words_tell_notes_with_the_same_words_apart():
    notes = ["no bleed old fracture", "old bleed no fracture"] * 4
    labels = ["MRI", "CT"] * 4
    baseline = fit_linear_baseline(*LOGISTIC_REGRESSION, notes, labels, notes, labels)
    assert baseline.predict(notes) == labels


def test_regularisation_is_chosen_on_the_validation_split_the_strongest_among_equals():
    # Under strong regularisation only the frequencies of the labels are left, so the rare label is never answered.
    notes = [*["bleed"] * 9, *["tumour"] * 3]
    labels = [*["CT"] * 9, *["MR"] * 3]
    choices = LOGISTIC_REGRESSION[0], (1e-4, 10.0, 100.0)
    on_both = fit_linear_baseline(*choices, notes, labels, ["bleed", "tumour"], ["CT", "MR"])
    assert (on_both.inverse_regularisation, on_both.validation_accuracy) == (10.0, 1.0)
    on_common = fit_linear_baseline(*choices, notes, labels, ["bleed"], ["CT"])
    assert (on_common.inverse_regularisation, on_common.validation_accuracy) == (1e-4, 1.0)
    assert on_common.predict(["tumour"]) == ["CT"]


def test_bad_input_says_what_is_wrong():
    with pytest.raises(InputError, match="fewer than two labels"):
        fit(notes=["a b", "c d"], labels=["CT", "CT"])
    with pytest.raises(InputError, match="validation split is empty"):
        fit_linear_baseline(*LOGISTIC_REGRESSION, ["a", "b"], ["CT", "MR"], [], [])
    with pytest.raises(InputError, match="contains a word"):
        fit(["...", "!!"], ["CT", "MR"])
    with pytest.raises(InputError, match="contains a word"):
        fit_nearest_neighbour(["...", "!!"], ["CT", "MR"])


def test_majority_class_breaks_ties_by_name():
    assert majority_class(["b", "a", "b", "c", "a"]) == "a"
    assert majority_class(["c", "b", "c"]) == "c"
    with pytest.raises(InputError, match="empty"):
        majority_class([])
