"""Which rows are reviewed, how windows share them, and what is stored."""

import csv
import json

import pytest
from review_server import LABELS, write_answers

from radrecipes.errors import InputError
from radrecipes.files import file_sha256
from radrecipes.review import journal as journals
from radrecipes.review.journal import Journal
from radrecipes.review.rows import read_rows, sample_size, with_texts
from radrecipes.review.server import AlreadyReviewedError, Review
from radrecipes.statistics import clopper_pearson_interval


def rows_of(path, sample=0, has_texts=True):
    return read_rows(path, file_sha256(path), sample, has_texts)[0]


def review_of(folder, reviewer="first", sample=0):
    """A review as a process of its own would have it."""
    path = folder / "answers.csv"
    if not path.exists():
        write_answers(path)
    journal = Journal(folder / "corrections.csv", file_sha256(path))
    review = Review(rows_of(path, sample), journal, dict.fromkeys(LABELS, ()), reviewer, blind=bool(sample))
    journal.start()
    return review


def table(folder):
    with (folder / "corrections.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_rows_that_need_review_come_with_a_sample_that_is_the_same_each_time_and_grows(tmp_path):
    path = tmp_path / "answers.csv"
    write_answers(path, rows=60, automatic=50)
    needed = [f"A{number}" for number in range(10)]
    assert [row.id for row in rows_of(path)] == needed
    samples = {size: [row.id for row in rows_of(path, size)] for size in (5, 20, 50, 99)}
    assert [row.id for row in rows_of(path, 5)] == samples[5]
    assert set(needed) < set(samples[5]) < set(samples[20]) < set(samples[50])
    assert list(map(len, samples.values())) == [15, 30, 60, 60]
    write_answers(path, rows=61, automatic=51)
    assert [row.id for row in rows_of(path, 5)] != samples[5]


def test_labels_come_with_probabilities_unless_automatic_rows_are_among_them(tmp_path):
    shown = review_of(tmp_path).open("one", None)["row"]
    assert shown["candidates"] == [*zip(LABELS, ("0.5", "0.3", "0.1"), strict=False)]
    # Neither order nor probabilities give away what the model chose, and which rows are automatic.
    blind = review_of(tmp_path, sample=2).open("two", None)["row"]
    assert blind["candidates"] == [(label, "") for label in sorted(LABELS[1:4])]


def test_the_sample_measures_the_target_to_three_points():
    def half_width(rows):
        low, high = clopper_pearson_interval(0.95 * rows, rows)
        return (high - low) / 2

    assert half_width(sample_size()) <= 0.03 < half_width(sample_size() - 1)
    # As binom.test(19, 20) of R
    assert clopper_pearson_interval(19, 20) == pytest.approx((0.7513, 0.9987), abs=1e-4)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("A1,", "A0,", "occurs twice"),
        ("NEEDS_REVIEW", "MAYBE", "neither auto nor NEEDS_REVIEW"),
        ("NEEDS_REVIEW", "auto", "no row has the decision"),
        ("id,note,", "id,", "has no texts"),
        ("decision,", "verdict,", "no column 'decision'"),
    ],
)
def test_answers_that_cannot_be_reviewed_are_refused(tmp_path, old, new, said):
    path = tmp_path / "answers.csv"
    write_answers(path)
    path.write_text(path.read_text("utf-8").replace(old, new), encoding="utf-8")
    with pytest.raises(InputError, match=said):
        rows_of(path)


