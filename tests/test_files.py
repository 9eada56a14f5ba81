"""Digests, atomic writes and locks."""

import gzip
import hashlib
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from radrecipes import owned_folder
from radrecipes.errors import InputError, quoted, shown
from radrecipes.files import (
    MIB,
    LockedError,
    bounded_lines,
    check_writable,
    compose_yaml,
    file_sha256,
    lock,
    parse_json,
    read_json,
    read_text,
    scratch_folder,
    sync_tree,
    text_sha256,
    unpacked,
    write_atomically,
)

_FORK = multiprocessing.get_context("fork")


def test_digests(tmp_path):
    (tmp_path / "a").write_text("Befund: größer", encoding="utf-8")
    expected = hashlib.sha256("Befund: größer".encode()).hexdigest()
    assert file_sha256(tmp_path / "a") == text_sha256("Befund: größer") == expected


def test_a_file_is_replaced_at_once(tmp_path):
    path = tmp_path / "a.json"
    write_atomically(path, "old\n")
    write_atomically(path, lambda temporary: temporary.write_bytes(b"new\n"))
    assert path.read_text(encoding="utf-8") == "new\n"
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file_alone(tmp_path, error):
    path = tmp_path / "a.json"
    write_atomically(path, "old")

    def fails(temporary):
        temporary.write_text("ne", encoding="utf-8")
        raise error

    with pytest.raises(type(error)):
        write_atomically(path, fails)
    assert path.read_text(encoding="utf-8") == "old" and os.listdir(tmp_path) == ["a.json"]


def test_a_tree_is_synced_completely(tmp_path, monkeypatch):
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "file").touch()
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    sync_tree(tmp_path)
    assert sorted(synced) == sorted(map(str, [tmp_path, tmp_path / "below", tmp_path / "below" / "file"]))


def _hold(path, ready, seconds):
    with lock(path):
        ready.put(os.getpid())
        time.sleep(seconds)


def test_a_lock_names_its_holder_whose_death_frees_it(tmp_path):
    path, ready = tmp_path / "LOCK", _FORK.SimpleQueue()
    holder = _FORK.Process(target=_hold, args=(path, ready, 60))
    holder.start()
    ready.get()
    for _ in range(2):  # a refused process leaves the name alone
        with pytest.raises(LockedError) as refused, lock(path, wait=False):
            pass
        assert str(refused.value).startswith(f"process {holder.pid} on ")
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with lock(path, wait=False) as killed:
        assert killed.startswith(f"process {holder.pid} on ")
        assert path.read_text(encoding="utf-8").startswith(f"process {os.getpid()} on ")
    assert not path.exists()


def test_a_lock_is_waited_for_and_ends_with_an_exception(tmp_path):
    path, ready = tmp_path / "LOCK", _FORK.SimpleQueue()
    holder = _FORK.Process(target=_hold, args=(path, ready, 0.3))
    holder.start()
    ready.get()
    with pytest.raises(ZeroDivisionError), lock(path) as killed:
        assert killed == ""
        raise ZeroDivisionError
    holder.join()
    with lock(path, wait=False) as killed:
        assert killed == ""


def test_a_file_that_its_holder_removed_is_not_a_lock(tmp_path, monkeypatch):
    path, opened = tmp_path / "LOCK", os.open

    def removed_after_opening(name, *args, **options):
        descriptor = opened(name, *args, **options)
        if str(name) == str(path):
            path.unlink()
        return descriptor

    monkeypatch.setattr(os, "open", removed_after_opening)
    with pytest.raises(LockedError), lock(path, wait=False):
        pass


def test_a_lock_that_cannot_be_written_raises_the_systems_error(tmp_path):
    (tmp_path / "LOCK").mkdir()
    with pytest.raises(OSError), lock(tmp_path / "LOCK"):
        pass


@pytest.mark.parametrize("kind", ["pipe", "device", "large", "sparse", "not_utf8"])
def test_only_regular_files_of_a_limited_size_are_read(tmp_path, kind):
    path, message = (
        tmp_path / "file",
        {"large": "larger than 1 KiB", "sparse": "larger than 1 KiB", "not_utf8": "UTF-8"},
    )
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "sparse":
        path.touch()
        os.truncate(path, 2**40)
    else:
        path.write_bytes(b"a" * 1025 if kind == "large" else b"\xff")
    for read in (lambda: read_text(path, 1024), lambda: read_json(path, 1024)):
        with pytest.raises(InputError, match=message.get(kind, "only regular files are read")):
            read()
    if kind in ("pipe", "device"):
        with pytest.raises(InputError, match="only regular files are read"):
            file_sha256(path)


