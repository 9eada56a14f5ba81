"""Sides and measurements: details that structured findings do not have, so that a model could only invent them.

Not counted as details: severity (`small`), lobes and zones (`lower lobe`), distances in words (`above the carina`),
`both`, and anatomical names with a side: heart chambers and borders, main bronchi (`right atrium`, `right mainstem
bronchus`). The side of a device (`right PICC`, `left-sided pacemaker`) is one.
"""

import re
from functools import lru_cache

from radrecipes.radiology.labeller import label_report
from radrecipes.radiology.observations import findings_present
from radrecipes.radiology.rewriting import CUT, patterns, repair, rewrite_sentences

_SIDE = r"(?:left|right)(?:[- ]sided|(?![- ]sided))"
# Anatomical names with a side; two chambers may share a noun.
_ORGAN = (
    r"(?=[- ](?:(?:and|or)[ ](?:left|right)[ ])?(?:ventric|atri(?:al|um|a)\b|heart|cardiac|main[ -]?stem|main bronch|"
    r"main stem|coronary|anterior descending|bundle branch))"
)
_SIDE_WORD = (
    rf"\b{_SIDE}(?!\w){_ORGAN.replace('?=', '?!', 1)}|\b(?:left|right)wards?\b|\b(?:bi|uni|ipsi|contra)lateral(?:ly)?\b|"
    r"\bbi(?=basilar|basal|apical|hilar)|\bboth sides\b|\b(?:R ?[<>] ?L|L ?[<>] ?R)\b|\b[RL](?=[UML]L\b|IJ\b)"
)
_NUMBER = r"(?:\d+(?:[.,]\d+)?|\.\d+|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|half an?))"
_UNIT = r"(?:mm|cms?|millimet(?:er|re)s?|centimet(?:er|re)s?|inch(?:es)?|ml|cc|milliliters?)"
_SIZE = (
    rf"(?<![\d.])(?:{_NUMBER}(?:[\s-]*{_UNIT}\b)?\s*(?:x|×|by|to|-|–|or)\s*){{0,2}}"
    rf"{_NUMBER}(?:[\s-]*{_UNIT}\b|\s*(?:%|percent\b))"
)
_DETAIL = re.compile(rf"{_SIDE_WORD}|{_SIZE}", re.IGNORECASE)

