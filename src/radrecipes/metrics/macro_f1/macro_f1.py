"""Mean of F1 over the labels, each label counting the same."""

import datasets
import evaluate

from radrecipes.statistics import macro_f1_statistic, point_value

_DESCRIPTION = """
Unweighted mean of F1 over the labels that occur in the references, so that a rare label counts as much as a common
one. A prediction outside these labels is a miss for its reference and a false alarm for no label.
"""
_INPUTS = """
Args:
    predictions (`list[str]`): predicted labels; an empty text where the answer was no label.
    references (`list[str]`): right labels.
Returns:
    macro_f1 (`float`): from 0 to 1.
"""


class MacroF1(evaluate.Metric):
    """Mean of F1 over the labels that occur in the references."""

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
        return {"macro_f1": point_value(macro_f1_statistic(references, predictions), len(references))}
