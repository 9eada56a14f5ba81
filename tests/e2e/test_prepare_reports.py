"""Runs `scripts/prepare_data.py report` as a user does."""

import csv
import gzip
import json
import re
import shutil
import zipfile
from concurrent.futures import ThreadPoolExecutor

import datasets
import pytest
from conftest import REPOSITORY, run_script
from report_trees import FINDINGS, IMPRESSIONS, write_mimic, write_mimic_like_openi, write_openi

from e2e.conftest import Called
from radrecipes.data.prepared import load_prepared_dataset
from radrecipes.data.sources.registry import REPORT_SOURCES
from radrecipes.data.sources.report_source import Report, ReportSource

PLANTED = "Zanzibar quokka"


def prepare(folder, *words):
    return run_script(folder, REPOSITORY / "scripts" / "prepare_data.py", "report", *words)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def one_line(done, *parts):
    """Exit code 2 and one line on standard error, which contains these parts."""
    lines = [line for line in done.stderr.split("\n") if line and "reports/s]" not in line]
    code = done.code if isinstance(done, Called) else done.returncode
    assert code == 2 and len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    for part in parts:
        assert part in lines[0]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A tree in MIMIC-CXR's layout. Read only."""
    root = tmp_path_factory.mktemp("work")
    write_mimic(root / "mimic", patients=240)
    return root


