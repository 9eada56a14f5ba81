"""The recipe parser: what it refuses, with which line, and what reaches TRL's own configuration objects."""

import dataclasses
import os
from pathlib import Path

import pytest
import torch
import yaml
from conftest import REPOSITORY
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.trainer_utils import SaveStrategy
from trl import ModelConfig, SFTConfig, TrlParser

from radrecipes import recipe as recipe_module
from radrecipes.errors import InputError
from radrecipes.recipe import RecipeArguments, find_recipes, header, parse_recipe, summarise_recipe
from radrecipes.stage_configs import GrpoConfig

SHIPPED = REPOSITORY / "recipes" / "smollm2-135m" / "protocol_lora.yaml"
BASE = """\
task: protocol
dataset: data/tiny
model_name_or_path: tiny/llama
use_peft: true
lora_r: 4
"""


@pytest.fixture
def write(tmp_path):
    def write_text(text):
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write_text


def refusal(path, *overrides):
    """The one line that a refused recipe gets."""
    with pytest.raises(InputError) as caught:
        parse_recipe(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


# What would change results without a trace, send something to a server, or run foreign code.
NEVER = """
env trust_remote_code hub_token push_to_hub hub_model_id hub_strategy hub_always_push hub_revision hub_private_repo
gradient_accumulation_steps gradient_checkpointing gradient_checkpointing_kwargs use_cpu auto_find_batch_size bf16 fp16
packing packing_strategy eval_packing padding_free assistant_only_loss dataset_text_field dataset_kwargs formatting_func
model_init_kwargs label_names remove_unused_columns use_liger_kernel pad_token
resume_from_checkpoint ignore_data_skip restore_callback_states_from_checkpoint enable_jit_checkpoint save_only_model
save_on_each_node save_total_limit greater_is_better logging_steps
logging_strategy logging_first_step logging_nan_inf_filter do_train do_eval do_predict deepspeed fsdp fsdp_config
accelerator_config debug include_num_input_tokens_seen local_rank eval_on_start eval_delay eval_accumulation_steps
loss_type eos_token lora_task_type
"""


@pytest.mark.parametrize("key", NEVER.split())
def test_a_key_that_must_not_be_in_a_recipe_is_refused_on_its_line(write, key):
    path = write(f"{BASE}{key}: true\n")
    message = refusal(path)
    assert message.startswith(f"{path}:6: ") and f"`{key}`" in message
    assert f"`{key}`" in refusal(write(BASE), f"--{key}", "true")


@pytest.mark.parametrize("key", sorted(recipe_module._REFUSED))
def test_refused_key_names_its_line_and_the_fix(write, key):
    path = write(f"{BASE}{key}: true\n")
    message = refusal(path)
    assert message.startswith(f"{path}:6: `{key}` is not allowed in a recipe: ")
    assert recipe_module._REFUSED[key] in message
    assert f"`{key}`" in refusal(write(BASE), f"--{key}", "true")


def test_the_fields_of_a_recipe_are_listed_and_exist():
    trl = recipe_module._trl_fields()
    ours = {entry.name for entry in dataclasses.fields(RecipeArguments)}
    assert ours | trl >= recipe_module.RECIPE_FIELDS >= ours and not ours & trl
    assert recipe_module._known_fields().keys() == recipe_module.RECIPE_FIELDS
    assert not recipe_module._REFUSED.keys() & recipe_module.RECIPE_FIELDS
    # `env` is a word of TRL's parser.
    assert recipe_module._REFUSED.keys() - trl == {"env"}
    assert recipe_module._OUR_DEFAULTS.keys() <= trl
    numbers = {*recipe_module._POSITIVE, *recipe_module._NOT_NEGATIVE, *recipe_module._FRACTIONS}
    assert numbers <= recipe_module.RECIPE_FIELDS


def test_a_field_of_trl_that_is_not_listed_is_refused(write):
    path = write(BASE + "eval_delay: 1\n")
    assert refusal(path) == f"{path}:6: `eval_delay` is a field of TRL that recipes do not support; remove the key"


def test_newer_fields_are_part_of_resolved_only_if_they_are_not_the_default(write):
    recipe = parse_recipe(write(BASE))
    assert recipe.arguments.stage == "sft" and "stage" not in recipe.fields
    named = parse_recipe(write(BASE), ["--stage", "sft"])
    # What was recorded before the fields existed compares equal.
    assert named.resolved == recipe.resolved and "stage" not in recipe.resolved
    assert not {key for key in recipe.resolved if key.startswith(("eval_", "early_", "per_device_eval", "load_best"))}
    assert "`stage: dpo` is not one of its choices" in refusal(write(BASE), "--stage", "dpo")


STAGE = ("--task", "report", "--dataset", "data/tiny_reports")


def test_a_stage_has_fields_of_its_own(write):
    started = (*STAGE, "--start_from", "runs/x")
    grpo = parse_recipe(
        write(BASE), [*started, "--stage", "grpo", "--reward_weights", "[1, 0.5, 2]", "--max_new_tokens", "24"]
    )
    assert isinstance(grpo.training, GrpoConfig) and grpo.training.reward_weights == [1, 0.5, 2]
    assert grpo.training.max_completion_length == 24 and grpo.training.max_length == 256
    rejection = parse_recipe(write(BASE), [*started, "--stage", "rejection", "--num_generations", "3"])
    assert (rejection.training.num_generations, rejection.training.temperature) == (3, 0.7)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--num_generations", "4"),
            "`num_generations` is for `stage: rejection and grpo`, and this recipe's is sft; remove the key",
        ),
        (
            (*STAGE, "--stage", "grpo"),
            "`stage: grpo` continues from a model that writes already; name its recipe or run",
        ),
        (
            ("--stage", "rejection", "--start_from", "x"),
            "learns from texts, and task protocol chooses a label; remove the key",
        ),
        (
            (*STAGE, "--stage", "grpo", "--start_from", "x", "--label_smoothing_factor", "0.1"),
            "is for `stage: sft and rejection`",
        ),
        (
            (*STAGE, "--stage", "grpo", "--start_from", "x", "--num_generations", "1"),
            "`num_generations` must be 2 or more",
        ),
        (
            (*STAGE, "--stage", "grpo", "--start_from", "x", "--num_generations", "3"),
            "must be a multiple of num_generations 3",
        ),
        (
            (*STAGE, "--stage", "grpo", "--start_from", "x", "--reward_weights", "[a]"),
            "`reward_weights` must be a list of numbers",
        ),
        (
            (*STAGE, "--stage", "grpo", "--start_from", "x", "--reward_weights", "[0, 0.0, 0]"),
            "`reward_weights` are all 0",
        ),
    ],
)
def test_fields_that_a_stage_cannot_use_are_refused(write, words, message):
    assert message in refusal(write(BASE), *words)


