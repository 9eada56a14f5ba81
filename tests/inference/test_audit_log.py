import hashlib
import hmac
import json
import multiprocessing
import os
import re
import shutil
import signal
import stat
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from radrecipes.data.example import Example
from radrecipes.errors import InputError
from radrecipes.inference import audit_log
from radrecipes.inference.audit_log import NO_ENTRY, AuditLog, BrokenLogError, verify

PREDICTOR = SimpleNamespace(adapter_sha256="a" * 64, prompt_sha256="b" * 64, task=SimpleNamespace(input_column="note"))
NOTE = "44 yo F, chronic knee pain, r/o meniscal tear"


def entries_of(log, rows, note=NOTE):
    """Entries of a prediction that chose labels."""
    examples = [Example(f"order {row}", "", {"note": f"{note} {row}"}, "") for row in range(rows)]
    answers = pa.table(
        {
            "id": [example.id for example in examples],
            "note": [example.inputs["note"] for example in examples],
            "label": ["MR Knee"] * rows,
            "probability": [0.75] * rows,
            "decision": ["NEEDS_REVIEW"] * rows,
            "reason": ["below threshold"] * rows,
        }
    )
    return log.entries(examples, answers, PREDICTOR)


def lines_of(path):
    return path.read_bytes().splitlines(keepends=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A log of two predictions, seven entries together; read only."""
    log = AuditLog(tmp_path_factory.mktemp("log") / "log.jsonl")
    log.append(entries_of(log, 4), "one")
    log.append(entries_of(log, 3), "two")
    return log


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """A file to write a changed log into."""
    return tmp_path_factory.mktemp("scratch") / "log.jsonl"


def naive_chain(lines):
    """The head of a chain, by the format's description and nothing of the code under test."""
    previous = "0" * 64
    for number, line in enumerate(lines, start=1):
        entry = json.loads(line)
        body = line.rstrip(b"\n").removesuffix(f',"sha256":"{entry["sha256"]}"}}'.encode()) + b"}"
        assert list(entry)[-2:] == ["previous", "sha256"] and json.loads(body) | {"sha256": entry["sha256"]} == entry
        assert (entry["number"], entry["previous"]) == (number, previous)
        previous = hashlib.sha256(body).hexdigest()
        assert entry["sha256"] == previous
    return previous


def test_entries_have_the_documented_form_with_digests_in_place_of_texts(whole):
    head = naive_chain(lines_of(whole.path))
    rows = [json.loads(line) for line in lines_of(whole.path)]
    assert [(row["prediction"], row["row"]) for row in rows] == [("one", n) for n in (1, 2, 3, 4)] + [
        ("two", n) for n in (1, 2, 3)
    ]
    key = bytes.fromhex(whole.key_path.read_text("ascii"))
    row = rows[1]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", row["time"])
    assert row["input_hmac_sha256"] == hmac.new(key, f"{NOTE} 1".encode(), "sha256").hexdigest()
    assert row["output_hmac_sha256"] == hmac.new(key, b"MR Knee", "sha256").hexdigest()
    assert (row["id"], row["label"], row["probability"]) == ("order 1", "MR Knee", 0.75)
    assert (row["decision"], row["reason"]) == ("NEEDS_REVIEW", "below threshold")
    assert (row["adapter_sha256"], row["prompt_sha256"]) == ("a" * 64, "b" * 64)
    text = whole.path.read_text("ascii")
    assert "knee" not in text and hashlib.sha256(f"{NOTE} 1".encode()).hexdigest() not in text
    found = verify(whole.path)
    assert (found.entries, found.first, found.last, found.head) == (7, rows[0]["time"], rows[-1]["time"], head)
    for path in (whole.path, whole.key_path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("columns", "answer", "kept"),
    [
        (
            {"label": ["CT Head"], "answer": ["a CT head, for Mrs Quill"]},
            "a CT head, for Mrs Quill",
            {"label": "CT Head"},
        ),
        ({"label": [None], "answer": ["knee of Mrs Quill"]}, "knee of Mrs Quill", {"label": None}),
        (
            {"report": ["No edema. Mrs Quill"], "check": ["ok"], "written_by": ["model"], "refused": ["Quill"]},
            "No edema. Mrs Quill",
            {"check": "ok", "written_by": "model"},
        ),
    ],
)
def test_free_text_of_an_answer_is_never_in_an_entry(tmp_path, columns, answer, kept):
    log = AuditLog(tmp_path / "log")
    (entry,) = log.entries([Example("1", "", {"note": NOTE}, "")], pa.table({"id": ["1"], **columns}), PREDICTOR)
    key = bytes.fromhex(log.key_path.read_text())
    assert entry["output_hmac_sha256"] == hmac.new(key, answer.encode(), "sha256").hexdigest()
    assert kept.items() <= entry.items() and "Quill" not in json.dumps(entry)
    assert set(entry) == {
        "time", "id", "input_hmac_sha256", "output_hmac_sha256", "adapter_sha256", "prompt_sha256", *kept
    }  # fmt: skip


def broken_line(path, lines, **options):
    path.write_bytes(b"".join(lines))
    with pytest.raises(BrokenLogError) as caught:
        verify(path, **options)
    assert caught.value.exit_code == 1 and str(caught.value).startswith(f"{path}:{caught.value.line}: ")
    return caught.value.line


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_any_byte_changed_removed_or_added_is_found_at_its_line(whole, scratch, data):
    content = whole.path.read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    kind = data.draw(st.sampled_from(["change", "remove", "add"]))
    byte = data.draw(st.binary(min_size=1, max_size=1))
    if kind == "change":
        changed = content[:place] + byte + content[place + 1 :]
    elif kind == "remove":
        changed = content[:place] + content[place + 1 :]
    else:
        changed = content[:place] + byte + content[place:]
    if changed == content:
        return
    assert broken_line(scratch, [changed]) == content[:place].count(b"\n") + 1


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_lines_removed_swapped_repeated_or_put_in_are_found_at_the_first_of_them(whole, scratch, data):
    lines = lines_of(whole.path)
    first, second = sorted(data.draw(st.lists(st.integers(0, 6), min_size=2, max_size=2, unique=True)))
    swapped = list(lines)
    swapped[first], swapped[second] = swapped[second], swapped[first]
    assert broken_line(scratch, swapped) == first + 1
    # The last line is not an exception: with a known head.
    head = verify(whole.path).head
    assert broken_line(scratch, lines[:second] + lines[second + 1 :], head=head) == second + 1
    if first != 0:
        assert broken_line(scratch, lines[first:]) == 1
    assert broken_line(scratch, [*lines[: second + 1], lines[first], *lines[second + 1 :]]) == second + 2
    foreign = data.draw(st.sampled_from([b"\n", b"{}\n", b"null\n", b"\xff\n"]))
    assert broken_line(scratch, [*lines[:second], foreign, *lines[second:]]) == second + 1


def test_an_edit_with_a_recomputed_hash_is_found_at_the_next_line(whole, scratch):
    lines = lines_of(whole.path)
    entry = json.loads(lines[2]) | {"decision": "auto"}
    del entry["sha256"]
    body = json.dumps(entry, separators=(",", ":")).encode()
    lines[2] = body[:-1] + f',"sha256":"{hashlib.sha256(body).hexdigest()}"}}\n'.encode()
    assert broken_line(scratch, lines) == 4
    assert broken_line(scratch, lines[:3], head=json.loads(lines[3])["previous"]) == 4


def test_a_cut_tail_shows_against_a_known_head_and_growth_does_not(whole, scratch):
    lines = lines_of(whole.path)
    old, head = json.loads(lines[3])["sha256"], verify(whole.path).head
    found = verify(whole.path, old)
    assert (found.since_known_head, found.head) == (3, head)
    assert verify(whole.path, head).since_known_head == 0
    scratch.write_bytes(b"".join(lines[:5]))
    assert verify(scratch).entries == 5 and verify(scratch, old).since_known_head == 1
    assert broken_line(scratch, lines[:5], head=head) == 6
    assert broken_line(scratch, [], head=head) == 1
    scratch.write_bytes(b"")
    assert (verify(scratch).entries, verify(scratch).head) == (0, NO_ENTRY)
    for wrong in ("", "abc", head.upper(), f"{head}\n"):
        with pytest.raises(InputError, match="--head: must be the 64 hexadecimal digits"):
            verify(scratch, wrong)
    with pytest.raises(InputError, match="no such file"):
        verify(scratch.with_name("none"))


@given(cut=st.integers(1, 2000))
@example(cut=1)  # only the end of the line is lost: the entry is complete, and stays
@settings(max_examples=60, deadline=None)
def test_a_partial_last_line_is_removed_once_and_complete_entries_stay(whole, scratch, cut):
    """The log is cut anywhere in its last two lines, as a kill leaves it, and the prediction continues."""
    log = AuditLog(scratch)
    shutil.copy(whole.key_path, log.key_path)
    content = whole.path.read_bytes()
    last_two = len(b"".join(lines_of(whole.path)[-2:]))
    content = content[: len(content) - 1 - (cut - 1) % last_two]
    scratch.write_bytes(content)
    left = content.count(b"\n") + (content + b"\n" == b"".join(lines_of(whole.path)[: content.count(b"\n") + 1]))
    if not content.endswith(b"\n"):
        assert broken_line(scratch, [content]) == content.count(b"\n") + 1
    log.check_usable()
    assert scratch.read_bytes() == content, "a check changes nothing"
    appended = log.append(entries_of(log, 3), "two")
    assert appended.rows == 3 and verify(scratch).head == appended.head == naive_chain(lines_of(scratch))
    assert appended.torn == (left == content.count(b"\n") and not content.endswith(b"\n"))
    assert ("incomplete line" in appended.as_text()) == appended.torn
    assert lines_of(scratch)[:left] == lines_of(whole.path)[:left]
    rows = [json.loads(line) for line in lines_of(scratch)]
    assert [row["row"] for row in rows if row["prediction"] == "two"] == [1, 2, 3] and len(rows) == 7
    again = log.append(entries_of(log, 3), "two")
    assert (again.rows, again.head, again.torn) == (3, appended.head, False)


def append_and_die(path, rows, at):
    log = AuditLog(path)

    def until_killed():
        for number, entry in enumerate(entries_of(log, rows)):
            if number == at:
                os.kill(os.getpid(), signal.SIGKILL)
            yield entry

    log.append(until_killed(), "killed")


def test_a_writer_killed_while_it_appends_is_continued_exactly_once_also_after_another(tmp_path):
    path, context = tmp_path / "log.jsonl", multiprocessing.get_context("fork")
    for at in (60, 100):
        process = context.Process(target=append_and_die, args=(path, 120, at))
        process.start()
        process.join(30)
        assert process.exitcode == -signal.SIGKILL
    left = path.read_bytes()
    assert 60 < left.count(b"\n") < 120, (
        "the second try must have gone on where the first was killed, and not come to its end"
    )
    path.write_bytes(left[:-300])  # the system may cut a write anywhere
    log = AuditLog(path)
    other = log.append(entries_of(log, 5), "other")
    assert other.torn and other.rows == 5
    done = log.append(entries_of(log, 120), "killed")
    assert not done.torn and done.rows == 120
    rows = [json.loads(line) for line in lines_of(path)]
    assert [row["row"] for row in rows if row["prediction"] == "killed"] == list(range(1, 121))
    assert [row["number"] for row in rows] == list(range(1, 126)) == list(range(1, verify(path).entries + 1))


def append_some(path, name, begin):
    begin.wait(30)
    log = AuditLog(path)
    for number in range(8):
        log.append(entries_of(log, 25), f"{name}{number}")


def test_processes_that_append_at_once_share_one_chain_and_one_key(tmp_path):
    path, context = tmp_path / "log.jsonl", multiprocessing.get_context("fork")
    begin = context.Event()
    processes = [context.Process(target=append_some, args=(path, name, begin)) for name in "abcd"]
    for process in processes:
        process.start()
    begin.set()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    rows = [json.loads(line) for line in lines_of(path)]
    assert verify(path).entries == len(rows) == 4 * 8 * 25
    # One prediction's entries are never separated, and all are digests under one key.
    for start in range(0, len(rows), 25):
        block = rows[start : start + 25]
        assert len({row["prediction"] for row in block}) == 1 and [row["row"] for row in block] == list(range(1, 26))
    assert len({row["input_hmac_sha256"] for row in rows}) == 25
    assert sorted(os.listdir(tmp_path)) == ["log.jsonl", "log.jsonl.key"]


def test_what_could_not_be_appended_to_is_refused_before_and_left_as_it_is(tmp_path, whole):
    def refused(log, said, others=()):
        before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
        with pytest.raises(InputError, match=said):
            log.check_usable(others)
        assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before

    log = AuditLog(tmp_path / "log")
    log.check_usable()
    assert not list(tmp_path.iterdir())
    refused(log, r"/log: is read or written already", [tmp_path / "a", tmp_path / ".." / tmp_path.name / "log"])
    refused(log, r"/log.key: is read or written already", [tmp_path / "log.key"])
    refused(AuditLog(tmp_path / "none" / "log"), "folder of the audit log does not exist")
    refused(AuditLog(tmp_path), "is not a file")
    for foreign in (b"a,b\n1,2\n", b"my letter, without an end of line", b'{"number":7,"time":"'):
        log.path.write_bytes(foreign)
        refused(log, r"/log:\d: is not an audit log")
        with pytest.raises(InputError, match="is not an audit log"):
            log.append(iter(()), "x")
        assert log.path.read_bytes() == foreign
    shutil.copy(whole.path, log.path)
    refused(log, r"log.key: the key of the audit log is missing")
    with pytest.raises(InputError, match="is missing"):
        entries_of(log, 1)
    for text in ("", "abc", "é"):
        log.key_path.write_text(text, "utf-8")
        refused(log, r"log.key: is not a readable key")
    shutil.copy(whole.key_path, log.key_path)
    log.check_usable()
    log.path.write_bytes(log.path.read_bytes().replace(b"MR Knee", b"CT Head"))
    refused(log, r"/log:7: .*last entry is broken")


def test_ids_of_any_kind_keep_the_chain_intact(tmp_path):
    log = AuditLog(tmp_path / "log")
    ids = [
        '"},"sha256":"',
        ',"prediction":"two",',
        "a\nb",
        "\u2028",
        "Ünal",
        "",
        "\\",
        '","previous":"' + "0" * 64 + '"',
    ]
    examples = [Example(name, "", {"note": NOTE}, "") for name in ids]
    entries = log.entries(examples, pa.table({"id": ids, "label": ["x"] * len(ids)}), PREDICTOR)
    log.append(entries, "one")
    assert log.append(entries, "two").rows == len(ids)
    assert verify(log.path).entries == 2 * len(ids)
    assert [json.loads(line)["id"] for line in lines_of(log.path)] == ids + ids
    naive_chain(lines_of(Path(log.path)))


class Counted:
    """The bytes that a scan reads of a log."""

    def __init__(self, monkeypatch):
        self.bytes, scan = 0, audit_log._scan

        def counted(stream, path, prediction="", known=None):
            found = scan(stream, path, prediction, known)
            self.bytes += path.stat().st_size - (known.size if known else 0)
            return found

        monkeypatch.setattr(audit_log, "_scan", counted)


def test_many_appends_read_only_what_others_appended(tmp_path, monkeypatch):
    log, other = AuditLog(tmp_path / "log"), AuditLog(tmp_path / "log")
    entries = entries_of(log, 2)
    log.append_new(entries)
    one = log.path.stat().st_size
    read = Counted(monkeypatch)
    for _ in range(20):
        log.append_new(entries)
    assert read.bytes == 0
    other.append(entries_of(other, 3), "other")  # reads all
    read.bytes = 0
    appended = log.append_new(entries)
    assert one < read.bytes < 2 * one
    assert (appended.rows, verify(log.path).entries, verify(log.path).head) == (2, 47, appended.head)
    assert naive_chain(lines_of(log.path)) == appended.head
    assert len({json.loads(line)["prediction"] for line in lines_of(log.path)}) == 23


@pytest.mark.parametrize("cut", [1, 40, 10_000])
def test_an_append_after_another_writer_was_killed_or_the_log_was_exchanged_reads_it_again(tmp_path, cut):
    log, other = AuditLog(tmp_path / "log"), AuditLog(tmp_path / "log")
    log.append_new(entries_of(log, 2))
    other.append_new(entries_of(other, 12))
    content = log.path.read_bytes()
    log.path.write_bytes(content[:-cut] if cut < len(content) else b"")
    appended = log.append_new(entries_of(log, 1))
    left = content.count(b"\n") - 1 + (cut == 1) if cut < len(content) else 0
    assert verify(log.path).entries == left + 1 and appended.torn == (cut == 40)
    assert log.append_new(entries_of(log, 1)).head == verify(log.path).head == naive_chain(lines_of(log.path))
    log.path.write_bytes(b"x" * len(log.path.read_bytes()))
    with pytest.raises(InputError, match="is not an audit log"):
        log.append_new(entries_of(log, 1))
    assert set(log.path.read_bytes()) == set(b"x")


def append_new_some(path, begin):
    begin.wait(30)
    log = AuditLog(path)
    for _ in range(20):
        log.append_new(entries_of(log, 3))


def test_processes_that_append_many_times_share_one_chain(tmp_path):
    path, context = tmp_path / "log.jsonl", multiprocessing.get_context("fork")
    begin = context.Event()
    processes = [context.Process(target=append_new_some, args=(path, begin)) for _ in range(3)]
    for process in processes:
        process.start()
    begin.set()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 3
    assert verify(path).entries == 3 * 20 * 3 and naive_chain(lines_of(path)) == verify(path).head
