"""Checkpoints: what was changed, cut or lost is never loaded, and tidying up never takes the last valid one."""

import json
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from radrecipes.errors import FullDiskError, InputError, NoCheckpointError
from radrecipes.training import checkpoints

# Names and numbers of which a changed bit could be another spelling of the same: é as \u00E9, 1e-05 as 1E-05.
IDENTITY = {"recipe.learning_rate": 1e-05, "recipe.dataset": "data/Größe", "data.digest": "ab" * 32, "processes": 1}
PROGRESS = {"seconds": 12.5, "checkpoint_seconds": 0.25, "peak_memory_gib": 1.5, "resumes": []}
FILES = {
    "adapter_model.safetensors": bytes(range(256)),
    "optimizer.pt": b"moments" * 40,
    "trainer_state.json": b'{"global_step": 4}',
    "global_step4/shard_0.pt": b"\x00" * 64,
    "empty": b"",
}


def sealed(run, step, files=FILES, identity=IDENTITY, progress=PROGRESS, best_step=None):
    """One more checkpoint of a run, made as training makes it."""
    written = checkpoints.unfinished_folder(run) / f"checkpoint-{step}"
    for name, content in files.items():
        path = written / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content + (bytes([step]) if content else b""))
    return checkpoints.seal(written, run, identity, progress, best_step)


def flip(path, bit):
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def steps_in(run):
    """Steps of the checkpoints in a run's folder, and those of the valid ones."""
    folders = sorted((run / checkpoints.FOLDER).glob("checkpoint-*"), key=lambda folder: int(folder.name[11:]))
    valid = []
    for folder in folders:
        try:
            valid.append(checkpoints.verify(folder).step)
        except checkpoints.InvalidCheckpointError:
            continue
    return [int(folder.name[11:]) for folder in folders], valid


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
    """A run with checkpoints of steps 2 and 4; who changes one puts it back."""
    run = tmp_path_factory.mktemp("run")
    for step in (2, 4):
        sealed(run, step)
    return run


def rejection(run):
    """The line on the newest checkpoint, and the one that was found instead of it."""
    found = checkpoints.find_last_valid(run)
    assert found.newest.step == 2 and found.newest.folder == run / "checkpoints" / "checkpoint-2"
    (line,) = found.rejected
    folder, _, reason = line.partition(": ")
    assert folder == str(run / "checkpoints" / "checkpoint-4")
    return reason


def test_what_was_sealed_is_found_again_unchanged(tmp_path):
    folder = sealed(tmp_path, 4)
    assert folder == tmp_path / "checkpoints" / "checkpoint-4"
    found = checkpoints.find_last_valid(tmp_path)
    assert found.rejected == ()
    assert found.newest == checkpoints.Checkpoint(folder, 4, IDENTITY, PROGRESS)
    assert not (checkpoints.unfinished_folder(tmp_path) / "checkpoint-4").exists()
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == {*FILES, "MANIFEST.json"}


@given(st.data())
def test_any_bit_of_any_file_that_changed_is_noticed_and_the_file_named(two_checkpoints, data):
    newest = two_checkpoints / "checkpoints" / "checkpoint-4"
    path = newest / data.draw(st.sampled_from([*(name for name in FILES if FILES[name]), "MANIFEST.json"]))
    bit = data.draw(st.integers(0, 8 * path.stat().st_size - 1))
    flip(path, bit)
    try:
        reason = rejection(two_checkpoints)
    finally:
        flip(path, bit)
    assert reason.startswith(f"{path.relative_to(newest)} ")
    assert "changed" in reason or "cannot be read" in reason or "is that of" in reason
    assert checkpoints.find_last_valid(two_checkpoints).newest.step == 4


@pytest.mark.slow
def test_each_single_bit_of_the_manifest_counts(two_checkpoints):
    folder = two_checkpoints / "checkpoints" / "checkpoint-4"
    manifest = folder / "MANIFEST.json"
    whole = manifest.read_bytes()
    assert b"1e-05" in whole and b"\\u00f6" in whole  # a changed bit would make another spelling of the same
    unnoticed = []
    for bit in range(8 * len(whole)):
        flip(manifest, bit)
        try:
            checkpoints.verify(folder)
            unnoticed.append(bit)
        except checkpoints.InvalidCheckpointError as error:
            assert str(error).startswith("MANIFEST.json ")
        finally:
            manifest.write_bytes(whole)
    assert unnoticed == []


