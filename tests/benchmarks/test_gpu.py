"""The benchmark that no machine without a GPU can run is rehearsed: every phase, every row, and every way to fail."""

import faulthandler
import json
import os
import sys
import time

import pytest
import torch
from conftest import REPOSITORY

from radrecipes.errors import InputError

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

import gpu
import gpu_measuring
from gpu_sizes import REHEARSAL

TRAINED = {"notes_per_second", "epoch_minutes", "epoch_is", "losses", "tokens_per_second", "computed_tokens_a_note"}
OURS = TRAINED | {"model_tflops", "utilisation", "utilisation_of_computed", "peak_memory_gib"}
LAYOUT = {"notes_per_second", "loss", "utilisation", "peak_memory_gib", "collating_ms"}
# Every row of a rehearsal, with values that it must have.
ROWS = {
    "versions": set(),
    "copy": {"bytes_per_second"},
    "products_64": {"tflops"},
    "benchmark/meditron-7b-shape": {"parameters"},
    "benchmark/biogpt-large-shape": {"parameters"},
    "benchmark/smollm2-shape": {"parameters"},
    "tokenise": {"notes_per_second", "mean_tokens"},
    "lora": OURS,
    "lora_trl": TRAINED,
    "qlora": OURS,
    "qlora_trl": TRAINED,
    "layout_widened": LAYOUT,
    "layout_shared": LAYOUT,
    "layout_padded": LAYOUT,
    "layout_shared_512": LAYOUT,
    "layout_varlen": LAYOUT,
    "batch_4": LAYOUT,
    "batch_8": LAYOUT,
    "score_8": {"notes_per_second"},
    "generate_8": {"notes_per_second", "written_tokens_per_second"},
    "smollm2_training": {"samples_per_second"},
    "smollm2_scoring": {"notes_per_second", "exact_accuracy", "macro_f1"},
    "biogpt_8bit": OURS,
    "lora_planned": {"planned_memory_gib", "planned_seconds_a_step"},
    "qlora_planned": {"planned_memory_gib", "planned_seconds_a_step"},
    "goal_lora_epoch": {"verdict"},
    "goal_lora_ratio": {"verdict", "ratio"},
    "goal_qlora_epoch": {"verdict"},
    "goal_qlora_ratio": {"verdict", "ratio"},
    "goal_utilisation": {"verdict"},
    "goal_smollm2": {"verdict"},
}


