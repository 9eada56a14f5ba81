"""Tables as departments export them: every delimiter and encoding, titles above, totals below, Excel."""

import csv
import gzip
import io
from datetime import date, datetime

import openpyxl
import pytest

from radrecipes.data.sources.table_form import TableForm
from radrecipes.data.sources.table_rows import open_table

COLUMNS = ["order", "protocol"]
ROWS = [("Schmerz rechts, Übelkeit; CRP 5,4", "CT Abdomen"), ("r/o PE, s/p THR | knee", "CT Chest")]


def written(rows, delimiter=",", quoting=csv.QUOTE_MINIMAL):
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=delimiter, quoting=quoting).writerows(rows)
    return buffer.getvalue()


def read(path, columns=COLUMNS, **form):
    """The cells of every row, and what was said."""
    table = open_table(path, columns, TableForm(**form))
    rows = [cells if isinstance(cells, str) else tuple(cells.values()) for _, cells in table.rows(columns)]
    return rows, table.said


TEXT = written([COLUMNS, *ROWS], ";")
FORMS = {
    "semicolons in cp1252": ("a.csv", TEXT.encode("cp1252"), "separated by ;, cp1252"),
    "semicolons with a byte order mark": ("a.csv", TEXT.encode("utf-8-sig"), "separated by ;"),
    "UTF-16 of Excel": ("a.txt", written([COLUMNS, *ROWS], "\t").encode("utf-16"), "utf-16"),
    "UTF-16 without a mark": ("a.csv", TEXT.encode("utf-16-le"), "separated by ;, utf-16-le"),
    "UTF-16 of another order": ("a.csv", TEXT.encode("utf-16-be"), "separated by ;, utf-16-be"),
    "tabs in a .csv": ("a.csv", written([COLUMNS, *ROWS], "\t").encode(), "separated by tab"),
    "vertical bars": ("a.csv", written([COLUMNS, *ROWS], "|").encode(), "separated by |"),
    "commas in a .tsv": ("a.tsv", written([COLUMNS, *ROWS]).encode(), "separated by ,"),
    "a line sep=": ("a.csv", b"sep=;\r\n" + TEXT.encode(), "separated by ;, header in line 2"),
    "title lines": (
        "a.csv",
        ("Radiology orders, May\r\n\r\n" + TEXT).encode(),
        "separated by ;, header in line 3",
    ),
    "title rows of a spreadsheet": (
        "a.csv",
        b"Radiology orders,\n,\n" + written([COLUMNS, *ROWS]).encode(),
        "header in line 3",
    ),
    "a total": ("a.csv", (TEXT + "Summe;2\r\n").encode("cp1252"), "separated by ;, cp1252, 1 footer row left out"),
    "a count below an empty row": (
        "a.csv",
        (TEXT + ";\r\n\r\n(2 rows affected)\r\n").encode(),
        "separated by ;, 2 footer rows left out",
    ),
    "all at once, gzipped": (
        "a.csv.gz",
        gzip.compress(("sep=;\r\nOrders of May\r\n" + TEXT + "Total:;2\r\nPage 1 of 1\r\n").encode("utf-16")),
        "separated by ;, utf-16, header in line 3, 2 footer rows left out",
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_an_export_is_read_and_what_was_found_is_said(tmp_path, name):
    file, content, said = FORMS[name]
    (tmp_path / file).write_bytes(content)
    assert read(tmp_path / file) == (ROWS, f"{file}: {said}")


def workbook(path, *sheets):
    book = openpyxl.Workbook()
    book.remove(book.active)
    for rows in sheets:
        sheet = book.create_sheet()
        for row in rows:
            sheet.append(row)
    book.save(path)
    return book


def test_a_sheet_of_excel_is_read_with_its_titles_dates_and_numbers(tmp_path):
    path = tmp_path / "orders.xlsx"
    rows = [
        ["Radiology orders, May"],
        [],
        ["order", "protocol", "mrn", "day", "time", "egfr", "contrast"],
        ["r/o PE", "CT Chest", 17, date(2024, 5, 17), datetime(2024, 5, 17, 8, 30), 54.5, True],
        [],
        ["Übelkeit\nseit gestern", "CT Abdomen", 18.0, None, None, 90, False],
        ["Total", None, 2],
    ]
    book = workbook(path, rows, [["a legend"]])
    book.worksheets[0].merge_cells("A1:G1")
    book.save(path)
    table = open_table(path, COLUMNS)
    read = list(table.rows(table.header, values=["egfr"]))
    assert [where for where, _ in read] == [f"{path}:row 4", f"{path}:row 6"]
    assert [tuple(cells.values()) for _, cells in read] == [
        ("r/o PE", "CT Chest", "17", "2024-05-17", "2024-05-17 08:30:00", "54.5", "TRUE"),
        ("Übelkeit\nseit gestern", "CT Abdomen", "18", "", "", "90", "FALSE"),
    ]
    assert table.said == "orders.xlsx: sheet 1, header in row 3, 1 footer row left out"
    # Decimal numbers are no identifiers, as in Parquet.
    assert next(table.rows(["egfr"]))[1] == (
        "column 'egfr' contains decimal numbers, as pandas writes integers if one is missing; write integers or text"
    )


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (["x", 1234567890123456], "more than 15 digits, which Excel rounds"),
        (["x", "#N/A"], "an error of a formula"),
        (["x", "CT", "a remark"], "the row has 3 cells, the header 2"),
    ],
)
def test_cells_that_excel_has_damaged_are_problems(tmp_path, row, said):
    workbook(tmp_path / "a.xlsx", [COLUMNS, row, ["x", "CT"]])
    [problem, good], _ = read(tmp_path / "a.xlsx")
    assert said in problem and good == ("x", "CT")
