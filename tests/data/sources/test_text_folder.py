import os
import pickle

import pytest

from radrecipes.data.sources.text_folder import TextFolder
from radrecipes.errors import InputError

REPORT = "CXR\nFINDINGS:\nThe lungs are clear{}.\n\nIMPRESSION:\nNo acute disease.\n\nElectronically signed by:\nJane Doe, MD\n"


def write(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def read_all(source):
    other_process = pickle.loads(pickle.dumps(source))
    return [other_process.read(item) for item in source.items()]


def test_a_tree_of_text_files_gives_reports_by_patient(tmp_path):
    text = REPORT.format(", café")
    files = {
        "P2/b.txt": text.encode("cp1252"),
        "P1/a.TXT": text,
        "P1/c.txt": text.encode("utf-16"),
        "P1/.a.txt": "x",
        "P1/n.md": "x",
    }
    source = TextFolder(write(tmp_path, files))
    first, second, third = read_all(source)
    assert [(report.id, report.group, report.path) for report in (first, second, third)] == [
        ("a", "P1", "P1/a.TXT"),
        ("c", "P1", "P1/c.txt"),
        ("b", "P2", "P2/b.txt"),
    ]
    for report in (first, second, third):
        assert (report.findings, report.impression) == ("The lungs are clear, café.", "No acute disease.")
    assert source.said == ["3 files of 2 patients, by the folder of each file"]
    assert len(pickle.dumps(source)) < 500


@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_line_ends_of_every_system_are_read(tmp_path, end):
    text = "EXAM: Chest\n" + REPORT.format("").replace(":\nThe", "\nThe").replace(":\nNo", "\nNo")
    [report] = read_all(TextFolder(write(tmp_path, {"a.txt": text.replace("\n", end)})))
    assert (report.findings, report.impression) == ("The lungs are clear.", "No acute disease.")
    assert report.exam == "Chest"


def test_names_that_are_not_utf_8_are_recorded_as_text(tmp_path):
    source = TextFolder(write(tmp_path / os.fsdecode(b"\xe9"), {os.fsdecode(b"P\xe9/caf\xe9.txt"): REPORT}))
    [report] = read_all(source)
    assert (report.id, report.group, report.path) == (r"caf\xe9", r"P\xe9", r"P\xe9/caf\xe9.txt")
    assert source.folder == r"\xe9" and report.findings


def test_the_patient_may_be_part_of_the_name_and_names_may_repeat(tmp_path):
    files = {"2023/P7_1.txt": REPORT, "2024/P7_1.txt": REPORT, "2024/other.txt": REPORT}
    source = TextFolder(write(tmp_path, files), group_pattern="(P[0-9]+)_")
    assert [(report.id, report.group) for report in read_all(source)] == [("2023/P7_1", "P7"), ("2024/P7_1", "P7")]
    assert [(report.path, report.reason) for report in source.rejected] == [("2024/other.txt", "empty_group")]
    flat = TextFolder(write(tmp_path / "flat", {"x.txt": REPORT, "y.txt": REPORT}))
    assert [report.group for report in read_all(flat)] == ["x", "y"]
    assert "every report counts as a patient of its own; name the patient with --group-pattern" in flat.said[0]


def test_what_cannot_be_read_is_named_by_its_place(tmp_path):
    (tmp_path / "outside.txt").write_text("x")
    root = write(tmp_path / "in", {"a.txt": b"\x81\xff", "b.txt": " \n", "c.txt": "The lungs are clear.\n" * 60_000})
    (root / "d.txt").symlink_to(tmp_path / "outside.txt")
    found = [(report.path, report.reason) for report in read_all(TextFolder(root))]
    assert found == [("a.txt", "not_utf8"), ("b.txt", "empty_report"), ("c.txt", "too_large"), ("d.txt", "link")]
    (root / "more").symlink_to(tmp_path)
    with pytest.raises(InputError, match=r"a folder in it is a link, which is not followed; copy it with `cp -rL`"):
        TextFolder(root)
    with pytest.raises(InputError, match=r"no text files \(\*\.txt, \*\.text\) in this folder; give the folder"):
        TextFolder(write(tmp_path / "none", {"a.doc": "x"}))
    with pytest.raises(InputError, match="is no regular expression"):
        TextFolder(write(tmp_path / "one", {"a.txt": "x"}), group_pattern="(")
    with pytest.raises(InputError, match="--encoding: no such encoding"):
        TextFolder(tmp_path / "one", encoding="utf-99")
    (tmp_path / "one" / "a.txt").write_bytes(b"caf\x82")
    assert read_all(TextFolder(tmp_path / "one", encoding="cp437"))[0].findings == "café"
    (tmp_path / "one" / "a.txt").write_text("Clear lungs.", encoding="utf-8-sig")
    assert read_all(TextFolder(tmp_path / "one", encoding="utf-8"))[0].findings == "Clear lungs."