def test_a_summary_says_what_the_recipe_says():
    for path in find_recipes(SHIPPED.parents[1]):
        recipe, summary = parse_recipe(path), summarise_recipe(path)
        assert summary == (
            recipe.name, recipe.arguments.task, recipe.method, recipe.model.model_name_or_path,
            str(recipe.arguments.global_batch_size), header(path),
        )  # fmt: skip


@pytest.mark.parametrize("lines", ["sed: 1\n", "packing: true\n", "seed: 1\nseed: 2\n"])
def test_a_summary_refuses_wrong_keys(write, lines):
    path = write(BASE + lines)
    with pytest.raises(InputError) as caught:
        summarise_recipe(path)
    assert str(caught.value) == refusal(path)
    with pytest.raises(InputError, match="required key `task`"):
        summarise_recipe(write("seed: 1\n"))


def test_no_field_that_publishes_or_runs_foreign_code_is_left_open():
    known = recipe_module._known_fields()
    assert not [name for name in known if name.startswith(("hub_", "push_")) or "token" in name.split("_")[-1:]]
    assert "trust_remote_code" not in known


def test_unknown_key_gets_a_suggestion_and_its_line(write):
    path = write(BASE + "learning_rte: 1\n")
    assert refusal(path) == f"{path}:6: unknown key `learning_rte`; did you mean `learning_rate`?"


def test_a_name_with_a_part_left_out_is_recognised(write):
    assert "did you mean `lora_target_modules`?" in refusal(write(BASE + "lora_modules: [q_proj]\n"))


def test_unknown_override_is_named(write):
    assert refusal(write(BASE), "--lora_rr", "4") == "--lora_rr: unknown key `lora_rr`; did you mean `lora_r`?"


def test_key_like_nothing_gets_no_wild_guess(write):
    assert "did you mean" not in refusal(write(BASE + "zzqqxx: 1\n"))


