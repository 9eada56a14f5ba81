"""Writes synthetic chest X-ray reports in the layout of MIMIC-CXR, with label tables and the true labels."""

import csv
import gzip
import io
import json
import os
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from radrecipes.data.synthetic_reports.layout import write_report
from radrecipes.data.synthetic_reports.patients import follow_patient
from radrecipes.data.synthetic_reports.writing import combine_labels
from radrecipes.errors import InputError
from radrecipes.owned_folder import complete_folder
from radrecipes.radiology.observations import NO_FINDING, OBSERVATIONS, Labels, Status, findings_present

MOST_STUDIES = 8
MOST_PATIENTS, MOST_REPORTS = 1_000_000, 2_000_000
# Fraction of altered labels in the second table, which imitates another labeller.
NOISE_FRACTION = 0.025
SPLIT_FRACTIONS = (("train", 0.75), ("validate", 0.1), ("test", 0.15))
GENERATOR_FILE = "generator.json"
TRUTH_FILE = "truth.csv.gz"
TABLES = ("mimic-cxr-2.0.0-chexpert.csv.gz", "mimic-cxr-2.0.0-negbio.csv.gz", "mimic-cxr-2.0.0-split.csv.gz")
_VALUES = {Status.POSITIVE: "1.0", Status.NEGATIVE: "0.0", Status.UNCERTAIN: "-1.0"}
# The tables of MIMIC-CXR have their columns in alphabetical order.
_COLUMNS = tuple(sorted(OBSERVATIONS))


