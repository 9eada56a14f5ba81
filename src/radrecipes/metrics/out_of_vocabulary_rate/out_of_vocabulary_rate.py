"""Share of predictions that are no label at all."""

import datasets
import evaluate

from radrecipes.statistics import mean_statistic, point_value

_DESCRIPTION = """
Share of predictions that are not among the allowed labels. Put predictions into canonical form first: an alias of a
label is not among the labels.
"""
_INPUTS = """
Args:
    predictions (`list[str]`): predicted labels; an empty text where the answer was no label.
    labels (`list[str]`): the allowed labels.
Returns:
    out_of_vocabulary_rate (`float`): from 0 to 1.
"""


class OutOfVocabularyRate(evaluate.Metric):
    """Share of predictions that are not among the allowed labels."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": datasets.Value("string")}),
        )

    def _compute(self, predictions: list[str], labels: list[str]) -> dict[str, float]:
        allowed = set(labels)
        outside = [prediction not in allowed for prediction in predictions]
        return {"out_of_vocabulary_rate": point_value(mean_statistic(outside), len(outside))}
