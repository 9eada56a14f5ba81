"""Slices of the rows: label frequency, length, near-duplicates, modality, body region, stated columns; texts not in training."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from radrecipes.data.duplicates import largest_similarity
from radrecipes.data.label_sets import LabelSet
from radrecipes.data.normalise import matching_key
from radrecipes.statistics import mean_statistic, proportion_interval

FEWEST_ROWS = 20
RARE_BELOW, COMMON_FROM = 20, 100
NOT_STATED = "not stated"
NEAR_DUPLICATE = 0.8


def slice_masks(
    notes: Sequence[str],
    references: Sequence[str],
    train_notes: Sequence[str],
    train_labels: Sequence[str],
    label_set: LabelSet,
) -> list[tuple[str, str, np.ndarray]]:
    """Name, value and row mask of every slice; each row has exactly one value of each slice.

    The bands of note length are the terciles of the training notes; near-duplicates are found by the Jaccard similarity of word
    5-grams, as in the leakage audit. Modality and body region are included if at least one label states them.
    """
    frequency_of = Counter(train_labels)
    frequencies = np.array([frequency_of[label] for label in references])
    rare, common = frequencies < RARE_BELOW, frequencies >= COMMON_FROM
    words = np.array([len(note.split()) for note in notes])
    short, medium = _thirds([len(note.split()) for note in train_notes])
    # The same tolerance as in the audit, so that both count the same notes.
    duplicate = largest_similarity(notes, train_notes) >= NEAR_DUPLICATE - 1e-9
    slices = {
        "label frequency": {
            f"rare (under {RARE_BELOW} training rows)": rare,
            f"medium ({RARE_BELOW} to {COMMON_FROM - 1} training rows)": ~rare & ~common,
            f"common ({COMMON_FROM} or more training rows)": common,
        },
        "note length": {
            f"short (up to {short} words)": words <= short,
            f"medium ({short + 1} to {medium} words)": (words > short) & (words <= medium),
            f"long (over {medium} words)": words > medium,
        },
        "near-duplicate in training": {"yes": duplicate, "no": ~duplicate},
    }
    for name, attribute in (
        ("modality", {label.name: label.modality for label in label_set.labels}),
        ("body region", {label.name: label.body_region for label in label_set.labels}),
    ):
        if any(attribute.values()):
            values = np.array([attribute[label] or NOT_STATED for label in references])
            slices[name] = {str(value): values == value for value in np.unique(values)}
    return [(name, value, mask) for name, masks in slices.items() for value, mask in masks.items()]


def column_masks(columns: Mapping[str, Sequence[str]]) -> list[tuple[str, str, np.ndarray]]:
    """Name, value and row mask of every slice by the columns that a dataset states, as [`slice_masks`] returns them."""
    masks = []
    for name, values in columns.items():
        found = np.array([value or NOT_STATED for value in values])
        masks += [(name, str(value), found == value) for value in np.unique(found)]
    return masks


def slice_metrics(
    masks: Sequence[tuple[str, str, np.ndarray]],
    groups: Sequence[str],
    correct: Mapping[str, np.ndarray],
    resamples: int = 2000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Exact accuracy of each system on each slice, with its interval; `correct` contains a mask of correct rows per system.

    A slice of under 20 rows or of one group is `too_few` and has `None` for every system.
    """
    groups = np.asarray(groups)
    table = []
    for name, value, mask in masks:
        rows, groups_inside = int(mask.sum()), groups[mask]
        too_few = rows < FEWEST_ROWS or len(np.unique(groups_inside)) < 2
        table.append(
            {
                "slice": name,
                "value": value,
                "rows": rows,
                "groups": len(np.unique(groups_inside)),
                "too_few": too_few,
                "systems": {
                    system: None
                    if too_few
                    else proportion_interval(
                        mean_statistic(right[mask]), groups_inside, resamples=resamples, seed=seed
                    )
                    for system, right in correct.items()
                },
            }
        )
    return table


def unseen_masks(
    inputs: Sequence[str], targets: Sequence[str], train_inputs: Sequence[str], train_targets: Sequence[str]
) -> dict[str, np.ndarray]:
    """Masks of the rows of a text task that a model cannot answer by repeating its training data.

    `text`: no training row has the same target. `pair`: no training row has the same input with the same target; left out if
    it has the same rows. A row whose input alone occurs in training is unseen: repeating what was learned would be wrong.
    Texts are compared by [`~data.normalise.matching_key`], without case and punctuation.
    """
    keys = [list(map(matching_key, texts)) for texts in (inputs, targets, train_inputs, train_targets)]
    targets_of_training, pairs_of_training = set(keys[3]), set(zip(keys[2], keys[3], strict=True))
    text = np.array([target not in targets_of_training for target in keys[1]], dtype=bool)
    pair = np.array([pair not in pairs_of_training for pair in zip(keys[0], keys[1], strict=True)], dtype=bool)
    return {"text": text} if np.array_equal(text, pair) else {"text": text, "pair": pair}


def _thirds(lengths: Sequence[int]) -> tuple[int, int]:
    """The greatest length in the first and in the second third."""
    first, second = np.quantile(lengths, [1 / 3, 2 / 3], method="inverted_cdf")
    # The bands must not overlap, even if the lengths hardly differ.
    return int(first), max(int(second), int(first) + 1)
