"""The plan's arithmetic against the real tiny model: parameters, tokens, kept tensors and products."""

import math

import bitsandbytes
import pytest
import torch
from conftest import TINY_REPORT_RECIPE
from peft import get_peft_model
from tiny_model import build_tiny_biogpt, build_tiny_model
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from radrecipes.errors import InputError
from radrecipes.models import base as models
from radrecipes.models.lm_head import at_positions, lm_head_input
from radrecipes.models.weights import lora_config
from radrecipes.planning import counting
from radrecipes.planning.basis import Basis, load_basis
from radrecipes.planning.machine_plan import assumptions, describe, make_plan
from radrecipes.recipe import parse_recipe
from radrecipes.training import data as inspection
from radrecipes.training import trainer as training
from radrecipes.training.collators import PaddedCollator, SharedPrefixCollator
from radrecipes.training.construction import build_on_meta
from radrecipes.training.grpo_trainer import grpo_trainer

RECIPE = "recipes/tiny/protocol_lora.yaml"


@pytest.fixture
def recipe(workspace):
    recipe = parse_recipe(RECIPE)
    training.divide_batch(recipe, processes=1)
    return recipe


@pytest.fixture
def data(recipe):
    return inspection.load_training_data(recipe)


def plan_of(recipe, data):
    basis = Basis(data.rows.rows, data.tokenizer, models.load_config(recipe.model))
    return make_plan(recipe, basis, measure_seconds=0.01)


def real_model(recipe):
    base = models.load_base(recipe.model, training.longest_row(recipe))
    return get_peft_model(base, lora_config(recipe.model)).train()


def test_plan_counts_what_training_will_do(recipe, data):
    plan = plan_of(recipe, data)
    model = real_model(recipe)
    assert (plan.trainable_parameters, plan.total_parameters) == model.get_nb_trainable_parameters()
    assert (plan.rows, plan.steps, plan.epochs) == (48, 6, 1)
    assert plan.tokens == data.rows.tokens
    assert plan.computed_tokens < plan.tokens < plan.padded_tokens
    frozen = sum(weight.nbytes for weight in model.parameters() if not weight.requires_grad)
    assert plan.weights_bytes == frozen
    assert plan.adapter_bytes == 16 * plan.trainable_parameters
    parts = plan.weights_bytes + plan.adapter_bytes + plan.activation_bytes + plan.framework_bytes
    assert plan.memory_bytes == parts
    assert plan.seconds == pytest.approx(plan.steps * plan.seconds_per_step)
    assert plan.flops_per_second > 0


@pytest.mark.parametrize(("override", "steps"), [("--num_train_epochs=2.5", 15), ("--max_steps=4", 4)])
def test_steps_are_those_of_the_trainer(workspace, override, steps):
    recipe = parse_recipe(RECIPE, [override, "--output_dir=runs/steps", "--disable_tqdm=true"])
    training.divide_batch(recipe, processes=1)
    data = inspection.load_training_data(recipe)
    plan = plan_of(recipe, data)
    base = models.load_base(recipe.model, training.longest_row(recipe))
    trainer = training.sft_trainer(recipe, base, data.tokenizer, data.rows.rows)
    assert plan.steps == trainer.train().global_step == steps


@pytest.mark.parametrize("layout", ["shared_prefix", "padded"])
def test_counted_step_is_the_real_step(recipe, data, layout):
    """Products and living tensors, counted on fake tensors, are those of a real forward and backward pass."""
    examples = data.rows.rows.to_list()[:8]
    recipe.arguments.batch_layout, shared = layout, layout == "shared_prefix"
    collator = SharedPrefixCollator(0, torch.float32) if shared else PaddedCollator(0)
    batch = collator(examples)
    labels = batch.pop("labels")
    scored = torch.nn.functional.pad(labels[:, 1:] != -100, (0, 1))
    model, targets = real_model(recipe), labels[labels != -100]
    counter, living = FlopCounterMode(display=False), counting.LivingBytes()
    living.ignore(model.parameters(), model.buffers(), batch.values(), [labels, targets, scored])
    scored_only = lm_head_input(model, at_positions(training.scored_positions(scored)))
    with counter, living, scored_only:
        logits = model(**batch, use_cache=False).logits
        torch.nn.functional.cross_entropy(logits[: len(targets)], targets).backward()

    meta = build_on_meta(recipe, models.load_config(recipe.model), torch.float32, "eager")
    shape = batch["input_ids"].shape
    counted = counting.count_step(recipe, meta, torch.float32, *shape, len(targets))
    assert counted.flops == counter.get_total_flops()
    assert counted.peak_bytes == pytest.approx(living.peak, rel=0.03)


def test_living_bytes_are_those_of_storages_not_of_views():
    with counting.LivingBytes() as living:
        first = torch.zeros(1000)
        view, second = first[:10], torch.zeros(500)
        assert living.now == living.peak == 6000
        del first, second
        assert (living.now, living.peak) == (4000, 6000)  # the view keeps its storage
        del view
        third = torch.zeros(1250)
    assert (living.now, living.peak) == (5000, 6000)
    assert len(third) == 1250


