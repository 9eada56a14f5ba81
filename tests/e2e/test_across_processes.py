"""Several processes do what one does: the same steps in training, the same files from evaluation."""

import json
import re
import shutil
import signal
from functools import partial
from pathlib import Path

import pytest
from conftest import write_tiny_dataset
from safetensors.torch import load_file
from sft_faults import Script, before, die, losses_of, set_value, two_ranks
from sharded_runs import as_on_gpus, environment_of
from tiny_model import build_tiny_model

from e2e.conftest import RECIPE, adapter_hash, files_in
from radrecipes.training import run_folder

pytestmark = pytest.mark.slow

REPORT_RECIPE = "recipes/tiny/report_lora.yaml"
# 38 rows: the third step of an epoch has six of the sixteen. No dropout: its draws depend on a batch's shape.
ROWS = 50
TRAIN = ("scripts/sft.py", "--config", RECIPE, "--global_batch_size", "16", "--num_train_epochs", "2")


def train(workspace, processes, batch, layout, folder, *more, code=0):
    """Losses of all steps, and the adapter."""
    words = (*TRAIN, "--per_device_train_batch_size", batch, "--batch_layout", layout, "--output_dir", folder, *more)
    scripts = two_ranks(workspace, *words) if processes == 2 else [Script(workspace, *words)]
    for script in scripts:
        assert script.end(120).code == code, script.stderr
    if code:
        return None
    return losses_of(Path(folder)), load_file(Path(folder, "adapter/adapter_model.safetensors"))


@pytest.mark.parametrize("layout", ["shared_prefix", "padded"])
def test_a_global_batch_gives_the_same_steps_however_it_is_divided(workspace, layout):
    shutil.rmtree("data/tiny")
    write_tiny_dataset(workspace / "data" / "tiny", rows=ROWS)
    losses, adapter = train(workspace, 1, 16, layout, "runs/1x16")
    assert len(losses) == 6
    for batch, folder in ((8, "runs/2x8"), (4, "runs/2x4x2")):
        other_losses, other_adapter = train(workspace, 2, batch, layout, folder)
        # Sums in another order: measured 5e-7 and 2e-7. Repeated rows at an epoch's end make 1e-3 and 5e-2 of it.
        assert other_losses == pytest.approx(losses, rel=0, abs=1e-5), folder
        for name, tensor in adapter.items():
            assert (other_adapter[name] - tensor).abs().max() < 1e-5, (folder, name)
    if layout == "shared_prefix":
        # In the middle of an epoch, and resumed: the order of its rows continues where it was.
        train(workspace, 2, 4, layout, "runs/resumed", "--stop-after", "4", code=75)
        train(workspace, 2, 4, layout, "runs/resumed")
        assert adapter_hash(Path("runs/resumed")) == adapter_hash(Path("runs/2x4x2"))


def test_the_first_process_chooses_the_dtype_of_all_and_the_finished_run_keeps_it(workspace, monkeypatch):
    words = (*TRAIN, "--max_steps", "2", "--output_dir")
    faster = "radrecipes.models.compute_dtype", "measured_rates"
    faults = {
        rank: partial(set_value, *faster, partial(dict, float32=1e9, bfloat16=bfloat16))
        for rank, bfloat16 in ((0, 1e8), (1, 1e10))
    }
    for scripts in (
        two_ranks(workspace, *words, "runs/auto", "--dtype", "auto", faults=faults),
        two_ranks(workspace, *words, "runs/stated", "--dtype", "float32"),
    ):
        assert [script.end(120).code for script in scripts] == [0, 0], scripts[0].stderr
    assert losses_of(Path("runs/auto")) == losses_of(Path("runs/stated"))
    assert adapter_hash(Path("runs/auto")) == adapter_hash(Path("runs/stated"))
    monkeypatch.setattr(".".join(faster), partial(dict, float32=1e9, bfloat16=1e10))
    assert run_folder.run_of("runs/auto")[1].model.dtype == "float32"


@pytest.mark.parametrize("configuration", ["cpu_2proc", "fsdp2"])
def test_a_base_that_counts_positions_across_a_row_is_refused_by_all_processes(workspace, configuration):
    build_tiny_model(Path("models"), "tiny/mpt", "mpt", n_heads=4, d_model=32, n_layers=2, initializer_range=0.3)
    sharded = configuration == "fsdp2"
    faults = dict.fromkeys((0, 1), as_on_gpus) if sharded else {}
    environment = environment_of(configuration) if sharded else None
    words = (
        *TRAIN,
        "--model_name_or_path",
        "tiny/mpt",
        "--per_device_train_batch_size",
        "8",
        "--output_dir",
        "runs/mpt",
    )
    for script in two_ranks(workspace, *words, faults=faults, environment=environment):
        assert script.end(120).code == 2, script.stderr
        assert "differs from that in a padded batch" in script.stderr
    # Sharded weights are there only when training begins, after the first files were written.
    assert Path("runs/mpt").exists() == sharded


