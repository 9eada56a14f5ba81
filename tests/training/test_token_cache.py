"""Token ids next to their dataset: made once, waited for, and never trained on if they are damaged or of something else."""

import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import pyarrow as pa
import pytest
from tiny_model import build_tiny_tokenizer

import radrecipes
from radrecipes.data.prepared import load_prepared_dataset
from radrecipes.errors import InputError
from radrecipes.files import file_sha256, keep_private, lock
from radrecipes.recipe import parse_recipe
from radrecipes.tasks import rendering
from radrecipes.tasks.protocol import ProtocolTask
from radrecipes.training import data as training_data
from radrecipes.training import token_cache
from radrecipes.training.token_cache import cache_key, cached_rows

RECIPE = "recipes/tiny/protocol_lora.yaml"
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
    assert cached_rows(dataset, "k", lambda: ROWS, keep=True).equals(ROWS)
    assert cached_rows(dataset, "k", never, keep=True).equals(ROWS)
    assert cached_rows(dataset, "k", never, keep=False).equals(ROWS)
    other = ROWS.slice(1)
    assert cached_rows(dataset, "other", lambda: other, keep=True).equals(other)
    assert len(kept_files(dataset)) == 2 and not list((dataset / ".tokenised").glob("*.partial"))


def test_the_oldest_of_many_go(dataset):
    for number in range(6):
        cached_rows(dataset, f"k{number}", lambda: ROWS, keep=True)
        (file,) = (dataset / ".tokenised").glob(f"k{number}-*.arrow")
        os.utime(file, (number, number))
    assert [name[:2] for name in kept_files(dataset)] == ["k2", "k3", "k4", "k5"]


def test_looking_writes_nothing(dataset):
    assert cached_rows(dataset, "k", lambda: ROWS, keep=False).equals(ROWS)
    assert os.listdir(dataset) == ["train.parquet"]


