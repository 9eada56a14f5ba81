"""Python code that a model brings along never runs, and nobody is asked whether it may."""

import ast
import io
import json
import sys
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY, TINY_MODEL
from safetensors.torch import load_file
from trl import ModelConfig

from e2e.conftest import RECIPE, RUN, edit_json, files_in
from radrecipes.errors import InputError
from radrecipes.evaluation.embeddings import TextEmbedder
from radrecipes.models import base as models
from radrecipes.recipe import parse_recipe
from radrecipes.training.construction import build_on_meta

BASE = Path("models", TINY_MODEL)
# It leaves a trace wherever it runs, and works like the model that it replaces.
CODE = """
import pathlib
pathlib.Path({trace!r}).touch()
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
class OwnConfig(LlamaConfig):
    model_type = "own"
class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""
AUTO_MAP = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}


@pytest.fixture
def trace(tmp_path, monkeypatch) -> Path:
    """The file that exists once foreign code ran, while standard input says yes to everything."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 20))
    return tmp_path / "ran"


def bring_code(folder: Path, trace: Path) -> None:
    """Make a folder one whose model is implemented only by Python code in it."""
    (folder / "own.py").write_text(CODE.format(trace=str(trace)), encoding="utf-8")
    edit_json(folder / "config.json", model_type="own", architectures=["OwnModel"], auto_map=AUTO_MAP)
    tokenizer_map = {"AutoTokenizer": [None, "own.OwnTokenizer"]}
    edit_json(folder / "tokenizer_config.json", tokenizer_class="OwnTokenizer", auto_map=tokenizer_map)


COMMANDS = {
    "sft": ("sft", "--config", RECIPE, "--output_dir", "runs/new"),
    "check": ("recipes", "check", RECIPE),
    "inspect": ("recipes", "inspect", RECIPE),
    "plan": ("recipes", "plan", RECIPE),
    "plan for a GPU": ("recipes", "plan", RECIPE, "--gpu", "l4"),
    "predict": ("predict", "--adapter", RUN, "--note", "knee pain"),
    "predict on other weights": ("predict", "--adapter", RUN, "--note", "knee pain", "--allow-other-weights"),
    "evaluate": ("evaluate_model", "--run", RUN, "--restart"),
    "convert": ("prepare_model", "--convert", TINY_MODEL),
    "merge": (
        *("publish", "adapter", "--run", RUN, "--repo", "org/name", "--tag", "v1", "--merge", "--dry-run"),
        *("--base-license", "mit"),
    ),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_base_that_needs_its_own_code_is_refused_with_one_line(name, finished_copy, trace, call):
    bring_code(BASE, trace)
    if name == "convert":
        torch.save(load_file(BASE / "model.safetensors"), BASE / "pytorch_model.bin")
        (BASE / "model.safetensors").unlink()
    before = files_in(finished_copy)
    done = call(*COMMANDS[name])
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert not trace.exists()
    assert done.code == 2 and len(errors) == 1, done.stderr
    assert f"{TINY_MODEL} names Python code of its own" in errors[0] and "Traceback" not in done.stderr
    assert files_in(finished_copy) == before


def test_a_base_of_known_shape_whose_model_class_is_its_own_is_refused(workspace, trace):
    """Transformers asks for the code in a second place: to build a model from a configuration that it knows."""
    bring_code(BASE, trace)
    edit_json(BASE / "config.json", model_type="vit")
    model = ModelConfig(model_name_or_path=TINY_MODEL, dtype="float32")
    recipe = parse_recipe(RECIPE)
    for build in (
        lambda: models.load_base(model),
        lambda: build_on_meta(recipe, models.load_config(model), torch.float32, "eager"),
    ):
        with pytest.raises(InputError, match="names Python code of its own"):
            build()
    assert not trace.exists()


def test_a_similarity_model_that_needs_its_own_code_is_refused(tmp_path, trace):
    (tmp_path / "own.py").write_text(CODE.format(trace=str(trace)), encoding="utf-8")
    modules = [{"idx": 0, "name": "0", "path": "", "type": "own.OwnModel"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    with pytest.raises(InputError, match="cannot be loaded"):
        TextEmbedder(tmp_path)
    assert not trace.exists()


@pytest.mark.parametrize("attention", ["someone/attention", "kernels-community/flash-attn2@main:kernel"])
def test_attention_from_a_repository_of_kernels_is_refused(attention, workspace):
    with pytest.raises(InputError, match=f"`attn_implementation: {attention}` is not one of its choices"):
        parse_recipe(RECIPE, ["--attn_implementation", attention])


def test_a_base_with_an_adapter_in_its_folder_is_refused(workspace):
    """Transformers would add it to the base model, and no digest would include it."""
    (BASE / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match=f"models/{TINY_MODEL}: contains an adapter"):
        models.load_base(ModelConfig(model_name_or_path=TINY_MODEL, dtype="float32"))


def test_every_call_that_could_run_foreign_code_forbids_it():
    """A call that leaves the argument out would ask on the terminal, so a new one must not forget it."""
    loaders = {"from_pretrained", "from_config", "SentenceTransformer", "LLM"}
    without = []
    for path in (path for folder in ("src", "scripts", "benchmarks") for path in (REPOSITORY / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute | ast.Name):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if (
                name in loaders
                and given.get("trust_remote_code") != "False"
                and "PeftModel" not in ast.unparse(node.func)
            ):
                without.append(f"{path.relative_to(REPOSITORY)}:{node.lineno}: {name}")
    assert not without