def test_an_adapter_on_a_quantised_base_takes_half(recipe, data):
    """TRL casts it to bfloat16, and AdamW's moments follow."""
    model = build_on_meta(recipe, models.load_config(recipe.model), torch.float32, "eager")
    assert counting.count_sizes(recipe, model).bytes_per_trained == (4, 4, 8)
    for field in ("load_in_4bit", "load_in_8bit"):
        setattr(recipe.model, field, True)
        plan = plan_of(recipe, data)
        assert plan.adapter_bytes == 8 * plan.trainable_parameters
        setattr(recipe.model, field, False)


def test_padded_tokens_are_those_of_the_collator(data):
    layout = counting.lay_out(data.rows.rows, PaddedCollator(0), batch_size=8, seed=3)
    assert counting.count_padded_tokens(data.rows.rows, batch_size=8, seed=3) == layout.tokens
    assert sum(rows for rows, _, _ in layout.batches) == 48
    assert sum(scored for _, _, scored in layout.batches) == data.rows.scored_tokens
    assert math.prod(layout.largest[:2]) == max(rows * length for rows, length, _ in layout.batches)


@pytest.mark.parametrize(
    ("words", "module"),
    [
        (["--load_in_8bit=true"], bitsandbytes.nn.Linear8bitLt),
        (["--load_in_4bit=true", "--bnb_4bit_quant_type=nf4"], bitsandbytes.nn.Linear4bit),
        (["--load_in_4bit=true", "--use_bnb_nested_quant=true"], bitsandbytes.nn.Linear4bit),
    ],
)
def test_quantised_bytes_are_those_of_bitsandbytes(words, module, workspace):
    build_tiny_model(workspace / "models", "tiny/llama", hidden_size=64)
    recipe = parse_recipe(RECIPE, ["--dtype=bfloat16", *words])
    model = build_on_meta(recipe, models.load_config(recipe.model), torch.bfloat16, "eager")
    sizes = counting.count_sizes(recipe, model)
    real = models.load_base(recipe.model)
    layers = [layer for layer in real.modules() if isinstance(layer, module)]
    assert len(layers) == 2 * 7
    assert sizes.packed == sum(layer.weight.nbytes for layer in layers)
    assert sizes.constants == sum(map(_constants_of, layers))
    others = [weight for weight in real.parameters() if weight.dtype.is_floating_point]
    assert sizes.plain == sum(2 * weight.numel() for weight in others)


def _constants_of(layer) -> int:
    if isinstance(layer, bitsandbytes.nn.Linear8bitLt):
        return layer.weight.SCB.nbytes
    state = layer.weight.quant_state
    tensors = [state.absmax, state.code]
    if state.nested:
        tensors += [state.offset, state.state2.absmax, state.state2.code]
    return sum(tensor.nbytes for tensor in tensors)


@pytest.mark.parametrize("words", [[], ["--load_in_8bit=true"], ["--load_in_4bit=true"]])
def test_biogpt_is_planned_from_its_configuration_alone(words, workspace):
    """Learned positions, LayerNorm with bias, an embedding padded by two: another model than Llama in every count."""
    folder = build_tiny_biogpt(workspace / "models", "tiny/biogpt", hidden_size=128)
    base = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    fields = ["--model_name_or_path=tiny/biogpt", "--prompt_style=plain", "--lora_target_modules=[q_proj, v_proj]"]
    recipe = parse_recipe(RECIPE, [*fields, "--dtype=bfloat16", *words])
    training.divide_batch(recipe, processes=1)
    data = inspection.load_training_data(recipe)
    plan = plan_of(recipe, data)
    assert plan.trainable_parameters == 2 * 2 * 2 * 128 * 4  # two layers, two targets, A and B of rank 4
    assert plan.total_parameters == base.num_parameters() + plan.trainable_parameters
    quantised = 2 * (4 * 128 * 128 + 2 * 128 * 256)
    width = torch.bfloat16.itemsize
    bytes_each = {"8": 1, "4": 4.5 / 8}.get(words[0][10] if words else "", width)
    others = (base.num_parameters() - quantised) * width
    assert plan.weights_bytes == pytest.approx(quantised * bytes_each + others, rel=0.02)
    assert plan.tokens == data.rows.tokens and plan.steps == 6 and plan.seconds > 0


def test_a_plan_without_configuration_or_layer_is_one_line(workspace):
    with pytest.raises(InputError, match=r"cannot load tiny/none .*copy it to models/tiny/none/"):
        inspection.load_training_data(parse_recipe(RECIPE, ["--model_name_or_path=tiny/none"]))
    recipe = parse_recipe(RECIPE, ["--lora_target_modules=[q_proj, out_proj]"])
    with pytest.raises(InputError, match=r"tiny/llama has no layer out_proj; it has .*o_proj"):
        build_on_meta(recipe, models.load_config(recipe.model), torch.float32, "eager")