def test_text_is_read_as_pathlib_reads_it(tmp_path):
    path = tmp_path / "file"
    path.write_bytes("Größe\r\nb\rc\n".encode())
    assert read_text(path) == path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 70 + "1" + "}" * 70, "nested too deeply"),
        ("9" * 5000, "too many digits"),
        ("1" + "0" * 50, "too many digits"),
        ("[1,\n2", "x.json:2: not valid JSON"),
    ],
)
def test_json_that_would_fail_later_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        parse_json(text, "x.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x [1]\nb: [*x, *x]", "x.yaml:1: not valid YAML: anchors and aliases"),
        ("a: 1\nb: *y", "x.yaml:2: not valid YAML: anchors and aliases"),
        ("[" * 10_000, "nested too deeply"),
        ("- " * 500 + "1", "nested too deeply"),
        ("a: \x00", "not valid YAML"),
    ],
)
def test_yaml_that_grows_or_nests_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        compose_yaml(text, "x.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"0", "unpacks to"),
        (b"0" * 1023 + b"\n", "unpacks to"),
        (b"\n", "b.gz:1000001: more than 1,000,000 blank lines"),
    ],
)
def test_a_small_file_does_not_unpack_to_any_size(tmp_path, content, message):
    path = tmp_path / "b.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(17):
            file.write(content * (MIB // len(content)))
    with pytest.raises(InputError, match=message), unpacked(path) as stream:
        for line in bounded_lines(stream, str(path)):
            assert len(line) <= 16 * MIB


def test_what_is_quoted_from_outside_is_short_and_printable():
    bomb = ["a"]
    for _ in range(60):
        bomb = [bomb] * 10
    for text in (quoted(bomb), quoted("\x1b" * 10_000), quoted(10**5000), shown("\x1b[2J\n\u202e" * 10_000)):
        assert len(text) <= 300 and text.isprintable()


def _work_in_scratch(ready, seconds):
    with scratch_folder("radrecipes-test-") as folder:
        (folder / "copy").write_text("of data")
        os.utime(folder, (0, 0))
        ready.put(folder)
        time.sleep(seconds)


def test_what_a_killed_process_left_in_the_temporary_folder_is_removed_at_the_next_start(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    ready = _FORK.SimpleQueue()
    running, killed = (_FORK.Process(target=_work_in_scratch, args=(ready, 30)) for _ in range(2))
    try:
        running.start()
        kept = ready.get()
        killed.start()
        left = ready.get()
        os.kill(killed.pid, signal.SIGKILL)
        killed.join()
        (tmp_path / "radrecipes-test-link").symlink_to(tmp_path / "elsewhere")
        with scratch_folder("radrecipes-test-") as folder:
            assert folder.is_dir() and not left.exists() and (kept / "copy").is_file()
    finally:
        running.kill()
        running.join()


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("file/below", "file is not a folder"),
        ("file/below/deeper", "file is not a folder"),
        ("/dev/null/x", "/dev/null is not a folder"),
        ("x" * 300, "the name is too long"),
        (f"new/{'x' * 300}/deeper", "the name is too long"),
    ],
)
def test_a_place_that_cannot_be_written_is_found_before_the_work(tmp_path, monkeypatch, place, said):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(InputError, match=f"cannot be written: .*{said}") as raised:
        check_writable(place)
    assert len(str(raised.value)) < 500 and [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_read_only_folder_cannot_be_written(tmp_path, monkeypatch):
    check_writable(tmp_path / "new" / "deeper")
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)  # root may write everywhere
    with pytest.raises(InputError, match="is read-only, or not yours"):
        check_writable(tmp_path / "new" / "deeper")


def test_what_a_killed_process_left_does_not_stop_the_next_one_with_its_number(tmp_path, monkeypatch):
    """In a container every process that starts a command has the same number."""
    monkeypatch.setattr(os, "getpid", lambda: 7)
    killed = owned_folder.complete_folder(tmp_path / "data", "dataset")
    killed.__enter__()
    with owned_folder.complete_folder(tmp_path / "data", "dataset") as folder:
        (folder / "README.md").touch()
    assert (tmp_path / "data" / "README.md").is_file()
