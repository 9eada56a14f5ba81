"""What all windows show, as JSON and as a page; no text of an order, and no word of one."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from radrecipes.files import write_atomically
from radrecipes.monitoring.answers import Answers, reviewed
from radrecipes.monitoring.checks import Check, Monitor
from radrecipes.reporting.figures import windows_svg
from radrecipes.reporting.html import render
from radrecipes.statistics import clopper_pearson_interval

# Title, whether the values are shares, and what the effect is.
TITLES = {
    "review_rate": ("Needs review", True, "difference"),
    "labels": ("Shares of the labels, PSI", False, "PSI"),
    "new_labels": ("Orders with a new label", True, "difference"),
    "probability": ("Median probability", False, "KS distance"),
    "new_words": ("Orders with a new word", True, "difference"),
    "word_shares": ("Orders with the word that changed most", True, "difference"),
    "length": ("Median number of words", False, "KS distance"),
    "accuracy": ("Accuracy of sampled automatic answers", True, "below target"),
}


def measure(
    monitor: Monitor,
    answers: Answers,
    windows: Sequence[tuple[str, np.ndarray]],
    corrections: Mapping[str, tuple[bool, bool]],
    false_alarms: float,
) -> dict[str, Any]:
    """All windows with their checks, alarms, and accuracies by review; a window alarms at most at the rate of `false_alarms`."""
    found = []
    for name, places in windows:
        window = answers.part(places)
        checked = reviewed(window, corrections)
        checks = monitor.checks(window, checked)
        level = false_alarms / len(checks)
        found.append(
            {
                "name": name,
                "orders": len(window),
                "level": level,
                "alarm": any(check.alarms(level) for check in checks),
                "checks": {check.name: _shown(check, level) for check in checks},
                "new_word_share": monitor.new_word_share(window),
                "sampled": _accuracy(checked.sampled_right, checked.sampled),
                "reviewed": _accuracy(checked.needed_right, checked.needed),
            }
        )
    counts = Counter(monitor.reference.labels.tolist()), Counter(answers.labels[windows[-1][1]].tolist())
    names = sorted(counts[0] | counts[1], key=lambda label: (-counts[0][label], label))
    return {
        "reference_orders": len(monitor.reference),
        "false_alarms": false_alarms,
        "target_accuracy": monitor.target_accuracy,
        "windows": found,
        "labels_of_last_window": {label: [of[label] / of.total() for of in counts] for label in names},
    }


def write(folder: Path, result: Mapping[str, Any]) -> tuple[Path, Path]:
    """Write `monitor.json` and the page `monitor.html` into a folder, which is made if it is missing; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    windows, panels = result["windows"], []
    names = [name for name in TITLES if any(name in window["checks"] for window in windows)]
    for name in names:
        checks = [window["checks"].get(name, {}) for window in windows]
        panels.append(
            {
                "title": TITLES[name][0],
                "percent": TITLES[name][1],
                "values": [check.get("value") for check in checks],
                "references": [check.get("reference") for check in checks],
                "alarms": [check.get("alarm", False) for check in checks],
                "interval": [_interval(window["sampled"]) if name == "accuracy" else None for window in windows],
            }
        )
    figures = {"windows": windows_svg(panels)}
    alarms = [window for window in windows if window["alarm"]]
    html = render(
        "monitor_page.html.jinja", figures, title="Monitoring", titles=TITLES, names=names, alarms=alarms, **result
    )
    paths = folder / "monitor.json", folder / "monitor.html"
    for path, content in zip(paths, (json.dumps(result, indent=2) + "\n", html), strict=True):
        write_atomically(path, content)
    return paths


def _shown(check: Check, level: float) -> dict[str, Any]:
    return {key: value for key, value in asdict(check).items() if key != "name"} | {"alarm": check.alarms(level)}


def _accuracy(right: int, rows: int) -> dict[str, Any]:
    low, high = clopper_pearson_interval(right, rows) if rows else (None, None)
    return {"orders": rows, "right": right, "value": right / rows if rows else None, "low": low, "high": high}


def _interval(accuracy: Mapping[str, Any]) -> tuple[float, float] | None:
    return (accuracy["low"], accuracy["high"]) if accuracy["orders"] else None
