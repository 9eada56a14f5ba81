"""Every recipe of a model that is too large for this machine, end to end on a random tiny model of its architecture.

The tiny models have what matters of the real ones: grouped heads, windows, layers without positions, rotary parameters, tied or
untied embeddings, special tokens and chat markup. Of a recipe only the number of steps, rows and tokens is another.
"""

import json
import re
from collections.abc import Callable
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
from bitsandbytes.nn import Linear4bit
from conftest import REPOSITORY, write_tiny_dataset, write_tiny_reports
from safetensors.torch import load_file
from sft_faults import before, losses_of
from sharded_runs import environment_of, train
from tiny_model import build_markup_tokenizer, build_tiny_gemma_with_images, build_tiny_model
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from torch.nn import Linear
from transformers import PreTrainedTokenizerBase

from radrecipes.models import base as models
from radrecipes.models.weights import LoraAdapter
from radrecipes.recipe import find_recipes, parse_recipe
from radrecipes.tasks import TASKS
from radrecipes.tasks.rendering import render_prompts
from radrecipes.training.collators import IGNORED
from radrecipes.training.data import load_training_data

# They have tests of their own, encoders in test_heads.py.
MEASURED = (
    *("all-minilm-l6-v2", "bioclinical-modernbert-base", "biogpt", "biogpt-large", "modernbert-base"),
    *("smollm2-135m", "smollm2-360m"),
)
RECIPES = [path for path in find_recipes(REPOSITORY / "recipes") if path.parent.name not in MEASURED]
SEPARATE = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
FUSED = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")


def copied(name: str) -> str:
    """A model's own chat template, of which TRL ships a copy."""
    return files("trl").joinpath("chat_templates", f"{name}.jinja").read_text(encoding="utf-8")


class Markup(NamedTuple):
    """How a model writes a question and an answer, and what its tokenizer names.

    `prompt` and `answer` are what the model reads and what it learns. `begin` is the token that is written once before
    everything, `stop` the one that is learned after an answer, `padding` the one that fills rows up.
    """

    tokenizer: Callable[[], PreTrainedTokenizerBase]
    prompt: str
    answer: str
    begin: str | None
    stop: str
    padding: str


LLAMA_3_TOKENS = (
    *("<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>", "<|start_header_id|>", "<|end_header_id|>"),
    "<|eot_id|>",
)
PLAIN_LLAMA_3 = partial(build_markup_tokenizer, LLAMA_3_TOKENS, begin="<|begin_of_text|>", begins_texts=True)
LLAMA_2 = partial(
    build_markup_tokenizer, ("<unk>", "<s>", "</s>"), begin="<s>", end="</s>", unknown="<unk>", begins_texts=True
)
LLAMA_3_PROMPT = (
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
    "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n{question}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
)
MARKUPS = {
    "meditron": Markup(LLAMA_2, "<s>{question}\nAnswer:", " {answer}</s>", "<s>", "</s>", "<unk>"),
    "meditron 3": Markup(
        partial(PLAIN_LLAMA_3, end="<|end_of_text|>"),
        "<|begin_of_text|>{question}\nAnswer:",
        " {answer}<|end_of_text|>",
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|finetune_right_pad_id|>",
    ),
    "mistral": Markup(LLAMA_2, "<s>[INST] {question} [/INST]", "{answer}</s>", "<s>", "</s>", "<unk>"),
    "llama 3.1": Markup(
        partial(PLAIN_LLAMA_3, end="<|eot_id|>", chat_template=copied("llama3_1")),
        LLAMA_3_PROMPT,
        "{answer}<|eot_id|>",
        "<|begin_of_text|>",
        "<|eot_id|>",
        "<|finetune_right_pad_id|>",
    ),
    "llama 3.2": Markup(
        partial(PLAIN_LLAMA_3, end="<|eot_id|>", chat_template=copied("llama3_2")),
        LLAMA_3_PROMPT,
        "{answer}<|eot_id|>",
        "<|begin_of_text|>",
        "<|eot_id|>",
        "<|finetune_right_pad_id|>",
    ),
    "qwen3": Markup(
        partial(
            build_markup_tokenizer,
            ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
            end="<|im_end|>",
            padding="<|endoftext|>",
            words=("<think>", "</think>"),
            chat_template=copied("qwen3"),
        ),
        "<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        "{answer}<|im_end|>",
        None,
        "<|im_end|>",
        "<|endoftext|>",
    ),
    "gemma 3": Markup(
        partial(
            build_markup_tokenizer,
            ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
            begin="<bos>",
            end="<eos>",
            padding="<pad>",
            unknown="<unk>",
            begins_texts=True,
            chat_template=copied("gemma3"),
        ),
        "<bos><start_of_turn>user\n{question}<end_of_turn>\n<start_of_turn>model\n",
        "{answer}<end_of_turn>",
        "<bos>",
        "<end_of_turn>",
        "<pad>",
    ),
    "phi 4 mini": Markup(
        partial(
            build_markup_tokenizer,
            ("<|endoftext|>", "<|assistant|>", "<|end|>", "<|user|>", "<|system|>", "<|tool|>"),
            begin="<|endoftext|>",
            end="<|endoftext|>",
            padding="<|endoftext|>",
            unknown="<|endoftext|>",
            chat_template=(REPOSITORY / "tests/chat_markup/phi_4_mini.jinja").read_text(encoding="utf-8"),
        ),
        "<|user|>{question}<|end|><|assistant|>",
        "{answer}<|end|>",
        None,
        "<|end|>",
        "<|assistant|>",  # any that stops nothing; padding is masked
    ),
    "smollm3": Markup(
        partial(
            build_markup_tokenizer,
            (*LLAMA_3_TOKENS, "<|im_start|>", "<|im_end|>"),
            begin="<|begin_of_text|>",
            end="<|im_end|>",
            words=("<think>", "</think>"),
        ),
        "<|im_start|>system\n## Metadata\n\nKnowledge Cutoff Date: June 2025\nToday Date: 01 July 2025\n"
        "Reasoning Mode: /no_think\n\n## Custom Instructions\n\nAnswer with what is asked for and nothing else.\n\n<|im_end|>\n"
        "<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n",
        "{answer}<|im_end|>",
        None,
        "<|im_end|>",
        "<|finetune_right_pad_id|>",
    ),
}


