import gzip
import os
import pickle
import shutil
import zipfile

import pytest
from report_trees import LABEL_COLUMNS, report_text, write_csv, write_mimic

from radrecipes.data.sources.mimic_cxr import ARCHIVE, MimicCxr
from radrecipes.data.sources.report_source import RejectedReport
from radrecipes.errors import InputError


def read_all(source):
    return [source.read(item) for item in source.items()]


@pytest.fixture
def tree(tmp_path):
    return tmp_path, write_mimic(tmp_path, patients=4, studies=2)


def pack(root):
    """The tree as PhysioNet packs it."""
    with zipfile.ZipFile(root / "mimic-cxr-reports.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((root / "files").rglob("*.txt")):
            archive.write(path, path.relative_to(root))
    shutil.rmtree(root / "files")


def test_every_report_is_read_with_its_sections_labels_and_split(tree):
    root, written = tree
    reports = read_all(MimicCxr(root, labels="chexpert", official_split=True))
    assert [(report.group, report.id) for report in reports] == [(patient, study) for patient, study, _ in written]
    first = reports[0]
    assert first.path == "files/p10/p10000000/s50000000.txt"
    assert (first.findings, first.impression) == (
        "There is a pleural effusion. The heart is not enlarged.", "Pleural effusion.",
    )  # fmt: skip
    assert first.observations == "Pleural Effusion: positive; Fracture: negative"
    assert [report.split for report in reports] == ["train"] * 4 + ["validation"] * 2 + ["test"] * 2


def test_without_the_csv_files_the_reports_are_enough(tree):
    root, _ = tree
    for path in root.glob("*.csv.gz"):
        path.unlink()
    source = MimicCxr(root)
    assert source.count == 8 and source.rejected == [] and source.files == []
    assert all(report.observations is None and report.split is None for report in read_all(source))


def test_folder_within_folder_archive_and_plain_csv_give_the_same(tree, tmp_path):
    root, _ = tree
    expected = read_all(MimicCxr(root, labels="negbio", official_split=True))
    (root / "mimic-cxr-reports").mkdir()
    (root / "files").rename(root / "mimic-cxr-reports" / "files")
    assert read_all(MimicCxr(root, labels="negbio", official_split=True)) == expected
    (root / "mimic-cxr-reports" / "files").rename(root / "files")
    pack(root)
    for path in root.glob("*.csv.gz"):
        path.rename(path.with_suffix(".GZ"))
    assert read_all(MimicCxr(root, labels="negbio", official_split=True)) == expected
    for path in root.glob("*.csv.GZ"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    source = MimicCxr(root, labels="negbio", official_split=True)
    assert read_all(source) == expected
    # Another process gets the reader without what it has read, and opens the archive itself.
    assert len(pickle.dumps(source)) < 1000
    assert [pickle.loads(pickle.dumps(source)).read(item) for item in source.items()] == expected


def test_columns_are_found_by_name_and_values_mean_what_the_documentation_says(tree):
    root, written = tree
    header = ["study_id", *reversed(LABEL_COLUMNS), "subject_id"]
    values = {"Edema": "1.0", "Lung Opacity": "-1.0", "Pneumonia": "0.0", "No Finding": "0.0"}
    rows = [[study, *(values.get(name, "") for name in header[1:-1]), patient] for patient, study, _ in written]
    write_csv(root / "mimic-cxr-2.0.0-chexpert.csv.gz", header, rows)
    reports = read_all(MimicCxr(root, labels="chexpert"))
    assert {report.observations for report in reports} == {
        "Lung Opacity: uncertain; Edema: positive; Pneumonia: negative"
    }


def test_blank_rows_and_contradictory_rows_differ_from_missing_ones(tree):
    root, written = tree
    rows = []
    for position, (patient, study, _) in enumerate(written[:-1]):
        values = [{}, {"No Finding": "1.0", "Edema": "-1.0"}, {"No Finding": "1.0", "Support Devices": "1.0"}][
            position % 3
        ]
        rows.append([patient, study, *(values.get(name, "") for name in LABEL_COLUMNS)])
    write_csv(root / "mimic-cxr-2.0.0-chexpert.csv.gz", ["subject_id", "study_id", *LABEL_COLUMNS], rows)
    source = MimicCxr(root, labels="chexpert")
    assert [report.observations for report in read_all(source)][:3] == [
        "", "contradictory", "Support Devices: positive; No Finding: positive",
    ]  # fmt: skip
    assert source.rejected == [RejectedReport("files/p10/p10000003/s50000301.txt", "no_labels")]


def test_a_study_without_file_and_a_file_without_row_are_listed(tree):
    root, written = tree
    written[2][2].unlink()
    new = written[0][2].with_name("s59999999.txt")
    new.write_text(report_text(), encoding="utf-8")
    source = MimicCxr(root, official_split=True)
    assert sorted(source.rejected) == [
        RejectedReport("files/p10/p10000000/s59999999.txt", "no_split"),
        RejectedReport("files/p10/p10000001/s50000100.txt", "missing_report"),
    ]
    # Both CSV files name the missing study; it is missing once.
    assert len(MimicCxr(root, labels="chexpert", official_split=True).rejected) == 2


def test_rows_that_state_two_things_of_a_study_are_not_guessed_between(tree):
    root, written = tree
    rows = [[f"i{n}", study, patient, "train"] for n, (patient, study, _) in enumerate(written)]
    write_csv(
        root / "mimic-cxr-2.0.0-split.csv.gz",
        ["dicom_id", "study_id", "subject_id", "split"],
        [*rows, ["again", written[3][1], written[3][0], "test"]],
    )
    source = MimicCxr(root, official_split=True)
    assert source.rejected == [RejectedReport("files/p10/p10000001/s50000101.txt", "conflicting_rows")]
    assert source.count == 7


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty_report"),
        (b" \n\n", "empty_report"),
        (report_text().encode().replace(b"lungs", b"l\xfcngs"), "not_utf8"),
        (None, "unreadable"),
    ],
)
def test_a_bad_report_is_rejected_with_its_reason(tree, content, reason):
    root, written = tree
    path = written[1][2]
    source = MimicCxr(root)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    rejected = read_all(source)[1]
    assert (rejected.path, rejected.reason) == ("files/p10/p10000000/s50000001.txt", reason)


