"""Splits rows by group, each label spread as evenly as its groups allow."""

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

FRACTIONS = {"train": 0.75, "validation": 0.10, "test": 0.15}


def merge_groups(groups: Sequence[str], other_groups: Sequence[int]) -> list[str]:
    """Join two groupings: rows that share a group in either get the alphabetically first of their `groups`."""
    names, own = np.unique(np.array(groups, dtype=object), return_inverse=True)
    _, other = np.unique(other_groups, return_inverse=True)
    # A row is an edge between its two groups.
    size = len(names) + len(own)
    graph = sparse.coo_matrix((np.ones(len(own)), (own, len(names) + other)), shape=(size, size))
    _, joined = connected_components(graph, directed=False)
    _, first, place = np.unique(joined[: len(names)], return_index=True, return_inverse=True)
    return names[first[place][own]].tolist()


def split_by_group(groups: Sequence[str], labels: Sequence[str], seed: int = 0) -> list[str]:
    """Assign every row to a split, whole groups at a time, with each label in the proportions of the split sizes.

    Greedy, after the iterative stratification of Sechidis, Tsoumakas and Vlahavas (2011): labels are taken in ascending order
    of their number of groups, their groups in descending order of size, and each group goes where it most reduces the squared
    deviation from the target counts of labels and rows, relative to those counts (as in chi-square). A group with a label that
    the training split lacks goes there, so every label of validation and test occurs in training. `seed` orders groups of equal
    size; the order of the rows does not matter.
    """
    label_counts = Counter(labels)
    labels_of_group: dict[str, Counter[str]] = defaultdict(Counter)
    for group, label in zip(groups, labels, strict=True):
        labels_of_group[group][label] += 1

    names = sorted(labels_of_group)
    shuffled = [names[position] for position in np.random.default_rng(seed).permutation(len(names))]
    by_size = sorted(shuffled, key=lambda group: -labels_of_group[group].total())
    groups_of_label: dict[str, list[str]] = defaultdict(list)
    for group in by_size:
        for label in labels_of_group[group]:
            groups_of_label[label].append(group)

    assigned_rows = dict.fromkeys(FRACTIONS, 0)
    assigned_of_label: dict[str, Counter[str]] = {split: Counter() for split in FRACTIONS}

    def cost(split: str, group: str) -> float:
        # Change of (assigned - wanted)² / wanted, summed over the labels, plus once for all rows.
        counts = labels_of_group[group]
        terms = [(count, assigned_of_label[split][label], label_counts[label]) for label, count in counts.items()]
        terms.append((counts.total(), assigned_rows[split], len(labels)))
        wanted = FRACTIONS[split]
        return sum(more * (2 * (done - wanted * every) + more) / (wanted * every) for more, done, every in terms)

    split_of_group: dict[str, str] = {}
    trained_labels: set[str] = set()

    for label in sorted(groups_of_label, key=lambda label: (len(groups_of_label[label]), label)):
        for group in groups_of_label[label]:
            if group in split_of_group:
                continue
            counts = labels_of_group[group]
            split = "train"
            if trained_labels.issuperset(counts):
                split = min(FRACTIONS, key=lambda split: cost(split, group))
            split_of_group[group] = split
            if split == "train":
                trained_labels.update(counts)
            assigned_rows[split] += counts.total()
            assigned_of_label[split].update(counts)
    return [split_of_group[group] for group in groups]
