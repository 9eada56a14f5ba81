"""The key of a dataset in the token cache, and what a recipe finds there."""

import shutil
from pathlib import Path

import pytest
from tiny_model import build_tiny_tokenizer

import radrecipes
from radrecipes.data.prepared import load_prepared_dataset
from radrecipes.errors import InputError
from radrecipes.files import file_sha256
from radrecipes.recipe import parse_recipe
from radrecipes.tasks import rendering
from radrecipes.tasks.protocol import ProtocolTask
from radrecipes.training import data as training_data
from radrecipes.training import token_cache
from radrecipes.training.token_cache import cache_key

RECIPE = "recipes/tiny/protocol_lora.yaml"


def test_another_tokenizer_template_or_fact_has_another_key():
    tokenizer = build_tiny_tokenizer()
    key = cache_key(tokenizer, dataset="a", style="chat")
    assert key == cache_key(build_tiny_tokenizer(), style="chat", dataset="a")
    keys = {key, cache_key(tokenizer, dataset="b", style="chat")}
    tokenizer.chat_template += " "
    keys.add(cache_key(tokenizer, dataset="a", style="chat"))
    tokenizer = build_tiny_tokenizer()
    tokenizer.add_tokens(["meniscus"])
    keys.add(cache_key(tokenizer, dataset="a", style="chat"))
    assert len(keys) == 4


def test_a_recipe_reads_what_was_kept_and_finds_the_same(workspace, monkeypatch):
    recipe = parse_recipe(RECIPE)
    fresh = training_data.load_training_data(recipe)
    assert not Path("data/tiny/.tokenised").exists()
    first = training_data.load_training_data(recipe, keep=True)
    with pytest.raises(InputError) as refused:
        training_data.load_training_data(parse_recipe(RECIPE, ["--max_length", "62"]))

    def no_rendering(*words, **named):
        raise AssertionError("rendered again")

    monkeypatch.setattr(training_data, "render_rows", no_rendering)
    for found in (
        first,
        training_data.load_training_data(recipe, keep=True),
        training_data.load_training_data(recipe),
    ):
        assert found.rows.rows.to_dict() == fresh.rows.rows.to_dict()
        assert (found.rows.ids, found.rows.tokens, found.rows.scored_tokens, found.rows.longest) == (
            fresh.rows.ids,
            fresh.rows.tokens,
            fresh.rows.scored_tokens,
            fresh.rows.longest,
        )
    # The same rows serve every max_length, and its errors are the same
    with pytest.raises(InputError) as refused_again:
        training_data.load_training_data(parse_recipe(RECIPE, ["--max_length", "62"]))
    assert str(refused_again.value) == str(refused.value)
    shorter = training_data.load_training_data(parse_recipe(RECIPE, ["--max_length", "62"]), max_dropped_fraction=1.0)
    assert shorter.rows.longest <= 62 and len(shorter.rows.ids) == len(shorter.rows.rows) < 48
    assert shorter.rows.rows["index"][:] == list(range(len(shorter.rows.rows)))
    # Other data is another thing
    shutil.copytree("data/tiny", "data/moved")
    training_data.load_training_data(parse_recipe(RECIPE, ["--dataset", "data/moved"]))
    with pytest.raises(AssertionError, match="rendered again"):
        training_data.load_training_data(parse_recipe(RECIPE, ["--prompt_style", "plain"]))


@pytest.fixture
def key_of(workspace):
    recipe = parse_recipe(RECIPE)
    split, tokenizer = load_prepared_dataset("data/tiny").splits["train"], build_tiny_tokenizer()

    def key():
        task = training_data.TASKS[recipe.arguments.task]
        return training_data.rows_key("digest", split, task, tokenizer, "chat", [2])

    return key


@pytest.mark.parametrize(
    ("owner", "name", "changed"),
    [
        (ProtocolTask, "instruction", "Name the protocol."),
        (ProtocolTask, "question", lambda task, inputs: f"{task.instruction}: {inputs[task.input_column]}"),
        (ProtocolTask, "target", lambda task, row: row["label"].upper()),
    ],
)
def test_a_change_of_the_rendering_or_of_the_target_changes_the_key(owner, name, changed, key_of, monkeypatch):
    before = key_of()
    monkeypatch.setattr(owner, name, changed)
    assert key_of() != before


def test_only_the_code_that_makes_tokens_counts(key_of, monkeypatch, tmp_path):
    before, read = key_of(), []
    for module in (token_cache, training_data):
        monkeypatch.setattr(module, "file_sha256", lambda path: read.append(path) or file_sha256(path))
    assert key_of() == before
    package = Path(radrecipes.__file__).parent
    assert {path for path in read if package in path.parents} == {
        package / "tasks" / "rendering.py",
        package / "training" / "data.py",
        package / "models" / "control_tokens.py",
    }
    # A change that shows in few rows, and in none of the texts
    edited = tmp_path / "rendering.py"
    edited.write_bytes(Path(rendering.__file__).read_bytes() + b"# another way\n")
    monkeypatch.setattr(training_data, "_RENDERING_CODE", (edited, training_data._RENDERING_CODE[1]))
    assert key_of() != before


def test_a_change_of_any_row_changes_the_key(key_of, monkeypatch):
    before, target = key_of(), ProtocolTask.target
    last = load_prepared_dataset("data/tiny").splits["train"][-1]
    monkeypatch.setattr(
        ProtocolTask, "target", lambda task, row: target(task, row) + "." * (row["note"] == last["note"])
    )
    assert key_of() != before
