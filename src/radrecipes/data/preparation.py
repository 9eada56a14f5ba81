"""From the rows of a source to splits that can be trained and judged on, with every row accounted for."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from radrecipes.data.audit import audit_leakage
from radrecipes.data.dataset_folder import SPLITS
from radrecipes.data.duplicates import near_duplicate_groups
from radrecipes.data.example import Example
from radrecipes.data.label_sets import LabelSet
from radrecipes.data.normalise import matching_key, normalise_note
from radrecipes.data.splits import DEFAULT_FRACTIONS, merge_groups, split_by_group
from radrecipes.errors import InputError

COLUMNS = ("id", "group", "note", "label")

# Why a row can be left out, and what to say of it. A merged duplicate is not left out: its text stays.
DROP_REASONS = {
    "empty_note": "the note is empty",
    "empty_label": "the label is empty",
    "empty_group": "the group is empty",
    "unknown_label": "the label set does not know the label",
    "conflicting_labels": "the same note has different labels",
    "outvoted_label": "the same note has another label more often",
}
_LISTED_ROWS = 5


@dataclass(frozen=True)
class Preparation:
    """What [`prepare_labelled_notes`] made.

    Args:
        splits (`dict[str, list[dict[str, str]]]`):
            Rows with `COLUMNS` for `train`, `validation` and `test`, in the order of the source.
        facts (`dict[str, Any]`):
            What the manifest says of them: `options`, `rows` (read, kept, merged, dropped by reason), `splits` (rows,
            groups and labels of each), `labels` (rows per label and split), `labels_only_in_training`,
            `groups_joined`, `leakage_audit`.
    """

    splits: dict[str, list[dict[str, str]]]
    facts: dict[str, Any]


def derive_label_set(examples: Sequence[Example], name: str, source: str) -> LabelSet:
    """Make a label set out of the labels of examples; see [`LabelSet.derive`]. Empty labels do not count.

    Args:
        examples (`Sequence[Example]`):
            Rows of a source.
        name (`str`):
            Name of the new set.
        source (`str`):
            Name of the source for the comment at the top and for errors.

    Returns:
        `LabelSet`: One label per spelling that differs in more than case and punctuation.
    """
    labels = Counter(_one_line(example.target) for example in examples)
    labels.pop("", None)
    if not labels:
        raise InputError("every label is empty; name the column that holds the labels", where=source)
    return LabelSet.derive(name, labels, source)


def prepare_labelled_notes(
    examples: Sequence[Example],
    label_set: LabelSet,
    *,
    conflicts: str = "drop",
    on_bad_row: str = "error",
    on_unknown_label: str = "error",
    near_duplicate_threshold: float = 0.8,
    max_dropped: float = 0.005,
    split_seed: int = 0,
) -> Preparation:
    """Clean, merge and split notes with labels, and audit the result.

    Args:
        examples (`Sequence[Example]`):
            Rows of a source, each with the input `note`.
        label_set (`LabelSet`):
            Labels and their aliases; every kept row gets a canonical name.
        conflicts (`str`, *optional*, defaults to `"drop"`):
            What to do with notes that are the same by [`matching_key`] but have different labels: `"drop"` them all,
            or `"vote"` and keep the rows with the label of the majority.
        on_bad_row (`str`, *optional*, defaults to `"error"`):
            What to do with an empty note, label or group: `"error"` or `"drop"`.
        on_unknown_label (`str`, *optional*, defaults to `"error"`):
            What to do with a label that the set does not know: `"error"` or `"drop"`.
        near_duplicate_threshold (`float`, *optional*, defaults to 0.8):
            Jaccard similarity of word 5-grams from which on notes are kept in one split.
        max_dropped (`float`, *optional*, defaults to 0.005):
            Largest share of the rows that may be dropped; merged duplicates do not count.
        split_seed (`int`, *optional*, defaults to 0):
            Seed of the split.

    Returns:
        `Preparation`: The splits and what is known of them.

    Raises:
        InputError: An identifier stands twice, a row is bad or its label unknown and the option says `"error"`, more
            rows than `max_dropped` would be dropped, fewer than two labels remain, or too few groups to split.
    """
    for name, value, choices in (
        ("conflicts", conflicts, ("drop", "vote")),
        ("on_bad_row", on_bad_row, ("error", "drop")),
        ("on_unknown_label", on_unknown_label, ("error", "drop")),
    ):
        if value not in choices:
            raise ValueError(f"{name} must be one of {choices}, not {value!r}")
    if not 0 < near_duplicate_threshold <= 1:
        raise InputError(f"near-duplicate threshold is {near_duplicate_threshold}; choose one above 0 and up to 1")
    if not 0 <= max_dropped <= 1:
        raise InputError(f"max-dropped is {max_dropped}; choose a share between 0 and 1, for example 0.02")
    if split_seed < 0:
        raise InputError(f"split-seed is {split_seed}; choose 0 or more")
    _refuse_repeated_ids(examples)

    dropped: dict[str, list[Example]] = {reason: [] for reason in DROP_REASONS}
    cleaned = _clean(examples, dropped, on_bad_row)
    labelled = _canonicalise(cleaned, label_set, dropped, on_unknown_label)
    agreeing = _settle_conflicts(labelled, conflicts, dropped)
    _refuse_many_dropped(dropped, len(examples), max_dropped)
    if len({example.target for example in agreeing}) < 2:
        found = f"only {agreeing[0].target!r}" if agreeing else "none"
        raise InputError(
            f"at least two labels are needed, found {found}; check the label column",
            where=examples[0].where.rpartition(":")[0] if examples else None,
        )

    # Groups are joined before duplicates merge: a note that two patients share ties all rows of both together.
    notes = [example.inputs["note"] for example in agreeing]
    own_groups = [example.group for example in agreeing]
    groups = merge_groups(own_groups, near_duplicate_groups(notes, near_duplicate_threshold).tolist())
    first_of_note: dict[tuple[str, str], tuple[Example, str]] = {}
    for example, group in zip(agreeing, groups, strict=True):
        first_of_note.setdefault((example.inputs["note"], example.target), (example, group))
    rows = [
        {"id": example.id, "group": group, "note": example.inputs["note"], "label": example.target}
        for example, group in first_of_note.values()
    ]
    assigned = split_by_group([row["group"] for row in rows], [row["label"] for row in rows], seed=split_seed)
    splits = {split: [row for row, of in zip(rows, assigned, strict=True) if of == split] for split in SPLITS}
    for split in SPLITS:
        if not splits[split]:
            raise InputError(
                f"{len(set(groups))} groups of rows are too few for a {split} split; give more rows or a finer group"
                " column",
                where=examples[0].where.rpartition(":")[0],
            )

    counts = {split: Counter(row["label"] for row in splits[split]) for split in SPLITS}
    per_label = {label: {split: counts[split][label] for split in SPLITS} for label in label_set.names}
    facts = {
        "options": {
            "conflicts": conflicts,
            "on_bad_row": on_bad_row,
            "on_unknown_label": on_unknown_label,
            "near_duplicate_threshold": near_duplicate_threshold,
            "max_dropped": max_dropped,
            "split_seed": split_seed,
            "split_fractions": dict(DEFAULT_FRACTIONS),
        },
        "rows": {
            "read": len(examples),
            "kept": len(rows),
            "merged_duplicates": len(agreeing) - len(rows),
            "dropped": {reason: len(of_reason) for reason, of_reason in dropped.items()},
        },
        "splits": {
            split: {
                "rows": len(of_split),
                "groups": len({row["group"] for row in of_split}),
                "labels": len({row["label"] for row in of_split}),
            }
            for split, of_split in splits.items()
        },
        "labels": per_label,
        "labels_only_in_training": sorted(
            label
            for label, of_label in per_label.items()
            if of_label["train"] and not of_label["validation"] and not of_label["test"]
        ),
        "labels_without_rows": sorted(label for label, of_label in per_label.items() if not any(of_label.values())),
        "groups_joined": len(set(own_groups)) - len(set(groups)),
        "leakage_audit": audit_leakage(splits, near_duplicate_threshold),
    }
    return Preparation(splits, facts)


def _one_line(text: str) -> str:
    return " ".join(normalise_note(text).split())


def _refuse_repeated_ids(examples: Sequence[Example]) -> None:
    first: dict[str, Example] = {}
    for example in examples:
        if not example.id:
            raise InputError("the identifier is empty; fill it in or leave out the id column", where=example.where)
        if example.id in first:
            raise InputError(
                f"identifier {example.id!r} stands already in {first[example.id].where}; make identifiers unique or"
                " leave out the id column",
                where=example.where,
            )
        first[example.id] = example


def _clean(examples: Sequence[Example], dropped: dict[str, list[Example]], on_bad_row: str) -> list[Example]:
    cleaned = []
    for example in examples:
        note, label = normalise_note(example.inputs["note"]), _one_line(example.target)
        if not matching_key(note):
            reason = "empty_note"
        elif not matching_key(label):
            reason = "empty_label"
        elif not example.group:
            reason = "empty_group"
        else:
            cleaned.append(replace(example, inputs={"note": note}, target=label))
            continue
        if on_bad_row == "error":
            raise InputError(
                f"{DROP_REASONS[reason]}; fill it in, or leave such rows out with --on-bad-row drop",
                where=example.where,
            )
        dropped[reason].append(example)
    return cleaned


def _canonicalise(
    examples: Sequence[Example], label_set: LabelSet, dropped: dict[str, list[Example]], on_unknown_label: str
) -> list[Example]:
    labelled, unknown = [], []
    for example in examples:
        name = label_set.canonical(example.target)
        if name is None:
            unknown.append(example)
        else:
            labelled.append(replace(example, target=name))
    if unknown and on_unknown_label == "error":
        listed = []
        for example in unknown[:_LISTED_ROWS]:
            near = label_set.suggest(example.target)
            listed.append(f"{example.where} {example.target!r}" + (f" (did you mean {near!r}?)" if near else ""))
        more = f" and {len(unknown) - _LISTED_ROWS} more" if len(unknown) > _LISTED_ROWS else ""
        raise InputError(
            f"the label set {label_set.name!r} does not know the label of {len(unknown)} of {len(examples)} rows: "
            f"{', '.join(listed)}{more}; add it as a label or alias, or leave such rows out with"
            " --on-unknown-label drop",
            where=unknown[0].where,
        )
    dropped["unknown_label"].extend(unknown)
    return labelled


def _settle_conflicts(examples: Sequence[Example], conflicts: str, dropped: dict[str, list[Example]]) -> list[Example]:
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    keys = [matching_key(example.inputs["note"]) for example in examples]
    for key, example in zip(keys, examples, strict=True):
        votes[key][example.target] += 1
    agreeing = []
    for key, example in zip(keys, examples, strict=True):
        ranked = votes[key].most_common(2)
        if len(ranked) == 1:
            agreeing.append(example)
        elif conflicts == "drop" or ranked[0][1] == ranked[1][1]:
            dropped["conflicting_labels"].append(example)
        elif example.target == ranked[0][0]:
            agreeing.append(example)
        else:
            dropped["outvoted_label"].append(example)
    return agreeing


def _refuse_many_dropped(dropped: dict[str, list[Example]], read: int, max_dropped: float) -> None:
    total = sum(len(of_reason) for of_reason in dropped.values())
    if total <= max_dropped * read:
        return
    reasons = "; ".join(
        f"{len(of_reason)} because {DROP_REASONS[reason]} (first: {of_reason[0].where})"
        for reason, of_reason in dropped.items()
        if of_reason
    )
    first = next(of_reason[0] for of_reason in dropped.values() if of_reason)
    raise InputError(
        f"{total} of {read} rows ({total / read:.2%}) would be dropped, more than the {max_dropped:.2%} allowed:"
        f" {reasons}; mend them or raise --max-dropped",
        where=first.where,
    )
