"""Tables of results in plain text and Markdown, generated from result files and never typed."""

from collections.abc import Mapping, Sequence
from typing import Any

from radrecipes.errors import InputError

BEGIN, END = "<!-- results: generated, do not edit -->", "<!-- end of results -->"

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


def results_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Published results as a Markdown table: a row for each system of each recipe.

    Args:
        results (`Sequence[Mapping[str, Any]]`):
            Contents of `*.results.json`.

    Returns:
        `str`: the table, with a line on seeds, time, memory and paired test below each recipe's rows.
    """
    lines = ["| recipe | system | exact accuracy | macro-F1 | out of vocabulary |", "|---|---|---|---|---|"]
    notes = []
    for result in results:
        for system, figures in result["systems"].items():
            cells = [_over_seeds(figures[key]) for key in ("exact_accuracy", "macro_f1", "out_of_vocabulary_rate")]
            lines.append(f"| {result['recipe']} | {system.replace('_', ' ')} | " + " | ".join(cells) + " |")
        seeds = ", ".join(str(row["seed"]) for row in result["seeds"])
        worst = max(
            (row["against_linear"]["p_value"] for row in result["seeds"] if row["against_linear"]), default=None
        )
        notes.append(
            f"{result['recipe']}: {result['rows']:,} orders of {result['groups']} scenarios that training never saw; "
            f"seeds {seeds}; "
            "mean ± standard deviation over seeds"
            + (
                f"; exact McNemar against the linear classifier p ≤ {worst:.1g} in every seed"
                if worst is not None
                else ""
            )
            + f"; training {result['seeds'][0]['seconds'] / 60:.1f} minutes (first seed), {result['peak_memory_gib']:.1f} GiB, "
            f"{result['hardware']['cores']} cores ({result['hardware']['processor']})."
        )
    return "\n".join([*lines, "", *notes])


def with_results(document: str, results: Sequence[Mapping[str, Any]], where: str) -> str:
    """A document with its generated table made anew.

    Args:
        document (`str`):
            Markdown with the two marker comments `BEGIN` and `END`.
        results (`Sequence[Mapping[str, Any]]`):
            Contents of `*.results.json`.
        where (`str`):
            Name of the document, for the error.

    Returns:
        `str`

    Raises:
        [`InputError`]: the markers are missing.
    """
    head, begin, rest = document.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise InputError(f"the lines `{BEGIN}` and `{END}` are missing; add them where the table belongs", where)
    return f"{head}{BEGIN}\n{results_table(results)}\n{END}{tail}"


def _over_seeds(figure: Mapping[str, Any]) -> str:
    return f"{figure['mean']:.3f}" + (f" ± {figure['sd']:.3f}" if figure["sd"] is not None else "")
