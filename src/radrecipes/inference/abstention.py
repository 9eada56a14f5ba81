"""Which answers a department may use as they are, and which a person must look at."""

import json
import math
import os
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_origin

import numpy as np

from radrecipes.errors import InputError
from radrecipes.statistics import clopper_pearson_lower_bound, effective_rows, intraclass_correlation

AUTO = "auto"
NEEDS_REVIEW = "NEEDS_REVIEW"
BELOW_THRESHOLD = "below threshold"
ALWAYS_REVIEWED = "label is always reviewed"

POLICY_FILE = "decision_policy.json"
POLICY_FORMAT = 1
_EVALUATE_AGAIN = "evaluate again with scripts/evaluate_model.py --run ... --restart"

# Of the starts and steps that keep the error at 36 groups of 18 rows, those that let most answers through.
_FIRST_COVERAGE = 0.3
COVERAGE_STEP = 0.05


@dataclass(frozen=True)
class ThresholdChoice:
    """The threshold for one target accuracy, and what stands behind it.

    Args:
        target_accuracy (`float`):
            Share of the automatic answers that shall be right.
        threshold (`float` or `None`):
            Answers at least this sure are automatic; `None` where the rows cannot support the target.
        rows (`int`):
            Rows that the choice was made on.
        groups (`int`):
            Their groups.
        automatic_rows (`int`):
            Rows at or above the threshold; 0 where there is none.
        accuracy (`float` or `None`):
            Share of them that is right.
        lower_bound (`float` or `None`):
            Lower confidence bound of that share; at least `target_accuracy`.
        effective_rows (`float` or `None`):
            How many independent rows the automatic rows are worth.
        confidence_level (`float`):
            Confidence that the target holds.
        best_supported (`float`):
            Highest target accuracy that the rows support with any threshold, rounded down to 0.001; 0.0 for none.
    """

    target_accuracy: float
    threshold: float | None
    rows: int
    groups: int
    automatic_rows: int
    accuracy: float | None
    lower_bound: float | None
    effective_rows: float | None
    confidence_level: float
    best_supported: float


@dataclass(frozen=True)
class Decision:
    """What is done with one answer.

    Args:
        label (`str`):
            The most probable label.
        probability (`float`):
            Its probability.
        automatic (`bool`):
            Whether the answer may be used without a look.
        reason (`str` or `None`):
            Why it may not: `"below threshold"` or `"label is always reviewed"`.
        top (`tuple[tuple[str, float], ...]`):
            The three most probable labels with their probabilities, descending; fewer where the set holds fewer.
    """

    label: str
    probability: float
    automatic: bool
    reason: str | None
    top: tuple[tuple[str, float], ...]

    @property
    def decision(self) -> str:
        """`"auto"` or `"NEEDS_REVIEW"`."""
        return AUTO if self.automatic else NEEDS_REVIEW


def risk_coverage(
    confidences: Sequence[float] | np.ndarray, correct: Sequence[bool] | np.ndarray
) -> dict[str, list[float]]:
    """The accuracy of the surest answers, for every share of answers that a threshold can let through.

    Args:
        confidences (`Sequence[float]` or `np.ndarray` of shape `(rows,)`):
            How sure each answer is; any scale on which more is surer.
        correct (`Sequence[bool]` or `np.ndarray` of shape `(rows,)`):
            Whether it is right.

    Returns:
        `dict[str, list[float]]`: `coverage`, `accuracy` and `threshold`, one entry per distinct confidence, surest
        first; equal confidences enter together.

    Raises:
        ValueError: There are no rows, the lengths differ, or a confidence is not a number.
    """
    confidences, correct = _checked(confidences, correct)
    order = np.argsort(-confidences, kind="stable")
    thresholds, right = confidences[order], np.cumsum(correct[order])
    last_of_tie = np.append(np.flatnonzero(np.diff(thresholds)), len(thresholds) - 1)
    rows = last_of_tie + 1
    return {
        "coverage": (rows / len(thresholds)).tolist(),
        "accuracy": (right[last_of_tie] / rows).tolist(),
        "threshold": thresholds[last_of_tie].tolist(),
    }


