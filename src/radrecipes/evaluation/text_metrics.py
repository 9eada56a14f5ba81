"""How close written reports come to the words of the reference reports: ROUGE-L and BLEU."""

from collections.abc import Sequence

import sacrebleu
from rouge_score.rouge_scorer import RougeScorer


def rouge_l(references: Sequence[str], texts: Sequence[str]) -> list[float]:
    """ROUGE-L of each text: F1 over the longest common subsequence of words (Lin, 2004), by `rouge-score`.

    Words are runs of letters and digits in lower case, not stemmed.

    Args:
        references (`Sequence[str]`):
            The reference of each text.
        texts (`Sequence[str]`):
            What was written.

    Returns:
        `list[float]`: one figure per text, from 0 to 1; 0 where either is empty.
    """
    scorer = RougeScorer(["rougeL"])
    return [
        scorer.score(reference, text)["rougeL"].fmeasure for reference, text in zip(references, texts, strict=True)
    ]


def corpus_bleu(references: Sequence[str], texts: Sequence[str]) -> float:
    """BLEU-4 of all texts together (Papineni et al., 2002), by `sacrebleu` with its defaults (13a, case as written).

    Args:
        references (`Sequence[str]`):
            The reference of each text.
        texts (`Sequence[str]`):
            What was written; at least one.

    Returns:
        `float`: from 0 to 100.
    """
    return float(sacrebleu.corpus_bleu(list(texts), [list(references)]).score)
