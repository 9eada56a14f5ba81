"""Tables next to their dataset: made once, waited for, and never used if they are damaged."""

import multiprocessing
import os
import signal
import time

import pyarrow as pa
import pytest

from radrecipes.data.table_cache import TOKENS, cached_table
from radrecipes.files import keep_private, lock

ROWS = pa.table({"input_ids": [[1, 2], [3]], "labels": [[-100, 2], [3]]})
_FORK = multiprocessing.get_context("fork")


@pytest.fixture
def dataset(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train.parquet").touch(mode=0o640)
    return folder


def never():
    raise AssertionError("tokenised again")


def kept_files(dataset):
    return sorted(path.name for path in (dataset / ".tokenised").iterdir() if path.suffix == ".arrow")


def test_rows_are_made_once_and_read_from_then_on(dataset):
    assert cached_table(dataset / TOKENS, "k", lambda: ROWS, keep=True).equals(ROWS)
    assert cached_table(dataset / TOKENS, "k", never, keep=True).equals(ROWS)
    assert cached_table(dataset / TOKENS, "k", never, keep=False).equals(ROWS)
    other = ROWS.slice(1)
    assert cached_table(dataset / TOKENS, "other", lambda: other, keep=True).equals(other)
    assert len(kept_files(dataset)) == 2 and not list((dataset / ".tokenised").glob("*.partial"))


def test_the_oldest_of_many_go(dataset):
    for number in range(6):
        cached_table(dataset / TOKENS, f"k{number}", lambda: ROWS, keep=True)
        (file,) = (dataset / ".tokenised").glob(f"k{number}-*.arrow")
        os.utime(file, (number, number))
    assert [name[:2] for name in kept_files(dataset)] == ["k2", "k3", "k4", "k5"]


def test_looking_writes_nothing(dataset):
    assert cached_table(dataset / TOKENS, "k", lambda: ROWS, keep=False).equals(ROWS)
    assert os.listdir(dataset) == ["train.parquet"]


def test_whoever_may_not_read_the_dataset_may_not_read_its_tokens(dataset):
    dataset.chmod(0o750)
    cached_table(dataset / TOKENS, "k", lambda: ROWS, keep=True)
    (file,) = (dataset / ".tokenised").glob("*.arrow")
    assert file.stat().st_mode & 0o777 == 0o640 and file.parent.stat().st_mode & 0o777 == 0o750
    # Closed data that were prepared before files of such data were private.
    keep_private()
    cached_table(dataset / TOKENS, "other", lambda: ROWS, keep=True)
    (file,) = (dataset / ".tokenised").glob("other*.arrow")
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("damage", ["a byte", "the end", "everything"])
def test_damaged_rows_are_made_again(dataset, damage):
    cached_table(dataset / TOKENS, "k", lambda: ROWS, keep=True)
    (file,) = (dataset / ".tokenised").glob("*.arrow")
    content = bytearray(file.read_bytes())
    if damage == "a byte":
        content[len(content) // 2] ^= 1
    file.write_bytes(content[: {"a byte": None, "the end": -20, "everything": 0}[damage]])
    with pytest.raises(AssertionError, match="tokenised again"):
        cached_table(dataset / TOKENS, "k", never, keep=True)
    assert cached_table(dataset / TOKENS, "k", lambda: ROWS, keep=True).equals(ROWS)
    assert cached_table(dataset / TOKENS, "k", never, keep=True).equals(ROWS) and len(kept_files(dataset)) == 1


def test_where_nothing_can_be_written_rows_are_made_every_time(dataset):
    (dataset / ".tokenised").write_text("in the way", encoding="utf-8")
    assert cached_table(dataset / TOKENS, "k", lambda: ROWS, keep=True).equals(ROWS)
    with pytest.raises(AssertionError, match="tokenised again"):
        cached_table(dataset / TOKENS, "k", never, keep=True)


def test_a_fault_while_rows_are_made_leaves_nothing(dataset):
    with pytest.raises(AssertionError, match="tokenised again"):
        cached_table(dataset / TOKENS, "k", never, keep=True)
    assert os.listdir(dataset) == ["train.parquet"]


def _make_slowly(dataset, made):
    def make():
        with (dataset / "made").open("a") as stream:
            stream.write(f"{os.getpid()}\n")
        time.sleep(0.5)
        return ROWS

    assert cached_table(dataset / TOKENS, "k", make, keep=True).equals(ROWS)
    made.put(os.getpid())


def test_of_several_processes_one_makes_the_rows(dataset):
    made = _FORK.SimpleQueue()
    processes = [_FORK.Process(target=_make_slowly, args=(dataset, made)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert len((dataset / "made").read_text().splitlines()) == 1


def _die_making(dataset):
    def make():
        (dataset / ".tokenised" / "k.partial").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)

    cached_table(dataset / TOKENS, "k", make, keep=True)


def test_a_killed_process_delays_no_other(dataset):
    killed = _FORK.Process(target=_die_making, args=(dataset,))
    killed.start()
    killed.join(60)
    assert killed.exitcode == -signal.SIGKILL
    with lock(dataset / ".tokenised" / "LOCK", wait=False) as holder:
        assert holder.startswith(f"process {killed.pid} on ")
    assert cached_table(dataset / TOKENS, "k", lambda: ROWS, keep=True).equals(ROWS)
    assert sorted(os.listdir(dataset / ".tokenised")) == kept_files(dataset)
