"""Share of predictions that equal their reference."""

import datasets
import evaluate

from radrecipes.statistics import mean_statistic, point_value

_DESCRIPTION = """
Share of predictions that equal their reference, character by character. Put both into canonical form first: another
spelling of the same label is an error here.
"""
_INPUTS = """
Args:
    predictions (`list[str]`): predicted labels; an empty text where the answer was no label.
    references (`list[str]`): right labels.
Returns:
    exact_accuracy (`float`): from 0 to 1.
"""


class ExactAccuracy(evaluate.Metric):
    """Share of predictions that equal their reference."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        correct = [prediction == reference for prediction, reference in zip(predictions, references, strict=True)]
        return {"exact_accuracy": point_value(mean_statistic(correct), len(correct))}
