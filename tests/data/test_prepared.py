import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from radrecipes.data.dataset_folder import dataset_digest, write_dataset_folder
from radrecipes.data.label_sets import LabelSet
from radrecipes.data.prepared import SPLITS, load_prepared_dataset
from radrecipes.errors import InputError
from radrecipes.files import file_sha256
from radrecipes.owned_folder import MARKER

COLUMNS = ("id", "group", "note", "label")
LABELS = LabelSet.from_text("name: two\nversion: 1\nlabels: [{name: CT Head}, {name: MR Brain}]\n")


def write(folder, notes=("a", "b", "c"), **options):
    splits = {
        split: [{"id": f"{split}-{note}", "group": split, "note": note, "label": "CT Head"} for note in notes]
        for split in SPLITS
    }
    manifest = {
        "task": "protocol",
        "access": "synthetic",
        "columns": list(COLUMNS),
        "splits": {"train": {"groups": 1}},
    }
    write_dataset_folder(folder, splits=splits, manifest=manifest, card="# Card\n", label_set=LABELS, **options)
    return load_prepared_dataset(folder)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_was_written_is_loaded(tmp_path):
    dataset = write(tmp_path / "data" / "set")
    assert sorted(contents(dataset.folder)) == sorted(
        [MARKER, "README.md", "label_set.yaml", "manifest.json", *(f"{split}.parquet" for split in SPLITS)]
    )
    loaded = load_prepared_dataset(tmp_path / "data" / "set")
    assert loaded.splits["test"]["note"][:] == ["a", "b", "c"]
    assert loaded.splits["train"].column_names == list(COLUMNS)
    assert (loaded.task, loaded.access, loaded.label_set, len(loaded.digest)) == ("protocol", "synthetic", LABELS, 64)
    assert loaded.manifest["splits"]["train"]["groups"] == 1
    assert loaded.manifest["splits"]["train"]["rows"] == 3


def test_the_same_rows_give_the_same_bytes_anywhere_and_other_rows_another_digest(tmp_path):
    one, again = write(tmp_path / "one"), write(tmp_path / "elsewhere" / "again")
    assert contents(one.folder) == contents(again.folder)
    assert str(tmp_path) not in (one.folder / "manifest.json").read_text()
    assert write(tmp_path / "other", notes=("a", "b", "d")).digest != one.digest


@pytest.mark.parametrize("name", ["train.parquet", "test.parquet", "label_set.yaml"])
def test_a_changed_file_is_refused_by_name(tmp_path, name):
    folder = write(tmp_path / "set").folder
    with (folder / name).open("ab") as file:
        file.write(b"\n")
    with pytest.raises(InputError, match=f"{name}: changed since"):
        load_prepared_dataset(folder)


def test_rows_replaced_together_with_their_hash_are_still_refused_by_the_digest(tmp_path):
    folder, other = write(tmp_path / "set").folder, write(tmp_path / "other", notes=("x",)).folder
    manifest, replaced = (json.loads((at / "manifest.json").read_text()) for at in (folder, other))
    manifest["splits"]["test"] = replaced["splits"]["test"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "test.parquet").write_bytes((other / "test.parquet").read_bytes())
    with pytest.raises(InputError, match="digest"):
        load_prepared_dataset(folder)


@pytest.mark.parametrize("name", ["validation.parquet", "label_set.yaml", "manifest.json"])
def test_a_missing_file_is_refused_by_name(tmp_path, name):
    folder = write(tmp_path / "set").folder
    (folder / name).unlink()
    with pytest.raises(InputError, match=name):
        load_prepared_dataset(folder)


def test_a_missing_folder_or_manifest_key_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such dataset folder"):
        load_prepared_dataset(tmp_path / "absent")
    folder = write(tmp_path / "set").folder
    manifest = json.loads((folder / "manifest.json").read_text())
    for broken, said in (
        ("{", r"manifest.json:1: not valid JSON"),
        ("[]", "one JSON object"),
        (json.dumps({**manifest, "access": "secret"}), "access must be one of"),
        (json.dumps({**manifest, "splits": {}}), "splits.train.sha256"),
        (json.dumps({**manifest, "format_version": 9}), "format version 9"),
        (json.dumps({**manifest, "task": None}), "'task'"),
    ):
        (folder / "manifest.json").write_text(broken)
        with pytest.raises(InputError, match=said):
            load_prepared_dataset(folder)


def test_an_existing_dataset_is_replaced_only_on_demand_and_foreign_folders_never(tmp_path):
    first = write(tmp_path / "set")
    with pytest.raises(InputError, match="--overwrite"):
        write(tmp_path / "set", notes=("x",))
    assert load_prepared_dataset(tmp_path / "set").digest == first.digest
    assert write(tmp_path / "set", notes=("x",), overwrite=True).splits["test"]["note"][:] == ["x"]
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "manifest.json").write_text("{}")
    (tmp_path / "set" / "thesis.txt").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "home")
    for folder, message in (
        ("home", "did not write this folder"),
        ("set", "contains 'thesis.txt', which radrecipes did not write"),
        ("link", "is a link"),
    ):
        with pytest.raises(InputError, match=f"{folder}: .*{message}"):
            write(tmp_path / folder, overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["home", "link", "set"]
    assert (tmp_path / "home" / "manifest.json").exists() and (tmp_path / "set" / "thesis.txt").exists()


def test_a_failure_half_way_leaves_the_old_dataset_and_nothing_else(tmp_path, monkeypatch):
    first = write(tmp_path / "set")
    real_rename, calls = os.rename, []

    def fail_when_the_new_folder_comes(source, target):
        calls.append(source)
        if len(calls) == 2:
            raise OSError("disk gone")
        real_rename(source, target)

    monkeypatch.setattr(os, "rename", fail_when_the_new_folder_comes)
    with pytest.raises(OSError, match="disk gone"):
        write(tmp_path / "set", notes=("x",), overwrite=True)
    monkeypatch.undo()
    assert load_prepared_dataset(tmp_path / "set").digest == first.digest
    with pytest.raises(TypeError):
        write(tmp_path / "new", notes=(1,))
    assert os.listdir(tmp_path) == ["set"]


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"cannot be written: .*file is not a folder"):
        write(tmp_path / "file" / "set")
    with pytest.raises(InputError, match="is a file"):
        write(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert write(tmp_path / "empty").splits["train"].num_rows == 3


def test_a_task_without_labels_needs_no_label_set(tmp_path):
    rows = {split: [{"id": split, "report": "clear"}] for split in SPLITS}
    manifest = {"task": "report", "access": "open", "columns": ["id", "report"]}
    write_dataset_folder(tmp_path / "set", splits=rows, manifest=manifest, card="# Card\n")
    loaded = load_prepared_dataset(tmp_path / "set")
    assert loaded.label_set is None
    assert loaded.splits["test"].column_names == ["id", "report"]


def test_a_split_that_unpacks_too_far_is_refused(tmp_path):
    folder = write(tmp_path / "set", notes=("a" * 2**16,) * 3).folder
    rows = pa.DictionaryArray.from_arrays(pa.array([0] * 2000, pa.int32()), pa.array(["x" * 2**16]))
    pq.write_table(pa.table(dict.fromkeys(COLUMNS, rows)), folder / "train.parquet")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["splits"]["train"]["sha256"] = file_sha256(folder / "train.parquet")
    manifest["digest"] = dataset_digest(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"train.parquet: unpacks to more than 16 MiB"):
        load_prepared_dataset(folder)
