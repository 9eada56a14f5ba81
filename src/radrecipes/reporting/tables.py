"""Tables of results in plain text and Markdown, generated from result files and never typed."""

from collections.abc import Mapping
from typing import Any

_COLUMNS = {
    "exact_accuracy": "exact accuracy",
    "macro_f1": "macro-F1",
    "out_of_vocabulary_rate": "out of vocabulary",
    "semantic_similarity": "similarity",
}


def metrics_table(metrics: Mapping[str, Any]) -> str:
    """The systems of a `metrics.json` with their 95 % intervals, for a terminal.

    Args:
        metrics (`Mapping[str, Any]`):
            Content of `metrics.json`.

    Returns:
        `str`: a table, and a line for each paired comparison.
    """
    lines = [f"{metrics['split']} split: {metrics['rows']:,} rows of {metrics['groups']:,} groups, 95 % intervals", ""]
    lines.append(" " * 28 + "".join(f"{title:<22}" for title in _COLUMNS.values()))
    for name, figures in metrics["systems"].items():
        cells = [figures[key] for key in _COLUMNS]
        shown = [f"{cell['value']:.3f} ({cell['low']:.3f}–{cell['high']:.3f})" for cell in cells]
        lines.append(f"{name:<28}" + "".join(f"{cell:<22}" for cell in shown))
    chance = metrics["semantic_similarity"]["chance"]
    lines += [
        "",
        f"similarity by chance: {chance['random_label']:.3f} random label, {chance['majority_label']:.3f} majority",
    ]
    for pair in metrics["comparisons"]:
        difference = pair["difference_in_exact_accuracy"]
        lines.append(
            f"{pair['first']} − {pair['second']}: {difference['value']:+.3f} ({difference['low']:+.3f} to "
            f"{difference['high']:+.3f}), exact McNemar p = {pair['p_value']:.2g}"
        )
    return "\n".join(lines)
