"""What a window is, what each check measures, and that a report shows no word of an order."""

import json
import math
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from page_reader import Page

from radrecipes.errors import InputError
from radrecipes.monitoring.answers import Answers, read_answers, read_corrections, reviewed, windows, words_of
from radrecipes.monitoring.checks import Monitor
from radrecipes.monitoring.report import measure, write
from radrecipes.reporting.figures import windows_svg

NOW = datetime(2024, 6, 3, tzinfo=UTC)
COMMON = ("knee", "pain", "fall", "smoker", "fever", "cough")


def drawn(seed, rows, labels=("CT Head", "MR Knee", "MR Brain"), more=()):
    """Answers drawn at random; `more` are words of every order."""
    generator = np.random.default_rng(seed)
    words = [tuple(generator.choice(COMMON, 3)) + tuple(more) for _ in range(rows)]
    probabilities = generator.beta(8, 1, rows)
    distinct = np.fromiter(map(frozenset, words), dtype=object, count=rows)
    lengths = np.array(list(map(len, words)))
    ids = np.array([f"{seed}-{number}" for number in range(rows)])
    return Answers(ids, generator.choice(labels, rows), probabilities, probabilities < 0.7, distinct, lengths)


def checks_of(reference, window, *corrections):
    return {check.name: check for check in Monitor(reference).checks(window, *corrections)}


def test_the_same_orders_raise_no_alarm_and_each_change_that_of_its_check():
    reference = drawn(0, 1000)
    assert not any(check.alarms(0.01 / 7) for check in checks_of(reference, drawn(1, 400)).values())
    renamed = drawn(1, 400, labels=("CT Head", "MR Knee", "MR Head"))
    alarming = {check.name for check in checks_of(reference, renamed).values() if check.alarms(0.01 / 7)}
    assert alarming == {"labels", "new_labels"}
    longer = drawn(1, 400, more=("unheard", "of"))
    found = checks_of(reference, longer)
    assert {check.name for check in found.values() if check.alarms(0.01 / 7)} == {"new_words", "word_shares", "length"}
    assert found["new_words"].value == 1 and found["new_words"].reference == 0
    assert Monitor(reference).new_word_share(longer) > 0.3 and Monitor(reference).new_word_share(drawn(2, 9)) == 0


def test_psi_is_that_of_its_definition_and_its_reference_what_chance_gives():
    reference, window = drawn(0, 1000, labels=("a",)), drawn(1, 400, labels=("a",))
    reference.labels[:] = ["a"] * 500 + ["b"] * 500
    window.labels[:] = ["a"] * 120 + ["b"] * 280
    psi = (0.3 - 0.5) * math.log(0.3 / 0.5) + (0.7 - 0.5) * math.log(0.7 / 0.5)
    check = checks_of(reference, window)["labels"]
    assert check.value == check.effect == pytest.approx(psi, abs=2e-3)
    assert check.reference == pytest.approx(1 / 1000 + 1 / 400)
    # Chi-square of the table [[500, 500], [120, 280]] is 46.3 with one degree of freedom
    assert check.p_value == pytest.approx(1.0e-11, rel=0.2)
    window.labels[:] = "a"
    reference.labels[:] = "a"
    assert checks_of(reference, window)["labels"].p_value == 1


def test_a_significant_but_tiny_change_does_not_alarm():
    reference = drawn(0, 100).part(np.arange(40_000) % 100)
    window = reference.part(slice(None))
    window = replace(
        window, needs_review=window.needs_review | (np.arange(40_000) % 100 == np.argmin(window.needs_review))
    )
    check = checks_of(reference, window)["review_rate"]
    assert check.p_value < 1e-5 and not check.alarms(0.01) and 0.005 < check.effect < 0.02


def write_table(path, rows, header="id,note,label,probability,decision"):
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def test_windows_are_files_or_numbers_or_periods_and_incomplete_ones_are_left_out(tmp_path):
    rows = [f"A{number},knee {number},MR Knee,0.9,auto" for number in range(50)]
    paths = [write_table(tmp_path / "one.csv", rows[:30]), write_table(tmp_path / "two.csv", rows[30:])]
    answers, sizes = read_answers(paths)
    assert len(answers) == 50 and sizes == [30, 20] and answers.words[0] == {"knee"} and answers.times is None
    found = windows(answers, paths, sizes, None, None, NOW)
    assert [(name, len(places)) for name, places in found] == [("one.csv", 30), ("two.csv", 20)]
    found = windows(answers, paths, sizes, 20, None, NOW)
    assert [(name, places[0], len(places)) for name, places in found] == [
        ("orders 1 to 20", 0, 20),
        ("orders 21 to 40", 20, 20),
    ]
    for every, per, said in ((51, None, "no window is complete"), (None, "week", "no column `time`")):
        with pytest.raises(InputError, match=said):
            windows(answers, paths, sizes, every, per, NOW)

    log = tmp_path / "log.jsonl"
    days = [f"2024-05-{day:02}T23:30:00-02:00" for day in (18, 19, 26)] + ["2024-06-03T00:00:00+00:00"]
    entry = {
        "label": "MR Knee",
        "probability": 0.9,
        "decision": "NEEDS_REVIEW",
        "reason": None,
        "input_hmac_sha256": "0" * 64,
    }
    lines = [json.dumps({"number": n, "time": day, "row": 1, "id": str(n), **entry}) for n, day in enumerate(days)]
    log.write_text("\n".join(lines) + "\n", encoding="utf-8")
    answers, sizes = read_answers([log])
    assert answers.words is None and answers.needs_review.all()
    found = windows(answers, [log], sizes, None, "week", NOW)
    assert [(name, places.tolist()) for name, places in found] == [
        ("2024-W20", [0]),
        ("2024-W21", [1]),
        ("2024-W22", [2]),
    ]
    assert {check.name for check in Monitor(drawn(0, 99)).checks(answers)} == {
        "review_rate", "labels", "new_labels", "probability"}  # fmt: skip


