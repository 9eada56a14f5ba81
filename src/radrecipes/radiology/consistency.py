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
        missing: Requested observations that the text does not mention: positive ones, `No Finding` if the text is
            empty, and without `require_all` also uncertain ones.
        contradicted: Requested positive and written negative, or requested negative and written positive.
        changed: Status changed in another way: positive or negative written uncertain, or an uncertain one not hedged
            (with `require_all` also if it is left out).
        invented: Not requested, but written positive or uncertain.
        missing_sections: Sections without header or without text.
        repeated: A header occurs twice, or a section repeats itself as in [`repeats_itself`].
        details: Sides and measurements, which no request contains.
        written: What the text states about each observation.
        require_all: Whether `missing` fails the check.
    """

    missing: tuple[str, ...]
    contradicted: tuple[str, ...]
    changed: tuple[str, ...]
    invented: tuple[str, ...]
    missing_sections: tuple[str, ...]
    repeated: bool
    earlier_study: bool
    details: tuple[str, ...]
    written: Labels = field(repr=False)
    require_all: bool = True

    @property
    def passed(self) -> bool:
        """Whether there is no reason to reject the report."""
        return not self.reasons

    @property
    def reasons(self) -> list[str]:
        """Why the report is rejected, for example `contradicts Pneumothorax`; quotes no word of the report."""
        reasons = [f"missing {name}" for name in self.missing if self.require_all]
        reasons += [f"contradicts {name}" for name in self.contradicted]
        reasons += [f"changed {name}" for name in self.changed]
        reasons += [f"invents {name}" for name in self.invented]
        reasons += [f"no {section} section" for section in self.missing_sections]
        if self.repeated:
            reasons.append("repeats itself")
        if self.earlier_study:
            reasons.append("mentions an earlier study")
        if self.details:
            reasons.append("invents a side or measurement")
        return reasons


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
    requested observations may be left out. A text of one section needs no header.
    """
    read = read_sections(text, headless=sections[0])
    written = label_report(read[FINDINGS], read[IMPRESSION])
    missing, contradicted, changed, invented = [], [], [], []
    for name in OBSERVATIONS:
        wanted, said = request.get(name), written.get(name)
        if name == NO_FINDING:
            if wanted == Status.POSITIVE and said is None and not findings_present(written):
                missing.append(name)
        elif wanted is None:
            if said in (Status.POSITIVE, Status.UNCERTAIN):
                invented.append(name)
        elif said is None:
            if wanted == Status.POSITIVE or (wanted == Status.UNCERTAIN and not require_all):
                missing.append(name)
            elif wanted == Status.UNCERTAIN:
                changed.append(name)
        elif said != wanted:
            (changed if Status.UNCERTAIN in (said, wanted) else contradicted).append(name)

    headers = Counter(header for header, _ in _pieces(text) if header)
    sentences = [sentence for section in read.values() for sentence in split_sentences(section)]
    details = dict.fromkeys(detail for sentence in sentences for detail in unrequested_details(sentence))
    return ReportCheck(
        missing=tuple(missing),
        contradicted=tuple(contradicted),
        changed=tuple(changed),
        invented=tuple(invented),
        missing_sections=tuple(
            name for name in sections if not read[name] or (len(sections) > 1 and not headers[name])
        ),
        repeated=max(headers.values(), default=0) > 1 or any(map(repeats_itself, read.values())),
        earlier_study=any(map(mentions_earlier_study, sentences)),
        details=tuple(details),
        written=written,
        require_all=require_all,
    )


def _pieces(text: str) -> list[tuple[str, str]]:
    """Header in capitals and text of each piece in order; text before the first header has an empty one."""
    marks = list(_HEADER.finditer(text))
    ends = [*(mark.start() for mark in marks), len(text)]
    ahead = [("", text[: ends[0]])] if text[: ends[0]].strip() else []
    return ahead + [
        ((mark[1] or mark[2]).upper(), text[mark.end() : end]) for mark, end in zip(marks, ends[1:], strict=True)
    ]
