"""What inspection shows and what checking refuses."""

import json
import re
from types import SimpleNamespace

import pyarrow as pa
import pytest
from conftest import TINY_REPORT_RECIPE, TINY_REPORTS, write_tiny_reports
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig

from radrecipes.errors import InputError
from radrecipes.launch.spec import Engine, LaunchSpec
from radrecipes.recipe import diff_values, parse_recipe
from radrecipes.tasks import TASKS
from radrecipes.training import data as inspection
from radrecipes.training import drafts
from radrecipes.training.identity import identity_of
from radrecipes.training.manifest import made_of

RECIPE = "recipes/tiny/protocol_lora.yaml"


def test_marked_tokens_are_the_answer_with_its_stop_token(workspace):
    data = inspection.load_training_data(parse_recipe(RECIPE))
    labels = data.dataset.splits["train"]["label"]
    for number, label in enumerate(labels):
        prompt, answer = data.prompt_and_answer(number)
        assert answer == f"{label}<|im_end|>"
        assert prompt.endswith("<|im_start|>assistant\n")
    assert data.example(number).endswith(f"<|im_start|>assistant\n⟦{label}<|im_end|>⟧")
    assert "<|im_end|> stops the model" in data.explain_example()


def test_too_long_rows_can_be_looked_at(workspace):
    recipe = parse_recipe(RECIPE, ["--max_length", "62"])
    with pytest.raises(InputError, match="longer than max_length 62"):
        inspection.load_training_data(recipe)
    data = inspection.load_training_data(recipe, max_dropped_fraction=1.0)
    assert 0 < len(data.rows.too_long) < 48
    assert len(data.rows.rows) + len(data.rows.too_long) == 48


def test_check_says_what_it_found(workspace):
    found = inspection.check_data(parse_recipe(RECIPE))
    assert found.startswith("48 rows, longest ")
    assert "0 left out" in found


def test_check_says_what_it_could_not_check(workspace):
    found = inspection.check_data(parse_recipe(RECIPE, ["--model_name_or_path", "nobody/has-this"]))
    assert found.startswith("48 rows; template and lengths not checked: the tokenizer of nobody/has-this is neither")


