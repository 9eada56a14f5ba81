"""A run's folder: one process locks it, other files are not removed, and `COMPLETE` comes last."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from radrecipes import owned_folder
from radrecipes.errors import InputError, OutputInUseError
from radrecipes.launch.spec import Engine, LaunchSpec
from radrecipes.owned_folder import MARKER
from radrecipes.recipe import parse_recipe
from radrecipes.training import PARTS, checkpoints, run_folder
from radrecipes.training.divergence import DIVERGED_FILE
from radrecipes.training.identity import identity_of

RECIPE = "recipes/tiny/protocol_lora.yaml"
HOLDER = """
import sys, time
from pathlib import Path
from radrecipes.training import checkpoints, run_folder
with run_folder.locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(120)
"""


@pytest.fixture
def recipe(workspace):
    return parse_recipe(RECIPE, ["--output_dir", str(workspace / "run")])


def tried(recipe):
    """The folder of an earlier run of the recipe that did not finish."""
    recipe.output_dir.mkdir(parents=True)
    run_folder.start(recipe.output_dir, recipe)
    (recipe.output_dir / "train_log.jsonl").write_text('{"step": 1}\n{"step": 2}\n', encoding="utf-8")
    return recipe.output_dir


def test_another_process_that_holds_the_folder_is_named_and_its_death_frees_it(tmp_path):
    folder = tmp_path / "deep" / "run"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True, env={**os.environ}
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(OutputInUseError, match=rf"process {holder.pid} on ") as refused, run_folder.locked(folder):
            pass
        assert refused.value.exit_code == 5 and "--output_dir" in str(refused.value)
        # The refused process must not have emptied the holder's name.
        with pytest.raises(OutputInUseError, match=f"process {holder.pid} on "), run_folder.locked(folder):
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    assert (folder / "LOCK").exists()
    with run_folder.locked(folder):
        assert (folder / "LOCK").read_text(encoding="utf-8").startswith(f"process {os.getpid()} on ")
    assert not (folder / "LOCK").exists()


def test_an_exception_frees_the_folder(tmp_path):
    with pytest.raises(ZeroDivisionError), run_folder.locked(tmp_path):
        raise ZeroDivisionError
    with run_folder.locked(tmp_path):
        pass


def test_a_missing_an_empty_and_an_earlier_tried_folder_are_taken(recipe):
    run_folder.check_can_hold(recipe, restart=False)
    recipe.output_dir.mkdir()
    (recipe.output_dir / "LOCK").touch()
    run_folder.check_can_hold(recipe, restart=False)
    (recipe.output_dir / "LOCK").unlink()
    recipe.output_dir.rmdir()
    tried(recipe)
    run_folder.check_can_hold(recipe, restart=False)


def test_foreign_files_are_refused_and_kept(recipe):
    recipe.output_dir.mkdir()
    (recipe.output_dir / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(InputError, match="contains files that are not a run"):
        run_folder.check_can_hold(recipe, restart=False)
    assert (recipe.output_dir / "thesis.tex").read_text(encoding="utf-8") == "years of work"


def test_restart_replaces_a_run_but_never_foreign_files(recipe):
    recipe.output_dir.mkdir()
    (recipe.output_dir / "thesis.tex").write_text("years of work", encoding="utf-8")
    for restart, message in ((False, "contains files that are not a run"), (True, "did not write this folder")):
        with pytest.raises(InputError, match=message):
            run_folder.check_can_hold(recipe, restart)
    (recipe.output_dir / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    with pytest.raises(InputError, match="did not write this folder"):
        run_folder.check_can_hold(recipe, restart=True)


def test_restart_leaves_foreign_files_in_a_run_and_runs_behind_links(recipe):
    folder = tried(recipe)
    (folder / "evaluation").mkdir()
    notes = folder / "evaluation" / "notes.txt"
    notes.write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="evaluation: radrecipes did not write this folder"):
        run_folder.check_can_hold(recipe, restart=True)
    owned_folder.mark(notes.parent, "evaluation")
    with pytest.raises(InputError, match=r"evaluation: contains 'notes.txt', which radrecipes did not write"):
        run_folder.check_can_hold(recipe, restart=True)
    notes.unlink()
    (folder / DIVERGED_FILE).touch()  # as every other file of a run
    run_folder.check_can_hold(recipe, restart=True)

    elsewhere = folder.with_name("elsewhere")
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)
    with pytest.raises(InputError, match="is a link"):
        run_folder.check_can_hold(recipe, restart=True)


def test_a_file_in_the_folders_place_is_refused(recipe):
    recipe.output_dir.write_text("x", encoding="utf-8")
    with pytest.raises(InputError, match="is a file"):
        run_folder.check_can_hold(recipe, restart=False)


def test_a_run_of_another_recipe_is_refused_unless_restarted(recipe):
    folder = tried(recipe)
    other = parse_recipe(RECIPE, ["--output_dir", str(folder), "--seed", "7"])
    run_folder.check_can_hold(other, restart=False)  # no checkpoint: nothing would be lost
    (folder / "checkpoints" / "checkpoint-2").mkdir(parents=True)
    with pytest.raises(InputError, match=r"seed: 42 there, 7 here.*--allow-change recipe"):
        run_folder.check_can_hold(other, restart=False)
    run_folder.check_can_hold(other, restart=True)


def test_start_empties_an_earlier_run_but_not_its_lock(recipe):
    folder = tried(recipe)
    (folder / "adapter").mkdir()
    (folder / "adapter" / "old.txt").touch()
    (folder / run_folder.COMPLETE).touch()
    with run_folder.locked(folder):
        run_folder.start(folder, recipe)
        assert sorted(entry.name for entry in folder.iterdir()) == [MARKER, "LOCK", "recipe.yaml"]
    assert parse_recipe(folder / "recipe.yaml").digest == recipe.digest
    assert not run_folder.is_complete(folder)


def test_a_folder_emptied_by_half_looks_neither_finished_nor_foreign(recipe, monkeypatch):
    folder = tried(recipe)
    (folder / "adapter").mkdir()
    (folder / run_folder.COMPLETE).touch()

    def killed(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(owned_folder.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        run_folder.start(folder, recipe)
    assert (folder / "adapter").exists() and not run_folder.is_complete(folder)
    run_folder.check_can_hold(recipe, restart=False)


def test_start_removes_a_link_and_not_what_it_leads_to_and_leaves_foreign_files(recipe, workspace):
    folder = tried(recipe)
    (folder / "adapter").symlink_to(workspace / "data")
    (folder / "notes.txt").touch()
    run_folder.start(folder, recipe)
    assert not (folder / "adapter").exists() and (workspace / "data" / "tiny").is_dir()
    assert (folder / "notes.txt").exists()


# Everything that is compared when a run is used
MANIFEST = {
    "recipe": {"digest": "r", "fields": {}, "resolved": {}},
    "base": {"weights_sha256": None, "model_id": "tiny/llama"},
    "data": {"digest": "d", "rows": {}, "label_set_sha256": None},
    "prompt": {"sha256": "p"},
    "adapter": {"sha256": "a", "text": "Größe"},
}


def test_complete_is_written_last(recipe, monkeypatch):
    folder = tried(recipe)
    with pytest.raises(TypeError):
        run_folder.finish(folder, {"mistake": object()}, folder / "unfinished" / "adapter")
    assert not run_folder.is_complete(folder)

    at_the_end = []
    touch = Path.touch
    monkeypatch.setattr(
        Path,
        "touch",
        lambda path: (at_the_end.append(json.loads((folder / "manifest.json").read_text())), touch(path)),
    )
    (folder / "unfinished" / "adapter").mkdir(parents=True)
    run_folder.finish(folder, MANIFEST, folder / "unfinished" / "adapter")
    assert at_the_end == [MANIFEST]
    assert run_folder.is_complete(folder) and run_folder.read_manifest(folder) == at_the_end[0]
    assert (folder / "adapter").is_dir() and not (folder / "unfinished" / "adapter").exists()


def test_an_unfinished_run_has_no_manifest_to_read(recipe):
    folder = tried(recipe)
    (folder / "manifest.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match=r"no finished run here .*scripts/sft.py"):
        run_folder.read_manifest(folder)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"1: not valid JSON .* restore it"),
        ("[]", " must contain one JSON object"),
        ("{}", " does not record recipe.digest"),
        (json.dumps(MANIFEST | {"prompt": "sha256"}), " does not record prompt.sha256"),
        (json.dumps(MANIFEST | {"recipe": {"digest": "r", "fields": {}}}), " does not record recipe.resolved"),
        (
            json.dumps(MANIFEST | {"adapter": {"tensors": 3}}),
            " does not record adapter.sha256, so the run cannot be verified",
        ),
    ],
)
def test_a_manifest_that_does_not_say_what_was_trained_is_refused(text, said, recipe):
    folder = tried(recipe)
    (folder / "COMPLETE").touch()
    (folder / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=f"manifest.json:{said}"):
        run_folder.weights_of(folder)


def test_train_log_is_read_in_order(recipe):
    assert run_folder.read_train_log(tried(recipe)) == [{"step": 1}, {"step": 2}]


def test_a_run_killed_before_its_recipe_was_written_is_not_a_foreign_folder(recipe):
    recipe.output_dir.mkdir()
    for name in ("LOCK", ".recipe.yaml"):
        (recipe.output_dir / name).touch()
    run_folder.check_can_hold(recipe, restart=False)


def identity_under(recipe, processes=1, engine=Engine.ONE_PROCESS):
    facts = {
        "recipe": {"resolved": recipe.resolved},
        "data": {"digest": "d"},
        "base": {"weights_sha256": "w", "dtype": "float32"},
        "prompt": {"sha256": "p"},
    }
    return identity_of(facts, LaunchSpec(processes, engine, True))


def resumable(recipe, steps=2, **launch):
    """The folder of an earlier run with a checkpoint after its last logged step, and what it was made of."""
    folder, identity = tried(recipe), identity_under(recipe, **launch)
    written = checkpoints.unfinished_folder(folder) / f"checkpoint-{steps}"
    written.mkdir(parents=True)
    checkpoints.seal(written, folder, identity, {})
    return folder, identity


def test_a_run_resumes_without_the_log_of_the_earlier_attempt(recipe):
    folder, identity = resumable(recipe)
    with (folder / "train_log.jsonl").open("a", encoding="utf-8") as stream:
        stream.write('{"step": 3}\n{"st')
    resumed = run_folder.find_resumption(folder, identity, ())
    assert resumed.step == 2 and not resumed.changed
    run_folder.start(folder, recipe, keep_checkpoints=True)
    assert checkpoints.find_last_valid(folder).step == 2 and not run_folder.read_train_log(folder)


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        (Engine.ZERO2, Engine.DDP, "engine: ZeRO-2 there, DDP here"),
        (Engine.ONE_PROCESS, Engine.FSDP2, "engine: DDP there, FSDP2 here"),
    ],
)
def test_a_checkpoint_of_another_engine_is_refused_whatever_is_allowed(before, now, words, recipe):
    """A ZeRO checkpoint under DDP would be read without its optimizer, and without a message."""
    folder, _ = resumable(recipe, processes=2, engine=before)
    with pytest.raises(InputError, match=words) as refused:
        run_folder.find_resumption(folder, identity_under(recipe, 2, now), PARTS)
    assert str(refused.value).endswith("set --output_dir, replace it with --restart")


@pytest.mark.parametrize("engine", Engine)
def test_who_may_resume_with_another_number_of_processes(engine, recipe):
    folder, _ = resumable(recipe, processes=2, engine=engine)
    now = identity_under(recipe, 4, engine)
    if engine in (Engine.FSDP1, Engine.ZERO2, Engine.ZERO3):
        with pytest.raises(InputError, match=r"processes: 2 there, 4 here\).*replace it with --restart$"):
            run_folder.find_resumption(folder, now, ["processes"])
    else:
        assert run_folder.find_resumption(folder, now, ["processes"]).changed == {"processes": [2, 4]}
        with pytest.raises(InputError, match=r"resume it from its checkpoint with --allow-change processes$"):
            run_folder.find_resumption(folder, now, [])


def test_one_process_and_ddp_read_each_other_s_checkpoints(recipe):
    folder, _ = resumable(recipe)
    now = identity_under(recipe, 2, Engine.DDP)
    assert run_folder.find_resumption(folder, now, ["processes"]).changed == {"processes": [1, 2]}


def test_leftovers_of_a_complete_run_are_removed_unless_another_process_does_it_already(recipe):
    folder, _ = resumable(recipe)
    (folder / run_folder.COMPLETE).touch()
    with run_folder.locked(folder):
        run_folder.remove_leftovers(folder)
        assert (folder / "checkpoints").exists()
    (folder / "LOCK").write_text("process 1 on nowhere\n", encoding="utf-8")
    run_folder.remove_leftovers(folder)
    assert sorted(path.name for path in folder.iterdir()) == [MARKER, "COMPLETE", "recipe.yaml", "train_log.jsonl"]


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ("runs/a", "runs/moved", None),
        (None, None, None),
        ("runs/a", None, "runs/a there"),
        (None, "runs/a", "runs/a here"),
    ],
)
def test_a_finished_run_started_from_weights_if_and_only_if_its_recipe_does(before, now, said, recipe, monkeypatch):
    identity = identity_under(recipe)
    manifest = {"data": {"digest": "d"}, "base": {"weights_sha256": "w"}, "prompt": {"sha256": "p"}}
    manifest["recipe"] = {"fields": {"start_from": before} if before else {}}
    manifest |= {"start": {"weights_sha256": "s"}} if before else {}
    monkeypatch.setattr(run_folder, "read_manifest", lambda folder: manifest)
    monkeypatch.setattr(run_folder, "weights_of", lambda folder: SimpleNamespace(sha256="a"))
    if said is None:
        run_folder.check_finished(tried(recipe), identity, now)
        return
    with pytest.raises(InputError, match=rf"contains a different run \(start_from: .*{said}"):
        run_folder.check_finished(tried(recipe), identity, now)