def test_whoever_may_not_read_the_dataset_may_not_read_its_tokens(dataset):
    dataset.chmod(0o750)
    cached_rows(dataset, "k", lambda: ROWS, keep=True)
    (file,) = (dataset / ".tokenised").glob("*.arrow")
    assert file.stat().st_mode & 0o777 == 0o640 and file.parent.stat().st_mode & 0o777 == 0o750
    # Closed data that were prepared before files of such data were private.
    keep_private()
    cached_rows(dataset, "other", lambda: ROWS, keep=True)
    (file,) = (dataset / ".tokenised").glob("other*.arrow")
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("damage", ["a byte", "the end", "everything"])
def test_damaged_rows_are_made_again(dataset, damage):
    cached_rows(dataset, "k", lambda: ROWS, keep=True)
    (file,) = (dataset / ".tokenised").glob("*.arrow")
    content = bytearray(file.read_bytes())
    if damage == "a byte":
        content[len(content) // 2] ^= 1
    file.write_bytes(content[: {"a byte": None, "the end": -20, "everything": 0}[damage]])
    with pytest.raises(AssertionError, match="tokenised again"):
        cached_rows(dataset, "k", never, keep=True)
    assert cached_rows(dataset, "k", lambda: ROWS, keep=True).equals(ROWS)
    assert cached_rows(dataset, "k", never, keep=True).equals(ROWS) and len(kept_files(dataset)) == 1


def test_where_nothing_can_be_written_rows_are_made_every_time(dataset):
    (dataset / ".tokenised").write_text("in the way", encoding="utf-8")
    assert cached_rows(dataset, "k", lambda: ROWS, keep=True).equals(ROWS)
    with pytest.raises(AssertionError, match="tokenised again"):
        cached_rows(dataset, "k", never, keep=True)


def test_a_fault_while_rows_are_made_leaves_nothing(dataset):
    with pytest.raises(AssertionError, match="tokenised again"):
        cached_rows(dataset, "k", never, keep=True)
    assert os.listdir(dataset) == ["train.parquet"]


def _make_slowly(dataset, made):
    def make():
        with (dataset / "made").open("a") as stream:
            stream.write(f"{os.getpid()}\n")
        time.sleep(0.5)
        return ROWS

    assert cached_rows(dataset, "k", make, keep=True).equals(ROWS)
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

    cached_rows(dataset, "k", make, keep=True)


def test_a_killed_process_delays_no_other(dataset):
    killed = _FORK.Process(target=_die_making, args=(dataset,))
    killed.start()
    killed.join(60)
    assert killed.exitcode == -signal.SIGKILL
    with lock(dataset / ".tokenised" / "LOCK", wait=False) as holder:
        assert holder.startswith(f"process {killed.pid} on ")
    assert cached_rows(dataset, "k", lambda: ROWS, keep=True).equals(ROWS)
    assert sorted(os.listdir(dataset / ".tokenised")) == kept_files(dataset)


def test_another_tokenizer_template_or_fact_has_another_key():
    tokenizer = build_tiny_tokenizer()
    key = cache_key(tokenizer, dataset="a", style="chat")
    assert key == cache_key(build_tiny_tokenizer(), style="chat", dataset="a")
    keys = {key, cache_key(tokenizer, dataset="b", style="chat")}
    tokenizer.chat_template += " "
    keys.add(cache_key(tokenizer, dataset="a", style="chat"))
    tokenizer = build_tiny_tokenizer()
    tokenizer.add_tokens(["meniscus"])
    keys.add(cache_key(tokenizer, dataset="a", style="chat"))
    assert len(keys) == 4


def test_a_recipe_reads_what_was_kept_and_finds_the_same(workspace, monkeypatch):
    recipe = parse_recipe(RECIPE)
    fresh = training_data.load_training_data(recipe)
    assert not Path("data/tiny/.tokenised").exists()
    first = training_data.load_training_data(recipe, keep=True)
    with pytest.raises(InputError) as refused:
        training_data.load_training_data(parse_recipe(RECIPE, ["--max_length", "62"]))

    def no_rendering(*words):
        raise AssertionError("rendered again")

    monkeypatch.setattr(training_data, "render_rows", no_rendering)
    for found in (
        first,
        training_data.load_training_data(recipe, keep=True),
        training_data.load_training_data(recipe),
    ):
        assert found.rows.rows.to_dict() == fresh.rows.rows.to_dict()
        assert (found.rows.ids, found.rows.tokens, found.rows.scored_tokens, found.rows.longest) == (
            fresh.rows.ids,
            fresh.rows.tokens,
            fresh.rows.scored_tokens,
            fresh.rows.longest,
        )
    # The same rows serve every max_length, and its errors are the same
    with pytest.raises(InputError) as refused_again:
        training_data.load_training_data(parse_recipe(RECIPE, ["--max_length", "62"]))
    assert str(refused_again.value) == str(refused.value)
    shorter = training_data.load_training_data(parse_recipe(RECIPE, ["--max_length", "62"]), max_dropped_fraction=1.0)
    assert shorter.rows.longest <= 62 and len(shorter.rows.ids) == len(shorter.rows.rows) < 48
    assert shorter.rows.rows["index"][:] == list(range(len(shorter.rows.rows)))
    # Other data is another thing
    shutil.copytree("data/tiny", "data/moved")
    training_data.load_training_data(parse_recipe(RECIPE, ["--dataset", "data/moved"]))
    with pytest.raises(AssertionError, match="rendered again"):
        training_data.load_training_data(parse_recipe(RECIPE, ["--prompt_style", "plain"]))


@pytest.fixture
def key_of(workspace):
    recipe = parse_recipe(RECIPE)
    split, tokenizer = load_prepared_dataset("data/tiny").splits["train"], build_tiny_tokenizer()

    def key():
        task = training_data.TASKS[recipe.arguments.task]
        return training_data.rows_key("digest", split, task, tokenizer, "chat", [2])

    return key


@pytest.mark.parametrize(
    ("owner", "name", "changed"),
    [
        (ProtocolTask, "instruction", "Name the protocol."),
        (ProtocolTask, "question", lambda task, inputs: f"{task.instruction}: {inputs[task.input_column]}"),
        (ProtocolTask, "target", lambda task, row: row["label"].upper()),
    ],
)
def test_a_change_of_the_rendering_or_of_the_target_changes_the_key(owner, name, changed, key_of, monkeypatch):
    before = key_of()
    monkeypatch.setattr(owner, name, changed)
    assert key_of() != before


def test_only_the_code_that_makes_tokens_counts(key_of, monkeypatch, tmp_path):
    before, read = key_of(), []
    for module in (token_cache, training_data):
        monkeypatch.setattr(module, "file_sha256", lambda path: read.append(path) or file_sha256(path))
    assert key_of() == before
    package = Path(radrecipes.__file__).parent
    assert {path for path in read if package in path.parents} == {
        package / "tasks" / "rendering.py",
        package / "training" / "data.py",
        package / "models" / "control_tokens.py",
    }
    # A change that shows in few rows, and in none of the texts
    edited = tmp_path / "rendering.py"
    edited.write_bytes(Path(rendering.__file__).read_bytes() + b"# another way\n")
    monkeypatch.setattr(training_data, "_RENDERING_CODE", (edited, training_data._RENDERING_CODE[1]))
    assert key_of() != before


def test_a_change_of_any_row_changes_the_key(key_of, monkeypatch):
    before, target = key_of(), ProtocolTask.target
    last = load_prepared_dataset("data/tiny").splits["train"][-1]
    monkeypatch.setattr(
        ProtocolTask, "target", lambda task, row: target(task, row) + "." * (row["note"] == last["note"])
    )
    assert key_of() != before
