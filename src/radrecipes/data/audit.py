"""Leakage audit of finished splits: what validation and test have in common with training."""

from collections.abc import Mapping, Sequence
from typing import Any

from radrecipes.data.duplicates import largest_similarity
from radrecipes.data.normalise import matching_key

HELD_OUT_SPLITS = ("validation", "test")


def audit_leakage(
    splits: Mapping[str, Sequence[Mapping[str, str]]], threshold: float, input_column: str, label_column: str | None
) -> dict[str, Any]:
    """Count the held-out rows that also occur in training; `normalised` includes `verbatim`, and `near_duplicate` both."""
    training = splits["train"]
    texts = [row[input_column] for row in training]
    verbatim, normalised = set(texts), set(map(matching_key, texts))
    groups = {row["group"] for row in training}
    audit: dict[str, Any] = {"near_duplicate_threshold": threshold}
    for split in HELD_OUT_SPLITS:
        held_out = [row[input_column] for row in splits[split]]
        similarity = largest_similarity(held_out, texts)
        audit[split] = {
            "rows": len(held_out),
            "verbatim": sum(text in verbatim for text in held_out),
            "normalised": sum(matching_key(text) in normalised for text in held_out),
            "near_duplicate": int((similarity >= threshold - 1e-9).sum()),
            "largest_similarity": round(float(similarity.max(initial=0)), 4),
            "shared_groups": len({row["group"] for row in splits[split]} & groups),
        }
        if label_column:
            labels = {row[label_column] for row in splits[split]}
            audit[split]["labels_missing_from_training"] = sorted(labels - {row[label_column] for row in training})
    return audit
