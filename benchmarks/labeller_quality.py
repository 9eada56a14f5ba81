"""How well the labeller reads reports: precision, recall and F1 per observation and status, and the time of a report.

    python benchmarks/labeller_quality.py                        the held-out texts, and OpenI if `make openi` was run
    python benchmarks/labeller_quality.py --openi FOLDER         OpenI elsewhere: the folder or the archive
    python benchmarks/labeller_quality.py --csv labelled.csv     reports and labels of your own; nothing is stored
    python benchmarks/labeller_quality.py --second               the second labeller of evaluations

The table (CSV, TSV or .xlsx) has a column `text`, or `findings` and `impression`, and columns with the names of the 14
observations: 1 positive, 0 negative, -1 uncertain, blank not mentioned, as in the files of CheXpert and MIMIC-CXR-JPG.
"""

import argparse
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import radrecipes  # noqa: F401  (before any library: turns telemetry off)

# isort: split
import numpy as np
from measuring import DOCUMENT, RESULTS, read_results, store_result, with_table

from radrecipes.cli import run
from radrecipes.data.sources.openi import ARCHIVE, OpenI
from radrecipes.data.sources.report_source import RejectedReport
from radrecipes.data.sources.table_rows import open_table
from radrecipes.errors import InputError
from radrecipes.evaluation.linear_labeller import LinearLabeller, read_labelled
from radrecipes.radiology import labeller
from radrecipes.radiology.observations import (
    NO_FINDING,
    OBSERVATIONS,
    Labels,
    Status,
    observation_name,
)
from radrecipes.statistics import bootstrap_interval, precision_recall_f1

REPOSITORY = Path(__file__).parents[1]
HELDOUT = REPOSITORY / "tests/radiology/real_phrasing_heldout.yaml"
OPENI = REPOSITORY / "data/openi" / ARCHIVE
SECTIONS = ("findings", "impression")
STATUSES = {"1": Status.POSITIVE, "0": Status.NEGATIVE, "-1": Status.UNCERTAIN}
# The MeSH headings of OpenI that name an observation, each a pattern of a complete heading with its qualifiers. Headings without
# a counterpart in the labels are not here: clips (Surgical Instruments), densities, deformities, granulomas.
HEADINGS = {
    "Enlarged Cardiomediastinum": r"Mediastinum/(prominent|enlarged).*",
    "Cardiomegaly": r"Cardiomegaly.*|Cardiac Shadow/(enlarged|borderline).*",
    "Lung Opacity": r"(Opacity|Airspace Disease|Infiltrate|Cicatrix)/lung.*|Markings/lung.*/interstitial.*|Lung/interstitial.*"
    r"|Lung Diseases, Interstitial.*",
    "Lung Lesion": r"(Nodule|Mass|Cavitation)/lung.*",
    "Edema": r"(Pulmonary Edema|Pulmonary Congestion|Heart Failure).*",
    "Consolidation": r"Consolidation.*",
    "Pneumonia": r"Pneumonia\b.*",
    "Atelectasis": r"Pulmonary Atelectasis.*",
    "Pneumothorax": r"(Pneumothorax|Hydropneumothorax|Hemopneumothorax).*",
    "Pleural Effusion": r"(Pleural Effusion|Hydropneumothorax|Hemopneumothorax|Hemothorax).*",
    "Pleural Other": r"(Thickening|Cicatrix)/pleura.*",
    "Fracture": r"Fractures, Bone.*",
    "Support Devices": r"(Catheters, Indwelling|Implanted Medical Device|Medical Device|Tube, Inserted|Stents).*",
}
NORMAL, NOT_INDEXED = "normal", "No Indexing"


class LabelledReport(NamedTuple):
    """A report, as the arguments of `label_report`, and its labels."""

    sections: tuple[str, ...]
    labels: Labels


