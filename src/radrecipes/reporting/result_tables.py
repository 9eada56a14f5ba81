"""Tables of results in plain text and Markdown: of evaluations, of recorded results and of their reproduction."""

from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_CEILING, Context
from itertools import groupby
from statistics import fmean
from typing import TYPE_CHECKING, Any

from radrecipes.errors import InputError
from radrecipes.evaluation.label_systems import ADAPTER, BASE
from radrecipes.evaluation.results import task_of
from radrecipes.evaluation.text_evaluation import REFERENCE
from radrecipes.reporting.label_tables import calibration, decisions, duration, processors, speed
from radrecipes.reporting.text_page import UNSEEN_TITLES
from radrecipes.tasks import TASKS, HeadlineMetric, LabelTask, Task, metric_value

if TYPE_CHECKING:  # it loads models
    from radrecipes.evaluation.reproduction import Difference, Verdict

# As many as a wide terminal has room for
_SYSTEMS_PER_BLOCK = 5
SIGNIFICANT = 0.05
# Of the costs of a system
_COSTS = (
    HeadlineMetric("training_seconds", "seconds of training", digits=1, lower_is_better=True),
    HeadlineMetric("rows_per_second", "answers per second", digits=1),
)
_ACCURACY = HeadlineMetric("exact_accuracy", "exact accuracy")
# Longer values of a difference are truncated; digests differ well before that.
_LONGEST_VALUE = 60
BEGIN, END = "<!-- results: generated, do not edit -->", "<!-- end of results -->"


def metrics_table(metrics: Mapping[str, Any]) -> str:
    """The systems of a `metrics.json` with their 95 % intervals, for a terminal."""
    lines = _label_lines if _is_label(metrics) else _text_lines
    head = [f"{metrics['split']} split: {metrics['rows']:,} rows of {metrics['groups']:,} groups, 95 % intervals"]
    for split, count in metrics.get("left_out", {}).items():
        head.append(f"{split} split: {count:,} more rows left out, because the model cannot read them")
    return "\n".join([*head, "", *lines(metrics)])


def _is_label(document: Mapping[str, Any]) -> bool:
    return isinstance(task_of(document), LabelTask)


def _label_lines(metrics: Mapping[str, Any]) -> list[str]:
    columns, words = task_of(metrics).measured(metrics), task_of(metrics).words
    costs = {name: system["cost"] for name, system in metrics["systems"].items() if "cost" in system}
    heads = [f"{metric.heading:<22}" for metric in columns]
    lines = [" " * 32 + "".join([*heads, *(("training  ", f"{words.rows}/s") if costs else ())])]
    for name, system in metrics["systems"].items():
        cells = [f"{metric_with_interval(system, metric):<22}" for metric in columns]
        if cost := costs.get(name):
            cells += [f"{duration(cost['training_seconds']):<10}", speed(cost["rows_per_second"])]
        lines.append(f"{name:<32}" + "".join(cells).rstrip())
    if timed_on := processors(costs.values()):
        lines.append(f"timed on {' and '.join(timed_on)}")
    chance = metrics["semantic_similarity"]["chance"]
    lines += [
        "",
        f"similarity by chance: {chance['random_label']:.3f} random label, {chance['majority_label']:.3f} majority class",
    ]
    best = metrics.get("best_baseline")
    if best:
        lines.append(f"best baseline on validation: {best['name']} ({best['validation_accuracy']:.3f})")
    for pair in metrics["comparisons"]:
        difference = difference_with_interval(pair["difference_in_exact_accuracy"])
        lines.append(f"{pair['first']} − {pair['second']}: {difference}, exact McNemar p = {pair['p_value']:.2g}")
    if rows := decisions(metrics):
        lines += [
            "",
            f"{'coverage at target accuracy':<32}" + "".join(f"{name:<50}" for name in rows[0]["systems"]).rstrip(),
        ]
    for row in rows:
        cells = "".join(f"{_decision(found):<50}" for found in row["systems"].values())
        lines.append(f"{100 * row['target']:g} %".ljust(32) + cells.rstrip())
    if found := calibration(metrics):
        before, after = (found[side]["expected_calibration_error"] for side in ("before", "after"))
        temperature = f"{found['temperature']:.2f}"
        lines += ["", f"expected calibration error: {before:.3f}, after temperature {temperature} {after:.3f}"]
    return lines


