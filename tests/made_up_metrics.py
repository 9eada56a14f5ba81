"""A made-up `metrics.json` with everything that the report page and the terminal can show."""

from dataclasses import asdict

import numpy as np
import pytest

from radrecipes.data.label_sets import Label

TARGETS = (0.90, 0.95, 0.98)
BASELINES = ("majority", "words_characters_svm", "embedding_logistic_regression", "fine_tuned_encoder")
KINDS = ("contrast", "side", "region", "listed", "any")


def interval(value, width=0.03):
    return {"value": value, "low": max(value - width, 0.0), "high": min(value + width, 1.0)}


def threshold(target, coverage, accuracy, *, supported=True, rows=200, best_supported=0.963):
    decided = round(coverage * rows) if supported else 0
    wrong = round((1 - accuracy) * decided)
    return {
        "target_accuracy": target,
        "threshold": 0.5 + target / 3 if supported else None,
        "best_supported": best_supported,
        "confidence_level": 0.9,
        "validation": {
            "rows": 649,
            "groups": 36,
            "automatic_rows": 500,
            "accuracy": 0.97,
            "lower_bound": 0.952,
            "effective_rows": 180.5,
        },
        "test": {
            "automatic_rows": decided,
            "coverage": interval(coverage if supported else 0.0),
            "accuracy": interval(accuracy) if decided else None,
            "errors": wrong,
            "costly_errors": wrong // 2,
        },
    }


def selective(accuracy):
    coverage = np.linspace(0.005, 1, 200)
    return {
        "area_under_risk_coverage": interval(round((1 - accuracy) / 3, 4), 0.01),
        "curve": {"coverage": coverage.tolist(), "accuracy": (1 - (1 - accuracy) * coverage**2).tolist()},
        "thresholds": [
            threshold(target, max(accuracy - 0.3 * place, 0.0), target + 0.01) for place, target in enumerate(TARGETS)
        ],
    }


def calibration_metrics(error):
    edges = np.linspace(0, 1, 16)
    bins = [
        {"low": low, "high": high, "count": count, "confidence": None, "accuracy": None}
        if not count
        else {
            "low": low,
            "high": high,
            "count": count,
            "confidence": (low + high) / 2,
            "accuracy": max((low + high) / 2 - error, 0.0),
        }
        for place, (low, high) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
        for count in [0 if place < 4 else (place - 3) ** 2]
    ]
    return {"expected_calibration_error": error, "brier_score": 0.1 + error, "log_loss": 0.2 + error, "bins": bins}


def cost(seconds, speed, processor="AMD EPYC 9V74, 2 threads"):
    return {
        "training_seconds": seconds,
        "trained_on": processor if seconds is not None else None,
        "rows_per_second": speed,
        "answered_on": processor,
    }


COSTS = {
    "adapter": cost(480.0, 12.3),
    "base": cost(None, 11.0),
    "majority": cost(0.01, 1e6),
    "words_characters_svm": cost(4.2, 3210.0),
    "embedding_logistic_regression": cost(25.0, 310.0),
    "fine_tuned_encoder": cost(180.0, 305.0),
}


def system_metrics(name, accuracy, labels, scored):
    per_label = [
        {"label": name, "support": 9, "predicted": 9, "precision": accuracy, "recall": accuracy, "f1": accuracy}
        for name in labels
    ]
    counts = {kind: round((1 - accuracy) * 10 * (1 + place)) for place, kind in enumerate(KINDS)}
    return {
        "exact_accuracy": interval(accuracy),
        "macro_f1": interval(accuracy),
        "out_of_vocabulary_rate": interval(0.0),
        "semantic_similarity": interval(0.8),
        "never_stopped_rate": 0.0,
        "mean_generated_tokens": 0.0,
        "per_label": per_label,
        "costly_confusions": {kind: {"count": n, "share": interval(n / 200, 0.01)} for kind, n in counts.items()},
        "cost": dict(COSTS[name]),
        **({"selective": selective(accuracy)} if scored else {}),
        **({"calibration": calibration(), "validation_accuracy": accuracy} if scored and name != "base" else {}),
    }


def calibration():
    return {
        "temperature": 1.437,
        "before": calibration_metrics(0.081),
        "after": calibration_metrics(0.021),
        "fitted_on": {"split": "validation", "rows": 649, "groups": 36},
    }


def comparison(second, difference, p_value, width, first="adapter"):
    return {
        "first": first,
        "second": second,
        "n10": 50,
        "n01": 10,
        "p_value": p_value,
        "difference_in_exact_accuracy": {
            "value": difference,
            "low": difference - width,
            "high": difference + width,
        },
    }


@pytest.fixture
def make_metrics():
    """Build metrics; accuracies by system decide most figures, `without` names systems that did not run."""

    def make(
        adapter=0.9,
        baseline=0.5,
        base=0.1,
        *,
        labels=("CT Head", "MRI Knee <left>", "CT Chest & Abdomen"),
        best="words_characters_svm",
        split="test",
        rows=200,
        access="synthetic",
        without=(),
        p_value=1e-6,
        difference_width=0.05,
        generated=False,
    ):
        accuracies = {"adapter": adapter, "base": base}
        accuracies |= {name: baseline if name == best else baseline * 0.8 for name in BASELINES}
        systems = {
            name: system_metrics(name, accuracy, labels, not (generated and name in ("adapter", "base")))
            for name, accuracy in accuracies.items()
            if name not in without
        }
        best = best if best in systems else None
        slices = [
            ("label frequency", "rare (under 20 training rows)", 12),
            ("label frequency", "common (100 and more)", 120),
            ("near-duplicate in training", "yes", 30),
        ]
        compared = [name for name in ("adapter", best) if name]
        return {
            "task": "protocol",
            "split": split,
            "rows": rows,
            "groups": 54,
            "labels": len(labels),
            "label_set": [asdict(Label(name)) for name in labels],
            "labels_in_split": len(labels),
            "dataset": {"name": "made_up", "access": access, "digest": "d" * 64},
            "decoding": {
                "method": "generate" if generated else "score",
                "max_new_tokens": 16,
                "left_out_mass": None if generated else 1e-7,
                "left_out_labels_mean": None if generated else 2.5,
            },
            "seeds": {"training": 1, "bootstrap": 0},
            "interval": {"kind": "percentile bootstrap over groups", "confidence": 0.95, "resamples": 2000},
            "systems": systems,
            "best_baseline": {"name": best, "validation_accuracy": 0.61} if best else None,
            "comparisons": [
                comparison(name, adapter - accuracies[name], p_value, difference_width)
                for name in dict.fromkeys([best, *BASELINES[1:], "base"])
                if name in systems
            ],
            "recommendation": None
            if generated or not best
            else {
                "system": "adapter",
                "other": best,
                "as_accurate": None,
                "on_validation": comparison(best, adapter - accuracies[best], p_value, difference_width),
                "on_test": comparison(best, adapter - accuracies[best], p_value, difference_width),
            },
            "slices": [
                {
                    "slice": kind,
                    "value": value,
                    "rows": count,
                    "groups": max(count // 6, 1),
                    "too_few": count < 20,
                    "systems": {name: None if count < 20 else interval(accuracies[name], 0.06) for name in compared},
                }
                for kind, value, count in slices
            ],
            "semantic_similarity": {
                "model": "wordllama",
                "chance": {"random_label": 0.31, "majority_label": 0.36},
            },
            "train_majority_label": labels[0],
        }

    return make
