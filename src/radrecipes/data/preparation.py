"""From the rows of a table to audited splits, with every row accounted for."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from radrecipes.data.audit import audit_leakage
from radrecipes.data.dataset_folder import SPLITS
from radrecipes.data.dropped_rows import refuse_many_dropped
from radrecipes.data.duplicates import near_duplicate_groups
from radrecipes.data.example import ACCEPTABLE, ACCEPTABLE_SEPARATOR, Example
from radrecipes.data.label_sets import LabelSet
from radrecipes.data.normalise import is_missing, matching_key, normalise_note
from radrecipes.data.splits import FRACTIONS, merge_groups, split_by_group
from radrecipes.errors import InputError
from radrecipes.models.control_tokens import control_token_in

_LISTED_ROWS = 5
# A group with a larger fraction of the rows leaves validation or test too small, or fills the training split.
_LARGE_GROUP = 0.2
_CONTROL_TOKEN, _UNREADABLE = "control_token", "unreadable_row"
_ROW_COLUMNS = ("id", "group", ACCEPTABLE)
# A longer text is not a label but probably the note. Labels are printed, notes never.
_LONGEST_LABEL = 200
# More different labels than these, and than half of the rows, are no labels either.
_FEW_LABELS = 20
# Results are given for each value of a slice column; with more values it is a text or an identifier.
_MOST_SLICES = 50
Splits = dict[str, list[dict[str, str]]]


def drop_reasons(input_column: str, target_column: str) -> dict[str, str]:
    """Why a row can be dropped, by manifest key. A merged duplicate is not dropped: its text stays."""
    return {
        f"empty_{input_column}": f"the {input_column} is empty",
        f"empty_{target_column}": f"the {target_column} is empty",
        "empty_group": "the group is empty",
        "unknown_label": "the label set does not know the label",
        "conflicting_labels": f"the same {input_column} has different labels",
        "outvoted_label": f"the same {input_column} has another label more often",
        _UNREADABLE: "the row cannot be read",
        _CONTROL_TOKEN: f"the {target_column} contains a control token of a chat format",
    }


def derive_label_set(examples: Sequence[Example], name: str, source: str) -> LabelSet:
    """Derive a label set from the labels of examples; those that [`prepare_rows`] refuses as empty or unsafe are ignored."""
    labels: Counter[str] = Counter()
    for example in examples:
        label = _one_line(example.target)
        if not _key(label):
            continue
        if len(label) > _LONGEST_LABEL:
            raise InputError(
                f"the label has {len(label)} characters, more than {_LONGEST_LABEL}; name the column that contains the"
                " labels, or give a --label-set",
                where=example.where,
            )
        labels[label] += 1
    for label in [label for label in labels if control_token_in(label)]:
        del labels[label]
    if not labels:
        raise InputError("every label is empty; name the column that contains the labels", where=source)
    if len(labels) > max(_FEW_LABELS, len(examples) / 2):
        raise InputError(
            f"{len(labels)} different labels in {len(examples)} rows cannot be learned; name the column that contains the"
            " labels, or give a --label-set",
            where=source,
        )
    return LabelSet.derive(name, labels, source)


def prepare_rows(
    examples: Sequence[Example],
    *,
    input_column: str,
    target_column: str,
    label_set: LabelSet | None = None,
    conflicts: str = "drop",
    on_bad_row: str = "error",
    on_unknown_label: str = "error",
    near_duplicate_threshold: float = 0.8,
    max_dropped: float = 0.005,
    split_seed: int = 0,
    unreadable: Sequence[str] = (),
    warn: Callable[[str], None] = lambda line: None,
) -> tuple[Splits, dict[str, Any]]:
    """Clean, merge and split rows; returns the rows by split, in the order of the source, and facts for the manifest.

    Args:
        label_set: Labels and aliases; every kept row gets a canonical name. `None` if the target is free text.
        conflicts: For texts with the same [`matching_key`] but different labels: `"drop"` them all, or `"vote"` and
            keep the rows with the majority label. Needs a label set, like `on_unknown_label`.
        max_dropped: Largest fraction of the rows that may be dropped; merged duplicates do not count.
        unreadable: Places of rows that the reader had to drop.
        warn: Called with a line if one group is so large that the splits cannot have their sizes.
    """
    _check_options(near_duplicate_threshold, max_dropped, split_seed)
    _check_examples(examples, input_column, target_column)

    reasons = drop_reasons(input_column, target_column)
    # The places of the dropped rows.
    dropped: dict[str, list[str]] = {reason: [] for reason in list(reasons)[: -2 if label_set else 3]}
    dropped |= {_UNREADABLE: list(unreadable)} if unreadable else {}
    kept = _clean(examples, input_column, label_set, reasons, dropped, on_bad_row)
    if label_set:
        kept = _canonicalise(kept, label_set, dropped, on_unknown_label)
        kept = _settle_conflicts(kept, input_column, conflicts, dropped)
    read = len(examples) + len(unreadable)
    refuse_many_dropped(dropped, reasons, read, max_dropped)
    file = examples[0].where.rpartition(":")[0] if examples else None
    if label_set and len({example.target for example in kept}) < 2:
        found = "one" if kept else "none"
        raise InputError(f"at least two labels are needed, found {found}; check the label column", where=file)

    label_column = target_column if label_set else None
    rows, groups_joined = _merge(kept, input_column, target_column, near_duplicate_threshold)
    why = _why_joined(groups_joined, near_duplicate_threshold)
    splits = _split(rows, label_column, split_seed, file, why)
    _warn_of_large_group(rows, why, warn)

    facts = {
        "options": {
            **({"conflicts": conflicts, "on_unknown_label": on_unknown_label} if label_set else {}),
            "on_bad_row": on_bad_row,
            "near_duplicate_threshold": near_duplicate_threshold,
            "max_dropped": max_dropped,
            "split_seed": split_seed,
            "split_fractions": dict(FRACTIONS),
        },
        "rows": {
            "read": read,
            "kept": len(rows),
            "merged_duplicates": len(kept) - len(rows),
            "dropped": {reason: len(places) for reason, places in dropped.items()},
        },
        "groups_joined": groups_joined,
        "leakage_audit": audit_leakage(splits, near_duplicate_threshold, input_column, label_column),
        **_count(splits, target_column, label_set),
    }
    return splits, facts


def replace_test(
    splits: Splits,
    facts: dict[str, Any],
    examples: Sequence[Example],
    input_column: str,
    target_column: str,
    label_set: LabelSet,
) -> tuple[Splits, dict[str, Any]]:
    """The splits and facts of [`prepare_rows`] with another test split: the examples of its groups, and only those."""
    groups, reasons = {row["group"] for row in splits["test"]}, drop_reasons(input_column, target_column)
    dropped: dict[str, list[str]] = {reason: [] for reason in reasons}
    inside = [example for example in examples if example.group in groups]
    kept = _canonicalise(
        _clean(inside, input_column, label_set, reasons, dropped, "error"), label_set, dropped, "error"
    )
    threshold = facts["options"]["near_duplicate_threshold"]
    rows, _ = _merge(kept, input_column, target_column, threshold)
    counts = {
        **facts["rows"],
        "read": facts["rows"]["read"] - len(splits["test"]) + len(inside),
        "kept": facts["rows"]["kept"] - len(splits["test"]) + len(rows),
        "merged_duplicates": facts["rows"]["merged_duplicates"] + len(kept) - len(rows),
    }
    splits = {**splits, "test": rows}
    audit = audit_leakage(splits, threshold, input_column, target_column)
    return splits, {**facts, "rows": counts, "leakage_audit": audit, **_count(splits, target_column, label_set)}


def _check_options(near_duplicate_threshold: float, max_dropped: float, split_seed: int) -> None:
    if not 0 < near_duplicate_threshold <= 1:
        raise InputError(f"near-duplicate threshold is {near_duplicate_threshold}; choose one above 0 and up to 1")
    if not 0 <= max_dropped <= 1:
        raise InputError(f"max-dropped is {max_dropped}; choose a fraction between 0 and 1, for example 0.02")
    if split_seed < 0:
        raise InputError(f"split-seed is {split_seed}; choose 0 or more")


def _check_examples(examples: Sequence[Example], input_column: str, target_column: str) -> None:
    """Identifiers that occur once, and slice columns with their own name and few values."""
    _refuse_repeated_ids(examples)
    for name in examples[0].slices if examples else ():
        if name in (*_ROW_COLUMNS, input_column, target_column):
            raise InputError(
                f"a slice column cannot be named {name!r}, as a column of the dataset is; rename it in the table"
            )
        values = len({example.slices[name] for example in examples})
        if values > _MOST_SLICES:
            raise InputError(
                f"has {values} different values, more than {_MOST_SLICES}; slice by a column with few, such as a site or a scanner",
                where=f"--slice-column {name}",
            )


def _merge(
    examples: Sequence[Example], input_column: str, target_column: str, threshold: float
) -> tuple[list[dict[str, str]], int]:
    """Rows without duplicates, near-identical texts in one group, and the number of groups that were joined."""
    # Join groups before merging duplicates: a text that two patients share puts all rows of both into one group.
    own_groups = [example.group for example in examples]
    near = near_duplicate_groups([example.inputs[input_column] for example in examples], threshold)
    groups = merge_groups(own_groups, near)
    rows: dict[tuple[str, str], dict[str, str]] = {}
    accepted: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    for example, group in zip(examples, groups, strict=True):
        key = text, target = example.inputs[input_column], example.target
        row = {"id": example.id, "group": group, input_column: text, target_column: target, **example.slices}
        rows.setdefault(key, row)
        if example.acceptable is not None:
            accepted[key].update(dict.fromkeys(example.acceptable))
            rows[key][ACCEPTABLE] = f"{ACCEPTABLE_SEPARATOR} ".join(accepted[key])
    return list(rows.values()), len(set(own_groups)) - len(set(groups))


def _warn_of_large_group(rows: list[dict[str, str]], why: str, warn: Callable[[str], None]) -> None:
    # The group is not named: it may be a patient.
    largest = max(Counter(row["group"] for row in rows).values())
    if largest > _LARGE_GROUP * len(rows):
        share = f"{largest / len(rows):.0%}"
        warn(f"warning: one group has {largest} of {len(rows)} rows ({share}), and a group stays in one split{why}")


def _why_joined(joined: int, threshold: float) -> str:
    if not joined:
        return ""
    return (
        f"; near-identical texts, such as those that share a form, joined {joined} groups with others: raise"
        f" --near-duplicate-threshold from {threshold:g} if they are not the same text"
    )


def _split(rows: list[dict[str, str]], label_column: str | None, seed: int, file: str | None, why: str) -> Splits:
    groups = [row["group"] for row in rows]
    strata = [row[label_column] if label_column else "" for row in rows]
    assigned = split_by_group(groups, strata, seed=seed)
    splits = {split: [row for row, of in zip(rows, assigned, strict=True) if of == split] for split in SPLITS}
    for split in SPLITS:
        if not splits[split]:
            raise InputError(
                f"{len(set(groups))} groups of rows are too few for a {split} split; give more rows or a finer group column{why}",
                where=file,
            )
    return splits


def _count(splits: Splits, target_column: str, label_set: LabelSet | None) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "splits": {
            split: {"rows": len(rows), "groups": len({row["group"] for row in rows})} for split, rows in splits.items()
        }
    }
    if label_set:
        counts = {split: Counter(row[target_column] for row in rows) for split, rows in splits.items()}
        for split in SPLITS:
            facts["splits"][split]["labels"] = len(counts[split])
        labels = {label: {split: counts[split][label] for split in SPLITS} for label in label_set.names}
        facts["labels"] = labels
        facts["labels_only_in_training"] = sorted(
            label for label, of in labels.items() if of["train"] and not of["validation"] and not of["test"]
        )
        facts["labels_without_rows"] = sorted(label for label, of in labels.items() if not any(of.values()))
    return facts


def _one_line(text: str) -> str:
    return " ".join(normalise_note(text).split())


def _key(text: str) -> str:
    """What [`matching_key`] gives; empty for a cell that an export left empty."""
    return "" if is_missing(text, none=False) else matching_key(text)


def _refuse_repeated_ids(examples: Sequence[Example]) -> None:
    first: dict[str, Example] = {}
    for example in examples:
        if not example.id:
            raise InputError("the identifier is empty; fill it in or leave out the id column", where=example.where)
        if example.id in first:
            raise InputError(
                f"the identifier is already used in {first[example.id].where}; make identifiers unique or"
                " leave out the id column",
                where=example.where,
            )
        first[example.id] = example


def _clean(
    examples: Sequence[Example],
    input_column: str,
    label_set: LabelSet | None,
    reasons: dict[str, str],
    dropped: dict[str, list[str]],
    on_bad_row: str,
) -> list[Example]:
    cleaned, unsafe = [], []
    for example in examples:
        text = normalise_note(example.inputs[input_column])
        target = (_one_line if label_set else normalise_note)(example.target)
        filled = _key(text), (label_set and label_set.canonical(target)) or _key(target), example.group
        if all(filled):
            # The text itself may contain one: rendering breaks it.
            (unsafe if control_token_in(target) else cleaned).append(
                replace(example, inputs={input_column: text}, target=target)
            )
            continue
        # The first reasons are those of an empty text, target and group.
        reason = next(reason for reason, value in zip(reasons, filled, strict=False) if not value)
        if on_bad_row == "error":
            advice = "fill it in, or drop such rows with --on-bad-row drop"
            raise InputError(f"{reasons[reason]}; {advice}", where=example.where)
        dropped[reason].append(example.where)
    if unsafe and on_bad_row == "error":
        raise InputError(
            f"{reasons[_CONTROL_TOKEN]}, {control_token_in(unsafe[0].target)}, in {len(unsafe)} of {len(examples)} rows: the "
            "model would learn to stop there; remove it, or drop such rows with --on-bad-row drop",
            where=unsafe[0].where,
        )
    if unsafe:
        dropped[_CONTROL_TOKEN] = [example.where for example in unsafe]
    return cleaned


def _canonicalise(
    examples: Sequence[Example], label_set: LabelSet, dropped: dict[str, list[str]], on_unknown_label: str
) -> list[Example]:
    named = [(example, label_set.canonical(example.target)) for example in examples]
    unknown = [example for example, name in named if name is None]
    if unknown and on_unknown_label == "error":
        listed = []
        for example in unknown[:_LISTED_ROWS]:
            near = label_set.suggest(example.target)
            listed.append(example.where + (f" (did you mean {near!r}?)" if near else ""))
        more = f" and {len(unknown) - _LISTED_ROWS} more" if len(unknown) > _LISTED_ROWS else ""
        raise InputError(
            f"the label set {label_set.name!r} does not know the label of {len(unknown)} of {len(examples)} rows: "
            f"{', '.join(listed)}{more}; add it as a label or alias, or drop such rows with --on-unknown-label drop",
            where=unknown[0].where,
        )
    dropped["unknown_label"] += [example.where for example in unknown]
    return [
        replace(example, target=name, acceptable=_acceptable_names(example, label_set, on_unknown_label))
        for example, name in named
        if name is not None
    ]


def _acceptable_names(example: Example, label_set: LabelSet, on_unknown_label: str) -> tuple[str, ...] | None:
    """The canonical names of the acceptable labels of a row; unknown ones are an error, or left out."""
    if example.acceptable is None:
        return None
    names = [label_set.canonical(label) for label in example.acceptable]
    if None in names and on_unknown_label == "error":
        near = label_set.suggest(example.acceptable[names.index(None)])
        raise InputError(
            f"the label set {label_set.name!r} does not know a label that this row calls acceptable"
            + (f" (did you mean {near!r}?)" if near else "")
            + "; add it as a label or alias, or leave such names out with --on-unknown-label drop",
            where=example.where,
        )
    return tuple(name for name in dict.fromkeys(names) if name not in (None, label_set.canonical(example.target)))


def _settle_conflicts(
    examples: Sequence[Example], input_column: str, conflicts: str, dropped: dict[str, list[str]]
) -> list[Example]:
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    keys = [matching_key(example.inputs[input_column]) for example in examples]
    for key, example in zip(keys, examples, strict=True):
        votes[key][example.target] += 1
    agreeing = []
    for key, example in zip(keys, examples, strict=True):
        ranked = votes[key].most_common(2)
        if len(ranked) == 1:
            agreeing.append(example)
        elif conflicts == "drop" or ranked[0][1] == ranked[1][1]:
            dropped["conflicting_labels"].append(example.where)
        elif example.target == ranked[0][0]:
            agreeing.append(example)
        else:
            dropped["outvoted_label"].append(example.where)
    return agreeing
