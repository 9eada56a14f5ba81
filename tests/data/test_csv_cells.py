"""No cell that this project writes is run by a spreadsheet, and reading it back gives what was written."""

import csv

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from radrecipes.data.csv_cells import guarded, unguarded
from radrecipes.data.sources.tables import ExampleTable
from radrecipes.inference.prediction_stream import write_answers

RUN_BY_SPREADSHEETS = [
    "=1+1",
    "=HYPERLINK(A1)",
    "+1-1",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    " =1",
    "＝1",
    "-x",
    "'=1",
    "+",
]
HARMLESS = ["", "7", "-5", "+1.5", "1,000", "CT Head", "x=1", "'", "it's", "'quoted'"]


@pytest.mark.parametrize("cell", RUN_BY_SPREADSHEETS)
def test_a_formula_becomes_text(cell):
    assert guarded(cell) == f"'{cell}" and unguarded(guarded(cell)) == cell


@pytest.mark.parametrize("cell", HARMLESS)
def test_any_other_cell_stays_as_it_is(cell):
    assert guarded(cell) == unguarded(cell) == cell


@given(st.text(st.sampled_from(" '=+-@\t\n1a"), max_size=6))
def test_every_cell_comes_back(cell):
    assert unguarded(guarded(cell)) == cell
    # None that begins like a formula is left: a number may begin with a sign.
    assert guarded(cell).lstrip()[:1] not in {"=", "@"}


@pytest.mark.parametrize("plain", [False, True])
def test_ids_of_an_answers_file_are_the_same_when_it_is_read_again(plain, tmp_path):
    ids = [*(cell.strip() for cell in RUN_BY_SPREADSHEETS), *HARMLESS[1:]]
    pd.DataFrame({"id": ids, "label": ids[::-1]}).to_parquet(tmp_path / "part.parquet")
    write_answers([tmp_path / "part.parquet"], tmp_path / "answers.csv", ".csv", "label", plain_csv=plain)
    with (tmp_path / "answers.csv").open(encoding="utf-8", newline="") as file:
        written = [row["id"] for row in csv.DictReader(file)]
    assert written == (ids if plain else [guarded(cell) for cell in ids])
    if not plain:
        read = ExampleTable(tmp_path / "answers.csv", inputs={}, id_column="id", target="label").read()
        assert [(row.id, row.target) for row in read] == list(zip(ids, ids[::-1], strict=True))
