"""Sentences with planted identifiers, made by a seeded generator: everything in them is synthetic.

Names are common given and family names combined at random, numbers are drawn, telephone numbers are in the ranges that are kept
for fiction. Each section of sentences is dealt out in turn to an open half, which may be read while rules are written, and a
blind half, which only the test reads. No given name and no family name is in both halves. Of the ways to write an
identifier, the open half has every second, the blind half all.
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

CORPUS = Path(__file__).parent / "identifier_corpus"
SENTENCES_PER_KIND = 110
NAME_SENTENCES = 300
WORDS = yaml.safe_load((CORPUS / "names.yaml").read_text(encoding="utf-8"))


MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October"]
MONTHS += ["November", "December"]
SPELLED = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]

Draw = random.Random


@dataclass(frozen=True)
class Planted:
    """One sentence and where an identifier of `kind` is in it."""

    text: str
    kind: str
    start: int
    end: int


def _digits(draw: Draw, count: int) -> str:
    return str(draw.randint(1, 9)) + "".join(str(draw.randint(0, 9)) for _ in range(count - 1))


def _letters(draw: Draw, count: int) -> str:
    return "".join(draw.choice("ABCDEFGHJKLMNPRSTUVWXYZ") for _ in range(count))


def _day(draw: Draw) -> tuple[int, int, int]:
    return draw.randint(1, 12), draw.randint(1, 28), draw.randint(2001, 2024)


def _date(pattern: str) -> Callable[[Draw], str]:
    def write(draw: Draw) -> str:
        month, day, year = _day(draw)
        name = MONTHS[month - 1]
        return pattern.format(m=month, d=day, y=year, yy=year % 100, name=name, short=name[:3], upper=name[:3].upper())

    return write


FULL_DATES = [
    _date(pattern)
    for pattern in (
        "{m}/{d}/{y}",
        "{m:02}/{d:02}/{yy:02}",
        "{name} {d}, {y}",
        "{y}-{m:02}-{d:02}",
        "{d} {name} {y}",
        "{short} {d}, {y}",
        "{d:02}-{upper}-{y}",
        "{m:02}-{d:02}-{y}",
        "{d}.{m}.{y}",
        "{d}-{short}-{yy:02}",
        "{y}/{m:02}/{d:02}",
        "{y}{m:02}{d:02}",
        "{name} {d}th {y}",
        "{m}-{d}-{yy:02}",
        "the {d}th of {name}, {y}",
        "{d:02}{upper}{y}",
    )
]
PARTIAL_DATES = [
    _date(pattern) for pattern in ("{m}/{d}", "{name} {d}", "{name} {y}", "{m}/{y}", "{short} {d}", "{short} {y}")
]


def _number(pattern: str) -> Callable[[Draw], str]:
    """`9` stands for a digit, `A` for a capital letter, anything in quotes for itself."""

    def write(draw: Draw) -> str:
        parts = re.split(r"'([^']*)'", pattern)
        for index in range(0, len(parts), 2):
            replaced = re.sub(r"9+", lambda run: _digits(draw, len(run[0])), parts[index])
            parts[index] = re.sub(r"A+", lambda run: _letters(draw, len(run[0])), replaced)
        return "".join(parts)

    return write


def _numbers(*patterns: str) -> list[Callable[[Draw], str]]:
    return [_number(pattern) for pattern in patterns]


def _age(pattern: str) -> Callable[[Draw], str]:
    return lambda draw: pattern.format(age=draw.randint(90, 104), sex=draw.choice("MF"))


def _spelled_age(draw: Draw) -> str:
    return f"ninety-{draw.choice(SPELLED)}-year-old"


def _address(pattern: str) -> Callable[[Draw], str]:
    def write(draw: Draw) -> str:
        return pattern.format(
            number=draw.randint(2, 4999),
            street=draw.choice(WORDS["street"]),
            city=draw.choice(WORDS["city"]),
            state=draw.choice(WORDS["state"]),
            zip=_digits(draw, 5),
            unit=draw.randint(1, 40),
        )

    return write


def _email(pattern: str) -> Callable[[Draw], str]:
    def write(draw: Draw) -> str:
        user = _letters(draw, 6).lower()
        return pattern.format(user=user, initial=user[0], number=draw.randint(1, 99))

    return write


def _ip(draw: Draw) -> str:
    return draw.choice(("10.{}.{}.{}", "192.168.{1}.{2}", "172.16.{0}.{2}")).format(
        *(draw.randint(1, 254) for _ in "123")
    )


WAYS: dict[str, list[Callable[[Draw], str]]] = {
    "date": FULL_DATES + PARTIAL_DATES,
    "full_date": FULL_DATES,
    "age_adjective": [
        _age("{age}-year-old"),
        _age("{age} year old"),
        _age("{age}-yr-old"),
        _spelled_age,
        _age("{age} years old"),
        _age("{age}-year old"),
    ],
    "age_short": [
        _age("{age}yo"),
        _age("{age} y/o"),
        _age("{age} yo {sex}"),
        _age("{age}{sex}"),
        _age("{age} y.o."),
        _age("{age} {sex}"),
        _age("{age}yM"),
        _age("{age} yr old {sex}"),
    ],
    "over_89": [_age("{age}"), _age("{age} years"), _age("{age}y")],
    "record": _numbers(
        "'MRN' 9999999",
        "'MRN': 00999999",
        "'medical record number' 99999999",
        "'MRN'# 999-99-99",
        "'MR'# 9999999",
        "'Med Rec No.' 9999999",
        "'patient ID' 'P'9999999",
        "'Pt ID': 99999999",
        "'hospital number' 'H'999999",
        "'mrn' 99999999",
        "'unit number' 999-99-99",
        "'chart' # 999999",
        "'MRN' 'E'9999999",
        "'Patient Identifier': 9999999",
        "'medical record' #99999999",
        "'record no.' 9999999",
    ),
    "accession": _numbers(
        "'accession' 99999999",
        "'accession number' 9999999",
        "'ACC'# 99-9999999",
        "'Accession No': 'CT19'-999999",
        "'acc': 'RAD2024'-99999",
        "'Acc' # 'E'99999999",
        "'accession' #99999999",
        "'exam number' 9999999",
        "'order' # 999999999",
        "'case number S'99-99999",
        "'study ID' 9999999",
        "'ACCESSION NUMBER': 99999999",
        "'acc no' 999999",
        "'specimen S'99-99999",
        "'exam' #9999999",
        "'accn' 9999999",
    ),
    "pager": _numbers(
        "'pager' 99999",
        "'pager' #9-9999",
        "'paged at' 99999",
        "'beeper' 9999",
        "'pgr' 99999",
        "'pager': 617-555-01'42'",
        "'ext.' 9999",
        "'p'99999",
        "'x'99999",
        "'extension' 9-9999",
        "'pager number' 99999",
        "'Pager' 99999",
        "'beeper' #99999",
        "'page' 99999",
        "'pgr' #99999",
        "'pager ID' 99999",
    ),
    "phone": _numbers(
        "(617) 555-'01'99",
        "617-555-'01'99",
        "212.555.'01'99",
        "+1 415 555 '01'99",
        "555-'01'99",
        "'1-800-555-01'99",
        "(312)555-'01'99",
        "'+44 20 7946 0'999",
        "'020 7946 0'999",
        "617 555 '01'99",
        "617555'01'99",
        "'01632 960'999",
        "(617) 555-'01'99 'x'99",
        "+1-617-555-'01'99",
        "617/555-'01'99",
        "'+49 30 23125'999",
    ),
    "email": [
        _email(pattern)
        for pattern in (
            "{user}@example.org",
            "{initial}.{user}@hospital.example.com",
            "{user}{number}@example.net",
            "{user}.{initial}@radiology.example.edu",
            "{user}_{number}@mail.example.co.uk",
            "{user}+reports@example.com",
            "{initial}{user}@example-clinic.org",
            "{user}-{initial}@example.de",
        )
    ],
    "address": [
        _address(pattern)
        for pattern in (
            "{number} {street} Street",
            "{number} {street} St, {city}, {state} {zip}",
            "{number} N. {street} Avenue",
            "{number} {street} Rd",
            "{number} {street} Lane, Apt {unit}",
            "P.O. Box {number}, {city}, {state}",
            "{number} West {street} Blvd",
            "{city}, {state} {zip}",
            "{number} {street} Drive, {city} {state} {zip}",
            "{number} {street} Ave.",
            "{number} {street} Court, Unit {unit}",
            "{number} E {unit}th Street",
            "{number} Old {street} Road",
            "{number} {street} Terrace",
            "PO Box {number}",
            "{number} {street} Pl, {city}",
        )
    ],
    "social": _numbers("999-99-9999", "999 99 9999", "'xxx-xx-'9999", "999.99.9999"),
    "account": _numbers(
        "'account' # 99999999",
        "'account number' 999999999",
        "'member ID' 'W'999999999",
        "'policy no.' 'XG'-9999-99",
        "'encounter' 99999999",
        "'visit number' 99999999",
        "'FIN' 99999999",
        "'acct' 9999999",
        "'insurance ID' AAA999999",
        "'CSN': 999999999",
        "'Acct'#: 9999999",
        "'subscriber ID' A99999999",
        "'group number' 999999",
        "'Medicare number' 9AA9-AA9-AA99",
        "'claim' # 9999999-9",
        "'HAR' 99999999",
    ),
    "serial": _numbers(
        "'serial number' AAA999999",
        "'S/N' 99-9999-A",
        "'serial' # 9999999",
        "'serial no.' AA9999999",
        "'SN': AAA999999A",
        "'lot' 9999A",
        "'lot number' A999999",
        "'device ID' 999999A",
        "'Serial': 99999999",
        "'s/n' 9999999",
        "'UDI' (01)00643169999999",
        "'ref/serial' AA99999",
    ),
    "licence": _numbers(
        "'license' # A99999",
        "'NPI' 9999999999",
        "'DEA' AA9999999",
        "'license number' 999999",
        "'licence no.' 9999999",
        "'NPI'# 9999999999",
        "'state license' AA-999999",
        "'certificate number' 9999999",
        "'GMC number' 9999999",
        "'ARRT' # 999999",
        "'UPIN' A99999",
        "'provider ID' 9999999",
    ),
    "uid": _numbers(
        "'1.2.840.113619.2.'55.3.999999999.999.99999999.999",
        "'1.2.840.10008.5.1.4.1.1.2.'99999.999",
        "'1.3.6.1.4.1.'14519.5.2.1.9999.9999.999999999999",
        "'2.25.'999999999999999999999999999999999999",
        "'1.3.12.2.1107.5.1.4.'99999.30000099999999999999999",
        "'1.2.392.200036.9116.2.6.1.48.'9999999999.9999999999.999999",
    ),
    "link": _numbers(
        "'https://portal.example.org/patient/'999999",
        "'http://pacs.example.com/viewer?study='99999999",
        "'https://images.example.net/s/'AAA999",
        "'www.example-imaging.com/share/'AA99999",
        "'https://viewer.example.org/#/study/'999.999.99",
        "'http://10.20.30.40/wado?requestType=WADO&id='9999",
        "'portal.example.com/results/'999999",
        "'https://example.edu/~'AAA999",
    ),
    "ip": [_ip],
    "facility": [
        lambda draw: f"{draw.choice(WORDS['city'])} General Hospital",
        lambda draw: f"St. {draw.choice(WORDS['saint'])}'s Hospital",
        lambda draw: f"{draw.choice(WORDS['street'])} Valley Medical Center",
        lambda draw: f"{draw.choice(WORDS['city'])} Imaging Associates",
        lambda draw: f"{draw.choice(WORDS['street'])} Street Clinic",
        lambda draw: f"University Hospital of {draw.choice(WORDS['city'])}",
        lambda draw: f"{draw.choice(WORDS['city'])} Community Health Center",
        lambda draw: f"{draw.choice(WORDS['street'])} Ridge Nursing Home",
        lambda draw: f"{draw.choice(WORDS['city'])} Memorial",
        lambda draw: f"{draw.choice(WORDS['street'])} Hill Rehabilitation Center",
        lambda draw: f"{draw.choice(WORDS['city'])} Regional Medical Centre",
        lambda draw: f"Mount {draw.choice(WORDS['city'])} Infirmary",
    ],
}


def _halves(lines: list[str]) -> dict[str, list[str]]:
    return {"open": lines[::2], "blind": lines[1::2]}


def clean_sentences(half: str) -> list[str]:
    """The `open` or `blind` half of the sentences without identifiers."""
    lines = (CORPUS / "clean_sentences.txt").read_text(encoding="utf-8").splitlines()
    return _halves([line for line in lines if not line.startswith("#")])[half]


def _sections() -> dict[str, list[str]]:
    sections: dict[str, list[str]] = {}
    for line in (CORPUS / "planted_sentences.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            current = sections.setdefault(line[3:], [])
        elif line and not line.startswith("#"):
            current.append(line)
    return sections


def _fill(template: str, kind: str, half: str, draw: Draw, counter: dict[str, int]) -> list[Planted]:
    """Fill one sentence; neighbouring parts of one name count as one identifier."""
    given, family = (_halves(WORDS[name])[half] for name in ("given", "family"))
    text, spans, last = "", [], 0
    for found in re.finditer(r"\{(\w+)\}", template):
        text += template[last : found.start()]
        last, what = found.end(), found[1]
        if what.lower() == "given":
            written = draw.choice(given)
        elif what.lower().startswith("family"):
            written = draw.choice(family)
        elif what == "initial":
            written = draw.choice("ABCDEGHJKLMPRSTW")
        else:
            ways = WAYS[what] if half == "blind" else WAYS[what][::2]
            # In turn, so that every way to write it occurs about equally often.
            counter[what] = counter.get(what, -1) + 1
            written = ways[counter[what] % len(ways)](draw)
        if what.isupper():
            written = written.upper()
        elif what.endswith("_lower"):
            written = written.lower()
        start = len(text)
        text += written
        if spans and re.fullmatch(r"[ ,.]{0,2}", text[spans[-1][1] : start]):
            spans[-1] = (spans[-1][0], len(text))
        else:
            spans.append((start, len(text)))
    text += template[last:]
    return [Planted(text, kind, start, end) for start, end in spans]


def planted_sentences(half: str, seed: int = 0) -> list[Planted]:
    """Every planted identifier of the `open` or `blind` half, kind by kind."""
    draw = random.Random(f"{half} {seed}")
    planted: list[Planted] = []
    counter: dict[str, int] = {}
    for kind, lines in _sections().items():
        templates = _halves(lines)[half]
        wanted = NAME_SENTENCES if kind == "name" else SENTENCES_PER_KIND
        for _ in range(wanted):
            template = draw.choice(templates)
            planted += _fill(template, kind, half, draw, counter)
    return planted