def _text_lines(metrics: Mapping[str, Any]) -> list[str]:
    """One row per metric, because text tasks have more metrics than a terminal has room for columns."""
    systems = metrics["systems"]
    lines = _text_block(metrics, systems)
    fewer = {name: system["rows"] for name, system in systems.items() if system["rows"] < metrics["rows"]}
    lines += [f"{name} was evaluated on {count:,} rows only" for name, count in fewer.items()]
    if best := metrics.get("best_baseline"):
        lines.append(f"best baseline on validation: {best['name']} ({best['validation_rouge_l']:.3f} in rouge_l)")
    for pair in metrics["comparisons"]:
        parts = [("", pair), *pair.get("unseen", {}).items()]
        cells = [
            difference_with_interval(part["difference"]) + (f" if {UNSEEN_TITLES[name]}" if name else "")
            for name, part in parts
            if part
        ]
        lines.append(f"{pair['first']} − {pair['second']} in {pair['figure']}: {'; '.join(cells)}")
    guard = systems[task_of(metrics).main_system]["guard"]
    lines.append(
        f"guard: {guard['first_try']:,} passed at the first attempt, {guard['later_try']:,} at a later one, "
        f"{guard['template']:,} replaced"
    )
    for name, found in metrics.get("unseen", {}).items():
        lines += ["", f"{UNSEEN_TITLES[name]}: {found['rows']:,} rows of {found['groups']:,} groups", ""]
        lines += _text_block(metrics, {system: figures for system, figures in found["systems"].items() if figures})
    return lines