def area_under_risk_coverage(confidences: Sequence[float] | np.ndarray, correct: Sequence[bool] | np.ndarray) -> float:
    """Mean error rate of the k surest answers over k = 1 … rows (Geifman and El-Yaniv, 2017); lower is better.

    Answers of equal confidence count as if in random order: the mean over all their orders.

    Args:
        confidences (`Sequence[float]` or `np.ndarray` of shape `(rows,)`):
            How sure each answer is.
        correct (`Sequence[bool]` or `np.ndarray` of shape `(rows,)`):
            Whether it is right.

    Returns:
        `float`: 0 to 1; the error rate itself where the confidences say nothing.

    Raises:
        ValueError: As for [`risk_coverage`].
    """
    confidences, correct = _checked(confidences, correct)
    _, block = np.unique(-confidences, return_inverse=True)
    size = np.bincount(block)
    error_rate = np.bincount(block, weights=~correct) / size
    errors = np.cumsum(np.repeat(error_rate, size))
    return float(np.mean(errors / np.arange(1, len(errors) + 1)))


def choose_threshold(
    confidences: Sequence[float] | np.ndarray,
    correct: Sequence[bool] | np.ndarray,
    groups: Sequence[str],
    target_accuracy: float = 0.95,
    confidence_level: float = 0.9,
) -> ThresholdChoice:
    """The threshold that lets most answers through while their accuracy stays at the target.

    Thresholds are tested one after the other, from the surest 30 % of the rows on in steps of 5 %, until the lower bound
    of the accuracy falls below the target; the last that passed is taken. The order is fixed by the confidences alone,
    so every test may use the whole error (fixed-sequence testing in "Learn then Test", Angelopoulos et al., 2021). The
    walk starts later where so few rows could not pass even without an error.

    The bound is Clopper and Pearson's on the effective number of rows of Korn and Graubard (1998). Few errors above a
    threshold cannot show how they cluster, so the correlation inside groups is also estimated from the errors of all
    rows, and scaled to the error rate that is tested: the spread between groups relative to the mean error rate is taken
    to be the same above the threshold as below. The larger design effect counts.

    What is guaranteed: where every row has a group of its own and the rows are a random sample, the accuracy above the
    threshold is at least the target in `confidence_level` of all such samples. With larger groups this rests on the
    estimated correlation and holds only about. Simulated at a level of 0.9 for 36 groups of 18 rows with beta-binomial
    errors, correlations of 0.1 to 0.4 and targets of 0.90 to 0.98, it failed in at most 5 % of the samples where the
    confidences tell right from wrong. Where they tell nothing and the accuracy is a hair below the target, it failed in
    2 to 9 %, at a target of 0.98 and a correlation of 0.4 in 12 %, and with only 20 groups of 32 rows in up to 18 %, so
    that thresholds from fewer than 30 groups deserve distrust. Rows without any error show no correlation. Nothing is
    guaranteed for notes of another kind than the rows, for single labels, or for the `best_supported` target, which is
    found by trying.

    Args:
        confidences (`Sequence[float]` or `np.ndarray` of shape `(rows,)`):
            How sure each answer is; any scale on which more is surer.
        correct (`Sequence[bool]` or `np.ndarray` of shape `(rows,)`):
            Whether it is right.
        groups (`Sequence[str]` of length `rows`):
            Patient, order or scenario of each row.
        target_accuracy (`float`, *optional*, defaults to 0.95):
            Share of the automatic answers that shall be right.
        confidence_level (`float`, *optional*, defaults to 0.9):
            Confidence that the target holds.

    Returns:
        [`ThresholdChoice`]: without a threshold where the rows cannot support the target.

    Raises:
        ValueError: As for [`risk_coverage`], or a target or level is not between 0 and 1.
    """
    confidences, correct = _checked(confidences, correct)
    groups = np.asarray(groups)
    if groups.shape != confidences.shape:
        raise ValueError("groups must have one entry per row")
    for name, value in (("target_accuracy", target_accuracy), ("confidence_level", confidence_level)):
        if not 0 < value < 1:
            raise ValueError(f"{name} must be between 0 and 1, not {value}")
    descending = np.sort(confidences)[::-1]
    correlation = intraclass_correlation(correct, groups)
    error_odds = _odds(1 - correct.mean()) if not correct.all() else 0.0

    def last_that_passes(target: float) -> dict[str, Any] | None:
        # MAPIE tests such sequences too, but for independent rows only; crepes makes label sets, no thresholds.
        least_correlation = correlation * min(1.0, _odds(1 - target) / error_odds) if error_odds > 0 else 0.0
        fewest = math.ceil(math.log(1 - confidence_level) / math.log(target))
        found = None
        for count in _row_counts(len(descending), fewest):
            inside = confidences >= descending[count - 1]
            accuracy = float(correct[inside].mean())
            worth = effective_rows(correct[inside], groups[inside], confidence_level, least_correlation)
            lower_bound = clopper_pearson_lower_bound(accuracy * worth, worth, confidence_level)
            if lower_bound < target:
                break
            found = {
                "threshold": float(descending[count - 1]),
                "automatic_rows": int(inside.sum()),
                "accuracy": accuracy,
                "lower_bound": lower_bound,
                "effective_rows": worth,
            }
        return found

    chosen = last_that_passes(target_accuracy)
    # Below an unsupported target only: a higher one starts its walk later and may pass by luck.
    steps = [step / 1000 for step in range(999, 0, -1) if chosen or step / 1000 < target_accuracy]
    nothing = dict.fromkeys(("threshold", "accuracy", "lower_bound", "effective_rows")) | {"automatic_rows": 0}
    return ThresholdChoice(
        target_accuracy=float(target_accuracy),
        rows=len(confidences),
        groups=len(np.unique(groups)),
        confidence_level=float(confidence_level),
        best_supported=next((step for step in steps if last_that_passes(step)), 0.0),
        **(chosen or nothing),
    )


