"""Baselines that need no fitting on validation: the nearest neighbour and the majority class."""

from collections import Counter
from collections.abc import Sequence

from sklearn.metrics import pairwise_distances_argmin_min

from radrecipes.errors import InputError
from radrecipes.evaluation.tfidf import words


class NearestNeighbour:
    """Predicts the label of the training note with the most similar TF-IDF vector; an [`InputError`] if no note contains a word."""

    def __init__(self, train_notes: Sequence[str], train_labels: Sequence[str]):
        self.vectoriser = words()
        try:
            self._matrix = self.vectoriser.fit_transform(train_notes)
        except ValueError as error:
            raise InputError(f"no note of the train split contains a word ({error})") from error
        self._labels, self._majority = train_labels, majority_class(train_labels)

    def predict(self, notes: Sequence[str]) -> list[str]:
        """The label of the most similar training note, ties to the first; the majority class if no note shares a word."""
        matrix = self.vectoriser.transform(list(notes))
        nearest, distances = pairwise_distances_argmin_min(matrix, self._matrix, metric="cosine")
        return [
            self._labels[index] if distance < 1 else self._majority
            for index, distance in zip(nearest, distances, strict=True)
        ]


def majority_class(labels: Sequence[str]) -> str:
    """The most frequent label, ties alphabetically; raises an [`InputError`] if there are no labels."""
    if not len(labels):
        raise InputError("the train split is empty, so there is no majority class")
    counts = Counter(labels)
    return min(counts, key=lambda label: (-counts[label], label))
