"""Turns what a study shows into sentences with the labels that they state."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from radrecipes.data.synthetic_reports.bank import Combination, load_bank
from radrecipes.data.synthetic_reports.patients import Finding, Study, fill_gaps
from radrecipes.radiology.observations import NO_FINDING, SUPPORT_DEVICES, Labels, Status, findings_present, strongest

READERS = 12
# How often a text is the most frequent one, or otherwise the radiologist's favourite.
MOST_FREQUENT_FRACTION, FAVOURITE_FRACTION = 0.36, 0.3
COMBINED_FRACTION = 0.8
NORMAL_TEMPLATE_FRACTION = 0.6
# Fractions of persisting findings, of new ones, and of denials without an earlier finding.
COMPARED_FRACTION, CALLED_NEW_FRACTION, NOT_NEW_FRACTION = 0.3, 0.06, 0.04
HEDGED_FRACTION = 0.05
MARKED_FRACTION, CLOSING_FRACTION = 0.07, 0.2
# Sentences that name no observation.
NEUTRAL_FRACTIONS = {"views": 0.45, "volumes": 0.45, "other": 0.8}
NUMBERED_FRACTION = 0.2
# How often findings and impression name what is present, and the impression denies what is not.
IN_FINDINGS, IN_IMPRESSION = {"Pneumonia": 0.35}, 0.78
DENIED_IN_IMPRESSION = {
    "Pneumonia": 0.4,
    "Pneumothorax": 0.1,
    "Edema": 0.06,
    "Pleural Effusion": 0.04,
    "Fracture": 0.15,
}
DEVICE_IN_IMPRESSION = 0.2
_ORDERS = (
    ("views", "devices", "volumes", "lungs", "pleura", "heart", "bones", "other", "marked"),
    ("views", "volumes", "lungs", "pleura", "heart", "bones", "other", "devices", "marked"),
    ("marked", "views", "devices", "heart", "volumes", "lungs", "pleura", "other", "bones"),
    ("views", "devices", "heart", "lungs", "volumes", "pleura", "bones", "other", "marked"),
)


@dataclass(frozen=True)
class Statement:
    """One sentence, or a few that belong together; `area` orders findings.

    `labels` is what it was chosen to state, and `convention` what it states otherwise by the convention of CheXpert's
    labels, `None` for nothing.
    """

    text: str
    area: str
    labels: Labels = field(default_factory=dict)
    convention: Mapping[str, Status | None] = field(default_factory=dict)

    @property
    def stated(self) -> Labels:
        """Labels by the convention."""
        return {name: status for name, status in {**self.labels, **self.convention}.items() if status}


def combine_labels(statements: Sequence[Statement], chosen: bool = False) -> Labels:
    """Merge labels by the convention, or with `chosen` those that the texts were chosen to state; with `No Finding` derived."""
    labels = strongest(
        label for statement in statements for label in (statement.labels if chosen else statement.stated).items()
    )
    prevented = not chosen and any(NO_FINDING in statement.convention for statement in statements)
    if not findings_present(labels) and not prevented:
        labels[NO_FINDING] = Status.POSITIVE
    return labels


class Writer:
    """One radiologist at one study; `rng` decides the style and every choice."""

    def __init__(self, study: Study, rng: random.Random):
        self._study = study
        self._rng = rng
        self._reader = rng.randrange(READERS)
        self._bank = load_bank()

    def write_both(self) -> tuple[list[Statement], list[Statement]]:
        """Findings and impression of one report."""
        findings, rng = self._study.findings, self._rng
        in_findings, in_impression = [], []
        for name, finding in findings.items():
            if finding.status == Status.NEGATIVE:
                concluded = rng.random() < DENIED_IN_IMPRESSION.get(name, 0.01)
                described = not concluded or rng.random() < 0.5
            else:
                described = rng.random() < IN_FINDINGS.get(name, 0.88)
                concluded = not described or rng.random() < IN_IMPRESSION
            if described:
                in_findings.append(name)
            if concluded:
                in_impression.append(name)
        hedged = [
            name
            for name in in_findings
            if name in in_impression and findings[name].status == Status.POSITIVE and rng.random() < HEDGED_FRACTION
        ]
        return self.write_findings(in_findings, hedged), self.write_impression(in_impression)

    def write_findings(self, names: Iterable[str], hedged: Iterable[str] = ()) -> list[Statement]:
        """Findings about some observations and all devices; the `hedged` ones are only called possible."""
        rng, frame = self._rng, self._bank.frame
        named = self._named(names)
        named.update(dict.fromkeys(hedged, Status.UNCERTAIN))
        statements = [self._device(name, "findings") for name in self._study.devices]
        if not self._study.present and rng.random() < NORMAL_TEMPLATE_FRACTION:
            template = self._bank.normals[self._rank(len(self._bank.normals))]
            statements.append(self._statement(template.texts, "lungs", template.labels))
            statements += self._neutral("views") + self._neutral("other")
        else:
            statements += self._state(named, "findings")
            statements += self._neutral("views") + self._neutral("other")
            if not any("expanded" in statement.text or "inflated" in statement.text for statement in statements):
                statements += self._neutral("volumes")
        if rng.random() < MARKED_FRACTION or not statements:
            statements.append(Statement(rng.choice(frame["marked"]), "marked"))
        order = _ORDERS[self._reader % len(_ORDERS)]
        return sorted(statements, key=lambda statement: order.index(statement.area))

    def write_impression(self, names: Iterable[str], all_devices: bool = False) -> list[Statement]:
        """Impression about some observations and a few or all devices; says so if there is nothing to conclude."""
        rng, frame = self._rng, self._bank.frame
        statements = self._state(self._named(names), "impression")
        # What is present comes before what is not.
        statements.sort(key=lambda statement: not findings_present(statement.labels))
        concluded = any(findings_present(statement.labels) for statement in statements)
        devices = [
            self._device(name, "impression")
            for name in self._study.devices
            if all_devices or rng.random() < DEVICE_IN_IMPRESSION
        ]
        if not self._study.present:
            if not statements or rng.random() < 0.5:
                statements.insert(0, Statement(self._choose(frame["normal_conclusions"]), "other"))
        elif not concluded:
            unchanged = self._study.previous and rng.random() < 0.5
            texts = frame["unchanged_conclusions" if unchanged else "normal_conclusions"]
            statements.insert(0, Statement(texts[0] if rng.random() < 0.5 else rng.choice(texts[:3]), "other"))
        elif rng.random() < CLOSING_FRACTION:
            devices.append(Statement(rng.choice(frame["closings"]), "other"))
        return statements + devices

    def lay_out_impression(self, statements: Sequence[Statement]) -> list[str]:
        """Paragraphs of an impression, sometimes a numbered list."""
        if len(statements) > 1 and self._rng.random() < NUMBERED_FRACTION:
            return [f"{number}. {statement.text}" for number, statement in enumerate(statements, start=1)]
        return [self.join(statements)]

    def join(self, statements: Iterable[Statement]) -> str:
        """One paragraph; some radiologists put two spaces after a full stop."""
        return ("  " if self._reader % 2 else " ").join(statement.text for statement in statements)

    def _named(self, names: Iterable[str]) -> dict[str, Status]:
        return {name: finding.status for name, finding in self._study.findings.items() if name in names}

    def _state(self, named: Mapping[str, Status], section: str) -> list[Statement]:
        """Sentences that state all of `named` and nothing else, several at once if the bank can."""
        rng, left, statements = self._rng, dict(named), []
        wordings = self._bank.wordings
        while left:
            fitting = [group for group in self._bank.combinations[section] if self._fits(group, left)]
            if fitting and rng.random() < COMBINED_FRACTION:
                group = rng.choices(fitting, [len(group.labels) ** 2 for group in fitting])[0]
                first = min(group.labels, key=lambda name: group.labels[name] == Status.NEGATIVE)
                gaps = self._study.findings[first].gaps
                statements.append(self._statement(group.texts, wordings[first]["area"], group.labels, gaps))
                for name in group.labels:
                    del left[name]
            else:
                name = next(iter(left))
                status = left.pop(name)
                texts, area = wordings[name][status.value][section], wordings[name]["area"]
                compared = self._compare(name, status)
                statements.append(
                    Statement(compared[0], area, {name: status}, {name: compared[1]})
                    if compared
                    else self._statement(texts, area, {name: status}, self._study.findings[name].gaps)
                )
        return statements

    def _fits(self, group: Combination, left: Mapping[str, Status]) -> bool:
        return all(left.get(name) == status for name, status in group.labels.items()) and not (
            group.unless & self._study.present
        )

    def _compare(self, name: str, status: Status) -> tuple[str, Status] | None:
        """A sentence that compares with the previous study, and what it states; `None` if none fits or is wanted."""
        rng, before = self._rng, self._study.previous
        if before is None or status == Status.UNCERTAIN:
            return None
        kinds, finding = self._bank.comparisons, self._study.findings[name]
        nouns = self._bank.wordings[name]["nouns"]
        stays, changes = nouns["stays"], nouns.get("changes")
        was_there = name in before and before[name].status != Status.NEGATIVE
        if status == Status.NEGATIVE:
            if was_there and changes and name != "Cardiomegaly" and rng.random() < 0.6:
                return self._fill_comparison(kinds["gone"], changes, finding), status
            if not was_there and name in kinds["bare"] and rng.random() < NOT_NEW_FRACTION:
                # By the convention an old one may be there.
                return rng.choice(kinds["never"]).format(bare=rng.choice(kinds["bare"][name])), Status.UNCERTAIN
        elif was_there and rng.random() < COMPARED_FRACTION:
            if changes and rng.random() < 0.5:
                return self._fill_comparison(kinds[rng.choice(("better", "worse"))], changes, finding), status
            return self._fill_comparison(kinds["stable"], stays, finding), status
        elif not was_there and changes and rng.random() < CALLED_NEW_FRACTION:
            return self._fill_comparison(kinds["new"], stays, finding), status
        return None

    def _fill_comparison(self, texts: Sequence[str], nouns: Sequence[str], finding: Finding) -> str:
        noun = self._choose(nouns, finding.gaps, capital=False)
        return self._choose(texts, {"noun": noun})

    def _neutral(self, area: str) -> list[Statement]:
        rng, texts = self._rng, self._bank.frame[area]
        count = rng.choice((1, 1, 2)) if area == "other" else 1
        chosen = rng.sample(texts, count) if rng.random() < NEUTRAL_FRACTIONS[area] else []
        known = self._bank.conventions
        return [Statement(_fill(text, fill_gaps(rng)), area, convention=known.get(text, {})) for text in chosen]

    def _device(self, name: str, section: str) -> Statement:
        device, finding = self._study.devices[name]
        texts = device.texts["removed" if finding.status == Status.NEGATIVE else section]
        return self._statement(texts, "devices", {SUPPORT_DEVICES: finding.status}, finding.gaps)

    def _rank(self, count: int) -> int:
        """The index of one of `count` texts: often the first, often the radiologist's favourite."""
        chance = self._rng.random()
        if chance < MOST_FREQUENT_FRACTION or count == 1:
            return 0
        if chance < MOST_FREQUENT_FRACTION + FAVOURITE_FRACTION:
            return 1 + self._reader % (count - 1)
        return 1 + self._rng.randrange(count - 1)

    def _statement(
        self, texts: Sequence[str], area: str, labels: Labels, gaps: Mapping[str, str] | None = None
    ) -> Statement:
        text = self._template(texts, gaps)
        return Statement(_fill(text, gaps or {}), area, labels, self._bank.conventions.get(text, {}))

    def _choose(self, texts: Sequence[str], gaps: Mapping[str, str] | None = None, capital: bool = True) -> str:
        return _fill(self._template(texts, gaps), gaps or {}, capital)

    def _template(self, texts: Sequence[str], gaps: Mapping[str, str] | None = None) -> str:
        if gaps and gaps.get("several"):
            # A text about one side does not fit disease on both.
            texts = [text for text in texts if "{side}" not in text and "{lobe}" not in text] or texts
        return texts[self._rank(len(texts))]


def _fill(text: str, gaps: Mapping[str, str], capital: bool = True) -> str:
    if "{" in text:
        text = text.format_map(gaps)
    return text[0].upper() + text[1:] if capital else text
