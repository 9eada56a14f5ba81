"""The metrics of label tasks: statistics that evaluation bootstraps, and the same for `evaluate.load`, offline.

metric = evaluate.load(radrecipes.evaluation.metrics.__file__, "macro_f1")
"""

from collections.abc import Sequence

import datasets
import evaluate

from radrecipes.evaluation.embeddings import TextEmbedder
from radrecipes.statistics import Statistic, macro_f1_statistic, mean_statistic, point_value

_INPUTS = """
Args:
    predictions (`list[str]`): predicted labels in canonical form; an empty text if the answer was no label.
    references (`list[str]`): right labels.
    labels (`list[str]`): the allowed labels, for `out_of_vocabulary_rate`.
    model (`str`, *optional*): sentence-transformers model of `semantic_similarity`, a folder or a Hub name.
Returns:
    The metric, under its name.
"""


def exact_accuracy(predictions: Sequence[str | None], references: Sequence[str]) -> Statistic:
    """Fraction of predictions that equal their reference."""
    return mean_statistic([label == reference for label, reference in zip(predictions, references, strict=True)])


def out_of_vocabulary_rate(predictions: Sequence[str | None], labels: Sequence[str]) -> Statistic:
    """Fraction of predictions that are not among the allowed labels."""
    allowed = set(labels)
    return mean_statistic([label not in allowed for label in predictions])


def semantic_similarity(texts: Sequence[str], references: Sequence[str], embedder: TextEmbedder) -> Statistic:
    """Mean cosine similarity of the sentence embeddings of text and reference; compare it with its chance level."""
    return mean_statistic(embedder.similarities(texts, references))


class LabelMetric(evaluate.Metric):
    """One of the metrics above, chosen by the configuration's name."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(
        self, predictions: list[str], references: list[str], labels: Sequence[str] = (), model: str | None = None
    ) -> dict[str, float]:
        statistics = {
            "exact_accuracy": lambda: exact_accuracy(predictions, references),
            "macro_f1": lambda: macro_f1_statistic(references, predictions),
            "out_of_vocabulary_rate": lambda: out_of_vocabulary_rate(predictions, labels),
            "semantic_similarity": lambda: semantic_similarity(predictions, references, TextEmbedder(model)),
        }
        if self.config_name not in statistics:
            raise ValueError(f"no metric {self.config_name!r}; there are {', '.join(statistics)}")
        return {self.config_name: point_value(statistics[self.config_name](), len(predictions))}
