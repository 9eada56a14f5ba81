"""Marks that replace names, dates and places in de-identified reports: `___` in MIMIC-CXR, `XXXX` in OpenI.

In OpenI most marks replace ordinary words (`costophrenic XXXX`, `XXXX opacities`), because a program took them for names.
"""

import re
from functools import lru_cache

from radrecipes.radiology.labeller import label_report
from radrecipes.radiology.observations import NO_FINDING
from radrecipes.radiology.rewriting import CUT, patterns, repair, rewrite_sentences

MARK = "___"
_MARK = r"(?:_{2,}|X{3,}|\[\*\*.*?\*\*\])"
_ANY_MARK = re.compile(_MARK, re.DOTALL)
# A date with a mark for each part is one mark.
_RUN_OF_MARKS = re.compile(rf"_*{_MARK}(?:[\s/_-]*{_MARK})*_*", re.DOTALL)

# What was told to whom and when; the marks are the message.
_MESSAGE = re.compile(
    r"\b(?:dr|drs|mr|mrs|ms|doctor|physician|radiologist|nurse|telephone\w*|phone|paged?|notified|communicated|dictat\w+|"
    r"transcri\w+|certified|discussed|reported to|informed|a\.?m|p\.?m|hours)\b",
    re.IGNORECASE,
)
_FINDING = (
    r"(?:\w+ )?(?:atelecta\w+|scar\w*|opacit\w+|infiltrat\w+|edema|pneumonia|granuloma\w*|fibro\w+|effusions?|consolidation|"
    r"emphysema\w*|nodul\w+|artifact\w*|chronic|acute|secondary|due|related|represent\w*|reflect\w*)"
)
# Ordinary words that are the only ones in such places. None states a finding that the labeller does not read from the mark.
_WORDS = tuple(
    (re.compile(pattern, re.IGNORECASE), word)
    for pattern, word in (
        (r"\bx-___", "x-ray"),
        (r"\bcostophrenic ___(?= (?:are|were|appear|remain)\b)", "costophrenic angles"),
        (r"\bcostophrenic ___(?!\w)", "costophrenic angle"),
        (r"\blymph ___(?!\w)", "lymph nodes"),
        (
            r"\bsternotomy ___(?= (?:and|are|is|noted|present|intact|appear\w*|in|with|overl\w+|remain\w*)\b|[.,;]|\Z)",
            "sternotomy wires",
        ),
        (r"(?<=status post )___(?= sternotomy)|(?<=prior )___(?= sternotomy)", "median"),
        (r"\bpulmonary ___(?= (?:are|appear|remain)\b)", "pulmonary vessels"),
        (r"\bpulmonary ___(?= (?:and|is|within|normal|unremarkable)\b|[.,;]|\Z)", "pulmonary vasculature"),
        (r"\bheart ___(?= (?:is|within|normal|appears|remains|and mediastin\w+)\b|, mediastin)", "heart size"),
        (
            r"\bheart ___(?= (?:is|are)? ?(?:obscured|silhouetted))|(?<=obscured )(?:right |left )?heart ___",
            "heart border",
        ),
        (r"\blung ___(?!\w)", "lung zones"),
        (r"\bwedge ___(?= deformit)", "wedge compression"),
        (r"\b(vertebral|spine|thoracic|lumbar|[tl]\d+) ___(?= deformit)", r"\1 wedge"),
        (r"___(?= deformit[^;]*(?:vertebra|spin|thoracic|lumbar|\b[tl]\d))", "wedge"),
        (r"___-a-___", "port-a-cath"),
        (r"\bchest (wall )?___(?=[^;]{0,60}\b(?:tip|svc|atri\w+|cav\w+)\b)", r"chest \1port"),
        (r"\bsize ___(?= within| normal| enlarged)", "size is"),
        (r"\blungs ___(?= clear)", "lungs are"),
        (r"\bbowel ___(?= pattern)", "bowel gas"),
        (r"\baortic ___(?= (?:are|appear)\b)", "aortic contours"),
        (r"\baortic ___(?= (?:calcif\w*|is|and|with)\b|[.,;]|\Z)", "aortic arch"),
        (r"(?<=\bare no )___(?= of\b)", "signs"),
        (r"(?<=\bno )___(?= (?:of|to suggest|for)\b)", "evidence"),
        (r"(?<=\bat )___(?= (?:partially|partly|in part|mild\w*|moderate\w*|one|two)\b)", "least"),
        (r"(?<=\bnote )___(?= of\b)", "is made"),
        (r"(?<=\bnote is )___(?= of\b)", "made"),
        (r"(?<=consistent )___|(?<=compatible )___", "with"),
        (r"(?<=\bmost )___(?!\w)|(?<=\bmore )___(?= repres)|(?<=\bless )___(?!\w)", "likely"),
        (
            r"\b(opacit(?:y|ies)|densit(?:y|ies)|base|lobe|lung)s? ___(?= (?:\w+ )?(?:atelectasis|scar(?:ring)?|granulomas?)\b)",
            r"\1, likely",
        ),
        (r"(?<=scattered )___(?= of)|(?<=few )___(?= of)|(?<=multiple )___(?= of)", "areas"),
        (r"(?<=\ba )___(?= of)", "degree"),
        (r"___(?= represents?\b| reflects?\b| due to\b| secondary to\b| related to\b)", "likely"),
        (r"___(?= be\b)", "may"),
        (rf"(?<=, )___(?= {_FINDING}\b)", "likely"),
        (r"\b(visualized|remaining|remainder|osseous|bony) ___(?= of)", r"\1 portions"),
        (r"\b(of the chest) ___(?= (?:is|are)\b|[.,;]|\Z)", r"\1 wall"),
        (r"(?<=\bthe )___(?= fissure)", "minor"),
    )
)
_NO_NOUN = (
    r"(?:is|are|was|were|be|been|has|have|had|may|might|could|can|will|would|should|and|or|nor|but|of|in|on|at|to|for|from|with|"
    r"without|by|than|as|which|that|this|the|an?|there|these|seen|noted|appears?|remains?|represent\w*|suggest\w*|consistent|"
    r"compatible|related|due|within|overlying|over|tip|partially|if|not|no|since|compared)\b"
)
# Words around a mark that are cut out with it, in this order.
_CUTS = patterns(
    # comparison ___, ___.
    r"\A\W*comparison:? (?:is )?(?:(?:with|to|made with) )?(?:the )?___(?:\W+___)*\W*",
    # …, unchanged from ___ and ___; dated ___; seen on ___ chest CT stays: a noun follows.
    r"[\s,]*(?:\b(?:study|exam|examination|films?|dated|radiograph|performed|on|from|since|in|at|of|by|with|to|for|and|or)\s+)+"
    r"(?:the\s+|a\s+)?___(?:(?:,|\s+and)?\s+___)*(?=\s*(?:[.,;)]|\Z))",
    r"[\s,]*\b(?:dated|from)\s+(?:the\s+)?___(?:(?:,|\s+and)?\s+___)*(?=\s+(?:is|was|are|were)\b)",
    r"\(\s*___\s*\)",
    r"(?:(?<=\bacute )|(?<=\bactive )|(?<=\bfocal ))(?:or|and) ___(?= \w)",
    r"(?<=\bof )___,\s+(?=[a-z])",
    r"(?<=\bis )___\s+(?=within\b)|(?<=\bare )___\s+(?=within\b)|___\s+(?=(?:represent|reflect|suggest)ing\b)",
    # ___ opacities; a large ___ effusion
    rf"(?<!\w)___\s+(?!{_NO_NOUN})(?=[A-Za-z])",
    # ___ and soft tissues are normal
    r"\A\W*___(?:,| and| or)\s+(?=[a-z])",
    # …, ___.
    r",\s*___\s*(?=[.,;]|\Z)",
)


