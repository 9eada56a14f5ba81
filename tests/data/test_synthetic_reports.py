import csv
import gzip
import hashlib
import json
import os
import random
import re
import subprocess
import sys
from collections import Counter, defaultdict
from itertools import pairwise
from statistics import mean

import pytest

from radrecipes.data.synthetic_reports.bank import load_bank
from radrecipes.data.synthetic_reports.generator import write_synthetic_tree
from radrecipes.data.synthetic_reports.layout import write_report
from radrecipes.data.synthetic_reports.patients import fill_gaps, follow_patient
from radrecipes.data.synthetic_reports.writing import Statement, combine_labels
from radrecipes.errors import InputError
from radrecipes.radiology.labeller import label_report
from radrecipes.radiology.observations import NO_FINDING, OBSERVATIONS, SUPPORT_DEVICES, Status, findings_present
from radrecipes.radiology.sections import split_sections

PATIENTS, STUDIES = 600, 1600
SECTIONS = ("findings", "impression")
CHEXPERT, NEGBIO, SPLIT = (f"mimic-cxr-2.0.0-{name}.csv.gz" for name in ("chexpert", "negbio", "split"))
# A word that every sentence about an observation contains; a requirement for the bank, not for the labeller.
NAMED_BY = {
    "Enlarged Cardiomediastinum": r"mediastin",
    "Cardiomegaly": r"cardiomegaly|heart|cardiac",
    "Lung Opacity": r"opacit|opacif|infiltrate|airspace|density|lungs? (are|is|were) (\w+ )*clear|clear lungs|and clear",
    "Lung Lesion": r"nodul|mass|lesion",
    "Edema": r"edema|congesti|cephaliz|heart failure|chf",
    "Consolidation": r"consolidat|clear",
    "Pneumonia": r"pneumonia|infecti",
    "Atelectasis": r"atelecta|collapse|volume loss",
    "Pneumothorax": r"pneumothora|hydropneumo",
    "Pleural Effusion": r"effusion|pleural fluid|blunting",
    "Pleural Other": r"pleural (thickening|plaque|scar)|plaque|fibrothorax",
    "Fracture": r"fracture",
}