def _odds(share: float) -> float:
    return share / (1 - share) if share < 1 else math.inf


def _row_counts(rows: int, fewest: int) -> list[int]:
    """How many of the surest rows each test lets through, ascending; none before `fewest`, which is the first then."""
    # Rounded, because 0.3 * 10 is a hair above 3 and its ceiling would be 4.
    shares = np.arange(_FIRST_COVERAGE, 1 + COVERAGE_STEP / 2, COVERAGE_STEP)
    counts = [math.ceil(round(min(share, 1.0) * rows, 6)) for share in shares]
    later = [count for count in counts if count > fewest]
    return later if len(later) == len(counts) or fewest > rows else [fewest, *later]


@dataclass(frozen=True)
class DecisionPolicy:
    """What turns the probabilities of one adapter into decisions; it travels in the adapter's folder.

    Args:
        temperature (`float`):
            Divides the log-likelihoods before they become probabilities.
        thresholds (`tuple[ThresholdChoice, ...]`):
            One per target accuracy.
        target_accuracy (`float`):
            The target that prediction uses unless it is told another; one of `thresholds`.
        adapter_sha256 (`str`):
            SHA-256 of `adapter_model.safetensors`.
        label_set_sha256 (`str`):
            SHA-256 of the label set that the thresholds were chosen with.
        prompt_sha256 (`str`):
            SHA-256 of the prompt template.
        dataset_digest (`str`):
            Digest of the prepared dataset.
        rows (`int`):
            Validation rows that it was fitted on.
        groups (`int`):
            Their groups.
    """

    temperature: float
    thresholds: tuple[ThresholdChoice, ...]
    target_accuracy: float
    adapter_sha256: str
    label_set_sha256: str
    prompt_sha256: str
    dataset_digest: str
    rows: int
    groups: int

    def save(self, folder: str | Path) -> Path:
        """Write `decision_policy.json`, whole or not at all.

        Args:
            folder (`str` or `Path`):
                The adapter's folder.

        Returns:
            `Path`: the file.
        """
        path = Path(folder) / POLICY_FILE
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text(json.dumps({"format": POLICY_FORMAT, **asdict(self)}, indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, path)
        return path

    @classmethod
    def load(cls, folder: str | Path, adapter_sha256: str, prompt_sha256: str) -> "DecisionPolicy":
        """Read `decision_policy.json`.

        Args:
            folder (`str` or `Path`):
                The adapter's folder.
            adapter_sha256 (`str`):
                SHA-256 of the adapter that is in use.
            prompt_sha256 (`str`):
                SHA-256 of the prompt template that is in use.

        Returns:
            [`DecisionPolicy`]

        Raises:
            InputError: The file is missing, broken, of an unknown format, or of another adapter or prompt.
        """
        path = Path(folder) / POLICY_FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(f"there is no such file; {_EVALUATE_AGAIN}", where=str(path)) from None
        except (OSError, ValueError) as error:
            raise InputError(f"cannot be read as JSON ({error}); {_EVALUATE_AGAIN}", where=str(path)) from None
        if not isinstance(content, dict) or content.pop("format", None) != POLICY_FORMAT:
            raise InputError(f"`format` is not {POLICY_FORMAT}; {_EVALUATE_AGAIN}", where=str(path))
        content = _checked_fields(cls, content, str(path))
        if content["temperature"] <= 0:
            raise InputError(f"`temperature` is {content['temperature']}; {_EVALUATE_AGAIN}", where=str(path))
        content["thresholds"] = tuple(
            ThresholdChoice(**_checked_fields(ThresholdChoice, entry, f"{path}: thresholds[{index}]"))
            for index, entry in enumerate(content["thresholds"])
        )
        policy = cls(**content)
        for name, mine, used in (
            ("adapter_sha256", policy.adapter_sha256, adapter_sha256),
            ("prompt_sha256", policy.prompt_sha256, prompt_sha256),
        ):
            if mine != used:
                raise InputError(
                    f"`{name}` is {mine[:12]}…, but {used[:12]}… is in use: thresholds of another model say nothing "
                    f"here; {_EVALUATE_AGAIN}",
                    where=str(path),
                )
        return policy

    def threshold_for(self, target_accuracy: float | None = None) -> float:
        """The threshold for a target accuracy.

        Args:
            target_accuracy (`float`, *optional*):
                One of the fitted targets; left out, the policy's own `target_accuracy`.

        Returns:
            `float`: answers at least this sure are automatic.

        Raises:
            InputError: That target was not fitted, or validation cannot support it.
        """
        target_accuracy = self.target_accuracy if target_accuracy is None else target_accuracy
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
    probabilities: np.ndarray, label_names: Sequence[str], threshold: float, always_review: Collection[str] = ()
) -> list[Decision]:
    """Which answers are automatic.

    Args:
        probabilities (`np.ndarray` of shape `(rows, labels)`):
            Calibrated probabilities.
        label_names (`Sequence[str]` of length `labels`):
            The labels, in the order of the label set; of equally probable ones the earlier wins.
        threshold (`float`):
            Answers at least this probable are automatic.
        always_review (`Collection[str]`, *optional*, defaults to `()`):
            Labels that are never automatic.

    Returns:
        `list[Decision]`: one per row.

    Raises:
        ValueError: The shapes do not fit, or a probability is not a number.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    if probabilities.ndim != 2 or probabilities.shape[1] != len(label_names) or not len(label_names):
        raise ValueError(f"probabilities have shape {probabilities.shape} for {len(label_names)} labels")
    if np.isnan(probabilities).any():
        raise ValueError("a probability is `nan`")
    always_review = set(always_review)
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :3]
    decisions = []
    for row, indices in zip(probabilities, order, strict=True):
        top = tuple((label_names[index], float(row[index])) for index in indices)
        label, probability = top[0]
        reason = None
        # A label that is always reviewed says so even below the threshold: no other threshold would change it.
        if label in always_review:
            reason = ALWAYS_REVIEWED
        elif probability < threshold:
            reason = BELOW_THRESHOLD
        decisions.append(Decision(label, probability, reason is None, reason, top))
    return decisions


def _checked(confidences, correct) -> tuple[np.ndarray, np.ndarray]:
    confidences, correct = np.asarray(confidences, dtype=np.float64), np.asarray(correct, dtype=bool)
    if confidences.ndim != 1 or confidences.shape != correct.shape or not len(confidences):
        raise ValueError("confidences and correct must be two rows of one length, at least 1")
    if np.isnan(confidences).any():
        raise ValueError("a confidence is `nan`")
    return confidences, correct


def _checked_fields(kind: type, content: Any, where: str) -> dict[str, Any]:
    names = {field.name for field in fields(kind)}
    if not isinstance(content, dict) or set(content) != names:
        raise InputError(f"expected exactly the keys {', '.join(sorted(names))}; {_EVALUATE_AGAIN}", where=where)
    for field in fields(kind):
        value, expected = content[field.name], list if get_origin(field.type) is tuple else field.type
        if not isinstance(value, expected) or (isinstance(value, float) and not math.isfinite(value)):
            raise InputError(f"`{field.name}` is {value!r}; {_EVALUATE_AGAIN}", where=where)
    return content
