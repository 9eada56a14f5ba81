"""What a fine-tuned model has to beat: a linear classifier on the same rows, and the commonest label."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

from radrecipes.errors import InputError

INVERSE_REGULARISATIONS = (1.0, 10.0, 100.0, 1000.0)


@dataclass(frozen=True)
class LinearBaseline:
    """A fitted TF-IDF and logistic regression.

    Args:
        pipeline (`Pipeline`):
            The fitted vectoriser and classifier.
        inverse_regularisation (`float`):
            The C of the logistic regression that the validation split chose.
        validation_accuracy (`float`):
            Exact accuracy on the validation split with that C.
    """

    pipeline: Pipeline
    inverse_regularisation: float
    validation_accuracy: float

    @property
    def labels(self) -> list[str]:
        """The labels in the order of the columns of [`predict_probabilities`]."""
        return [str(label) for label in self.pipeline.classes_]

    def predict(self, notes: Sequence[str]) -> list[str]:
        """The most probable label of each note.

        Args:
            notes (`Sequence[str]`):
                The notes.

        Returns:
            `list[str]`: one label of the training split per note.
        """
        return [str(label) for label in self.pipeline.predict(list(notes))]

    def predict_probabilities(self, notes: Sequence[str]) -> np.ndarray:
        """The probability of every label for each note.

        Args:
            notes (`Sequence[str]`):
                The notes.

        Returns:
            `np.ndarray` of shape `(len(notes), len(labels))`: each row adds up to 1.
        """
        return self.pipeline.predict_proba(list(notes))


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
    if len(set(train_labels)) < 2:
        raise InputError("the train split holds fewer than two labels, so that there is nothing to choose between")
    if not len(validation_notes):
        raise InputError("the validation split is empty; the linear classifier is chosen on it")
    # Single letters and digits carry meaning in orders ("L knee", "T 2"), so words of one character count.
    vectoriser = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    try:
        train_matrix = vectoriser.fit_transform(train_notes)
    except ValueError as error:
        raise InputError(f"no note of the train split holds a word ({error})") from error
    validation_matrix = vectoriser.transform(validation_notes)
    best = None
    for value in sorted(inverse_regularisations):
        classifier = LogisticRegression(C=value, max_iter=1000)
        classifier.fit(train_matrix, list(train_labels))
        accuracy = float(np.mean(classifier.predict(validation_matrix) == np.asarray(list(validation_labels))))
        if best is None or accuracy > best.validation_accuracy:
            best = LinearBaseline(make_pipeline(vectoriser, classifier), value, accuracy)
    return best


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
