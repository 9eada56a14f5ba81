"""Near-identical texts, found by the Jaccard similarity of their word 5-grams."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from sklearn.feature_extraction.text import CountVectorizer

from radrecipes.data.normalise import matching_key

SHINGLE_WORDS = 5
# Rows and pairs per block in memory.
_BLOCK_ROWS = 2000
_BLOCK_PAIRS = 10_000_000


def shingles(text: str) -> frozenset[str]:
    """Word 5-grams of a text's [`matching_key`]; a text of up to five words is one shingle."""
    words = matching_key(text).split()
    if len(words) <= SHINGLE_WORDS:
        return frozenset([" ".join(words)])
    return frozenset(" ".join(words[start : start + SHINGLE_WORDS]) for start in range(len(words) - SHINGLE_WORDS + 1))


def near_duplicate_groups(texts: Sequence[str], threshold: float = 0.8) -> np.ndarray:
    """One group number per text, the same for texts that are near-identical, directly or through others.

    Exact, unlike MinHash: candidates come from prefix filtering (two sets of this similarity share one of their rarest members;
    Chaudhuri et al. 2006, Bayardo et al. 2007), then the Jaccard similarity of their [`shingles`] is computed.
    """
    distinct: dict[frozenset[str], int] = {}
    distinct_of_text = [distinct.setdefault(shingles(text), len(distinct)) for text in texts]
    if not distinct:
        return np.zeros(0, dtype=int)
    members = _vectorizer().fit_transform(distinct)
    # Columns from the rarest shingle to the most frequent, so that a row begins with its rarest members.
    members = members[:, np.argsort(np.bincount(members.indices), kind="stable")]
    members.sort_indices()
    sizes = np.diff(members.indptr)
    prefix_lengths = [size - math.ceil(threshold * size - 1e-9) + 1 for size in sizes]
    starts = members.indptr[:-1]
    kept = np.concatenate(
        [members.indices[start : start + length] for start, length in zip(starts, prefix_lengths, strict=True)]
    )
    prefixes = sparse.csr_matrix(
        (np.ones(len(kept), dtype=np.int32), kept, np.concatenate([[0], np.cumsum(prefix_lengths)])),
        shape=members.shape,
    )

    firsts, seconds = [], []
    transposed = prefixes.T.tocsr()
    for start in range(0, len(sizes), _BLOCK_ROWS):
        candidates = (prefixes[start : start + _BLOCK_ROWS] @ transposed).tocoo()
        first, second = candidates.row + start, candidates.col
        # Each pair once, and only if the sizes alone do not rule it out.
        smaller, larger = np.minimum(sizes[first], sizes[second]), np.maximum(sizes[first], sizes[second])
        possible = (first < second) & (smaller >= threshold * larger - 1e-9)
        first, second = first[possible], second[possible]
        for block in range(0, len(first), 100_000):
            left, right = first[block : block + 100_000], second[block : block + 100_000]
            shared = np.asarray(members[left].multiply(members[right]).sum(axis=1)).ravel()
            similar = shared >= threshold * (sizes[left] + sizes[right] - shared) - 1e-9
            firsts.append(left[similar])
            seconds.append(right[similar])
    left, right = np.concatenate([[], *firsts]).astype(int), np.concatenate([[], *seconds]).astype(int)
    graph = sparse.coo_matrix((np.ones(len(left)), (left, right)), shape=(len(sizes), len(sizes)))
    _, group_of_distinct = connected_components(graph, directed=False)
    return group_of_distinct[distinct_of_text]


def largest_similarity(texts: Sequence[str], others: Sequence[str]) -> np.ndarray:
    """For each text the Jaccard similarity to the most similar of `others`, from 0 to 1; 0 if there are none."""
    sets, other_sets = [shingles(text) for text in texts], list({shingles(other) for other in others})
    if not sets or not other_sets:
        return np.zeros(len(sets))
    vectorizer = _vectorizer()
    other_members = vectorizer.fit_transform(other_sets)
    members = vectorizer.transform(sets)
    # Shingles that no other text has are not in the vocabulary, so sizes come from the sets.
    sizes = np.array(list(map(len, sets)))
    other_sizes = np.diff(other_members.indptr)
    transposed = other_members.T.tocsr()
    largest = np.zeros(len(sets))
    # Bounded for the worst case: a phrase that occurs in every text makes the blocks dense.
    block_rows = max(1, min(_BLOCK_ROWS, _BLOCK_PAIRS // len(other_sets)))
    for start in range(0, len(sets), block_rows):
        shared = members[start : start + block_rows] @ transposed
        counts = np.diff(shared.indptr)
        own_sizes = np.repeat(sizes[start : start + block_rows], counts)
        similarity = shared.data / (own_sizes + other_sizes[shared.indices] - shared.data)
        filled = np.flatnonzero(counts)
        if len(filled):
            largest[start + filled] = np.maximum.reduceat(similarity, shared.indptr[filled])
    return largest


def _vectorizer() -> CountVectorizer:
    """Makes a row for each set of shingles and a column for each shingle; unknown ones are ignored."""
    return CountVectorizer(analyzer=lambda members: members, dtype=np.int32)
