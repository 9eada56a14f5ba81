"""Digests, atomic writes and locks."""

import hashlib
import multiprocessing
import os
import signal
import time

import pytest

from radrecipes.files import LockedError, file_sha256, lock, sync_tree, text_sha256, write_atomically

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
