import pickle

import pytest

from radrecipes.data.sources.hl7_reports import Hl7Reports
from radrecipes.errors import InputError

LINES = (
    "FINDINGS:",
    r"The lungs are clear.\.br\No effusion \T\ no edema.",
    "",
    "IMPRESSION:",
    "Normal chest.",
    "Dictated by: J. Doe, MD",
)


def message(
    number,
    lines=LINES,
    *,
    status="F",
    time="20260102030405",
    patient="P7^^^HOSP^MR",
    exam="71046^XR CHEST 2 VIEWS^C4",
    ids=None,
):
    ids = ids or ["71046&GDT^XR CHEST"] * len(lines)
    return [
        rf"MSH|^~\&|RIS|RAD|EHR|HOSP|{time}||ORU^R01^ORU_R01|MSG{time}|P|2.5.1",
        f"PID|1||{patient}||DOE^JANE||19600101|F",
        f"OBR|1|O{number}|A{number}|{exam}|||20260102020000||||||||||||||||||{status}",
        *(f"OBX|{place}|FT|{ids[place - 1]}||{line}||||||{status}" for place, line in enumerate(lines, start=1)),
        "OBX|99|ED|PDF^Report||^application^pdf^Base64^JVBERi0||||||F",
        "ZDS|1.2.3^RIS^Application^DICOM",
    ]


def write(path, *messages, end="\r", before="", after=""):
    path.write_bytes("".join(f"{before}{end.join(segments)}{end}{after}" for segments in messages).encode("cp1252"))
    return path


def read_all(root, **options):
    source = Hl7Reports(root, **options)
    other_process = pickle.loads(pickle.dumps(source))
    assert len(pickle.dumps(source)) < 200 and source.count == len(list(source.items()))
    return source, [other_process.read(item) for item in source.items()]


@pytest.mark.parametrize(
    ("end", "before", "after"),
    [
        ("\r", "", ""),
        ("\n", "", "\n"),
        ("\r\n", "", ""),
        ("\r", "\x0b", "\x1c\r"),
        ("\r", "FHS|^~\\&|RIS\rBHS|^~\\&|RIS\r", "BTS|1\rFTS|1\r"),
    ],
)
def test_messages_with_any_framing_become_reports(tmp_path, end, before, after):
    path = write(tmp_path / "feed.hl7", message(1), message(2, patient="P8"), end=end, before=before, after=after)
    _, (first, second) = read_all(path)
    assert (first.id, first.group, first.exam, first.path) == ("A1", "P7", "XR CHEST 2 VIEWS", "feed.hl7:message 1")
    assert (first.findings, first.impression) == ("The lungs are clear. No effusion & no edema.", "Normal chest.")
    assert (second.id, second.group) == ("A2", "P8")


def test_of_several_versions_the_last_final_one_counts(tmp_path):
    text = ("IMPRESSION:", "{}")
    write(
        tmp_path / "a.hl7",
        message(1, ("IMPRESSION:", "First."), status="P"),
        message(1, ("IMPRESSION:", "Second."), time="20260103"),
    )
    write(
        tmp_path / "b.hl7",
        message(1, ("IMPRESSION:", "Corrected."), status="C", time="20260104"),
        message(2, text, status="F"),
    )
    write(
        tmp_path / "c.hl7",
        message(1, ("IMPRESSION:", "Late draft."), status="P", time="20260105"),
        message(2, text, status="X", time="2027"),
    )
    write(tmp_path / "d.hl7", message(3, ("IMPRESSION:", "Draft."), status="P", patient=""))
    source, reports = read_all(tmp_path)
    assert [(report.id, report.group, report.impression) for report in reports] == [
        ("A1", "P7", "Corrected."),
        ("A3", "A3", "Draft."),
    ]
    assert source.said == [
        "4 earlier versions of reports were left out",
        "1 withdrawn reports were left out",
        "1 reports have a preliminary version only, which was kept",
        "1 messages name no patient (PID-3): each counts as a patient of its own",
    ]


def test_numbers_of_two_systems_are_two_reports(tmp_path):
    messages = [
        [segment.replace("|A1|", f"|A1^{system}|") for segment in message(1)] for system in ("RIS0", "RIS1", "")
    ]
    assert [report.id for report in read_all(write(tmp_path / "a.hl7", *messages))[1]] == ["A1^RIS0", "A1^RIS1", "A1"]


def test_sections_may_be_named_by_the_observation_identifier(tmp_path):
    lines, ids = (
        ("The heart is enlarged.", "Cardiomegaly.", "Follow up."),
        ("18782-3^Findings^LN", "71046&IMP^XR", "71046&REC"),
    )
    _, [report] = read_all(write(tmp_path / "a.hl7", message(1, lines, ids=ids, patient="9^^^X^SS~P7^^^H^MR")))
    assert (report.findings, report.impression, report.group) == ("The heart is enlarged.", "Cardiomegaly.", "P7")


def test_line_breaks_within_a_text_other_separators_and_escapes(tmp_path):
    segments = message(
        1,
        (
            "FINDINGS: Caf\u00e9-au-lait spots.\nCHF: none.\nNo \\H\\effusion\\N\\ \\X2B\\ 5~6 mm \\F\\ C:\\temp\\.",
            "IMPRESSION: Normal.",
        ),
    )
    segments = [segment.translate(str.maketrans("|^", "#$")) for segment in segments]
    _, [report] = read_all(write(tmp_path / "a.hl7", segments))
    assert (
        report.findings == "Café-au-lait spots. CHF: none. No effusion + 5 6 mm # C:\\temp\\."
        and report.impression == "Normal."
    )


def test_empty_and_broken_messages(tmp_path):
    broken = ["MSH", "OBR", "OBX", "text", "PID|", "OBR|1", "OBX|1|TX", *message(4)]
    assert [report.id for report in read_all(write(tmp_path / "c.hl7", broken))[1]] == ["A4"]
    _, reports = read_all(write(tmp_path / "a.hl7", message(1, ("", " ")), message(2, ("x" * 2**20, "y" * 9))))
    assert [report.reason for report in reports] == ["empty_report", "too_large"]
    with pytest.raises(InputError, match=r"no HL7 message with a text \(MSH, OBR, OBX\) here; give ORU"):
        Hl7Reports(write(tmp_path / "b.hl7", ["MSH|^~\\&|A", "PID|1"]))
