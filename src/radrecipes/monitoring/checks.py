"""Compares a window of answers with a reference period, by tests whose false alarms are known and by the size of the difference.

A window raises an alarm if a check has p < rate / number of checks (Bonferroni), so that at most this rate of windows do so without
a change, *and* its difference has at least the stated size: with enough orders any difference is significant.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from scipy import stats

from radrecipes.monitoring.answers import Answers, Reviewed

FEWEST_REFERENCE = 50
# A label is compared by itself if at least this many orders are expected in both periods; the others together.
_FEWEST_EXPECTED = 5
# The least differences that count
LEAST_SHARE, LEAST_NEW_LABELS, LEAST_ACCURACY, LEAST_PSI, LEAST_KS = 0.03, 0.01, 0.01, 0.1, 0.1


@dataclass(frozen=True)
class Check:
    """One comparison of a window: what was measured in both periods (the target in place of the reference for accuracy), the
    p-value, the size of the difference, and what it must be for an alarm.
    """

    name: str
    value: float
    reference: float
    p_value: float
    effect: float
    least_effect: float

    def alarms(self, level: float) -> bool:
        """Whether the difference is significant at this level, and large enough."""
        return bool(self.p_value < level and self.effect >= self.least_effect)


class Monitor:
    """Checks windows against a reference period.

    One half of the reference, drawn at random, says which words and labels are known; the other half shows how many orders have
    a new one when nothing has changed. Its orders and those of a window are equally new to the first half.
    """

    def __init__(self, reference: Answers, target_accuracy: float = 0.95, seed: int = 0):
        self.reference, self.target_accuracy = reference, target_accuracy
        known, compared = np.array_split(np.random.default_rng(seed).permutation(len(reference)), 2)
        self._known, self._compared = reference.part(known), reference.part(compared)
        if reference.words is not None:
            self._known_words = frozenset().union(*self._known.words)

    def checks(self, window: Answers, corrections: Reviewed | None = None) -> list[Check]:
        """The comparisons that the available columns allow."""
        before = self.reference
        new_labels = (~np.isin(part.labels, self._known.labels) for part in (self._compared, window))
        found = [
            _proportions("review_rate", before.needs_review, window.needs_review, LEAST_SHARE),
            _labels(before.labels, window.labels),
            _proportions("new_labels", *new_labels, LEAST_NEW_LABELS),
            _distributions("probability", before.probabilities, window.probabilities),
        ]
        if before.words is not None and window.words is not None:
            new_words = (self._have_new_word(part.words) for part in (self._compared, window))
            found.append(_proportions("new_words", *new_words, LEAST_SHARE))
            found.append(_word_shares(before.words, window.words))
            found.append(_distributions("length", before.lengths, window.lengths))
        if corrections and corrections.sampled:
            right, rows, target = corrections.sampled_right, corrections.sampled, self.target_accuracy
            p_value = float(stats.binomtest(right, rows, target, alternative="less").pvalue)
            found.append(Check("accuracy", right / rows, target, p_value, target - right / rows, LEAST_ACCURACY))
        return found

    def new_word_share(self, window: Answers) -> float | None:
        """The share of the different words of the orders that the known half of the reference does not have."""
        if self.reference.words is None or window.words is None:
            return None
        unknown = sum(len(words - self._known_words) for words in window.words)
        return unknown / max(1, sum(map(len, window.words)))

    def _have_new_word(self, words: np.ndarray) -> np.ndarray:
        return np.array([not of_order <= self._known_words for of_order in words])


def _proportions(name: str, before: np.ndarray, now: np.ndarray, least: float) -> Check:
    """Fisher's exact test of two proportions."""
    table = [[int(part.sum()), int((~part).sum())] for part in (before, now)]
    share, current = float(before.mean()), float(now.mean())
    return Check(name, current, share, float(stats.fisher_exact(table).pvalue), abs(current - share), least)


def _distributions(name: str, before: np.ndarray, now: np.ndarray) -> Check:
    """The Kolmogorov-Smirnov test; with ties, as of lengths, it is conservative. The values are medians."""
    test = stats.ks_2samp(before, now, method="asymp")
    medians = float(np.median(now)), float(np.median(before))
    return Check(name, *medians, float(test.pvalue), float(test.statistic), LEAST_KS)


def _word_shares(before: np.ndarray, now: np.ndarray) -> Check:
    """The word whose share of the orders changed most significantly, of those that changed enough; Bonferroni over the words.

    Given how many orders have a word, the number among them that are of the window is hypergeometric; the binomial distribution
    has larger tails.
    """
    counts = [Counter(word for of_order in part for word in of_order) for part in (before, now)]
    words = [word for word, total in (counts[0] + counts[1]).items() if total >= _FEWEST_EXPECTED]
    old, new = (np.array([part[word] for word in words], dtype=float) for part in counts)
    share = len(now) / (len(before) + len(now))
    tails = np.minimum(stats.binom.cdf(new, old + new, share), stats.binom.sf(new - 1, old + new, share))
    change = np.abs(new / len(now) - old / len(before))
    p_values = np.where(change >= LEAST_SHARE, np.minimum(1.0, 2 * tails * len(words)), 1.0)
    if not words or p_values.min() == 1:
        return Check("word_shares", 0.0, 0.0, 1.0, 0.0, LEAST_SHARE)
    place = int(p_values.argmin())
    values = float(new[place] / len(now)), float(old[place] / len(before))
    return Check("word_shares", *values, float(p_values[place]), float(change[place]), LEAST_SHARE)


def _labels(before: np.ndarray, now: np.ndarray) -> Check:
    """Pearson's chi-square test of the labels' shares; value and effect are the population stability index (PSI).

    Cells are chosen by the total of both periods, which leaves the null distribution as it is. The reference value is what PSI has
    on average by sampling alone: (k - 1)(1 / n + 1 / m).
    """
    _, codes = np.unique(np.concatenate([before, now]), return_inverse=True)
    counts = np.array(
        [np.bincount(part, minlength=codes.max() + 1) for part in (codes[: len(before)], codes[len(before) :])]
    )
    expected = counts.sum(axis=0) * min(len(before), len(now)) / len(codes)
    order = np.argsort(-expected, kind="stable")
    alone = int((expected >= _FEWEST_EXPECTED).sum())
    # The rare labels are one cell, with the rarest of the others if they are too few.
    while alone > 0 and 0 < expected[order[alone:]].sum() < _FEWEST_EXPECTED:
        alone -= 1
    cells = np.column_stack([counts[:, order[:alone]], counts[:, order[alone:]].sum(axis=1)])
    cells = cells[:, cells.sum(axis=0) > 0]
    if cells.shape[1] < 2:
        return Check("labels", 0.0, 0.0, 1.0, 0.0, LEAST_PSI)
    p_value = float(stats.chi2_contingency(cells, correction=False).pvalue)
    shares = (cells + 0.5) / (cells + 0.5).sum(axis=1, keepdims=True)
    psi = float(np.sum((shares[1] - shares[0]) * np.log(shares[1] / shares[0])))
    by_chance = (cells.shape[1] - 1) * (1 / len(before) + 1 / len(now))
    return Check("labels", psi, by_chance, p_value, psi, LEAST_PSI)
