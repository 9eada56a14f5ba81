"""How a synthetic order is put down: headers, order of its parts, abbreviations, letter case and typing errors of a style."""

import random
import re
from dataclasses import dataclass

from radrecipes.data.synthetic_protocol.bank import read_bank_file

# Fractions of the orders.
DEMOGRAPHICS_FRACTION = 0.7
FREE_LAYOUT_FRACTION = 0.35
FIRST_HISTORY_YEAR, LAST_HISTORY_YEAR = 2009, 2024
ADULT_AGE = 18


@dataclass(frozen=True)
class Style:
    """The typing habits of a hospital, as `styles/<name>.yaml` states them."""

    name: str
    interchangeable: list[list[str]]
    question_headers: list[str]
    history_headers: list[str]
    layouts_with_history: list[str]
    layouts: list[str]
    history_places: list[int]
    joints: list[str]
    separators: list[str]
    patients: list[str]
    patients_without_age: list[str]
    words: dict[str, str]
    sides: list[str]
    years: list[str]
    lower_case: float
    upper_case: float
    negations: list[list[str]]
    fillers: list[str]

    @classmethod
    def load(cls, name: str) -> "Style":
        """Read a style by its name."""
        return cls(name, **read_bank_file(f"styles/{name}.yaml"))

    def year(self, age: int, rng: random.Random) -> str:
        """A year of past history."""
        # Dated items of the bank happen to adults, so a young patient's history is recent.
        year = rng.randint(max(FIRST_HISTORY_YEAR, LAST_HISTORY_YEAR + ADULT_AGE - age), LAST_HISTORY_YEAR)
        month = rng.randint(1, 12)
        return rng.choice(self.years).format(year=year, short=f"{year % 100:02d}", month=month)

    def patient(self, sex: str, age: int, rng: random.Random) -> str:
        """Age and sex, in a fraction of the orders."""
        if rng.random() >= DEMOGRAPHICS_FRACTION:
            return rng.choice(self.patients_without_age)
        return rng.choice(self.patients).format(age=age, sex=sex, word=self.words[sex])

    def lay_out(self, question: str, history: list[str], who: str, rng: random.Random) -> str:
        """Question, history and patient in one line."""
        past = rng.choice(self.separators).join(history)
        if rng.random() < FREE_LAYOUT_FRACTION:
            layouts = self.layouts_with_history if history else self.layouts
            return rng.choice(layouts).format(who=who, question=question, history=past).strip(" -")
        # The patient is next to the question or next to the history.
        who_asks, who_had = (who, "") if not history or rng.random() < 0.6 else ("", who)
        parts = [f"{rng.choice(self.question_headers)} {who_asks} {question}"]
        if history:
            parts.insert(rng.choice(self.history_places), f"{rng.choice(self.history_headers)} {who_had} {past}")
        return rng.choice(self.joints).join(parts)

    def vary_wording(self, note: str, rng: random.Random) -> str:
        """Write some phrases in other ways."""
        for phrase, *others in self.interchangeable:
            if rng.random() < 0.5:
                note = re.sub(rf"(?<!\w){re.escape(phrase)}(?!\w)", rng.choice((phrase, *others)), note)
        return note

    def vary_case(self, note: str, rng: random.Random) -> str:
        """The note, or all of it in lower or upper case."""
        drawn = rng.random()
        if drawn < self.lower_case:
            return note.lower()
        return note.upper() if drawn < self.upper_case else note


def misspell(note: str, rng: random.Random) -> str:
    """Swap two inner letters, or double or drop one, in a longer word."""
    words = note.split(" ")
    places = [place for place, word in enumerate(words) if len(word) >= 6 and word.isalpha() and word.islower()]
    if not places:
        return note
    place = rng.choice(places)
    word = words[place]
    at = rng.randrange(1, len(word) - 2)
    start, end = word[:at], word[at + 1 :]
    words[place] = rng.choice((start + end[0] + word[at] + end[1:], start + word[at] + word[at:], start + end))
    return " ".join(words)