def test_duplicate_key_names_both_lines(write):
    path = write(BASE + "seed: 1\n# comment\nseed: 2\n")
    assert refusal(path) == f"{path}:8: `seed` appears twice, first in line 6; keep one"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("seed: two", "`seed` must be an integer, not 'two' (str)"),
        ("seed: 1.5", "`seed` must be an integer, not 1.5 (float)"),
        ("seed: true", "`seed` must be an integer, not True (bool)"),
        ("seed:", "`seed` must be an integer, not None (NoneType)"),
        ("learning_rate: fast", "`learning_rate` must be a number, not 'fast' (str)"),
        ("learning_rate: 2024-01-01", "`learning_rate` must be a number, not datetime.date"),
        ("learning_rate: [1]", "`learning_rate` must be a number, not [1] (list)"),
        ("learning_rate: true", "`learning_rate` must be a number, not True (bool)"),
        ("use_rslora: 'yes'", "`use_rslora` must be true or false, not 'yes' (str)"),
        ("run_name: 5", "`run_name` must be text or null, not 5 (int)"),
        ("lora_target_modules: [1]", "`lora_target_modules` must be a list of names or null, not [1] (list)"),
        ("lora_target_modules: {a: 1}", "`lora_target_modules` must be"),
        (
            "lr_scheduler_type: cosinus",
            "`lr_scheduler_type: cosinus` is not one of its choices; did you mean `cosine`?",
        ),
        ("batch_layout: packed", "`batch_layout: packed` is not one of its choices"),
        ("prompt_style: Chat", "did you mean `chat`? (chat, plain, input)"),
        ("dtype: bf16", "`dtype: bf16` is not one of its choices; did you mean `bfloat16`?"),
        ("optim: adam_w", "`optim: adam_w` is not one of its choices; did you mean"),
        (
            "save_strategy: off",
            "`save_strategy: off` is not one of its choices; did you mean `no`? (no, steps, epoch)",
        ),
        ("save_strategy: false", "`save_strategy` must be text, not False (bool)"),
        ("seed: no", "`seed` must be an integer, not False (bool)"),
        ("lora_target_modules: off", "`lora_target_modules` must be a list of names or null, not False (bool)"),
        ("report_to: no", "`report_to: no` is not one of its choices; did you mean `none`?"),
        (
            "report_to: [wandb, tensorbord]",
            "`report_to: tensorbord` is not one of its choices; did you mean `tensorboard`?",
        ),
        ("seed: 010", "`seed: 010` is not a decimal number; write it without leading zeros and colons"),
        ("seed: 1:30", "`seed: 1:30` is not a decimal number"),
        ("learning_rate: 1:30.5", "`learning_rate: 1:30.5` is not a decimal number"),
        ("lora_target_modules: [-010]", "`lora_target_modules: -010` is not a decimal number"),
        ("start_from:", "`start_from` is empty; name a recipe, a run or a release, or remove the key"),
        ("start_from: ' '", "`start_from` is empty"),
        ("save_steps: 0", "`save_steps` must be greater than 0, not 0"),
        ("save_steps: -5", "`save_steps` must be greater than 0, not -5"),
        ("bnb_4bit_quant_type: nf4", "`bnb_4bit_quant_type` has no effect without `load_in_4bit: true`"),
        ("bnb_4bit_quant_storage: bfloat16", "`bnb_4bit_quant_storage` has no effect without `load_in_4bit: true`"),
        ("use_bnb_nested_quant: true", "`use_bnb_nested_quant` has no effect without `load_in_4bit: true`"),
        (
            "activation_checkpointing_kwargs: {use_reentrant: false}",
            "`activation_checkpointing_kwargs` has no effect without `activation_checkpointing: true`",
        ),
        ("chat_template_path: x.jinja\nprompt_style: plain", "`prompt_style: plain` uses no chat template"),
        ("run_name: 2024-02-30", "`run_name` has a value that YAML cannot read"),
        ("learning_rate: 0", "`learning_rate` must be greater than 0, not 0.0"),
        ("learning_rate: .nan", "`learning_rate` must be a finite number"),
        ("learning_rate: .inf", "`learning_rate` must be a finite number"),
        ("max_length:", "`max_length` must be greater than 0, not None"),
        ("max_length: -3", "`max_length` must be greater than 0, not -3"),
        ("num_train_epochs: 0", "`num_train_epochs` must be greater than 0"),
        ("seed: -1", "`seed` must be 0 or greater, not -1"),
        ("max_dropped_fraction: -0.1", "is a fraction and must be between 0 and 1"),
        ("lora_dropout: 1", "`lora_dropout` must be less than 1"),
        ("lora_dropout: 1.5", "is a fraction and must be between 0 and 1"),
        ("lora_dropout: 1", "`lora_dropout` must be less than 1"),
        ("neftune_noise_alpha: -5", "`neftune_noise_alpha` must be 0 or greater, not -5"),
        ("dataloader_prefetch_factor: 0", "`dataloader_prefetch_factor` must be greater than 0, not 0"),
        ("save_strategy: best", "`save_strategy: best` is not one of its choices"),
        ("eval_strategy: best", "`eval_strategy: best` is not one of its choices"),
        ("eval_steps: 0", "`eval_steps` must be greater than 0, not 0"),
        ("eval_rows: 0", "`eval_rows` must be greater than 0, not 0"),
        ("early_stopping_patience: 0", "`early_stopping_patience` must be greater than 0, not 0"),
        ("label_smoothing_factor: 1", "`label_smoothing_factor` must be less than 1"),
        ("label_smoothing_factor: -0.1", "is a fraction and must be between 0 and 1"),
        ("max_steps: 0", "`max_steps` must be greater than 0, not 0"),
        ("max_steps: -5", "`max_steps` must be greater than 0, not -5"),
        ("{}: 1", "is not a field name"),
        ("7: 1", "`7` is not a field name"),
        ("<<: {seed: 1}", "`<<` is not a field name"),
        ("seed: !!python/object:os.system 1", "`seed` has a value that YAML cannot read"),
        ("seed: !!int ''", "`seed` has a value that YAML cannot read"),
        ("seed: !!bool maybe", "`seed` has a value that YAML cannot read"),
        ("seed: !!timestamp 1", "`seed` has a value that YAML cannot read"),
        ("seed: 4294967296", "`seed` must be at most 4294967295, not 4294967296"),
        (f"seed: 0x{'f' * 9999}", "`seed` must be at most 4294967295, not a number with more than 40 digits"),
        (f"seed: [{'[' * 300}", "not valid YAML: nested too deeply"),
        (f"seed: [{'a, ' * 9000}]", "`seed` must be an integer, not ['a', 'a', 'a', 'a', ...] (list)"),
        ("seed: &a [1]\nrun_name: [*a, *a]", "not valid YAML: anchors and aliases"),
        ("dataloader_num_workers: 100000", "`dataloader_num_workers` must be at most 1024"),
        ("lora_target_modules: '(a+)+$'", "'(a+)+$' is not the name of a layer"),
        ("lora_target_modules: [q_proj, '.*']", "'.*' is not the name of a layer"),
        (f"{'k' * 999}: 1", f"unknown key `{'k' * 200}…`"),
    ],
)
def test_wrong_value_names_key_line_and_what_it_must_be(write, line, expected):
    path = write(BASE + line + "\n")
    message = refusal(path)
    assert message.startswith(f"{path}:6: ")
    assert expected in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("task: [protocol\ndataset: x\n", ":2: not valid YAML"),
        ("task: protocol\n\tdataset: x\n", ":2: not valid YAML"),
        ("- task: protocol\n", ": a recipe is a flat mapping"),
        ("protocol\n", ": a recipe is a flat mapping"),
        ("", ": a recipe is a flat mapping"),
        ("# only a comment\n", ": a recipe is a flat mapping"),
        ("model:\n  lora_r: 4\n", ":1: unknown key `model`"),
        ("dataset: x\nmodel_name_or_path: a/b\n", ": the required key `task` is missing"),
        ("task: protocol\nmodel_name_or_path: a/b\n", ": the required key `dataset` is missing"),
        ("task: protocol\ndataset: x\n", ": the required key `model_name_or_path` is missing"),
        ("task: protocol\ndataset: ''\nmodel_name_or_path: a/b\n", ": the required key `dataset` is missing"),
    ],
)
def test_file_that_is_not_a_recipe(write, text, expected):
    path = write(text)
    assert refusal(path).startswith(f"{path}{expected}")


