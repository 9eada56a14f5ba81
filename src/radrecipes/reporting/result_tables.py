"""Tables of results in plain text and Markdown, generated from result files and never typed."""

from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, Context
from statistics import fmean
from typing import Any

from radrecipes.errors import InputError
from radrecipes.evaluation.label_metrics import ADAPTER
from radrecipes.reporting.label_tables import decisions
from radrecipes.tasks.headline_figures import HEADLINES, HeadlineFigure, figure_value, task_of, writes_text

BEGIN, END = "<!-- results: generated, do not edit -->", "<!-- end of results -->"


def metrics_table(metrics: Mapping[str, Any]) -> str:
    """The systems of a `metrics.json` with their 95 % intervals, for a terminal.

    Args:
        metrics (`Mapping[str, Any]`):
            Content of `metrics.json`.

    Returns:
        `str`: a table and a line for each paired comparison. Where labels are chosen also what the model settles alone at
        each target accuracy and its calibration error; where reports are written also how the guard decided.
    """
    head = [f"{metrics['split']} split: {metrics['rows']:,} rows of {metrics['groups']:,} groups, 95 % intervals", ""]
    return "\n".join(head + (_written_lines(metrics) if writes_text(metrics) else _chosen_lines(metrics)))


def _chosen_lines(metrics: Mapping[str, Any]) -> list[str]:
    columns = HEADLINES[task_of(metrics)].figures
    lines = [" " * 28 + "".join(f"{figure.heading:<22}" for figure in columns)]
    for name, system in metrics["systems"].items():
        lines.append(f"{name:<28}" + "".join(f"{figure_with_interval(system, figure):<22}" for figure in columns))
    chance = metrics["semantic_similarity"]["chance"]
    lines += [
        "",
        f"similarity by chance: {chance['random_label']:.3f} random label, {chance['majority_label']:.3f} majority",
    ]
    best = metrics.get("best_baseline")
    if best:
        lines.append(f"best baseline on validation: {best['name']} ({best['validation_accuracy']:.3f})")
    for pair in metrics["comparisons"]:
        difference = difference_with_interval(pair["difference_in_exact_accuracy"])
        lines.append(f"{pair['first']} − {pair['second']}: {difference}, exact McNemar p = {pair['p_value']:.2g}")
    return [*lines, *_decision_lines(metrics), *_calibration_lines(metrics)]


def _written_lines(metrics: Mapping[str, Any]) -> list[str]:
    """A row for each figure: reports have more figures than a terminal has room for beside each other."""
    systems = metrics["systems"]
    lines = [" " * 22 + "".join(f"{name:<22}" for name in systems)]
    for figure in HEADLINES[task_of(metrics)].figures:
        cells = [figure_with_interval(system, figure) for system in systems.values()]
        lines.append(f"{figure.heading:<22}" + "".join(f"{cell:<22}" for cell in cells))
    lines.append("")
    fewer = {name: system["rows"] for name, system in systems.items() if system["rows"] < metrics["rows"]}
    lines += [f"{name} wrote {count:,} of the rows only" for name, count in fewer.items()]
    for pair in metrics["comparisons"]:
        lines.append(
            f"{pair['first']} − {pair['second']}: {difference_with_interval(pair['difference'])} in {pair['figure']}"
        )
    guard = systems[HEADLINES[task_of(metrics)].system]["guard"]
    lines.append(
        f"guard: {guard['first_try']:,} passed at the first try, {guard['later_try']:,} at a later one, "
        f"{guard['template']:,} replaced by template sentences"
    )
    return lines


def figure_with_interval(system: Mapping[str, Any], figure: HeadlineFigure) -> str:
    """A figure of a system with its interval where it has one, for example `0.928 (0.884–0.966)`; `–` where there is none."""
    cell, digits = system[figure.name], figure.digits
    if figure_value(cell) is None:
        return "–"
    interval = f" ({cell['low']:.{digits}f}–{cell['high']:.{digits}f})" if isinstance(cell, Mapping) else ""
    return f"{figure_value(cell):.{digits}f}{interval}"


def difference_with_interval(figure: Mapping[str, float]) -> str:
    """A difference with its sign and interval, for example `+0.109 (+0.067 to +0.152)`."""
    return f"{figure['value']:+.3f} ({figure['low']:+.3f} to {figure['high']:+.3f})"


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
    """Published results as Markdown tables: for each task a row for each system of each recipe.

    Args:
        results (`Sequence[Mapping[str, Any]]`):
            Contents of `*.results.json`.

    Returns:
        `str`: for each task the table of headline figures; where labels were scored, one of what is settled alone; and a
        line for each recipe on seeds, paired tests, time and memory. Each task has a title where there are several.
    """
    by_task = {task: [result for result in results if task_of(result) == task] for task in HEADLINES}
    tables = {task: _task_table(task, found) for task, found in by_task.items() if found}
    if len(tables) == 1:
        return next(iter(tables.values()))
    return "\n\n".join(f"**{HEADLINES[task].title}**\n\n{table}" for task, table in tables.items())


