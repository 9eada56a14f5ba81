import csv
import gzip
import io
import json
import os
import re
from datetime import date

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from radrecipes.data.csv_cells import guarded
from radrecipes.data.sources.tables import ExampleTable, RejectedRow, named_columns
from radrecipes.errors import InputError


def read(path, **columns):
    return ExampleTable(path, inputs={"note": "text"}, target="label", **columns).read()


@pytest.mark.parametrize(
    "name", ["a.csv", "a.tsv", "a.csv.gz", "A.CSV", "a.jsonl", "a.jsonl.gz", "a.json", "a.parquet"]
)
def test_every_format_gives_the_same_examples(tmp_path, name):
    rows = [
        {"patient": "p1", "text": "r/o PE, s/p THR", "label": "CT Chest", "key": "k1", "age": "7"},
        {"patient": "p1", "text": "Ménière\tright", "label": "MR Brain", "key": "k2", "age": "8"},
    ]
    path = tmp_path / name
    if name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        if "jsonl" in name:
            text = "".join(json.dumps(row) + "\n" for row in rows)
        elif "json" in name:
            text = json.dumps(rows)
        else:
            buffer = io.StringIO()
            writer = csv.DictWriter(buffer, list(rows[0]), delimiter="\t" if "tsv" in name else ",")
            writer.writeheader()
            writer.writerows(rows)
            text = "\ufeff" + buffer.getvalue()
        data = text.encode()
        path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    examples = read(path, id_column="key", group_column="patient")
    assert [(e.id, e.group, e.inputs, e.target) for e in examples] == [
        (row["key"], row["patient"], {"note": row["text"]}, row["label"]) for row in rows
    ]
    plain = read(path)
    assert [(e.id, e.group) for e in plain] == [("1", "1"), ("2", "2")]
    place = {"a.parquet": "row 2", "a.json": "object 2"}.get(name, "2" if "jsonl" in name else "3")
    assert plain[1].where == f"{path}:{place}"


cells = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=12)


