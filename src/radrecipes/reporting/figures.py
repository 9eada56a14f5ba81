"""Figures of the evaluation pages as SVG: loss curve, reliability diagram, risk-coverage curve, failure rates."""

import io
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, MultipleLocator, NullFormatter, PercentFormatter

from radrecipes.evaluation.label_systems import ADAPTER, BASE

# Colours for the files in figures/; the page replaces them with its own, which follow light and dark mode.
INK, FAINT, ACCENT, CONTRAST = "#33414e", "#9fb3c0", "#0b6e75", "#b3402a"

# With fewer answers an accuracy is unreliable: such a bin is drawn hollow, such a start of a curve not at all.
_FEWEST_ROWS = 10
# The look that all figures share; text as text, and identical bytes for identical input.
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "radrecipes",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "grid.alpha": 0.5,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "figure.constrained_layout.use": True,
}
_WIDTH = 10.6  # inches, the width of the page


@matplotlib.rc_context(_STYLE)
def loss_curve_svg(
    train_log: Sequence[Mapping[str, Any]],
    validation: Mapping[str, Any] | None = None,
    titles: Mapping[str, str] | None = None,
) -> str | None:
    """Training loss over optimizer steps; `None` if fewer than two entries of `train_log.jsonl` have a finite loss.

    Of a stage that learns from rewards these are shown instead, as its loss says nothing. With `validation` of a run's manifest
    also the validation loss, the step whose weights were kept, and in a panel below the metrics that `titles` names.
    """
    steps, losses = _series(train_log, "loss")
    if len(steps) < 2:
        return None
    rewards = [key for key in train_log[-1] if key.startswith("rewards/") and key.endswith("/mean")]
    evaluations = validation["evaluations"] if validation else ()
    measured = {title: _series(evaluations, f"eval_{name}") for name, title in (titles or {}).items()}
    measured = {title: series for title, series in measured.items() if series.size}
    figure = Figure(figsize=(_WIDTH, 5 if measured else 3.2))
    panels = figure.subplots(
        1 + bool(measured), sharex=True, squeeze=False, height_ratios=(3, 2)[: 1 + bool(measured)]
    )
    above = panels[0, 0]
    if rewards:
        _draw_rewards(above, train_log, rewards)
    else:
        _draw_losses(above, steps, losses)
    if len(evaluations):
        if not rewards:
            above.plot(
                *_series(evaluations, "eval_loss"), color=CONTRAST, marker="o", markersize=4, label="validation"
            )
        kept = validation["kept_step"]
        above.axvline(kept, color=INK, linewidth=1.2, linestyle=":", label=f"step {kept:,}, whose weights were kept")
    for (title, series), dashes in zip(measured.items(), itertools.cycle(("-", "--"))):
        panels[1, 0].plot(*series, dashes, color=CONTRAST, marker="o", markersize=4, label=f"validation: {title}")
    if measured:
        panels[1, 0].axvline(kept, color=INK, linewidth=1.2, linestyle=":")
        panels[1, 0].yaxis.set_major_formatter(PercentFormatter(1))
    above.set_ylabel("mean reward" if rewards else "loss")
    panels[-1, 0].set_xlabel("optimizer step")
    for axes in panels.ravel():
        axes.legend()
    return _svg(figure)


