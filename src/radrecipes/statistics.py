"""Samples, bootstrap intervals, a paired test and confidence bounds of a proportion."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

# Takes how often each row was sampled, shape (resamples, rows), and returns one value per resample, shape (resamples,).
Statistic = Callable[[np.ndarray], np.ndarray]

# 4 million float32 counts are 16 MB: large enough for fast matrix products, small enough for a laptop.
_COUNTS_PER_BLOCK = 4_000_000


def spread_evenly(rows: int, wanted: int) -> list[int]:
    """Indices of `wanted` of so many rows, or of all if there are fewer: a sample that covers groups which stand together."""
    return np.linspace(0, rows - 1, min(wanted, rows)).round().astype(int).tolist()


def mean_statistic(values: Sequence[float] | np.ndarray) -> Statistic:
    """The mean of one value per row, for example 1.0 if the answer was correct."""
    values = np.asarray(values, dtype=np.float64)

    def statistic(counts: np.ndarray) -> np.ndarray:
        return counts @ values / counts.sum(axis=1)

    return statistic


def macro_f1_statistic(references: Sequence[str | None], predictions: Sequence[str | None]) -> Statistic:
    """The mean of F1 over the labels among the references of each resample; another prediction is a false negative."""
    from scipy import sparse

    code_of = {label: code for code, label in enumerate(sorted(set(references)))}
    reference_codes = np.array([code_of[label] for label in references])
    prediction_codes = np.array([code_of.get(label, -1) for label in predictions])

    def rows_of_labels(chosen: np.ndarray, codes: np.ndarray) -> "sparse.csr_array":
        # Sparse, because a hospital has hundreds of labels and each row has one.
        rows = np.flatnonzero(chosen)
        ones = np.ones(len(rows), dtype=np.float32)
        return sparse.csr_array((ones, (codes[rows], rows)), shape=(len(code_of), len(codes)))

    of_reference = rows_of_labels(reference_codes >= 0, reference_codes)
    of_prediction = rows_of_labels(prediction_codes >= 0, prediction_codes)
    of_both = rows_of_labels(prediction_codes == reference_codes, reference_codes)

    def statistic(counts: np.ndarray) -> np.ndarray:
        counts = np.ascontiguousarray(counts.T)
        support = (of_reference @ counts).T
        # F1 = 2 TP / (2 TP + FP + FN), and support + predicted = 2 TP + FP + FN.
        total = support + (of_prediction @ counts).T
        f1 = np.divide(2 * (of_both @ counts).T, total, out=np.zeros_like(total), where=total > 0)
        present = support > 0
        return (f1.astype(np.float64) * present).sum(axis=1) / present.sum(axis=1)

    return statistic


def precision_recall_f1(right: int, predicted: int, support: int) -> dict[str, float | None]:
    """Precision, recall and F1 from the number of correct predictions, of predictions and of references; `None` for 0 / 0."""
    parts = {"precision": (right, predicted), "recall": (right, support), "f1": (2 * right, support + predicted)}
    return {name: float(part / whole) if whole else None for name, (part, whole) in parts.items()}


def point_value(statistic: Statistic, rows: int) -> float:
    """The statistic of the rows as they are, each counted once."""
    return float(statistic(np.ones((1, rows), dtype=np.float32))[0])


def bootstrap_interval(
    statistic: Statistic,
    groups: Sequence[str],
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, float]:
    """A statistic with its percentile bootstrap interval (Efron and Tibshirani, 1993, chapter 13), resampling whole groups.

    Notes of one patient or scenario are correlated, so resampling single rows would give intervals that are too narrow. The
    same groups and seed give the same resamples for every statistic, in any order of the rows. `value` is of the rows as they
    are.
    """
    if len(groups) == 0:
        raise ValueError("a bootstrap interval needs at least one row")
    values = np.concatenate([statistic(counts) for counts in _resampled_counts(groups, resamples, seed)])
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return {"value": point_value(statistic, len(groups)), "low": float(low), "high": float(high)}


def proportion_interval(statistic: Statistic, groups: Sequence[str], **draws: int) -> dict[str, float]:
    """[`bootstrap_interval`] of a proportion; at 0 or 1, where every resample is alike, Clopper and Pearson's of the groups."""
    interval = bootstrap_interval(statistic, groups, **draws)
    if interval["value"] in (0.0, 1.0):
        count = len(set(groups))
        interval["low"], interval["high"] = clopper_pearson_interval(interval["value"] * count, count)
    return interval


