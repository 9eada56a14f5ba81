"""Selective prediction: which answers may be used automatically, and which a person must review."""

import functools
import itertools
import json
import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_origin

import numpy as np

from radrecipes.errors import InputError, quoted
from radrecipes.files import read_json_object, write_atomically
from radrecipes.inference.answers import SystemOutput
from radrecipes.statistics import clopper_pearson_lower_bound, effective_rows, intraclass_correlation

AUTO = "auto"
NEEDS_REVIEW = "NEEDS_REVIEW"
# Why an answer needs review
BELOW_THRESHOLD = "below threshold"
ALWAYS_REVIEWED = "label is always reviewed"
NOT_EVALUATED = "not evaluated yet"
UNSUPPORTED_TARGET = "validation does not support the target accuracy"
NOT_CALIBRATED = "label was added after the thresholds were fitted"

POLICY_FILE = "decision_policy.json"
POLICY_FORMAT = 1
_EVALUATE_AGAIN = "evaluate again with scripts/evaluate_model.py --run ... --restart"

# Of the starts and steps that keep the error rate with 36 groups of 18 rows, these give the highest coverage.
_FIRST_COVERAGE = 0.3
COVERAGE_STEP = 0.05
CONFIDENCE_LEVEL = 0.9


@dataclass(frozen=True)
class ThresholdChoice:
    """The threshold for one target accuracy, with the statistics of the rows that it was chosen on."""

    target_accuracy: float
    # Answers of at least this confidence are automatic; None if the rows do not support the target
    threshold: float | None
    rows: int
    groups: int
    automatic_rows: int
    accuracy: float | None  # of the automatic rows
    lower_bound: float | None  # its lower confidence bound, at least the target
    effective_rows: float | None  # effective sample size of the automatic rows
    confidence_level: float
    best_supported: float  # highest target that the rows support, rounded down to 0.001; 0.0 for none


def risk_coverage(confidences: np.ndarray, correct: np.ndarray) -> dict[str, np.ndarray]:
    """The risk-coverage curve: selective `accuracy` by `coverage`, ascending, one point per distinct confidence (on any scale)."""
    order = np.argsort(-confidences, kind="stable")
    thresholds, right = confidences[order], np.cumsum(correct[order])
    last_of_tie = np.append(np.flatnonzero(np.diff(thresholds)), len(thresholds) - 1)
    rows = last_of_tie + 1
    return {"coverage": rows / len(thresholds), "accuracy": right[last_of_tie] / rows}


def area_under_risk_coverage(confidences: np.ndarray, correct: np.ndarray) -> float:
    """Mean error rate of the k most confident answers over k = 1 … rows (Geifman and El-Yaniv, 2017), and over orders of ties."""
    _, block = np.unique(-confidences, return_inverse=True)
    size = np.bincount(block)
    error_rate = np.bincount(block, weights=~correct) / size
    errors = np.cumsum(np.repeat(error_rate, size))
    return float(np.mean(errors / np.arange(1, len(errors) + 1)))