def write_synthetic_tree(
    folder: str | Path,
    seed: int = 0,
    patients: int = 900,
    studies: int = 2400,
    on_progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Write synthetic reports in the layout of MIMIC-CXR, completely or not at all; equal arguments give equal bytes.

    Next to the reports (`files/p10/p10000000/s50000000.txt`) are the tables of MIMIC-CXR-JPG: true labels of the
    impression (of the findings if there is no impression), the same with a little noise, and a split by patient with
    one row per image. `truth.csv.gz` has the labels of findings and impression together. `generator.json`, whose
    content is returned, marks the tree as synthetic. Patients have 1 to 8 studies; `studies` is the total.
    """
    folder = Path(folder)
    if not 1 <= patients <= MOST_PATIENTS or not patients <= studies <= min(MOST_STUDIES * patients, MOST_REPORTS):
        raise InputError(
            f"{studies} studies of {patients} patients cannot be made; choose at least 1 patient, and 1 to {MOST_STUDIES} "
            f"studies for each (at most {MOST_PATIENTS} patients, {MOST_REPORTS} studies)"
        )
    if os.path.lexists(folder):
        raise InputError("exists already; choose another --output or remove it", where=str(folder))
    with complete_folder(folder) as temporary:
        return _write_tree(temporary, seed, patients, studies, on_progress or (lambda count: None))


def _write_tree(
    folder: Path, seed: int, patients: int, studies: int, on_progress: Callable[[int], None]
) -> dict[str, Any]:
    rng = random.Random(seed)
    patient_ids = sorted(rng.sample(range(10_000_000, 20_000_000), patients))
    study_ids = rng.sample(range(50_000_000, 60_000_000), studies)
    counts = _studies_per_patient(studies, patients, rng)
    split_of = _split(patients, rng)

    chexpert, negbio, truth, images = [], [], [], []
    splits, normal = {name: 0 for name, _ in SPLIT_FRACTIONS}, 0
    for patient, (patient_id, count) in enumerate(zip(patient_ids, counts, strict=True)):
        patient_folder = folder / "files" / f"p{patient_id // 1_000_000}" / f"p{patient_id}"
        patient_folder.mkdir(parents=True)
        for study in follow_patient(count, rng):
            study_id, report = study_ids.pop(), write_report(study, rng)
            (patient_folder / f"s{study_id}.txt").write_text(report.text, encoding="utf-8", newline="\n")
            # The tables label the conclusion.
            conclusion = report.impression or report.findings
            concluded = combine_labels(conclusion)
            meant = combine_labels(report.findings + report.impression)
            chexpert.append((patient_id, study_id, *_values(concluded)))
            negbio.append(
                (patient_id, study_id, *_values(_add_noise(concluded, combine_labels(conclusion, chosen=True), rng)))
            )
            truth.append((study_id, *_values(meant)))
            for _ in range(rng.choice((1, 1, 2, 2, 3))):
                images.append((_dicom_id(rng), study_id, patient_id, split_of[patient]))
            splits[split_of[patient]] += 1
            normal += NO_FINDING in meant
            on_progress(1)

    for name, rows in zip(TABLES[:2], (chexpert, negbio), strict=True):
        _write_table(folder / name, ("subject_id", "study_id", *_COLUMNS), sorted(rows))
    _write_table(folder / TABLES[2], ("dicom_id", "study_id", "subject_id", "split"), images)
    _write_table(folder / TRUTH_FILE, ("study_id", *_COLUMNS), sorted(truth))
    facts = {
        "synthetic": True,
        "note": "Synthetic chest X-ray reports, written by a program from invented phrases; no patient's text.",
        "generator": f"{write_synthetic_tree.__module__}.{write_synthetic_tree.__qualname__}",
        "seed": seed,
        "patients": patients,
        "studies": studies,
        "images": len(images),
        "splits": splits,
        "normal_studies": normal,
    }
    (folder / GENERATOR_FILE).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return facts


def _studies_per_patient(studies: int, patients: int, rng: random.Random) -> list[int]:
    """Number of studies of each patient, at least one; a few have many."""
    counts = [1] * patients
    weights = [rng.expovariate(1) for _ in range(patients)]
    missing = studies - patients
    while missing:
        # Patients with the maximum are left out, and their surplus is sampled again.
        open_ = [patient for patient in range(patients) if counts[patient] < MOST_STUDIES]
        for patient in rng.choices(open_, [weights[patient] for patient in open_], k=missing):
            if counts[patient] < MOST_STUDIES:
                counts[patient] += 1
                missing -= 1
    return counts


def _split(patients: int, rng: random.Random) -> list[str]:
    """A split for each patient: exact fractions in random order."""
    held_out = {name: max(round(patients * fraction), min(1, patients - 2)) for name, fraction in SPLIT_FRACTIONS[1:]}
    names = [name for name, count in held_out.items() for _ in range(max(count, 0))]
    names += ["train"] * (patients - len(names))
    rng.shuffle(names)
    return names


def _add_noise(labels: Labels, chosen: Labels, rng: random.Random) -> Labels:
    """The labels of a slightly worse labeller: some statuses wrong, some mentions missed.

    What the texts were chosen to state decides how often `rng` is asked, so that no convention of labels changes a text.
    """
    noisy = {name: status for name, status in labels.items() if name != NO_FINDING}
    for name, status in chosen.items():
        if name != NO_FINDING and rng.random() < NOISE_FRACTION:
            noisy.pop(name, None)
            if rng.random() < 0.7:
                noisy[name] = rng.choice([other for other in Status if other != status])
    if not findings_present(noisy):
        noisy[NO_FINDING] = Status.POSITIVE
    return noisy


def _values(labels: Labels) -> list[str]:
    return [_VALUES[labels[name]] if name in labels else "" for name in _COLUMNS]


def _dicom_id(rng: random.Random) -> str:
    digits = f"{rng.getrandbits(160):040x}"
    return "-".join(digits[start : start + 8] for start in range(0, 40, 8))


def _write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    # Neither file name nor time in the gzip header: the same rows give the same bytes.
    with (
        path.open("wb") as file,
        gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed,
        io.TextIOWrapper(packed, encoding="utf-8", newline="") as text,
    ):
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