def llama_3_positions(factor: float) -> dict[str, Any]:
    """Rotary positions as Llama 3 stretches them, for 512 of which 256 are its own."""
    return {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 256,
        }
    }


class Base(NamedTuple):
    """A tiny stand-in: `architecture` with `fields` of its configuration in addition to those of [`build_tiny_model`]."""

    markup: str
    architecture: str
    layers: tuple[str, ...]
    fields: dict[str, Any]


GEMMA_3 = {
    "head_dim": 16,
    "query_pre_attn_scalar": 16,
    "sliding_window": 512,
    "layer_types": ["sliding_attention", "full_attention"],
}
QWEN_3 = {"head_dim": 32}  # 128 in every size, whatever the width
BASES = {
    "BioMistral/BioMistral-7B": Base(
        "mistral", "mistral", SEPARATE, {"tie_word_embeddings": False, "sliding_window": 4096}
    ),
    "EPFLiGHT/Meditron3-8B": Base(
        "meditron 3", "llama", SEPARATE, {"tie_word_embeddings": False, **llama_3_positions(8.0)}
    ),
    "HuggingFaceTB/SmolLM3-3B": Base("smollm3", "smollm3", SEPARATE, {"no_rope_layers": [1, 0]}),
    "Qwen/Qwen3-0.6B": Base("qwen3", "qwen3", SEPARATE, QWEN_3),
    "Qwen/Qwen3-4B": Base("qwen3", "qwen3", SEPARATE, QWEN_3),
    "Qwen/Qwen3-8B": Base("qwen3", "qwen3", SEPARATE, {**QWEN_3, "tie_word_embeddings": False}),
    "epfl-llm/meditron-7b": Base(
        "meditron", "llama", SEPARATE, {"tie_word_embeddings": False, "num_key_value_heads": 4}
    ),
    "google/gemma-3-1b-it": Base("gemma 3", "gemma3_text", SEPARATE, GEMMA_3),
    "google/medgemma-27b-text-it": Base("gemma 3", "gemma3_text", SEPARATE, GEMMA_3),
    "google/medgemma-4b-it": Base("gemma 3", "gemma3", SEPARATE, {"sliding_window": 512}),
    "meta-llama/Llama-3.1-8B-Instruct": Base(
        "llama 3.1", "llama", SEPARATE, {"tie_word_embeddings": False, **llama_3_positions(8.0)}
    ),
    "meta-llama/Llama-3.2-3B-Instruct": Base("llama 3.2", "llama", SEPARATE, llama_3_positions(32.0)),
    "microsoft/Phi-4-mini-instruct": Base(
        "phi 4 mini",
        "phi3",
        FUSED,
        {
            "sliding_window": 262144,
            "original_max_position_embeddings": 4096,
            "max_position_embeddings": 8192,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "partial_rotary_factor": 0.75,
                "short_factor": [1.0] * 6,
                "long_factor": [2.0] * 6,
                "original_max_position_embeddings": 4096,
            },
        },
    ),
}
# FSDP looks for the class of the layers, which is the architecture's, and shards 4-bit weights in its own way.
SHARDED = {
    (BASES[recipe.model.model_name_or_path].architecture, recipe.model.load_in_4bit): path
    for path in RECIPES
    for recipe in (parse_recipe(path),)
    if not recipe.has_head
}


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """A folder as a user's clone, with the shipped recipes, few rows in place of the shipped ones, and every tiny base."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("scripts", "accelerate_configs", "recipes"):
        (folder / name).symlink_to(REPOSITORY / name)
    write_tiny_dataset(folder / "data" / "protocol_synthetic")
    write_tiny_reports(folder / "data" / "report_synthetic")
    for name, base in BASES.items():
        tokenizer = MARKUPS[base.markup].tokenizer()
        if base.architecture == "gemma3":
            build_tiny_gemma_with_images(folder / "models", name, tokenizer, **base.fields)
        else:
            fields = {"hidden_size": 64, **base.fields}  # 4-bit layers are quantised in blocks of 64
            build_tiny_model(folder / "models", name, base.architecture, tokenizer=tokenizer, **fields)
    return folder


def test_every_recipe_has_a_stand_in():
    assert len(RECIPES) >= 24
    assert {parse_recipe(path).model.model_name_or_path for path in RECIPES} == BASES.keys()


@pytest.mark.parametrize("name", BASES)
def test_base_is_read_and_its_rows_are_written_as_the_real_model_writes_them(name, clone, monkeypatch):
    monkeypatch.chdir(clone)
    for path in RECIPES:
        recipe = parse_recipe(path.relative_to(REPOSITORY).as_posix(), ("--max_length", "500"))
        if recipe.model.model_name_or_path == name:
            check_what_is_read_and_learned(recipe, MARKUPS[BASES[name].markup])
            check_the_base(recipe, BASES[name])


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_recipe_trains_evaluates_and_predicts(path, clone, call, monkeypatch):
    monkeypatch.chdir(clone)
    name, run = path.relative_to(REPOSITORY).as_posix(), Path("runs", path.parent.name, path.stem)
    # A vocabulary of 400 tokens needs more of them for the same text.
    smaller = ("--max_steps", "6", "--max_length", "500", "--output_dir", str(run))
    if not parse_recipe(name).has_head:
        smaller += ("--max_new_tokens", "24")
    recipe = parse_recipe(name, smaller)
    base = BASES[recipe.model.model_name_or_path]

    trained = call("sft", "--config", name, *smaller)
    assert trained.code == 0, trained.stderr
    assert "adapter checked and saved" in trained.stdout
    losses = losses_of(run)
    assert len(losses) == 6 and losses[-1] < losses[0]
    check_the_adapter(recipe, base, load_file(run / "adapter" / LoraAdapter.TENSORS))

    evaluated = call("evaluate_model", "--run", run, "--skip-base")
    assert evaluated.code == 0, evaluated.stderr
    metrics = json.loads((run / "evaluation" / "metrics.json").read_text("utf-8"))
    manifest = json.loads((run / "manifest.json").read_text("utf-8"))
    assert metrics["rows"] == manifest["data"]["rows"]["test"] > 0 and (run / "evaluation" / "report.html").is_file()

    task = TASKS[recipe.arguments.task]
    pd.DataFrame({"id": ["a", "b"], "text": task.probe[task.input_column]}).to_csv("notes.csv", index=False)
    table = ("--input", "notes.csv", "--text-column", "text", "--id-column", "id", "--output", run / "answers.csv")
    predicted = call("predict", "--adapter", run, *table)
    assert predicted.code == 0, predicted.stderr
    assert list(pd.read_csv(run / "answers.csv")["id"]) == ["a", "b"]


@pytest.mark.slow
@pytest.mark.parametrize("path", SHARDED.values(), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_base_is_sharded_layer_by_layer(path, clone, tmp_path, monkeypatch):
    """FSDP finds the layers of every architecture, and the losses are those of DDP; two processes on the CPU."""
    monkeypatch.chdir(clone)
    recipe = parse_recipe(path)
    words = ("scripts/sft.py", "--config", path.relative_to(REPOSITORY), "--max_steps", "2", "--max_length", "500")
    configuration = "fsdp2"
    if recipe.model.load_in_4bit:
        words, configuration = (*words, "--bnb_4bit_quant_storage", "bfloat16"), "fsdp1_qlora"
    ddp = train(clone, tmp_path / "ddp", *words)
    wrapped = [
        partial(before, "radrecipes.training.trainer", "CompletionTrainer.training_step", check_each_layer_is_wrapped)
    ]
    sharded = train(clone, tmp_path / "sharded", *words, environment=environment_of(configuration), faults=wrapped * 2)
    assert sharded == pytest.approx(ddp, abs=1e-3)  # bfloat16; measured up to 2e-4


def check_each_layer_is_wrapped(trainer, *ignored):
    layers = [module for path, module in trainer.model.named_modules() if re.search(r"\.layers\.\d+$", path)]
    assert len(layers) == 2 and all(isinstance(layer, FullyShardedDataParallel | FSDPModule) for layer in layers)


def check_what_is_read_and_learned(recipe, markup):
    """Every row is the real model's markup to the letter, begun once, its answer ended by the token that ends a turn."""
    data, task = load_training_data(recipe), TASKS[recipe.arguments.task]
    tokenizer, rows = data.tokenizer, data.dataset.splits["train"]
    stop, padding = tokenizer.convert_tokens_to_ids([markup.stop, markup.padding])
    for row, ids, labels in zip(rows, data.rows.rows["input_ids"], data.rows.rows["labels"], strict=True):
        learned = [label for label in labels if label != IGNORED]
        prompt = ids[: len(ids) - (0 if data.labels else len(learned))]
        assert prompt == render_prompts(task, [task.inputs(row)], tokenizer, recipe.arguments.prompt_style)[0]
        assert tokenizer.decode(prompt) == markup.prompt.replace("{question}", task.question(task.inputs(row)))
        if data.labels:
            assert [data.labels[index] for index in learned] == [task.target(row)] and labels[-1] != IGNORED
        else:
            assert tokenizer.decode(learned) == markup.answer.replace("{answer}", task.target(row))
            assert learned[-1] == stop and learned.count(stop) == 1
        if markup.begin:
            assert tokenizer.bos_token == markup.begin and ids.index(tokenizer.bos_token_id) == 0
        assert ids.count(tokenizer.bos_token_id) == (1 if markup.begin else 0)
    assert data.labels or stop in data.stops
    assert tokenizer.pad_token_id == padding and padding not in data.stops