_ROUGHLY = (
    r"(?:(?:approximately|about|roughly|around|up to|at least|at most|less than|more than|greater than|no more than|nearly|almost|"
    r"over|under|an? estimated|some|only|just|maximally|~|<|>)\s*)*"
)
_EXTENT = (
    r"(?:\s+(?:in|of)\s+(?:(?:the|its|greatest|maximal|maximum|largest|longest|short|long|transverse|AP|craniocaudal)\s+)*"
    r"(?:diameter|dimensions?|size|length|width|axis|thickness|extent|height)|\s+(?:across|thick|long|wide|deep)\b)?"
)
_MEASURED = rf"{_ROUGHLY}{_SIZE}(?!\s+from\b){_EXTENT}"
_SIDES = rf"(?:the\s+)?{_SIDE}(?:\s+(?:and|or)\s+(?:the\s+)?{_SIDE})*(?:\s+(?:hand\s+)?sides?)?"
_MORE = r"(?:greater|more|larger|worse|less|smaller|higher|bigger|denser|>|<)"
# A side word before one of these, or before a stop, is a noun.
_AFTER_A_NOUN = (
    r"(?=\s*(?:[.,;:)!?]|\Z)|\s+(?:and|or|with|without|which|that|is|are|was|were|but|as|in|at|may|could|has|have|likely|"
    r"there|while|where|suggest\w*|consistent|compatible|reflect\w*|represent\w*|due|from|since|than)\b)"
)
# Tried in this order.
_CUTS = patterns(
    # (left greater than right); more so on the left than on the right; worse on the left
    rf"[\s,(]*\b(?:(?:which|that)\s+(?:is|are)\s+)?(?:(?:slightly|much|somewhat)\s+)?{_SIDE}[\s-]+(?:side\s+)?{_MORE}"
    rf"(?:\s+\w+)?(?:[\s-]+than|(?<=[<>]))[\s-]+(?:on\s+)?(?:the\s+)?{_SIDE}(?:\s+side)?\s*\)?",
    rf"[\s,(]*(?:\b(?:which|that)\s+(?:is|are)\s+)?(?:\b(?:slightly|much|somewhat)\s+)?\b{_MORE}"
    rf"(?:\s+(?!on\b)\w+)?\s+(?:on|at|in|to)\s+{_SIDES}(?:\s+than\s+(?:on\s+|in\s+)?{_SIDES})?{_AFTER_A_NOUN}\s*\)?",
    r"[\s(]*\b(?:R ?[<>] ?L|L ?[<>] ?R)\b\s*\)?",
    r"\b(?:left|right)[- ]to[- ](?:left|right)\b",
    # moderate right and small left effusions
    rf"\b{_SIDE}(?:\s+and|,)\s+(?:an?\s+)?(?:(?:very|small|moderate|large|trace|tiny|minimal|mild|minor|severe|to|or|and)[\s-]+)+"
    rf"{_SIDE}\s+(?=\w)",
    # on the left side of the chest
    rf"\b{_SIDE}\s+side\s+of\s+(?:the\s+)?",
    # predominantly on the left
    rf"[\s,(]*(?:\b(?:predominantly|mainly|mostly|primarily|particularly|especially|most\s+(?:marked|pronounced|"
    rf"prominent|severe)(?:ly)?)\s+)?\b(?:on|to|at|towards?|in|from)\s+(?:{_SIDES}{_AFTER_A_NOUN}|both sides\b)\s*\)?",
    # measuring up to 8 mm in diameter
    rf"[\s,(]*\b(?:(?:currently|now)\s+)?(?:measuring|(?:which|that)\s+measures?|which\s+(?:is|are)|spanning|estimated\s+"
    rf"(?:at|to\s+be))\s+{_MEASURED}\s*[,)]?",
    rf"\s+(?:by|of|with\s+an?\s+(?:\w+\s+)?(?:diameter|size|width|length|thickness|depth)\s+of)\s+{_MEASURED}",
    rf"\(\s*{_MEASURED}\s*\)",
    _MEASURED,
    rf"(?:{_SIDE_WORD})(?:\s*(?:and|or|and/or|,|/)\s*(?:{_SIDE_WORD}))*(?=[\s-]+(?!(?:is|are|was|were|and|or|with|than|of|"
    r"in|at|on|has|have|but|as|may|sides?)\b)\w)[\s-]*",
    r"\s*\b(?:bi|uni|ipsi|contra)lateral(?:ly)?\b",
    r"\bbi(?=basilar|basal|apical|hilar)",
)
_LOBES = {"rul": "upper lobe", "rml": "middle lobe", "rll": "lower lobe", "lul": "upper lobe", "lll": "lower lobe"}
_ABBREVIATED = re.compile(r"\b(?:rul|rml|rll|lul|lll|rij|lij)\b", re.IGNORECASE)
_WITHIN = re.compile(rf"\bwithin\s+{_ROUGHLY}{_SIZE}\s+of\b", re.IGNORECASE)
# Without its side such a sentence would contradict one about the other side, so it is removed.
_DENIED_SIDE = (
    rf"\b(?:no|without|not|nor|free of|absence of|resol\w+)\s+(?:(?!(?:but|with|although|however|except)\b)[\w,/-]+\s+){{0,7}}?"
    rf"(?:{_SIDE}(?!{_ORGAN})\b)"
)
_DENIED_AFTER = re.compile(_DENIED_SIDE, re.IGNORECASE)
_CLAUSE = re.compile(r",\s+(?:and\s+|but\s+)?(?=(?:no|without)\b)|;\s+|\s+(?:and|but)\s+(?=no\b)", re.IGNORECASE)
_MORE_CUTS = patterns(
    # Mass in the lobe measures 3 cm.
    rf"\s+(?:(?:noted|which|that|and|it)\s+)?(?:now\s+)?(?:measur(?:es?|ing)|spans)\s+{_MEASURED}(?:\s+from\s+the\b[^,;.]*)?",
    rf"\s+with\s+{_MEASURED}",
    rf"\A{_MEASURED}\s+of\s+",
    rf",\s+(?:(?:small|moderate|large)\s+)?{_SIDES}(?=\s*(?:[.,;]|\Z))",
)
# "The nodule.", left over from "The nodule measures 8 mm.", which is about something that another sentence states.
_NO_SENTENCE = re.compile(
    r"(?:the|this|that|these|it)\b(?!.*\b(?:is|are|was|were|has|have|appears?|shows?)\b)", re.IGNORECASE
)
_DENIED = re.compile(
    rf"{_DENIED_SIDE}|\b{_SIDE}\s+(?:\w+:?\s+){{0,4}}(?:clear|normal|unremarkable|sharp|(?:well[- ])?expanded|"
    r"(?:well[- ])?aerated|absent|resolved|not)\b",
    re.IGNORECASE,
)


def unrequested_details(sentence: str) -> list[str]:
    """Side words and measurements of a text as written, in order, for example `["left", "8 mm"]`."""
    return [match[0] for match in _DETAIL.finditer(sentence)]


def without_details(text: str) -> str:
    """Remove sides and measurements from a section of a report so that every sentence stays grammatical.

    A sentence that states nothing without them is removed (`It measures 8 mm.`), and so is one that denies something
    on one side (`No right effusion.`), because without the side it would contradict the other side.
    """
    return rewrite_sentences(text, _sentence_without_details)


# Sentences repeat from report to report.
@lru_cache(maxsize=16384)
def _sentence_without_details(sentence: str) -> str:
    if not _DETAIL.search(sentence):
        return sentence
    cut = "" if _DENIED.search(sentence) else _cut_out(sentence, _CUTS)
    labels = label_report(sentence)
    stated = {name: labels[name] for name in findings_present(labels)}
    # A finding must not be lost with a side: without the clauses that deny something on one side, and with more cut out.
    if stated and not stated.items() <= label_report(cut or ".").items():
        clauses = [clause for clause in _CLAUSE.split(sentence.rstrip(". ")) if not _DENIED_AFTER.search(clause)]
        kept = _cut_out(", ".join(clauses) + ".", (*_MORE_CUTS, *_CUTS))
        if stated.items() <= label_report(kept or ".").items() and not _NO_SENTENCE.match(kept):
            return kept
    return cut


def _cut_out(sentence: str, cuts: tuple[re.Pattern, ...]) -> str:
    cut = _ABBREVIATED.sub(lambda match: CUT + _LOBES.get(match[0].lower(), "IJ"), sentence.replace(CUT, " "))
    cut = _WITHIN.sub("near", cut)
    for pattern in cuts:
        cut = pattern.sub(CUT, cut)
    if _DETAIL.search(cut.replace(CUT, " ")):
        return ""
    cut = repair(cut, sentence)
    # The words joined by a cut may form a detail again.
    return "" if _DETAIL.search(cut) else cut