@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=8))
def test_csv_round_trip_keeps_cells_and_names_the_line_an_editor_shows(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    lines, expected = 1, []
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(["text", "label"])
        for row in rows:
            expected.append(f"{path}:{lines + 1}")
            writer.writerow(map(guarded, row))
            lines += 1 + sum(cell.replace("\r\n", "\n").replace("\r", "\n").count("\n") for cell in row)
    examples = list(ExampleTable(path, inputs={"note": "text"}, target="label"))
    kept = [number for number, row in enumerate(rows) if any(map(str.strip, row))]
    assert [(e.inputs["note"], e.target) for e in examples] == [rows[number] for number in kept]
    assert [e.where for e in examples] == [expected[number] for number in kept]


@pytest.mark.parametrize(
    ("content", "where", "said"),
    [
        (b"", "", "the file is empty"),
        (b"\n\n", "", "the file is empty"),
        (b"text,label\n", "", "no rows below its header"),
        (
            b"note,Label\nx,y\n",
            "",
            "no column 'text' among the 2 of the first line, which must be a header; it has 'note'",
        ),
        (b"text,Label\nx,y\n", "", "no column 'label'; did you mean 'Label'?"),
        (b"text,label,text\nx,y,z\n", "", "occurs twice"),
        (b'text,label\n"a\nb",CT\nx\n', ":4", "the row has 1 fields, the header 2"),
        (b"text,label\nx,y,z\n", ":2", "the row has 3 fields, the header 2"),
        (b'text,label\nx,CT\n"x,CT\ny,CT\n', ":3", "a quote is not closed"),
        (b'text,label\nx,CT\n"x"y,CT\n', ":3", "is broken"),
        (b"text,label\nx,CT\nx\0,CT\n", ":3", "NUL"),
        ('text,label\n"é\n'.encode() + b'\xe9",CT\n', ":3", "not UTF-8"),
    ],
)
def test_a_broken_csv_is_refused_with_its_line(tmp_path, content, where, said):
    path = tmp_path / "orders.csv"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}{where}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_quote_left_open_before_a_long_file_is_found_where_it_opens(tmp_path):
    path = tmp_path / "orders.csv"
    path.write_text('text,label\nx,CT\n"x,CT\n' + "some words of a note,CT\n" * 20_000)
    with pytest.raises(InputError, match=r"orders.csv:3: a quote is not closed"):
        read(path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'{"text": "x", "label": "y"}\n{"text": \n', "a.jsonl:2: not valid JSON"),
        ("a.jsonl", b'{"text": "x", "label": "y"}\n{"text": "x"}\n', "a.jsonl:2: no column 'label'"),
        ("a.jsonl", b'["x"]\n', "a.jsonl:1: must be a JSON object"),
        ("a.jsonl", b'{"text": 1.5, "label": "y"}\n', "a.jsonl:1: column 'text' contains decimal numbers"),
        ("a.jsonl", b'{"text": "\\ud800", "label": "y"}\n', "a.jsonl:1: column 'text' contains a broken Unicode"),
        ("a.parquet", b"PAR1 and nothing else", "a.parquet: not readable as Parquet"),
        ("a.csv.gz", b"text,label\n", "a.csv.gz:1: is not a complete gzip file"),
        ("a.xlsx", b"PK", "a.xlsx: not readable as Excel (BadZipFile)"),
    ],
)
def test_other_broken_files_are_refused(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        read(tmp_path / name)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_cut_gzip_file_is_refused(tmp_path):
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"text,label\n" + b"".join(b"note %d,CT\n" % i for i in range(5000)))[:-40])
    with pytest.raises(InputError, match="not a complete gzip file"):
        read(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read(tmp_path / "absent.csv")


def test_parquet_numbers_pass_as_identifiers_and_missing_cells_as_empty(tmp_path):
    path = tmp_path / "a.parquet"
    table = pa.table({"text": pa.array(["x", None]).dictionary_encode(), "label": ["y", "z"], "mrn": [17, 18]})
    pq.write_table(table, path)
    assert [(e.group, e.inputs["note"]) for e in read(path, group_column="mrn")] == [("17", "x"), ("18", "")]


def test_slices_of_parquet_may_be_values_and_missing_identifiers_are_empty(tmp_path):
    columns = {"seen": [True, None], "day": [date(2026, 1, 2), None], "dose": [0.5, 2.0]}
    table = pa.table({"text": ["x", "NULL"], "label": ["y", "none"], "mrn": ["nan", "None"], **columns})
    pq.write_table(table, tmp_path / "a.parquet")
    first, second = read(tmp_path / "a.parquet", group_column="mrn", slice_columns=list(columns))
    assert first.slices == {"seen": "true", "day": "2026-01-02", "dose": "0.5"}
    assert second.slices == {"seen": "", "day": "", "dose": "2"}
    assert (first.group, second.group, second.target) == ("", "", "none")
    several = ExampleTable(tmp_path / "a.parquet", inputs={"note": named_columns(["text", "label"])}, id_column="mrn")
    assert [(row.id, row.inputs["note"]) for row in several] == [("", "text: x\nlabel: y"), ("", "label: none")]


def stream(path):
    """Good rows as (note, label), rejected ones as their line, in order; and the reasons."""
    rows = list(ExampleTable(path, inputs={"note": "text"}, target="label"))
    seen = [row.line if isinstance(row, RejectedRow) else (row.inputs["note"], row.target) for row in rows]
    return seen, [row.reason for row in rows if isinstance(row, RejectedRow)]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        # An open quote costs its own line, wherever the next quote is.
        ('a,A\n"b,B\nc,C\nd,D\n', [("a", "A"), "3", ("c", "C"), ("d", "D")]),
        ('a,A\n"b,B\nc,C\n"d, e",D\nf,F\n', [("a", "A"), "3", ("c", "C"), ("d, e", "D"), ("f", "F")]),
        ('"b,B\nc,"C"\n', ["2", ("c", "C")]),
        ('"b,B\n"c,C\n"d,D\ne,E\n', ["2", "3", "4", ("e", "E")]),
        # A quote inside a quoted note: the lines of its rest go too.
        ('a,A\n"b said "no"\nthank you",B\nc,C\n', [("a", "A"), "3", "4", ("c", "C")]),
        ('"b "no"\none, two, three\nfour",B\n"c\nd",C\n', ["2", "3", "4", ("c\nd", "C")]),
        # The wrong number of fields costs what the row spans.
        ('"a\nb, c",A,x\nd,D\n', ["2", ("d", "D")]),
        ("a\nb,B,b\n\nc,C\n", ["2", "3", ("c", "C")]),
        ("a,A\nb\0,B\nc,C\n", [("a", "A"), "3", ("c", "C")]),
        # The last row.
        ('a,A\n"b,B', [("a", "A"), "3"]),
        # A quote within an unquoted note is common and harmless.
        ("5'2\" tall,A\nb,B\n", [("5'2\" tall", "A"), ("b", "B")]),
    ],
)
def test_reading_continues_after_a_broken_csv_row(tmp_path, content, expected):
    path = tmp_path / "orders.csv"
    path.write_bytes(b"text,label\n" + content.encode())
    assert stream(path)[0] == expected


def test_spanned_lines_and_the_rest_of_a_row_are_named(tmp_path):
    path = tmp_path / "orders.csv"
    path.write_text('text,label\n"a\nb",A,x\n"c "d"\ne",E\n')
    _, reasons = stream(path)
    assert "3 fields, the header 2 (lines 2 to 3)" in reasons[0]
    assert "is broken" in reasons[1] and "may be the rest of the broken row in line 4" in reasons[2]