def _resampled_counts(groups: Sequence[str], resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each row is sampled, in blocks of shape `(some resamples, rows)`."""
    names, group_of_row = np.unique(np.asarray(groups), return_inverse=True)
    generator = np.random.default_rng(seed)
    block = max(1, _COUNTS_PER_BLOCK // len(groups))
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        sampled = generator.integers(0, len(names), size=(size, len(names)))
        sampled += np.arange(size)[:, None] * len(names)
        counts = np.bincount(sampled.ravel(), minlength=size * len(names)).reshape(size, len(names))
        yield counts.astype(np.float32)[:, group_of_row]


def mcnemar_exact(
    first_correct: Sequence[bool] | np.ndarray, second_correct: Sequence[bool] | np.ndarray
) -> dict[str, int | float]:
    """McNemar's exact test (1947, with the binomial distribution) of whether two systems have the same accuracy.

    Returns `n10` (rows that only the first got right), `n01` (only the second) and the two-sided `p_value`, 1.0 if both are 0.
    """
    from scipy.stats import binomtest

    first, second = np.asarray(first_correct, dtype=bool), np.asarray(second_correct, dtype=bool)
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    discordant = only_first + only_second
    p_value = binomtest(only_first, discordant, 0.5).pvalue if discordant else 1.0
    return {"n10": only_first, "n01": only_second, "p_value": float(p_value)}


def clopper_pearson_lower_bound(successes: float, rows: float, confidence: float) -> float:
    """The exact one-sided lower confidence bound of a proportion (Clopper and Pearson, 1934), also of fractional counts."""
    from scipy.stats import beta

    if successes <= 0:
        return 0.0
    return float(beta.ppf(1 - confidence, successes, rows - successes + 1))


def clopper_pearson_interval(successes: float, rows: float, confidence: float = 0.95) -> tuple[float, float]:
    """The exact two-sided confidence interval of a proportion (Clopper and Pearson, 1934)."""
    one_sided = (1 + confidence) / 2
    low = clopper_pearson_lower_bound(successes, rows, one_sided)
    return low, 1 - clopper_pearson_lower_bound(rows - successes, rows, one_sided)


def intraclass_correlation(values: Sequence[float] | np.ndarray, groups: Sequence[str] | np.ndarray) -> float:
    """Intraclass correlation by analysis of variance (Donner, 1986), 0 to 1; 0.0 if it cannot be estimated."""
    values = np.asarray(values, dtype=np.float64)
    _, group_of_row, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    rows, group_count = len(values), len(sizes)
    if group_count < 2 or group_count == rows:
        return 0.0
    means = np.bincount(group_of_row, weights=values) / sizes
    between = np.sum(sizes * (means - values.mean()) ** 2) / (group_count - 1)
    within = np.sum((values - means[group_of_row]) ** 2) / (rows - group_count)
    typical_size = (rows - np.sum(sizes**2) / rows) / (group_count - 1)
    total = between + (typical_size - 1) * within
    return float(np.clip((between - within) / total, 0, 1)) if total > 0 else 0.0


def effective_rows(
    correct: Sequence[bool] | np.ndarray,
    groups: Sequence[str] | np.ndarray,
    confidence: float,
    least_correlation: float = 0.0,
) -> float:
    """The effective sample size of clustered rows for a one-sided bound of their accuracy (Korn and Graubard, 1998).

    The number of rows over the design effect (the variance of the accuracy under sampling of groups over that under sampling of
    rows), corrected for few groups by the squared ratio of two quantiles of Student's t; 1.0 for a single group. The design
    effect is at least `1 + (m - 1) * least_correlation` (Kish, 1965), `m` being the size of the group of a random row: a
    handful of errors may show no clustering by chance.
    """
    from scipy.stats import t

    correct = np.asarray(correct, dtype=np.float64)
    rows = len(correct)
    if rows == 0 or rows != len(groups):
        raise ValueError("correct and groups must have the same length, at least 1")
    _, group_of_row, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    group_count = len(sizes)
    if group_count == 1:
        return 1.0
    residuals = correct - correct.mean()
    of_rows = np.sum(residuals**2) * rows / (rows - 1)
    of_groups = np.sum(np.bincount(group_of_row, weights=residuals) ** 2) * group_count / (group_count - 1)
    design_effect = max(
        1.0,
        of_groups / of_rows if of_rows > 0 else 1.0,
        1 + (np.sum(sizes**2) / rows - 1) * least_correlation,
    )
    few_groups = (t.ppf(confidence, rows - 1) / t.ppf(confidence, group_count - 1)) ** 2
    return float(rows / design_effect * few_groups)