def has_mark(sentence: str) -> bool:
    """Whether something was removed from a sentence: `___`, `XXXX` or `[** … **]`."""
    # A plain string search costs a tenth of the regular expression, and most sentences have no mark.
    if "__" not in sentence and "XXX" not in sentence and "[**" not in sentence:
        return False
    return _ANY_MARK.search(sentence) is not None


def without_marked_sentences(text: str) -> str:
    """Remove each sentence with a mark; a text without marks is returned unchanged."""
    # Normalise first: a long mark may contain a full stop.
    return rewrite_sentences(normalise_marks(text), lambda sentence: "" if has_mark(sentence) else sentence)


def without_marks(text: str) -> str:
    """Remove the marks and keep their sentences, grammatical and with the same findings.

    A mark becomes the word that it must have been, or is cut out. A sentence for which neither works is removed, unless it
    states an observation: then the mark becomes `area`.
    """
    return rewrite_sentences(normalise_marks(text), _sentence_without_marks)


def normalise_marks(text: str) -> str:
    """Write every mark, and every run of marks (`XXXX XXXX`, `___/___`), as one `___`."""
    return _RUN_OF_MARKS.sub(MARK, text) if has_mark(text) else text


# Sentences repeat from report to report.
@lru_cache(maxsize=16384)
def _sentence_without_marks(sentence: str) -> str:
    if not has_mark(sentence):
        return sentence
    if _MESSAGE.search(sentence):
        return ""
    stated = {name for name in label_report(sentence) if name != NO_FINDING}
    filled = sentence.replace(CUT, " ")
    for pattern, word in _WORDS:
        filled = pattern.sub(word, filled)
    cut = filled
    for pattern in _CUTS:
        cut = pattern.sub(CUT, cut)
    if has_mark(cut) and not stated:
        return ""
    cut = cut.replace(MARK, f"{CUT}area")
    repaired = repair(cut, "A") if CUT in cut else cut
    if not repaired and stated:
        repaired = filled.replace(MARK, "area")
    if sum(word[0].isalpha() for word in repaired.split()) < 2 and not stated:
        return ""
    return repaired[0].upper() + repaired[1:]
