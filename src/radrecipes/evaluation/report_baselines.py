"""Baselines of reports and impressions without training of a model: nearest labels, nearest findings, first sentences."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.metrics import pairwise_distances_chunked

from radrecipes.errors import InputError
from radrecipes.evaluation.embeddings import TextEmbedder
from radrecipes.radiology.observations import OBSERVATIONS, Status
from radrecipes.radiology.sentences import split_sentences
from radrecipes.statistics import spread_evenly
from radrecipes.tasks.text_task import rouge_l

# Status of an observation in arrays.
ABSENT, POSITIVE, NEGATIVE, UNCERTAIN = range(4)
_STATES = {None: ABSENT, Status.POSITIVE: POSITIVE, Status.NEGATIVE: NEGATIVE, Status.UNCERTAIN: UNCERTAIN}


# Embedding one findings section takes 30 ms on one core.
MOST_EMBEDDED = 5_000
MOST_LEAD_SENTENCES = 5


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


class NearestEmbedding:
    """Returns the target of the training row whose input has the most similar sentence embedding, ties to the first.

    Of a large training split it sees `MOST_EMBEDDED` rows, evenly spread.
    """

    def __init__(self, train_inputs: Sequence[str], train_targets: Sequence[str], embedder: TextEmbedder):
        places = spread_evenly(len(train_inputs), MOST_EMBEDDED)
        self._targets = [train_targets[place] for place in places]
        self._vectors = embedder.embed([train_inputs[place] for place in places])
        self._embedder = embedder

    def predict(self, inputs: Sequence[str]) -> list[str]:
        """The target of the nearest training row for each input."""
        # Rounded: the last digits depend on the batch that a text was embedded in.
        nearest = np.round(self._embedder.embed(inputs) @ self._vectors.T, 6).argmax(axis=1)
        return [self._targets[place] for place in nearest]


class LeadSentences:
    """Returns the first sentences of an input; how many has the best ROUGE-L on validation, ties to the fewest."""

    def __init__(self, validation_inputs: Sequence[str], validation_references: Sequence[str]):
        def quality(sentences: int) -> float:
            texts = [_first(text, sentences) for text in validation_inputs]
            return float(np.mean(list(map(rouge_l, validation_references, texts))))

        self.sentences = max(range(1, MOST_LEAD_SENTENCES + 1), key=quality)

    def predict(self, inputs: Sequence[str]) -> list[str]:
        """The first sentences of each input."""
        return [_first(text, self.sentences) for text in inputs]


def _first(text: str, sentences: int) -> str:
    return " ".join(split_sentences(text)[:sentences])


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