def test_a_gzipped_report_is_read_and_a_truncated_one_rejected(tree):
    root, written = tree
    for (_, _, path), cut in zip(written[:3], (None, 60, 3), strict=True):
        path.with_suffix(".txt.gz" if cut else ".TXT.GZ").write_bytes(gzip.compress(path.read_bytes())[:cut])
        path.unlink()
    reports = read_all(MimicCxr(root))
    assert reports[0].findings.startswith("There is a pleural effusion.")
    assert [(report.path[-6:], report.reason) for report in reports[1:3]] == [("txt.gz", "truncated")] * 2


def test_a_damaged_member_of_the_archive_is_rejected_and_a_damaged_archive_refused(tree):
    root, _ = tree
    pack(root)
    archive = root / "mimic-cxr-reports.zip"
    data = bytearray(archive.read_bytes())
    with zipfile.ZipFile(archive) as file:
        second = file.infolist()[1]
    start = second.header_offset + 30 + len(second.filename)
    data[start + 20 : start + 40] = bytes(20)
    archive.write_bytes(data)
    reports = read_all(MimicCxr(root))
    assert [getattr(report, "reason", "") for report in reports[:3]] == ["", "truncated", ""]
    archive.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"mimic-cxr-reports.zip: is not a complete zip file; download it again"):
        MimicCxr(root)


def test_a_long_report_is_read_completely(tree):
    root, written = tree
    for size in (1 << 14, (1 << 14) + 1, 3 << 14):
        text = report_text()
        written[0][2].write_text(text + "x" * (size - len(text.encode())), encoding="utf-8")
        assert len(read_all(MimicCxr(root))[0].impression) > size - len(text)


def test_a_header_without_words_is_a_missing_section(tree):
    root, written = tree
    written[0][2].write_text(" FINAL REPORT\n FINDINGS: \n \n IMPRESSION: \n \n Normal.\n", encoding="utf-8")
    written[1][2].write_text(" FINAL REPORT\n IMPRESSION: \n \n Normal.\n", encoding="utf-8")
    reports = read_all(MimicCxr(root))
    assert [(report.findings, report.impression) for report in reports[:2]] == [("", "Normal.")] * 2


def test_a_wrong_root_names_what_was_looked_for(tmp_path):
    with pytest.raises(InputError, match=r"nowhere: no such folder; give the one with files/"):
        MimicCxr(tmp_path / "nowhere")
    (tmp_path / "files" / "p10").mkdir(parents=True)
    with pytest.raises(InputError) as error:
        MimicCxr(tmp_path)
    for word in (str(tmp_path), "files/p10/p10000032/s50414267.txt", "mimic-cxr-reports/", "mimic-cxr-reports.zip"):
        assert word in str(error.value)


