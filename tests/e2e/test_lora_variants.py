"""Variants of LoRA that are a field of a recipe: trained, killed, resumed, evaluated, and predicting."""

import json
from functools import partial
from pathlib import Path

import pytest
from safetensors.torch import load_file
from sft_faults import Script, die, in_step, losses_of

from e2e.conftest import RECIPE, RUN

WEIGHTS = "adapter/adapter_model.safetensors"
# Two epochs of six steps, a checkpoint every five.
TRAIN = ("--config", RECIPE, "--num_train_epochs", "2", "--save_steps", "5")
VARIANTS = {
    "rsLoRA": ("--use_rslora", "true", "--learning_rate", "5e-3"),
    "DoRA": ("--use_dora", "true"),
    "LoRA+": ("--loraplus_lr_ratio", "4", "--learning_rate", "5e-3"),
}


@pytest.mark.parametrize(
    "variant", ["LoRA+", *(pytest.param(it, marks=pytest.mark.slow) for it in ("rsLoRA", "DoRA"))]
)
def test_a_variant_trains_resumes_evaluates_and_predicts(variant, workspace, call):
    words = (*TRAIN, *VARIANTS[variant])
    assert call("sft", *words, "--output_dir", "runs/whole").code == 0
    killed = Script(workspace, "scripts/sft.py", *words, fault=partial(in_step, 8, die)).end()
    assert killed.code != 0 and Path(RUN, "checkpoints/checkpoint-5").is_dir(), killed.stderr
    resumed = call("sft", *words)
    assert resumed.code == 0 and "resuming after step 5" in resumed.stdout, resumed.stderr
    assert losses_of(Path(RUN)) == losses_of(Path("runs/whole"))
    assert Path(RUN, WEIGHTS).read_bytes() == Path("runs/whole", WEIGHTS).read_bytes()

    evaluated = call("evaluate_model", "--run", RUN, "--skip-base")
    assert evaluated.code == 0, evaluated.stderr
    assert losses_of(Path(RUN))[-1] < losses_of(Path(RUN))[0]
    assert call("predict", "--adapter", RUN, "--note", "chronic knee pain, r/o meniscal tear").code == 0

    # It is the variant, and not plain LoRA
    plain = call("sft", *TRAIN, *VARIANTS[variant][2:], "--max_steps", "2", "--output_dir", "runs/plain")
    assert plain.code == 0, plain.stderr
    first = losses_of(Path("runs/plain"))
    assert losses_of(Path(RUN))[0] == pytest.approx(first[0], abs=1e-5)
    config = json.loads(Path(RUN, "adapter/adapter_config.json").read_text("utf-8"))
    assert (config["use_rslora"], config["use_dora"]) == (variant == "rsLoRA", variant == "DoRA")
    assert any("magnitude" in name for name in load_file(Path(RUN, WEIGHTS))) == (variant == "DoRA")
    if variant == "LoRA+":  # the B matrices, which are zero before the first step, decide the second loss
        assert losses_of(Path(RUN))[1] < first[1] - 1e-4
