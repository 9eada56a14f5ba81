"""The table of methods and configurations: complete, and true to the tests that it names."""

import ast

import pytest
from conftest import REPOSITORY

from radrecipes.errors import InputError
from radrecipes.launch import compatibility
from radrecipes.launch.compatibility import (
    CONFIGURATIONS,
    FULL,
    FULL_HEAD,
    INT4,
    INT4_HEAD,
    INT8,
    INT8_HEAD,
    LORA,
    LORA_HEAD,
    TABLE,
    Verdict,
)
from radrecipes.launch.spec import Engine, LaunchSpec
from radrecipes.recipe import parse_recipe

RECIPE, WITH_HEAD = "recipes/tiny/protocol_lora.yaml", "recipes/tiny/protocol_head.yaml"
RECIPES = {FULL: "recipes/tiny/protocol_full.yaml", FULL_HEAD: "recipes/tiny/protocol_full_head.yaml"}
WORDS = {
    FULL: (),
    LORA: (),
    INT8: ("--load_in_8bit", "true", "--dtype", "bfloat16"),
    INT4: ("--load_in_4bit", "true", "--dtype", "bfloat16"),
}
HEADS = {FULL_HEAD: FULL, LORA_HEAD: LORA, INT8_HEAD: INT8, INT4_HEAD: INT4}
METHODS = (*WORDS, *HEADS)


def test_every_method_has_a_verdict_under_every_shipped_configuration():
    assert {path.stem for path in (REPOSITORY / "accelerate_configs").glob("*.yaml")} == set(CONFIGURATIONS)
    assert TABLE.keys() == {(method, name) for method in METHODS for name in CONFIGURATIONS}


def test_what_is_called_proved_has_a_test_and_what_is_refused_says_why():
    for key, entry in TABLE.items():
        assert entry.tests or entry.verdict != Verdict.PROVED, key
        assert not entry.tests or entry.verdict != Verdict.REFUSED, key
        assert entry.verdict == Verdict.PROVED or entry.note, key
        for test in entry.tests:
            file, name = test.split("::")
            tree = ast.parse((REPOSITORY / file).read_text("utf-8"))
            assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, test


@pytest.mark.parametrize(("method", "configuration"), TABLE)
def test_a_cell_s_verdict_is_what_happens(method, configuration, shared_workspace, monkeypatch):
    monkeypatch.chdir(shared_workspace)
    entry = TABLE[method, configuration]
    needs = [word for key, value in entry.needs.items() for word in (f"--{key}", value)]
    path = RECIPES.get(method, WITH_HEAD if method in HEADS else RECIPE)
    recipe = parse_recipe(path, (*WORDS[HEADS.get(method, method)], *needs))
    assert recipe.method == method
    if entry.verdict == Verdict.REFUSED:
        with pytest.raises(InputError, match=rf"{configuration}\.yaml: .*use ") as refused:
            compatibility.check(recipe, configuration)
        assert all(source in str(refused.value) for source in entry.sources) and "\n" not in str(refused.value)
    else:
        compatibility.check(recipe, configuration)


def test_a_field_that_a_configuration_needs_or_excludes_is_named(shared_workspace, monkeypatch):
    monkeypatch.chdir(shared_workspace)
    with pytest.raises(InputError, match="needs `bnb_4bit_quant_storage: bfloat16` there"):
        compatibility.check(parse_recipe(RECIPE, WORDS[INT4]), "fsdp1_qlora")
    words = (*WORDS[INT4], "--bnb_4bit_quant_storage", "bfloat16", "--optim", "paged_adamw_8bit")
    with pytest.raises(InputError, match="`optim: paged_adamw_8bit` fails there"):
        compatibility.check(parse_recipe(RECIPE, words), "fsdp1_qlora")


def test_a_model_that_is_sharded_is_validated_by_its_loss_only(workspace):
    words = ("--eval_strategy", "epoch", "--load_best_model_at_end", "true", "--metric_for_best_model")
    by_loss = parse_recipe(RECIPE, (*words, "eval_loss"))
    by_accuracy = parse_recipe(RECIPE, (*words, "exact_accuracy"))
    for configuration in ("cpu", "cpu_2proc", "single_gpu", "ddp"):
        compatibility.check(by_accuracy, configuration)
    for configuration in ("fsdp2", "zero2", "zero3"):
        compatibility.check(by_loss, configuration)
        with pytest.raises(InputError, match="`metric_for_best_model: exact_accuracy` needs answers"):
            compatibility.check(by_accuracy, configuration)


def test_lora_plus_is_refused_where_a_model_is_sharded(workspace):
    recipe = parse_recipe(RECIPE, ("--loraplus_lr_ratio", "16"))
    compatibility.check(recipe, "ddp")
    for configuration in ("fsdp2", "zero2", "zero3"):
        with pytest.raises(InputError, match="`loraplus_lr_ratio` was not tried under FSDP and ZeRO"):
            compatibility.check(recipe, configuration)


def test_a_launch_spec_finds_its_column():
    assert compatibility.configuration_of(LaunchSpec(2, Engine.DDP, True)) == "cpu_2proc"
    assert compatibility.configuration_of(LaunchSpec(1, Engine.DDP, True)) == "cpu"
    assert compatibility.configuration_of(LaunchSpec(16, Engine.ZERO3, False)) == "zero3"
    with pytest.raises(InputError, match="no configuration in accelerate_configs/ is for 2 processes"):
        compatibility.configuration_of(LaunchSpec(2, Engine.FSDP2, True))


@pytest.mark.parametrize("method", METHODS)
def test_a_terminal_gets_a_line_for_each_configuration(method):
    lines, others = compatibility.describe(method)[:-2], compatibility.describe(method)[-2:]
    assert [line.split()[:2] for line in others] == [["mps", "expected"], ["xpu", "expected"]]
    assert all("not measured" in line and ("bitsandbytes" in line) == ("-bit" in method) for line in others)
    assert [line.split()[0] for line in lines] == list(CONFIGURATIONS)
    assert [line.split()[1] for line in lines] == [TABLE[method, name].verdict for name in CONFIGURATIONS]


def markdown():
    """The table in Markdown: a row per method, a column per configuration, numbered reasons below."""
    notes = {}
    rows = [f"| | {' | '.join(CONFIGURATIONS)} |", "|---" * (len(CONFIGURATIONS) + 1) + "|"]
    for method in METHODS:
        cells = []
        for name in CONFIGURATIONS:
            entry = TABLE[method, name]
            fields = ", ".join(f"`{key}: {value}`" for key, value in entry.needs.items())
            needs = f"; the recipe needs {fields}" if fields else ""
            note = f"{entry.note}{needs}{entry.reported}"
            reason = "; ".join(text for text in (note, ", ".join(f"`{test}`" for test in entry.tests)) if text)
            cells.append(f"{entry.verdict} {notes.setdefault(reason, len(notes) + 1)}")
        rows.append(f"| {method} | {' | '.join(cells)} |")
    reasons = [f"{number}. {reason}" for reason, number in notes.items()]
    summary = "<details><summary>Tests, sources and reasons</summary>"
    return "\n".join([*rows, "", summary, "", *reasons, "", "</details>"])


def test_the_page_on_scaling_contains_the_table():
    document = (REPOSITORY / "docs" / "scaling.md").read_text("utf-8")
    begin, end = "<!-- compatibility: generated, do not edit -->\n", "\n<!-- end of compatibility -->"
    assert document.partition(begin)[2].partition(end)[0] == markdown(), "replace it by what `markdown` above returns"
