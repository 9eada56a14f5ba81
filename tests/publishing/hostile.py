"""Two corpora of identifiers as no form writes them, filled in by a seeded generator: everything in them is made up.

Rules were tuned on one, with names from lists of many languages; the other, with names made of syllables, is only measured.
"""

import datetime
import random
import re
from collections.abc import Callable, Iterator

from planted import CORPUS, MONTHS, Planted

_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_ABROAD = {
    "mois": "janvier février mars avril mai juin juillet août septembre octobre novembre décembre",
    "monat": "Januar Februar März April Mai Juni Juli August September Oktober November Dezember",
    "mes": "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre",
}
_SUFFIXES = {1: "st", 21: "st", 2: "nd", 22: "nd", 3: "rd", 23: "rd"}
_ORDINALS = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh"]
_ORDINALS += [
    "twelfth",
    "thirteenth",
    "fourteenth",
    "fifteenth",
    "sixteenth",
    "seventeenth",
    "eighteenth",
    "nineteenth",
]
_ORDINALS += ["twentieth", *(f"twenty-{word}" for word in _ORDINALS[:8])]

# Given and family names by language, combined within a language.
_LISTED = (
    ("Annegret Dieter Ulrike Jörg", "Weißhaupt Krautzberger Schüßler Oberkofler"),
    ("Żaneta Łukasz Bożena Krzysztof", "Wójcik Szczepańska Grzybowski Źrebiec"),
    ("Şükran Uğur Gökçe Çağlar", "Yıldırım Karakuş Öztürk Işıkoğlu"),
    ("Adaeze Chukwuemeka Folasade Kwabena", "Okonjo Adeyemisi Nwachukwu Asantewaa"),
    ("Siobhán Ruairí Niamh Tadhg", "Donoghue Shaughnessy Breathnach Gallchobhair"),
    ("Priya Venkat Sunita Arjun", "Venkataraman Krishnamurthy Chatterjee Pillai"),
    ("Thị Hương Đức Quỳnh", "Nguyễn Đặng Trần Huỳnh"),
    ("Xiuying Weiming Haruto Sakura", "Zhang Ouyang Takahashi Yamaguchi"),
    ("Dolores Íñigo Begoña Joaquín", "Ibáñez Echeverría Muñoz Etxeberria"),
    ("Margaret Peter Susan Harold", "Thornbury Haddlesey Winterbourne Pickersgill"),
    ("Fátima Yousef Leila Mahmoud", "Haddad Nasrallah Khoury Tehrani"),
    ("Øystein Åse Jørgen Pálmi", "Bjørnstad Ødegård Lindqvist Þorsteinsson"),
    ("Zdeněk Božena Ștefan Ľudmila", "Dvořáček Čermák Țurcanu Hrušovský"),
    ("Giacomo Concetta Luís Conceição", "Bevilacqua Quattrocchi Guimarães Magalhães"),
)
# Onsets, vowels and endings from which the measured corpus composes names, by language.
_SYLLABLES = (
    ("b br d f g h k kl l m n r s t w", "a e i o u", "bert hild fried mann bach feld ling", "bert hild mann horst"),
    ("b d j k l m n p r s w z", "a e i o u", "ska wicz owski czak enko ova in", "sława mir ina ek"),
    ("ch d f k m n s t w y z", "a e i o u", "bi kwe mba ola chi nde", "ma ra ti fe"),
    ("b ch d h j k l n p r s v", "a aa e i o u", "raj kumar pati shan gopal", "ya ita esh an"),
    ("b d f g l m n p r s t v z", "a e i o u", "etti ucci ánez eira ão ério", "ia éo ela ino"),
    ("h k m n r s sh t y", "a e i o u", "moto naka zuki shima kawa", "ko ta mi ro"),
    ("b d f g h k l m r s t", "a e i o ö å", "sen sson lund kvist gård", "rid var ne ya"),
    ("al d f gh h kh m n r s y z", "a i u ou", "dad eddin oudi awi zadeh", "im ira ad een"),
)


def hostile_sentences(corpus: str, rounds: int) -> list[Planted]:
    """Every sentence of a corpus, `"tuning"` or `"measured"`, `rounds` times with other names and numbers."""
    draw = random.Random(f"hostile {corpus}")
    lines = (CORPUS / f"hostile_{corpus}.txt").read_text(encoding="utf-8").splitlines()
    sentences, kind = [], ""
    for line in lines:
        if line.startswith("## "):
            kind = line[3:]
        elif line and not line.startswith("#"):
            for _ in range(rounds):
                sentences += _planted(_filled(line, draw, _listed if corpus == "tuning" else _composed), kind)
    return sentences


def _planted(text: str, kind: str) -> Iterator[Planted]:
    """Each marked place of a text, with the marks taken out."""
    plain, places = "", []
    for part in re.split(r"(\[\[.*?\]\]+)", text):
        if part.startswith("[["):
            inner = part[2:-2]
            places.append((len(plain), len(plain) + len(inner)))
            plain += inner
        else:
            plain += part
    return (Planted(plain, kind, start, end) for start, end in places)


def _listed(draw: random.Random) -> tuple[str, str]:
    given, family = draw.choice(_LISTED)
    return draw.choice(given.split()), draw.choice(family.split())


def _composed(draw: random.Random) -> tuple[str, str]:
    onsets, vowels, family, given = (part.split() for part in draw.choice(_SYLLABLES))

    def stem(count: int) -> str:
        return "".join(draw.choice(onsets) + draw.choice(vowels) for _ in range(count))

    return (
        (stem(1) + draw.choice(given)).capitalize(),
        (stem(draw.randint(1, 2)) + draw.choice(family)).capitalize(),
    )


def _filled(line: str, draw: random.Random, name: Callable[[random.Random], tuple[str, str]]) -> str:
    """A line with its slots and its digits and letters drawn."""

    def slot(match: re.Match[str]) -> str:
        given, family = name(draw)
        day = datetime.date(draw.randint(1935, 2024), draw.randint(1, 12), draw.randint(1, 28))
        values = {
            "given": given,
            "family": family,
            "GIVEN": given.upper(),
            "FAMILY": family.upper(),
            "given_lower": given.lower(),
            "family_lower": family.lower(),
            "I": given[0],
            "i": given[0].lower(),
            "I_lower": given[0].lower(),
            "mrn7": str(draw.randint(1_000_000, 9_999_999)),
            "year": f"{day:%Y}",
            "yy": f"{day:%y}",
            "mm": f"{day:%m}",
            "m": str(day.month),
            "dd": f"{day:%d}",
            "d": str(day.day),
            "hh": str(draw.randint(10, 23)),
            "dot": f"{day:%d.%m.%Y}",
            "dot_short": f"{day.day}.{day.month}.{day:%y}",
            "Month": MONTHS[day.month - 1],
            "MON": MONTHS[day.month - 1][:3].upper(),
            "Weekday": draw.choice(_WEEKDAYS),
            "ordinal": f"{day.day}{_SUFFIXES.get(day.day, 'th')}",
            "ordinal_word": _ORDINALS[day.day - 1],
        } | {language: names.split()[day.month - 1] for language, names in _ABROAD.items()}
        return values[match[1]]

    def character(match: re.Match[str]) -> str:
        return draw.choice("0123456789" if match[0] == "#" else "ABCDEFGHJKLMNPRSTUVWXYZ")

    line = re.sub(r"\[\[.*?\]\]+", lambda marked: re.sub(r"#|@(?![a-z{])", character, marked[0]), line)
    return re.sub(r"\{(\w+)\}", slot, line)
