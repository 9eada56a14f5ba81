"""8-bit and 4-bit bases, and a BioGPT, by the real commands: train, save, load back, write."""

import json
from pathlib import Path
from typing import NamedTuple

import pytest
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from conftest import TINY_REPORTS, slow_after
from sft_faults import losses_of, two_ranks
from tiny_model import build_tiny_biogpt, build_tiny_model

from radrecipes.inference.generation import generate
from radrecipes.models import base as models
from radrecipes.models.weights import weights_in
from radrecipes.recipe import parse_recipe
from radrecipes.tasks import TASKS
from radrecipes.tasks.rendering import render_prompts

RECIPE = "recipes/tiny/report_lora.yaml"
# Two blocks of 64 weights a row: 4-bit layers are quantised in blocks.
WIDTH = 128


class Base(NamedTuple):
    """A tiny base, and what its recipe must say."""

    model_id: str
    prompt_style: str
    targets: str
    adapted: int


LLAMA = Base("tiny/wide", "chat", "all-linear", 7)
BIOGPT = Base("tiny/biogpt", "plain", "[q_proj, v_proj]", 2)
LAYERS = {"load_in_8bit": Linear8bitLt, "load_in_4bit": Linear4bit}


@pytest.fixture
def bases(workspace):
    build_tiny_model(workspace / "models", LLAMA.model_id, hidden_size=WIDTH)
    build_tiny_biogpt(workspace / "models", BIOGPT.model_id, hidden_size=WIDTH, initializer_range=0.1)
    return workspace


def words_for(base, **fields):
    fields = {
        "model_name_or_path": base.model_id,
        "prompt_style": base.prompt_style,
        "lora_target_modules": base.targets,
        "dtype": "bfloat16",
        "output_dir": "runs/one",
    } | fields
    return ["--config", RECIPE, *(word for key, value in fields.items() for word in (f"--{key}", str(value)))]


def write(untuned=False):
    """What the finished run writes to every tiny request, its base model quantised and loaded again."""
    recipe = parse_recipe("runs/one/recipe.yaml")
    tokenizer = models.load_tokenizer(recipe.model)
    base = models.load_base(recipe.model)
    model = weights_in(Path("runs/one/adapter")).load(base, recipe.model)
    task, style = TASKS["report"], recipe.arguments.prompt_style
    inputs = [{task.input_column: observations} for observations, *_ in TINY_REPORTS]
    prompts = render_prompts(task, inputs, tokenizer, style)
    if untuned:
        model.disable_adapter_layers()
    written = generate(model, tokenizer, prompts, models.stop_token_ids(tokenizer), 40)
    return base, [answer.text for answer in written]


@pytest.mark.parametrize("quantisation", slow_after(1, reversed(LAYERS)))
@pytest.mark.parametrize("base", [LLAMA, pytest.param(BIOGPT, marks=pytest.mark.slow)], ids=lambda base: base.model_id)
def test_a_quantised_base_trains_saves_loads_and_writes(base, quantisation, bases, call):
    trained = call("sft", *words_for(base, num_train_epochs=6, **{quantisation: "true"}))
    assert trained.code == 0, trained.stderr
    assert "adapter checked and saved" in trained.stdout
    log = losses_of(Path("runs/one"))
    assert log[-1] < 0.8 * log[0]
    manifest = json.loads(Path("runs/one/manifest.json").read_text("utf-8"))
    assert manifest["adapter"]["tensors"] == 2 * 2 * base.adapted  # A and B of two layers
    assert manifest["adapter"]["output_change"] > 0
    assert not list(Path("runs/one/adapter").glob("*.bin"))

    loaded, texts = write()
    inside = [module for module in loaded.modules() if isinstance(module, LAYERS[quantisation])]
    assert len(inside) == 2 * (7 if base is LLAMA else 6)
    assert write()[1] == texts  # quantising again gives the same base
    assert write(untuned=True)[1] != texts

    answered = call("predict", "--adapter", "runs/one", "--text", TINY_REPORTS[0][0])
    assert answered.code == 0, answered.stderr
    assert "FINDINGS: " in answered.stdout  # by the template writer if the model has learned too little
    assert "MatMul8bitLt" not in answered.stderr


@pytest.mark.slow
@pytest.mark.parametrize("quantisation", LAYERS)
def test_a_quantised_base_trains_on_two_processes_as_on_one(quantisation, bases, call):
    words = words_for(LLAMA, **{quantisation: "true"})
    for process in two_ranks(bases, "scripts/sft.py", *words):
        assert process.end(300).code == 0, process.stderr
    of_two = losses_of(Path("runs/one"))
    assert json.loads(Path("runs/one/manifest.json").read_text("utf-8"))["training"]["processes"] == 2
    one = call("sft", *words, "--restart")
    assert one.code == 0, one.stderr
    assert of_two == pytest.approx(losses_of(Path("runs/one")), rel=0.01)  # bfloat16 has three digits


@pytest.mark.slow
def test_biogpt_learns_its_reports_and_when_to_stop(bases, call):
    """Unquantised and with every layer adapted, the tiny BioGPT learns the four reports by heart."""
    fields = {"dtype": "float32", "num_train_epochs": 50, "lora_r": 16, "lora_alpha": 32, "learning_rate": "3e-3"}
    words = words_for(BIOGPT._replace(targets="all-linear"), **fields)
    trained = call("sft", *words)
    assert trained.code == 0, trained.stderr
    assert "and </s> stops the model" in trained.stdout
    expected = [TASKS["report"].compose(findings, impression) for _, findings, impression in TINY_REPORTS]
    assert write()[1] == [report.replace("\n", " ") for report in expected]  # Moses keeps no line break
    answered = call("predict", "--adapter", "runs/one", "--text", TINY_REPORTS[0][0])
    assert answered.code == 0, answered.stderr
    assert answered.stdout.startswith("FINDINGS: There is edema. IMPRESSION: Edema.\n\ncheck: ok\n")
    assert "written by the model, attempt 1" in answered.stdout


def test_a_layer_that_the_base_lacks_is_named_before_training(bases, call):
    """PEFT alone would adapt `q_proj` and say nothing of the other."""
    refused = call("sft", *words_for(BIOGPT._replace(targets="[q_proj, o_proj]")))
    assert refused.code == 2
    error = refused.stderr.strip().splitlines()[-1]
    assert error.startswith(f"error: {RECIPE}: lora_target_modules: tiny/biogpt has no layer o_proj; it has ")
    assert "out_proj" in error


def test_a_list_of_one_layer_adapts_it(bases, call):
    assert call("sft", *words_for(BIOGPT._replace(targets="[out_proj]"))).code == 0
    assert json.loads(Path("runs/one/manifest.json").read_text("utf-8"))["adapter"]["tensors"] == 2 * 2