def _task_table(task: str, results: Sequence[Mapping[str, Any]]) -> str:
    columns = HEADLINES[task].published
    lines = [_row("recipe", "system", *(figure.heading for figure in columns)), "|---" * (2 + len(columns)) + "|"]
    for result in results:
        for system, figures in result["systems"].items():
            cells = [_over_some_seeds(figures[figure.name], None, figure.digits) for figure in columns]
            lines.append(_row(result["recipe"], _system_title(result, system), *cells))
    decided = [row for result in results for row in _decided_rows(result)]
    if decided:
        titles = ("recipe", "system", "target", "settled alone", "of these right", "area under risk-coverage")
        lines += ["", f"| {' | '.join(titles)} | calibration error |", "|---" * (len(titles) + 1) + "|", *decided]
    return "\n".join([*lines, "", *map(_note, results)])


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _system_title(result: Mapping[str, Any], system: str) -> str:
    fewer = result.get("system_rows", {}).get(system)
    return system.replace("_", " ") + (f" ({fewer:,} {HEADLINES[task_of(result)].rows} only)" if fewer else "")


def _note(result: Mapping[str, Any]) -> str:
    """One line on where the figures of a recipe come from."""
    headlines = HEADLINES[task_of(result)]
    seeds = ", ".join(str(row["seed"]) for row in result["seeds"])
    tests = _differences(result) if writes_text(result) else _mcnemar_tests(result)
    return (
        f"{result['recipe']}: {result['rows']:,} {headlines.rows} of {result['groups']} {headlines.groups} that training "
        f"never saw; seeds {seeds}; mean ± standard deviation over seeds{tests}; "
        f"training {result['seeds'][0]['seconds'] / 60:.1f} minutes (first seed), {result['peak_memory_gib']:.1f} GiB, "
        f"{result['hardware']['cores']} cores ({result['hardware']['processor']})."
    )


def _mcnemar_tests(result: Mapping[str, Any]) -> str:
    tests = [f"against {name.replace('_', ' ')} p ≤ {p_value}" for name, p_value in _worst_p_values(result)]
    return f"; exact McNemar in every seed {', '.join(tests)}" if tests else ""


def _differences(result: Mapping[str, Any]) -> str:
    """How far the guarded reports are from each other system's, with the widest reach of the intervals over seeds."""
    headlines = HEADLINES[task_of(result)]
    titles = {figure.name: figure.title for figure in headlines.figures}
    by_pair: dict[tuple[str, str], list[Mapping[str, float]]] = {}
    for row in result["seeds"]:
        for pair in row["comparisons"]:
            by_pair.setdefault((pair["second"], pair["figure"]), []).append(pair["difference"])
    words = [
        f"{titles[figure]} against {second.replace('_', ' ')} "
        f"{fmean(found['value'] for found in differences):+.3f} "
        f"({min(found['low'] for found in differences):+.3f} to {max(found['high'] for found in differences):+.3f})"
        for (second, figure), differences in by_pair.items()
    ]
    guard = [row["guard"] for row in result["seeds"]]
    total = sum(sum(decided.values()) for decided in guard)
    shares = [100 * sum(decided[way] for decided in guard) / total for way in ("first_try", "later_try", "template")]
    return (
        f"; {headlines.system.replace('_', ' ')}: {', '.join(words)}, intervals spanning those of all seeds"
        f"; of its reports {shares[0]:.1f} % passed at the first try, {shares[1]:.1f} % later, {shares[2]:.1f} % are "
        "template sentences"
    )


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


def _over_some_seeds(figure: Mapping[str, Any] | None, seeds: int | None, digits: int = 3) -> str:
    """Mean and spread; a figure may be missing in some seeds, as the accuracy of automatic answers is where there were none.

    Without `seeds` nothing is said of missing ones: the untuned base is evaluated once whatever the seeds.
    """
    if figure is None:
        return "–"
    spread = f" ± {figure['sd']:.{digits}f}" if figure["sd"] is not None else ""
    missing = f" ({figure['n']} of {seeds} seeds)" if seeds is not None and figure["n"] < seeds else ""
    return f"{figure['mean']:.{digits}f}{spread}{missing}"