def test_a_missing_csv_is_named(tree):
    root, _ = tree
    (root / "mimic-cxr-2.0.0-negbio.csv.gz").unlink()
    with pytest.raises(InputError, match=r"no mimic-cxr-2.0.0-negbio.csv or .csv.gz here"):
        MimicCxr(root, labels="negbio")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda text: text.replace("Edema", "Oedema"), r"chexpert.csv:1: column 'Edema' is missing in the header"),
        (lambda text: text.replace("Edema", "Fracture"), r":1: column 'Edema' is missing"),
        (
            lambda text: text.replace(",1.0", ",2.0", 1),
            r"chexpert.csv:2: column '\w.*' contains none of 1.0, 0.0, -1.0",
        ),
        (lambda text: text.replace("1.0,,", "1.0,,,", 1), r":\d+: the row has 17 fields, the header 16"),
        (
            lambda text: text[: text.rindex(",")],
            r":9: the row has 15 fields, the header 16; ",
        ),
        (lambda text: text.replace("50000001", "5.0e7"), r":3: column 'study_id' is not an integer"),
        (
            lambda text: text.replace("50000001", '"50000001'),
            r":\d+: a quote is not closed in the row that starts here; down",
        ),
        (lambda text: "", r":1: column 'study_id' is missing"),
    ],
)
def test_a_broken_csv_names_line_and_column(tree, change, expected):
    root, _ = tree
    packed = root / "mimic-cxr-2.0.0-chexpert.csv.gz"
    text = gzip.decompress(packed.read_bytes()).decode()
    packed.unlink()
    packed.with_suffix("").write_text(change(text), encoding="utf-8", newline="")
    with pytest.raises(InputError, match=expected):
        MimicCxr(root, labels="chexpert")


def test_a_truncated_csv_and_an_unknown_split_are_refused(tree):
    root, _ = tree
    path = root / "mimic-cxr-2.0.0-split.csv.gz"
    text = gzip.decompress(path.read_bytes()).decode()
    path.write_bytes(gzip.compress(text.replace("validate", "dev").encode()))
    with pytest.raises(InputError, match=r"split.csv.gz:10: column 'split' contains none of train, validate and test"):
        MimicCxr(root, official_split=True)
    path.write_bytes(gzip.compress(text.encode())[:-30])
    with pytest.raises(InputError, match=r"split.csv.gz:\d+: is not a complete gzip file"):
        MimicCxr(root, official_split=True)


def test_what_generated_a_tree_is_known(tree):
    root, _ = tree
    assert MimicCxr(root).generator is None
    (root / "generator.json").write_text('{"synthetic": true, "generator": "ours", "seed": 3}')
    assert MimicCxr(root).generator == {"name": "ours", "seed": 3}
    (root / "generator.json").write_text('{"synthetic": false, "generator": "ours", "seed": 3}')
    assert MimicCxr(root).generator is None
    (root / "generator.json").write_text("[1]")
    with pytest.raises(InputError, match=r"generator.json: must contain one JSON object"):
        MimicCxr(root)


def test_a_report_that_is_a_link_too_large_or_no_file_is_rejected(tree):
    root, written = tree
    secret = root.parent / "secret.txt"
    secret.write_text(report_text(), encoding="utf-8")
    paths = [path for _, _, path in written[:5]]
    for path in paths:
        path.unlink()
    paths[0].symlink_to(secret)
    os.mkfifo(paths[1])
    paths[2].write_bytes(b"a" * (2**20 + 1))
    paths[3].with_suffix(".txt.gz").write_bytes(gzip.compress(b"a" * 2**24))
    paths[4].symlink_to(paths[4])
    source = MimicCxr(root)
    reasons = [found.reason for found in map(source.read, source.items()) if isinstance(found, RejectedReport)]
    assert sorted(reasons) == ["link", "link", "too_large", "too_large", "too_large"]


def test_a_link_to_a_folder_of_reports_is_refused(tree):
    root, _ = tree
    (root / "files" / "p10" / "loop").symlink_to(root)
    with pytest.raises(InputError, match=r"a folder in it is a link, which is not followed; copy it"):
        MimicCxr(root)


def test_an_archive_that_is_encrypted_or_unpacks_too_far_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / ARCHIVE, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("files/p10/p10000000/s1.txt", " " * 2**24)
        archive.writestr("files/p10/p10000000/s2.txt", report_text())
    source = MimicCxr(tmp_path)
    first, second = map(source.read, source.items())
    assert (first.reason, second.id) == ("too_large", "2")
    content = bytearray((tmp_path / ARCHIVE).read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1  # the flag of an encrypted member
    (tmp_path / ARCHIVE).write_bytes(content)
    with pytest.raises(InputError, match="is encrypted; unpack it"):
        MimicCxr(tmp_path)
