"""Checks whether a generated report states what was requested."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from radrecipes.radiology.details import unrequested_details
from radrecipes.radiology.earlier_studies import mentions_earlier_study
from radrecipes.radiology.labeller import label_report
from radrecipes.radiology.observations import NO_FINDING, OBSERVATIONS, Labels, Status, findings_present
from radrecipes.radiology.sentences import split_sentences

FINDINGS = "FINDINGS"
IMPRESSION = "IMPRESSION"
REPORT_SECTIONS = (FINDINGS, IMPRESSION)
IMPRESSION_SECTIONS = (IMPRESSION,)

# Capitals are a header anywhere, others only at the start of a line or sentence: "no acute findings: none" is prose.
_HEADER = re.compile(r"\b(FINDINGS|IMPRESSION)\s*:|(?:^|(?<=[.!?\n]))\s*((?i:findings|impression))\s*:")
_WORD = re.compile(r"[a-z0-9]+")
_SHORTEST_REPEATED_SENTENCE = 4
_PHRASE_WORDS = 6
_PHRASE_TIMES = 3


@dataclass(frozen=True)
class ReportCheck:
    """What is wrong with a generated report, made by [`check_report`].

    Args:
        reasons: Why it is rejected, for example `contradicts Pneumothorax`; quotes no word of the report.
        wrong_labels: Observations that are missing, contradicted, hedged otherwise or invented.
        missing_sections: Sections without header or without text.
        repeated: A header occurs twice, or a section repeats itself as in [`repeats_itself`].
        details: Sides and measurements, which no request contains.
        written: What the text states about each observation.
    """

    reasons: list[str]
    wrong_labels: int
    missing_sections: tuple[str, ...]
    repeated: bool
    earlier_study: bool
    details: tuple[str, ...]
    written: Labels = field(repr=False)


def format_report(findings: str, impression: str) -> str:
    """A report as a model writes it and [`read_sections`] reads it: header and text of each section on a line."""
    return "\n".join(f"{header}: {text}" for header, text in ((FINDINGS, findings), (IMPRESSION, impression)) if text)


def read_sections(text: str, headless: str = FINDINGS) -> dict[str, str]:
    """`FINDINGS` and `IMPRESSION` of a generated report, each one line, empty if there is no such text.

    Headers may be in mixed case, missing, repeated (their texts are joined) or within a line, as from a tokenizer
    without line breaks. Text before the first header belongs to the section `headless`.
    """
    sections: dict[str, list[str]] = {FINDINGS: [], IMPRESSION: []}
    for header, body in _pieces(text):
        sections[header or headless].append(body)
    return {name: " ".join(" ".join(bodies).split()) for name, bodies in sections.items()}


def repeats_itself(text: str) -> bool:
    """Whether a section repeats a sentence of four or more words, or has the same six words in a row three times."""
    sentences = [tuple(_WORD.findall(sentence.lower())) for sentence in split_sentences(text)]
    long_sentences = [sentence for sentence in sentences if len(sentence) >= _SHORTEST_REPEATED_SENTENCE]
    if len(set(long_sentences)) < len(long_sentences):
        return True
    words = _WORD.findall(text.lower())
    phrases = Counter(zip(*(words[start:] for start in range(_PHRASE_WORDS)), strict=False))
    return max(phrases.values(), default=0) >= _PHRASE_TIMES


def check_report(
    text: str, request: Mapping[str, Status], sections: tuple[str, ...] = REPORT_SECTIONS, require_all: bool = True
) -> ReportCheck:
    """Label a generated report, which may be any text, and compare it with what was requested.

    Normal statements are always accepted: an observation that was not requested may be written negative, and one that
    was requested negative may be left out. An uncertain one must be hedged. Without `require_all` (for impressions)
    requested observations may be left out. What a text only implies contradicts too: "the lungs are clear" where an
    opacity was requested. A text of one section needs no header.
    """
    read = read_sections(text, headless=sections[0])
    written = label_report(read[FINDINGS], read[IMPRESSION])
    implied = label_report(read[FINDINGS], read[IMPRESSION], implied=True)
    found = {"missing": [], "contradicts": [], "changed": [], "invents": []}
    for name in OBSERVATIONS:
        wanted, said = request.get(name), implied.get(name)
        if name == NO_FINDING:
            if wanted == Status.POSITIVE and said is None and not findings_present(written):
                found["missing"].append(name)
        elif wanted is None:
            if said in (Status.POSITIVE, Status.UNCERTAIN):
                found["invents"].append(name)
        elif said is None:
            if wanted != Status.NEGATIVE:
                found["missing" if wanted == Status.POSITIVE else "changed"].append(name)
        elif said != wanted:
            found["changed" if Status.UNCERTAIN in (said, wanted) else "contradicts"].append(name)
    if not require_all:
        found["missing"] = []
        found["changed"] = [name for name in found["changed"] if name in implied]

    headers = Counter(header for header, _ in _pieces(text) if header)
    sentences = [sentence for section in read.values() for sentence in split_sentences(section)]
    missing_sections = [name for name in sections if not read[name] or (len(sections) > 1 and not headers[name])]
    repeated = max(headers.values(), default=0) > 1 or any(map(repeats_itself, read.values()))
    earlier_study = any(map(mentions_earlier_study, sentences))
    details = dict.fromkeys(detail for sentence in sentences for detail in unrequested_details(sentence))
    flaws = {
        "repeats itself": repeated,
        "mentions an earlier study": earlier_study,
        "invents a side or measurement": bool(details),
    }
    reasons = [f"{what} {name}" for what, names in found.items() for name in names]
    reasons += [f"no {name} section" for name in missing_sections]
    reasons += [flaw for flaw, present in flaws.items() if present]
    wrong = sum(map(len, found.values()))
    return ReportCheck(reasons, wrong, tuple(missing_sections), repeated, earlier_study, tuple(details), written)


def _pieces(text: str) -> list[tuple[str, str]]:
    """Header in capitals and text of each piece in order; text before the first header has an empty one."""
    marks = list(_HEADER.finditer(text))
    ends = [*(mark.start() for mark in marks), len(text)]
    ahead = [("", text[: ends[0]])] if text[: ends[0]].strip() else []
    return ahead + [
        ((mark[1] or mark[2]).upper(), text[mark.end() : end]) for mark, end in zip(marks, ends[1:], strict=True)
    ]
