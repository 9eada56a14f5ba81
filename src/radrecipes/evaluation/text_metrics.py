"""Word overlap of generated and reference reports: ROUGE-L and BLEU."""

from collections.abc import Sequence

import sacrebleu

from radrecipes.tasks import text_task


def rouge_l(references: Sequence[str], texts: Sequence[str]) -> list[float]:
    """ROUGE-L of each text, 0 to 1; rewards use the same function."""
    return [text_task.rouge_l(reference, text) for reference, text in zip(references, texts, strict=True)]


def corpus_bleu(references: Sequence[str], texts: Sequence[str]) -> float:
    """Corpus BLEU-4 (Papineni et al., 2002), 0 to 100, by `sacrebleu` with its defaults (13a, case-sensitive)."""
    return float(sacrebleu.corpus_bleu(list(texts), [list(references)]).score)
