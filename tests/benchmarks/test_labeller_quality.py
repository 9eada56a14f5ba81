"""How well the labeller reads: from labels of one's own, from OpenI's headings, and the tables of README.md."""

import sys

import pytest
from conftest import REPOSITORY
from report_trees import openi_xml

from radrecipes.cli import run

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

import labeller_quality

HEADER = "study,text,Cardiomegaly,Airspace Opacity,Pleural Effusion,Pneumothorax,No Finding"
ROWS = (
    's1,"The heart is enlarged. Pacemaker. No pneumothorax.",1.0,,,0,',
    's2,"There may be a small left effusion, dictated on rounds.",,,-1.0,,0',
    # The labels say the opposite: one wrong pair and one missed
    's3,"Opacity in the right upper lobe.",,0,,,',
    's4,"  ",1,,,,',
)


def measured(monkeypatch, capsys, path):
    monkeypatch.setattr(sys, "argv", ["labeller_quality.py", "--csv", str(path)])
    labeller_quality.main()
    return capsys.readouterr()


def test_a_csv_of_ones_own_is_compared_with_its_labels(tmp_path, monkeypatch, capsys):
    table = tmp_path / "labelled.csv"
    table.write_text("\n".join((HEADER, *ROWS)) + "\n", encoding="utf-8")
    printed = measured(monkeypatch, capsys, table)
    lines = {tuple(line.split()[:-4]): line.split()[-4:] for line in printed.out.splitlines()[1:-2]}
    assert lines["Cardiomegaly", "positive"] == ["1", "1.000", "1.000", "1.000"]
    assert lines["Pleural", "Effusion", "uncertain"] == ["1", "1.000", "1.000", "1.000"]
    assert lines["Lung", "Opacity", "negative"] == ["1", "–", "0.000", "0.000"]
    assert lines["all", "pairs"] == ["4", "0.750", "0.750", "0.750"]
    assert lines["uncertain", "pairs"] == ["1", "1.000", "1.000", "1.000"]
    assert "Support Devices" not in printed.out  # no column
    assert "3 reports; " in printed.out and "1 rows without a text are left out" in printed.err


def test_findings_and_impression_may_have_columns_of_their_own(tmp_path, monkeypatch, capsys):
    table = tmp_path / "labelled.csv"
    table.write_text(
        "Impression,Findings,Edema,Pneumonia\nNo pneumonia.,Pulmonary edema.,1,0\n,Pulmonary edema.,1,\n",
        encoding="utf-8",
    )
    assert "F1 of all pairs: 1.000" in measured(monkeypatch, capsys, table).out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("", "the file is empty"),
        ("report,Edema\nEdema.,1\n", "no column `text`"),
        ("text,oedema_score\nEdema.,1\n", "no column of an observation"),
        (
            "text,Edema\nSecret words.,1\nEdema.,maybe\n",
            "labelled.csv:3: column 'Edema' has none of 1, 0, -1 and blank",
        ),
        ("text,Lung Opacity,Airspace Opacity\nOpacity.,1,1\n", "two columns for Lung Opacity"),
        ("text,Edema\n ,1\n", "no row has a text"),
        ('text,Edema\n"Edema.,1\n', "a quote is not closed"),
    ],
)
def test_a_csv_that_cannot_be_used_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, content, message):
    table = tmp_path / "labelled.csv"
    if content is not None:
        table.write_text(content, encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["labeller_quality.py", "--csv", str(table)])
    with pytest.raises(SystemExit) as ended:
        run(labeller_quality.main)
    printed = capsys.readouterr().err
    assert ended.value.code == 2
    assert message in printed and printed.count("\n") == 1 and "Secret" not in printed


def test_headings_are_recalled_and_only_a_normal_report_shows_a_wrong_positive(tmp_path):
    reports = (
        ("Left pleural effusion. Heart is enlarged.", ["Pleural Effusion/left/small"]),
        ("Possible right pneumothorax.", ["Pneumothorax/right"]),
        ("No fracture.", ["Fractures, Bone/ribs/left", "Costophrenic Angle/left/blunted"]),
        ("Pleural effusion.", ["normal"]),
        ("Clear lungs.", ["normal"]),
        ("Pleural effusion.", ["No Indexing"]),
        ("Nodule with calcium.", ["Calcified Granuloma/lung"]),
    )
    for number, (findings, headings) in enumerate(reports, start=1):
        majors = "".join(f"<major>{heading}</major>" for heading in headings)
        text = openi_xml(number, findings, None).replace("<major>normal</major>", majors)
        (tmp_path / f"{number}.xml").write_text(text, encoding="utf-8")
    entry = labeller_quality.measure_headings(labeller_quality.read_openi(tmp_path))
    assert entry["reports"] == 6 and entry["normal"] == {"reports": 2, "no_finding": 1}
    effusion, fracture = entry["observations"]["Pleural Effusion"], entry["observations"]["Fracture"]
    assert (effusion["named"], effusion["positive"], effusion["in_normal"]) == (1, 1, 1)
    assert (effusion["precision"], effusion["recall"], effusion["f1"]) == (0.5, 1.0, 0.6667)
    assert (fracture["named"], fracture["negative"], fracture["recall"]) == (1, 1, 0.0)
    assert entry["observations"]["Pneumothorax"]["uncertain"] == 1
    assert entry["observations"]["Cardiomegaly"]["elsewhere"] == entry["observations"]["Lung Lesion"]["elsewhere"] == 1
    assert (entry["all"]["precision"], entry["all"]["recall"], entry["all"]["strict_precision"]) == (0.5, 0.6667, 0.25)


def test_the_tables_are_those_of_the_results():
    document = labeller_quality.DOCUMENT.read_text("utf-8")
    assert labeller_quality.with_tables(document, labeller_quality.read_results()) == document, (
        "run python benchmarks/labeller_quality.py"
    )
