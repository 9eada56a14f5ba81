"""Baselines that need no fitting on validation: the nearest neighbour and the majority class."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import pairwise_distances_argmin_min

from radrecipes.errors import InputError
from radrecipes.evaluation.tfidf import words


@dataclass(frozen=True)
class NearestNeighbour:
    """Predicts the label of the training note with the most similar TF-IDF vector."""

    vectoriser: TfidfVectorizer
    train_matrix: sparse.csr_matrix
    train_labels: tuple[str, ...]

    def predict(self, notes: Sequence[str]) -> list[str]:
        """The label of the most similar training note, ties to the first; the majority class if no note shares a word."""
        matrix = self.vectoriser.transform(list(notes))
        nearest, distances = pairwise_distances_argmin_min(matrix, self.train_matrix, metric="cosine")
        majority = majority_class(self.train_labels)
        return [
            self.train_labels[index] if distance < 1 else majority
            for index, distance in zip(nearest, distances, strict=True)
        ]


def fit_nearest_neighbour(train_notes: Sequence[str], train_labels: Sequence[str]) -> NearestNeighbour:
    """Index the training notes; raises an [`InputError`] if no note contains a word."""
    vectoriser = words()
    try:
        matrix = vectoriser.fit_transform(train_notes)
    except ValueError as error:
        raise InputError(f"no note of the train split contains a word ({error})") from error
    return NearestNeighbour(vectoriser, matrix, tuple(train_labels))


def majority_class(labels: Sequence[str]) -> str:
    """The most frequent label, ties alphabetically; raises an [`InputError`] if there are no labels."""
    if not len(labels):
        raise InputError("the train split is empty, so there is no majority class")
    counts = Counter(labels)
    return min(counts, key=lambda label: (-counts[label], label))