def _text_block(metrics: Mapping[str, Any], systems: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines, names = [], list(systems)
    for start in range(0, len(names), _SYSTEMS_PER_BLOCK):
        block = names[start : start + _SYSTEMS_PER_BLOCK]
        lines.append(" " * 22 + "".join(f"{name:<22}" for name in block).rstrip())
        for metric in task_of(metrics).measured({"systems": systems}):
            cells = [metric_with_interval(systems[name], metric) for name in block]
            lines.append(f"{metric.heading:<22}" + "".join(f"{cell:<22}" for cell in cells).rstrip())
        lines.append("")
    return lines


def metric_with_interval(system: Mapping[str, Any], metric: HeadlineMetric) -> str:
    """A metric of a system, with its interval if it has one, for example `0.928 (0.884–0.966)`; `–` if there is none."""
    cell, digits = system.get(metric.name), metric.digits  # an older evaluation may lack it
    if metric_value(cell) is None:
        return "–"
    interval = f" ({cell['low']:.{digits}f}–{cell['high']:.{digits}f})" if isinstance(cell, Mapping) else ""
    return f"{metric_value(cell):.{digits}f}{interval}"


def difference_with_interval(difference: Mapping[str, float]) -> str:
    """A difference with its sign and interval, for example `+0.109 (+0.067 to +0.152)`."""
    return f"{difference['value']:+.3f} ({difference['low']:+.3f} to {difference['high']:+.3f})"


def _decision(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "no threshold"
    if row["threshold"] is None:
        return f"not supported by validation, at most {100 * row['best_supported']:.1f} %"
    coverage, accuracy = row["test"]["coverage"], row["test"]["accuracy"]
    if accuracy is None:
        return "0.000"
    interval = f"{accuracy['low']:.3f}–{accuracy['high']:.3f}"
    return f"{coverage['value']:.3f}, selective accuracy {accuracy['value']:.3f} ({interval})"


def summary_table(results: Sequence[Mapping[str, Any]]) -> str:
    """One Markdown table of all recipes: a few metrics of each task, against the base model and the best baseline."""
    cells = []
    for result in _in_order(results):
        task = task_of(result)
        rows = [
            (metric, {name: figures[metric.name] for name, figures in result["systems"].items()})
            for metric in task.published(result)[: 1 if isinstance(task, LabelTask) else 2]
        ]
        if decided := result.get("decisions"):
            title = f"coverage at {100 * decided['target_accuracy']:g} % target accuracy"
            coverage = {name: figures["coverage"] for name, figures in decided["systems"].items()}
            rows.append((HeadlineMetric("coverage", title), coverage))
        for name, found in result.get("unseen", {}).items():
            metric = HeadlineMetric("rouge_l", f"ROUGE-L, {UNSEEN_TITLES[name]}")
            rows.append((metric, {system: cells and cells["rouge_l"] for system, cells in found["systems"].items()}))
        for number, (metric, systems) in enumerate(rows):
            ours, base = (_over_seeds(systems.get(name), metric.digits) for name in (task.main_system, BASE))
            start = (task.words.title, result["recipe"]) if number == 0 else ("", "")
            cells.append([*start, metric.heading, ours, base, _best_baseline(result, systems, metric)])
    table = _markdown(["task", "recipe", "metric", "fine-tuned", "base model", "best baseline"], cells)
    note = "Mean ± standard deviation over seeds, on test studies and scenarios that are not in training; their texts may be."
    return f"{table}\n\n{note}"


def _best_baseline(result: Mapping[str, Any], systems: Mapping[str, Mapping[str, Any]], metric: HeadlineMetric) -> str:
    """The baseline that was best on validation; in an older result without this choice, that with the best figure."""
    baselines = {
        name: cell
        for name, cell in systems.items()
        if cell is not None and name != REFERENCE and not name.startswith((ADAPTER, BASE))
    }
    if not baselines:
        return "–"
    choose = min if metric.lower_is_better else max
    name = _best_on_validation(result)
    if name not in baselines:
        name = choose(baselines, key=lambda name: baselines[name]["mean"])
    return f"{_over_seeds(baselines[name], metric.digits)} ({name.replace('_', ' ')})"


def _best_on_validation(result: Mapping[str, Any]) -> str | None:
    if best := result.get("best_baseline"):
        return best["name"]
    # Where older results of label tasks have it
    return (result["seeds"][0].get("against_best_baseline") or {}).get("second")


def results_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Published results as Markdown: per task a row per system and recipe, and a line of notes; titled if there are several."""
    tables = {name: [*found] for name, found in groupby(_in_order(results), key=lambda result: result["task"])}
    titles = {name: f"**{TASKS[name].words.title}**\n\n" if len(tables) > 1 else "" for name in tables}
    return "\n\n".join(titles[name] + _task_table(TASKS[name], found) for name, found in tables.items())


def _in_order(results: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The results in task order."""
    return sorted(results, key=lambda result: list(TASKS).index(result["task"]))


def _task_table(task: Task, results: Sequence[Mapping[str, Any]]) -> str:
    shown = task.published(*results)
    rows = [
        [result["recipe"], _system_title(task, result, system)]
        + [_over_seeds(figures.get(metric.name), metric.digits) for metric in shown]
        for result in results
        for system, figures in result["systems"].items()
    ]
    parts = [_markdown(["recipe", "system", *(metric.heading for metric in shown)], rows)]
    slices = [found for result in results for found in result.get("unseen", {}).values()]
    shown = task.published(*slices)
    if unseen := [row for result in results for row in _unseen_rows(task, result, shown)]:
        parts.append(_markdown(["recipe", "rows", "system", *(metric.heading for metric in shown)], unseen))
    if decided := [row for result in results for row in _decision_rows(result)]:
        titles = ["recipe", "system", "target accuracy", "coverage", "selective accuracy", "AURC ↓", "ECE ↓"]
        parts.append(_markdown(titles, decided))
    if costs := [row for result in results for row in _cost_rows(result)]:
        titles = ["recipe", "system", *(metric.heading for metric in _COSTS), "trained on", "answered on"]
        parts.append(_markdown(titles, costs))
    if any(_is_label(result) for result in results):
        titles = [
            "recipe",
            "compared with",
            "difference in exact accuracy",
            "largest p (exact McNemar)",
            "seeds with p < 0.05",
        ]
        compared = [row for result in results for row in _label_comparison_rows(result)]
    else:
        titles = ["recipe", "system", "compared with", "metric", "rows", "difference"]
        compared = [row for result in results for row in _text_comparison_rows(result)]
    if compared:
        parts.append(
            _markdown(titles, compared)
            + "\n\nMean difference over seeds, and an interval that spans those of all seeds."
        )
    parts += [table for result in results for table in _slice_tables(task, result)]
    return "\n\n".join([*parts, "\n".join(map(_note, results))])


def _slice_tables(task: Task, result: Mapping[str, Any]) -> list[str]:
    """For each column that the dataset states, the accuracy of every system by its values."""
    tables = []
    for column, rows in groupby(result.get("slices_by_column", []), key=lambda row: row["slice"]):
        names = [system.replace("_", " ") for system in result["systems"]]
        cells = [
            [
                row["value"],
                f"{row['rows']:,}",
                *(_over_seeds(row["systems"].get(system)) for system in result["systems"]),
            ]
            for row in rows
        ]
        title = f"{result['recipe']}, exact accuracy by {column}:"
        tables += [title, _markdown([column, task.words.rows, *names], cells)]
    return tables


def _markdown(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head, *lines = (f"| {' | '.join(cells)} |" for cells in (titles, *rows))
    return "\n".join([head, "|---" * len(titles) + "|", *lines])


def _system_title(task: Task, measured: Mapping[str, Any], system: str) -> str:
    """The name of a system; `measured` is a result or a slice of one."""
    fewer = measured.get("system_rows", {}).get(system)
    return system.replace("_", " ") + (f" ({fewer:,} {task.words.rows} only)" if fewer else "")


def _note(result: Mapping[str, Any]) -> str:
    words = task_of(result).words
    seeds = ", ".join(str(row["seed"]) for row in result["seeds"])
    # Every row its own group: the source names no groups.
    groups = f" of {result['groups']} {words.groups}" if result["groups"] < result["rows"] else ""
    return (
        f"- {result['recipe']}: {result['rows']:,} {words.rows}{groups} not seen in training; seeds {seeds}; "
        f"mean ± standard deviation over seeds{_guard_shares(result)}; "
        f"training {result['seeds'][0]['seconds'] / 60:.1f} minutes (first seed), {result['peak_memory_gib']:.1f} GiB, "
        f"{result['hardware']['cores']} cores ({result['hardware']['processor']})."
    )


def _guard_shares(result: Mapping[str, Any]) -> str:
    """Of guarded texts: how many passed at which attempt; nothing for labels."""
    if _is_label(result):
        return ""
    guard = [row["guard"] for row in result["seeds"]]
    total = sum(sum(decided.values()) for decided in guard)
    first, later = (100 * sum(decided[way] for decided in guard) / total for way in ("first_try", "later_try"))
    replaced = 100 * sum(decided["template"] for decided in guard) / total
    return f"; {first:.1f} % passed at the first attempt, {later:.1f} % later, {replaced:.1f} % were replaced"


def _label_comparison_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """A row for each system that the fine-tuned model was compared with: mean difference, widest interval, largest p-value."""
    of_systems: dict[str, list[Mapping[str, Any]]] = {}
    for row in result["seeds"]:
        # Older results have two of the pairs, under names of their own.
        pairs = row.get("comparisons") or [row.get(f"against_{name}") for name in ("best_baseline", "linear")]
        for name, pair in {pair["second"]: pair for pair in pairs if pair}.items():
            if name != BASE:
                of_systems.setdefault(name, []).append(pair)
    # Round up, otherwise `≤` would not hold.
    up = Context(prec=1, rounding=ROUND_CEILING)
    return [
        [
            result["recipe"],
            name.replace("_", " "),
            _widest([pair["difference_in_exact_accuracy"] for pair in pairs]) if "costs" in result else "–",
            f"≤ {float(up.create_decimal(repr(float(max(pair['p_value'] for pair in pairs))))):g}",
            f"{sum(pair['p_value'] < SIGNIFICANT for pair in pairs)} of {len(pairs)}",
        ]
        for name, pairs in of_systems.items()
    ]


def _text_comparison_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """A row for each pair of the best baseline and both texts of the model, and each kind of rows."""
    task, best = task_of(result), (result.get("best_baseline") or {}).get("name")
    titles = {metric.name: metric.title for metric in task.headline}
    by_pair: dict[tuple[str, ...], list[Mapping[str, float]]] = {}
    for row in result["seeds"]:
        for pair in row["comparisons"]:
            if best and pair["second"] not in (best, ADAPTER):
                continue
            for name, part in [("", pair), *pair.get("unseen", {}).items()]:
                if part:
                    key = pair["first"], pair["second"], titles[pair["figure"]], UNSEEN_TITLES.get(name, "all")
                    by_pair.setdefault(key, []).append(part["difference"])
    return [
        [result["recipe"], *(name.replace("_", " ") for name in (first, second)), metric, rows, _widest(found)]
        for (first, second, metric, rows), found in by_pair.items()
    ]


def _widest(differences: Sequence[Mapping[str, float]]) -> str:
    """The mean of differences over seeds, and an interval that spans those of all seeds."""
    low, high = min(found["low"] for found in differences), max(found["high"] for found in differences)
    return f"{fmean(found['value'] for found in differences):+.3f} ({low:+.3f} to {high:+.3f})"


def _unseen_rows(task: Task, result: Mapping[str, Any], shown: Sequence[HeadlineMetric]) -> list[list[str]]:
    """Rows of the table on texts that do not stand in training."""
    return [
        [result["recipe"], f"{found['rows']:,} with {UNSEEN_TITLES[name]}", _system_title(task, found, system)]
        + [_over_seeds(figures.get(metric.name), metric.digits) for metric in shown]
        for name, found in result.get("unseen", {}).items()
        for system, figures in found["systems"].items()
        if figures
    ]


def _decision_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """Rows of the table on selective prediction; none if answers have no confidence."""
    decided, calibration = result.get("decisions"), result.get("calibration")
    if not decided:
        return []
    rows = []
    for system, figures in decided["systems"].items():
        found = [figures[key] for key in ("coverage", "accuracy", "area_under_risk_coverage")]
        # Older results have only that of the fine-tuned model.
        older = calibration["expected_calibration_error"] if calibration and system == ADAPTER else None
        found.append(figures.get("expected_calibration_error", older))
        cells = [_over_seeds(figure, seeds=len(result["seeds"])) for figure in found]
        rows.append([result["recipe"], system.replace("_", " "), f"{100 * decided['target_accuracy']:g} %", *cells])
    return rows


def _cost_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """Rows of the table of costs; none in older results."""
    return [
        [result["recipe"], system.replace("_", " ")]
        + [_over_seeds(cost[metric.name], metric.digits) for metric in _COSTS]
        + [cost[key] or "–" for key in ("trained_on", "answered_on")]
        for system, cost in (result.get("costs") or {}).items()
        if cost
    ]


def with_results(document: str, table: str, where: str) -> str:
    """A document with its generated table, between the markers `BEGIN` and `END`, replaced; an [`InputError`] without markers."""
    head, begin, rest = document.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise InputError(f"the lines `{BEGIN}` and `{END}` are missing; add them where the table belongs", where)
    return f"{head}{BEGIN}\n{table}\n{END}{tail}"


def _over_seeds(figure: Mapping[str, Any] | None, digits: int = 3, seeds: int | None = None) -> str:
    """Mean and standard deviation; with `seeds`, also the number of seeds that have the metric, if not all do."""
    if figure is None:
        return "–"
    spread = f" ± {figure['sd']:,.{digits}f}" if figure["sd"] is not None else ""
    missing = f" ({figure['n']} of {seeds} seeds)" if seeds is not None and figure["n"] < seeds else ""
    return f"{figure['mean']:,.{digits}f}{spread}{missing}"


def recommended_system(metrics: Mapping[str, Any], titles: Mapping[str, str] | None = None) -> str | None:
    """One sentence: which system to use for a label task's data, why, and what it costs; `None` for a text task.

    `titles` names the systems, which otherwise have their names in `metrics.json`.
    """
    if "recommendation" not in metrics:
        return None
    chosen, rows = metrics["recommendation"], task_of(metrics).words.rows
    if chosen is None:
        return "No system is recommended, because the answers of the model were not measured on validation."
    named = {key: (titles or {}).get(name, name) for key, name in chosen.items() if isinstance(name, str)}
    figures, figures_of_other = (metrics["systems"][chosen[key]] for key in ("system", "other"))
    difference = difference_with_interval(chosen["on_validation"]["difference_in_exact_accuracy"])
    faster = (
        f"; {named['as_accurate']} is faster, and validation cannot tell it from the first"
        if chosen["as_accurate"]
        else ""
    )
    return (
        f"Use {named['system']} for these {rows}: it is the most accurate one on validation ({difference} against "
        f"{named['other']}); {_ACCURACY.title} on {metrics['split']} is {metric_with_interval(figures, _ACCURACY)} against "
        f"{metric_with_interval(figures_of_other, _ACCURACY)}; {_costs(figures['cost'], figures_of_other['cost'], rows)}{faster}."
    )


def _costs(cost: Mapping[str, Any], of_other: Mapping[str, Any], rows: str) -> str:
    """Training time and speed of two systems; the processor once if all were measured on the same one."""
    same = processors([cost, of_other])

    def on(name: str) -> str:
        return f" ({name})" if len(same) > 1 else ""

    training, answers = (
        [f"{number(part[key])}{on(part[processor])}" for part in (cost, of_other)]
        for key, number, processor in (
            ("training_seconds", duration, "trained_on"),
            ("rows_per_second", speed, "answered_on"),
        )
    )
    return (
        f"it was trained in {training[0]} and answers {answers[0]} {rows} per second, the other {training[1]} and "
        f"{answers[1]}" + (f" ({same[0]})" if len(same) == 1 else "")
    )


def verdicts_table(verdicts: Sequence["Verdict"], published: str) -> str:
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


def differences_lines(differences: Sequence["Difference"]) -> str:
    """A line for each field that differs, in the given order, with both values."""
    return "\n".join(f"  {one.field}: {_value(one.before)} before, {_value(one.now)} now" for one in differences)


def _value(value: object) -> str:
    text = "not set" if value is None else str(value)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 1] + "…"
