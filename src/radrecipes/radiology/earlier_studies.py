"""Comparisons with earlier studies, which a report that is written from findings alone could only invent.

A word of comparison (`unchanged`, `interval`, `stable`, `prior`, `again`, `new`, `remains`, `now` and others) counts
anywhere. So do `stable position` and `new line`, which imply an earlier position of a device, and `has been removed`.

Not counted: `stable` about a patient or hardware; `new onset`, `newly diagnosed`; earlier illness and operations visible in
this image (`prior sternotomy`) and `prior to`; plans (`to document resolution`, `short interval follow-up`); `degenerative
changes`, `increased markings` and `low or decreased lung volumes`; `chronic` and `old`; one side compared with the other.
"""

import re
from functools import lru_cache

from radrecipes.radiology.labeller import label_report
from radrecipes.radiology.observations import Labels, findings_lost
from radrecipes.radiology.rewriting import CUT, patterns, repair, rewrite_sentences

_ADVERB = r"(?:(?:\w+ly|somewhat|also|much|more|less|minimal|mild|slight|interval|otherwise|not)\s+)"
_STUDY = (
    r"(?:stud(?:y|ies)|exam(?:ination)?s?|radiographs?|radiography|films?|x-?rays?|images?|imaging|CTs?|CXRs?|scans?|tomograms?|"
    r"mammograms?|views?)\b"
)
# Up to two words after `prior` and `previous` these are about the patient's history, not about earlier images.
_HISTORY = (
    r"(?:surg|sternotom|cabg|bypass|thoracotom|lobectom|resect|fracture|trauma|injur|granulomat|infect|tb\b|tubercul|exposure|"
    r"valve|repair|replacement|procedure|interven|radia(?:tion|ted)|radioth|\w*ectom|vertebropl|kyphopl|operat|biops|transplant|"
    r"healed|asbest|inflamm|disease|infarct|tracheost|stent|insult|history|smok|arthropl|fusion|myocard|coronary)"
)
_CHANGE_VERB = (
    r"(?:increased|decreased|improved|worsened|progressed|enlarged|changed|cleared|developed|diminished|regressed|evolved|grown|"
    r"reduced|become|migrated|deteriorated|resolved|shifted|re-?accumulated|re-?expanded|appeared|disappeared|stabilized)"
)
_DONE = (
    r"(?:removed|extubated|withdrawn|advanced|repositioned|exchanged|replaced|placed|inserted|retracted|pulled|intubated|"
    r"introduced|positioned|drained|discontinued|taken\s+out|interval)"
)
_FINDING = (
    r"(?:effusions?|edema|pneumothora(?:x|ces)|atelectasis|consolidations?|congestion|opacit(?:y|ies)|opacifications?|pneumonia|"
    r"cardiomegaly|nodules?|fluid|hydropneumothorax)\b"
)
_DEVICE = r"(?:wires|tubes?|lines?|catheters?|PICC|ports?|pacemakers?|leads|clips|drains?|hardware|device)\b"
_MENTION = re.compile(
    r"\b(?:"
    r"un(?:changed|altered)|(?:no|little|without|any)\s+(?:(?:acute|significant|substantial|relevant|interval|appreciable|great|gross|"
    r"other|major|marked|definite|evidence\s+of|overall|obvious|further|material|additional|notable|large|real)\s+|\w+ly\s+)*change"
    r"(?:s\b(?!\s+of)|\b)|"
    r"(?:not|is|are|has|have|was|were|been)\s+(?:\w+ly\s+)?changed|(?:change|changed|changes)\s+(?:in|from|since|compared|over)\b|"
    r"(?<!short )(?<!short-)(?<!regular )(?<!time )(?<!QT )(?<!PR )interval\b(?!\s+(?:follow|of|between))|"
    r"in\s+the\s+(?:meantime|interim)|"
    r"(?<!dynamically )(?<!clinically )(?<!patient is )(?<!patient remains )stabl[ey]\b(?!\s+(?:\w+\s+)?(?:fixation|fusion|vital|"
    r"patient|condition|hemodynamic))|"
    r"again\b|once\s+more|"
    r"(?:compar(?:ed|able)\s+(?:to|with)|when\s+compared|as\s+compared)\b(?!\s+(?:the\s+)?(?:left|right|contra|other\s+side|normal|"
    r"expected|opposite))|comparisons?\b|"
    rf"(?:prior|previous(?:ly)?|preceding|preexisting|pre-existing|prev)\b(?!\s+to\b)(?!(?:\s+[\w-]+){{0,2}}?\s+{_HISTORY})|"
    rf"earlier\b|yesterday|baseline|(?:last|most\s+recent|recent)\s+(?:\w+\s+){{0,2}}{_STUDY}|since\b(?!\s+(?:there|it|this\s+may)\b)|"
    r"as\s+before|than\s+before|now\b|still\b|no\s+longer|"
    r"new\b(?![\s-]onset|\s+(?:line\s+of|diagnos|york|england))|newly\b(?!\s+(?:diagnosed|developed\s+symptoms))|"
    r"remain(?:s|ed)?\b|persist(?:s|ed|ent|ently|ing|ence)?\b|continu(?:es?|ed|ing)\b(?!\s+(?:to\s+)?(?:follow|surveil|monitor))|"
    r"improv(?:ed|es|ing|ements?)\b|worsen(?:s|ed|ing)?\b|better\s+(?:aerated|aeration|expanded|inflated)|"
    rf"worse\b(?!\s+(?:on|at|in)\b|\s+than\s+(?:on\s+)?(?:the\s+)?(?:left|right))(?<!left worse)(?<!right worse)|"
    rf"(?:has|have)\s+{_ADVERB}*{_CHANGE_VERB}\b|(?:in|de)creasing\b|(?:increase|decrease|reduction|enlargement)\s+in\b|"
    rf"(?<=,\s){_ADVERB}?(?:in|de)creased\b|(?:in|de)creased\s+(?:in\s+(?:size|extent|conspicuity|severity|volume|number|density|amount)|since|from|compared|"
    rf"(?:\w+\s+){{0,3}}?(?:effusions?|edema|pneumothora(?:x|ces)|atelectasis|consolidations?|congestion)\b)|"
    rf"(?:is|are|appears?|looks?|has\s+become|have\s+become)\s+{_ADVERB}*(?:smaller|larger|(?:in|de)creased)\b"
    r"(?!\s+(?:than\s+(?:the\s+)?|on\s+the\s+)(?:left|right))|"
    r"(?<!to )(?<!document )(?<!ensure )(?<!confirm )(?<!until )(?<!high )(?<!assess )(?<!for )resolution\b|resolv(?:ed|es|ing)\b|"
    r"(?:partial|complete|near|interval|some)\s+clearing|re-?demonstrat\w*|re-?accumulat\w*|re-?expan\w+|recurren(?:t|ce)\b(?!\s+laryng)|"
    r"progress(?:ed|es|ing|ion|ive|ively)\b(?!\s+massive)|enlarging|growing|evolv(?:ed|ing)|evolution|deteriorat\w+|regress(?:ed|ion)|"
    r"diminish(?:ed|ing)|residual\b(?!\s+(?:volume|contrast|barium))|"
    rf"(?:has|have|had)\s+(?:\w+\s+)?been\s+{_ADVERB}*{_DONE}\b|removal\s+of|extubat(?:ed|ion)|(?:is|are|was|were)\s+removed|"
    r"has\s+received\b|"
    r"similar\s+(?:in|to|as|compared|appear)\w*|meanwhile|"
    r"(?<!be )(?:seen|described|noted|demonstrated|documented|visualized|identified|characterized)\s+(?:on|by|from)\s+(?:the\s+|"
    r"___\s+|recent\s+|subsequent\s+|chest\s+|same[\s-]day\s+|dedicated\s+)*(?:CT|MRI|PET|ultrasound)"
    r")",
    re.IGNORECASE,
)
_EARLIER = (
    rf"(?:(?:the|an?|any|his|her|its|most|several|multiple|available)\s+)*(?:prior|previous|preceding|earlier|recent|last|yesterday|"
    rf"baseline|___|comparison|before|{_STUDY}|(?:chest\s+)?(?:CT|radiograph|film|x-?ray|study)|[A-Z]+\s+(?:{_STUDY}|chest)|\d)(?:[^,;.:]|:\d)*"
)
_ADJECTIVE = (
    r"(?:unchanged|unaltered|stable|persistent|persisting|new|newly(?:\s+(?:placed|inserted|positioned|introduced))?|recurrent|residual|improved|improving|worsened|worsening|"
    r"increasing|decreasing|decreased|increased|resolving|enlarging|evolving|progressive|continued|continuing|growing|diminished|"
    r"changed|pre-?existing|previously[\s-](?:seen|noted|described|identified|demonstrated|visualized|mentioned|reported|known)|previous|prior)"
)
_NOT_A_NOUN = (
    r"(?:and|or|in|of|since|compared|from|with|without|to|at|on|as|but|the|an?|when|than|is|are|was|were|has|have|over|by|which|"
    r"there|while|although|though|for|position|appearance|size|course|configuration|aeration|extent|studies|study|film|exam\w*|"
    r"radiograph\w*|seen|since|level|now|overall|again)\b"
)
_CUTS = patterns(
    # AP chest compared to ___:
    r"\A[\w\s]{0,40}\bcompared\s+(?:to|with)\s+(?:[^,;.:]|,\s|:\d)*:(?!\d)",
    # In comparison with the study of ___, …  …, as compared to the prior film.
    rf"(?:[\s,(]*\b(?:(?:as|when|in)\s+)?(?:compared|comparison)\s+(?:is\s+made\s+)?(?:to|with)\s+{_EARLIER}[,)]?)",
    rf"[\s,(]*\b(?:since|from|than\s+(?:on\s+|in\s+)?|(?:similar\s+)?to|on|in|as\s+(?:(?:seen|noted|described)\s+)?(?:on|in|from))\s+"
    rf"(?:the\s+|___\s+)?(?:(?:most\s+|chest\s+)?(?:prior|previous|preceding|yesterday|earlier|recent|last)\b(?!\s+to\b)"
    rf"(?!(?:\s+\w+)?\s+{_HISTORY})[^,;.)]*)[,)]?",
    r"[\s,(]*\bsince\s+(?:the\s+)?[^,;.]+[,)]?",
    r"[\s,(]*\b(?:as|than)\s+before\b\)?|[\s,(]*\bas\s+previously\b[^,;.)]*\)?|[\s,(]*\bin\s+the\s+(?:interval|interim|meantime)\b,?",
    # …, without significant interval change
    r"[\s,(]*\b(?:with|without)\s+(?:no\s+|any\s+)?(?:\w+\s+)?(?:\w+\s+)?(?:interval\s+)?change\b[^,;.)]*\)?",
    # …, unchanged since …; …, which is stable
    rf"\s*[,(]\s*(?:which\s+(?:is|are|has|have)\s+)?(?:been\s+)?(?:(?:likely|probably)\s+)?{_ADVERB}*{_ADJECTIVE}(?:\s+(?:in|as|when|"
    rf"from|since|over)\b[^,;.)]*)?(?=[\s{CUT}]*(?:[,;.)]|\Z))\)?",
    r"[\s,]*\b(?:once\s+|yet\s+)?again\b,?|\bonce\s+more\b|\bre-?(?=demonstrat(?:ed|es)\b)|[\s,]*\bnow\b|\s+still\b",
)
# Words before a noun; the adverbs before them are removed too.
_BEFORE_A_NOUN = re.compile(rf"\b{_ADVERB}*{_ADJECTIVE},?\s+(?!{_NOT_A_NOUN})(?=[\w-])", re.IGNORECASE)
_IN_PLACE = re.compile(r"\b(?:unchanged|stable)\s+(?=position\b)", re.IGNORECASE)
_STAYING = re.compile(r"\b(remains?|remained|continues?\s+to\s+be)\b(?=\s+\w)", re.IGNORECASE)
# There has been interval increase in edema. Only for what needs no article.
_COURSE = re.compile(
    r"\A(?:there\s+(?:has|have)\s+been\s+|there\s+is\s+)?(?:an?\s+)?(?:(?!of\b)\w+\s+){0,2}?(?:interval\s+)?(?:\w+\s+)?(?:increase|worsening|"
    r"development|progression|improvement|decrease|reduction)\s+(?:in|of)\s+(?:the\s+)?((?:[\w-]+\s+){0,3}?)"
    r"(edema|atelectasis|consolidation|congestion|opacification|cardiomegaly|pneumonia|effusions|opacities|infiltrates|nodules)\s*\.?\Z",
    re.IGNORECASE,
)
# Small effusion is unchanged. The finding is kept, its change is not.
_STATE = re.compile(
    rf"\A(?:the\s+)?((?!no\b|no,|without\b)(?:(?!(?:no|without|is|are|but|however)\b)[\w-]+\s+){{0,5}}?(?:{_FINDING}|{_DEVICE})"
    rf"(?:\s+(?:at|in)\s+the\s+(?:[\w-]+\s?){{1,4}}?)?)\s+(?:persists?|(?:is|are|remains?|appears?|has|have)\s+(?:been\s+)?{_ADVERB}*"
    rf"(?:un)?(?:changed|altered|stable|similar|improved|improving|increased|increasing|decreased|decreasing|worsened|worsening|worse|"
    rf"better|progressed|persistent|larger|smaller|enlarged|new))\b(?!\s+(?:and|or|but)\b)[^,;]*\Z",
    re.IGNORECASE,
)
_PLACED = re.compile(
    r"\Athe\s+patient\s+has\s+received\s+(?=an?\s)|"
    r"\A(?:there\s+(?:has|have)\s+been\s+)?(?:interval\s+)?(?:placement|insertion)\s+of\s+(?=an?\s)",
    re.IGNORECASE,
)
# Without the comparison these would mean something else, or nothing.
_MEANINGLESS = re.compile(
    r"\b(?:no|without|any|not|nor)\s+(?:\w+\s+){0,3}?(?:new|newly|previously|residual|recurrent|increas\w+|enlarging|worsening|progressive|"
    r"persistent|pre-?existing|prior|previous)\b|\bno\s+longer\b|\bresolved\b|\b(?:stable|unchanged)\s+\w*\s*(?:appearance|size|course|configuration)",
    re.IGNORECASE,
)
_ONLY_ANATOMY = re.compile(
    r"\A(?!.*\b(?:is|are|was|were|has|have|there|no|low|normal|enlarged|prominent|small|large|clear|widened|tortuous|dilated|elevated|"
    r"blunted|with|mild\w*|moderate\w*|severe\w*)\b)[\w\s/,-]*\b(?:size|silhouettes?|contours?|appearances?|(?<!in\s)positions?|volumes?|vasculature|"
    r"vascularity|structures?|mediastinum|hil(?:a|um)|hearts?|lungs?|borders?|findings?|chest|aorta|changes?|process|disease|bones|"
    r"portions?|study|images?)\.?\Z",
    re.IGNORECASE,
)
# What is cut out as well if a finding would be lost otherwise. What is left may be a noun without a verb, as reports often are.
_COURSE_OF = (
    r"(?:re-?demonstration|improvement|worsening|development|progression|increased?|decreased?|enlargement|reduction|changes?|"
    r"persistence|recurrence|evolution|resolution|clearing)"
)
_WAYS = (
    r"(?:(?:\w+ly|also|somewhat|interval|significant|slight|mild|moderate|overall|some|further|apparent|partial|near[- ]complete|"
    r"in)\s+)*"
)
_SINCE = r"(?:\s+(?:in|from|to|since|as|when|compared|over|on)\b[^,;.]*)?"
_MORE_CUTS = patterns(
    rf"\A[\s,{CUT}]*(?:there(?:\s+(?:is|are|has|have)|'s)(?:\s+been)?\s+)?(?:an?\s+)?(?:(?:no|without|little)\s+)?{_WAYS}{_COURSE_OF}"
    rf"(?:(?:\s+without)?\s+{_WAYS}(?:and|/)\s*{_COURSE_OF})?(?:\s+(?:in|of|and)\s+(?:size|extent|number|amount|degree|appearance))*"
    r"(?:\s+(?:in|of))?\s+(?:the\s+)?",
    r"[\s,(]*\b(?:without|no)\s+(?:an?\s+)?(?:\w+\s+){0,3}?(?:for\s+)?comparisons?(?:\s+(?:stud\w+|exam\w*|films?))?[,)]?",
    rf"\s*\b(?:has|have)\s+(?:been\s+)?{_WAYS}{_CHANGE_VERB}(?:\s+in\s+size)?(?=\s+in\b)",
    rf"[\s,]*(?:\b(?:which|that|and|but)\s+)?\b(?:is|are|appears?|seems?|remains?|has|have)\s+(?:been\s+|to\s+have\s+)?{_WAYS}(?:un)?(?:changed|"
    rf"altered|stable|similar|improved|increased|decreased|larger|smaller|worse|worsened|better|persistent|cleared){_SINCE}(?=[\s{CUT}]*(?:[.,;]|\Z)|\s+(?:and|but|with|which|that|may|could|suggest\w+|represent\w+)\b)",
    rf"\s+(?:but|and|with)\s+{_WAYS}{_ADJECTIVE}\b(?=[\s{CUT}]*(?:[.,;]|\Z)){_SINCE}",
    rf"[\s,]*\b(?:persists?|remains?)(?=[\s{CUT}]*(?:[.,;]|\Z)|\s+in\b)|[\s,]*\b(?:stable|unchanged|similar|improved|decreased|increased){_SINCE}(?=[\s{CUT}]*(?:[.,;]|\Z))",
    r"\b(?:there\s+(?:has|have)\s+been|since\b[^,]*,)\s*",
    rf"\b(?:persistently|interval|{_ADJECTIVE})\b(?:,|\s+(?:but|and)\b)?\s*",
)
# A cut after one of these words leaves a gap.
_GAP = re.compile(
    rf"\b(?:may|might|could|(?:mild|slight|relative|large|gross)ly|somewhat|versus|than|also)\s*{CUT}|\b(?:represents?|mild|small|moderate)\s*{CUT}[\s{CUT}]*(?:and|or)\b",
    re.IGNORECASE,
)
_CUT_START = re.compile(rf"\A[\s,{CUT}]*{CUT}[\s,{CUT}]*")
_SPACE_BEFORE_STOP = re.compile(r"\s+(?=[.,;:])")
_CLAUSE = re.compile(
    r";\s*|,?\s+(?:and|but|while|although|though|however)\s+(?=(?:the|there|no|an?)\s)|,\s+(?:and|but|while|although)\s+|,\s+(?=there\s)"
)
_WHOLE_CLAUSE = re.compile(
    r"\A(?:and\s+|but\s+|however,?\s+)?\w.*\b(?:is|are|was|were|appears?|demonstrates?|shows?|terminates?|ends?)\b",
    re.IGNORECASE,
)
_SUBORDINATE = re.compile(r"\A(?:which|that|although|though|while|because|if|when|as)\b", re.IGNORECASE)