def test_a_tree_becomes_a_dataset_that_datasets_loads_whatever_the_number_of_processes(tree, tmp_path):
    command = ["--source", "mimic-cxr", "--root", tree / "mimic"]
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(
            lambda number: prepare(tmp_path, *command, "--output", f"{number}/reports", "--processes", number), (1, 2)
        )
    assert (one.returncode, two.returncode) == (0, 0), one.stderr + two.stderr
    assert "reports read" in one.stdout and "written to 1/reports (access: credentialed" in one.stdout
    assert "720/720" in one.stderr
    assert contents(tmp_path / "1" / "reports") == contents(tmp_path / "2" / "reports")
    dataset = load_prepared_dataset(tmp_path / "1" / "reports")
    assert (dataset.task, dataset.access, dataset.label_set) == ("report", "credentialed", None)
    assert str(tmp_path) not in json.dumps(dataset.manifest) and str(tree) not in json.dumps(dataset.manifest)
    loaded = datasets.load_dataset(str(tmp_path / "1" / "reports"), cache_dir=str(tmp_path / "cache"))
    assert {split: loaded[split].num_rows for split in loaded} == {
        split: rows.num_rows for split, rows in dataset.splits.items()
    }
    assert loaded["test"].column_names == ["id", "group", "observations", "findings", "impression"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2", "cache"]

    refused = prepare(tmp_path, *command, "--output", "1/reports")
    one_line(refused, "1/reports: exists; add --overwrite")
    stated = prepare(
        tmp_path, *command, "--output", "1/reports", "--overwrite", "--label-source", "csv", "--labels", "negbio",
        "--split", "official", "--license", "other",
    )  # fmt: skip
    assert stated.returncode == 0, stated.stderr
    manifest = load_prepared_dataset(tmp_path / "1" / "reports").manifest
    assert (manifest["labels"], manifest["options"]["split"]) == ("negbio", "official")
    assert "`negbio` CSV" in (tmp_path / "1" / "reports" / "README.md").read_text()


def test_mimic_s_layout_with_real_phrasing_goes_to_the_end(tmp_path, monkeypatch, call):
    """Whoever has the credentials only changes the path."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scripts").symlink_to(REPOSITORY / "scripts")
    write_mimic_like_openi(tmp_path / "mimic")
    command = ("prepare_data", "report", "--source", "mimic-cxr", "--root", "mimic", "--output")
    repaired = call(*command, "repaired", "--deidentified", "repair")
    assert repaired.code == 0, repaired.stderr
    dataset = load_prepared_dataset(tmp_path / "repaired")
    rows = dataset.manifest["rows"]
    assert (rows["read"], rows["kept"], rows["findings_lost"]) == (120, 120, {})
    text = " ".join(
        f"{row['findings']} {row['impression']}" for split in dataset.splits.values() for row in split.to_list()
    )
    assert not re.search("___|XXXX|stable|interval|right|Dr", text, re.IGNORECASE)
    assert "Opacities at the base, likely atelectasis." in text and "Small effusion" in text

    # By default the sentences with marks go, and what this costs is said.
    dropped = call(*command, "dropped", "--split", "official")
    assert dropped.code == 0, dropped.stderr
    assert "without de-identification marks its findings would be gone" in dropped.stdout
    assert call(*command, "stated", "--label-source", "csv").code == 0


def test_a_generated_tree_is_synthetic_and_nothing_else_is(tree, tmp_path):
    shutil.copytree(tree / "mimic", tmp_path / "mimic")
    command = ["--source", "mimic-cxr", "--root", "mimic", "--output", "out", "--access", "synthetic"]
    one_line(prepare(tmp_path, *command), "--access synthetic is for generated reports only", "generator.json")
    (tmp_path / "mimic" / "generator.json").write_text('{"synthetic": true, "generator": "tests", "seed": 11}')
    done = prepare(tmp_path, *command[:-2])
    assert done.returncode == 0 and "(access: synthetic" in done.stdout
    manifest = load_prepared_dataset(tmp_path / "out").manifest
    assert manifest["generator"] == {"name": "tests", "seed": 11} and manifest["license"] == "apache-2.0"
    assert "with seed 11" in (tmp_path / "out" / "README.md").read_text()


def test_openi_and_pairs(tmp_path):
    write_openi(tmp_path / "ecgen-radiology")
    done = prepare(tmp_path, "--source", "openi", "--root", ".", "--output", "openi")
    assert done.returncode == 0, done.stderr
    openi = load_prepared_dataset(tmp_path / "openi")
    assert (openi.access, openi.manifest["license"]) == ("registered", "cc-by-nc-nd-4.0")
    assert openi.manifest["options"]["deidentified"] == "repair"
    lines = [
        {"labels": f"{name}: 1. \nFindings:", "text": FINDINGS[kind], "mrn": number % 20}
        for number in range(60)
        for name, kind in (("Edema", "edema"), ("Pleural Effusion", "effusion"))
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = prepare(
        tmp_path, "--source", "jsonl", "--root", "pairs.jsonl", "--output", "pairs", "--prompt-column", "labels",
        "--completion-column", "text", "--group-column", "mrn", "--sections", "any",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    dataset = load_prepared_dataset(tmp_path / "pairs")
    assert dataset.access == "credentialed" and dataset.manifest["splits"]["train"]["groups"] < 20
    assert set(dataset.splits["train"]["observations"]) == {"Edema: positive", "Pleural Effusion: positive"}


def test_files_of_a_department_become_datasets_and_what_was_found_is_said(tmp_path):
    kinds = [list(FINDINGS)[number % 3] for number in range(120)]
    rows = [
        {
            "uid": number,
            "MRN": f"P{number % 40}",
            "findings": FINDINGS[kind],
            "impression": IMPRESSIONS[kind],
            "split": split,
        }
        for number, kind in enumerate(kinds)
        for split in [("train", "valid", "test")[min(number % 40 // 10, 2)]]
    ]
    rows += [{**rows[0], "uid": 900 + number, "findings": "", "impression": " "} for number in range(5)]
    with (tmp_path / "export.csv").open("w", encoding="utf-16", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0]], delimiter=";")
        writer.writeheader()
        writer.writerows(rows)
    done = prepare(tmp_path, "--source", "table", "--root", "export.csv", "--split", "official", "--output", "table")
    assert done.returncode == 0, done.stderr
    assert "columns: findings 'findings', impression 'impression', id 'uid', group 'MRN', split 'split'" in done.stdout
    assert "separated by ;, utf-16" in done.stdout and "the report contains no words" in done.stdout
    dataset = load_prepared_dataset(tmp_path / "table")
    assert [dataset.splits[split].num_rows for split in ("train", "validation", "test")] == [30, 30, 60]
    assert set(dataset.splits["train"]["group"]) == {f"P{number}" for number in range(10)}

    for number, row in enumerate(rows):
        (tmp_path / "feed").mkdir(exist_ok=True)
        (tmp_path / "feed" / f"{number}.hl7").write_text(
            "\r".join((
                r"MSH|^~\&|RIS|RAD|EHR|HOSP|20260102||ORU^R01|1|P|2.5.1",
                f"PID|1||{row['MRN']}^^^HOSP^MR",
                f"OBR|1||{row['uid']}|{'70450^CT HEAD' if number % 12 == 11 else '71046^XR CHEST 2 VIEWS'}|{'|' * 20}F",
                rf"OBX|1|FT|&GDT||FINDINGS:\.br\{row['findings']}",
                rf"OBX|2|FT|&IMP||IMPRESSION:\.br\{row['impression']}\.br\Electronically signed by: {PLANTED}, MD",
            )),
            newline="",
        )  # fmt: skip
    done = prepare(tmp_path, "--source", "hl7", "--root", "feed", "--output", "hl7")
    assert done.returncode == 0, done.stderr
    dataset = load_prepared_dataset(tmp_path / "hl7")
    assert dataset.manifest["rows"] | {"changed": 0} == {
        "read": 125, "kept": 110, "dropped": {}, "filtered": {"empty_report": 5, "other_exam": 10},
        "other_exams": {"CT of the head or neck": 10}, "changed": 0, "labels_changed": {}, "findings_lost": {},
    }  # fmt: skip
    assert PLANTED not in str(dataset.splits) and set(dataset.splits["train"]["group"]) <= {f"P{n}" for n in range(40)}
    assert not (tmp_path / "hl7.rejected.csv").exists()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("mimic-cxr", "nowhere"), ("nowhere: no such folder",)),
        (("mimic-cxr", "empty"), ("empty: no reports of MIMIC-CXR here; looked for files such as files/p10/",)),
        (("openi", "empty"), ("empty: no reports of OpenI here; looked for ecgen-radiology/*.xml",)),
        (("mimic-cxr", "cut/mimic-cxr-reports.zip"), ("mimic-cxr-reports.zip: is not a folder; give the one with",)),
        (("jsonl", "empty"), ("empty: is a folder; name one file in it",)),
        (("table", "empty"), ("empty: is a folder; name one file in it",)),
        (
            ("table", "none.csv", "--prompt-column", "x"),
            ("table does not take --prompt-column, only jsonl; remove it",),
        ),
        (
            ("table", "none.csv", "--split", "official", "--split-seed", "1"),
            ("--split-seed has no effect with --split official; remove it",),
        ),
        (("table", "none.csv"), ("none.csv: no such file",)),
        (("text", "empty"), ("empty: no text files (*.txt, *.text) in this folder",)),
        (("hl7", "empty"), ("empty: no HL7 messages (*.hl7",)),
        (
            ("openi", "empty", "--id-column", "x"),
            ("openi does not take --id-column, only table and jsonl; remove it",),
        ),
        (("fhir", "empty"), ("empty: no FHIR resources (*.ndjson",)),
        (
            ("table", "none.csv", "--label-source", "prompt"),
            ("table has no labels of the kind --label-source prompt",),
        ),
        (("mimic-cxr", "cut"), ("mimic-cxr-reports.zip: is not a complete zip file; download it again",)),
        (("openi", "empty", "--split", "official"), ("--source openi has no official split",)),
        (
            ("openi", "empty", "--label-source", "csv"),
            ("openi has no labels of the kind --label-source csv; choose relabel",),
        ),
        (("mimic-cxr", "empty", "--labels", "negbio"), ("--labels chooses a CSV file, which is only read with",)),
        (("mimic-cxr", "empty", "--max-dropped", "5"), ("--max-dropped is 5.0; choose a fraction",)),
    ],
)
def test_a_wrong_call_gets_one_line_and_leaves_nothing(tmp_path, monkeypatch, call, words, parts):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scripts").symlink_to(REPOSITORY / "scripts")
    (tmp_path / "empty").mkdir()
    write_mimic(tmp_path / "cut", patients=3)
    with zipfile.ZipFile(tmp_path / "cut" / "mimic-cxr-reports.zip", "w") as archive:
        for path in sorted((tmp_path / "cut" / "files").rglob("*.txt")):
            archive.write(path, path.relative_to(tmp_path / "cut"))
    shutil.rmtree(tmp_path / "cut" / "files")
    whole = (tmp_path / "cut" / "mimic-cxr-reports.zip").read_bytes()
    (tmp_path / "cut" / "mimic-cxr-reports.zip").write_bytes(whole[: len(whole) // 2])
    done = call("prepare_data", "report", "--source", words[0], "--root", words[1], *words[2:], "--output", "out")
    one_line(done, *parts)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut", "empty", "scripts"]


PLACES = ("right", "left", "upper", "lower")
SPANISH = "No se observan infiltrados ni derrame pleural en el hemitórax {}. La silueta cardíaca es normal."
HEAD = "No intracranial hemorrhage or mass effect is seen. The ventricles are normal in size on the {} side."


@pytest.fixture
def pairs(tmp_path, monkeypatch):
    """A function that writes a JSONL file with these reports."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scripts").symlink_to(REPOSITORY / "scripts")

    def write(*texts):
        lines = [{"prompt": "Edema: 1", "completion": text} for text in texts]
        (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return (
            "prepare_data",
            "report",
            "--source",
            "jsonl",
            "--root",
            "pairs.jsonl",
            "--sections",
            "any",
            "--output",
            "out",
        )

    return write


def test_the_rules_label_no_other_language(pairs, call, tmp_path):
    command = pairs(*(SPANISH.format(place) for place in PLACES * 10))
    one_line(
        call(*command, "--label-source", "relabel"),
        "40 of the first 40 reports are not in English, the only language",
        "use the labels of the source with --label-source prompt",
    )
    one_line(
        call(*command, "--label-source", "relabel", "--language", "es"),
        "--language is es: the labelling rules know",
    )
    assert not (tmp_path / "out").exists()
    assert call(*command, "--language", "es").code == 0


def test_single_reports_in_another_language_are_left_out_and_counted(pairs, call, tmp_path):
    done = call(*pairs(*[SPANISH.format("derecho")] * 3, *[FINDINGS["edema"]] * 40), "--label-source", "relabel")
    assert done.code == 0, done.stderr
    assert load_prepared_dataset(tmp_path / "out").manifest["rows"]["filtered"] == {"not_english": 3}


def test_english_text_that_the_rules_do_not_know_is_warned_of(pairs, call):
    done = call(*pairs(*(HEAD.format(place) for place in PLACES * 10)), "--label-source", "relabel")
    assert done.code == 0 and "warning: the labelling rules recognise 0% of the sentences" in done.stderr
    done = call(*pairs(*[FINDINGS["edema"]] * 40), "--label-source", "relabel", "--overwrite")
    assert done.code == 0 and "warning" not in done.stderr and "100.0% of 80 sentences name a finding" in done.stdout


def test_exams_of_other_parts_are_left_out_and_counted_in_general_words(tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scripts").symlink_to(REPOSITORY / "scripts")
    written = write_mimic(tmp_path / "mimic")
    for number, (_, _, path) in enumerate(written):
        exam = {0: f"CT HEAD {PLANTED}", 1: "XR KNEE LEFT"}.get(number, "CHEST PA AND LATERAL")
        path.write_text(path.read_text().replace("CHEST (PA AND LAT)", exam))
    done = call("prepare_data", "report", "--source", "mimic-cxr", "--root", "mimic", "--output", "out")
    assert done.code == 0, done.stderr
    assert PLANTED not in done.stdout
    rows = load_prepared_dataset(tmp_path / "out").manifest["rows"]
    assert rows["other_exams"] == {"CT of the head or neck": 1, "radiograph of the leg": 1} and rows["kept"] == 88


def test_a_department_s_empty_reports_do_not_stop_the_run(pairs, call, tmp_path):
    done = call(*pairs(*["", " \n"] * 10, *[FINDINGS["edema"]] * 40), "--label-source", "relabel")
    assert done.code == 0, done.stderr
    rows = load_prepared_dataset(tmp_path / "out").manifest["rows"]
    assert (rows["filtered"], rows["dropped"]) == ({"empty_report": 20}, {})
    assert not (tmp_path / "out.rejected.csv").exists()


def plant(root):
    """Realistic reports that all contain the planted words."""
    written = write_mimic(root, patients=240)
    for number, (_, _, path) in enumerate(written):
        text = path.read_text().replace("cough", PLANTED).replace(".\n", f". {PLANTED} number {number}.\n")
        path.write_text(text, encoding="utf-8")
    return written


def break_reports(written):
    """An error of every kind, each in a report that contains the planted words."""
    whole = written[0][2].read_bytes()
    written[0][2].write_bytes(whole.replace(b"FINDINGS", b"F\xcdNDINGS"))
    written[1][2].write_text(f" {PLANTED}\n FINDINGS: \n IMPRESSION: {PLANTED}\n")
    written[2][2].with_suffix(".txt.gz").write_bytes(gzip.compress(whole)[:-9])
    written[3][2].with_name("s59999999.txt").write_bytes(whole)
    (written[9][2].parent / written[4][2].name).write_bytes(whole)
    written[5][2].write_text(f" FINAL REPORT\n {PLANTED}\n")
    written[6][2].unlink()


@pytest.mark.parametrize("failing", ["no", "too many", "wrong csv", "line", "xml"])
def test_text_of_a_report_is_in_the_parquet_files_only(tmp_path, failing):
    """The planted words are looked for in all that is written and printed."""
    source, root, more = "mimic-cxr", tmp_path / "mimic", []
    if failing == "line":
        source, root = "jsonl", tmp_path / "pairs.jsonl"
        row = json.dumps({"prompt": "Edema: 1", "completion": PLANTED})
        bad = [
            f'{{"prompt": "{PLANTED}',
            json.dumps({"prompt": f"{PLANTED}: 1", "completion": PLANTED}),
            f'["{PLANTED}"]',
        ]
        root.write_text("\n".join([row] * 30 + bad) + "\n")
    elif failing == "xml":
        source, root = "openi", tmp_path
        write_openi(tmp_path / "ecgen-radiology")
        for path in (tmp_path / "ecgen-radiology").glob("1*.xml"):
            path.write_text(path.read_text().replace("</eCitation>", f"<{PLANTED}>"))
    else:
        written = plant(root)
        break_reports(written)
        more = ["--label-source", "csv", "--max-dropped", "0.5" if failing == "no" else "0.001"]
        if failing == "wrong csv":
            # The table of sections has the name of the labels.
            table = root / "mimic-cxr-2.0.0-chexpert.csv.gz"
            text = gzip.decompress(table.read_bytes()).decode().replace(",1.0,", f",{PLANTED},", 1)
            table.write_bytes(gzip.compress(text.encode()))
    done = prepare(tmp_path, "--source", source, "--root", root, "--output", "out/reports", *more)
    if failing == "no":
        assert done.returncode == 0, done.stderr
        assert load_prepared_dataset(tmp_path / "out" / "reports").access == "credentialed"
        findings = load_prepared_dataset(tmp_path / "out" / "reports").splits["train"]["findings"]
        assert sum(PLANTED in text for text in findings) > 300
        assert "dropped reports are listed in out/reports.rejected.csv" in done.stdout
    else:
        one_line(done)
    written = list((tmp_path / "out").rglob("*")) if (tmp_path / "out").exists() else []
    assert len(written) == {"no": 8, "wrong csv": 0}.get(failing, 1)
    for path in written:
        if path.is_file() and path.suffix != ".parquet":
            assert PLANTED.split()[0] not in path.read_text(), path.name
    assert PLANTED.split()[0] not in done.stdout + done.stderr
    assert PLANTED.split()[1] not in done.stdout + done.stderr


def test_all_rejected_reports_are_listed_by_path_and_reason(tmp_path):
    break_reports(plant(tmp_path / "mimic"))
    command = ["--source", "mimic-cxr", "--root", "mimic", "--output", "out", "--label-source", "csv"]
    done = prepare(tmp_path, *command)
    one_line(done, "5 of 723 reports (0.69%) would be dropped, more than the 0.50% allowed", "out.rejected.csv")
    listed = (tmp_path / "out.rejected.csv").read_text()
    for line in (
        "files/p10/p10000000/s50000000.txt,the text is not UTF-8",
        "files/p10/p10000000/s50000002.txt.gz,",
        "files/p10/p10000001/s59999999.txt,the label CSV does not contain the study",
        "files/p10/p10000002/s50000200.txt,",
        "files/p10/p10000003/s50000101.txt,an earlier report has the same study id",
    ):
        assert line in listed, (line, listed)
    assert not (tmp_path / "out").exists()


class Notebook(ReportSource):
    """A source that exists in this test only: a text file with one report per line."""

    name = "notebook"
    layout = "a text file"
    title = "a notebook"
    group = "the report itself"
    access = "open"

    def __init__(self, root):
        self._lines = root.read_text("utf-8").splitlines()
        self.count, self.rejected, self.files = len(self._lines), [], []

    def items(self):
        return enumerate(self._lines)

    def read(self, item):
        number, line = item
        return Report(str(number), str(number), *line.split("|"), f"line {number}")


def test_a_new_source_is_one_class_and_its_registration(tmp_path, monkeypatch, call):
    monkeypatch.setitem(REPORT_SOURCES, "notebook", Notebook)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scripts").symlink_to(REPOSITORY / "scripts")
    lines = [f"{text}|{text}" for text in (FINDINGS["edema"], FINDINGS["effusion"]) for _ in range(40)]
    (tmp_path / "notes.txt").write_text("\n".join(lines), encoding="utf-8")
    done = call("prepare_data", "report", "--source", "notebook", "--root", "notes.txt", "--output", "out")
    assert done.code == 0, done.stderr
    dataset = load_prepared_dataset(tmp_path / "out")
    assert (dataset.access, dataset.manifest["origin"]) == ("open", "notebook")
    assert len(set(dataset.splits["train"]["observations"])) == 2 and sum(map(len, dataset.splits.values())) == 80
    assert "Read from a notebook" in (tmp_path / "out" / "README.md").read_text("utf-8")
    one_line(
        call(
            "prepare_data",
            "report",
            "--source",
            "notebook",
            "--root",
            "notes.txt",
            "--output",
            "x",
            "--split",
            "official",
        ),
        "--source notebook has no official split",
    )
    assert "notebook: a text file" in " ".join(call("prepare_data", "report", "--help").stdout.split())
