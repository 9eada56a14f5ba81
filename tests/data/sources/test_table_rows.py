"""Tables as departments export them: every delimiter and encoding, titles above, totals below, Excel."""

import csv
import gzip
import io
import json
import zipfile
from datetime import date, datetime

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radrecipes.data.csv_cells import guarded
from radrecipes.data.sources import excel
from radrecipes.data.sources.table_form import TableForm
from radrecipes.data.sources.table_rows import open_table
from radrecipes.errors import InputError

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


def damaged(path, change, more=()):
    """A workbook with changed members: `change` gets and returns the text of the first sheet."""
    workbook(path, [COLUMNS, ["x", "CT"]])
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    sheet = "xl/worksheets/sheet1.xml"
    members[sheet] = change(members[sheet].decode()).encode()
    members.update(more)
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml.sharedStrings+xml"
    parts = "".join(f'<Override PartName="/{name}" ContentType="{kind}"/>' for name in more)
    types = "[Content_Types].xml"
    members[types] = members[types].replace(b"</Types>", f"{parts}</Types>".encode())
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


ENTITIES = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10 if n else "lol" * 10}">' for n in range(9))
BOMBS = {
    "many bytes": (lambda xml: xml.replace("</sheetData>", "<row/>" * 3_000_000 + "</sheetData>"), "unpacks to more"),
    "a row behind the last of Excel": (
        lambda xml: xml.replace("</sheetData>", '<row r="9000000000"><c r="A9000000000"/></row></sheetData>'),
        "more than 10,000 rows",
    ),
    "wide rows": (
        lambda xml: xml.replace("</sheetData>", "<row><c r='XFD9'><v>1</v></c></row>" * 100 + "</sheetData>"),
        "more cells than the file has bytes",
    ),
    "entities": (
        lambda xml: f"<!DOCTYPE x [{ENTITIES}]>{xml.replace('<v>0</v>', '<v>&a8;</v>')}",
        "not readable as Excel",
    ),
    "broken XML": (lambda xml: xml[:-20], "not readable as Excel"),
    "a string that is missing": (
        lambda xml: xml.replace("inlineStr", "s").replace("<is><t>x</t></is>", "<v>99</v>"),
        "not readable as Excel",
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_workbook_that_would_take_hours_or_all_memory_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.setattr(excel, "MOST_ROWS", 10_000)
    change, said = BOMBS[name]
    damaged(tmp_path / "a.xlsx", change)
    with pytest.raises(InputError, match=said):
        read(tmp_path / "a.xlsx")


def test_strings_that_excel_shares_are_read(tmp_path):
    def shared(xml):
        for number, text in enumerate((*COLUMNS, "x", "CT")):
            xml = xml.replace(f't="inlineStr"><is><t>{text}</t></is>', f't="s"><v>{number}</v>')
        return xml

    strings = "".join(f"<si><t>{text}</t></si>" for text in (*COLUMNS, "two_x000D_\nlines", "CT"))
    namespace = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    damaged(tmp_path / "a.xlsx", shared, {"xl/sharedStrings.xml": f'<sst xmlns="{namespace}">{strings}</sst>'})
    assert read(tmp_path / "a.xlsx") == ([("two\nlines", "CT")], "")


def test_many_rows_without_cells_cost_nothing(tmp_path):
    row = '<row r="100000"><c r="A100000" t="inlineStr"><is><t>y</t></is></c></row>'
    damaged(tmp_path / "a.xlsx", lambda xml: xml.replace("</sheetData>", f"{row}</sheetData>"))
    assert read(tmp_path / "a.xlsx") == ([("x", "CT"), ("y", "")], "")


def test_another_sheet_is_named_and_read(tmp_path):
    path = tmp_path / "a.xlsx"
    workbook(path, [["legend"]], [COLUMNS, ["x", "CT"]])
    with pytest.raises(
        InputError, match="the first sheet does not have the columns, sheet 2 has; read it with --sheet 2"
    ):
        read(path)
    assert read(path, sheet="2") == read(path, sheet="Sheet1") == ([("x", "CT")], "a.xlsx: sheet 2")
    for absent in ("3", "0", "Orders"):
        with pytest.raises(InputError, match="no such sheet; it has 2"):
            read(path, sheet=absent)


UNCERTAIN = "a.csv:2: is not UTF-8; save the file as UTF-8, or name its encoding with --encoding"


@pytest.mark.parametrize(
    ("file", "content", "form", "said"),
    [
        ("a.xls", b"\xd0\xcf\x11\xe0 and more", {}, "save it as .xlsx or as CSV"),
        ("a.xlsx", b"\xd0\xcf\x11\xe0 and more", {}, "one with a password, is not read"),
        ("a.csv", b"PK\x03\x04 and more", {}, "rename it to .xlsx"),
        ("a.xlsx", b"PK\x03\x04 and more", {}, "not readable as Excel"),
        (
            "a.csv",
            "order,protocol\nРентген грудной клетки,CT\n".encode("cp1251"),
            {},
            UNCERTAIN,
        ),
        (
            "a.csv",
            "order;protocol\nból głowy, zawroty;CT\n".encode("cp1250"),
            {},
            UNCERTAIN,
        ),
        (
            "a.csv",
            "order;protocol\nÜbelkeit, Fieber früh;CT\n".encode("mac_roman"),
            {},
            UNCERTAIN,
        ),
        (
            "a.csv",
            "order;protocol\nfrüh Übelkeit;CT\n".encode("cp850"),
            {},
            UNCERTAIN,
        ),
        ("a.csv", "order;protocol\nbaş ağrısı;CT\n".encode("cp1254"), {}, UNCERTAIN),
        ("a.csv", "order;protocol\nbolest hlavy, příznaky a závratě včera;CT\n".encode("cp1250"), {}, UNCERTAIN),
        ("a.csv", b"order;protocol;x\nx;CT;1\norder,protocol,x\n", {}, "found with , (line 3) or ; (line 1)"),
        ("a.csv", b"x,CT\norder,protocol\n", {}, "leave it out with --skip-rows 1"),
        ("a.csv", TEXT.encode(), {"delimiter": "comma"}, "no column 'order'"),
        ("a.csv", TEXT.encode(), {"delimiter": "ab"}, "--delimiter: choose one character"),
        ("a.csv", TEXT.encode(), {"encoding": "utf-9"}, "--encoding: no such encoding"),
        ("a.csv", TEXT.encode(), {"encoding": "rot13"}, "--encoding: no such encoding"),
        ("a.csv", TEXT.encode(), {"encoding": "ascii"}, "a.csv:2: is not ascii"),
        ("a.csv", TEXT.encode("cp1252"), {"encoding": "utf-16"}, "is not utf-16"),
        ("a.csv", TEXT.encode(), {"skip_rows": -1}, "--skip-rows: is -1"),
        ("a.csv", TEXT.encode(), {"skip_rows": 1}, "no column 'order'"),
        ("a.csv", TEXT.encode(), {"skip_rows": 9}, "the file is empty"),
        ("a.csv", TEXT.encode(), {"sheet": "2"}, "a text file does not take --sheet"),
        ("a.jsonl", b"{}", {"skip_footer": 1}, "JSON does not take --skip-footer"),
        ("a.parquet", b"PAR1", {"encoding": "utf-8"}, "Parquet does not take --encoding"),
        ("a.xlsx", b"PK\x03\x04", {"delimiter": ";"}, "an Excel file does not take --delimiter"),
    ],
)
def test_what_is_not_certain_is_asked_with_the_option(tmp_path, file, content, form, said):
    (tmp_path / file).write_bytes(content)
    with pytest.raises(InputError) as caught:
        rows, _ = read(tmp_path / file, **form)
        raise InputError(rows[0], "a.csv:2")
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "form", "rows"),
    [
        ("order;protocol\nból głowy;CT\n".encode("cp1250"), {"encoding": "cp1250"}, [("ból głowy", "CT")]),
        (b"order^protocol\nx;y^CT\n", {"delimiter": "^"}, [("x;y", "CT")]),
        (b"order,a\norder,protocol\nx,CT\n", {"skip_rows": 1}, [("x", "CT")]),
        (b"order,protocol\n,\nx,CT\n,,,\n", {}, [("x", "CT")]),
        (b"order,protocol\nx,CT\nTotal,1\n", {"skip_footer": 0}, [("x", "CT"), ("Total", "1")]),
        (b"order,protocol\nx,CT\nprinted today,by the system\n\n", {"skip_footer": 1}, [("x", "CT")]),
    ],
)
def test_what_a_user_says_is_not_detected(tmp_path, content, form, rows):
    (tmp_path / "a.csv").write_bytes(content)
    assert read(tmp_path / "a.csv", **form)[0] == rows