def test_texts_are_joined_by_id_or_number_and_what_is_missing_is_an_error(tmp_path):
    path, orders = tmp_path / "answers.csv", tmp_path / "orders.csv"
    write_answers(path, text=False)
    with pytest.raises(InputError, match="--input orders"):
        rows_of(path)
    rows = rows_of(path, has_texts=False)
    lines = [f"A{number},P{number % 3},CT abdomen,r/o stone {number}" for number in reversed(range(12))]
    orders.write_text("\n".join(["no,mrn,exam,why", *lines]), encoding="utf-8")
    (first, *_) = with_texts(rows, orders, ["exam", "why"], "no", "mrn")
    assert (first.id, first.group, first.text) == ("A0", "P0", "exam: CT abdomen\nwhy: r/o stone 0")
    assert with_texts(rows, orders, ["why"], "no")[1].text == "r/o stone 1"
    orders.write_text("\n".join(["no,mrn,exam,why", *lines[:9]]), encoding="utf-8")
    with pytest.raises(InputError, match="lacks 3 of the 4 rows"):
        with_texts(rows, orders, ["why"], "no")
    with pytest.raises(InputError, match="lacks 4 of the 4 rows"):  # of a table that was predicted without --id-column
        with_texts(rows, orders, ["why"])


def test_a_row_is_shown_to_one_window_and_decided_once(tmp_path, monkeypatch):
    one, two = review_of(tmp_path), review_of(tmp_path, "second")
    shown = (
        one.open("one", None)["row"]["id"],
        two.open("two", None)["row"]["id"],
        one.open("three", None)["row"]["id"],
    )
    assert shown == ("A0", "A1", "A2")
    assert one.open("one", 0)["row"]["id"] == "A0", "a reload shows the same row"
    assert two.move("two", 1, -1)["row"]["id"] == "A1", "the row of another window is passed over"
    assert one.skip("one", 0)["row"]["id"] == "A3", "those of others are passed over"
    assert two.skip("two", 1)["row"]["id"] == "A0", "which is free again"
    decided = two.decide("two", "A0", "MR Knee", "  see\nreport ")
    assert decided["said"] == "Saved: MR Knee for A0." and decided["reviewed"] == 1 and decided["row"]["id"] == "A1"
    with pytest.raises(AlreadyReviewedError) as refused:
        one.decide("one", "A0", "CT Head", "")
    earlier = refused.value.args[0]["row"]["earlier"]
    assert (earlier["label"], earlier["reviewer"], earlier["comment"]) == ("MR Knee", "second", "see report")
    assert [row["label"] for row in table(tmp_path)] == ["MR Knee"]
    monkeypatch.setattr(journals, "CLAIM_SECONDS", 0)
    assert one.open("four", None)["row"]["id"] == "A1", "a row that nobody decides becomes free"


def test_a_decision_counts_as_saved_once_it_is_in_the_journal(tmp_path, monkeypatch):
    review = review_of(tmp_path)
    first, second = review.rows[:2]
    review.open("one", None)

    def is_open_elsewhere(*_):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr("radrecipes.review.journal.write_atomically", is_open_elsewhere)
        said = review.decide("one", first.id, LABELS[0], "")["said"]
    assert said.startswith(f"Saved: {LABELS[0]} for {first.id}. corrections.csv cannot be written (Permission denied)")
    assert first.id in review_of(tmp_path).journal.decided
    review.decide("one", second.id, LABELS[0], "half a sign: \ud800")
    assert [row["id"] for row in table(tmp_path)] == [first.id, second.id]
    assert table(tmp_path)[1]["comment"] == "half a sign: ?"


def test_texts_of_fhir_orders_are_found(tmp_path):
    path = tmp_path / "answers.csv"
    write_answers(path, rows=2, automatic=0, text=False)
    orders = [
        {"resourceType": "ServiceRequest", "id": f"A{n}", "reasonCode": [{"text": f"pain {n}"}]} for n in range(2)
    ]
    (tmp_path / "orders.ndjson").write_text("".join(json.dumps(order) + "\n" for order in orders), encoding="utf-8")
    rows = with_texts(rows_of(path, has_texts=False), tmp_path / "orders.ndjson", ["reasonCode"], "id")
    assert [row.texts for row in rows] == [{"reasonCode": "pain 0"}, {"reasonCode": "pain 1"}]