@pytest.fixture
def in_repository(monkeypatch):
    """The environment as it was, after a main() that sets some of it."""
    monkeypatch.chdir(REPOSITORY)
    for name in ("CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))


@pytest.mark.slow
def test_a_rehearsal_writes_every_row_and_none_that_failed(in_repository, tmp_path, monkeypatch, capsys):
    output = tmp_path / "rehearsal.json"
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--rehearse", "--output", str(output)])
    gpu.main()

    whole = json.loads(output.read_text(encoding="utf-8"))
    rows = {row["name"]: row for row in whole["rows"]}
    assert whole["rehearsal"] and whole["versions"]["torch"] and whole["hardware"]["cores"]
    broken = {
        name: row for name, row in rows.items() if row.keys() & {"failed", "refused", "out_of_memory", "left_out"}
    }
    assert not broken
    assert list(rows) == list(ROWS)
    for name, keys in ROWS.items():
        assert keys <= rows[name].keys(), name
    # Where adapters are still zero, every layout and either trainer computes the same loss
    losses = [row["loss"] for name, row in rows.items() if name.startswith("layout_")]
    assert max(losses) - min(losses) < 0.01 * min(losses)
    for method in ("lora", "qlora"):
        assert rows[method]["losses"][0] == pytest.approx(rows[f"{method}_trl"]["losses"][0], rel=0.005)
        assert rows[f"goal_{method}_ratio"]["equal_loss"] is True
    assert rows["smollm2_scoring"]["macro_f1"]["inside"] is False and rows["goal_smollm2"]["verdict"] == "fail"
    assert rows["goal_utilisation"]["verdict"] == "not measured"
    assert "meaningless" in capsys.readouterr().out


def hangs(rows, scratch, size):
    rows.add("before", "written before it hangs", figure=1)
    time.sleep(60)


def dies(rows, scratch, size):
    rows.add("before", "written before it dies", figure=1)
    faulthandler.disable()  # pytest's would print all frames
    os.abort()


def raises(rows, scratch, size):
    with rows.attempt("one", "memory that runs out") as found:
        found["figure"] = 1
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore words")
    with rows.attempt("two", "an input that is refused"):
        raise InputError("two labels have the same tokens")
    with rows.attempt("three", "a kernel that is not there"):
        raise RuntimeError("no kernel image is available")
    raise KeyError("a fault of the phase itself")


@pytest.mark.parametrize(
    ("phase", "limit", "how"), [(hangs, 6.0, "killed after 6 s"), (dies, 30.0, "ended by signal 6")]
)
@pytest.mark.slow
def test_a_phase_that_is_cut_off_keeps_its_rows_and_says_how_it_ended(phase, limit, how, tmp_path):
    rows = gpu.run_phase(phase, tmp_path, REHEARSAL, limit)

    assert [row["name"] for row in rows] == ["before", f"{phase.__name__}_unfinished"]
    assert rows[0]["figure"] == 1
    assert how in rows[1]["failed"]


def test_what_goes_wrong_within_a_phase_is_a_row_and_the_next_measurement_is_made(tmp_path):
    rows = gpu.run_phase(raises, tmp_path, REHEARSAL, 30.0)

    assert [row["name"] for row in rows] == ["one", "two", "three", "raises_unfinished"]
    assert rows[0]["out_of_memory"] is True and rows[0]["figure"] == 1 and "2 GiB" in rows[0]["said"]
    assert rows[1]["refused"] == "two labels have the same tokens"
    assert rows[2]["failed"] == "RuntimeError: no kernel image is available" and rows[2]["at"].startswith(
        "test_gpu.py:"
    )
    assert "a fault of the phase itself" in rows[3]["failed"]


def test_a_phase_for_which_no_time_is_left_is_a_row(tmp_path):
    (row,) = gpu.run_phase(raises, tmp_path, REHEARSAL, 2.0)
    assert row["name"] == "raises_unfinished" and "left_out" in row


def test_goals_are_judged_from_rows_and_what_lacks_is_not_measured():
    rows = [
        {
            "name": "lora",
            "notes_per_second": 150.0,
            "epoch_minutes": 3.3,
            "utilisation": 0.39,
            "losses": [10.0, 6.0, 4.0],
        },
        {"name": "lora_trl", "notes_per_second": 90.0, "losses": [10.0, 6.1]},
        {"name": "qlora", "notes_per_second": 40.0, "epoch_minutes": 12.5, "losses": [10.0, 6.0]},
        {"name": "qlora_trl", "out_of_memory": True},
    ]
    verdicts = {row["name"]: row["verdict"] for row in gpu.goals(rows)}
    assert verdicts == {
        "goal_lora_epoch": "pass",
        "goal_lora_ratio": "pass",
        "goal_qlora_epoch": "fail",
        "goal_qlora_ratio": "not measured",
        "goal_utilisation": "fail",
        "goal_smollm2": "not measured",
    }
    halved = {"name": "qlora_trl_halved", "notes_per_second": 30.0, "losses": [10.0, 6.0]}
    (ratio,) = [row for row in gpu.goals([*rows, halved]) if row["name"] == "goal_qlora_ratio"]
    assert ratio["ratio"] == 1.33 and ratio["verdict"] == "fail"
    rows[1]["losses"] = [10.0, 7.0]  # faster, but another loss
    assert {row["name"]: row["verdict"] for row in gpu.goals(rows)}["goal_lora_ratio"] == "fail"


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA Tesla T4", None),
    ],
)
def test_a_gpu_is_known_by_what_pytorch_calls_it(device, name):
    assert gpu_measuring.known_as(device) == name


def test_flops_of_a_note_are_those_that_pytorch_counts():
    """Frozen linear layers with adapters, one row, causal attention: forward and backward by PyTorch's own counter."""
    from peft import LoraConfig, get_peft_model
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = {**REHEARSAL.shapes["benchmark/meditron-7b-shape"], "num_hidden_layers": 3}
    base = AutoModelForCausalLM.from_config(AutoConfig.for_model(**shape), attn_implementation="eager")
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear"))
    tokens, counter = 48, FlopCounterMode(display=False)
    embedded = torch.randn(
        1, tokens, shape["hidden_size"], requires_grad=True
    )  # so that each layer passes a gradient back
    head = model.get_output_embeddings()
    with counter:
        model(inputs_embeds=embedded).logits.sum().backward()
    of_head = 4 * tokens * head.in_features * head.out_features
    # Eager attention computes the masked half as well: 12 a width and token pair, where causal attention needs 6
    masked_half = 6 * shape["num_hidden_layers"] * shape["hidden_size"] * tokens**2
    assert counter.get_total_flops() - of_head - masked_half == gpu_measuring.flops_of_note(model, tokens)