@pytest.mark.parametrize("name", ["_proj", "q_pro", "layers.7.self_attn.q_proj", "self_attn", "embed_tokens", "norm"])
def test_a_name_that_fits_no_linear_layer_is_refused(name, workspace):
    """PEFT takes part of them for a layer that is not there, and fails at the others."""
    recipe = parse_recipe(RECIPE, [f"--lora_target_modules=[v_proj, {name}]"])
    with pytest.raises(
        InputError, match=rf"^recipes/.*: tiny/llama has no .*layer .*{name}; it has down_proj, .*v_proj$"
    ):
        build_on_meta(recipe, models.load_config(recipe.model), torch.float32, "eager")


def test_layers_by_default_are_those_of_peft_or_refused(workspace):
    text = (workspace / RECIPE).read_text("utf-8").replace("lora_target_modules: all-linear\n", "")
    (workspace / RECIPE).write_text(text, encoding="utf-8")
    recipe = parse_recipe(RECIPE)
    config = models.load_config(recipe.model)
    adapted = build_on_meta(recipe, config, torch.float32, "eager").peft_config["default"].target_modules
    assert adapted == {"q_proj", "v_proj"}
    build_tiny_model(workspace / "models", "tiny/new", "smollm3")
    for words in (["--model_name_or_path=tiny/new"], ["--lora_target_modules=[]"]):
        recipe = parse_recipe(RECIPE, words)
        with pytest.raises(InputError, match="has no layer that PEFT adapts by default; it has down_proj, "):
            build_on_meta(recipe, models.load_config(recipe.model), torch.float32, "eager")


def test_checkpointing_trades_memory_for_products(recipe, data):
    plain = plan_of(recipe, data)
    recipe.training.activation_checkpointing = True
    checkpointed = plan_of(recipe, data)
    assert checkpointed.activation_bytes < plain.activation_bytes
    assert checkpointed.flops_per_step > plain.flops_per_step


def test_assumptions_name_what_was_measured(recipe, data):
    plan = plan_of(recipe, data)
    lines = assumptions(plan)
    assert f"{plan.flops_per_second / 1e9:,.0f} GFLOP/s in float32" in lines[0]
    assert all("\n" not in line for line in lines)


def test_private_parts_of_torch_behave_as_used():
    with FakeTensorMode():
        assert torch.empty(10**12).shape == (10**12,)
    assert tree_leaves([{"a": 1}, (2, [3])]) == [1, 2, 3]
    assert callable(TorchDispatchMode.__torch_dispatch__)
    tensor, other = torch.zeros(4), torch.zeros(4)
    assert tensor[:2].untyped_storage()._cdata == tensor.untyped_storage()._cdata != other.untyped_storage()._cdata


def test_a_head_is_counted_with_its_labels(workspace):
    recipe = parse_recipe("recipes/tiny/protocol_head.yaml")
    training.divide_batch(recipe, processes=1)
    basis = load_basis(recipe)
    plan = make_plan(recipe, basis, measure_seconds=0.01)
    base = models.load_base(recipe.model, labels=inspection.load_training_data(recipe).labels)
    assert (
        plan.trainable_parameters == get_peft_model(base, lora_config(recipe.model)).get_nb_trainable_parameters()[0]
    )
    writes = parse_recipe(RECIPE)
    training.divide_batch(writes, processes=1)
    assert 0 < plan.flops_per_step < make_plan(writes, load_basis(writes), measure_seconds=0.01).flops_per_step


def test_grpo_is_planned_with_all_texts_of_a_prompt_padded_and_without_an_incomplete_step(workspace):
    path = workspace / "recipes/tiny/report_grpo.yaml"
    fields = "stage: grpo\nstart_from: recipes/tiny/report_lora.yaml\nnum_generations: 4\n"
    path.write_text(TINY_REPORT_RECIPE.replace("report_lora", "report_grpo") + fields, encoding="utf-8")
    words = ["--global_batch_size=40", "--per_device_train_batch_size=8", "--num_train_epochs=3"]
    recipe = parse_recipe(path, [*words, "--output_dir=runs/steps"])
    training.divide_batch(recipe, processes=1)
    data = inspection.load_training_data(recipe)
    plan = plan_of(recipe, data)
    trainer = grpo_trainer(recipe, models.load_base(recipe.model), data, write=None)
    micro_batches = len(trainer.get_train_dataloader())
    assert plan.steps_per_epoch == micro_batches // recipe.training.gradient_accumulation_steps == 4  # of 48 prompts
    assert plan.steps == 12
    assert plan.computed_tokens == plan.padded_tokens >= 4 * plan.tokens
    assert "steps        12 of 40 texts, 3 epochs" in describe(plan, recipe)
    assert any(line.startswith("             padded, ") for line in describe(plan, recipe))