def test_undo_opens_a_row_again_and_the_rest_is_kept(tmp_path):
    review = review_of(tmp_path)
    for row, label in (("A0", "CT Head"), ("A1", "MR Knee"), ("A2", "CT Head")):
        review.decide("one", row, label, "")
    review.decide("two", "A3", "CT Head", "")
    assert review.undo("one", None, None)["row"] | {"candidates": 0} == {
        "id": "A2", "text": "order 2, knee pain", "candidates": 0, "earlier": None}  # fmt: skip
    assert [row["id"] for row in table(tmp_path)] == ["A0", "A1", "A3"]
    assert review.undo("one", 0, "A0")["said"] == "Undone: A0 is open again."
    review.decide("one", "A0", "MR Brain", "")
    assert [(row["id"], row["label"]) for row in table(tmp_path)] == [
        ("A1", "MR Knee"),
        ("A3", "CT Head"),
        ("A0", "MR Brain"),
    ]
    for row in ("A0", "A1", "A3"):
        review.undo("one", None, row)
    assert not (tmp_path / "corrections.csv").exists()
    assert review.undo("one", None, None)["said"] == "Nothing to undo in this window."


def test_the_table_has_what_training_reads_and_what_became_of_the_models_label(tmp_path):
    write_answers(tmp_path / "answers.csv", rows=6, automatic=4, A5="=cmd, knee")
    review = review_of(tmp_path, sample=9)
    assert len(review.rows) == 6
    for number, row in enumerate(review.rows):
        view = review.decide("one", row.id, LABELS[0], "")
        assert ("summary" in view) == (number == 5)
        assert "probability" not in json.dumps(view) and "auto" not in json.dumps(view), "nothing tells sampled rows"
    assert view["summary"] == {
        "accepted": 2, "changed": 4, "sampled": 4, "sampled_right": 1,
        "interval": pytest.approx(clopper_pearson_interval(1, 4)),
    }  # fmt: skip
    rows = table(tmp_path)
    assert list(rows[0])[:4] == ["id", "note", "label", "model_label"]
    assert [row["sampled"] for row in rows] == ["no"] * 2 + ["yes"] * 4
    assert [row["decision"] for row in rows] == ["accepted", "changed", "changed", "changed", "accepted", "changed"]
    assert rows[5]["note"] == "'=cmd, knee", "no spreadsheet runs it"


def test_what_a_killed_process_left_is_continued_and_its_unfinished_line_removed(tmp_path):
    review = review_of(tmp_path)
    review.decide("one", "A0", "MR Knee", "")
    journal = tmp_path / "corrections.csv.journal"
    whole = journal.read_bytes()
    journal.write_bytes(whole + whole.splitlines()[-1][:40])
    (tmp_path / "corrections.csv").unlink()  # killed before it wrote the table
    again = review_of(tmp_path)
    assert journal.read_bytes() == whole and len(table(tmp_path)) == 1
    again.decide("one", "A1", "MR Knee", "")
    assert [row["id"] for row in table(tmp_path)] == ["A0", "A1"]


def test_files_of_others_are_not_continued(tmp_path):
    review_of(tmp_path)
    journal = tmp_path / "corrections.csv.journal"
    for content, said in (
        (b"{}\n", "not a journal"),
        (b"id,label\n", "not valid JSON"),
        (b"[1]\n", "not a journal"),
        (b'{"event": "claim"}\n', "not a journal"),
    ):
        journal.write_bytes(content)
        with pytest.raises(InputError, match=said):
            review_of(tmp_path)
    journal.unlink()
    review_of(tmp_path)
    write_answers(tmp_path / "answers.csv", rows=30)
    with pytest.raises(InputError, match="belongs to another file of answers"):
        review_of(tmp_path)
    journal.unlink()
    (tmp_path / "corrections.csv").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="exists already"):
        review_of(tmp_path)
    assert (tmp_path / "corrections.csv").read_text("utf-8") == "mine"


def test_a_text_column_may_not_take_the_name_of_another_column(tmp_path):
    path = tmp_path / "answers.csv"
    write_answers(path)
    path.write_text(path.read_text("utf-8").replace("id,note", "id,comment"), encoding="utf-8")
    with pytest.raises(InputError, match="'comment'"):
        review_of(tmp_path)
    assert not list(tmp_path.glob("corrections*"))