def test_file_that_cannot_be_read(tmp_path):
    assert "no such recipe" in refusal(tmp_path / "missing.yaml")
    assert "no such recipe" in refusal(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("task: Prüfung".encode("latin-1"))
    assert "not a UTF-8 text file" in refusal(tmp_path / "latin.yaml")
    assert "no such recipe" in refusal(tmp_path / "latin.yaml" / "below.yaml")


@pytest.mark.parametrize(
    ("lines", "line", "expected"),
    [
        ("loraplus_lr_ratio: 16\noptim: sgd", 7, "LoRA+ was only tried with AdamW"),
        ("use_peft: false", 5, "`lora_r` is for adapters, and `use_peft: false` trains all weights"),
        ("use_peft: false\nload_in_4bit: true", 7, "quantised weights cannot be trained"),
        ("load_in_4bit: true\nload_in_8bit: true\ndtype: bfloat16", 7, "choose one of"),
        ("load_in_4bit: true", 6, "compute in float32"),
        ("load_in_8bit: true\ndtype: float32", 6, "compute in float32"),
        ("completion_only_loss: false", 6, "completion only"),
        ("lora_target_modules: [q_proj, lm_head]", 6, "an adapter there is refused"),
        ("dtype: float16", 6, "use bfloat16 or float32"),
        (
            "global_batch_size: 16\nper_device_train_batch_size: 5",
            7,
            "not a multiple of per_device_train_batch_size 5",
        ),
        *(
            (f"{line}", 6, f"`{line.split(':')[0]}` needs validation during training; add `eval_strategy: epoch`")
            for line in (
                "eval_steps: 5",
                "eval_rows: 5",
                "per_device_eval_batch_size: 5",
                "load_best_model_at_end: true",
                "metric_for_best_model: loss",
                "early_stopping_patience: 2",
            )
        ),
        ("eval_strategy: epoch\neval_steps: 5", 7, "`eval_strategy: epoch` has no steps"),
        (
            "eval_strategy: epoch\nmetric_for_best_model: rouge_l",
            7,
            "`metric_for_best_model: rouge_l` is not measured for task protocol; choose one of loss, exact_accuracy",
        ),
        ("eval_strategy: epoch\nearly_stopping_patience: 2", 7, "would keep the last weights, not the best"),
        (
            "eval_strategy: epoch\nload_best_model_at_end: true\nsave_strategy: steps",
            8,
            "`save_strategy` follows from eval_strategy",
        ),
        (
            "eval_strategy: steps\nload_best_model_at_end: true\nsave_strategy: no",
            8,
            "`save_strategy` follows from eval_strategy",
        ),
        (
            "eval_strategy: steps\neval_steps: 10\nload_best_model_at_end: true\nsave_steps: 20",
            9,
            "saves each step that is evaluated, or the best could not be kept: `save_steps` follows",
        ),
    ],
)
def test_fields_that_contradict_each_other(write, lines, line, expected):
    path = write((BASE if "use_peft" not in lines else BASE.replace("use_peft: true\n", "seed: 1\n")) + lines + "\n")
    message = refusal(path)
    assert message.startswith(f"{path}:{line}: ")
    assert expected in message


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("eval_strategy: epoch", {"eval_rows": 256, "per_device_eval_batch_size": 16, "save_strategy": "steps"}),
        (
            "eval_strategy: steps\nglobal_batch_size: 8\neval_rows: 9",
            {"eval_rows": 9, "eval_steps": 0.1, "per_device_eval_batch_size": 8, "save_steps": 0.1},
        ),
        (
            "eval_strategy: epoch\nload_best_model_at_end: true\nmetric_for_best_model: eval_exact_accuracy",
            {"save_strategy": "epoch", "metric_for_best_model": "eval_exact_accuracy"},
        ),
        (
            "eval_strategy: steps\neval_steps: 7\nload_best_model_at_end: true\nearly_stopping_patience: 2\nsave_steps: 7",
            {"save_strategy": "steps", "save_steps": 7.0, "eval_steps": 7.0, "early_stopping_patience": 2},
        ),
    ],
)
def test_what_follows_from_validation(write, lines, expected):
    recipe = parse_recipe(write(f"{BASE}{lines}\n"))
    assert recipe.validates and {key: recipe.resolved[key] for key in expected} == expected
    training = recipe.training
    assert recipe.arguments.eval_rows == recipe.resolved["eval_rows"]
    assert training.per_device_eval_batch_size == recipe.resolved["per_device_eval_batch_size"]
    if training.load_best_model_at_end:
        assert training.greater_is_better == (training.metric_for_best_model != "loss")
    again = parse_recipe(write(recipe.to_yaml()))
    assert (again.resolved, again.digest) == (recipe.resolved, recipe.digest)
    assert recipe.digest != parse_recipe(write(BASE)).digest
    assert parse_recipe(write(BASE.replace("protocol", "report") + "eval_strategy: epoch\n")).arguments.eval_rows == 32


