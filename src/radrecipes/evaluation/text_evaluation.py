"""From the texts that each system wrote to the metrics of `metrics.json` and the rows of `predictions.parquet`."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import sacrebleu

from radrecipes.access import may_show
from radrecipes.errors import InputError
from radrecipes.evaluation.baselines import fit_nearest_neighbour
from radrecipes.inference.answers import MODEL, WrittenText
from radrecipes.statistics import Statistic, bootstrap_interval, mean_statistic
from radrecipes.tasks.text_task import Check, TextTask, rouge_l

ADAPTER = "adapter"
ADAPTER_GUARDED = "adapter_guarded"
BASE = "base"
NEAREST = "nearest_neighbour"

# What each system wrote, row by row; `None` for a row that it was not asked about.
Systems = Mapping[str, Sequence[WrittenText | None]]
Checks = Mapping[str, Sequence[Check | None]]
# Computes a statistic over the rows of a system with its bootstrap interval.
Interval = Callable[[Statistic], dict[str, float]]


class TextEvaluation:
    """Evaluates systems on rows of a text task: word overlap, and how often the task's check accepts a text."""

    # The metrics of a result at a glance, in this order; systems that `adapter_guarded` is compared with
    figures: tuple[str, ...] = ("passed_rate", "rouge_l", "bleu", "never_stopped_rate")
    opponents: tuple[str, ...] = (NEAREST, ADAPTER)

    def __init__(self, task: TextTask, rows: Sequence[Mapping[str, Any]]):
        self.task, self.rows = task, rows
        self.inputs = [task.inputs(row) for row in rows]
        # What a check depends on, besides the text
        self.keys = [inputs[task.input_column] for inputs in self.inputs]
        self.groups = [row["group"] for row in rows]

    def baselines(self, train: "TextEvaluation") -> dict[str, list[WrittenText]]:
        """What systems without training write: the target of the training row with the most similar input."""
        nearest = fit_nearest_neighbour(train.keys, [self.task.target(row) for row in train.rows])
        return {NEAREST: [WrittenText(text) for text in nearest.predict(self.keys)]}

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

        for name, texts in systems.items():
            if len(texts) != len(self.rows):
                raise ValueError(f"system {name!r} has {len(texts)} texts for {len(self.rows)} rows")
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
        resamples: int = 2000,
    ) -> dict[str, Any]:
        """Everything in `metrics.json`: plain values, ready for JSON.

        Every `{"value", "low", "high"}` is a metric with its 95 % bootstrap interval over groups; `None` for a zero
        denominator.

        Args:
            systems: `adapter_guarded` is compared with each of `opponents`, on the rows that both wrote.
            checks: What [`checks`] returned.
            dataset: At least `name`, `access` and `digest` of the dataset.
            decoding: How the texts were generated.
            seeds: Includes `bootstrap`.
        """
        if not self.rows:
            raise InputError("there are no rows to evaluate; choose a non-empty split")
        draws = {"resamples": resamples, "seed": seeds["bootstrap"]}
        references = [self.task.reference(row) for row in self.rows]
        measured, rouge = {}, {}
        for name, texts in systems.items():
            places = [place for place, text in enumerate(texts) if text is not None]
            groups = [self.groups[place] for place in places]
            asked, found = [texts[place] for place in places], [checks[name][place] for place in places]

            def interval(statistic: Statistic, groups: Sequence[str] = groups) -> dict[str, float]:
                return bootstrap_interval(statistic, groups, **draws)

            expected, written = (
                [references[place] for place in places],
                [self.task.comparable(text.text) for text in asked],
            )
            rouge[name] = np.full(len(texts), np.nan)
            rouge[name][places] = [rouge_l(*pair) for pair in zip(expected, written, strict=True)]
            passed = _passed(asked, found)
            measured[name] = {
                "rows": len(places),
                "rouge_l": interval(mean_statistic(rouge[name][places])),
                # BLEU-4 (Papineni et al., 2002), 0 to 100, with the defaults of sacrebleu (13a, case-sensitive)
                "bleu": float(sacrebleu.corpus_bleu(written, [expected]).score),
                "passed_rate": interval(mean_statistic(passed)),
                **self._specific(places, found, interval),
                "never_stopped_rate": interval(mean_statistic([not text.stopped for text in asked])),
                "mean_generated_tokens": float(np.mean([text.generated_tokens for text in asked])),
            }
            if name == ADAPTER_GUARDED:
                measured[name]["guard"] = self._guard_counts(asked, found)
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
            "systems": measured,
            "comparisons": [
                self._comparison(rouge, other, draws)
                for other in self.opponents
                if ADAPTER_GUARDED in systems and other in systems
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

    def _check(self, place: int, text: str) -> Check:
        return self.task.check(self.inputs[place], text)

    def _specific(self, places: Sequence[int], checks: Sequence[Check], interval: Interval) -> dict[str, Any]:
        """Additional metrics of one system, over the rows at these indices."""
        return {}

    def _row_columns(self, showable: bool) -> dict[str, list[str]]:
        if not showable:
            return {}
        return {self.task.input_column: self.keys, "reference": [self.task.target(row) for row in self.rows]}

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

    def _comparison(self, rouge: Mapping[str, np.ndarray], other: str, draws: Mapping[str, int]) -> dict[str, Any]:
        difference = rouge[ADAPTER_GUARDED] - rouge[other]
        places = np.flatnonzero(~np.isnan(difference))
        return {
            "first": ADAPTER_GUARDED,
            "second": other,
            "figure": "rouge_l",
            "rows": len(places),
            "difference": bootstrap_interval(
                mean_statistic(difference[places]), [self.groups[place] for place in places], **draws
            ),
        }


def _passed(texts: Sequence[WrittenText], checks: Sequence[Check]) -> list[bool]:
    """A text that was cut off at the limit may pass its check although its end is missing, so it does not pass here."""
    return [text.stopped and not check.reasons for text, check in zip(texts, checks, strict=True)]
