"""The layout of MIMIC-CXR reports: title, headers, short lines indented by one space, and its irregularities."""

import random
import textwrap
from dataclasses import dataclass

from radrecipes.data.synthetic_reports.bank import load_bank
from radrecipes.data.synthetic_reports.patients import Study
from radrecipes.data.synthetic_reports.writing import Statement, Writer

LINE_LENGTH = 79
TITLE = " " * 33 + "FINAL REPORT"
RULE = " " + "_" * (LINE_LENGTH - 1)
# Fractions of reports by their sections; the others have both.
FINDINGS_ONLY_FRACTION, IMPRESSION_ONLY_FRACTION, NO_SECTION_FRACTION, ONE_SECTION_FRACTION = 0.04, 0.04, 0.02, 0.02
# Irregularities, each independent of the others.
MIXED_CASE_FRACTION, LOST_SPACE_FRACTION, NOTIFICATION_FRACTION = 0.03, 0.03, 0.04
WET_READ_FRACTION, ADDENDUM_FRACTION = 0.02, 0.02
_EXAMINATION_HEADERS = ("EXAMINATION",) * 8 + ("EXAM", "TYPE OF EXAMINATION")
_INDICATION_HEADERS = (
    *("INDICATION",) * 12, "HISTORY", "CLINICAL HISTORY", "REASON FOR EXAMINATION", "CLINICAL INFORMATION",
)  # fmt: skip
_COMPARISON_HEADERS = ("COMPARISON",) * 15 + ("COMPARISONS",)
FINDINGS_HEADERS = ("FINDINGS",) * 40 + ("FINDING",)
_IMPRESSION_HEADERS = ("IMPRESSION",) * 50 + ("CONCLUSION",)
VIEW_HEADERS = ("CHEST, TWO VIEWS", "PORTABLE AP CHEST RADIOGRAPH", "PA AND LATERAL VIEWS OF THE CHEST")


@dataclass(frozen=True)
class Report:
    """The text of a report, and the statements in its sections; `findings` also for a report without sections."""

    text: str
    findings: tuple[Statement, ...]
    impression: tuple[Statement, ...]


def write_report(study: Study, rng: random.Random) -> Report:
    """Write the report of one study."""
    writer, frame = Writer(study, rng), load_bank().frame
    findings, impression = [], []
    # Header and paragraphs; no header for a report without sections.
    blocks: list[tuple[str | None, list[str]]] = []
    kind = rng.random() - FINDINGS_ONLY_FRACTION
    if kind < 0:
        findings = writer.write_findings(study.findings)
        header = rng.choice(VIEW_HEADERS) if rng.random() < 0.3 else "FINDINGS"
        blocks.append((header, [writer.join(findings)]))
    elif (kind := kind - IMPRESSION_ONLY_FRACTION) < 0:
        impression = writer.write_impression(study.findings, all_devices=True)
        blocks.append(("IMPRESSION", writer.lay_out_impression(impression)))
    elif (kind := kind - NO_SECTION_FRACTION) < 0:
        findings = writer.write_findings(study.findings)
        blocks.append((None, [writer.join(findings)]))
    elif kind - ONE_SECTION_FRACTION < 0:
        impression = writer.write_findings(study.findings)
        header = rng.choice(("FINDINGS AND IMPRESSION", "FINDINGS/IMPRESSION"))
        blocks.append((header, [writer.join(impression)]))
    else:
        findings, impression = writer.write_both()
        blocks.append((rng.choice(FINDINGS_HEADERS), [writer.join(findings)]))
        blocks.append((rng.choice(_IMPRESSION_HEADERS), writer.lay_out_impression(impression)))
    if blocks[-1][0] and rng.random() < NOTIFICATION_FRACTION:
        blocks.append(("NOTIFICATION", [rng.choice(frame["notifications"])]))

    mixed_case = rng.random() < MIXED_CASE_FRACTION
    own_line = rng.random() < 0.5
    lines = [*_above(writer, study, rng), TITLE]
    for header, paragraphs in _opening(study, rng) + blocks:
        if header and mixed_case:
            header = header.capitalize()
        if not header:
            lines += [" ", *_wrap(paragraphs[0])]
        elif len(paragraphs) > 1 or (own_line and header.upper() in ("FINDINGS", "IMPRESSION")):
            lines += [f" {header}: ", " "]
            for paragraph in paragraphs:
                lines += _wrap(paragraph)
        else:
            lines += _wrap(f"{header}:  {paragraphs[0]}")
        lines.append(" ")
    if rng.random() < LOST_SPACE_FRACTION:
        lines = [line if line == TITLE else line.removeprefix(" ") for line in lines]
    return Report("\n".join(lines) + "\n", tuple(findings), tuple(impression))


def _opening(study: Study, rng: random.Random) -> list[tuple[str | None, list[str]]]:
    """Examination, indication, technique and comparison, some of them missing."""
    frame = load_bank().frame
    sex = rng.choice("FM")
    indication = rng.choice(frame["indications"]).format(
        sex=sex,
        person={"F": "woman", "M": "man"}[sex],
        complaint=rng.choice(frame["complaints"]),
        question=rng.choice(frame["questions"]),
    )
    blocks: list[tuple[str | None, list[str]]] = []
    if rng.random() < 0.6:
        blocks.append((rng.choice(_EXAMINATION_HEADERS), [rng.choice(frame["examinations"])]))
    blocks.append((rng.choice(_INDICATION_HEADERS), [indication[0].upper() + indication[1:]]))
    if rng.random() < 0.45:
        blocks.append(("TECHNIQUE", [rng.choice(frame["techniques"])]))
    if rng.random() < 0.8:
        texts = frame["comparisons" if study.previous is not None else "no_comparison"]
        blocks.append((rng.choice(_COMPARISON_HEADERS), [rng.choice(texts)]))
    return blocks


def _above(writer: Writer, study: Study, rng: random.Random) -> list[str]:
    """A wet read or an addendum, with a rule below; its words are not part of the report's sections."""
    chance = rng.random() - WET_READ_FRACTION
    if chance < 0:
        header = f"WET READ: ___ ___ ___ {rng.randint(1, 12)}:{rng.randint(0, 59):02d} {rng.choice(('AM', 'PM'))}"
        return [f" {header}", *_wrap(writer.join(writer.write_impression(study.findings))), RULE]
    if chance - ADDENDUM_FRACTION < 0:
        return [*_wrap(f"ADDENDUM  {rng.choice(load_bank().frame['addenda'])}"), RULE]
    return []


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(
        text, LINE_LENGTH, initial_indent=" ", subsequent_indent=" ", break_long_words=False, break_on_hyphens=False
    )
