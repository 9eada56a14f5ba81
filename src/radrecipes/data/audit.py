"""Leakage audit: what validation and test share with training, looked for in the finished splits alone."""

from collections.abc import Mapping, Sequence
from typing import Any

from radrecipes.data.duplicates import largest_similarity
from radrecipes.data.normalise import matching_key

HELD_OUT_SPLITS = ("validation", "test")


def audit_leakage(
    splits: Mapping[str, Sequence[Mapping[str, str]]], threshold: float = 0.8, text_column: str = "note"
) -> dict[str, Any]:
    """Count the held-out rows that training gives away.

    The audit knows nothing of how the splits were made, so it also judges splits that somebody else made.

    Args:
        splits (`Mapping[str, Sequence[Mapping[str, str]]]`):
            Rows of `train`, `validation` and `test`, with the columns `group`, `label` and `text_column`.
        threshold (`float`, *optional*, defaults to 0.8):
            Jaccard similarity of word 5-grams from which on two notes are near-identical.
        text_column (`str`, *optional*, defaults to `"note"`):
            Column of the text that must not occur in training.

    Returns:
        `dict[str, Any]`: `near_duplicate_threshold` and, for `validation` and `test`, the number of rows whose text
        occurs in training `verbatim`, `normalised` (by [`matching_key`]) and as a `near_duplicate` (each count
        includes the one before), `largest_similarity` to a training text, `shared_groups`, and the sorted
        `labels_missing_from_training`.
    """
    training = splits["train"]
    verbatim = {row[text_column] for row in training}
    normalised = {matching_key(row[text_column]) for row in training}
    groups = {row["group"] for row in training}
    labels = {row["label"] for row in training}
    audit: dict[str, Any] = {"near_duplicate_threshold": threshold}
    for split in HELD_OUT_SPLITS:
        rows = splits[split]
        similarity = largest_similarity([row[text_column] for row in rows], [row[text_column] for row in training])
        audit[split] = {
            "rows": len(rows),
            "verbatim": sum(row[text_column] in verbatim for row in rows),
            "normalised": sum(matching_key(row[text_column]) in normalised for row in rows),
            "near_duplicate": int((similarity >= threshold - 1e-9).sum()),
            "largest_similarity": round(float(similarity.max(initial=0)), 4),
            "shared_groups": len({row["group"] for row in rows} & groups),
            "labels_missing_from_training": sorted({row["label"] for row in rows} - labels),
        }
    return audit
