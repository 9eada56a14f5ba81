"""Small sets of reports in the layouts of MIMIC-CXR, OpenI and a department's exports, written by hand."""

import base64
import csv
import gzip
import json
from pathlib import Path

import openpyxl

from radrecipes.radiology.observations import OBSERVATIONS

FINDINGS = {
    "clear": "The lungs are clear. There is no pleural effusion.",
    "effusion": "There is a pleural effusion. The heart is not enlarged.",
    "edema": "There is pulmonary edema. No pneumothorax is seen.",
}
IMPRESSIONS = {"clear": "No acute process.", "effusion": "Pleural effusion.", "edema": "Pulmonary edema."}
POSITIVE = {"clear": "No Finding", "effusion": "Pleural Effusion", "edema": "Edema"}
LABEL_COLUMNS = sorted(OBSERVATIONS)


def report_text(kind="clear", extra=""):
    """A report as in MIMIC-CXR: each line after one space, headers in capitals."""
    return (
        "                                 FINAL REPORT\n EXAMINATION:  CHEST (PA AND LAT)\n \n INDICATION:  ___ year old with"
        f" cough\n \n FINDINGS: \n \n {FINDINGS[kind]}\n {extra}\n \n IMPRESSION: \n \n {IMPRESSIONS[kind]}\n"
    )


def kind_of(patient, number):
    return list(FINDINGS)[(patient + number) % 3]


