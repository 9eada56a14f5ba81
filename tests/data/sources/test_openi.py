import gzip
import os
import pickle
import tarfile

import pytest
from report_trees import FINDINGS, IMPRESSIONS, openi_xml, write_openi

from radrecipes.data.sources.openi import OpenI
from radrecipes.errors import InputError


def read_all(source):
    return [source.read(item) for item in source.items()]


def test_reports_are_read_in_the_order_of_their_numbers_each_a_group_of_its_own(tmp_path):
    write_openi(tmp_path / "ecgen-radiology", 12)
    source = OpenI(tmp_path)
    reports = read_all(source)
    assert source.count == 12 and source.rejected == []
    assert [report.id for report in reports] == [f"CXR{number}" for number in range(1, 13)]
    assert all(report.group == report.id for report in reports)
    assert reports[9].path == "ecgen-radiology/10.xml"
    assert (reports[2].findings, reports[2].impression) == (FINDINGS["clear"], IMPRESSIONS["clear"])
    assert reports[2].observations is None


def test_folder_of_files_and_archive_give_the_same(tmp_path):
    write_openi(tmp_path / "ecgen-radiology", 12)
    expected = read_all(OpenI(tmp_path))
    assert read_all(OpenI(tmp_path / "ecgen-radiology")) == expected
    packed = tmp_path / "packed"
    packed.mkdir()
    with tarfile.open(packed / "NLMCXR_reports.tgz", "w:gz") as archive:
        archive.add(tmp_path / "ecgen-radiology", "ecgen-radiology")
    source = OpenI(packed)
    assert read_all(source) == expected
    assert read_all(OpenI(packed / "NLMCXR_reports.tgz")) == expected
    assert len(pickle.dumps(source)) < 200


def test_sections_without_text_wrapped_lines_and_markup(tmp_path):
    for number, (findings, impression) in enumerate(
        [(None, "1. Normal.\n\n  2. Stable.. ."), ("Clear &lt;2 cm.", None), ("Heart <b>is</b>\n normal.", " ")],
        start=1,
    ):
        name = f"{number}.{'XML' if number == 2 else 'xml'}"
        (tmp_path / name).write_text(openi_xml(number, findings, impression), encoding="utf-8")
    found = [(report.findings, report.impression) for report in read_all(OpenI(tmp_path))]
    assert found == [("", "1. Normal. 2. Stable."), ("Clear <2 cm.", ""), ("Heart is normal.", "")]


def test_bad_files_are_rejected_with_their_reason(tmp_path):
    write_openi(tmp_path, 5)
    good = openi_xml(1, "Clear.", "Normal.")
    (tmp_path / "1.xml").write_text(good[:-20], encoding="utf-8")
    (tmp_path / "2.xml").write_bytes(good.replace("Clear.", "Cl\xe9ar.").encode("latin-1"))
    (tmp_path / "3.xml").write_bytes(b"")
    (tmp_path / "4.xml").write_text(good.replace("utf-8", "no-such-code"), encoding="utf-8")
    reports = read_all(OpenI(tmp_path))
    assert [report.reason for report in reports[:4]] == [
        "unreadable_xml",
        "not_utf8",
        "empty_report",
        "unreadable_xml",
    ]
    assert reports[0].path == "ecgen-radiology/1.xml" and reports[4].id == "CXR5"


def test_a_report_without_its_number_is_known_by_its_file(tmp_path):
    (tmp_path / "17.xml").write_text(openi_xml(1, "Clear.", "Normal.").replace('<uId id="CXR1"/>', ""))
    assert read_all(OpenI(tmp_path))[0].id == "17"


def test_a_wrong_root_names_what_was_looked_for(tmp_path):
    with pytest.raises(InputError, match=r"nowhere: no such file or folder; give the folder with ecgen-radiology/"):
        OpenI(tmp_path / "nowhere")
    (tmp_path / "1.xml.txt").write_text(openi_xml(1, "Clear.", "Normal."))
    with pytest.raises(
        InputError, match=r"1.xml.txt: is neither a folder nor NLMCXR_reports.tgz; give the folder with"
    ):
        OpenI(tmp_path / "1.xml.txt")
    with pytest.raises(InputError, match=r"looked for ecgen-radiology/\*.xml, \*.xml and NLMCXR_reports.tgz"):
        OpenI(tmp_path)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
def test_a_truncated_archive_is_refused(tmp_path, share):
    write_openi(tmp_path / "ecgen-radiology", 30)
    archive = tmp_path / "NLMCXR_reports.tgz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(tmp_path / "ecgen-radiology", "elsewhere")
    packed = tmp_path / "packed"
    packed.mkdir()
    whole = archive.read_bytes()
    (packed / archive.name).write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(InputError, match=r"NLMCXR_reports.tgz: is not a complete gzipped tar file; download it again"):
        OpenI(packed)


def test_a_report_that_is_a_link_or_no_file_is_rejected(tmp_path):
    write_openi(tmp_path / "ecgen-radiology", 3)
    (tmp_path / "secret.xml").write_text(openi_xml("CXR9", "Clear.", "Clear."), encoding="utf-8")
    (tmp_path / "ecgen-radiology" / "2.xml").unlink()
    (tmp_path / "ecgen-radiology" / "2.xml").symlink_to(tmp_path / "secret.xml")
    (tmp_path / "ecgen-radiology" / "3.xml").unlink()
    os.mkfifo(tmp_path / "ecgen-radiology" / "3.xml")
    first, *others = read_all(OpenI(tmp_path))
    assert first.id == "CXR1" and [report.reason for report in others] == ["link", "too_large"]


@pytest.mark.parametrize("size", [2**21, 2**40])
def test_an_archive_does_not_unpack_to_any_size(tmp_path, size):
    member = tarfile.TarInfo("ecgen-radiology/1.xml")
    member.size = size
    with gzip.open(tmp_path / "NLMCXR_reports.tgz", "wb") as file:
        file.write(member.tobuf() + b" " * 2**21)
    with pytest.raises(InputError, match="larger than 1 MiB, the limit"):
        OpenI(tmp_path)