def test_a_recipe_says_whether_it_trains_an_adapter_or_all_weights(write):
    assert "set `use_peft: true` to train an adapter" in refusal(write(BASE.replace("use_peft: true\n", "")))
    assert parse_recipe(write(BASE)).method == "LoRA"
    path = write(BASE.replace("use_peft: true\nlora_r: 4", "use_peft: false"))
    assert parse_recipe(path).method == summarise_recipe(path)[2] == "full fine-tuning"


@pytest.mark.parametrize(("batch", "micro"), [(24, 12), (32, 16), (8, 8), (34, 2), (31, 1)])
def test_the_batch_of_a_process_divides_the_global_one_by_default(write, batch, micro):
    recipe = parse_recipe(write(f"{BASE}global_batch_size: {batch}\n"))
    assert recipe.training.per_device_train_batch_size == recipe.resolved["per_device_train_batch_size"] == micro


def test_checks_of_trl_across_fields_become_one_line(write):
    path = write(BASE + "torch_empty_cache_steps: 0\n")
    assert refusal(path).startswith(f"{path}: `torch_empty_cache_steps` must be an integer bigger than 0")


@pytest.mark.parametrize("words", [["--learning_rate", "3e-4"], ["--learning_rate=3e-4"], ["--learning_rate=0.0003"]])
def test_override_replaces_the_value_of_the_file(write, words):
    recipe = parse_recipe(write(BASE + "learning_rate: 1\n"), words)
    assert recipe.training.learning_rate == recipe.fields["learning_rate"] == 3e-4