def read_table(path):
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def files_in(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def as_labels(row):
    values = {"1.0": Status.POSITIVE, "0.0": Status.NEGATIVE, "-1.0": Status.UNCERTAIN}
    return {name: values[row[name]] for name in OBSERVATIONS if row[name]}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tree") / "cxr"
    facts = write_synthetic_tree(folder, seed=5, patients=PATIENTS, studies=STUDIES)
    return folder, facts


@pytest.fixture(scope="module")
def reports():
    rng = random.Random(17)
    return [write_report(study, rng) for _ in range(900) for study in follow_patient(rng.randint(1, 6), rng)]


def test_same_seed_same_bytes_and_another_seed_others(tmp_path):
    for name, seed in (("first", 3), ("again", 3), ("other", 4)):
        write_synthetic_tree(tmp_path / name, seed=seed, patients=12, studies=30)
    assert files_in(tmp_path / "first") == files_in(tmp_path / "again")
    assert (
        files_in(tmp_path / "first")
        .keys()
        .isdisjoint(path for path in files_in(tmp_path / "other") if path.endswith(".txt"))
    )


def test_layout_is_that_of_mimic_cxr(tree):
    folder, facts = tree
    names = sorted(path for path in files_in(folder) if not path.endswith(".txt"))
    assert names == sorted(["generator.json", "truth.csv.gz", CHEXPERT, NEGBIO, SPLIT])
    paths = [path for path in files_in(folder) if path.endswith(".txt")]
    found = [re.fullmatch(r"files/(p1\d)/(p1\d{7})/s(5\d{7})\.txt", path) for path in paths]
    assert all(found)
    assert all(match[2].startswith(match[1]) for match in found)
    assert len({match[3] for match in found}) == len(paths) == STUDIES
    per_patient = Counter(match[2] for match in found)
    assert len(per_patient) == PATIENTS
    assert set(per_patient.values()) == set(range(1, 9))
    owner = {match[3]: match[2][1:] for match in found}
    for name in (CHEXPERT, NEGBIO):
        rows = read_table(folder / name)
        assert list(rows[0]) == ["subject_id", "study_id", *sorted(OBSERVATIONS)]
        assert {row["study_id"]: row["subject_id"] for row in rows} == owner
        assert len(rows) == STUDIES
    assert {row["study_id"] for row in read_table(folder / "truth.csv.gz")} == set(owner)
    stated = json.loads((folder / "generator.json").read_text("utf-8"))
    assert stated == facts
    assert stated["synthetic"] is True
    assert (stated["seed"], stated["patients"], stated["studies"]) == (5, PATIENTS, STUDIES)


def test_split_has_one_row_an_image_and_keeps_patients_together(tree):
    folder, facts = tree
    rows = read_table(folder / SPLIT)
    assert list(rows[0]) == ["dicom_id", "study_id", "subject_id", "split"]
    assert len({row["dicom_id"] for row in rows}) == len(rows) == facts["images"]
    assert all(re.fullmatch(r"([0-9a-f]{8}-){4}[0-9a-f]{8}", row["dicom_id"]) for row in rows)
    assert set(Counter(row["study_id"] for row in rows).values()) == {1, 2, 3}
    split_of = defaultdict(set)
    for row in rows:
        split_of[row["subject_id"]].add(row["split"])
    assert all(len(splits) == 1 for splits in split_of.values())
    patients = Counter(next(iter(splits)) for splits in split_of.values())
    assert patients == {"train": 450, "validate": 60, "test": 90}
    studies = Counter({row["study_id"]: row["split"] for row in rows}.values())
    assert studies == facts["splits"]


def test_lines_are_short_and_indented(tree):
    folder, _ = tree
    lost = 0
    for path in (folder / "files").rglob("*.txt"):
        lines = path.read_text("utf-8").split("\n")
        assert max(map(len, lines)) <= 79
        assert lines.pop() == ""
        assert sum(line.strip() == "FINAL REPORT" for line in lines) == 1
        lost += any(line and not line.startswith(" ") for line in lines)
    assert 0.01 < lost / STUDIES < 0.06


def test_irregular_reports_are_a_few_percent(tree):
    folder, _ = tree
    texts = [path.read_text("utf-8") for path in (folder / "files").rglob("*.txt")]

    def share(pattern):
        return sum(re.search(pattern, text, re.MULTILINE) is not None for text in texts) / len(texts)

    findings, impression = r"^ ?(FINDINGS?|Findings?):", r"^ ?(IMPRESSION|Impression|CONCLUSION|Conclusion):"
    both = sum(bool(re.search(findings, t, re.M) and re.search(impression, t, re.M)) for t in texts) / len(texts)
    assert 0.8 < both < 0.93
    for pattern in (r"^ ?WET READ: ___", r"^ ?ADDENDUM  ", r"^ ?FINDINGS( AND |/)IMPRESSION:", r"^ ?Impression:"):
        assert 0.005 < share(pattern) < 0.05, pattern
    assert 0.02 < share(r"^ ?(NOTIFICATION|Notification):") < 0.07
    assert share(r"^ ?_{77,}$") > 0.02
    assert share("___") > 0.8
    assert share(r"^ ?COMPARISON") > 0.6
    assert share(r"^ ?TECHNIQUE") > 0.3


def test_truth_follows_the_convention_of_the_labeller(tree):
    folder, _ = tree
    truth = {row["study_id"]: as_labels(row) for row in read_table(folder / "truth.csv.gz")}
    agree = []
    for path in sorted((folder / "files").rglob("*.txt"))[::4]:
        sections = split_sections(path.read_text("utf-8"))
        if sections.findings and sections.impression:
            agree.append(label_report(sections.findings, sections.impression) == truth[path.stem[1:]])
    # Heart failure beside a heart of normal size is labelled by sentence in the one and by report in the other.
    assert len(agree) > 300 and mean(agree) > 0.98


def test_conventions_name_texts_of_the_bank():
    bank = load_bank()
    lists = [texts for wording in bank.wordings.values() for s in Status for texts in wording[s.value].values()]
    lists += [group.texts for section in SECTIONS for group in bank.combinations[section]]
    lists += [normal.texts for normal in bank.normals] + [t for device in bank.devices for t in device.texts.values()]
    lists += [bank.frame["volumes"], bank.frame["other"]]
    assert bank.conventions.keys() <= {text for texts in lists for text in texts}


def test_every_status_of_every_observation_occurs(tree):
    folder, _ = tree
    truth = [as_labels(row) for row in read_table(folder / "truth.csv.gz")]
    counts = Counter((name, status) for labels in truth for name, status in labels.items())
    for name in set(OBSERVATIONS) - {NO_FINDING, SUPPORT_DEVICES}:
        for status in Status:
            assert counts[name, status] >= 8, (name, status)
    assert counts[SUPPORT_DEVICES, Status.POSITIVE] > 100
    assert counts[SUPPORT_DEVICES, Status.NEGATIVE] >= 8
    # A scoliosis, for example, is on no list and prevents it.
    assert counts[NO_FINDING, Status.POSITIVE] < sum(not findings_present(labels) for labels in truth) < STUDIES / 2
    assert 0.15 < counts[NO_FINDING, Status.POSITIVE] / STUDIES < 0.3
    assert counts[NO_FINDING, Status.NEGATIVE] == counts[NO_FINDING, Status.UNCERTAIN] == 0


def test_labels_of_the_report_are_what_its_sentences_state(reports):
    """A report's words are its statements, and each statement names the observations that it is labelled with."""
    for report in reports:
        text = " ".join(report.text.split())
        for statement in (*report.findings, *report.impression):
            assert " ".join(statement.text.split()) in text
            for name in statement.labels.keys() & NAMED_BY.keys():
                assert re.search(NAMED_BY[name], statement.text, re.IGNORECASE), (name, statement.text)


def test_labels_of_neutral_and_device_sentences_name_nothing_else(reports):
    for report in reports:
        for statement in (*report.findings, *report.impression):
            for name in NAMED_BY.keys() - statement.labels.keys() - {"Lung Opacity", "Consolidation"}:
                hit = re.search(NAMED_BY[name], statement.text, re.IGNORECASE)
                # A heart has failure, valves and clips; a mediastinum has contours other than those of the heart.
                if hit and hit[0].lower() not in {"heart", "cardiac", "mediastin", "cardiomegaly"}:
                    raise AssertionError((name, statement))
            if not statement.labels:
                assert not re.search(r"opacit|consolidat|effusion|pneumo", statement.text, re.IGNORECASE), statement


def test_present_outweighs_possible_which_outweighs_absent():
    def said(**statuses):
        return Statement("", "lungs", {name: Status(status) for name, status in statuses.items()})

    together = combine_labels(
        [said(Edema="negative", Fracture="uncertain"), said(Edema="positive", Fracture="negative")]
    )
    assert together == {"Edema": Status.POSITIVE, "Fracture": Status.UNCERTAIN}
    assert combine_labels([said(Edema="negative")]) == {"Edema": Status.NEGATIVE, NO_FINDING: Status.POSITIVE}
    assert combine_labels([Statement("Normal chest.", "other")]) == {NO_FINDING: Status.POSITIVE}


def test_sections_read_back_are_what_was_written(reports):
    """Regular reports: the text under FINDINGS and IMPRESSION is exactly the statements."""
    read = 0
    for report in reports:
        if not (report.findings and report.impression):
            continue
        sections = split_sections(report.text)
        expected = " ".join(" ".join(s.text for s in report.findings).split())
        assert sections.findings == expected
        without_numbers = re.sub(r"(^| )\d\. ", r"\1", sections.impression)
        assert without_numbers == " ".join(" ".join(s.text for s in report.impression).split())
        read += 1
    assert read / len(reports) > 0.8


def test_tables_describe_the_impression_and_truth_the_complete_report(tree):
    folder, _ = tree
    chexpert = {row["study_id"]: as_labels(row) for row in read_table(folder / CHEXPERT)}
    truth = {row["study_id"]: as_labels(row) for row in read_table(folder / "truth.csv.gz")}
    strength = [Status.NEGATIVE, Status.UNCERTAIN, Status.POSITIVE]
    fewer = 0
    for study, labels in truth.items():
        concluded = chexpert[study]
        for name in concluded.keys() - {NO_FINDING}:
            assert strength.index(concluded[name]) <= strength.index(labels[name])
        fewer += len(concluded.keys() - {NO_FINDING}) < len(labels.keys() - {NO_FINDING})
    assert fewer / STUDIES > 0.7


def test_a_report_that_ends_in_nothing_acute_is_labelled_so_in_the_tables(tree):
    folder, _ = tree
    chexpert = {row["study_id"]: as_labels(row) for row in read_table(folder / CHEXPERT)}
    seen = 0
    for path in (folder / "files").rglob("*.txt"):
        impression = re.search(r"IMPRESSION:\s+(.*)\Z", path.read_text("utf-8"), re.DOTALL)
        if impression and " ".join(impression[1].split()) == "No acute cardiopulmonary process.":
            assert chexpert[path.stem[1:]] == {NO_FINDING: Status.POSITIVE}
            seen += 1
    assert seen > 100


def test_the_second_table_differs_by_a_little_noise(tree):
    folder, _ = tree
    chexpert = {row["study_id"]: as_labels(row) for row in read_table(folder / CHEXPERT)}
    negbio = {row["study_id"]: as_labels(row) for row in read_table(folder / NEGBIO)}
    cells = [
        negbio[study].get(name) == status
        for study, labels in chexpert.items()
        for name, status in labels.items()
        if name != NO_FINDING
    ]
    assert 0.012 < 1 - mean(cells) < 0.04
    for labels in negbio.values():
        assert (NO_FINDING in labels) == (not findings_present(labels))


def test_reports_are_short_and_normal_ones_shorter(reports):
    words = defaultdict(list)
    for report in reports:
        if report.findings and report.impression:
            statements = (*report.findings, *report.impression)
            normal = NO_FINDING in combine_labels(statements)
            words[normal].append(sum(len(statement.text.split()) for statement in statements))
    assert 45 < mean(words[True] + words[False]) < 62
    assert mean(words[True]) < 42


def test_findings_persist_and_are_compared_with(reports):
    rng = random.Random(8)
    kept, passed = 0, 0
    for _ in range(300):
        studies = list(follow_patient(4, rng))
        for before, after in pairwise(studies):
            assert after.previous is before.findings
            kept += len(before.present & after.present)
            passed += len(before.present - after.present)
    assert 0.4 < kept / (kept + passed) < 0.8
    text = " ".join(statement.text for report in reports for statement in (*report.findings, *report.impression))
    for phrase in ("unchanged", "has resolved", "Interval improvement in", "No new ", "Interval increase in"):
        assert text.count(phrase) >= 5, phrase


def test_findings_and_impression_agree_on_the_side():
    rng = random.Random(2)
    seen = 0
    for _ in range(3000):
        report = write_report(next(iter(follow_patient(1, rng))), rng)
        sides = [
            set(re.findall(r"left|right", statement.text.lower()))
            for statement in (*report.findings, *report.impression)
            if statement.labels.keys() == {"Pneumothorax"} and Status.NEGATIVE not in statement.labels.values()
        ]
        seen += sum(map(len, sides)) > 1
        assert len(set().union(*sides)) <= 1
    assert seen > 20


def test_the_bank_has_many_wordings_of_everything():
    bank = load_bank()
    assert set(bank.wordings) == set(OBSERVATIONS) - {NO_FINDING, SUPPORT_DEVICES}
    gaps = {**fill_gaps(random.Random(0)), "noun": "", "bare": ""}
    for name, wording in bank.wordings.items():
        for status in Status:
            for section in SECTIONS:
                texts = wording[status.value][section]
                assert len(texts) == len(set(texts)) >= 8, (name, status, section)
                assert all(re.search(NAMED_BY[name], text.format_map(gaps), re.IGNORECASE) for text in texts)
    for section in (*SECTIONS, "removed"):
        assert len({text for device in bank.devices for text in device.texts[section]}) >= 8
    assert len(bank.normals) >= 8
    assert all(not findings_present(template.labels) for template in bank.normals)


def test_the_commonest_text_leads_without_reigning(reports):
    for name, status, text in (
        ("Cardiomegaly", Status.NEGATIVE, "Heart size is normal."),
        ("Pneumothorax", Status.NEGATIVE, "There is no pneumothorax."),
        ("Consolidation", Status.NEGATIVE, "There is no focal consolidation."),
    ):
        texts = Counter(
            statement.text for report in reports for statement in report.findings if statement.labels == {name: status}
        )
        assert texts.most_common(1)[0][0] == text
        assert 0.22 < texts[text] / texts.total() < 0.45
        assert len(texts) >= 8


@pytest.mark.parametrize(("patients", "studies"), [(0, 5), (5, 4), (5, 41), (-1, -1), (10**7, 10**7)])
def test_numbers_that_do_not_fit_are_refused(tmp_path, patients, studies):
    with pytest.raises(InputError, match=f"{studies} studies of {patients} patients"):
        write_synthetic_tree(tmp_path / "tree", patients=patients, studies=studies)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_and_a_failure_leave_the_disk_as_it_was(tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match="there: exists already"):
        write_synthetic_tree(tmp_path / "there", patients=1, studies=1)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be made"):
        write_synthetic_tree(tmp_path / "file" / "tree", patients=1, studies=1)

    def fail(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_synthetic_tree(tmp_path / "new", patients=3, studies=9, on_progress=fail)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "there"]


@pytest.mark.parametrize(("patients", "studies"), [(1, 1), (1, 8), (2, 2), (3, 24)])
def test_the_smallest_trees_contain_what_was_asked_for(tmp_path, patients, studies):
    done = []
    facts = write_synthetic_tree(tmp_path / "tree", patients=patients, studies=studies, on_progress=done.append)
    assert sum(facts["splits"].values()) == sum(done) == studies
    assert len(list((tmp_path / "tree" / "files").glob("p1?/p1*/s5*.txt"))) == studies


def test_the_default_tree_keeps_its_bytes(tmp_path):
    """A recorded result rests on these reports: any change of a word must be intended."""
    write_synthetic_tree(tmp_path / "tree", seed=0, patients=20, studies=50)
    digest = hashlib.sha256()
    for name, content in sorted(files_in(tmp_path / "tree").items()):
        digest.update(
            name.encode() + b"\0" + (content if name.endswith((".txt", ".json")) else gzip.decompress(content))
        )
    assert digest.hexdigest()[:16] == "ff85b5bf99d28fac"


def test_no_order_of_a_set_decides_what_is_written(tmp_path):
    """Python orders sets of strings otherwise in every process."""
    write = (
        "import sys; from radrecipes.data.synthetic_reports.generator import write_synthetic_tree;"
        "write_synthetic_tree(sys.argv[1], seed=3, patients=150, studies=400)"
    )
    trees = []
    for seed in ("0", "1"):
        folder = tmp_path / seed
        subprocess.run(
            [sys.executable, "-c", write, str(folder)], check=True, env={**os.environ, "PYTHONHASHSEED": seed}
        )
        trees.append({path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()})
    assert trees[0] == trees[1]
