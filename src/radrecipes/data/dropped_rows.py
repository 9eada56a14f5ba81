"""How many rows of a source may be dropped."""

from collections.abc import Mapping, Sequence

from radrecipes.errors import InputError


def refuse_many_dropped(
    dropped: Mapping[str, Sequence[str]],
    reasons: Mapping[str, str],
    read: int,
    max_dropped: float,
    rows: str = "rows",
    listed: str = "",
) -> None:
    """Raise an [`InputError`] if more than a fraction of the rows was dropped; `dropped` has the places by reason."""
    total = sum(map(len, dropped.values()))
    if total <= max_dropped * read:
        return
    # Where a file lists the rows, their places are files named after patients and are not printed.
    shown = "; ".join(
        f"{len(places)} because {reasons[reason]}" + ("" if listed else f" (first: {places[0]})")
        for reason, places in dropped.items()
        if places
    )
    vote = ", or keep the majority label with --conflicts vote" if dropped.get("conflicting_labels") else ""
    raise InputError(
        f"{total} of {read} {rows} ({total / read:.2%}) would be dropped, more than the {max_dropped:.2%} allowed:"
        f" {shown}{listed}; fix them or raise --max-dropped{vote}",
        where=None if listed else next(filter(None, dropped.values()))[0],
    )
