"""Costly confusions: wrong labels that differ in contrast, side or region, or that the label set lists as costly."""

import re
from collections.abc import Sequence

import numpy as np

from radrecipes.data.label_sets import LabelSet
from radrecipes.data.normalise import matching_key

CONTRAST, SIDE, REGION, LISTED = "contrast", "side", "region", "listed"
KINDS = (CONTRAST, SIDE, REGION, LISTED)
ANY = "any"

_SIDES = re.compile(r"\b(left|right)\b")


def costly_kinds(label_set: LabelSet, reference: str, predicted: str) -> set[str]:
    """The kinds of costly confusion between two labels, given by their canonical names.

    `"contrast"`: same modality and body region, but contrast for only one; `"side"`: the names differ only in left and right;
    `"region"`: different body regions; `"listed"`: a pair of the set's `costly_confusions`. Attributes that a label does not
    state cannot differ.
    """
    right, answered = label_set.label(reference), label_set.label(predicted)
    if right == answered:
        return set()
    kinds = set()
    if right.body_region and answered.body_region and right.body_region != answered.body_region:
        kinds.add(REGION)
    same_place = right.body_region == answered.body_region is not None
    same_modality = right.modality == answered.modality is not None
    contrasts = (right.contrast, answered.contrast)
    if same_place and same_modality and None not in contrasts and contrasts.count("none") == 1:
        kinds.add(CONTRAST)
    # Names are unique by their matching key, so two names that are equal without sides differ in the side.
    if _without_sides(reference) == _without_sides(predicted):
        kinds.add(SIDE)
    if (reference, predicted) in label_set.costly_confusions or (predicted, reference) in label_set.costly_confusions:
        kinds.add(LISTED)
    return kinds


def costly_rows(
    label_set: LabelSet, references: Sequence[str], predictions: Sequence[str | None]
) -> dict[str, np.ndarray]:
    """Masks of the rows with a costly confusion, for each of [`KINDS`] and for `any`; only predicted labels can be confusions."""
    kinds_of_pair = {
        pair: costly_kinds(label_set, *pair) if pair[1] is not None else set()
        for pair in set(zip(references, predictions, strict=True))
    }
    kinds_of_row = [kinds_of_pair[pair] for pair in zip(references, predictions, strict=True)]
    masks = {kind: np.array([kind in kinds for kinds in kinds_of_row], dtype=bool) for kind in KINDS}
    return {**masks, ANY: np.array([bool(kinds) for kinds in kinds_of_row], dtype=bool)}


def _without_sides(name: str) -> str:
    return _SIDES.sub("side", matching_key(name))