def test_a_dataset_that_the_repository_may_not_contain_is_made_by_a_command(workspace):
    recipe = parse_recipe(RECIPE, ["--dataset", "data/openi_reports"])
    assert inspection.check_data(recipe).endswith("data/openi_reports is not here; make it with `make openi`")
    with pytest.raises(InputError, match="data/openi_reports: no such dataset folder; make it with `make openi`"):
        inspection.load_training_data(recipe)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--max_new_tokens=2", "raise max_new_tokens from 2"),
        ("--max_length=20", "48 of 48 rows are longer than max_length 20"),
        ("--dataset=data/none", "data/none: no such dataset folder"),
        ("--chat_template_path=none.jinja", "chat_template_path: no such file none.jinja"),
        ("--model_name_or_path=./models/tiny/llama", "is a path; name the Hub id"),
    ],
)
def test_check_refuses(workspace, override, message):
    with pytest.raises(InputError, match=message.replace(".", r"\.")):
        inspection.check_data(parse_recipe(RECIPE, [override]))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}{{ m['content'] + '\\n' }}{% endfor %}", "writes no stop token"),
        ("{% if add_generation_prompt %}now {% endif %}{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}",
         "not a prefix of prompt and answer"),
        ("{{ strftime_now('%Y') }}{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}", "the current date"),
    ],
)  # fmt: skip
def test_check_refuses_a_template_that_would_train_something_else(workspace, template, message):
    (workspace / "template.jinja").write_text(template, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        inspection.check_data(parse_recipe(RECIPE, ["--chat_template_path=template.jinja"]))


def test_check_refuses_rows_that_the_base_has_no_positions_for(workspace):
    config = workspace / "models" / "tiny" / "llama" / "config.json"
    entries = json.loads(config.read_text("utf-8"))
    config.write_text(json.dumps(entries | {"max_position_embeddings": 62}), encoding="utf-8")
    with pytest.raises(InputError, match=r"has \d+ tokens, tiny/llama reads 62 at most; set max_length: 62"):
        inspection.check_data(parse_recipe(RECIPE))
    parsed = parse_recipe(RECIPE, ["--max_length=62", "--max_dropped_fraction=1"])
    assert inspection.load_training_data(parsed).rows.longest <= 62


@pytest.mark.parametrize(
    ("architecture", "fields", "said"),
    [
        ("mistral", {"sliding_window": 16}, "attends to 16 tokens at most"),
        ("gemma3_text", {"sliding_window": 16}, "attends to 16 tokens at most"),
        ("bamba", {}, "carry a state from token to token"),
        ("qwen3_next", {}, "carry a state from token to token"),
    ],
)
def test_a_base_that_cannot_read_shared_rows_needs_the_other_layout(workspace, architecture, fields, said):
    config = AutoConfig.for_model(architecture, **fields)
    with pytest.raises(InputError, match=rf"protocol_lora.yaml: .*{said}.*; set `batch_layout: padded`"):
        inspection.check_base(parse_recipe(RECIPE), config, 60)
    inspection.check_base(parse_recipe(RECIPE, ["--batch_layout", "padded"]), config, 60)


@pytest.mark.parametrize("base", ["tiny/llama", "nobody/has-this"])
def test_check_refuses_answers_that_contain_a_stop_token(workspace, monkeypatch, base):
    cut = ("Edema: positive", "There is edema.<|im_end|>", "Edema.")
    monkeypatch.setattr("conftest.TINY_REPORTS", (cut, *TINY_REPORTS[1:]))
    write_tiny_reports(workspace / "data" / "cut")
    recipe = parse_recipe("recipes/tiny/report_lora.yaml", ["--dataset=data/cut", f"--model_name_or_path={base}"])
    with pytest.raises(
        InputError, match=r"the answers of 12 of 48 rows contain .* \(first: number 1, '<\|im_end\|>'\)"
    ):
        inspection.check_data(recipe)


def test_check_refuses_data_that_changed(workspace):
    (workspace / "data" / "tiny" / "train.parquet").write_bytes(b"other")
    with pytest.raises(InputError, match="changed since the manifest was written"):
        inspection.check_data(parse_recipe(RECIPE))


@given(st.lists(st.integers(1, 1000), min_size=1))
def test_lengths_are_those_of_the_rows(lengths):
    smallest, median, percentile_95, largest = map(
        float, re.findall(r"[\d.e+]+(?=,|$)", inspection.summarise_lengths(lengths))
    )
    assert (smallest, largest) == (min(lengths), max(lengths))
    assert percentile_95 in lengths
    within = sum(length <= percentile_95 for length in lengths)
    below = sum(length < percentile_95 for length in lengths)
    assert below < 0.95 * len(lengths) <= within
    assert sum(length < median for length in lengths) <= len(lengths) / 2


def test_categories_are_counted_most_frequent_first():
    labels = Dataset.from_dict({"label": ["b", "a", "c", "c"]})
    assert inspection.count_categories(labels, TASKS["protocol"]) == [("c", 2), ("a", 1), ("b", 1)]
    observations = Dataset.from_dict({"observations": ["Edema: positive; Fracture: negative", "Edema: positive"]})
    expected = [("Edema: positive", 2), ("Fracture: negative", 1)]
    assert inspection.count_categories(observations, TASKS["report"]) == expected


def test_a_run_on_other_drafts_is_another_run(workspace, monkeypatch):
    path = workspace / "recipes/tiny/report_rejection.yaml"
    fields = "stage: rejection\nstart_from: recipes/tiny/report_lora.yaml\nnum_generations: 2\n"
    path.write_text(TINY_REPORT_RECIPE.replace("report_lora", "report_rejection") + fields, encoding="utf-8")
    recipe = parse_recipe(path)

    def identity(passing):
        rows = [
            {"place": place, "text": f"FINDINGS: {number} line. IMPRESSION: Edema.", "likeness": 0.5 - number / 10}
            | {"passes": (place, number) in passing}
            for place in range(3)
            for number in range(2)
        ]
        table = pa.Table.from_pylist(rows)
        monkeypatch.setattr(drafts, "drafts_of", lambda *_: SimpleNamespace(read=lambda: table))
        data = drafts.load_with_drafts(recipe)
        rows, kept = data.rows, data.drafts["kept"]
        assert [name.endswith(" draft") for name in rows.ids] == [False] * (len(rows.ids) - kept) + [True] * kept
        assert rows.rows["index"][:] == list(range(len(rows.ids)))
        assert rows.tokens == sum(map(len, rows.rows["input_ids"]))
        facts = made_of(recipe, data.dataset, data.tokenizer)
        return identity_of(facts, LaunchSpec(1, Engine.ONE_PROCESS, True), data.drafts)

    first = identity({(0, 0), (1, 1)})
    assert diff_values(first, identity({(0, 0), (1, 1)})) == {}
    # The better of two texts is chosen, so that another one which passes changes nothing.
    assert diff_values(first, identity({(0, 0), (0, 1), (1, 1)})) == {}
    for passing in ({(0, 0)}, {(0, 1), (1, 1)}, {(0, 0), (2, 1)}):
        assert diff_values(first, identity(passing)).keys() == {"data.drafts_sha256"}