@pytest.mark.parametrize(
    "rows",
    [
        [("Total", "1"), ("x", "CT")],
        [("Total hip replacement", "CT"), ("total", "CT"), ("10 rows of teeth", "")],
        [("x", "CT"), ("", "CT")],
        [("a;b", "CT;MR"), ("c;d", "CT|MR")],
        [("Größe 5,4\nmm² œdème", "CT"), ("order,protocol", "CT")],
    ],
)
def test_a_plain_table_is_read_as_it_is(tmp_path, rows):
    (tmp_path / "a.csv").write_text(written([COLUMNS, *rows]), encoding="utf-8", newline="")
    assert read(tmp_path / "a.csv") == (rows, "")


def test_a_row_at_the_foot_that_may_be_cut_is_a_problem_that_names_the_option(tmp_path):
    (tmp_path / "a.csv").write_text("order,protocol\nx,CT\nprinted by the system\nTotal,1\n")
    [_, problem], said = read(tmp_path / "a.csv")
    assert problem.startswith("the row has 1 fields, the header 2; ")
    assert problem.endswith("; if the table ends above it, leave out what follows with --skip-footer 2")
    assert said == "a.csv: 1 footer row left out"


def test_the_header_is_found_without_names_of_columns_or_by_likely_ones(tmp_path):
    (tmp_path / "a.txt").write_text("An export, of May\n\nuid;Findings\n1;clear, no effusion\n2;normal\n")
    assert open_table(tmp_path / "a.txt").header == ["uid", "Findings"]
    assert open_table(tmp_path / "a.txt", likely=("findings", "impression")).header == ["uid", "Findings"]
    (tmp_path / "b.txt").write_text("a;b,c\n1;2,3\n")
    with pytest.raises(InputError, match="what separates the cells is not certain; name it with --delimiter"):
        open_table(tmp_path / "b.txt")
    assert open_table(tmp_path / "b.txt", form=TableForm(delimiter="semicolon")).header == ["a", "b,c"]