def test_an_override_turns_off_what_the_file_says_of_it(write):
    """`--load_in_4bit false` of a QLoRA recipe is enough; what has no effect without it is not in the record either."""
    path = write(BASE + "load_in_4bit: true\nbnb_4bit_quant_type: nf4\ndtype: bfloat16\n")
    recipe = parse_recipe(path, ["--load_in_4bit", "false"])
    assert recipe.method == "LoRA" and "bnb_4bit_quant_type" not in recipe.fields
    message = refusal(path, "--load_in_4bit=false", "--bnb_4bit_quant_type=fp4")
    assert message.startswith("--bnb_4bit_quant_type: `bnb_4bit_quant_type` has no effect")


def test_overrides_that_cannot_be_read(write):
    path = write(BASE)
    assert refusal(path, "--seed", "1", "--seed=2") == "command line: `--seed` is given twice; keep one"
    assert refusal(path, "--seed") == "command line: `--seed` needs a value"
    assert refusal(path, "seed=1") == "command line: expected `--key value`, found `seed=1`"
    assert refusal(path, "--run_name", "[") == "command line: `--run_name [` is not readable as a value"
    assert (
        refusal(path, "--run_name", "2024-02-30") == "command line: `--run_name 2024-02-30` is not readable as a value"
    )
    assert refusal(path, "--seed", "1:30") == "command line: `--seed 1:30` is not readable as a value"
    assert refusal(path, "--seed", "x").startswith("--seed: `seed` must be an integer")


@pytest.mark.parametrize("number", ["1e-3", "1E-3", "0.001", "1.0e-3", "'1e-3'"])
def test_numbers_may_be_written_as_people_write_them(write, number):
    recipe = parse_recipe(write(f"{BASE}learning_rate: {number}\n"))
    assert recipe.training.learning_rate == 0.001
    assert recipe.digest == parse_recipe(write(f"{BASE}learning_rate: 0.001\n")).digest


@pytest.mark.parametrize("word", ["no", "No", "NO", "off", "Off", "OFF", "yes", "Yes", "YES", "on", "On", "ON"])
def test_a_word_that_only_yaml_1_1_reads_as_a_boolean_stays_text_in_a_text_field(write, word):
    expected = word.lower() in ("yes", "on")
    for recipe in (
        parse_recipe(write(f"{BASE}run_name: {word}  # a word\nuse_rslora: {word}\n")),
        parse_recipe(write(BASE), ["--run_name", word, f"--use_rslora={word}"]),
    ):
        assert (recipe.training.run_name, recipe.model.use_rslora) == (word, expected)
        again = parse_recipe(write(recipe.to_yaml()))
        assert (again.fields, again.digest) == (recipe.fields, recipe.digest)
        assert again.training.run_name == word
    assert "not True (bool)" in refusal(write(f"{BASE}run_name: true\n"))


@pytest.mark.parametrize(
    "words", [["--save_strategy", "no"], ["--save_strategy=no"], ["--save_strategy", "'no'"], None]
)
def test_save_strategy_no_is_that_of_transformers(write, words):
    recipe = parse_recipe(write(BASE), words) if words else parse_recipe(write(BASE + "save_strategy: no\n"))
    assert recipe.training.save_strategy is SaveStrategy.NO and recipe.resolved["save_strategy"] == "no"
    assert recipe.digest == parse_recipe(write(BASE)).digest


