"""From the reports of a source to audited splits, with every report accounted for."""

import csv
import hashlib
import io
import os
import signal
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from radrecipes.data.csv_cells import guarded
from radrecipes.data.dataset_folder import SPLITS
from radrecipes.data.dropped_rows import refuse_many_dropped
from radrecipes.data.sources.report_source import (
    CONTRADICTORY,
    DROP_REASONS,
    EMPTY_REASONS,
    NOTHING_MENTIONED,
    RejectedReport,
    Report,
    ReportSource,
)
from radrecipes.data.splits import FRACTIONS, split_by_group
from radrecipes.errors import InputError, RadrecipesError
from radrecipes.files import write_atomically
from radrecipes.models.control_tokens import control_token_in
from radrecipes.radiology.deidentification import normalise_marks, without_marked_sentences, without_marks
from radrecipes.radiology.details import without_details
from radrecipes.radiology.earlier_studies import without_earlier_studies
from radrecipes.radiology.exams import other_exam
from radrecipes.radiology.labeller import label_report, recognises
from radrecipes.radiology.language import language_evidence
from radrecipes.radiology.observations import (
    OBSERVATIONS,
    Labels,
    Status,
    findings_lost,
    findings_present,
    format_observations,
    parse_observations,
)
from radrecipes.radiology.sentences import split_sentences

COLUMNS = ("id", "group", "observations", "findings", "impression")

# What is left out, and why; unlike DROP_REASONS these are not errors in the input.
FILTERS = {
    "other_exam": "the exam is not a chest radiograph",
    "not_english": "the text is not in English, the only language that the labelling rules know",
    **EMPTY_REASONS,
    "no_section": "there are neither findings nor an impression",
    "no_findings": "there are no findings",
    "no_impression": "there is no impression",
    "nothing_mentioned": "the CSV states nothing about any observation",
    "contradictory_labels": "the CSV states No Finding together with a finding",
    "only_earlier_studies": "a section only compares with earlier studies",
    "only_deidentified": "a section has nothing but de-identification marks",
    "only_details": "a section states only details",
    "normal_without_earlier_studies": "without comparisons with earlier studies its findings would be gone",
    "normal_without_deidentified": "without de-identification marks its findings would be gone",
    "normal_without_details": "without sides and measurements its findings would be gone",
}
# Of the sentences, on OpenI the labeller recognises 0.85, on the synthetic reports 0.87, on PadChest's Spanish ones 0.12.
LEAST_RECOGNISED = 0.5
_CHUNK = 256
# Reports after which another language is refused, so that a large source is not read to its end.
_LANGUAGE_SAMPLE = 1000


@dataclass(frozen=True)
class ReportOptions:
    """How reports are filtered, changed and labelled.

    Args:
        labels: `"relabel"` labels the text as it is kept, `"stated"` takes what the source states.
        sections: Whether `"both"` findings and impression must have words, or `"any"` of them.
        earlier_studies: `"drop"` comparisons with an earlier study, or `"keep"` them.
        deidentified: `"drop"` sentences with a de-identification mark, `"repair"` them, or `"normalise"` the marks to `___`.
        details: `"drop"` sides and measurements, which the observations do not contain, or `"keep"` them.
        turned_normal: `"drop"` studies whose findings are all gone after cleaning, or `"keep"` them as normal ones.
    """

    labels: str = "relabel"
    sections: str = "both"
    earlier_studies: str = "drop"
    deidentified: str = "drop"
    details: str = "drop"
    turned_normal: str = "drop"


# What is counted over all reports, by kind and name, for example `("changed", "details")`.
_Counts = Counter[tuple[str, str]]


class _Outcome(NamedTuple):
    """A report as it is kept, or why it cannot be used, or the filter that leaves it out."""

    report: Report | RejectedReport
    filtered: str = ""
    counts: _Counts = Counter()  # noqa: RUF012 (never changed)