@pytest.mark.parametrize("place", [1, 5_000, 19_999])
def test_an_open_quote_swallows_no_row_of_a_long_file(tmp_path, place):
    path = tmp_path / "orders.csv"
    lines = [f"note {number} of many,CT\n" for number in range(20_000)]
    lines[place] = '"' + lines[place]
    path.write_text("text,label\n" + "".join(lines))
    rows = list(ExampleTable(path, inputs={"note": "text"}))
    rejected = [row.line for row in rows if isinstance(row, RejectedRow)]
    assert rejected == [str(place + 2)] and len(rows) == 20_000
    assert [row.id for row in rows if not isinstance(row, RejectedRow)] == [
        str(number + 1) for number in range(20_000) if number != place
    ]


@given(
    st.lists(st.tuples(cells, cells), min_size=1, max_size=8),
    st.integers(0, 8),
    st.sampled_from(['"x,CT', "x", "x,CT,y", '"x" y,CT', "\0,CT"]),
)
def test_one_broken_line_among_good_rows_costs_only_itself(tmp_path_factory, rows, place, broken):
    # A letter first, so that no row can close the broken quote as if it were meant to.
    rows = [tuple("a" + re.sub(r"[\r\n]", " ", cell) for cell in row) for row in rows]
    place = min(place, len(rows))
    buffer = io.StringIO()
    writer = csv.writer(buffer, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(("text", "label"))
    writer.writerows(rows[:place])
    buffer.write(broken + "\n")
    writer.writerows(rows[place:])
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    path.write_text(buffer.getvalue(), encoding="utf-8", newline="")
    seen, _ = stream(path)
    assert seen == [*rows[:place], str(place + 2), *rows[place:]]


def test_bad_rows_of_json_and_parquet_are_rejected_and_the_next_are_read(tmp_path):
    path = tmp_path / "a.jsonl"
    good = b'{"text": "x", "label": "y"}\n'
    bad = (b'{"text": \n', b'{"text": "x"}\n', b"[1]\n", b'{"text": {}, "label": "y"}\n', b'{"text": "\xe9"}\n')
    path.write_bytes(good + good.join([*bad, b'{"text": ' + b"1" * 5000 + b"}\n"]))
    seen, reasons = stream(path)
    assert seen == [
        ("x", "y"),
        "2",
        ("x", "y"),
        "4",
        ("x", "y"),
        "6",
        ("x", "y"),
        "8",
        ("x", "y"),
        "10",
        ("x", "y"),
        "12",
    ]
    for said, reason in zip(
        ("JSON", "no column 'label'", "object", "dict", "UTF-8", "too long"), reasons, strict=True
    ):
        assert said in reason
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": pa.array([1.5, 2.5]), "label": ["y", "z"]}), path)
    assert stream(path)[0] == ["row 1", "row 2"]


def shared_text(rows, size):
    """A table whose rows share one text."""
    return pa.table(
        {
            "text": pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["x" * size])),
            "label": ["CT Head"] * rows,
        }
    )


def test_rows_of_parquet_that_share_a_large_text_are_read_one_by_one(tmp_path, monkeypatch):
    path, largest = tmp_path / "a.parquet", 0
    pq.write_table(shared_text(400, 2**18), path, compression="none")
    before = pa.total_allocated_bytes()
    for row in ExampleTable(path, inputs={"note": "text"}, target="label"):
        assert len(row.inputs["note"]) == 2**18
        largest = max(largest, pa.total_allocated_bytes() - before)
    assert largest < 8 * 2**20  # all rows have 100 MiB


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (shared_text(1, 2**24 + 2**10), "a.parquet:row 1: the row is larger than 16 MiB"),
        (
            pa.table({"text": pa.nulls(2**24 + 1, pa.string()), "label": pa.nulls(2**24 + 1, pa.string())}),
            "unpacks to more than",
        ),
        (pa.table({"text": [["a"]], "label": ["b"]}), r"column 'text' contains list, not text"),
        (pa.table({"text": pa.array([b"\xff"]).view(pa.string()), "label": ["b"]}), "is not UTF-8"),
    ],
)
def test_parquet_that_would_take_all_memory_is_refused(tmp_path, table, said):
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, compression="none" if table.num_rows == 1 else "zstd")
    with pytest.raises(InputError, match=said):
        read(path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "text,label\n" + 'x","\n' * 20_000, "too many rows with a quote that is not closed"),
        ("a.csv", "text,label\n" + "a" * (2**24 + 1), "a.csv:2: the line is longer than 16 MiB"),
        ("a.jsonl", "a" * (2**24 + 1), "a.jsonl:1: the line is longer than 16 MiB"),
    ],
)
def test_a_text_table_that_would_take_hours_or_all_memory_is_refused(tmp_path, name, content, said):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=said):
        for _ in ExampleTable(path, inputs={"note": "text"}, target="label"):
            pass


def test_a_cell_may_be_large(tmp_path):
    path, text = tmp_path / "a.csv", "some words, of a report. " * 10_000
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["text", "label"], [text, "CT"]])
    assert stream(path) == ([(text, "CT")], [])


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl.gz", "a.parquet"])
def test_a_pipe_is_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match="only regular files are read"):
        read(tmp_path / name)