def test_values_reach_the_objects_of_trl(write):
    recipe = parse_recipe(
        write(BASE + "seed: 7\nmax_length: 99\nlora_target_modules: all-linear\nmax_new_tokens: 5\n")
    )
    assert (recipe.training.seed, recipe.training.max_length) == (7, 99)
    assert (recipe.model.lora_r, recipe.model.lora_target_modules) == (4, "all-linear")
    assert recipe.arguments == RecipeArguments(task="protocol", dataset="data/tiny", max_new_tokens=5)


def test_defaults_that_differ_from_trl(write):
    training = parse_recipe(write(BASE)).training
    assert training.completion_only_loss is True
    assert training.activation_checkpointing is False
    assert training.report_to == []
    assert training.per_device_train_batch_size == 16
    assert parse_recipe(write(BASE + "global_batch_size: 4\n")).training.per_device_train_batch_size == 4


def test_order_of_keys_and_place_of_output_do_not_change_the_digest(write):
    digest = parse_recipe(write(BASE)).digest
    assert parse_recipe(write("".join(sorted(BASE.splitlines(keepends=True))))).digest == digest
    assert parse_recipe(write(BASE + "output_dir: runs/x\nrun_name: mine\n")).digest == digest


def test_every_value_changes_the_digest():
    digest = parse_recipe(SHIPPED).digest
    other = {
        "task": None,
        "use_peft": None,
        "prompt_style": "plain",
        "dtype": "float32",
        "lr_scheduler_type": "linear",
    }
    seen = {digest}
    for key, value in parse_recipe(SHIPPED).fields.items():
        changed = other[key] if key in other else value * 2 + 2 if isinstance(value, int) else None
        if key in ("lora_dropout", "warmup_steps", "weight_decay", "learning_rate", "num_train_epochs"):
            changed = 0.25
        if key in ("dataset", "model_name_or_path", "model_revision", "lora_target_modules"):
            changed = "another"
        if changed is None:
            assert key in ("task", "use_peft")  # one choice today
            continue
        overrides = [f"--{key}={changed}"]
        if key == "global_batch_size":
            overrides = ["--global_batch_size=32"]
        if key == "per_device_train_batch_size":
            overrides = ["--per_device_train_batch_size=4"]
        seen_before = len(seen)
        seen.add(parse_recipe(SHIPPED, overrides).digest)
        assert len(seen) == seen_before + 1, key


def test_resolved_recipe_reads_back_to_the_same(tmp_path):
    recipe = parse_recipe(
        SHIPPED, ["--seed", "5", "--lora_target_modules", "[q_proj, v_proj]", "--learning_rate=1e-4"]
    )
    written = tmp_path / "recipe.yaml"
    written.write_text(recipe.to_yaml(), encoding="utf-8")
    again = parse_recipe(written)
    assert (again.fields, again.digest) == (recipe.fields, recipe.digest)
    assert header(written) == header(SHIPPED)


_KEYS = list(yaml.safe_load(SHIPPED.read_text(encoding="utf-8")))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_key_survives_the_loss_of_a_character(tmp_path_factory, data):
    key = data.draw(st.sampled_from(_KEYS))
    at = data.draw(st.integers(0, len(key) - 1))
    lines = SHIPPED.read_text(encoding="utf-8").splitlines(keepends=True)
    number = next(index for index, line in enumerate(lines) if line.startswith(f"{key}:"))
    lines[number] = lines[number][:at] + lines[number][at + 1 :]
    path = tmp_path_factory.mktemp("typo") / "recipe.yaml"
    path.write_text("".join(lines), encoding="utf-8")
    assert refusal(path).startswith(f"{path}:{number + 1}: unknown key `{key[:at]}{key[at + 1 :]}`; did you mean `")