def prepare_reports(
    source: ReportSource,
    options: ReportOptions,
    *,
    rejected_path: str | Path,
    official_split: bool = False,
    split_seed: int = 0,
    max_dropped: float = 0.005,
    processes: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[dict[str, pa.Table], dict[str, Any]]:
    """Read, clean, label and split the reports of a source; any number of processes gives the same result.

    Returns a table with `COLUMNS` for each split, in the order of the source, and the facts that the manifest reports.

    Args:
        rejected_path: CSV file for path and reason of every dropped report; removed if none is dropped.
        official_split: Take the split that the source states; otherwise patients are assigned, with the same
            proportion of normal studies in every split.
        max_dropped: Largest fraction of the reports that may be dropped; filtered ones do not count.
        progress: Called with the number of reports just processed.
    """
    table, hashed, rejected, counts = _read(source, options, processes, progress)
    _check_language(counts, source)
    read = source.count + len(source.rejected)
    _write_rejected(Path(rejected_path), rejected)
    dropped = {reason: [report.path for report in rejected if report.reason == reason] for reason in DROP_REASONS}
    refuse_many_dropped(dropped, DROP_REASONS, read, max_dropped, "reports", f"; all are listed in {rejected_path}")
    if not table.num_rows:
        filtered = _of_kind(counts, "filtered").most_common()
        reasons = ", ".join(f"{count} because {FILTERS[name]}" for name, count in filtered)
        raise InputError(f"no report is left of {read}: {reasons}; try --sections any, or keep what the filters drop")
    # Hundreds of thousands of reports have a few thousand different lists.
    labels_of = {stated: parse_observations(stated) for stated in table["observations"].unique().to_pylist()}
    splits = _split(table, labels_of, official_split, split_seed)
    counted = {split: _count(of_split, labels_of) for split, of_split in splits.items()}

    facts = {
        "source": [*source.files, *([{"file": source.folder, **hashed}] if source.folder else [])],
        "options": {
            **asdict(options),
            "split": "official" if official_split else "patient",
            **({} if official_split else {"split_seed": split_seed, "split_fractions": dict(FRACTIONS)}),
            "max_dropped": max_dropped,
        },
        "rows": {
            "read": read,
            "kept": table.num_rows,
            "dropped": {reason: len(paths) for reason, paths in dropped.items() if paths},
            "filtered": {name: counts["filtered", name] for name in FILTERS if counts["filtered", name]},
            "other_exams": dict(_of_kind(counts, "other_exams").most_common()),
            **{
                kind: dict(sorted(_of_kind(counts, kind).items()))
                for kind in ("changed", "labels_changed", "findings_lost")
            },
        },
        "sentences": {name: counts["sentences", name] for name in ("labelled", "recognised")},
        "splits": {split: rows for split, (rows, _) in counted.items()},
        "observations": {split: observations for split, (_, observations) in counted.items()},
        "leakage_audit": _audit(splits),
    }
    return splits, facts


def _of_kind(counts: _Counts, kind: str) -> Counter[str]:
    return Counter({name: count for (of, name), count in counts.items() if of == kind})


def _read(
    source: ReportSource, options: ReportOptions, processes: int | None, progress: Callable[[int], None] | None
) -> tuple[pa.Table, dict[str, Any], list[RejectedReport], _Counts]:
    """Kept reports with their stated splits, number and hash of all files, rejected reports, and counts."""
    rejected, counts = list(source.rejected), Counter()
    tree, hashed, seen = hashlib.sha256(), 0, set()
    schema = pa.schema([(column, pa.string()) for column in (*COLUMNS, "split")])
    parts = [schema.empty_table()]
    with _outcomes(source, options, processes) as chunks:
        for chunk in chunks:
            tree.update("".join([f"{report.path} {report.sha256.hex()}\n" for report, *_ in chunk]).encode())
            hashed += len(chunk)
            kept = []
            for outcome in chunk:
                report = outcome.report
                if isinstance(report, RejectedReport):
                    if report.reason in EMPTY_REASONS:
                        counts["filtered", report.reason] += 1
                    else:
                        rejected.append(report)
                elif report.id in seen:
                    rejected.append(RejectedReport(report.path, "duplicate_study"))
                else:
                    seen.add(report.id)
                    counts.update(outcome.counts)
                    if outcome.filtered:
                        counts["filtered", outcome.filtered] += 1
                    else:
                        kept.append(report._asdict())
            # Arrow stores the text without a Python object per cell.
            parts.append(pa.Table.from_pylist(kept, schema))
            if hashed - len(chunk) < _LANGUAGE_SAMPLE <= hashed:
                _check_language(counts, source)
            if progress:
                progress(len(chunk))
    table, hashes = pa.concat_tables(parts).combine_chunks(), {"reports": hashed, "sha256": tree.hexdigest()}
    return table, hashes, sorted(rejected), counts


def _check_language(counts: _Counts, source: ReportSource) -> None:
    """Refuse reports that the rules cannot label; stated labels are not counted here."""
    other, english = counts["language", "other"], counts["language", "English"]
    if counts["sentences", "recognised"] < LEAST_RECOGNISED * counts["sentences", "labelled"]:
        other += counts["language", "any"]
    if other <= english:
        return
    stated = [kind for kind in source.label_sources if kind != "relabel"]
    raise InputError(
        f"{other} of the first {other + english} reports are not in English, the only language that the labelling rules"
        f" know; {f'use the labels of the source with --label-source {stated[0]}' if stated else 'use labels that a source states'}"
    )


@contextmanager
def _outcomes(
    source: ReportSource, options: ReportOptions, processes: int | None
) -> Iterator[Iterator[list[_Outcome]]]:
    """Chunks of outcomes in the order of the source, from as many processes as are worth starting."""
    items = source.items()
    chunks = iter(lambda: list(islice(items, _CHUNK)), [])
    process = partial(_process, source, options)
    processes = min(processes or os.cpu_count() or 1, -(-source.count // _CHUNK))
    if processes <= 1:
        yield map(process, chunks)
        return
    # Ctrl-C reaches every process of the terminal; the main one ends the others.
    ignore = signal.SIGINT, signal.SIG_IGN
    executor = ProcessPoolExecutor(processes, initializer=signal.signal, initargs=ignore)
    try:
        # Only a few chunks ahead, so that memory does not grow with the source.
        yield _in_order((executor.submit(process, chunk) for chunk in chunks), ahead=4 * processes)
    except BrokenProcessPool:
        raise RadrecipesError("a process was killed, probably for lack of memory; choose fewer --processes") from None
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _in_order(futures: Iterator[Future], ahead: int) -> Iterator[list[_Outcome]]:
    waiting = deque(islice(futures, ahead))
    while waiting:
        yield waiting.popleft().result()
        waiting.extend(islice(futures, 1))


def _process(source: ReportSource, options: ReportOptions, items: list) -> list[_Outcome]:
    cleaners = _cleaners(options)
    return [_prepare(source.read(item), options, cleaners) for item in items]


def _prepare(
    report: Report | RejectedReport, options: ReportOptions, cleaners: list[tuple[str, Callable[[str], str]]]
) -> _Outcome:
    if isinstance(report, RejectedReport):
        return _Outcome(report)
    if exam := other_exam(report.exam):
        return _Outcome(report, "other_exam", Counter([("other_exams", exam)]))
    both, relabel = options.sections == "both", options.labels == "relabel"
    sections = report.findings, report.impression
    if not any(sections):
        return _Outcome(report, "no_section")
    if both and not all(sections):
        return _Outcome(report, "no_impression" if report.findings else "no_findings")
    if not relabel and report.observations in _NO_LABELS:
        return _Outcome(report, _NO_LABELS[report.observations])
    language = language_evidence(" ".join(sections)) if relabel else 0
    if language < 0:
        return _Outcome(report, "not_english", Counter([("language", "other")]))
    sections, labels, filtered, counts = _clean(sections, both, cleaners)
    if language:
        counts["language", "English"] = 1
    if filtered and not (filtered in _TURNED_NORMAL and options.turned_normal == "keep"):
        return _Outcome(report, filtered, counts)
    if any(map(control_token_in, sections)):
        # The model would learn to stop there.
        return _Outcome(RejectedReport(report.path, "control_token", sha256=report.sha256))
    stated = report.observations
    if relabel:
        stated = format_observations(labels or label_report(*sections))
        sentences = [part for text in sections for part in split_sentences(text) if any(map(str.isalpha, part))]
        counts["sentences", "labelled"] = len(sentences)
        counts["sentences", "recognised"] = sum(map(recognises, sentences))
        counts["language", "any"] = int(not language and bool(sentences))
    kept = report._replace(observations=stated, findings=sections[0], impression=sections[1])
    return _Outcome(kept, counts=counts)


class _Cleaned(NamedTuple):
    """Sections after cleaning, their labels if a cleaner changed them, and a filter as in [`_Outcome`]."""

    sections: tuple[str, str]
    labels: Labels | None
    filtered: str
    counts: _Counts


def _clean(sections: tuple[str, str], both: bool, cleaners: list[tuple[str, Callable[[str], str]]]) -> _Cleaned:
    """Apply the cleaners, and compare the labels before and after; after each cleaner only if they are different in the end."""
    changed, stages, counts = [], [sections], Counter()
    for name, clean in cleaners:
        cleaned = clean(sections[0]), clean(sections[1])
        if cleaned == sections:
            continue
        changed.append(name)
        counts["changed", name] = 1
        sections = cleaned
        stages.append(sections)
        if not any(sections) or (both and not all(sections)):
            return _Cleaned(sections, None, f"only_{name}", counts)
    if not changed:
        return _Cleaned(sections, None, "", counts)
    labels = [label_report(*stages[0]), label_report(*sections)]
    if labels[0] == labels[1]:
        return _Cleaned(sections, labels[1], "", counts)
    labels[1:1] = [label_report(*stage) for stage in stages[1:-1]]
    filtered = ""
    for name, before, after in zip(changed, labels, labels[1:], strict=False):
        if after != before:
            counts["labels_changed", name] = 1
        if findings_lost(before, after):
            counts["findings_lost", name] = 1
            filtered = f"normal_without_{name}"
    return _Cleaned(sections, labels[-1], "" if findings_present(labels[-1]) else filtered, counts)


_NO_LABELS = {NOTHING_MENTIONED: "nothing_mentioned", CONTRADICTORY: "contradictory_labels"}
_TURNED_NORMAL = [name for name in FILTERS if name.startswith("normal_without_")]
_OF_MARKS = {"drop": without_marked_sentences, "repair": without_marks, "normalise": normalise_marks}


def _cleaners(options: ReportOptions) -> list[tuple[str, Callable[[str], str]]]:
    # Earlier studies first: their dates are marks, and a sentence that can be shortened is not dropped.
    cleaners = [("deidentified", _OF_MARKS[options.deidentified])]
    if options.earlier_studies == "drop":
        cleaners.insert(0, ("earlier_studies", without_earlier_studies))
    if options.details == "drop":
        cleaners.append(("details", without_details))
    return cleaners


def _write_rejected(path: Path, rejected: list[RejectedReport]) -> None:
    if not rejected:
        path.unlink(missing_ok=True)
        return
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(("path", "reason"))
    for report in rejected:
        reason = DROP_REASONS[report.reason] + (f"; {report.hint}" if report.hint else "")
        writer.writerow((guarded(report.path), reason))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lines.getvalue())
    except OSError as error:
        raise InputError(f"cannot be written ({error.strerror}); choose another --output", str(path)) from None


def _split(table: pa.Table, labels_of: dict[str, Labels], official: bool, seed: int) -> dict[str, pa.Table]:
    assigned, table = table["split"], table.drop_columns("split")
    if not official:
        kinds = {text: "abnormal" if findings_present(labels) else "normal" for text, labels in labels_of.items()}
        of_rows = [kinds[text] for text in table["observations"].to_pylist()]
        assigned = pa.array(split_by_group(table["group"].to_pylist(), of_rows, seed=seed))
    splits = {split: table.filter(pc.equal(assigned, split)).combine_chunks() for split in SPLITS}
    for split in SPLITS:
        if not splits[split].num_rows:
            raise InputError(
                f"the remaining {table.num_rows} reports give no {split} split; give more patients or another --split"
            )
    return splits


def _count(table: pa.Table, labels_of: dict[str, Labels]) -> tuple[dict[str, int], dict[str, dict[str, int]]]:
    """Rows, groups and normal reports of a split, and how often each observation has each status."""
    normal, statuses = 0, {name: {status.value: 0 for status in Status} for name in OBSERVATIONS}
    for text, count in Counter(table["observations"].to_pylist()).items():
        normal += 0 if findings_present(labels_of[text]) else count
        for name, status in labels_of[text].items():
            statuses[name][status.value] += count
    return {"rows": table.num_rows, "groups": len(table["group"].unique()), "normal": normal}, statuses


def _audit(splits: dict[str, pa.Table]) -> dict[str, dict[str, int]]:
    """What validation and test have in common with training: patients, and verbatim reports (normal ones often repeat)."""
    groups, texts = splits["train"]["group"].unique(), _texts(splits["train"])
    return {
        split: {
            "rows": splits[split].num_rows,
            "shared_groups": pc.sum(pc.is_in(splits[split]["group"].unique(), groups)).as_py(),
            "verbatim": pc.sum(pc.is_in(_texts(splits[split]), texts)).as_py(),
        }
        for split in ("validation", "test")
    }


def _texts(table: pa.Table) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(table["findings"], table["impression"], "\n")