def mentions_earlier_study(sentence: str) -> bool:
    """Whether a text compares with an earlier study or describes a change."""
    return mentioned_change(sentence) != ""


def mentioned_change(sentence: str) -> str:
    """The first words of a text that compare with an earlier study or describe a change; empty if there are none."""
    found = _MENTION.search(sentence)
    return found[0] if found else ""


def without_earlier_studies(text: str) -> str:
    """Remove comparisons with earlier studies from a section of a report so that every sentence stays grammatical.

    A sentence loses its comparison (`Unchanged small effusion.`, `…, stable since the prior study.`) or the clause
    that contains it; if neither leaves a sentence with a finding of its own it is removed (`The heart is unchanged.`,
    `No new opacity.`).
    """
    return rewrite_sentences(text, _sentence_without_earlier_studies)


# Sentences repeat from report to report.
@lru_cache(maxsize=16384)
def _sentence_without_earlier_studies(sentence: str) -> str:
    if not mentions_earlier_study(sentence):
        return sentence
    shortened = _without_words(sentence) or _without_clauses(sentence)
    labels = label_report(sentence)
    if findings_lost(labels, label_report(shortened)):
        return _keeping(labels, sentence) or shortened
    return shortened


def _keeping(labels: Labels, sentence: str) -> str:
    """The sentence with all that may be a comparison cut out, if it states the same findings; otherwise empty."""
    cut = sentence.replace(CUT, " ")
    for pattern in (*_CUTS, *_MORE_CUTS):
        cut = pattern.sub(CUT, cut)
        plain = " ".join(cut.replace(CUT, " ").split())
        if not mentions_earlier_study(plain):
            break
    if _GAP.search(cut):
        return ""
    cut = _STAYING.sub(_as_is, cut)
    shortened = repair(_CUT_START.sub("", cut), sentence)
    after = label_report(shortened)
    same = not findings_lost(labels, after) and not findings_lost(after, labels)
    return shortened if same and not mentions_earlier_study(shortened) else ""