@settings(max_examples=150, deadline=None)
@given(text=st.text(alphabet="ab:#-{}[]&*!|>%@`'\"<?,\n\t 1.\u00e9\x00", max_size=60))
def test_any_text_is_refused_with_one_line(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("any") / "recipe.yaml"
    path.write_text(text, encoding="utf-8", newline="")
    assert refusal(path).startswith(str(path))


@settings(max_examples=150, deadline=None)
@given(
    key=st.sampled_from(sorted(recipe_module._known_fields())),
    value=st.sampled_from(
        [
            "",
            "null",
            "true",
            "0",
            "-1",
            "1.5",
            "1e400",
            ".nan",
            "text",
            "[]",
            "[a]",
            "[1]",
            "{}",
            "{a: 1}",
            "2024-01-01",
        ]
    ),
)
def test_any_value_is_taken_or_refused_with_one_line(tmp_path_factory, key, value):
    lines = [line for line in BASE.splitlines() if not line.startswith(f"{key}:")]
    path = tmp_path_factory.mktemp("value") / "recipe.yaml"
    path.write_text("\n".join([*lines, f"{key}: {value}", ""]), encoding="utf-8")
    try:
        parse_recipe(path)
    except InputError as error:
        assert "\n" not in str(error)


def test_env_block_never_reaches_the_environment(write):
    before = dict(os.environ)
    refusal(write(BASE + "env:\n  HF_ENDPOINT: http://localhost:1\n"))
    assert dict(os.environ) == before


def test_run_folder_follows_from_the_place_of_the_recipe(tmp_path):
    path = tmp_path / "recipes" / "tiny" / "protocol_lora.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(BASE, encoding="utf-8")
    assert parse_recipe(path).name == "tiny/protocol_lora"
    assert parse_recipe(path, ["--seed", "3"]).output_dir == Path("runs/tiny/protocol_lora/seed-3")
    assert parse_recipe(path, ["--output_dir", "runs/mine"]).output_dir == Path("runs/mine")
    assert find_recipes(tmp_path) == [path]


def test_the_name_of_a_recipe_elsewhere_has_no_folder(write):
    path = write(BASE)
    assert parse_recipe(path).name == summarise_recipe(path)[0] == "recipe"
    assert parse_recipe(path).output_dir == Path("runs/recipe/seed-42")


def test_method_and_header(write):
    assert parse_recipe(write(BASE)).method == "LoRA"
    assert parse_recipe(write(BASE + "dtype: bfloat16\nload_in_4bit: true\n")).method == "QLoRA, 4-bit base"
    assert parse_recipe(write(BASE + "dtype: bfloat16\nload_in_8bit: true\n")).method == "LoRA, 8-bit base"
    assert [header(write(text)) for text in ("", BASE, "# Model · task\n# more\n")] == ["", "", "Model · task"]


@pytest.mark.parametrize("written", ["true", "True"])  # the second by accelerate
def test_the_launcher_keeps_a_run_off_a_gpu(written, write, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setenv("ACCELERATE_USE_CPU", written)
    assert parse_recipe(write(BASE)).training.use_cpu is True


# What recipe.py takes from TRL and Transformers beyond their documented use.


def test_trl_takes_values_as_defaults_and_reports_the_rest():
    parser = TrlParser((SFTConfig, ModelConfig), allow_abbrev=False)
    assert parser.set_defaults_with_config(seed=3, use_cpu=True, no_such_field=1) == ["--no_such_field", "1"]
    training, _ = parser.parse_args_into_dataclasses(args=["--output_dir", ""])
    assert training.seed == 3


def test_fields_carry_their_choices_and_types():
    known = recipe_module._known_fields()
    assert known["dtype"][1] == ["auto", "bfloat16", "float16", "float32"]
    assert known["bnb_4bit_quant_type"][1] == ["fp4", "nf4"]
    assert "cosine" in known["lr_scheduler_type"][1] and "adamw_torch" in known["optim"][1]
    assert (known["seed"][0], known["learning_rate"][0], known["use_peft"][0]) == ((int,), (float,), (bool,))


def test_one_name_in_a_list_becomes_the_name():
    assert ModelConfig(lora_target_modules=["all-linear"]).lora_target_modules == "all-linear"


TOKEN = "hf" + "_aBcDeFgHiJkLmNoPqRsTuVwXyZ012345678"


@pytest.mark.parametrize(
    ("line", "number"),
    [
        (f"# log in with {TOKEN}", 1),
        (f"run_name: {TOKEN}", 1),
        (f'run_name: "\\x68{TOKEN[1:]}"', 1),
        ("hub_model_id: https://me:s3cretpw@example.org/x", 1),
    ],
)
def test_a_secret_in_a_recipe_is_refused_and_not_repeated(tmp_path, line, number):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"{line}\n{SHIPPED.read_text(encoding='utf-8')}", encoding="utf-8")
    for read in (parse_recipe, summarise_recipe):
        with pytest.raises(InputError, match=rf"recipe\.yaml:{number}: looks like a") as caught:
            read(path)
        assert TOKEN[5:15] not in str(caught.value) and "s3cretpw" not in str(caught.value)


@pytest.mark.parametrize("words", [["--run_name", TOKEN], [f"--run_name={TOKEN}"]])
def test_a_secret_on_the_command_line_is_refused_and_not_repeated(words):
    with pytest.raises(InputError, match="command line: looks like a") as caught:
        parse_recipe(SHIPPED, words)
    assert TOKEN[5:15] not in str(caught.value)