def choose_threshold(
    confidences: Sequence[float] | np.ndarray,
    correct: Sequence[bool] | np.ndarray,
    groups: Sequence[str],
    target_accuracy: float,
) -> ThresholdChoice:
    """The threshold of highest coverage whose selective accuracy is at least the target with `CONFIDENCE_LEVEL`.

    Thresholds are tested in sequence, from a coverage of 30 % in steps of 5 %, until the lower bound of the accuracy falls
    below the target; the last one that passed is chosen. The errors above a threshold do not determine the sequence, so every
    test may use the full error level (fixed-sequence testing in "Learn then Test", Angelopoulos et al., 2021). It starts later
    if so few rows could not pass even without an error.

    The bound is Clopper and Pearson's on the effective sample size of Korn and Graubard (1998). A few errors above a threshold
    cannot show how they cluster, so the intraclass correlation is also estimated from the errors of all rows and scaled to the
    error rate under test, assuming the same relative spread between groups. The larger design effect counts.

    If every row is its own group and the rows are a random sample, the accuracy above the threshold is at least the target in
    `CONFIDENCE_LEVEL` of all such samples. With larger groups this is approximate: in `benchmarks/threshold_simulation.py` it
    failed in at most 8 % of the samples with informative confidences, and in the hardest setting with uninformative ones in
    10 % of those of 36 groups and 16 % of those of 20. Do not trust thresholds from fewer than 30 groups. Nothing is guaranteed
    for notes from another distribution, for single labels, or for `best_supported`, which is found by search.
    """
    confidences, correct = np.asarray(confidences, dtype=np.float64), np.asarray(correct, dtype=bool)
    groups = np.asarray(groups)
    if not len(confidences) == len(correct) == len(groups) or np.isnan(confidences).any():
        raise ValueError("confidences, correct and groups must be of one length, and no confidence NaN")
    if not 0 < target_accuracy < 1:
        raise ValueError(f"target_accuracy must be between 0 and 1, not {target_accuracy}")
    descending = np.sort(confidences)[::-1]
    correlation = intraclass_correlation(correct, groups)
    error_odds = _odds(1 - correct.mean()) if not correct.all() else 0.0

    # The search for `best_supported` asks for the same ones again and again; quantiles are slow.
    @functools.cache
    def tested(count: int, least_correlation: float, error_free: bool = False) -> dict[str, Any]:
        inside = confidences >= descending[count - 1]
        right = correct[inside] | error_free
        accuracy = float(right.mean())
        worth = effective_rows(right, groups[inside], CONFIDENCE_LEVEL, least_correlation)
        return {
            "threshold": float(descending[count - 1]),
            "automatic_rows": int(inside.sum()),
            "accuracy": accuracy,
            "lower_bound": clopper_pearson_lower_bound(accuracy * worth, worth, CONFIDENCE_LEVEL),
            "effective_rows": worth,
        }

    def last_that_passes(target: float) -> dict[str, Any] | None:
        # MAPIE tests such sequences too, but for independent rows only; crepes predicts label sets, not thresholds.
        least_correlation = correlation * min(1.0, _odds(1 - target) / error_odds) if error_odds > 0 else 0.0
        fewest = math.ceil(math.log(1 - CONFIDENCE_LEVEL) / math.log(target))
        found = None
        counts = _row_counts(len(descending), fewest)
        for count in itertools.dropwhile(
            lambda count: tested(count, least_correlation, True)["lower_bound"] < target, counts
        ):
            test = tested(count, least_correlation)
            if test["lower_bound"] < target:
                break
            found = test
        return found

    chosen = last_that_passes(target_accuracy)
    # If the target is unsupported, only lower ones: a higher one starts its sequence later and may pass by chance.
    steps = [step / 1000 for step in range(999, 0, -1) if chosen or step / 1000 < target_accuracy]
    nothing = dict.fromkeys(("threshold", "accuracy", "lower_bound", "effective_rows")) | {"automatic_rows": 0}
    return ThresholdChoice(
        target_accuracy=float(target_accuracy),
        rows=len(confidences),
        groups=len(np.unique(groups)),
        confidence_level=CONFIDENCE_LEVEL,
        best_supported=next((step for step in steps if last_that_passes(step)), 0.0),
        **(chosen or nothing),
    )


def _odds(probability: float) -> float:
    return probability / (1 - probability) if probability < 1 else math.inf


@functools.cache
def _row_counts(rows: int, fewest: int) -> list[int]:
    """How many of the most confident rows each test accepts, ascending; it starts with `fewest` if that is more."""
    # Rounded, because 0.3 * 10 is slightly above 3 and its ceiling would be 4.
    coverages = np.arange(_FIRST_COVERAGE, 1 + COVERAGE_STEP / 2, COVERAGE_STEP)
    counts = [math.ceil(round(min(coverage, 1.0) * rows, 6)) for coverage in coverages]
    later = [count for count in counts if count > fewest]
    return later if len(later) == len(counts) or fewest > rows else [fewest, *later]


