"""The content of a label task's evaluation page."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import pandas as pd

from radrecipes.access import may_show
from radrecipes.evaluation.label_baselines import EMBEDDING, ENCODER, MAJORITY, SVM
from radrecipes.evaluation.label_systems import ADAPTER, BASE
from radrecipes.evaluation.recommendation import is_significant
from radrecipes.reporting import label_tables
from radrecipes.reporting.confusion_matrix import confusion_matrix
from radrecipes.reporting.figures import reliability_svg, risk_coverage_svg
from radrecipes.reporting.result_tables import recommended_system
from radrecipes.tasks import TASKS

TEMPLATE = "label_page.html.jinja"
SYSTEM_TITLES = {
    ADAPTER: "Fine-tuned model",
    BASE: "Base model without fine-tuning",
    MAJORITY: "Majority class",
    SVM: "Support vector machine on words and characters",
    EMBEDDING: "Logistic regression on sentence embeddings",
    ENCODER: "Fine-tuned encoder",
}

# Within a sentence
IN_SENTENCES = {name: f"the {title[0].lower()}{title[1:]}" for name, title in SYSTEM_TITLES.items()}

# 300 long inputs stay well under the 2 MB that a page may take.
_MOST_WRONG_ANSWERS = 300


def figures(metrics: Mapping[str, Any]) -> dict[str, str | None]:
    """Risk-coverage curve and reliability diagram; `None` if there is nothing to draw."""
    best, calibration = label_tables.best_baseline(metrics), label_tables.calibration(metrics)
    return {
        "risk_coverage": risk_coverage_svg(metrics["systems"], SYSTEM_TITLES, metrics["rows"], best),
        "reliability": reliability_svg(calibration) if calibration else None,
    }


def values(metrics: Mapping[str, Any], predictions: pd.DataFrame, access: str | None) -> dict[str, Any]:
    """Values for the template."""
    references = predictions["reference"].tolist()
    answers = [None if pd.isna(label) else label for label in predictions[f"{ADAPTER}_label"]]
    column = TASKS[metrics["task"]].input_column
    may_show_inputs = may_show(access) and column in predictions
    wrong = label_tables.wrong_answers(predictions, metrics, column) if may_show_inputs else []
    best = label_tables.best_baseline(metrics)
    with_best = next((pair for pair in metrics["comparisons"] if pair["second"] == best), None)
    return {
        "words": TASKS[metrics["task"]].words,
        "systems": metrics["systems"],
        "system_titles": SYSTEM_TITLES,
        "adapter": metrics["systems"][ADAPTER],
        "base": metrics["systems"].get(BASE),
        "best": best,
        "comparison_with_best": with_best,
        "is_significant": with_best is not None and is_significant(with_best),
        "processors": label_tables.processors(system.get("cost", {}) for system in metrics["systems"].values()),
        "recommended": recommended_system(metrics, IN_SENTENCES),
        "decisions": label_tables.decisions(metrics),
        "main_decision": label_tables.main_decision(metrics),
        "calibration": label_tables.calibration(metrics),
        "encoder": metrics["systems"].get(ENCODER, {}).get("settings", {}).get("model"),
        "costly_kinds": label_tables.COSTLY_KINDS,
        "slices": _by_name(metrics["slices"]),
        "slices_by_column": _by_name(metrics.get("slices_by_column", [])),
        "matrix": confusion_matrix(references, answers, metrics["label_set"]),
        "confusions": label_tables.frequent_confusions(references, answers),
        "label_table": label_tables.label_rows(metrics),
        "may_show_inputs": may_show_inputs,
        "wrong_answers": wrong[:_MOST_WRONG_ANSWERS],
        "number_wrong": sum(reference != answer for reference, answer in zip(references, answers, strict=True)),
    }


def _by_name(slices: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    return {name: [*rows] for name, rows in groupby(slices, key=lambda row: row["slice"])}