@given(st.data())
def test_any_file_that_was_cut_is_noticed(two_checkpoints, data):
    newest = two_checkpoints / "checkpoints" / "checkpoint-4"
    path = newest / data.draw(st.sampled_from([*(name for name in FILES if FILES[name]), "MANIFEST.json"]))
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    try:
        assert rejection(two_checkpoints).startswith(f"{path.relative_to(newest)} ")
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("name", [*FILES, "MANIFEST.json"])
@pytest.mark.parametrize("how", ["missing", "longer", "a folder"])
def test_any_file_that_is_missing_or_no_longer_itself_is_noticed(name, how, tmp_path):
    for step in (2, 4):
        sealed(tmp_path, step)
    path = tmp_path / "checkpoints" / "checkpoint-4" / name
    if how == "longer":
        with path.open("ab") as stream:
            stream.write(b"\n")
    else:
        path.unlink()
        if how == "a folder":
            path.mkdir()
    reason = rejection(tmp_path)
    assert reason.startswith(f"{name} ")
    if how == "missing":
        assert "is missing" in reason


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "3", "{}", '{"sha256": 1}', '{"sha256": "", "files": [], "step": 4}']
)
def test_a_manifest_that_is_none_is_noticed(text, tmp_path):
    for step in (2, 4):
        sealed(tmp_path, step)
    (tmp_path / "checkpoints" / "checkpoint-4" / "MANIFEST.json").write_text(text, encoding="utf-8")
    assert rejection(tmp_path).startswith("MANIFEST.json ")


def test_an_empty_folder_and_a_checkpoint_under_another_name_are_noticed(tmp_path):
    for step in (2, 4):
        sealed(tmp_path, step)
    newest = tmp_path / "checkpoints" / "checkpoint-4"
    shutil.copytree(newest, newest.with_name("checkpoint-6"))
    newest.with_name("checkpoint-8").mkdir()
    found = checkpoints.find_last_valid(tmp_path)
    assert found.newest.step == 4
    empty, renamed = found.rejected
    assert empty.endswith("checkpoint-8: MANIFEST.json is missing, so it was not finished")
    assert renamed.endswith("checkpoint-6: MANIFEST.json is that of checkpoint-4")


def test_the_newest_is_that_of_the_highest_step_and_not_of_the_last_letter(tmp_path):
    for step in (8, 9, 10):
        sealed(tmp_path, step)
    assert checkpoints.find_last_valid(tmp_path).newest.step == 10


def test_without_a_checkpoint_a_run_starts_from_scratch(tmp_path):
    assert checkpoints.find_last_valid(tmp_path) == checkpoints.Resumption()
    # What a kill leaves, and what is not a checkpoint
    (checkpoints.unfinished_folder(tmp_path) / "checkpoint-2").mkdir(parents=True)
    (tmp_path / "checkpoints" / "checkpoint-best").mkdir()
    (tmp_path / "checkpoints" / "checkpoint-3").touch()
    assert checkpoints.find_last_valid(tmp_path) == checkpoints.Resumption()


def test_where_none_is_valid_the_run_does_not_start_over_by_itself(tmp_path):
    for step in (2, 4):
        (sealed(tmp_path, step) / "optimizer.pt").unlink()
    with pytest.raises(NoCheckpointError) as refused:
        checkpoints.find_last_valid(tmp_path)
    assert refused.value.exit_code == 3
    text = str(refused.value)
    assert "checkpoint-4: optimizer.pt is missing" in text and "checkpoint-2: optimizer.pt is missing" in text
    assert "--restart" in text


def test_a_checkpoint_takes_the_place_of_an_invalid_one(tmp_path):
    sealed(tmp_path, 2)
    (sealed(tmp_path, 4) / "optimizer.pt").write_bytes(b"torn")
    (tmp_path / "checkpoints" / "checkpoint-4" / "left over").touch()
    folder = sealed(tmp_path, 4)
    assert checkpoints.find_last_valid(tmp_path).newest.folder == folder
    assert not (folder / "left over").exists()