def _without_words(sentence: str) -> str:
    if _MEANINGLESS.search(sentence):
        return ""
    cut = sentence.replace(CUT, " ")
    for pattern in _CUTS:
        cut = pattern.sub(CUT, cut)
    # A comma after a cut at the start belonged to what was cut.
    cut = _CUT_START.sub("", cut)
    plain = _SPACE_BEFORE_STOP.sub("", " ".join(cut.replace(CUT, " ").split()))
    if course := _COURSE.match(plain):
        verb = "are" if course[2].lower().endswith("s") and not course[2].lower().endswith("sis") else "is"
        cut = f"There {verb} {CUT}{course[1]}{course[2]}."
    elif state := _STATE.match(plain):
        cut = f"{state[1][0].upper()}{state[1][1:]}."
    elif _PLACED.match(plain):
        cut = _PLACED.sub("There is ", plain)
    cut = _IN_PLACE.sub(CUT, cut)
    cut = _BEFORE_A_NOUN.sub(CUT, cut)
    cut = _STAYING.sub(_as_is, cut)
    if not cut or mentions_earlier_study(cut.replace(CUT, " ")):
        return ""
    shortened = repair(_CUT_START.sub("", cut), sentence)
    if not shortened or mentions_earlier_study(shortened) or _ONLY_ANATOMY.match(shortened):
        return ""
    return shortened


def _as_is(staying: re.Match) -> str:
    return {"remained": "was", "remain": "are", "continue to be": "are"}.get(staying[1].lower(), "is")


def _without_clauses(sentence: str) -> str:
    """The clauses of a sentence that contain no comparison and are complete sentences."""
    clauses = _CLAUSE.split(sentence.rstrip(".!? "))
    if len(clauses) == 1:
        return ""
    kept = [
        clause[0].upper() + clause[1:].rstrip(" ,") + "."
        for clause in map(str.strip, clauses)
        if clause
        and not mentions_earlier_study(clause)
        and _WHOLE_CLAUSE.match(clause)
        and not _SUBORDINATE.match(clause)
    ]
    joined = " ".join(kept)
    return "" if mentions_earlier_study(joined) else joined