PIECES = st.sampled_from(["a", "bä", "éc", " ", ",", ";", "|", "\t", '"', "'", "5,4", "=", "-", "\n"])
LETTERS = st.lists(PIECES, max_size=6).map("".join)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(LETTERS, LETTERS), min_size=1, max_size=6),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252", "latin-1"]),
    st.sampled_from(["", "Orders of May\n\n", "Orders of May\nby ward\n"]),
    st.sampled_from(["", "Total: 5\n", "\n(5 rows affected)\n"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_a_table_in_any_form_is_read_back(tmp_path_factory, rows, delimiter, encoding, title, footer, quoting):
    # A letter first, so that no row is empty, and enough of them for what is no ASCII to be in words.
    rows = [tuple(f"a {cell}" for cell in row) for row in rows]
    text = title + written([COLUMNS, *(map(guarded, row) for row in rows)], delimiter, quoting) + footer
    path = tmp_path_factory.mktemp("form") / "a.csv"
    path.write_bytes(text.encode(encoding))
    assert read(path)[0] == rows


def test_a_column_that_is_missing_names_usual_ones_and_no_cell(tmp_path):
    (tmp_path / "a.csv").write_text("Clinical Indication;Zyxwv;Protocol\nx;y;z\n")
    with pytest.raises(InputError) as caught:
        read(tmp_path / "a.csv", ["text"])
    assert str(caught.value).endswith("which must be a header; it has 'Clinical Indication' and 'Protocol'")


def test_json_and_parquet_have_headers_too(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"a": "x", "b": 1.5}) + "\n")
    pq.write_table(pa.table({"a": ["x"], "b": [1.5]}), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        table = open_table(tmp_path / name)
        assert table.header == ["a", "b"]
        assert [cells for _, cells in table.rows(table.header, values=["b"])] == [{"a": "x", "b": "1.5"}]
    (tmp_path / "a.jsonl").write_bytes((json.dumps({"a": "é"}, ensure_ascii=False) + "\n").encode("utf-16"))
    table = open_table(tmp_path / "a.jsonl")
    assert [cells for _, cells in table.rows(["a"])] == [{"a": "é"}] and table.said == "a.jsonl: utf-16"
    (tmp_path / "a.json").write_bytes(json.dumps([{"a": "é"}, {"b": 1}], ensure_ascii=False).encode("utf-16"))
    table = open_table(tmp_path / "a.json", sparse=True)
    assert [cells for _, cells in table.rows(["a"])] == [{"a": "é"}, {"a": ""}] and table.header == ["a", "b"]
    (tmp_path / "a.json").write_bytes(json.dumps([{"a": "é"}], ensure_ascii=False).encode("utf-16")[:-1])
    with pytest.raises(InputError, match=r"a.json: is not utf-16; save the file as UTF-8, or name its encoding"):
        open_table(tmp_path / "a.json")
