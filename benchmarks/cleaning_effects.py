"""What the cleaners of reports do: sentences that each drops or changes, by kind, and the findings that this costs.

    python benchmarks/cleaning_effects.py                                   OpenI, if `make openi` was run
    python benchmarks/cleaning_effects.py --source mimic-cxr --root FOLDER  another source

Only counts are printed, and nothing is stored. Each cleaner works on the uncleaned reports here, so that its effect does not depend
on the others.
"""

import argparse
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import radrecipes  # noqa: F401  (before any library: turns telemetry off)

# isort: split
from radrecipes.cli import run
from radrecipes.data.sources.openi import ARCHIVE
from radrecipes.data.sources.registry import REPORT_SOURCES
from radrecipes.data.sources.report_source import RejectedReport
from radrecipes.errors import InputError
from radrecipes.radiology.deidentification import has_mark, without_marked_sentences, without_marks
from radrecipes.radiology.details import unrequested_details, without_details
from radrecipes.radiology.earlier_studies import mentioned_change, without_earlier_studies
from radrecipes.radiology.labeller import label_report
from radrecipes.radiology.observations import NO_FINDING, OBSERVATIONS, findings_lost, findings_present
from radrecipes.radiology.sentences import split_sentences

OPENI = Path(__file__).parents[1] / "data/openi" / ARCHIVE
# By the first word of the comparison; the others are one kind.
_CHANGES = {
    "no change": r"unchanged|unaltered|no|little|without|any|not|stabl[ey]|similar|remain|persist|continu|still",
    "seen again": r"again|once|re-?demonstr|prior|prev|preced|pre-?exist|earlier|last|most|recent|baseline|compar|as|than|since",
    "new or more": r"new|newly|increas|worse|worsen|progress|enlarg|grow|develop|recurren|evol|deteriorat|interval",
    "less or gone": r"improv|better|decreas|resol|diminish|regress|clear|partial|complete|near|residual|reduc|remov|extubat",
}
CLEANERS: dict[str, tuple[Callable[[str], str], Callable[[str], str]]] = {
    "earlier studies": (without_earlier_studies, lambda sentence: _kind_of_change(mentioned_change(sentence))),
    "marks, repaired": (without_marks, lambda sentence: "mark" if has_mark(sentence) else ""),
    "marks, dropped": (without_marked_sentences, lambda sentence: "mark" if has_mark(sentence) else ""),
    "details": (without_details, lambda sentence: _kind_of_detail(unrequested_details(sentence))),
}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--source", choices=[name for name, kind in REPORT_SOURCES.items() if "relabel" in kind.label_sources]
    )
    parser.add_argument("--root", type=Path)
    args = parser.parse_args()
    if args.source and not args.root:
        raise InputError("--root is missing; give the folder of --source")
    if not (args.root or OPENI).exists():
        raise InputError(
            "no such file or folder; run `make openi`, or give the reports as --root", str(args.root or OPENI)
        )
    kind = REPORT_SOURCES[args.source or "openi"]
    options = {"labels": None, "split": "patient", "label_source": "relabel"}
    source = kind.open(args.root or OPENI, options)
    reports = [report for report in map(source.read, source.items()) if not isinstance(report, RejectedReport)]
    texts = [(report.findings, report.impression) for report in reports if report.findings or report.impression]

    sentences = [sentence for text in texts for section in text for sentence in split_sentences(section)]
    labels = [label_report(*text) for text in texts]
    abnormal = sum(bool(findings_present(label)) for label in labels)
    print(f"{len(texts)} reports, {len(sentences)} sentences, {abnormal} reports with a finding\n")

    print("| cleaner | kind | sentences | changed | dropped | … with a finding |\n|---|---|---:|---:|---:|---:|")
    for name, (clean, kind_of) in CLEANERS.items():
        for kind, counts in _by_kind(sentences, clean, kind_of).items():
            print(
                f"| {name} | {kind} | {counts['all']} | {counts['changed']} | {counts['dropped']} | {counts['finding']} |"
            )

    print(
        "\n| cleaner | reports with other labels | a finding lost | all findings lost | findings lost |\n|---|---:|---:|---:|---|"
    )
    for name, (clean, _) in CLEANERS.items():
        changed, with_loss, normal, lost = 0, 0, 0, Counter()
        for text, before in zip(texts, labels, strict=True):
            after = label_report(*map(clean, text))
            gone = findings_lost(before, after)
            changed += {**after, NO_FINDING: None} != {**before, NO_FINDING: None}
            with_loss += bool(gone)
            normal += bool(gone) and not findings_present(after)
            lost.update(gone)
        listed = ", ".join(f"{observation} {lost[observation]}" for observation in OBSERVATIONS if lost[observation])
        print(f"| {name} | {changed} | {with_loss} | {normal} | {listed} |")


def _by_kind(
    sentences: list[str], clean: Callable[[str], str], kind_of: Callable[[str], str]
) -> dict[str, Counter[str]]:
    kinds: dict[str, Counter[str]] = {}
    for sentence in sentences:
        cleaned = clean(sentence)
        if cleaned == sentence:
            continue
        counts = kinds.setdefault(kind_of(sentence) or "other", Counter())
        counts["all"] += 1
        counts["changed" if cleaned else "dropped"] += 1
        counts["finding"] += not cleaned and bool(findings_lost(label_report(sentence), {}))
    return dict(sorted(kinds.items(), key=lambda item: -item[1]["all"]))


def _kind_of_change(words: str) -> str:
    return next(
        (kind for kind, pattern in _CHANGES.items() if re.match(pattern, words, re.IGNORECASE)), "other change"
    )


def _kind_of_detail(details: list[str]) -> str:
    measured = any(any(character.isdigit() for character in detail) for detail in details)
    sided = any(re.match(r"[^\d]*(?:left|right|lateral|bi|both|r|l)", detail, re.IGNORECASE) for detail in details)
    return "side and measurement" if measured and sided else "measurement" if measured else "side"


if __name__ == "__main__":
    run(main)
