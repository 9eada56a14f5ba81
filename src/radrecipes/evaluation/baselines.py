"""What a fine-tuned model has to beat: two linear classifiers on the same rows, the nearest note, the commonest label."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy import sparse
from sklearn.base import ClassifierMixin
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import pairwise_distances_argmin_min
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.svm import LinearSVC

from radrecipes.errors import InputError

# Values of C. A logistic regression needs larger ones than a support vector machine for the same fit.
INVERSE_REGULARISATIONS = (1.0, 10.0, 100.0, 1000.0)
SVM_INVERSE_REGULARISATIONS = (0.01, 0.1, 1.0, 10.0)


@dataclass(frozen=True)
class _LinearClassifier:
    """A fitted TF-IDF and linear classifier.

    Args:
        pipeline (`Pipeline`):
            The fitted vectoriser and classifier.
        inverse_regularisation (`float`):
            The C of the classifier that the validation split chose.
        validation_accuracy (`float`):
            Exact accuracy on the validation split with that C.
    """

    pipeline: Pipeline
    inverse_regularisation: float
    validation_accuracy: float

    @property
    def labels(self) -> list[str]:
        """The labels of the training split, in alphabetical order."""
        return [str(label) for label in self.pipeline.classes_]

    def predict(self, notes: Sequence[str]) -> list[str]:
        """The label that the classifier prefers for each note.

        Args:
            notes (`Sequence[str]`):
                The notes.

        Returns:
            `list[str]`: one label of the training split per note.
        """
        return [str(label) for label in self.pipeline.predict(list(notes))]


class LinearBaseline(_LinearClassifier):
    """A fitted TF-IDF and logistic regression, made by [`fit_linear_baseline`]."""

    def predict_probabilities(self, notes: Sequence[str]) -> np.ndarray:
        """The probability of every label for each note.

        Args:
            notes (`Sequence[str]`):
                The notes.

        Returns:
            `np.ndarray` of shape `(len(notes), len(labels))`: columns as in `labels`; each row adds up to 1.
        """
        return self.pipeline.predict_proba(list(notes))

    def confidences(self, notes: Sequence[str]) -> np.ndarray:
        """The probability of the label that [`predict`] gives, for each note.

        Args:
            notes (`Sequence[str]`):
                The notes.

        Returns:
            `np.ndarray` of shape `(len(notes),)`: from 0 to 1.
        """
        return self.predict_probabilities(notes).max(axis=1)


class SupportVectorBaseline(_LinearClassifier):
    """A fitted TF-IDF and linear support vector machine, made by [`fit_support_vector_baseline`]."""

    def confidences(self, notes: Sequence[str]) -> np.ndarray:
        """How far the decision value of the label that [`predict`] gives lies above that of the next one.

        Args:
            notes (`Sequence[str]`):
                The notes.

        Returns:
            `np.ndarray` of shape `(len(notes),)`: margins, 0 or more; no probabilities.
        """
        decisions = self.pipeline.decision_function(list(notes))
        if (
            decisions.ndim == 1
        ):  # of two labels scikit-learn gives the second one's value only; the first's is its opposite
            return 2 * np.abs(decisions)
        second, best = np.sort(decisions, axis=1)[:, -2:].T
        return best - second


@dataclass(frozen=True)
class NearestNeighbour:
    """Gives a note the label of the most similar training note, made by [`fit_nearest_neighbour`].

    Args:
        vectoriser (`TfidfVectorizer`):
            Fitted on the training notes.
        train_matrix (`sparse.csr_matrix` of shape `(training notes, words and pairs)`):
            The training notes.
        train_labels (`tuple[str, ...]`):
            Their labels.
    """

    vectoriser: TfidfVectorizer
    train_matrix: sparse.csr_matrix
    train_labels: tuple[str, ...]

    def predict(self, notes: Sequence[str]) -> list[str]:
        """The label of the most similar training note, of the first one among equals.

        Args:
            notes (`Sequence[str]`):
                The notes.

        Returns:
            `list[str]`: one label of the training split per note; the commonest one where a note shares no word with
            the training split.
        """
        nearest, similarities = self._nearest(notes)
        commonest = majority_label(self.train_labels)
        return [
            self.train_labels[place] if similarity > 0 else commonest
            for place, similarity in zip(nearest, similarities, strict=True)
        ]

    def confidences(self, notes: Sequence[str]) -> np.ndarray:
        """The cosine similarity of each note's TF-IDF vector to that of the most similar training note.

        Args:
            notes (`Sequence[str]`):
                The notes.

        Returns:
            `np.ndarray` of shape `(len(notes),)`: from 0 to 1; no probabilities.
        """
        return self._nearest(notes)[1]

    def _nearest(self, notes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        if not len(notes):
            return np.zeros(0, dtype=int), np.zeros(0)
        matrix = self.vectoriser.transform(list(notes))
        nearest, distances = pairwise_distances_argmin_min(matrix, self.train_matrix, metric="cosine")
        return nearest, np.clip(1 - distances, 0, 1)


def fit_linear_baseline(
    train_notes: Sequence[str],
    train_labels: Sequence[str],
    validation_notes: Sequence[str],
    validation_labels: Sequence[str],
    inverse_regularisations: Sequence[float] = INVERSE_REGULARISATIONS,
) -> LinearBaseline:
    """Train a logistic regression on TF-IDF of single words and pairs of words.

    The strength of its regularisation is chosen by exact accuracy on the validation split, the strongest among equals.
    There is no chance in it: the same rows give the same classifier.

    Args:
        train_notes (`Sequence[str]`):
            Notes to learn from.
        train_labels (`Sequence[str]`):
            Their labels.
        validation_notes (`Sequence[str]`):
            Notes to choose by.
        validation_labels (`Sequence[str]`):
            Their labels.
        inverse_regularisations (`Sequence[float]`, *optional*, defaults to `(1.0, 10.0, 100.0, 1000.0)`):
            Values of C to choose from.

    Returns:
        [`LinearBaseline`]: the fitted classifier.

    Raises:
        InputError: The training labels are fewer than two, the validation split is empty, or no note holds a word.
    """
    train, validation = (train_notes, train_labels), (validation_notes, validation_labels)
    return _fit_best(
        LinearBaseline,
        lambda value: LogisticRegression(C=value, max_iter=1000),
        inverse_regularisations,
        train,
        validation,
    )


def fit_support_vector_baseline(
    train_notes: Sequence[str],
    train_labels: Sequence[str],
    validation_notes: Sequence[str],
    validation_labels: Sequence[str],
    inverse_regularisations: Sequence[float] = SVM_INVERSE_REGULARISATIONS,
) -> SupportVectorBaseline:
    """Train a linear support vector machine (one label against the rest) on the TF-IDF of [`fit_linear_baseline`].

    The strength of its regularisation is chosen as there, and the same rows give the same classifier.

    Args:
        train_notes (`Sequence[str]`):
            Notes to learn from.
        train_labels (`Sequence[str]`):
            Their labels.
        validation_notes (`Sequence[str]`):
            Notes to choose by.
        validation_labels (`Sequence[str]`):
            Their labels.
        inverse_regularisations (`Sequence[float]`, *optional*, defaults to `(0.01, 0.1, 1.0, 10.0)`):
            Values of C to choose from.

    Returns:
        [`SupportVectorBaseline`]: the fitted classifier.

    Raises:
        InputError: The training labels are fewer than two, the validation split is empty, or no note holds a word.
    """
    train, validation = (train_notes, train_labels), (validation_notes, validation_labels)
    return _fit_best(
        # The solver shuffles, so its seed is fixed.
        SupportVectorBaseline,
        lambda value: LinearSVC(C=value, random_state=0),
        inverse_regularisations,
        train,
        validation,
    )


def fit_nearest_neighbour(train_notes: Sequence[str], train_labels: Sequence[str]) -> NearestNeighbour:
    """Keep the training notes as the TF-IDF vectors of [`fit_linear_baseline`], to look up the most similar one.

    Args:
        train_notes (`Sequence[str]`):
            Notes to look up.
        train_labels (`Sequence[str]`):
            Their labels.

    Returns:
        [`NearestNeighbour`]: the fitted classifier.

    Raises:
        InputError: No note holds a word.
    """
    vectoriser, matrix = _fit_vectoriser(train_notes)
    return NearestNeighbour(vectoriser, matrix, tuple(train_labels))


def majority_label(labels: Sequence[str]) -> str:
    """The commonest label, the alphabetically first among equals.

    Args:
        labels (`Sequence[str]`):
            Labels of the train split.

    Returns:
        `str`: the label.

    Raises:
        InputError: There are no labels.
    """
    if not len(labels):
        raise InputError("the train split is empty; there is no commonest label")
    counts = Counter(labels)
    return min(counts, key=lambda label: (-counts[label], label))


_Linear = TypeVar("_Linear", bound=_LinearClassifier)
_NotesAndLabels = tuple[Sequence[str], Sequence[str]]


def _fit_best(
    kind: type[_Linear],
    classifier_of: Callable[[float], ClassifierMixin],
    inverse_regularisations: Sequence[float],
    train: _NotesAndLabels,
    validation: _NotesAndLabels,
) -> _Linear:
    if len(set(train[1])) < 2:
        raise InputError("the train split holds fewer than two labels, so that there is nothing to choose between")
    if not len(validation[0]):
        raise InputError("the validation split is empty; the linear classifier is chosen on it")
    vectoriser, train_matrix = _fit_vectoriser(train[0])
    validation_matrix = vectoriser.transform(validation[0])
    best = None
    for value in sorted(inverse_regularisations):
        classifier = classifier_of(value).fit(train_matrix, list(train[1]))
        accuracy = float(np.mean(classifier.predict(validation_matrix) == np.asarray(list(validation[1]))))
        if best is None or accuracy > best.validation_accuracy:
            best = kind(make_pipeline(vectoriser, classifier), value, accuracy)
    return best


def _fit_vectoriser(notes: Sequence[str]) -> tuple[TfidfVectorizer, sparse.csr_matrix]:
    # Single letters and digits carry meaning in orders ("L knee", "T 2"), so words of one character count.
    vectoriser = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    try:
        return vectoriser, vectoriser.fit_transform(notes)
    except ValueError as error:
        raise InputError(f"no note of the train split holds a word ({error})") from error
