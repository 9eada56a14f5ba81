"""Findings and impression of a chest X-ray report, whatever the layout of its headers.

Header names, their frequencies and the list of special studies are facts published with MIMIC-CXR
(https://github.com/MIT-LCP/mimic-cxr, `txt/section_parser.py`). Unlike there, a header is also found without the leading space,
in mixed case and within a line, findings keep their sub-headings (`LUNGS:`), and wet reads and addenda are set aside.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

_IMPRESSION, _FINDINGS, _ADDENDUM, _PREAMBLE, _DIVIDER = "impression", "findings", "addendum", "preamble", "divider"
# What is under `_BRIEF` is rarely more than a sentence.
# A sub-heading is part of the section before it.
_ASIDE, _OTHER, _BRIEF, _SUB_HEADING, _UNKNOWN = "aside", "other", "brief", "sub-heading", "unknown"

# Spellings of each section's header in MIMIC-CXR, including typing errors.
_SPELLINGS = {
    _IMPRESSION: (
        "impression", "impressions", "conclusion", "conclusions", "opinion", "findings and impression",
        "findings/impression", "findings/ impression", "findings / impression", "impresson", "imprression",
        "imoression", "impressoin", "imprssion", "impresion", "imperssion", "mpression", "impession",
    ),
    _FINDINGS: (
        "findings", "finding", "reference findings", "chest, two views", "findins", "findindgs", "findgings",
        "findngs", "findnings", "finidngs",
    ),
    _BRIEF: (
        "comparison", "comparisons", "reference exam", "comparison exam", "comparison film", "comparision",
        "comparsion", "comparrison", "comparisions", "examination", "exam", "type of examination", "technique", "date",
    ),
    # One report of MIMIC-CXR has `NDICATION:`, which the published table lists as an impression.
    _OTHER: (
        "indication", "indications", "clinical indication", "reason for examination", "reason for exam", "idication",
        "ndication", "history", "clinical history", "clinical information", "patient history", "pfi", "comment",
    ),
    _ASIDE: (
        "notification", "notifications", "recommendation", "recommendations", "recommendation(s)", "wet read", "wetread",
    ),
    _ADDENDUM: ("addendum",),
}  # fmt: skip
_KINDS = {spelling: kind for kind, spellings in _SPELLINGS.items() for spelling in spellings}
# A header in capitals that is not in the table has the kind of the first of these that it contains.
_PARTS = (
    (re.compile("^(?:other|additional|incidental|associated|miscellaneous) findings"), _SUB_HEADING),
    (re.compile("impression"), _IMPRESSION),
    (re.compile("findings"), _FINDINGS),
    (re.compile("history"), _OTHER),
    (re.compile("comparison"), _BRIEF),
    (re.compile("addendum"), _ADDENDUM),
    (re.compile("wet ?read"), _ASIDE),
    (re.compile("indication|reason for"), _OTHER),
    (re.compile("technique"), _BRIEF),
    (re.compile("recommendation|notification"), _ASIDE),
    # Parts of the body are headings within the findings.
    (
        re.compile(
            r"^(?:(?:the|visualized|lower|upper) )?(?:lungs?\b|hearts?\b|pleura|mediastin|cardi|hila|bones?$|bony|osseous|"
            r"skelet|tubes?\b|lines\b|support|devices?$|hardware|airways?|trachea|diaphragm|chest wall|soft tissue|"
            r"thorax|catheters?|pulmonary|aorta)|^(?:upper abdomen|ribs?$)"
        ),
        _SUB_HEADING,
    ),
    (
        re.compile(
            r"chest|portable|pa and lat|lateral and pa|ap and lateral|lateral and ap|frontal and|two views|frontal view|"
            r"pa view|ap view|one view|lateral view|bone window|frontal upright|frontal semi-upright|ribs"
        ),
        _FINDINGS,
    ),
)
_SIGNATURE = re.compile(
    r"\b(?:by|cc|m\.?d|physician|(?:neuro)?radiologist|attending|resident|fellow|provider|dictat|transcri|sign|verif|approv|review|cop(?:y|ies))"
)
_CAPITALS = re.compile(r"[A-Z][A-Z0-9 ()/,&.+'-]*\Z")
# Within a line only these are headers: in capitals anywhere, capitalised after the end of a sentence.
_WITHIN_A_LINE = "|".join(
    re.escape(spelling)
    for spelling in sorted(_KINDS, key=len, reverse=True)
    if spelling not in ("date", "exam", "pfi", "comment", "opinion", "chest, two views", "finding", "conclusion")
)
_AFTER_TEXT = re.compile(
    rf"\s({_WITHIN_A_LINE.upper()})\s*\Z|[.!?_)]\s+((?=[A-Z])(?i:{_WITHIN_A_LINE}))\s*\Z|[.!?_]\s+([A-Z][A-Z ()/,&-]{{5,}})\Z"
)
_LONGEST_HEADER = 80
# Headers of findings and impression that need no colon on a line of their own.
MAIN_HEADERS = "FINDINGS|IMPRESSION|Findings|Impression|CONCLUSION"
# Lines that are headers without a colon: dividers between reports of one text, and main headers on a line of their own.
_LINE = re.compile(
    r"\n[ \t]*(?:(?P<divider>_{20,})|(?P<final>FINAL REPORT)\b|(?P<addendum>(?:FINAL )?ADDENDUM)\b|(?P<wet>WET ?READ)\b|"
    rf"(?P<alone>{MAIN_HEADERS}|COMPARISON|INDICATION|TECHNIQUE|NOTIFICATION|"
    r"EXAMINATION|RECOMMENDATION(?:S|\(S\))?)[ \t\r]*(?=\n|\Z))"
)
_CAPITAL = re.compile(r"[A-Z]")
_LOWER_CASE_HEADER = re.compile(rf"(?:\A|(?<=[.!?\n])|(?<=[.!?] ))[ \t]*(?:{_WITHIN_A_LINE})(?= ?:)")
_END_OF_SENTENCE = re.compile(r"[.!?](?=\s|\Z)")
_OPEN_END = re.compile(r"\n[ \t\r]*\Z")
_BLANK_LINE = re.compile(r"\n[ \t\r]*\n")
_LETTER = re.compile(r"[^\W\d_]")

# Studies whose conclusion is under another header or under none, or that have none.
_WITHOUT_SECTIONS = set(map(str, (
    50058765, 50196495, 50525523, 50743547, 50808053, 50913680, 51410602, 51491012, 51966317, 52119491, 52648681,
    52674888, 53182247, 53202765, 53356173, 53488209, 53514462, 54365831, 54654948, 54875119, 54986978, 55124749,
    55157853, 55258338, 56412866, 56451190, 56482935, 56579911, 56760320, 57150433, 57564132, 57936451, 58157373,
    58375018, 59003148, 59067458, 59087630, 59215320, 59279892, 59330497, 59363654, 59505494, 59562049, 59768032,
    59889364, 59982525, 50798377, 52035334, 53071062, 53607029, 54168089, 54231141, 56724958, 58235663,
)))  # fmt: skip


@dataclass(frozen=True)
class Sections:
    """Findings and impression of a report on a line each, or empty."""

    findings: str = ""
    impression: str = ""


def split_sections(text: str) -> Sections:
    """Split a report, also with re-wrapped lines, into sections; of several of one kind the last with words counts.

    Without a header for them, findings are what stands before the first header, or behind the sentence of an indication
    or comparison on its line.
    """
    if not _CAPITAL.search(text):
        text = _LOWER_CASE_HEADER.sub(lambda match: match[0].upper(), text)
    bodies = _bodies(text)
    last = {kind: " ".join(body.split()) for kind, body in bodies if _LETTER.search(body)}
    findings, impression = last.get(_FINDINGS, ""), last.get(_IMPRESSION, "")
    return Sections(findings or _without_header(bodies, impression), impression)


def _without_header(bodies: list[tuple[str, str]], impression: str) -> str:
    """Sentences of which nothing shows that they are no findings; a history only counts if there is no impression."""
    kinds = (_BRIEF,) if impression else (_BRIEF, _OTHER)
    rest = []
    for kind, body in bodies:
        sentence = _END_OF_SENTENCE.search(body)
        if kind == _PREAMBLE and sentence and impression and not _BLANK_LINE.search(body):
            # A title is in capitals.
            rest += body.split() if body != body.upper() else []
        elif kind in kinds and sentence and not _OPEN_END.search(body) and "\n" not in body.strip():
            rest += body[sentence.end() :].split()
    return " ".join(rest)


def study_sections(text: str, study: str) -> Sections:
    """Sections of a MIMIC-CXR report; for 54 studies it is known that the conclusion has no header, or is missing."""
    return Sections() if study in _WITHOUT_SECTIONS else split_sections(text)


def _bodies(text: str) -> list[tuple[str, str]]:
    """Kind and text of each section in order, without addenda that a line of underscores ends."""
    text = "\n" + text
    # Start of the header, start of the body, kind.
    marks = [(0, 0, _PREAMBLE)]
    for match in _LINE.finditer(text):
        name = match.lastgroup
        kind = {"divider": _DIVIDER, "final": _PREAMBLE, "addendum": _ADDENDUM, "wet": _ASIDE}.get(name)
        marks.append((match.start(), match.end(), kind or _KINDS[match["alone"].casefold()]))
    colon, floor = text.find(":"), 0
    while colon >= 0:
        # After an earlier header on the same line, this one is within the line.
        floor = max(floor, colon - _LONGEST_HEADER)
        start = max(floor, text.rfind("\n", floor, colon))
        header = _read_header(text[start:colon])
        if header:
            marks.append((start + header[0], colon + 1, header[1]))
            floor = colon
        colon = text.find(":", colon + 1)
    marks.sort()

    bodies: list[tuple[str, str]] = []
    in_addendum = False
    for index, (_, start, kind) in enumerate(marks):
        end = marks[index + 1][0] if index + 1 < len(marks) else len(text)
        within = bodies[-1][0] if bodies and not in_addendum else ""
        # A heading of which nothing is known is part of the findings that it stands in.
        if (kind == _SUB_HEADING and within in (_FINDINGS, _IMPRESSION)) or (kind == _UNKNOWN and within == _FINDINGS):
            bodies[-1] = (within, bodies[-1][1] + text[marks[index][0] : end])
            continue
        if kind == _SUB_HEADING:
            # Findings that begin with a part of the body have no header of their own.
            kind = _FINDINGS
        if kind == _ADDENDUM:
            in_addendum = any(later[2] == _DIVIDER for later in marks[index + 1 :])
        elif kind in (_DIVIDER, _PREAMBLE):
            in_addendum = False
        if in_addendum:
            continue
        # The line break before the next header shows where this one ends.
        bodies.append((kind, text[start : end + text.startswith("\n", end)]))
    return bodies


@lru_cache(maxsize=8192)
def _read_header(line: str) -> tuple[int, str] | None:
    """Start of the header in the text before a colon, and its kind; `None` if there is no header."""
    if line[-1:].isdigit():
        return None
    if line.startswith("\n"):
        header = line.strip()
        kind = _KINDS.get(" ".join(header.casefold().split()))
        # A sentence that runs into `findings:` at the start of a line is not a header.
        if kind and header[0].isupper():
            return 0, kind
        if _CAPITALS.match(header) and sum(character.isalpha() for character in header) >= 4:
            return 0, _kind_by_parts(header) or (_ASIDE if _SIGNATURE.search(header.lower()) else _UNKNOWN)
    match = _AFTER_TEXT.search(line)
    if match:
        header = match[match.lastindex]
        kind = _KINDS.get(header.casefold()) or _kind_by_parts(header)
        # In joined lines a sub-heading is part of the section anyway.
        if kind not in (None, _SUB_HEADING):
            return match.start(match.lastindex), kind
    return None


def _kind_by_parts(header: str) -> str | None:
    lowered = header.lower()
    return next((kind for part, kind in _PARTS if part.search(lowered)), None)


# Headings, and empty lines, that show where text about other things than this study begins and ends.
_MARK = re.compile(
    r"(?:\A|(?<=[.!?:;)\n])|(?<=\s)(?-i:(?=[A-Z])))(?:(?P<long>(?:clinical |patient )?history|(?:clinical )?indications?|"
    r"clinical (?:information|data|details|question)|reason for (?:the )?(?:exam\w*|study|referral))|"
    r"(?P<brief>comparisons?|technique|procedure|(?:type of )?exam(?:ination)?)) ?:|"
    r"\b(?P<findings>findings?(?: and impressions?)?) ?:|(?P<blank>\n[ \t\r]*\n)|"
    r"\b(?P<body>impressions?|conclusions?|opinion|(?:lungs?|hearts?|pleura|bones?|mediastinum)(?: and \w+)?) ?:",
    re.IGNORECASE,
)
_STATEMENT = re.compile(r"\s*there (?:is|are)\b", re.IGNORECASE)
# Dictation without full stops: a statement ends what is before it, unless that asks for it ("evaluate if there is").
_END_OF_ASIDE = re.compile(
    r"[.!?](?=\s|\Z)|(?<!\bif)(?<!\bwhether)(?<!\bthat)\s(?=there (?:is|are) |"
    r"(?:(?:the|both|cardiac) )?(?:lungs?|hearts?|mediastinum|silhouette)(?: size)? (?:is|are|remains?|appears?|shows?) )",
    re.IGNORECASE,
)
# A shorter line was not wrapped.
_FULL_LINE = 60


def without_asides(text: str) -> str:
    """A text without indication, history, comparison and technique, as far as it is known where each ends.

    They end at `findings:`, at an empty line, and at a line that ends before it is full. Without such evidence only the
    first sentence belongs to one, up to a statement such as "there is", because what follows may be findings.
    """
    if ":" not in text:
        return text
    kept, position = [], len(text)
    end, follows = len(text), ""
    for mark in reversed(list(_MARK.finditer(text))):
        if mark.lastgroup == "blank":
            # An empty line directly after a heading ends nothing.
            end = end if text[: mark.start()].rstrip().endswith(":") else mark.start()
            continue
        if mark.lastgroup in ("long", "brief"):
            after = _end_of_aside(text, mark, end, follows == "findings")
            kept.append(text[after:position])
            position = mark.start()
        else:
            follows = mark.lastgroup
        end = mark.start()
    return " ".join([text[:position], *reversed(kept)])


def _end_of_aside(text: str, heading: re.Match, end: int, before_findings: bool) -> int:
    """Where the text after a heading ends that belongs to it, at the latest at `end`, the next heading or empty line."""
    start = heading.end()
    if before_findings or _STATEMENT.match(text, start):
        return end if before_findings else start
    limit = end
    if heading.lastgroup == "brief" or "\n" not in text[end - 1 : end + 1]:
        sentence = _END_OF_ASIDE.search(text, start, end)
        limit = sentence.end() if sentence else end
    line = text.rfind("\n", 0, start) + 1
    while (newline := text.find("\n", max(line, start), limit)) >= 0:
        ends = text[start:newline].rstrip().endswith((".", "!", "?")) or text[newline:].lstrip()[:1].isupper()
        if text[start:newline].strip() and len(text[line:newline].rstrip()) < _FULL_LINE and ends:
            return newline
        line = newline + 1
    return limit
