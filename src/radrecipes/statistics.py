"""Bootstrap intervals and the paired test that say how far a measured figure can be trusted."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from scipy.stats import beta, binomtest, t

# Gets how often each row was drawn, shape (resamples, rows), and gives one figure per resample, shape (resamples,).
Statistic = Callable[[np.ndarray], np.ndarray]

# 4 million float32 counts are 16 MB: large enough for fast matrix products, small enough for a laptop.
_COUNTS_PER_BLOCK = 4_000_000


def mean_statistic(values: Sequence[float] | np.ndarray) -> Statistic:
    """The mean of one value per row, for example 1.0 where the answer was right.

    Args:
        values (`Sequence[float]` or `np.ndarray` of shape `(rows,)`):
            One value per row.

    Returns:
        `Statistic`: the mean of each resample.
    """
    values = np.asarray(values, dtype=np.float64)

    def statistic(counts: np.ndarray) -> np.ndarray:
        return counts @ values / counts.sum(axis=1)

    return statistic


def macro_f1_statistic(references: Sequence[str | None], predictions: Sequence[str | None]) -> Statistic:
    """The unweighted mean of F1 over the labels that occur in the references.

    A prediction that is no label of the references (`None`, free text, another label) is a miss for its reference and
    counts against no label. In each resample the mean runs over the labels that its own references hold.

    Args:
        references (`Sequence[str]`):
            The right label of each row.
        predictions (`Sequence[str]` or `Sequence[None]`):
            The predicted label of each row.

    Returns:
        `Statistic`: macro-F1 of each resample.
    """
    labels = sorted(set(references))
    code_of = {label: code for code, label in enumerate(labels)}
    reference_codes = np.array([code_of[label] for label in references])
    prediction_codes = np.array([code_of.get(label, -1) for label in predictions])
    every_label = np.arange(len(labels))
    is_reference = (reference_codes[:, None] == every_label).astype(np.float32)
    is_prediction = (prediction_codes[:, None] == every_label).astype(np.float32)
    is_both = is_reference * is_prediction

    def statistic(counts: np.ndarray) -> np.ndarray:
        support = counts @ is_reference
        # F1 = 2 TP / (2 TP + FP + FN), and support + predicted = 2 TP + FP + FN.
        total = support + counts @ is_prediction
        f1 = np.divide(2 * (counts @ is_both), total, out=np.zeros_like(total), where=total > 0)
        present = support > 0
        return (f1.astype(np.float64) * present).sum(axis=1) / present.sum(axis=1)

    return statistic


def point_value(statistic: Statistic, rows: int) -> float:
    """The statistic of the rows as they are, each counted once.

    Args:
        statistic (`Statistic`):
            What to compute.
        rows (`int`):
            Number of rows.

    Returns:
        `float`: the figure.
    """
    return float(statistic(np.ones((1, rows), dtype=np.float32))[0])


def bootstrap_interval(
    statistic: Statistic,
    groups: Sequence[str],
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, float]:
    """A figure with its percentile bootstrap interval (Efron and Tibshirani, 1993, chapter 13).

    Whole groups are drawn, because notes of one patient or one scenario are alike: drawing rows would give intervals
    that are too narrow. Where every row has a group of its own, this is the ordinary bootstrap over rows. The same
    groups and seed draw the same resamples for every statistic, whatever the order of the rows.

    Args:
        statistic (`Statistic`):
            What to compute on each resample.
        groups (`Sequence[str]`):
            The group of each row.
        resamples (`int`, *optional*, defaults to 2000):
            How many times to draw.
        confidence (`float`, *optional*, defaults to 0.95):
            Share of the resamples inside the interval.
        seed (`int`, *optional*, defaults to 0):
            Seed of the draws.

    Returns:
        `dict[str, float]`: `value` (of the rows as they are), `low` and `high`.

    Raises:
        ValueError: There are no rows.
    """
    if len(groups) == 0:
        raise ValueError("a bootstrap interval needs at least one row")
    drawn = np.concatenate([statistic(counts) for counts in _resampled_counts(groups, resamples, seed)])
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return {"value": point_value(statistic, len(groups)), "low": float(low), "high": float(high)}


def _resampled_counts(groups: Sequence[str], resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each row is drawn, in blocks of shape `(some resamples, rows)`."""
    names, group_of_row = np.unique(np.asarray(groups), return_inverse=True)
    generator = np.random.default_rng(seed)
    block = max(1, _COUNTS_PER_BLOCK // len(groups))
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = generator.integers(0, len(names), size=(size, len(names)))
        drawn += np.arange(size)[:, None] * len(names)
        counts = np.bincount(drawn.ravel(), minlength=size * len(names)).reshape(size, len(names))
        yield counts.astype(np.float32)[:, group_of_row]


def mcnemar_exact(
    first_correct: Sequence[bool] | np.ndarray, second_correct: Sequence[bool] | np.ndarray
) -> dict[str, int | float]:
    """McNemar's exact test of whether two systems are right equally often on the same rows.

    Only rows on which exactly one system is right can tell them apart; under equality they split like coin tosses
    (McNemar, 1947, with the exact binomial instead of the chi-squared approximation). Rows count as independent.

    Args:
        first_correct (`Sequence[bool]` or `np.ndarray`):
            Whether the first system was right, row by row.
        second_correct (`Sequence[bool]` or `np.ndarray`):
            The same for the second system.

    Returns:
        `dict`: `n10` (only the first was right), `n01` (only the second was right), `p_value` (two-sided; 1.0 where no
        row tells them apart).
    """
    first, second = np.asarray(first_correct, dtype=bool), np.asarray(second_correct, dtype=bool)
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    discordant = only_first + only_second
    p_value = binomtest(only_first, discordant, 0.5).pvalue if discordant else 1.0
    return {"n10": only_first, "n01": only_second, "p_value": float(p_value)}


def clopper_pearson_lower_bound(successes: float, rows: float, confidence: float) -> float:
    """The exact one-sided lower confidence bound of a share (Clopper and Pearson, 1934).

    Args:
        successes (`float`):
            How many rows are right; a fraction where the rows were made fewer by [`effective_rows`].
        rows (`float`):
            Number of independent rows.
        confidence (`float`):
            Confidence of the bound.

    Returns:
        `float`: the bound; 0.0 where nothing is right.
    """
    if successes <= 0:
        return 0.0
    return float(beta.ppf(1 - confidence, successes, rows - successes + 1))


def intraclass_correlation(values: Sequence[float] | np.ndarray, groups: Sequence[str] | np.ndarray) -> float:
    """How alike rows of one group are: the one-way analysis-of-variance estimate (Donner, 1986).

    Args:
        values (`Sequence[float]` or `np.ndarray` of shape `(rows,)`):
            One value per row, for example 1.0 where the answer was right.
        groups (`Sequence[str]` or `np.ndarray` of shape `(rows,)`):
            The group of each row.

    Returns:
        `float`: 0 (not alike) to 1 (the same). 0.0 where it cannot be told: one group, a group per row, or values that
        do not differ.
    """
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
    """How many independent rows the rows are worth for a bound of their accuracy (Korn and Graubard, 1998).

    The number of rows over the design effect: the variance of the accuracy when whole groups are drawn, over that when
    rows are. It is corrected for the few groups that the variance is estimated from, by the squared ratio of two
    quantiles of Student's t. With one row a group the result is the number of rows.

    Args:
        correct (`Sequence[bool]` or `np.ndarray` of shape `(rows,)`):
            Whether each row is right.
        groups (`Sequence[str]` or `np.ndarray` of shape `(rows,)`):
            The group of each row.
        confidence (`float`):
            Confidence of the one-sided bound that the rows are for, above 0.5.
        least_correlation (`float`, *optional*, defaults to 0.0):
            Correlation inside groups that is known from elsewhere. A handful of errors shows no clustering by chance;
            the design effect is then at least `1 + (m - 1) * least_correlation` (Kish, 1965), `m` being the size of the
            group that a random row is from.

    Returns:
        `float`: above 0, at most the number of rows. 1.0 for one group, which shows no difference between groups.

    Raises:
        ValueError: There are no rows, or the lengths differ.
    """
    correct = np.asarray(correct, dtype=np.float64)
    rows = len(correct)
    if rows == 0 or rows != len(groups):
        raise ValueError("correct and groups must have one length, at least 1")
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