def _draw_losses(axes: Axes, steps: np.ndarray, losses: np.ndarray) -> None:
    """The loss of each step, and its running mean if there are many."""
    window = max(1, len(losses) // 20)
    if window > 1:
        axes.plot(steps, losses, color=FAINT, linewidth=0.9, label="logged step")
        smooth = np.convolve(losses, np.ones(window) / window, mode="valid")
        middles = np.convolve(steps, np.ones(window) / window, mode="valid")
        axes.plot(middles, smooth, color=ACCENT, linewidth=2, label=f"mean of {window} entries")
    else:
        axes.plot(steps, losses, color=ACCENT, linewidth=2, label="logged step")
    # An early spike must not compress the rest of the curve.
    if min(losses) > 0 and max(losses) / min(losses) > 30:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(bottom=0)


def _draw_rewards(axes: Axes, train_log: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> None:
    """The running mean of each reward over optimizer steps."""
    window = max(1, len(train_log) // 10)
    for key, dashes in zip(keys, itertools.cycle(("-", "--", ":", "-."))):
        steps, values = (np.convolve(row, np.ones(window) / window, mode="valid") for row in _series(train_log, key))
        axes.plot(steps, values, dashes, color=ACCENT, linewidth=2, label=key.split("/")[1])
    axes.set_ylim(0, 1.02)


@matplotlib.rc_context(_STYLE)
def reliability_svg(calibration: Mapping[str, Any]) -> str:
    """Reliability diagrams before and after temperature scaling, from `calibration` of `metrics.json`."""
    titles = {"before": "before temperature scaling", "after": f"after temperature {calibration['temperature']:.2f}"}
    figure = Figure(figsize=(_WIDTH, 5.2))
    panels = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=(3, 1.2))
    for column, (name, title) in enumerate(titles.items()):
        figures = calibration[name]
        diagram, histogram = panels[:, column]
        filled = [item for item in figures["bins"] if item["count"]]
        confidences, accuracies = ([item[key] for item in filled] for key in ("confidence", "accuracy"))
        diagram.plot([0, 1], [0, 1], color=FAINT, linewidth=1.2)
        # From each point to the diagonal: the error of the bin.
        diagram.vlines(confidences, confidences, accuracies, color=CONTRAST, linewidth=1.5)
        diagram.plot(confidences, accuracies, color=ACCENT, linewidth=1, alpha=0.5)
        for item in filled:
            look = {"marker": "o", "markersize": 7, "fillstyle": "full" if item["count"] >= _FEWEST_ROWS else "none"}
            diagram.plot(item["confidence"], item["accuracy"], color=ACCENT, **look)
        error = figures["expected_calibration_error"]
        diagram.set_title(f"{title}: expected calibration error {error:.3f}", fontsize=11)
        diagram.set(xlim=(0, 1), ylim=(-0.04, 1.04))
        for item in figures["bins"]:
            width = item["high"] - item["low"]
            top = (item["low"] + width / 2, item["count"])
            histogram.bar(*top, width=0.86 * width, color=FAINT)
            if item["count"]:
                _write(histogram, f"{item['count']}", top, (0, 2), ha="center", fontsize=8)
        histogram.set_ylim(0, 1.25 * max(item["count"] for side in titles for item in calibration[side]["bins"]))
        histogram.xaxis.set_major_formatter(PercentFormatter(1))
        histogram.set_xlabel("probability of the answer")
    panels[0, 0].yaxis.set_major_formatter(PercentFormatter(1))
    panels[0, 0].set_ylabel("accuracy")
    panels[1, 0].set_ylabel("answers")
    return _svg(figure)


@matplotlib.rc_context(_STYLE)
def risk_coverage_svg(
    systems: Mapping[str, Mapping[str, Any]], titles: Mapping[str, str], rows: int, best_baseline: str | None
) -> str | None:
    """Selective accuracy over coverage of each system with confidences, and the thresholds; `None` if there is no such system.

    The start of a curve, with fewer than 10 of the evaluated `rows`, is omitted. The thresholds of `best_baseline` are marked, too.
    """
    curves = {name: _curve(system["selective"], rows) for name, system in systems.items() if system.get("selective")}
    if not curves:
        return None
    looks = _looks(curves)
    thresholds = {name: _marks(systems[name]["selective"]) for name in (best_baseline, ADAPTER) if name in curves}
    floor = _lowest_worth_showing(curves, best_baseline)
    figure = Figure(figsize=(_WIDTH, 5))
    axes = figure.add_subplot()
    targets = sorted({row["target_accuracy"] for name in curves for row in systems[name]["selective"]["thresholds"]})
    axes.hlines(targets, 0, 1, color=FAINT, linewidth=0.9, linestyles=(0, (1, 3)))
    for name, (coverage, accuracy) in curves.items():
        below = not len(accuracy) or max(accuracy) < floor
        title = titles.get(name, name) + (" (below the plotted range)" if below else "")
        axes.plot(coverage, accuracy, label=title, **looks[name])
    for name, marks in thresholds.items():
        colour = looks[name]["color"]
        for place, reached in marks.items():
            axes.plot(*place, "o", markersize=7, color=colour)
            text = " · ".join(f"{100 * target:g}" for target in reached) + " %"
            # The model's marks are labelled above its curve, the baseline's below its own.
            above = (0, 9 if name == ADAPTER else -16)
            _write(axes, text, place, above, ha="center", color=colour, fontsize=9, fontweight="bold")
    axes.set(xlim=(0, 1.03), ylim=(floor, 1 + 0.07 * (1 - floor)))
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.yaxis.set_major_locator(MultipleLocator(0.05 if floor > 0.5 else 0.1))
    axes.set(xlabel="coverage: fraction answered automatically, highest confidence first", ylabel="selective accuracy")
    # Outside the axes, where no curve crosses it.
    figure.legend(loc="outside upper left", ncols=2)
    return _svg(figure)


@matplotlib.rc_context(_STYLE)
def failure_rates_svg(
    systems: Mapping[str, Mapping[str, Any]], titles: Mapping[str, str], rates: Mapping[str, str], ours: Sequence[str]
) -> str:
    """A panel for each of `rates` (key to title) with a bar and its interval per system; `ours` in the colour of the model."""
    names = list(systems)
    highest = max(0.01, *(systems[name][rate]["high"] for name in names for rate in rates))
    columns = 4
    panel_rows = math.ceil(len(rates) / columns)
    figure = Figure(figsize=(_WIDTH, panel_rows * (0.75 + 0.26 * len(names))))
    panels = figure.subplots(panel_rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, (rate, title) in zip(panels, rates.items(), strict=False):
        for place, name in enumerate(names):
            cell = systems[name][rate]
            axes.barh(place, cell["value"], height=0.68, color=ACCENT if name in ours else FAINT)
            axes.hlines(place, cell["low"], cell["high"], color=INK, linewidth=1.2)
            _write(axes, f"{100 * cell['value']:.1f} %", (cell["high"], place), (4, 0), va="center", fontsize=9)
        axes.set_title(title, fontsize=10.5, loc="left")
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        # Room for the numbers after the bars.
        axes.set_xlim(0, 1.4 * highest)
    for axes in panels[len(rates) :]:
        axes.set_axis_off()
    panels[0].set_yticks(range(len(names)), [titles.get(name, name) for name in names])
    panels[0].invert_yaxis()
    panels[0].xaxis.set_major_formatter(PercentFormatter(1, decimals=0 if highest > 0.04 else 1))
    panels[0].set_xticks([tick for tick in MaxNLocator(3).tick_values(0, highest) if tick <= min(1.0, 1.4 * highest)])
    # There may be no panel below with the labels.
    for axes in panels[max(0, len(rates) - columns) : len(rates)]:
        axes.tick_params(labelbottom=True)
    return _svg(figure)


@matplotlib.rc_context(_STYLE)
def windows_svg(panels: Sequence[Mapping[str, Any]]) -> str:
    """A panel for each measure over the windows: a line of `values` (`None` for a gap), one of what they are compared with.

    A panel has a `title`, `values`, `references`, `alarms` (truth values, drawn as crosses), `interval` (pairs, or `None`), and
    `percent`.
    """
    figure = Figure(figsize=(_WIDTH, 2.1 * math.ceil(len(panels) / 2)))
    grid = figure.subplots(math.ceil(len(panels) / 2), 2, sharex=True, squeeze=False)
    for axes, panel in zip(grid.ravel(), panels, strict=False):
        values = np.array(panel["values"], dtype=float)
        places = 1 + np.arange(len(values))
        axes.plot(places, np.array(panel["references"], dtype=float), color=FAINT, linewidth=1.4, linestyle="--")
        axes.plot(places, values, color=ACCENT, linewidth=1.6, marker="o", markersize=4)
        for place, pair in zip(places, panel["interval"], strict=True):
            if pair:
                axes.vlines(place, *pair, color=ACCENT, linewidth=1.2)
        alarms = np.array(panel["alarms"], dtype=bool)
        axes.plot(places[alarms], values[alarms], "X", color=CONTRAST, markersize=10)
        axes.set_title(panel["title"], fontsize=10.5, loc="left")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.margins(y=0.25)
        if panel["percent"]:
            low, high = axes.get_ylim()
            axes.set_ylim(max(low, -0.02), min(high, 1.04))
            axes.yaxis.set_major_formatter(PercentFormatter(1))
    for axes in grid[-1]:
        axes.set_xlabel("window")
    for axes in figure.axes[len(panels) :]:
        axes.set_axis_off()
    return _svg(figure)


def _curve(selective: Mapping[str, Any], rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Coverage and accuracy, starting where at least `_FEWEST_ROWS` rows are answered."""
    coverage, accuracy = (np.array(selective["curve"][key]) for key in ("coverage", "accuracy"))
    kept = coverage * rows >= _FEWEST_ROWS
    return coverage[kept], accuracy[kept]


def _marks(selective: Mapping[str, Any]) -> dict[tuple[float, float], list[float]]:
    """Coverage and accuracy at the thresholds, with their targets; thresholds without automatic answers are omitted."""
    marks: dict[tuple[float, float], list[float]] = {}
    for row in selective["thresholds"]:
        if row["threshold"] is not None and row["test"]["accuracy"] is not None:
            place = (row["test"]["coverage"]["value"], row["test"]["accuracy"]["value"])
            # Overlapping marks share one label.
            near = next((known for known in marks if math.dist(known, place) < 0.03), place)
            marks.setdefault(near, []).append(row["target_accuracy"])
    return marks


def _looks(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Line style of each system: the model in one colour, the baselines in another with different dashes."""
    looks = {
        ADAPTER: {"color": ACCENT, "linewidth": 2.4, "zorder": 3},
        BASE: {"color": ACCENT, "linewidth": 1.4, "linestyle": "--"},
    }
    baselines = zip((name for name in names if name not in looks), itertools.cycle(("-", "--", ":", "-.")))
    return looks | {name: {"color": CONTRAST, "linewidth": 1.4, "linestyle": dashes} for name, dashes in baselines}


def _lowest_worth_showing(curves: Mapping[str, tuple[np.ndarray, np.ndarray]], best_baseline: str | None) -> float:
    """Lower limit of the accuracy axis, so that the base model does not compress the other curves."""
    wanted = [curves[name] for name in (ADAPTER, best_baseline) if name in curves] or list(curves.values())
    lowest = min((min(accuracy) for _, accuracy in wanted if len(accuracy)), default=0.0)
    return max(0.0, math.floor(20 * (min(lowest, 0.88) - 0.01)) / 20)


def _write(axes: Axes, text: str, place: tuple[float, float], points: tuple[float, float], **look: Any) -> None:
    """Write at a place of the data, some points next to it."""
    axes.annotate(text, place, xytext=points, textcoords="offset points", **look)


def _svg(figure: Figure) -> str:
    """The figure as an SVG document from its `<svg` tag on, without date and creator."""
    target = io.StringIO()
    metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(target, format="svg", transparent=True, metadata=metadata)
    text = target.getvalue()
    return text[text.index("<svg") :]


def _series(train_log: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    """The steps at which `key` was logged, and its values."""
    points = [
        (entry["step"], entry[key])
        for entry in train_log
        if all(isinstance(entry.get(name), int | float) and math.isfinite(entry[name]) for name in ("step", key))
    ]
    return np.array(points, dtype=float).reshape(-1, 2).T
