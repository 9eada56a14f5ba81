"""Baselines for label tasks: TF-IDF with a logistic regression or a linear SVM, the nearest neighbour, the majority class."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy import sparse
from sklearn.base import ClassifierMixin
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import pairwise_distances_argmin_min
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.svm import LinearSVC

from radrecipes.errors import InputError

# The linear classifiers, each with the values of C to choose from. A logistic regression needs larger ones than a support vector
# machine (one versus rest; its solver shuffles) for the same fit.
LOGISTIC_REGRESSION = partial(LogisticRegression, max_iter=1000), (1.0, 10.0, 100.0, 1000.0)
SUPPORT_VECTOR_MACHINE = partial(LinearSVC, random_state=0), (0.01, 0.1, 1.0, 10.0)


@dataclass(frozen=True)
class LinearBaseline:
    """TF-IDF and a linear classifier, with the C that the validation split selected and its accuracy there."""

    pipeline: Pipeline
    inverse_regularisation: float
    validation_accuracy: float

    def predict(self, notes: Sequence[str]) -> list[str]:
        """The predicted label of each note."""
        return [str(label) for label in self.pipeline.predict(list(notes))]

    def confidences(self, notes: Sequence[str]) -> np.ndarray:
        """The probability of each predicted label; without probabilities the margin between the two highest decision values."""
        if hasattr(self.pipeline, "predict_proba"):
            return self.pipeline.predict_proba(list(notes)).max(axis=1)
        decisions = self.pipeline.decision_function(list(notes))
        if decisions.ndim == 1:  # of two labels only the second one's value, the negative of the first's
            return 2 * np.abs(decisions)
        second, best = np.sort(decisions, axis=1)[:, -2:].T
        return best - second


@dataclass(frozen=True)
class NearestNeighbour:
    """Predicts the label of the training note with the most similar TF-IDF vector."""

    vectoriser: TfidfVectorizer
    train_matrix: sparse.csr_matrix
    train_labels: tuple[str, ...]

    def predict(self, notes: Sequence[str]) -> list[str]:
        """The label of the most similar training note, ties to the first; the majority class if no note shares a word."""
        nearest, similarities = self._nearest(notes)
        majority = majority_class(self.train_labels)
        return [
            self.train_labels[index] if similarity > 0 else majority
            for index, similarity in zip(nearest, similarities, strict=True)
        ]

    def confidences(self, notes: Sequence[str]) -> np.ndarray:
        """The cosine similarity, 0 to 1, to the most similar training note."""
        return self._nearest(notes)[1]

    def _nearest(self, notes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        matrix = self.vectoriser.transform(list(notes))
        nearest, distances = pairwise_distances_argmin_min(matrix, self.train_matrix, metric="cosine")
        return nearest, np.clip(1 - distances, 0, 1)


def fit_linear_baseline(
    new_classifier: Callable[..., ClassifierMixin],
    values_of_c: Sequence[float],
    train_notes: Sequence[str],
    train_labels: Sequence[str],
    validation_notes: Sequence[str],
    validation_labels: Sequence[str],
) -> LinearBaseline:
    """Fit a classifier on TF-IDF of unigrams and bigrams; deterministic.

    C is selected by exact accuracy on the validation split; ties go to the strongest regularisation.
    """
    if len(set(train_labels)) < 2:
        raise InputError("the train split contains fewer than two labels; a classifier needs at least two")
    if not len(validation_notes):
        raise InputError("the validation split is empty; the linear classifier is selected on it")
    vectoriser, train_matrix = _fit_vectoriser(train_notes)
    validation_matrix = vectoriser.transform(validation_notes)
    best = None
    for value in sorted(values_of_c):
        classifier = new_classifier(C=value).fit(train_matrix, list(train_labels))
        accuracy = float(np.mean(classifier.predict(validation_matrix) == np.asarray(list(validation_labels))))
        if best is None or accuracy > best.validation_accuracy:
            best = LinearBaseline(make_pipeline(vectoriser, classifier), value, accuracy)
    return best


def fit_nearest_neighbour(train_notes: Sequence[str], train_labels: Sequence[str]) -> NearestNeighbour:
    """Index the training notes; raises an [`InputError`] if no note contains a word."""
    vectoriser, matrix = _fit_vectoriser(train_notes)
    return NearestNeighbour(vectoriser, matrix, tuple(train_labels))


def majority_class(labels: Sequence[str]) -> str:
    """The most frequent label, ties alphabetically; raises an [`InputError`] if there are no labels."""
    if not len(labels):
        raise InputError("the train split is empty, so there is no majority class")
    counts = Counter(labels)
    return min(counts, key=lambda label: (-counts[label], label))


def _fit_vectoriser(notes: Sequence[str]) -> tuple[TfidfVectorizer, sparse.csr_matrix]:
    # Single letters and digits carry meaning in orders ("L knee", "T 2"), so words of one character count.
    vectoriser = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    try:
        return vectoriser, vectoriser.fit_transform(notes)
    except ValueError as error:
        raise InputError(f"no note of the train split contains a word ({error})") from error