@pytest.fixture(scope="module")
def trained(shared_workspace, tmp_path_factory):
    """A workspace with a short run of each task."""
    workspace = tmp_path_factory.mktemp("trained") / "workspace"
    shutil.copytree(shared_workspace, workspace, symlinks=True)
    for recipe, epochs in ((RECIPE, 2), (REPORT_RECIPE, 3)):
        script = Script(workspace, "scripts/sft.py", "--config", recipe, "--num_train_epochs", str(epochs))
        assert script.end(120).code == 0, script.stderr
    return workspace


def untimed(text):
    """What the terminal or a page says, but for measured times and what follows from them."""
    text = text.decode("utf-8") if isinstance(text, bytes) else text
    # Two processes have twice the threads, which only the model uses.
    text = re.sub(r"Training and answers were timed on .*\.\n", "", text)
    left_out = 'class="recommended"', "timed on "
    lines = (
        line for line in text.splitlines() if not line.startswith("Use ") and not any(w in line for w in left_out)
    )
    timed = r'\d[\d,.]* (s|min) +[\d,.]+$|<td class="number cost">.*</td>|–  +[\d,.]+$'
    return "\n".join(re.sub(timed, "", line) for line in lines)


@pytest.mark.parametrize("task", ["protocol", "report"])
def test_two_processes_write_the_evaluation_that_one_writes(trained, task):
    # Three rows a batch, so that the processes have several each, and not as many; the guard writes again what is wrong.
    words = ("scripts/evaluate_model.py", "--run", f"runs/tiny/{task}_lora/seed-42", "--batch-size", "3", "--output")
    one = Script(trained, *words, f"{task}-one").end(120)
    assert one.code == 0, one.stderr
    first, second = (script.end(120) for script in two_ranks(trained, *words, f"{task}-two"))
    assert first.code == second.code == 0, first.stderr + second.stderr
    assert untimed(first.stdout) == untimed(one.stdout).replace(f"{task}-one", f"{task}-two") and not second.stdout
    assert "row/s" in first.stderr and "row/s" not in second.stderr
    expected, found = files_in(trained / f"{task}-one"), files_in(trained / f"{task}-two")
    assert found.keys() == expected.keys() and "metrics.json" in found
    metrics, metrics_of_two = (json.loads(files["metrics.json"]) for files in (expected, found))
    for measured in (metrics, metrics_of_two):
        measured.pop("recommendation", None)  # may depend on the speeds
        for system in filter(None, measured["systems"].values()):
            system.pop("cost", None)
    assert metrics == metrics_of_two
    for name in expected.keys() - {"metrics.json"}:
        same = untimed if name.endswith(".html") else bytes
        assert same(found[name]) == same(expected[name]), name
    if task == "report":
        assert metrics["systems"]["adapter_guarded"]["guard"]["first_try"] < metrics["rows"], "nothing to write again"


def test_a_process_that_dies_ends_the_evaluation_with_an_error(trained):
    words = ("scripts/evaluate_model.py", "--run", "runs/tiny/protocol_lora/seed-42", "--batch-size", "3")
    dies = partial(before, "radrecipes.inference.label_scoring", "LabelScorer._score_batch", die, 3)
    first, second = two_ranks(trained, *words, "--output", "never", faults={1: dies})
    assert second.end(120).code == -signal.SIGKILL
    assert first.end(60).code == 1
    assert first.stderr.splitlines()[-1].startswith("error: another process of this job ended or hangs")
    assert not list(trained.glob("never*"))


@pytest.mark.parametrize("script", ["evaluate_model", "predict"])
def test_where_the_base_would_be_shared_out_nothing_is_answered(script, trained):
    """Transformers gives the second process of FSDP a base without weights; it would answer with them."""
    engine = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}
    run, environment = "runs/tiny/protocol_lora/seed-42", {"ACCELERATE_USE_CPU": "true", **engine}
    words = (
        ("--run", run, "--output", "never")
        if script == "evaluate_model"
        else ("--adapter", run, "--text", "r/o bleed")
    )
    for process in two_ranks(trained, f"scripts/{script}.py", *words, environment=environment):
        assert process.end(60).code == 2, process.stdout + process.stderr
        assert "(FSDP2)" in process.stderr and process.stderr.rstrip().endswith("use ddp.yaml")
    assert not list(trained.glob("never*"))
