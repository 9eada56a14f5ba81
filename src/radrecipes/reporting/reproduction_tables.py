"""Tables of a reproduction for a terminal: metrics, losses and differences against published ones."""

from collections.abc import Sequence

from radrecipes.evaluation.reproduction import Difference, Verdict

# Longer values are truncated; digests differ well before that.
_LONGEST = 60


def verdicts_table(verdicts: Sequence[Verdict], published: str) -> str:
    """One row per metric: the published value, the accepted range, the new value, and `PASS` or `FAIL`."""
    lines = [f"{'':<24}{published:<16}{'expected range':<20}{'now':<10}".rstrip()]
    for verdict in verdicts:
        # One decimal more than in the READMEs, to show on which side of the edge of its range a metric is.
        digits = verdict.metric.digits + 1
        mean, now = ("–" if value is None else f"{value:.{digits}f}" for value in (verdict.published, verdict.now))
        unknown = "nothing to compare" if verdict.published is None else "any value"
        band = unknown if verdict.low is None else f"{verdict.low:.{digits}f} to {verdict.high:.{digits}f}"
        words = {True: "PASS", False: "FAIL", None: "–"}[verdict.passed]
        lines.append(f"{verdict.metric.title:<24}{mean:<16}{band:<20}{now:<10}{words}")
    return "\n".join(lines)


def losses_table(recorded: Sequence[float], now: Sequence[float], same: Sequence[bool]) -> str:
    """Losses of the first steps against the recorded ones, one row per step; `now` may be shorter."""
    lines = [f"{'step':>4} {'recorded':>12} {'now':>12} {'difference':>12}"]
    for step, (before, right) in enumerate(zip(recorded, same, strict=True)):
        found = f"{now[step]:>12.7g} {now[step] - before:>12.2g}" if step < len(now) else f"{'–':>12} {'–':>12}"
        lines.append(f"{step + 1:>4} {before:>12.7g} {found} {'PASS' if right else 'FAIL'}")
    return "\n".join(lines)


def differences_lines(differences: Sequence[Difference]) -> str:
    """A line for each field that differs, in the given order, with both values."""
    return "\n".join(f"  {one.field}: {_value(one.before)} before, {_value(one.now)} now" for one in differences)


def _value(value: object) -> str:
    text = "not set" if value is None else str(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