@pytest.mark.parametrize(
    ("steps", "invalid", "left"),
    [
        ([2], [], [2]),
        ([2, 4], [], [2, 4]),
        ([2, 4, 6], [], [4, 6]),
        ([2, 4, 6], [4], [2, 6]),
        ([2, 4, 6], [6], [2, 4]),
        # As after a run that fell back over two invalid ones, and whose checkpoints come at other steps than theirs
        ([2, 3, 4, 6], [4, 6], [2, 3]),
        ([2, 4, 6], [4, 6], [2]),
    ],
)
def test_rotation_keeps_the_newest_two_that_are_valid(steps, invalid, left, tmp_path):
    for step in steps:
        folder = sealed(tmp_path, step)
        if step in invalid:
            flip(folder / "optimizer.pt", 5)
    checkpoints.rotate(tmp_path)
    assert steps_in(tmp_path) == (left, left)


@settings(max_examples=25)  # each seals and syncs several checkpoints
@given(st.lists(st.booleans(), min_size=1, max_size=6), st.integers(1, 3))
def test_rotation_never_takes_the_last_valid_one(tmp_path_factory, valid, keep):
    run = tmp_path_factory.mktemp("run")
    for step, whole in enumerate(valid, start=1):
        folder = sealed(run, step, {"weights": b"w"})
        if not whole:
            (folder / "weights").unlink()
    before = steps_in(run)[1]
    checkpoints.rotate(run, keep)
    assert steps_in(run) == (before[-keep:], before[-keep:])


def test_rotation_keeps_the_best_one_too(tmp_path):
    for step, best_step, left in ((2, 2, [2]), (4, 4, [2, 4]), (6, 4, [4, 6]), (8, 4, [4, 6, 8]), (10, 10, [8, 10])):
        sealed(tmp_path, step, best_step=best_step)
        checkpoints.rotate(tmp_path, best_step=best_step)
        assert steps_in(tmp_path) == (left, left)


def test_a_checkpoint_whose_best_one_is_damaged_is_not_taken(tmp_path):
    for step, best_step in ((2, 2), (4, 2), (6, 6), (8, 6)):
        sealed(tmp_path, step, best_step=best_step)
    assert checkpoints.find_last_valid(tmp_path).newest.best_step == 6
    flip(tmp_path / "checkpoints" / "checkpoint-6" / "optimizer.pt", 5)
    found = checkpoints.find_last_valid(tmp_path)
    assert (found.newest.step, found.newest.best_step) == (4, 2)
    lines = [line.partition(": ")[2] for line in found.rejected]
    assert lines[0].startswith("the best checkpoint until then is lost: checkpoint-6: optimizer.pt was changed")
    assert lines[1].startswith("optimizer.pt was changed")
    shutil.rmtree(tmp_path / "checkpoints" / "checkpoint-2")
    with pytest.raises(NoCheckpointError, match="checkpoint-4: the best checkpoint until then is lost: checkpoint-2"):
        checkpoints.find_last_valid(tmp_path)


def test_rotation_leaves_what_is_being_written_alone(tmp_path):
    for step in (2, 4, 6):
        sealed(tmp_path, step)
    unfinished = checkpoints.unfinished_folder(tmp_path) / "checkpoint-8"
    unfinished.mkdir()
    checkpoints.rotate(tmp_path)
    assert unfinished.is_dir()


def test_what_a_run_counts_is_carried_over_when_it_resumes(tmp_path):
    progress = checkpoints.Progress()
    progress.begin()
    time.sleep(0.02)
    progress.checkpoint_seconds += 0.5
    counted = progress.so_far()
    assert 0.02 <= counted["seconds"] < 5 and counted["resumes"] == []
    sealed(tmp_path, 4, progress={**counted, "peak_memory_gib": 1000.0})

    last = checkpoints.find_last_valid(tmp_path).newest
    second = checkpoints.Progress(last, {"processes": [2, 1]})
    assert second.seconds == counted["seconds"]  # the clock is stopped while the model is loaded
    second.begin()
    time.sleep(0.02)
    second.checkpoint_seconds += 0.25
    counted_again = second.so_far()
    assert counted_again["seconds"] >= counted["seconds"] + 0.02
    assert counted_again["checkpoint_seconds"] == 0.75
    assert counted_again["peak_memory_gib"] == 1000.0
    assert counted_again["resumes"] == [{"step": 4, "changed": {"processes": [2, 1]}}]

    sealed(tmp_path, 8, progress=counted_again)
    third = checkpoints.Progress(checkpoints.find_last_valid(tmp_path).newest)
    assert third.so_far()["resumes"] == [*counted_again["resumes"], {"step": 8, "changed": {}}]
    assert last.progress["resumes"] == []


