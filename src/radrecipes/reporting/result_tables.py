"""Tables of results in plain text and Markdown, generated from result files and never typed."""

from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, Context
from typing import Any

from radrecipes.errors import InputError
from radrecipes.evaluation import ADAPTER
from radrecipes.reporting.report_tables import decisions

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
        `str`: a table, a line for each paired comparison, and where the model gives probabilities what it settles alone at
        each target accuracy and its calibration error.
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
    best = metrics.get("best_baseline")
    if best:
        lines.append(f"best baseline on validation: {best['name']} ({best['validation_accuracy']:.3f})")
    for pair in metrics["comparisons"]:
        difference = pair["difference_in_exact_accuracy"]
        lines.append(
            f"{pair['first']} − {pair['second']}: {difference['value']:+.3f} ({difference['low']:+.3f} to "
            f"{difference['high']:+.3f}), exact McNemar p = {pair['p_value']:.2g}"
        )
    return "\n".join([*lines, *_decision_lines(metrics), *_calibration_lines(metrics)])


def _decision_lines(metrics: Mapping[str, Any]) -> list[str]:
    """What the fine-tuned model settles alone at each target, and the best baseline beside it."""
    rows = decisions(metrics)
    if not rows:
        return []
    systems = list(rows[0]["systems"])
    lines = ["", f"{'settled alone at the target':<28}" + "".join(f"{name:<50}" for name in systems).rstrip()]
    for row in rows:
        cells = [_decision(row["systems"][name]) for name in systems]
        lines.append(f"{100 * row['target']:g} %".ljust(28) + "".join(f"{cell:<50}" for cell in cells).rstrip())
    return lines


def _decision(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "no threshold"
    if row["threshold"] is None:
        return f"not supported by validation, at most {100 * row['best_supported']:.1f} %"
    coverage, accuracy = row["test"]["coverage"], row["test"]["accuracy"]
    if accuracy is None:
        return "none settled"
    return f"{coverage['value']:.3f} of rows, right {accuracy['value']:.3f} ({accuracy['low']:.3f}–{accuracy['high']:.3f})"


def _calibration_lines(metrics: Mapping[str, Any]) -> list[str]:
    calibration = metrics.get("calibration")
    if not calibration:
        return []
    before, after = (calibration[side]["expected_calibration_error"] for side in ("before", "after"))
    return [
        "",
        f"expected calibration error: {before:.3f}, after temperature {calibration['temperature']:.2f} {after:.3f}",
    ]


def results_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Published results as Markdown tables: a row for each system of each recipe.

    Args:
        results (`Sequence[Mapping[str, Any]]`):
            Contents of `*.results.json`.

    Returns:
        `str`: the table of accuracies; where labels were scored, one of what is settled alone; and a line for each recipe on
        seeds, paired tests, time and memory.
    """
    lines = ["| recipe | system | exact accuracy | macro-F1 | out of vocabulary |", "|---|---|---|---|---|"]
    decided, notes = [], []
    for result in results:
        for system, figures in result["systems"].items():
            cells = [_over_seeds(figures[key]) for key in ("exact_accuracy", "macro_f1", "out_of_vocabulary_rate")]
            lines.append(f"| {result['recipe']} | {system.replace('_', ' ')} | " + " | ".join(cells) + " |")
        decided += _decided_rows(result)
        seeds = ", ".join(str(row["seed"]) for row in result["seeds"])
        tests = [f"against {name.replace('_', ' ')} p ≤ {p_value}" for name, p_value in _worst_p_values(result)]
        notes.append(
            f"{result['recipe']}: {result['rows']:,} orders of {result['groups']} scenarios that training never saw; "
            f"seeds {seeds}; mean ± standard deviation over seeds"
            + (f"; exact McNemar in every seed {', '.join(tests)}" if tests else "")
            + f"; training {result['seeds'][0]['seconds'] / 60:.1f} minutes (first seed), {result['peak_memory_gib']:.1f} GiB, "
            f"{result['hardware']['cores']} cores ({result['hardware']['processor']})."
        )
    if decided:
        titles = ("recipe", "system", "target", "settled alone", "of these right", "area under risk-coverage")
        lines += ["", f"| {' | '.join(titles)} | calibration error |", "|---" * (len(titles) + 1) + "|", *decided]
    return "\n".join([*lines, "", *notes])


def _decided_rows(result: Mapping[str, Any]) -> list[str]:
    """Rows of the table of decisions; none for generated answers and for results recorded before labels were scored."""
    decided, calibration = result.get("decisions"), result.get("calibration")
    if not decided:
        return []
    rows = []
    for system, figures in decided["systems"].items():
        found = [figures[key] for key in ("coverage", "accuracy", "area_under_risk_coverage")]
        # Only the fine-tuned model's probabilities are calibrated.
        found.append(calibration["expected_calibration_error"] if calibration and system == ADAPTER else None)
        cells = [_over_some_seeds(figure, len(result["seeds"])) for figure in found]
        start = f"| {result['recipe']} | {system.replace('_', ' ')} | {100 * decided['target_accuracy']:g} % | "
        rows.append(start + " | ".join(cells) + " |")
    return rows


def _worst_p_values(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Systems that the fine-tuned model was tested against, the best baseline first, each with its largest p over seeds."""
    worst: dict[str, float] = {}
    for key in ("against_best_baseline", "against_linear"):
        for pair in filter(None, (row.get(key) for row in result["seeds"])):
            worst[pair["second"]] = max(worst.get(pair["second"], 0.0), pair["p_value"])
    # Rounded up, or `≤` would not hold.
    up = Context(prec=1, rounding=ROUND_CEILING)
    return [(name, f"{float(up.create_decimal(repr(float(p_value)))):g}") for name, p_value in worst.items()]


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


def _over_some_seeds(figure: Mapping[str, Any] | None, seeds: int) -> str:
    """A figure that may be missing in some seeds, as the accuracy of automatic answers is where there were none."""
    if figure is None:
        return "–"
    return _over_seeds(figure) + (f" ({figure['n']} of {seeds} seeds)" if figure["n"] < seeds else "")
