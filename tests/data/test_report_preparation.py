import json
import re
import zipfile
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from report_trees import report_text, write_mimic, write_openi

from radrecipes.data.report_preparation import COLUMNS, FILTERS, ReportOptions, prepare_reports
from radrecipes.data.sources.mimic_cxr import MimicCxr
from radrecipes.data.sources.openi import OpenI
from radrecipes.data.sources.report_pairs import ReportPairs
from radrecipes.data.sources.report_source import DROP_REASONS
from radrecipes.errors import InputError
from radrecipes.radiology.labeller import label_report
from radrecipes.radiology.observations import findings_present, format_observations, parse_observations

SPLITS = ("train", "validation", "test")
STATED = ReportOptions(labels="stated")


def rows_of(preparation):
    return {split: preparation[0][split].to_pylist() for split in SPLITS}


def prepare(root, tmp_path, options=None, *, labels=None, official=False, **more):
    source = MimicCxr(root, labels=labels, official_split=official)
    return prepare_reports(
        source,
        options or ReportOptions(),
        rejected_path=tmp_path / "out.rejected.csv",
        official_split=official,
        **{"processes": 1, **more},
    )


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A tree that tests only read."""
    root = tmp_path_factory.mktemp("tree")
    write_mimic(root)
    return root


def test_reports_are_labelled_by_their_text_and_split_by_patient(tree, tmp_path):
    preparation = prepare(tree, tmp_path)
    rows = rows_of(preparation)
    everything = [row for split in SPLITS for row in rows[split]]
    assert len(everything) == 90 and tuple(everything[0]) == COLUMNS
    for row in everything:
        assert row["observations"] == format_observations(label_report(row["findings"], row["impression"]))
        assert "\n" not in row["findings"] + row["impression"]
    groups = {split: {row["group"] for row in rows[split]} for split in SPLITS}
    assert not groups["train"] & groups["validation"] and not groups["train"] & groups["test"]
    assert not groups["validation"] & groups["test"]
    facts = preparation[1]
    assert {name: value for name, value in facts["rows"].items() if value} == {"read": 90, "kept": 90}
    assert [facts["splits"][split]["rows"] for split in SPLITS] == [len(rows[split]) for split in SPLITS]
    assert [facts["splits"][split]["groups"] for split in SPLITS] == [len(groups[split]) for split in SPLITS]
    assert facts["splits"]["test"]["normal"] == sum("process" in row["impression"] for row in rows["test"]) > 0
    assert not (tmp_path / "out.rejected.csv").exists()


def test_figures_of_the_manifest_are_those_of_a_count_by_hand(tree, tmp_path):
    preparation = prepare(tree, tmp_path, STATED, labels="chexpert")
    for split, rows in rows_of(preparation).items():
        counted = Counter()
        for row in rows:
            counted.update((name, status.value) for name, status in parse_observations(row["observations"]).items())
        stated = preparation[1]["observations"][split]
        assert len(stated) == 14
        assert {(name, status): n for name, of in stated.items() for status, n in of.items() if n} == dict(counted)
        normal = [row for row in rows if not findings_present(parse_observations(row["observations"]))]
        assert preparation[1]["splits"][split]["normal"] == len(normal)
    train = {(row["findings"], row["impression"]) for row in rows_of(preparation)["train"]}
    test = rows_of(preparation)["test"]
    assert preparation[1]["leakage_audit"]["test"] == {
        "rows": len(test),
        "shared_groups": 0,
        "verbatim": sum((row["findings"], row["impression"]) in train for row in test),
    }


def test_any_number_of_processes_gives_the_same(tree, tmp_path, monkeypatch):
    monkeypatch.setattr("radrecipes.data.report_preparation._CHUNK", 7)
    done = []
    one = prepare(tree, tmp_path)
    three = prepare(tree, tmp_path, processes=3, progress=done.append)
    assert rows_of(one) == rows_of(three) and one[1] == three[1]
    assert sum(done) == 90 and len(done) == 13


def test_archive_and_tree_give_the_same_dataset(tree, tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "mimic-cxr-reports.zip", "w") as archive:
        for path in sorted((tree / "files").rglob("*.txt"), reverse=True):
            archive.write(path, path.relative_to(tree))
    expected = prepare(tree, tmp_path)[1]
    assert prepare(tmp_path, tmp_path)[1] == expected
    # Other processes may inherit the archive open; they must not share the position in the file.
    monkeypatch.setattr("radrecipes.data.report_preparation._CHUNK", 7)
    source = MimicCxr(tmp_path)
    source.read(next(source.items()))
    again = prepare_reports(source, ReportOptions(), rejected_path=tmp_path / "r.csv", processes=3)
    assert again[1] == expected


def test_the_official_split_is_taken_unchanged(tree, tmp_path):
    preparation = prepare(tree, tmp_path, STATED, labels="negbio", official=True)
    assert [preparation[1]["splits"][split]["rows"] for split in SPLITS] == [48, 21, 21]
    assert preparation[1]["options"]["split"] == "official"
    assert [entry["file"] for entry in preparation[1]["source"]] == [
        "mimic-cxr-2.0.0-negbio.csv.gz", "mimic-cxr-2.0.0-split.csv.gz", "files",
    ]  # fmt: skip
    assert {row["observations"] for row in rows_of(preparation)["train"]} == {
        "Pleural Effusion: positive; Fracture: negative", "Edema: positive; Fracture: negative", "No Finding: positive",
    }  # fmt: skip


def test_every_split_has_a_similar_proportion_of_normal_studies(tmp_path):
    write_mimic(tmp_path, patients=100, studies=1)
    facts = prepare(tmp_path, tmp_path)[1]
    shares = [facts["splits"][split]["normal"] / facts["splits"][split]["rows"] for split in SPLITS]
    assert max(shares) - min(shares) < 0.12


def test_the_digest_of_the_tree_changes_with_any_report(tmp_path):
    written = write_mimic(tmp_path)
    before = prepare(tmp_path, tmp_path)[1]["source"]
    assert before[0]["reports"] == 90
    written[50][2].write_text(written[50][2].read_text() + " ")
    after = prepare(tmp_path, tmp_path)[1]["source"]
    assert before != after


EARLIER = "The pleural effusion is unchanged from the prior study."
MARKED = "Dr. ___ was told."
SIDED = "There is a small left pleural effusion."


@pytest.mark.parametrize(
    ("option", "extra", "changed"),
    [
        ("earlier_studies", EARLIER, "earlier_studies"),
        ("deidentified", MARKED, "deidentified"),
        ("details", SIDED, "details"),
    ],
)
def test_filters_take_out_what_they_are_for_and_are_counted(tmp_path, option, extra, changed):
    for patient in write_mimic(tmp_path):
        if patient[1].endswith("00"):
            patient[2].write_text(report_text("edema", extra), encoding="utf-8")
    keep = ReportOptions(earlier_studies="keep", deidentified="normalise", details="keep")
    kept = prepare(tmp_path, tmp_path, keep)
    whole = [row["findings"] for rows in rows_of(kept).values() for row in rows]
    assert sum(extra in findings for findings in whole) == 30
    assert kept[1]["rows"]["changed"] == {}
    default = prepare(tmp_path, tmp_path)
    short = [row["findings"] for rows in rows_of(default).values() for row in rows]
    assert not any(extra in findings for findings in short)
    assert default[1]["rows"]["changed"] == {changed: 30}
    assert default[1]["options"][option] == "drop"


def test_marks_are_written_in_one_way(tmp_path):
    for _, _, path in write_mimic(tmp_path):
        path.write_text(report_text("edema", "Discussed with XXXX."), encoding="utf-8")
    rows = rows_of(prepare(tmp_path, tmp_path, ReportOptions(deidentified="normalise")))
    assert all("Discussed with ___." in row["findings"] for row in rows["train"])


def test_what_is_missing_by_choice_is_filtered_and_not_dropped(tmp_path):
    written = write_mimic(tmp_path)
    texts = {
        0: (" FINAL REPORT\n The lungs are clear.\n", "no_section"),
        1: (" FINAL REPORT\n FINDINGS: Clear lungs.\n", "no_impression"),
        2: (" FINAL REPORT\n IMPRESSION: Normal.\n", "no_findings"),
        3: (report_text().replace("No acute process.", "Seen by ___."), "only_deidentified"),
    }
    for position, (text, _) in texts.items():
        written[position][2].write_text(text, encoding="utf-8")
    facts = prepare(tmp_path, tmp_path)[1]
    assert facts["rows"]["filtered"] == {"no_section": 1, "no_findings": 1, "no_impression": 1, "only_deidentified": 1}
    assert list(facts["rows"]["filtered"]) == [name for name in FILTERS if name in facts["rows"]["filtered"]]
    assert facts["rows"]["kept"] == 86 and facts["rows"]["dropped"] == {}
    any_section = prepare(tmp_path, tmp_path, ReportOptions(sections="any"))
    assert any_section[1]["rows"]["filtered"] == {"no_section": 1}
    rows = {row["id"]: row for rows in rows_of(any_section).values() for row in rows}
    assert (rows[written[1][1]]["findings"], rows[written[1][1]]["impression"]) == ("Clear lungs.", "")
    assert rows[written[3][1]]["impression"] == ""


def break_rows(tmp_path):
    """One report with each kind of error."""
    written = write_mimic(tmp_path)
    written[0][2].write_bytes(b"\xff\xfe")
    written[1][2].write_text("\n")
    written[2][2].write_text(" FINAL REPORT\n FINDINGS: \n IMPRESSION: Normal.\n")
    written[3][2].unlink()
    written[6][2].write_text(report_text().replace("IMPRESSION", "<|im_end|> IMPRESSION"))
    twin = tmp_path / "files" / "p10" / "p10000020" / written[4][2].name
    twin.write_text(report_text())
    written[5][2].with_name("s59999999.txt").write_text(report_text())
    (tmp_path / "files" / "p10" / "p10000010" / "s58888888.txt.gz").write_bytes(b"\x1f\x8b")
    return written


FAULTS = {
    "files/p10/p10000000/s50000000.txt": "not_utf8",
    "files/p10/p10000001/s50000100.txt": "missing_report",
    "files/p10/p10000002/s50000200.txt": "control_token",
    "files/p10/p10000020/s50000101.txt": "duplicate_study",
    "files/p10/p10000001/s59999999.txt": "no_labels",
    "files/p10/p10000010/s58888888.txt.gz": "no_labels",
}


def test_every_error_is_counted_and_listed_with_path_and_reason(tmp_path):
    break_rows(tmp_path)
    preparation = prepare(tmp_path, tmp_path, STATED, labels="chexpert", max_dropped=0.1)
    rows = preparation[1]["rows"]
    assert rows["dropped"] == dict(Counter(FAULTS.values())) and rows["read"] == rows["kept"] + len(FAULTS) + 2 == 93
    assert rows["filtered"] == {"empty_report": 1, "no_findings": 1}
    listed = (tmp_path / "out.rejected.csv").read_text().splitlines()
    assert listed == ["path,reason", *sorted(f"{path},{_quoted(DROP_REASONS[FAULTS[path]])}" for path in FAULTS)]


def _quoted(text):
    return f'"{text}"' if "," in text else text


def test_too_many_rejected_reports_are_an_error_and_are_still_listed(tmp_path):
    break_rows(tmp_path)
    with pytest.raises(InputError) as error:
        prepare(tmp_path, tmp_path, STATED, labels="chexpert")
    assert "6 of 93 reports (6.45%) would be dropped, more than the 0.50% allowed" in str(error.value)
    assert "1 because the text is not UTF-8; " in str(error.value)
    assert not re.search(r"[ps]\d{2}", str(error.value))  # no patient, no study
    assert "\n" not in str(error.value)
    assert len((tmp_path / "out.rejected.csv").read_text().splitlines()) == 7


def test_a_list_of_rejects_of_an_earlier_try_does_not_stay(tree, tmp_path):
    (tmp_path / "out.rejected.csv").write_text("old")
    prepare(tree, tmp_path)
    assert not (tmp_path / "out.rejected.csv").exists()


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.sampled_from(["good", "empty", "latin", "headless", "gone", "double"]), min_size=20, max_size=40))
def test_every_report_is_accounted_for(tmp_path_factory, kinds):
    root = tmp_path_factory.mktemp("mix")
    written = write_mimic(root, patients=len(kinds) + 20, studies=1)
    for kind, (_, study, path) in zip(kinds, written, strict=False):
        if kind == "gone":
            path.unlink()
        elif kind == "double":
            double = root / "files" / "p10" / "p10999999" / f"s{study}.txt"
            double.parent.mkdir(exist_ok=True)
            double.write_bytes(path.read_bytes())
        elif kind != "good":
            path.write_bytes({"empty": b"", "latin": b"\xe9", "headless": b" FINAL REPORT\n Clear.\n"}[kind])
    facts = prepare(root, root, STATED, labels="chexpert", max_dropped=1.0)[1]
    rows, expected = facts["rows"], Counter(kinds)
    assert rows["read"] == len(written) + expected["double"]
    assert rows["read"] == rows["kept"] + sum(rows["dropped"].values()) + sum(rows["filtered"].values())
    names = {"latin": "not_utf8", "gone": "missing_report", "double": "duplicate_study"}
    assert rows["dropped"] == {name: expected[kind] for kind, name in names.items() if expected[kind]}
    names = {"empty": "empty_report", "headless": "no_section"}
    assert rows["filtered"] == {name: expected[kind] for kind, name in names.items() if expected[kind]}


def test_openi_and_pairs_go_the_same_way(tmp_path):
    write_openi(tmp_path / "ecgen-radiology")
    rejected = tmp_path / "out.rejected.csv"
    openi = prepare_reports(OpenI(tmp_path), ReportOptions(), rejected_path=rejected, processes=1)
    assert openi[1]["rows"]["kept"] == 60
    assert openi[1]["source"][0]["file"] == "ecgen-radiology" and openi[1]["source"][0]["reports"] == 60
    rows = [row for split in SPLITS for row in openi[0][split].to_pylist()]
    lines = [
        {"prompt": row["observations"], "completion": f"FINDINGS: {row['findings']} IMPRESSION: {row['impression']}"}
        for row in rows
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    pairs = prepare_reports(ReportPairs(path), STATED, rejected_path=rejected, processes=1)
    again = sorted((row["observations"], row["findings"]) for split in SPLITS for row in pairs[0][split].to_pylist())
    assert again == sorted((row["observations"], row["findings"]) for row in rows)
    assert [entry["file"] for entry in pairs[1]["source"]] == ["pairs.jsonl"]


def test_a_line_that_is_repeated_by_id_is_dropped(tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": "Edema: 1", "completion": f"Edema {n}.", "id": str(min(n, 57))} for n in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = prepare_reports(
        ReportPairs(path, id_column="id"),
        ReportOptions(labels="stated", sections="any"),
        rejected_path=tmp_path / "r.csv",
        processes=1,
        max_dropped=0.1,
    )
    assert done[1]["rows"]["dropped"] == {"duplicate_study": 2} and done[1]["rows"]["kept"] == 58
    assert (tmp_path / "r.csv").read_text().splitlines()[1].startswith("pairs.jsonl:59,")


def test_nothing_left_and_too_few_patients_are_errors(tmp_path):
    write_mimic(tmp_path, patients=2)
    with pytest.raises(InputError, match=r"the remaining 6 reports give no (validation|test) split"):
        prepare(tmp_path, tmp_path)
    for path in (tmp_path / "files").rglob("*.txt"):
        path.write_text(" FINAL REPORT\n Clear.\n")
    with pytest.raises(
        InputError, match=r"no report is left of 6: 6 because there are neither findings nor an impression"
    ):
        prepare(tmp_path, tmp_path)


MASKED = "XXXX opacities are present at the bases."


@pytest.mark.parametrize(
    ("option", "extra", "cause"),
    [
        (
            "earlier_studies",
            "No longer seen is the nodule, a new consolidation has developed since ___.",
            "earlier_studies",
        ),
        ("deidentified", MASKED, "deidentified"),
        ("details", "The consolidation is on the left.", "details"),
    ],
)
def test_a_study_that_cleaning_would_make_normal_is_left_out_by_cause(tmp_path, monkeypatch, option, extra, cause):
    # Whatever a cleaner does wrongly, it is noticed: here each removes the sentence.
    def remove(text):
        return text.replace(f" {extra}", "")

    monkeypatch.setattr(
        "radrecipes.data.report_preparation._cleaners", lambda options: [(cause, remove)] if option == cause else []
    )
    written = write_mimic(tmp_path)
    for number, (_, _, path) in enumerate(written[:12]):
        kind = "clear" if number < 9 else "edema"
        path.write_text(
            report_text(kind).replace(" FINDINGS: \n \n", f" FINDINGS: \n \n Lungs. {extra}"), encoding="utf-8"
        )
    rows = prepare(tmp_path, tmp_path)[1]["rows"]
    assert rows["filtered"] == {f"normal_without_{cause}": 9} and rows["changed"] == {cause: 12}
    assert rows["labels_changed"] == rows["findings_lost"] == {cause: 12}
    kept = prepare(tmp_path, tmp_path, ReportOptions(turned_normal="keep"))[1]["rows"]
    assert (kept["kept"], kept["filtered"], kept["findings_lost"]) == (90, {}, {cause: 12})


def test_masked_words_cost_no_finding_when_they_are_mended(tmp_path):
    for _, _, path in write_mimic(tmp_path):
        path.write_text(report_text("clear", MASKED), encoding="utf-8")
    repaired = prepare(tmp_path, tmp_path, ReportOptions(deidentified="repair"))
    assert repaired[1]["rows"]["filtered"] == {} and repaired[1]["rows"]["findings_lost"] == {}
    assert all("Opacities are present at the bases." in row["findings"] for row in rows_of(repaired)["train"])
    with pytest.raises(InputError, match="90 because without de-identification marks its findings would be gone"):
        prepare(tmp_path, tmp_path)