@pytest.fixture
def adapter():
    """A frozen base of 4 MB with a trained part of 4 MiB."""
    model = torch.nn.Sequential(torch.nn.Linear(1024, 1024, bias=False), torch.nn.Linear(1024, 1024, bias=False))
    model[0].requires_grad_(False)
    return model


def free_bytes(monkeypatch, *free):
    """Have the disk of every folder report so many free bytes, the last number from then on."""
    left = list(free)
    monkeypatch.setattr(
        checkpoints.shutil,
        "disk_usage",
        lambda path: SimpleNamespace(free=left.pop(0) if len(left) > 1 else left[0]),
    )


def test_only_trained_weights_count_for_the_room(adapter):
    assert 3 * 4 * 2**20 < checkpoints.required_bytes(adapter) < 30 * 2**20
    assert checkpoints.required_bytes(adapter, sharded=True) - checkpoints.required_bytes(adapter) == 10 * 2**20


def test_a_disk_without_room_is_refused_with_both_numbers(adapter, tmp_path, monkeypatch):
    size = checkpoints.required_bytes(adapter)
    free_bytes(monkeypatch, 3 * size)
    line = r"84 MiB are free, .* need 93; make room, or set --output_dir"
    with pytest.raises(InputError, match=line) as refused, checkpoints.room_for(tmp_path, adapter):
        pytest.fail("training must not begin")
    assert str(refused.value).startswith(f"{tmp_path}: ")
    free_bytes(monkeypatch, 3 * size + size // 3)
    with checkpoints.room_for(tmp_path, adapter):
        pass
    with pytest.raises(InputError, match="need 121"), checkpoints.room_for(tmp_path, adapter, keeps_best=True):
        pytest.fail("there is no room for the best one")


def test_checkpoints_that_are_there_already_need_no_more_room(adapter, tmp_path, monkeypatch):
    size = checkpoints.required_bytes(adapter)
    free_bytes(monkeypatch, 2 * size)
    with pytest.raises(InputError), checkpoints.room_for(tmp_path, adapter):
        pass
    sealed(tmp_path, 2, {"weights": b"w" * (2 * size)})
    with checkpoints.room_for(tmp_path, adapter):
        pass


def test_a_disk_that_fills_up_is_named_and_what_was_half_written_is_gone(adapter, tmp_path, monkeypatch):
    sealed(tmp_path, 2)
    torn = checkpoints.unfinished_folder(tmp_path) / "checkpoint-4"
    free_bytes(monkeypatch, 2**40, 0)
    with (
        pytest.raises(
            FullDiskError, match=r"disk is full \(0.0 MiB free\); checkpoint-2 is complete; make room"
        ) as full,
        checkpoints.room_for(tmp_path, adapter),
    ):
        torn.mkdir(parents=True)
        raise RuntimeError("unexpected pos 64 vs 0")
    assert full.value.exit_code == 1 and not torn.exists()
    assert checkpoints.find_last_valid(tmp_path).newest.step == 2


def test_another_error_is_not_mistaken_for_a_full_disk(adapter, tmp_path, monkeypatch):
    free_bytes(monkeypatch, 2**40)
    with pytest.raises(ZeroDivisionError), checkpoints.room_for(tmp_path, adapter):
        raise ZeroDivisionError
    free_bytes(monkeypatch, 2**40, 0)
    with pytest.raises(NoCheckpointError), checkpoints.room_for(tmp_path, adapter):
        raise NoCheckpointError


def test_the_manifest_can_be_read_by_eye(tmp_path):
    manifest = json.loads((sealed(tmp_path, 4) / "MANIFEST.json").read_text(encoding="utf-8"))
    assert manifest["step"] == 4 and manifest["identity"] == IDENTITY and manifest["progress"] == PROGRESS
    assert sorted(manifest["files"]) == sorted(FILES)
    assert all(len(digest) == 64 for digest in [*manifest["files"].values(), manifest["sha256"]])


def test_what_json_cannot_contain_is_sealed_as_text(tmp_path):
    folder = sealed(tmp_path, 4, identity={"recipe.output": Path("runs"), "processes": (1, 2)})
    assert checkpoints.verify(folder).identity == {"recipe.output": "runs", "processes": [1, 2]}
