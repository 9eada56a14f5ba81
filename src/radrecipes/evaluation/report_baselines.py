"""A report baseline without training of a model: the report of the training study with the nearest labels."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.metrics import pairwise_distances_chunked

from radrecipes.errors import InputError
from radrecipes.radiology.observations import OBSERVATIONS, Status

# Status of an observation in arrays.
ABSENT, POSITIVE, NEGATIVE, UNCERTAIN = range(4)
_STATES = {None: ABSENT, Status.POSITIVE: POSITIVE, Status.NEGATIVE: NEGATIVE, Status.UNCERTAIN: UNCERTAIN}


def label_states(labels: Sequence[Mapping[str, Status]]) -> np.ndarray:
    """Mentioned observations as an array of shape `(rows, 14)` of `ABSENT` to `UNCERTAIN`; columns as in `OBSERVATIONS`."""
    states = [[_STATES[row.get(name)] for name in OBSERVATIONS] for row in labels]
    return np.array(states, dtype=np.int8).reshape(len(labels), len(OBSERVATIONS))


class NearestLabels:
    """Returns for a request the report of the training study whose labels differ in the fewest observations.

    Studies with the same labels are represented by their medoid by cosine similarity of word frequencies. Ties go to the label
    vector that is most frequent in training. Nothing depends on the order of the training rows.
    """

    def __init__(
        self,
        train_labels: Sequence[Mapping[str, Status]],
        train_findings: Sequence[str],
        train_impressions: Sequence[str],
    ):
        if not len(train_labels):
            raise InputError("the train split is empty, so there is no report to look up")
        self._reports = list(zip(train_findings, train_impressions, strict=True))
        vectors, vector_of_row, counts = np.unique(
            label_states(train_labels), axis=0, return_inverse=True, return_counts=True
        )
        # Ties go to the first vector below, so the most frequent one comes first.
        order = np.argsort(-counts, kind="stable")
        self._vectors = vectors[order]
        self._medoids = _medoids(self._reports, vector_of_row.ravel())[order]

    def nearest(self, requests: Sequence[Mapping[str, Status]]) -> np.ndarray:
        """Index of the nearest training study for each request."""
        # The distance is the fraction of observations that differ; of equals the first one is taken.
        nearest = pairwise_distances_chunked(
            label_states(requests),
            self._vectors,
            metric="hamming",
            reduce_func=lambda distances, start: distances.argmin(axis=1),
            working_memory=64,
        )
        return self._medoids[np.concatenate(list(nearest))]

    def reports(self, requests: Sequence[Mapping[str, Status]]) -> list[tuple[str, str]]:
        """Findings and impression of the nearest training study for each request."""
        return [self._reports[index] for index in self.nearest(requests)]


def _medoids(reports: Sequence[tuple[str, str]], cluster_of_row: np.ndarray) -> np.ndarray:
    """Per cluster the row whose word frequencies are closest to their sum; ties go to the alphabetically first text."""
    texts = [f"{findings} {impression}" for findings, impression in reports]
    words = HashingVectorizer(alternate_sign=False).transform(texts)
    rows = np.arange(len(texts))
    member = sparse.csr_matrix((np.ones(len(rows)), (cluster_of_row, rows)))
    centres = (member @ words).tocsr()
    # Rounded: the last digits depend on the order of summation.
    closeness = np.round(np.asarray(words.multiply(centres[cluster_of_row]).sum(axis=1)).ravel(), 9)
    alphabetical = np.unique(np.array(texts, dtype=object), return_inverse=True)[1]
    ranked = np.lexsort((alphabetical, -closeness, cluster_of_row))
    firsts = np.unique(cluster_of_row[ranked], return_index=True)[1]
    return ranked[firsts]
