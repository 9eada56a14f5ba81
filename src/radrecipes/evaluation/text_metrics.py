"""Word overlap of generated and reference reports: ROUGE-L and BLEU."""

from collections.abc import Sequence

import sacrebleu
from rouge_score.rouge_scorer import RougeScorer


def rouge_l(references: Sequence[str], texts: Sequence[str]) -> list[float]:
    """ROUGE-L F1 of each text (Lin, 2004), 0 to 1, by `rouge-score` without stemming."""
    scorer = RougeScorer(["rougeL"])
    return [
        scorer.score(reference, text)["rougeL"].fmeasure for reference, text in zip(references, texts, strict=True)
    ]


def corpus_bleu(references: Sequence[str], texts: Sequence[str]) -> float:
    """Corpus BLEU-4 (Papineni et al., 2002), 0 to 100, by `sacrebleu` with its defaults (13a, case-sensitive)."""
    return float(sacrebleu.corpus_bleu(list(texts), [list(references)]).score)
