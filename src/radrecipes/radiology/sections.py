"""Findings, impression and comparison of a chest X-ray report, whatever the layout of its headers.

Header names, their frequencies and the list of special studies are facts published with MIMIC-CXR
(https://github.com/MIT-LCP/mimic-cxr, `txt/section_parser.py`). Unlike there, a header is also found without the
leading space, in mixed case and within a line, findings keep their sub-headings (`LUNGS:`), wet reads and addenda are
set aside, and the special studies get their sections too.
"""

import re
from dataclasses import dataclass, replace
from functools import lru_cache

_IMPRESSION, _FINDINGS, _COMPARISON, _LAST_PARAGRAPH = "impression", "findings", "comparison", "last_paragraph"
_PREAMBLE, _DIVIDER, _SUB_HEADING = "preamble", "divider", "sub-heading"
# Text under these is not a last paragraph; the preamble is one only if there is nothing else.
_WITHOUT_CONCLUSION = frozenset({"addendum", "wet read", "notification", "recommendations", _PREAMBLE, _DIVIDER})

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
    _COMPARISON: (
        "comparison", "comparisons", "reference exam", "comparison exam", "comparison film", "comparision",
        "comparsion", "comparrison", "comparisions",
    ),
    # One report of MIMIC-CXR has `NDICATION:`, which the published table lists as an impression.
    "indication": (
        "indication", "indications", "clinical indication", "reason for examination", "reason for exam",
        "idication", "ndication",
    ),
    "history": ("history", "clinical history", "clinical information", "patient history", "pfi"),
    "examination": ("examination", "exam", "type of examination"),
    "technique": ("technique",),
    "notification": ("notification", "notifications"),
    "recommendations": ("recommendation", "recommendations", "recommendation(s)"),
    "addendum": ("addendum",),
    "wet read": ("wet read", "wetread"),
    "date": ("date",),
    "comment": ("comment",),
}  # fmt: skip
_KINDS = {spelling: kind for kind, spellings in _SPELLINGS.items() for spelling in spellings}
# A header in capitals that is not in the table has the kind of the first of these that it contains.
_PARTS = (
    (re.compile("impression"), _IMPRESSION),
    (re.compile("findings"), _FINDINGS),
    (re.compile("history"), "history"),
    (re.compile("comparison"), _COMPARISON),
    (re.compile("addendum"), "addendum"),
    (re.compile("wet ?read"), "wet read"),
    (re.compile("indication|reason for"), "indication"),
    (re.compile("technique"), "technique"),
    (re.compile("recommendation"), "recommendations"),
    (re.compile("notification"), "notification"),
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
# Lines that are headers without a colon: dividers between reports of one text, and main headers on a line of their own.
_LINE = re.compile(
    r"\n[ \t]*(?:(?P<divider>_{20,})|(?P<final>FINAL REPORT)\b|(?P<addendum>(?:FINAL )?ADDENDUM)\b|(?P<wet>WET ?READ)\b|"
    r"(?P<alone>FINDINGS|IMPRESSION|Findings|Impression|CONCLUSION|COMPARISON|INDICATION|TECHNIQUE|NOTIFICATION|"
    r"EXAMINATION|RECOMMENDATION(?:S|\(S\))?)[ \t\r]*(?=\n|\Z))"
)
_BLANK_LINE = re.compile(r"\n[ \t\r]*\n")
_LETTER = re.compile(r"[^\W\d_]")

# Studies whose conclusion is in another section, instead of findings and impression.
_CONCLUSION_UNDER = {
    study: section
    for section, studies in {
        "indication": "50058765 51966317 54365831 54654948 55124749 57936451",
        "examination": "50743547 53356173 55157853 59215320 59363654",
        "technique": "50808053 53202765 59279892",
        "recommendations": "50913680 56482935 58157373 58375018 59067458 59087630 59768032",
        "history": "51491012",
        "note": "56451190",
    }.items()
    for study in studies.split()
}
# Study -> first and last character of its conclusion in the published file; (0, 0) if it has none.
_CONCLUSION_AT = {
    "50196495": (59, 399), "50525523": (201, 349), "50798377": (0, 0), "51410602": (47, 320), "52035334": (0, 0),
    "52119491": (179, 454), "52648681": (292, 631), "52674888": (145, 296), "53071062": (0, 0),
    "53182247": (59, 412), "53488209": (149, 475), "53514462": (73, 377), "53607029": (0, 0), "54168089": (0, 0),
    "54231141": (0, 0), "54875119": (234, 988), "54986978": (59, 306), "55258338": (192, 568),
    "56412866": (522, 822), "56579911": (59, 218), "56724958": (0, 0), "56760320": (219, 457),
    "57150433": (61, 394), "57564132": (233, 554), "58235663": (0, 0), "59003148": (262, 505),
    "59330497": (140, 655), "59505494": (59, 450), "59562049": (158, 348), "59889364": (172, 453),
    "59982525": (313, 717),
}  # fmt: skip


@dataclass(frozen=True)
class Sections:
    """Sections of one report, each a single line with collapsed white space, empty if the report has none.

    Args:
        impression: What is concluded, or findings and impression with one header.
        last_paragraph: Text after the first blank line of the last section, if findings and impression have no header.
    """

    findings: str = ""
    impression: str = ""
    last_paragraph: str = ""
    comparison: str = ""


def split_sections(text: str) -> Sections:
    """Split a report, also with re-wrapped lines, into sections; of several of one kind the last with words counts."""
    bodies = _bodies(text)
    last = {kind: body for kind, body in bodies if _LETTER.search(body)}
    findings, impression = last.get(_FINDINGS, ""), last.get(_IMPRESSION, "")
    comparison, last_paragraph = last.get(_COMPARISON, ""), ""
    if not findings and not impression:
        kind, last_paragraph = _last_paragraph(bodies)
        if kind == _COMPARISON and last_paragraph:
            comparison = _BLANK_LINE.split(comparison.strip(), maxsplit=1)[0]
    return Sections(*(" ".join(body.split()) for body in (findings, impression, last_paragraph, comparison)))


def study_sections(text: str, study_id: str) -> Sections:
    """Sections of a MIMIC-CXR report, with the rules for the 54 studies whose conclusion has no header.

    For these the conclusion is `last_paragraph`, because it is unknown whether it is findings or impression; eight of
    them have none. `text` must be exactly as in its file, because some rules count characters; `study_id` is
    `50414267` or `s50414267`.
    """
    study = study_id.removeprefix("s")
    if study in _CONCLUSION_AT:
        start, end = _CONCLUSION_AT[study]
        return Sections(last_paragraph=" ".join(text[start:end].split()))
    if study in _CONCLUSION_UNDER:
        bodies = dict(_bodies(text))
        conclusion = " ".join(bodies.get(_CONCLUSION_UNDER[study], "").split())
        return replace(split_sections(text), findings="", impression="", last_paragraph=conclusion)
    return split_sections(text)


def _bodies(text: str) -> list[tuple[str, str]]:
    """Kind and text of each section in order, without addenda that a line of underscores ends."""
    text = "\n" + text
    # Start of the header, start of the body, kind.
    marks = [(0, 0, _PREAMBLE)]
    for match in _LINE.finditer(text):
        name = match.lastgroup
        kind = {"divider": _DIVIDER, "final": _PREAMBLE, "addendum": "addendum", "wet": "wet read"}.get(name)
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
        if kind == _SUB_HEADING:
            if bodies[-1][0] in (_FINDINGS, _IMPRESSION) and not in_addendum:
                bodies[-1] = (bodies[-1][0], bodies[-1][1] + text[marks[index][0] : end])
                continue
            # Findings that begin with a part of the body have no header of their own.
            kind = _FINDINGS
        if kind == "addendum":
            in_addendum = any(later[2] == _DIVIDER for later in marks[index + 1 :])
        elif kind in (_DIVIDER, _PREAMBLE):
            in_addendum = False
        if in_addendum:
            continue
        bodies.append((kind, text[start:end]))
    return bodies


@lru_cache(maxsize=8192)
def _read_header(line: str) -> tuple[int, str] | None:
    """Start of the header in the text before a colon, and its kind; `None` if there is no header."""
    if line[-1:].isdigit():
        return None
    if line.startswith("\n"):
        header = line.strip()
        kind = _KINDS.get(" ".join(header.casefold().split()))
        # A sentence that runs into `findings:` at the start of a line is no header.
        if kind and header[0].isupper():
            return 0, kind
        if _CAPITALS.match(header) and sum(character.isalpha() for character in header) >= 4:
            return 0, _kind_by_parts(header) or header.lower()
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


def _last_paragraph(bodies: list[tuple[str, str]]) -> tuple[str, str]:
    """Kind of the last section that may contain a conclusion, and its text after the first blank line."""
    for kind, body in reversed(bodies):
        if kind in _WITHOUT_CONCLUSION and kind != _PREAMBLE:
            continue
        if kind == _PREAMBLE and any(other not in _WITHOUT_CONCLUSION for other, _ in bodies):
            continue
        paragraphs = _BLANK_LINE.split(body.rstrip() if kind == _PREAMBLE else body.strip(), maxsplit=1)
        if len(paragraphs) == 2 and _LETTER.search(paragraphs[1]):
            return kind, paragraphs[1]
    return "", ""