def write_mimic(
    root: Path, patients=30, studies=3, *, csv_suffix=".csv.gz", base="files"
) -> list[tuple[str, str, Path]]:
    """A tree with its CSV files; returns patient, study and path of each report."""
    written = []
    for patient in range(10_000_000, 10_000_000 + patients):
        for number in range(studies):
            study = f"5{patient % 10_000_000:05d}{number:02d}"
            path = root / base / f"p{str(patient)[:2]}" / f"p{patient}" / f"s{study}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(report_text(kind_of(patient, number)), encoding="utf-8")
            written.append((str(patient), study, path))
    for labeller in ("chexpert", "negbio"):
        rows = []
        for patient, study, _ in written:
            kind = kind_of(int(patient), int(study[-2:]))
            values = {POSITIVE[kind]: "1.0", "Fracture": "0.0" if kind != "clear" else "", "Pneumonia": ""}
            rows.append([patient, study, *(values.get(name, "") for name in LABEL_COLUMNS)])
        write_csv(root / f"mimic-cxr-2.0.0-{labeller}{csv_suffix}", ["subject_id", "study_id", *LABEL_COLUMNS], rows)
    rows = []
    for position, (patient, study, _) in enumerate(written):
        split = ("train", "train", "validate", "test")[(position // studies) % 4]
        rows += [[f"image{position}-{view}", study, patient, split] for view in range(2)]
    write_csv(root / f"mimic-cxr-2.0.0-split{csv_suffix}", ["dicom_id", "study_id", "subject_id", "split"], rows)
    return written


def write_csv(path, header, rows):
    """A CSV file, gzipped if its name says so."""
    with (
        gzip.open(path, "wt", encoding="utf-8", newline="")
        if path.suffix == ".gz"
        else path.open("w", newline="") as file
    ):
        csv.writer(file).writerows([header, *rows])


def openi_xml(number, findings, impression):
    """A report of OpenI; `None` leaves the text of a section out."""
    sections = "".join(
        f'<AbstractText Label="{label}">{text}</AbstractText>'
        if text is not None
        else f'<AbstractText Label="{label}"/>'
        for label, text in (
            ("COMPARISON", "None."),
            ("INDICATION", "Cough"),
            ("FINDINGS", findings),
            ("IMPRESSION", impression),
        )
    )
    return (
        f'<?xml version="1.0" encoding="utf-8"?><eCitation><uId id="CXR{number}"/><MedlineCitation><Article><Abstract>'
        f"{sections}</Abstract></Article></MedlineCitation><MeSH><major>normal</major></MeSH></eCitation>"
    )


# Invented, in the phrasing of OpenI: findings and impression, with its masks, list numbers and comparisons.
OPENI_LIKE = (
    ("Heart size XXXX within normal limits. No focal airspace disease.", "1. No acute finding in the chest."),
    (
        "Calcified lymph XXXX at the hilum. XXXX opacities at the base, XXXX atelectasis. The heart is not enlarged.",
        "No acute disease.",
    ),
    (
        "Stable cardiomegaly. Aortic XXXX calcification. There is no XXXX of effusion.",
        "1. Stable cardiomegaly. 2. No effusion.",
    ),
    (
        "Blunted right costophrenic XXXX. Interval development of a small effusion.",
        "Small right effusion, new since XXXX.",
    ),
    (
        "The XXXX are clear. Median sternotomy XXXX are intact.",
        "Results were discussed with Dr. XXXX at XXXX. No acute disease.",
    ),
)


def write_mimic_like_openi(root: Path, patients=40) -> None:
    """A tree in MIMIC-CXR's layout with the marks of MIMIC-CXR in texts that are phrased like those of OpenI."""
    for position, (_, _, path) in enumerate(write_mimic(root, patients)):
        findings, impression = (text.replace("XXXX", "___") for text in OPENI_LIKE[position % len(OPENI_LIKE)])
        text = report_text().replace(FINDINGS["clear"], findings).replace(IMPRESSIONS["clear"], impression)
        path.write_text(text, encoding="utf-8")


def write_openi(folder: Path, count=60):
    """XML files in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, count + 1):
        kind = kind_of(number, 0)
        (folder / f"{number}.xml").write_text(openi_xml(number, FINDINGS[kind], IMPRESSIONS[kind]), encoding="utf-8")


def department_reports(count=60):
    """Id, patient, findings and impression of reports that are all different."""
    for number in range(count):
        kind = kind_of(number, 0)
        yield f"R{number}", f"P{number % 30:03d}", f"{FINDINGS[kind]} Image {number} is upright.", IMPRESSIONS[kind]


def write_report_table(path: Path) -> None:
    """A table as departments export it: sections in a CSV or JSONL file, complete reports in an Excel file."""
    rows = list(department_reports())
    if path.suffix == ".csv":
        write_csv(path, ["uid", "indication", "findings", "impression"], [(row[0], "Cough", *row[2:]) for row in rows])
    elif path.suffix == ".xlsx":
        book = openpyxl.Workbook()
        book.active.append(["Accession", "MRN", "Procedure", "Report Text"])
        for name, patient, findings, impression in rows:
            text = f"FINDINGS: {findings}\nIMPRESSION: {impression}"
            book.active.append([name, patient, "XR CHEST 2 VIEWS", text])
        book.save(path)
    else:
        splits = ("train", "train", "val", "test")
        lines = [
            {"id": name, "findings": findings, "impression": impression, "split": splits[number % 4]}
            for number, (name, _, findings, impression) in enumerate(rows)
        ]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def write_text_reports(folder: Path) -> None:
    """A folder of text files, with the patient in their names."""
    (folder / "2024").mkdir(parents=True, exist_ok=True)
    for name, patient, findings, impression in department_reports():
        text = f"FINDINGS: {findings}\n\nIMPRESSION: {impression}\n"
        (folder / "2024" / f"{patient}_{name}.txt").write_text(text, encoding="utf-8")


def write_hl7_reports(folder: Path) -> None:
    """A folder with one HL7 v2 result message a file."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, patient, findings, impression in department_reports():
        segments = (
            f"MSH|^~\\&|RIS|X|Y|Z|20240101120000||ORU^R01|{name}|P|2.5.1",
            f"PID|1||{patient}",
            f"OBR|1||{name}|71046^XR CHEST 2 VIEWS|||20240101||||||||||||||||||F",
            f"OBX|1|TX|18782-3^FINDINGS||FINDINGS: {findings}||||||F",
            f"OBX|2|TX|18782-3^IMPRESSION||IMPRESSION: {impression}||||||F",
        )
        (folder / f"{name}.hl7").write_text("\r".join(segments) + "\r", encoding="utf-8")


def write_fhir_reports(path: Path) -> None:
    """FHIR DiagnosticReport resources, one a line."""
    lines = []
    for name, patient, findings, impression in department_reports():
        text = base64.b64encode(f"FINDINGS: {findings}\nIMPRESSION: {impression}".encode()).decode()
        resource = {"resourceType": "DiagnosticReport", "id": name, "status": "final", "code": {"text": "XR CHEST"}}
        resource |= {"subject": {"reference": f"Patient/{patient}"}}
        lines.append(json.dumps({**resource, "presentedForm": [{"contentType": "text/plain", "data": text}]}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