@dataclass(frozen=True)
class DecisionPolicy:
    """Temperature and thresholds of one adapter, fitted on the validation split; `decision_policy.json` in its folder."""

    temperature: float
    thresholds: tuple[ThresholdChoice, ...]  # one per target accuracy
    target_accuracy: float  # the target that prediction uses by default; one of `thresholds`
    adapter_sha256: str
    label_set_sha256: str
    prompt_sha256: str  # of the prompt template
    dataset_digest: str
    rows: int  # of the validation split
    groups: int

    def save(self, folder: str | Path) -> Path:
        """Write the file into the adapter's folder atomically."""
        path = Path(folder) / POLICY_FILE
        write_atomically(path, json.dumps({"format": POLICY_FORMAT, **asdict(self)}, indent=2) + "\n")
        return path

    @classmethod
    def load(cls, folder: str | Path, adapter_sha256: str, prompt_sha256: str) -> "DecisionPolicy":
        """Read the adapter's file; raises an [`InputError`] unless it was fitted for this adapter and prompt template."""
        path = Path(folder) / POLICY_FILE
        try:
            content = read_json_object(path, fix=_EVALUATE_AGAIN)
        except FileNotFoundError:
            raise InputError(f"no such file; {_EVALUATE_AGAIN}", where=str(path)) from None
        if content.pop("format", None) != POLICY_FORMAT:
            raise InputError(f"`format` is not {POLICY_FORMAT}; {_EVALUATE_AGAIN}", where=str(path))
        content = _validated_fields(cls, content, str(path))
        if content["temperature"] <= 0:
            raise InputError(f"`temperature` is {content['temperature']}; {_EVALUATE_AGAIN}", where=str(path))
        content["thresholds"] = tuple(
            ThresholdChoice(**_validated_fields(ThresholdChoice, entry, f"{path}: thresholds[{index}]"))
            for index, entry in enumerate(content["thresholds"])
        )
        policy = cls(**content)
        for name, mine, used in (
            ("adapter_sha256", policy.adapter_sha256, adapter_sha256),
            ("prompt_sha256", policy.prompt_sha256, prompt_sha256),
        ):
            if mine != used:
                raise InputError(
                    f"`{name}` is {mine[:12]}…, but {used[:12]}… is in use: thresholds of another model do not apply; "
                    f"{_EVALUATE_AGAIN}",
                    where=str(path),
                )
        return policy

    def threshold_for(self, target_accuracy: float) -> float:
        """The threshold for a target accuracy; an [`InputError`] if it was not fitted, or the validation rows do not support it."""
        for choice in self.thresholds:
            if abs(choice.target_accuracy - target_accuracy) < 1e-9:
                break
        else:
            fitted = ", ".join(f"{choice.target_accuracy:g}" for choice in self.thresholds)
            raise InputError(
                f"target accuracy {target_accuracy:g} was not fitted; choose one of {fitted}, or {_EVALUATE_AGAIN}",
                where=POLICY_FILE,
            )
        if choice.threshold is None:
            raise InputError(
                f"target accuracy {target_accuracy:g} is more than the {choice.rows} validation rows in "
                f"{choice.groups} groups can support; they support at most {choice.best_supported:g}",
                where=POLICY_FILE,
            )
        return choice.threshold


def decide(
    probabilities: np.ndarray,
    label_names: Sequence[str],
    threshold: float | None,
    always_review: Collection[str] = (),
    added: Collection[str] = (),
    without_threshold: str = NOT_EVALUATED,
) -> list[SystemOutput]:
    """The most probable label of each row, and whether it may be used without review.

    Labels of `always_review` never are, nor are those of `added`, which the threshold was not fitted for. Without a
    threshold no answer is automatic, for the reason `without_threshold`. `probabilities` are calibrated, of shape
    `(rows, labels)`; the first of equally probable labels wins.
    """
    if probabilities.shape[1] != len(label_names):
        raise ValueError(f"probabilities have shape {probabilities.shape} for {len(label_names)} labels")
    if np.isnan(probabilities).any():
        raise ValueError("a probability is NaN")
    outputs = []
    for row, indices in zip(probabilities, np.argsort(-probabilities, axis=1, kind="stable")[:, :3], strict=True):
        top = tuple((label_names[index], float(row[index])) for index in indices)
        label, probability = top[0]
        if label in added:
            reason = NOT_CALIBRATED
        elif threshold is None:
            reason = without_threshold
        elif label in always_review:
            reason = ALWAYS_REVIEWED
        else:
            reason = BELOW_THRESHOLD if probability < threshold else None
        automatic = None if threshold is None else reason is None
        outputs.append(SystemOutput(label, label, True, 0, probability, top, automatic, reason))
    return outputs


def _validated_fields(kind: type, content: Any, where: str) -> dict[str, Any]:
    names = {field.name for field in fields(kind)}
    if not isinstance(content, dict) or set(content) != names:
        raise InputError(f"expected exactly the keys {', '.join(sorted(names))}; {_EVALUATE_AGAIN}", where=where)
    for field in fields(kind):
        value, expected = content[field.name], list if get_origin(field.type) is tuple else field.type
        if not isinstance(value, expected) or (isinstance(value, float) and not math.isfinite(value)):
            raise InputError(f"`{field.name}` is {quoted(value)}; {_EVALUATE_AGAIN}", where=where)
    return content
