"""From the texts that each system wrote to the metrics of `metrics.json` and the rows of `predictions.parquet`."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import sacrebleu

from radrecipes.access import may_show
from radrecipes.errors import InputError
from radrecipes.evaluation.baselines import NearestNeighbour, majority_class
from radrecipes.evaluation.embeddings import TextEmbedder
from radrecipes.evaluation.label_systems import ADAPTER, BASE
from radrecipes.evaluation.slices import FEWEST_ROWS, unseen_masks
from radrecipes.inference.answers import MODEL, WrittenText
from radrecipes.statistics import Statistic, bootstrap_interval, mean_statistic
from radrecipes.tasks.text_task import Check, TextTask, rouge_l

ADAPTER_GUARDED = "adapter_guarded"
MOST_FREQUENT = "most_frequent"
NEAREST = "nearest_neighbour"
# The text of the row itself: what the checks say of texts that people wrote.
REFERENCE = "reference"

# What each system wrote, row by row; `None` for a row that it was not asked about.
Systems = Mapping[str, Sequence[WrittenText | None]]
Checks = Mapping[str, Sequence[Check | None]]
# Computes a statistic over the rows of a system with its bootstrap interval.
Interval = Callable[[Statistic], dict[str, float]]
# Writes the texts of a baseline for rows.
Writer = Callable[["TextEvaluation"], list[WrittenText]]


@dataclass(frozen=True)
class Baselines:
    """What systems without training of a model write, and what was chosen for them on validation."""

    writers: Mapping[str, Writer]
    settings: Mapping[str, int] = field(default_factory=dict)

    def write(self, rows: "TextEvaluation") -> dict[str, list[WrittenText]]:
        """The texts of every baseline for rows."""
        return {name: writer(rows) for name, writer in self.writers.items()}


class TextEvaluation:
    """Evaluates systems on rows of a text task: word overlap, and how often the task's check accepts a text."""

    # The metrics of a result at a glance, in this order
    figures: tuple[str, ...] = ("passed_rate", "rouge_l", "bleu", "never_stopped_rate")
    # Whether a baseline compares inputs by their sentence embeddings
    needs_embedder = False

    def __init__(self, task: TextTask, rows: Sequence[Mapping[str, Any]]):
        self.task, self.rows = task, rows
        self.inputs = [task.inputs(row) for row in rows]
        self.texts = [inputs[task.input_column] for inputs in self.inputs]
        self.targets = [task.target(row) for row in rows]
        self.references = [task.reference(row) for row in rows]
        # What a check depends on, besides the text
        self.keys = self.texts
        self.groups = [row["group"] for row in rows]

    def baselines(self, validation: "TextEvaluation", embedder: TextEmbedder | None = None) -> Baselines:
        """Baselines from these rows, which are those of training.

        The most frequent target, and the target of the row with the most similar input.
        """
        return Baselines({MOST_FREQUENT: self._most_frequent(), NEAREST: self._nearest_neighbour()})

    def _most_frequent(self) -> Writer:
        text = WrittenText(majority_class(self.targets))
        return lambda rows: [text] * len(rows.rows)

    def _nearest_neighbour(self) -> Writer:
        return writer_of(NearestNeighbour(self.texts, self.targets).predict)

    def best_baseline(self, baselines: Baselines) -> dict[str, Any]:
        """Name and ROUGE-L of the baseline that is best on these rows, which are those of validation."""
        means = {
            name: float(np.mean(self._rouge(texts)))
            for name, texts in baselines.write(self).items()
            if name != REFERENCE
        }
        best = max(means, key=means.get)
        return {"name": best, "validation_rouge_l": means[best]}

    def unseen(self, train: "TextEvaluation") -> dict[str, np.ndarray]:
        """Masks of the rows that do not stand in training, see [`unseen_masks`]."""
        return unseen_masks(self.texts, self.references, train.texts, train.references)

    def checks(self, systems: Systems) -> dict[str, list[Check | None]]:
        """The task's check of every text, once per distinct text and input; `None` where the system was not asked."""
        known: dict[tuple[str, str], Check] = {}

        def check(text: WrittenText | None, place: int) -> Check | None:
            if text is None:
                return None
            key = (text.text, self.keys[place])
            if key not in known:
                known[key] = self._check(place, text.text)
            return known[key]

        return {name: [check(text, place) for place, text in enumerate(texts)] for name, texts in systems.items()}

    def metrics(
        self,
        systems: Systems,
        checks: Checks,
        *,
        split: str,
        dataset: Mapping[str, Any],
        decoding: Mapping[str, Any],
        seeds: Mapping[str, int],
        unseen: Mapping[str, np.ndarray] | None = None,
        best_baseline: Mapping[str, Any] | None = None,
        baseline_settings: Mapping[str, int] | None = None,
        resamples: int = 2000,
    ) -> dict[str, Any]:
        """Everything in `metrics.json`: plain values, ready for JSON.

        Every `{"value", "low", "high"}` is a metric with its 95 % bootstrap interval over groups; `None` for a zero
        denominator. `unseen` has the metrics of `figures` on each slice; a slice of under 20 rows has `None`.

        Args:
            systems: `adapter_guarded` is compared with each baseline and with `adapter`, `adapter` with the best baseline, on
                the rows that both wrote.
            checks: What [`checks`] returned.
            unseen: Slices of the rows, what [`unseen`] returned.
            best_baseline: What [`best_baseline`] of the validation split returned.
            dataset: At least `name`, `access` and `digest` of the dataset.
            decoding: How the texts were generated.
            seeds: Includes `bootstrap`.
        """
        if not self.rows:
            raise InputError("there are no rows to evaluate; choose a non-empty split")
        draws = {"resamples": resamples, "seed": seeds["bootstrap"]}
        unseen, best = unseen or {}, (best_baseline or {}).get("name")
        rouge = {name: self._rouge(texts) for name, texts in systems.items()}

        def measured(name: str, mask: np.ndarray | bool = True, style: bool = False) -> dict[str, Any]:
            places = np.flatnonzero(mask & ~np.isnan(rouge[name])).tolist()
            found = self._measure(systems[name], checks[name], rouge[name], places, draws)
            return found | (self._style(systems[name], checks[name], places, draws) if style else {})

        def on_slice(mask: np.ndarray) -> dict[str, Any]:
            few = {name: (mask & ~np.isnan(scores)).sum() < FEWEST_ROWS for name, scores in rouge.items()}
            of_systems = {name: None if few[name] else measured(name, mask) for name in systems}
            return {
                **self._size(mask),
                "systems": {
                    name: found and {key: found[key] for key in ("rows", *self.figures)}
                    for name, found in of_systems.items()
                },
            }

        baselines = [name for name in systems if name not in (ADAPTER, ADAPTER_GUARDED, BASE, REFERENCE)]
        pairs = [(ADAPTER_GUARDED, other) for other in (*baselines, ADAPTER)] + [(ADAPTER, best)]
        found = {name: measured(name, style=True) for name in systems}
        if ADAPTER_GUARDED in systems:
            found[ADAPTER_GUARDED]["guard"] = self._guard_counts(systems[ADAPTER_GUARDED], checks[ADAPTER_GUARDED])
        return {
            "task": self.task.name,
            "split": split,
            "rows": len(self.rows),
            "groups": len(set(self.groups)),
            "dataset": dict(dataset),
            "decoding": dict(decoding),
            "seeds": dict(seeds),
            "interval": {"kind": "percentile bootstrap over groups", "confidence": 0.95, "resamples": resamples},
            "figures": list(self.figures),
            "systems": found,
            "unseen": {name: on_slice(mask) for name, mask in unseen.items()},
            "best_baseline": dict(best_baseline) if best_baseline else None,
            "baseline_settings": dict(baseline_settings or {}),
            "comparisons": [
                self._comparison(rouge, pair, unseen, draws) for pair in pairs if all(name in systems for name in pair)
            ],
        }

    def table(self, systems: Systems, checks: Checks, access: str) -> pd.DataFrame:
        """The rows of `predictions.parquet`, with `<system>_…` columns for each system, missing where it was not asked.

        Unless access is `synthetic` or `open`, columns with free text (input, reference and `<system>_text`) are left out,
        because a model may repeat what it read, and so are `id` and `group`, which may name patients: `row` counts the split's
        rows, from 1. `<system>_check`, `ok` or the reasons against the text, quotes nothing of it.
        """
        showable = may_show(access)
        columns: dict[str, Any] = {"row": range(1, len(self.rows) + 1)}
        if showable:
            columns = {"id": [row["id"] for row in self.rows], "group": self.groups}
        columns |= self._row_columns(showable)
        for name, texts in systems.items():
            if showable:
                columns[f"{name}_text"] = pd.array([text and text.text for text in texts], dtype="string")
            columns[f"{name}_check"] = pd.array(
                [check and ("; ".join(check.reasons) or "ok") for check in checks[name]], dtype="string"
            )
            columns[f"{name}_stopped"] = pd.array([text and text.stopped for text in texts], dtype="boolean")
        return pd.DataFrame(columns)

    def _rouge(self, texts: Sequence[WrittenText | None]) -> np.ndarray:
        """ROUGE-L of each text, NaN where the system was not asked."""
        return np.array(
            [
                np.nan if text is None else rouge_l(reference, self.task.comparable(text.text))
                for text, reference in zip(texts, self.references, strict=True)
            ]
        )

    def _size(self, mask: np.ndarray) -> dict[str, int]:
        return {"rows": int(mask.sum()), "groups": len({self.groups[place] for place in np.flatnonzero(mask)})}

    def _measure(
        self,
        texts: Sequence[WrittenText | None],
        checks: Sequence[Check | None],
        rouge: np.ndarray,
        places: Sequence[int],
        draws: Mapping[str, int],
    ) -> dict[str, Any]:
        """The metrics of one system over the rows at these indices."""
        interval = self._interval(places, draws)
        asked, found = [texts[place] for place in places], [checks[place] for place in places]
        written = [self.task.comparable(text.text) for text in asked]
        return {
            "rows": len(places),
            "rouge_l": interval(mean_statistic(rouge[places])),
            # BLEU-4 (Papineni et al., 2002), 0 to 100, with the defaults of sacrebleu (13a, case-sensitive)
            "bleu": float(sacrebleu.corpus_bleu(written, [[self.references[place] for place in places]]).score),
            "passed_rate": interval(mean_statistic(_passed(asked, found))),
            **self._specific(places, found, interval),
            "never_stopped_rate": interval(mean_statistic([not text.stopped for text in asked])),
            "mean_generated_tokens": float(np.mean([text.generated_tokens for text in asked])),
        }

    def _interval(self, places: Sequence[int], draws: Mapping[str, int]) -> Interval:
        groups = [self.groups[place] for place in places]
        return lambda statistic: bootstrap_interval(statistic, groups, **draws)

    def _check(self, place: int, text: str) -> Check:
        return self.task.check(self.inputs[place], text)

    def _specific(self, places: Sequence[int], checks: Sequence[Check], interval: Interval) -> dict[str, Any]:
        """Additional metrics of one system, over the rows at these indices."""
        return {}

    def _style(
        self, texts: Sequence[WrittenText], checks: Sequence[Check], places: Sequence[int], draws: Mapping[str, int]
    ) -> dict[str, Any]:
        """Metrics of one system over the rows at these indices that slices do not have: language, and other judges."""
        words = [self.task.comparable(texts[place].text).lower().split() for place in places]
        pairs = [pair for of_text in words for pair in pairwise(of_text)]
        return {
            "mean_words": float(np.mean([len(of_text) for of_text in words])),
            # Distinct-2 (Li et al., 2016): it falls when a model writes the same few sentences
            "distinct_2": len(set(pairs)) / max(len(pairs), 1),
        }

    def _row_columns(self, showable: bool) -> dict[str, list[str]]:
        if not showable:
            return {}
        return {self.task.input_column: self.texts, "reference": self.targets}

    def _guard_counts(self, texts: Sequence[WrittenText], checks: Sequence[Check]) -> dict[str, Any]:
        # With a fallback nothing remains rejected, whatever the labeller finds in a sentence of the template.
        kept = [
            text
            for text, accepted in zip(texts, _passed(texts, checks), strict=True)
            if text.source == MODEL and (accepted or self.task.fallback_writer)
        ]
        reasons = Counter(reason for text in texts for reason in text.reasons)
        by_model = sum(text.source == MODEL for text in texts)
        return {
            "first_try": sum(text.tries == 1 for text in kept),
            "later_try": sum(text.tries > 1 for text in kept),
            "template": len(texts) - by_model,
            **({} if self.task.fallback_writer else {"refused": by_model - len(kept)}),
            "reasons": dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
        }

    def _comparison(
        self,
        rouge: Mapping[str, np.ndarray],
        pair: tuple[str, str],
        unseen: Mapping[str, np.ndarray],
        draws: Mapping[str, int],
    ) -> dict[str, Any]:
        difference = rouge[pair[0]] - rouge[pair[1]]
        asked = ~np.isnan(difference)

        def compared(mask: np.ndarray) -> dict[str, Any] | None:
            places = np.flatnonzero(mask)
            if not len(places):
                return None
            interval = bootstrap_interval(
                mean_statistic(difference[places]), [self.groups[place] for place in places], **draws
            )
            return {"rows": len(places), "difference": interval}

        return {
            "first": pair[0],
            "second": pair[1],
            "figure": "rouge_l",
            **compared(asked),
            "unseen": {
                name: compared(mask & asked) if (mask & asked).sum() >= FEWEST_ROWS else None
                for name, mask in unseen.items()
            },
        }


def writer_of(predict: Callable[[Sequence[str]], list[str]]) -> Writer:
    """Writes what a function predicts for the inputs of rows."""
    return lambda rows: [WrittenText(text) for text in predict(rows.texts)]


def _passed(texts: Sequence[WrittenText], checks: Sequence[Check]) -> list[bool]:
    """A text that was cut off at the limit may pass its check although its end is missing, so it does not pass here."""
    return [text.stopped and not check.reasons for text, check in zip(texts, checks, strict=True)]
