"""Every shipped recipe becomes the real configuration objects that training uses, and its header says what it is."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY
from peft import LoraConfig
from transformers import BitsAndBytesConfig
from trl import get_quantization_config

from radrecipes.evaluation.results import results_path
from radrecipes.files import file_sha256
from radrecipes.models.compute_dtype import compute_dtype
from radrecipes.models.weights import lora_config
from radrecipes.publishing.licences import BASE_LICENCES
from radrecipes.recipe import find_recipes, header, parse_recipe
from radrecipes.training import trainer as training

RECIPES = find_recipes(REPOSITORY / "recipes")
NO_RESULT = "No recorded result yet"


def test_there_are_recipes():
    assert REPOSITORY / "recipes" / "smollm2-135m" / "protocol_lora.yaml" in RECIPES
    assert not list((REPOSITORY / "recipes").rglob("*.yml"))  # they would be overlooked


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
class TestEveryRecipe:
    def test_builds_its_configuration_objects(self, path):
        recipe = parse_recipe(path)
        args, model, set_here = recipe.training, recipe.model, recipe.fields

        # Training: the completion only, nothing leaves the machine, precision follows dtype
        assert args.completion_only_loss is True
        assert args.bf16 == (compute_dtype(model.dtype) == torch.bfloat16)
        assert not args.fp16
        assert args.report_to == []
        assert not args.push_to_hub
        for key in set(set_here) & set(vars(args)) - {"per_device_train_batch_size", "lr_scheduler_type", "optim"}:
            assert getattr(args, key) == set_here[key], key
        if "lr_scheduler_type" in set_here:
            assert args.lr_scheduler_type == set_here["lr_scheduler_type"]

        if not model.use_peft:
            assert get_quantization_config(model) is None
            return

        # Adapter
        if model.use_peft:
            lora = lora_config(recipe.model)
            assert isinstance(lora, LoraConfig)
            kind = "SEQ_CLS" if recipe.has_head else "CAUSAL_LM"
            assert (lora.task_type, lora.r, lora.lora_alpha) == (kind, set_here["lora_r"], set_here["lora_alpha"])
            assert lora.lora_dropout == model.lora_dropout
            targets = set_here["lora_target_modules"]
            assert lora.target_modules == (targets[0] if targets == ["all-linear"] else set(targets))

        # Quantisation computes in the recipe's dtype
        quantisation = get_quantization_config(model)
        if model.load_in_4bit or model.load_in_8bit:
            assert isinstance(quantisation, BitsAndBytesConfig)
            assert quantisation.load_in_4bit == model.load_in_4bit
            if model.load_in_4bit:
                assert quantisation.bnb_4bit_compute_dtype == torch.bfloat16
        else:
            assert quantisation is None

    @pytest.mark.parametrize("processes", [1, 2, 4])
    def test_global_batch_is_kept_on_any_number_of_processes(self, path, processes):
        recipe = parse_recipe(path)
        training.divide_batch(recipe, processes)
        args = recipe.training
        product = args.per_device_train_batch_size * args.gradient_accumulation_steps * processes
        assert product == recipe.arguments.global_batch_size

    def test_base_is_a_hub_id_pinned_to_a_commit(self, path):
        recipe = parse_recipe(path)
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", recipe.model.model_name_or_path)
        assert re.fullmatch(r"[0-9a-f]{40}", recipe.model.model_revision)

    def test_header_says_model_method_task_hardware_time_and_batch(self, path):
        recipe, first = parse_recipe(path), header(path)
        name, method, task = first.split(". ")[0].split(" · ")
        assert name == recipe.model.model_name_or_path.split("/")[1]
        assert method.split(",")[0] == recipe.method.split(",")[0]
        assert task.startswith(recipe.arguments.task)
        measured = re.search(r"\d+ GB\b", first) and re.search(r"\d+ (seconds|minutes?|hours?)\b", first)
        assert measured or "not yet measured" in first
        assert first.endswith(f"Global batch {recipe.arguments.global_batch_size}.")

    def test_header_and_readme_say_where_no_result_is_recorded(self, path):
        recorded = results_path(path).is_file()
        assert (NO_RESULT in header(path)) != recorded
        readme = (path.parent / "README.md").read_text(encoding="utf-8")
        assert path.name in readme
        if not recorded:
            assert NO_RESULT.lower() in readme.lower()

    def test_second_line_is_the_command_with_its_own_path(self, path):
        command = shlex.split(path.read_text(encoding="utf-8").splitlines()[1].lstrip("# "))
        assert command[:3] == ["accelerate", "launch", "--config_file"]
        assert (REPOSITORY / command[3]).is_file()
        assert command[4:6] == ["scripts/sft.py", "--config"]
        assert command[6:] == [path.relative_to(REPOSITORY).as_posix()]

    def test_dataset_exists_if_the_repository_ships_it(self, path):
        folder = REPOSITORY / parse_recipe(path).arguments.dataset
        assert not Path(parse_recipe(path).arguments.dataset).is_absolute()
        if "synthetic" in folder.name:
            assert (folder / "manifest.json").is_file()


def test_the_table_of_models_says_what_the_recipes_say():
    text = (REPOSITORY / "recipes" / "README.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| [")]
    assert len(rows) == len({path.parent for path in RECIPES})
    for folder, _, licence, _, method, tasks, prompt, _ in rows:
        name = re.fullmatch(r"\[(.+)\]\((.+)/README\.md\)", folder)
        recipes = [parse_recipe(path) for path in RECIPES if path.parent.name == name[1] == name[2]]
        (base,) = {recipe.model.model_name_or_path for recipe in recipes}
        assert licence.split("`")[1] == BASE_LICENCES[base]
        assert method.split("; ") == sorted({recipe.method for recipe in recipes})
        assert tasks.split(", ") == sorted({recipe.arguments.task for recipe in recipes})
        styles = {(recipe.arguments.prompt_style, bool(recipe.training.chat_template_path)) for recipe in recipes}
        others = {"plain": ("plain", False), "project template": ("chat", True), "the input alone": ("input", False)}
        assert styles == {others.get(one, ("chat", False)) for one in prompt.split("; ")}


def test_every_template_is_one_of_some_recipe_and_was_read_for_identifiers():
    """The identifier gate does not search these files: after a change, read the file and write its new hash here."""
    used = {REPOSITORY / path for recipe in RECIPES if (path := parse_recipe(recipe).training.chat_template_path)}
    assert used == set((REPOSITORY / "recipes" / "chat_templates").iterdir())
    assert {path.stem: file_sha256(path)[:16] for path in used} == {
        "llama_3": "0033b26cc77a7d6a",
        "mistral": "aa34986ecadb294a",
        "qwen3": "9e707a2e97b1abfa",
        "smollm3": "8846e49dfc6bf2aa",
    }