@pytest.mark.parametrize(
    "row", ["A1,knee,MR Knee,1.5,auto", "A1,knee,MR Knee,,auto", "A1,knee,MR Knee,0.5,perhaps", "A1,knee"]
)
def test_what_is_no_answer_is_an_error_with_its_line(tmp_path, row):
    path = write_table(tmp_path / "answers.csv", ["A0,knee,MR Knee,0.9,auto", row])
    with pytest.raises(InputError, match=r"answers\.csv:3: "):
        read_answers([path])


def test_a_time_that_utc_does_not_have_is_an_error_with_its_line(tmp_path):
    row = "A1,MR Knee,0.9,auto,0001-01-01T00:00:00+05:00"
    path = write_table(tmp_path / "answers.csv", [row], "id,label,probability,decision,time")
    with pytest.raises(InputError, match=r"answers\.csv:2: a probability or a time cannot be read"):
        read_answers([path])


def test_the_line_that_is_being_written_to_a_log_is_left_out(tmp_path):
    path, line = tmp_path / "log.jsonl", '{"id": "A1", "label": "CT Head", "probability": 0.9, "decision": "auto"}'
    path.write_text(f"{line}\n{line[:30]}", encoding="utf-8")
    assert len(read_answers([path])[0]) == 1
    path.write_text(f"{line[:30]}\n{line}\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"log\.jsonl:1: "):
        read_answers([path])


def test_corrections_are_counted_by_window_and_sampled_answers_tested_against_the_target(tmp_path):
    window, header = drawn(3, 400), "id,note,label,decision,sampled"
    rows = [f"3-{n},knee,MR Knee,{'changed' if n < 20 else 'accepted'},yes" for n in range(100)]
    rows += [f"3-{n},knee,MR Knee,{'changed' if n < 104 else 'accepted'},no" for n in range(100, 110)]
    path = write_table(tmp_path / "corrections.csv", [*rows, "other,knee,MR Knee,accepted,yes"], header)
    counted = reviewed(window, read_corrections([path], window))
    assert vars(counted) == {"sampled": 100, "sampled_right": 80, "needed": 10, "needed_right": 6}
    check = checks_of(drawn(0, 1000), window, counted)["accuracy"]
    # R: binom.test(80, 100, 0.95, "less")
    assert (check.value, check.reference) == (0.8, 0.95) and check.p_value == pytest.approx(1.1e-7, rel=0.2)
    assert check.alarms(0.01 / 8)
    window.ids[:2] = "3-7"
    with pytest.raises(InputError, match="ids repeat"):
        read_corrections([path], window)
    write_table(path, ["3-7,knee,MR Knee,maybe,yes"], header)
    with pytest.raises(InputError, match=r"corrections\.csv:2: .*corrections\.csv"):
        read_corrections([path], drawn(3, 400))


def test_the_report_shows_the_alarms_and_no_word_of_an_order(tmp_path):
    reference, answers = drawn(0, 1000), drawn(1, 600, more=("mustermann",), labels=("CT Head", "<b>"))
    parts = [(f"w{place}", np.arange(200) + 200 * place) for place in range(3)]
    result = measure(Monitor(reference), answers, parts, {"1-0": (True, True), "1-1": (False, False)}, 0.01)
    paths = write(tmp_path / "report", result)
    assert json.loads(paths[0].read_text("utf-8")) == result
    assert [window["alarm"] for window in result["windows"]] == [True] * 3
    assert result["windows"][0]["sampled"]["right"] == 1 and result["windows"][0]["reviewed"]["right"] == 0
    assert "accuracy" in result["windows"][0]["checks"] and "accuracy" not in result["windows"][1]["checks"]
    html = paths[1].read_text("utf-8")
    page = Page(html)
    assert "3 of 3 windows differ from the reference: w0; w1; w2." in page.words and "<b>" not in html
    for word in (*COMMON, "mustermann"):
        assert word not in html + paths[0].read_text("utf-8")
    assert not [
        attributes for _, attributes in page.elements if "//" in str(attributes.get("href", attributes.get("src", "")))
    ]


def test_words_are_without_numbers_and_a_panel_has_a_gap_where_nothing_was_measured():
    assert words_of("58F r/o STONE, ÄLTER 2x3 re-do") == ["stone", "älter", "re", "do"]
    panel = {
        "title": "a",
        "values": [1, None, 2],
        "references": [1, None, 1],
        "alarms": [False, False, True],
        "percent": True,
    }
    svg = windows_svg([{**panel, "interval": [None, None, (1, 2)]}])
    assert svg.startswith("<svg") and svg == windows_svg([{**panel, "interval": [None, None, (1, 2)]}])