def check_the_base(recipe, base):
    """The text model alone, in four bits if the recipe says so."""
    model = models.load_base(recipe.model, labels=["CT", "MR"] if recipe.has_head else None)
    linear = {name: module for name, module in model.named_modules() if isinstance(module, Linear)}
    # A model that also reads images is ForConditionalGeneration.
    kind, head = ("ForSequenceClassification", "score") if recipe.has_head else ("ForCausalLM", "lm_head")
    assert type(model).__name__.endswith(kind)
    assert {name.rpartition(".")[2] for name in linear} == {*base.layers, head}
    quantised = {name for name, module in linear.items() if isinstance(module, Linear4bit)}
    assert quantised == (linear.keys() - {head} if recipe.model.load_in_4bit else set())
    if quantised:
        (quantisation,) = {module.weight.quant_type for module in linear.values() if isinstance(module, Linear4bit)}
        assert quantisation == "nf4"
    if recipe.has_head:
        return
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert tied == base.fields.get("tie_word_embeddings", True)


def check_the_adapter(recipe, base, tensors):
    """Two matrices of the recipe's rank for every linear layer of every block, and nothing else."""
    block = re.compile(r"base_model\.model\.model\.layers\.(\d)\.(?:self_attn|mlp)\.(\w+)\.lora_([AB])\.weight")
    heads = {name for name in tensors if name.endswith(".score.weight")}
    assert len(heads) == recipe.has_head
    tensors = {name: tensor for name, tensor in tensors.items() if name not in heads}
    found = {block.fullmatch(name).groups() for name in tensors}
    assert found == {(number, layer, matrix) for number in "01" for layer in base.layers for matrix in "AB"}
    ranks = {tensor.shape[0 if ".lora_A." in name else 1] for name, tensor in tensors.items()}
    assert ranks == {recipe.model.lora_r}
    assert all(tensor.abs().max() > 0 for name, tensor in tensors.items() if ".lora_B." in name)