def main() -> None:
    """Measure on a CSV file, or on the held-out texts and OpenI; print, and store all but a CSV file's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, metavar="FILE", help="measure on this table only: CSV, TSV or .xlsx")
    parser.add_argument(
        "--openi",
        "--root",
        type=Path,
        metavar="PATH",
        help=f"folder or archive (default: {OPENI.relative_to(REPOSITORY)})",
    )
    parser.add_argument(
        "--second", action="store_true", help="measure the labeller that judges reports in evaluations"
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: benchmarks/results.json")
    args = parser.parse_args()
    name, label = ("second_labeller", second_labeller()) if args.second else ("labeller", None)
    if args.csv:
        print(status_table(measure_labels(*read_table(args.csv), label=label)))
        return
    openi = read_openi(args.openi or OPENI) if args.openi or OPENI.exists() else None
    entries = []
    if HELDOUT.exists():
        entries.append({"name": f"{name}_heldout", **measure_labels(read_heldout(), label=label)})
        print(f"held-out texts\n{status_table(entries[0])}\n")
    else:
        print(f"held-out texts: skipped; there is no {HELDOUT.relative_to(REPOSITORY)}")
    if openi is None:
        print("OpenI: skipped; run `make openi`, or give --openi")
    else:
        entries.append({"name": f"{name}_openi", **measure_headings(openi, label)})
        print(f"OpenI's headings\n{heading_table(entries[-1])}")
    for entry in entries:
        store_result(entry, args.output)
    if args.output == RESULTS:
        DOCUMENT.write_text(with_tables(DOCUMENT.read_text("utf-8"), read_results()), encoding="utf-8")


def read_heldout() -> list[LabelledReport]:
    """The invented texts that no rule was written against, by kind."""
    return [LabelledReport((text,), labels) for rows in read_labelled(HELDOUT).values() for text, labels in rows]


def read_table(path: Path) -> tuple[list[LabelledReport], list[str]]:
    """The rows of a table that have a text, and the observations for which it has a column.

    A `No Finding` that is not positive counts as blank, because the labeller never denies it.
    """
    table = open_table(path, likely=("text", *SECTIONS))
    if table.said:
        print(table.said, file=sys.stderr)
    texts, observations = find_columns(table.header, str(path))
    reports, empty = [], 0
    for where, cells in table.rows([*texts, *observations], values=observations):
        if isinstance(cells, str):
            raise InputError(cells, where=where)
        labels = {}
        for column, name in observations.items():
            cell = cells[column].strip().removesuffix(".0")
            if cell and cell not in STATUSES:
                raise InputError(f"column {column!r} has none of 1, 0, -1 and blank; fix the value", where=where)
            if cell and (name, cell) not in ((NO_FINDING, "0"), (NO_FINDING, "-1")):
                labels[name] = STATUSES[cell]
        if any(cells[column].strip() for column in texts):
            reports.append(LabelledReport(tuple(cells[column] for column in texts), labels))
        else:
            empty += 1
    if not reports:
        raise InputError("no row has a text; fill the column of the reports", where=str(path))
    if empty:
        print(f"{empty} rows without a text are left out", file=sys.stderr)
    return reports, [name for name in OBSERVATIONS if name in observations.values()]


def find_columns(header: Sequence[str], where: str) -> tuple[list[str], dict[str, str]]:
    """The columns with the text, and the observation of each column that has one."""
    by_key = {name.casefold(): name for name in header}
    texts = [by_key["text"]] if "text" in by_key else [by_key[key] for key in SECTIONS if key in by_key]
    if not texts:
        raise InputError("no column `text`, `findings` or `impression`; rename the one with the report", where)
    observations = {}
    for column in header:
        try:
            name = observation_name(column)
        except InputError:
            continue  # another column
        if name in observations.values():
            raise InputError(f"two columns for {name}; remove one", where)
        observations[column] = name
    if not observations:
        raise InputError(f"no column of an observation; name them {', '.join(OBSERVATIONS)}", where)
    return texts, observations


def read_openi(path: Path) -> list[tuple[tuple[str, str], list[str]]]:
    """Findings and impression of each report of OpenI that has words and was indexed, and its headings."""
    source = OpenI(path)
    found = []
    for item in source.items():
        report = source.read(item)
        if isinstance(report, RejectedReport) or not (report.findings or report.impression):
            continue
        headings = source.headings(item)
        if headings and NOT_INDEXED not in headings:
            found.append(((report.findings, report.impression), headings))
    return found


def measure_labels(
    reports: Sequence[LabelledReport], names: Sequence[str] = OBSERVATIONS, label: "Labeller | None" = None
) -> dict[str, Any]:
    """The labeller against labels of these observations: scores of each with each status, of all pairs, of the uncertain ones."""
    if label:  # the second labeller does not read No Finding
        names = [name for name in names if name != NO_FINDING]
        reports = [report._replace(labels=of_names(report.labels, names)) for report in reports]
    read, milliseconds = (label or label_timed)([report.sections for report in reports])
    read = [of_names(labels, names) for labels in read]
    right, given, wanted = Counter(), Counter(), Counter()
    for report, labels in zip(reports, read, strict=True):
        wanted.update(report.labels.items())
        given.update(labels.items())
        right.update(report.labels.items() & labels.items())

    def scores(pairs: Sequence[tuple[str, Status]]) -> dict[str, Any]:
        counts = [sum(counter[pair] for pair in pairs) for counter in (right, given, wanted)]
        return {
            **dict(zip(("right", "given", "wanted"), counts, strict=True)),
            **_rounded(precision_recall_f1(*counts)),
        }

    everything = [(name, status) for name in names for status in Status]
    both = np.array([2 * len(r.labels.items() & labels.items()) for r, labels in zip(reports, read, strict=True)])
    whole = np.array([len(r.labels) + len(labels) for r, labels in zip(reports, read, strict=True)])
    interval = bootstrap_interval(
        lambda counts: (counts @ both) / np.maximum(counts @ whole, 1), [str(place) for place in range(len(reports))]
    )
    return {
        "reports": len(reports),
        "milliseconds_a_report": milliseconds,
        "all": scores(everything) | {"low": round(interval["low"], 3), "high": round(interval["high"], 3)},
        "uncertain": scores([pair for pair in everything if pair[1] == Status.UNCERTAIN]),
        "observations": {
            name: {
                status.value: scores([(name, status)])
                for status in Status
                if wanted[name, status] + given[name, status]
            }
            for name in names
        },
    }


def of_names(labels: Labels, names: Sequence[str]) -> Labels:
    """The labels of these observations."""
    return {name: status for name, status in labels.items() if name in names}


def measure_headings(
    reports: Sequence[tuple[tuple[str, str], list[str]]], label: "Labeller | None" = None
) -> dict[str, Any]:
    """The labeller against headings, which name what is present or possible; what none names is not thereby absent.

    Found is a heading whose observation is positive or uncertain. Wrong for certain is a positive in a report whose only
    heading is `normal`; a positive without a heading in another report may be right, and counts in `strict_precision` only.
    """
    read, milliseconds = (label or label_timed)([sections for sections, _ in reports])
    counts = {name: Counter() for name in HEADINGS}
    normal = Counter()
    for (_, headings), labels in zip(reports, read, strict=True):
        is_normal = headings == [NORMAL]
        normal["reports"] += is_normal
        normal["no_finding"] += is_normal and NO_FINDING in labels
        for name, pattern in HEADINGS.items():
            status = labels[name].value if name in labels else "blank"
            if any(re.fullmatch(pattern, heading) for heading in headings):
                counts[name][status] += 1
            elif status == Status.POSITIVE:
                counts[name]["in_normal" if is_normal else "elsewhere"] += 1
    return {
        "reports": len(reports),
        "milliseconds_a_report": milliseconds,
        "normal": dict(normal),
        "all": heading_scores(sum(counts.values(), Counter())),
        "observations": {name: heading_scores(count) for name, count in counts.items()},
    }


def heading_scores(count: Counter) -> dict[str, Any]:
    """Recall of headings, precision of positives, their F1, and the counts from which they come."""
    found, sure = count["positive"] + count["uncertain"], count["positive"]
    named = found + count["negative"] + count["blank"]
    recall = found / named if named else None
    precision = sure / (sure + count["in_normal"]) if sure + count["in_normal"] else None
    said = sure + count["in_normal"] + count["elsewhere"]
    f1 = 2 * precision * recall / (precision + recall) if precision and recall else None
    scores = {"precision": precision, "recall": recall, "f1": f1, "strict_precision": sure / said if said else None}
    places = ("positive", "uncertain", "negative", "blank", "in_normal", "elsewhere")
    return {"named": named, **{place: count[place] for place in places}, **_rounded(scores)}


def label_timed(texts: Sequence[tuple[str, ...]]) -> tuple[list[Labels], float]:
    """Labels of each text, and the median of the CPU time of a text in milliseconds, without the cache of sentences."""
    labels, seconds = [], []
    for text in texts:
        labeller._read_sentence.cache_clear()
        began = time.process_time()
        labels.append(labeller.label_report(*text))
        seconds.append(time.process_time() - began)
    return labels, round(1000 * statistics.median(seconds), 3)


# Labels of each text, and the milliseconds that a text takes
Labeller = Callable[[Sequence[tuple[str, ...]]], tuple[list[Labels], float]]


def second_labeller() -> Labeller:
    """That of evaluations, after training; its time is the mean, of distinct sentences."""
    linear = LinearLabeller()

    def label(texts: Sequence[tuple[str, ...]]) -> tuple[list[Labels], float]:
        began = time.process_time()
        labels = linear.label(["\n\n".join(text) for text in texts])
        return labels, round(1000 * (time.process_time() - began) / len(texts), 3)

    return label


def status_table(entry: dict[str, Any]) -> str:
    """The scores of [`measure_labels`] for the terminal."""
    lines = [f"{'observation':<28}{'status':<11}{'labelled':>9}{'precision':>11}{'recall':>9}{'F1':>8}"]
    rows = [(name, status, scores) for name, by in entry["observations"].items() for status, scores in by.items()]
    rows += [("all pairs", "", entry["all"]), ("uncertain pairs", "", entry["uncertain"])]
    for name, status, scores in rows:
        figures = f"{shown(scores['precision']):>11}{shown(scores['recall']):>9}{shown(scores['f1']):>8}"
        lines.append(f"{name:<28}{status:<11}{scores['wanted']:>9}{figures}")
    overall = entry["all"]
    lines.append(f"F1 of all pairs: {shown(overall['f1'])} [{shown(overall['low'])}, {shown(overall['high'])}] (95 %)")
    return "\n".join([*lines, speed(entry)])


def heading_table(entry: dict[str, Any]) -> str:
    """The scores of [`measure_headings`] for the terminal."""
    lines = [
        f"{'observation':<28}{'headings':>9}{'positive':>9}{'uncertain':>10}{'missed':>7}{'in normal':>10}{'elsewhere':>10}"
        f"{'precision':>11}{'recall':>8}{'F1':>7}{'strict precision':>18}"
    ]
    for name, scores in (*entry["observations"].items(), ("all", entry["all"])):
        missed = scores["negative"] + scores["blank"]
        lines.append(
            f"{name:<28}{scores['named']:>9}{scores['positive']:>9}{scores['uncertain']:>10}{missed:>7}"
            f"{scores['in_normal']:>10}{scores['elsewhere']:>10}{shown(scores['precision']):>11}{shown(scores['recall']):>8}"
            f"{shown(scores['f1']):>7}{shown(scores['strict_precision']):>18}"
        )
    normal = entry["normal"]
    lines.append(f"No Finding in {normal['no_finding']} of {normal['reports']} reports whose heading is `{NORMAL}`")
    return "\n".join([*lines, speed(entry)])


def speed(entry: dict[str, Any]) -> str:
    """How long a report takes."""
    return f"{entry['reports']} reports; {entry['milliseconds_a_report']:.2f} ms of CPU time a report (the rules: median, uncached)"


def shown(figure: float | None) -> str:
    """A figure with three digits, or a dash."""
    return "–" if figure is None else f"{figure:.3f}"


def with_tables(document: str, results: dict[str, dict[str, Any]]) -> str:
    """A document with the tables of the stored results between its marks."""
    heldout, openi = results["labeller_heldout"], results["labeller_openi"]
    overall, uncertain = heldout["all"], heldout["uncertain"]
    lines = [
        f"{heldout['reports']} invented texts: F1 {shown(overall['f1'])} [{shown(overall['low'])}, {shown(overall['high'])}]"
        f" over {overall['wanted']} pairs of observation and status, {shown(uncertain['f1'])} over {uncertain['wanted']} uncertain"
        f" ones; {heldout['milliseconds_a_report']:.2f} ms of CPU time a report ({heldout['processor']}).",
        "",
        "| observation | positive: F1 (reports) | negative: F1 (reports) | uncertain: F1 (reports) |",
        "|---|---:|---:|---:|",
        *(
            f"| {name} | {' | '.join(_cell(by.get(status)) for status in Status)} |"
            for name, by in heldout["observations"].items()
        ),
        "",
        f"{openi['reports']:,} reports of OpenI, {openi['milliseconds_a_report']:.2f} ms a report; No Finding in"
        f" {openi['normal']['no_finding']:,} of the {openi['normal']['reports']:,} whose only heading is `{NORMAL}`.",
        "",
        "| observation | headings | positive | uncertain | missed | wrong in normal | elsewhere | precision | recall | F1"
        " | strict precision |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, scores in (*openi["observations"].items(), ("all", openi["all"])):
        counts = (scores["named"], scores["positive"], scores["uncertain"], scores["negative"] + scores["blank"])
        counts += (scores["in_normal"], scores["elsewhere"])
        figures = [shown(scores[figure]) for figure in ("precision", "recall", "f1", "strict_precision")]
        lines.append(f"| {name} | {' | '.join(map(str, counts))} | {' | '.join(figures)} |")
    if {"second_labeller_heldout", "second_labeller_openi"} <= results.keys():
        invented, real = results["second_labeller_heldout"]["all"], results["second_labeller_openi"]["all"]
        lines += [
            "",
            f"The second labeller, without No Finding: F1 {shown(invented['f1'])}"
            f" [{shown(invented['low'])}, {shown(invented['high'])}] on the same invented texts; on OpenI precision"
            f" {shown(real['precision'])}, recall {shown(real['recall'])}, F1 {shown(real['f1'])}, strict precision"
            f" {shown(real['strict_precision'])}.",
        ]
    return with_table(document, "labeller quality", "labeller_quality.py", "\n".join(lines))


def _cell(scores: dict[str, Any] | None) -> str:
    return f"{shown(scores['f1'])} ({scores['wanted']})" if scores else ""


def _rounded(scores: dict[str, float | None]) -> dict[str, float | None]:
    return {name: None if figure is None else round(figure, 4) for name, figure in scores.items()}


if __name__ == "__main__":
    run(main)
