"""What makes two runs the same, and a stage for every value that a recipe can name."""

from collections.abc import Callable

import pytest

from radrecipes.errors import InputError
from radrecipes.launch.spec import Engine, LaunchSpec
from radrecipes.recipe import diff_values, parse_recipe
from radrecipes.stage_configs import CONFIGS
from radrecipes.training import PARTS
from radrecipes.training.identity import (
    NOT_OF_REPRODUCTION,
    NOT_OF_RESULT,
    NOT_OF_RUN,
    changeable_parts,
    identity_of,
    without,
)
from radrecipes.training.stages import STAGES
from radrecipes.training.start import check_start, data_of

RESOLVED = {"dataset": "data/tiny", "learning_rate": 1e-3, "save_steps": 0.1, "seed": 42, "use_cpu": True}


def identity(engine=Engine.DDP, processes=1, **fields):
    facts = {
        "recipe": {"resolved": {**RESOLVED, **fields}},
        "data": {"digest": "d"},
        "base": {"weights_sha256": "w", "dtype": "float32"},
        "prompt": {"sha256": "p"},
    }
    return identity_of(facts, LaunchSpec(processes, engine, True))


def test_where_and_when_a_run_is_written_is_not_part_of_it():
    assert diff_values(identity(dataset="elsewhere", save_steps=7, use_cpu=False, bf16=True), identity()) == {}
    assert diff_values(identity(seed=1, learning_rate=1e-4), identity()) == {
        "recipe.learning_rate": [1e-4, 1e-3],
        "recipe.seed": [1, 42],
    }
    assert diff_values(identity(weight_decay=0.1), identity()) == {"recipe.weight_decay": [0.1, None]}


def test_each_context_has_one_set_of_fields_that_do_not_count():
    fields = {**RESOLVED, "output_dir": "runs/x", "chat_template_path": "x.jinja"}
    assert without(fields, NOT_OF_RUN).keys() == {"learning_rate", "seed", "chat_template_path"}
    assert without(fields, NOT_OF_RESULT).keys() == {"learning_rate", "dataset", "use_cpu", "chat_template_path"}
    assert without(fields, NOT_OF_REPRODUCTION).keys() == {"learning_rate"}


@pytest.mark.parametrize("engine", Engine)
def test_every_value_belongs_to_a_part_that_can_be_allowed(engine):
    now = identity(engine)
    assert {name.partition(".")[0] for name in now} == {*PARTS, "engine"}
    fixed = engine in (Engine.FSDP1, Engine.ZERO2, Engine.ZERO3)
    assert set(PARTS) - set(changeable_parts(now)) == ({"processes"} if fixed else set())


def test_what_a_run_continues_is_recorded_with_all_data_that_it_learned_from():
    def made_from(name, licence, **start):
        data = {"folder": f"elsewhere/{name}", "digest": name, "access": "open", "license": licence}
        return {"data": data, **({"start": start} if start else {})}

    first = data_of(made_from("orders", "cc-by-nc-4.0"))
    assert first == [{"name": "orders", "digest": "orders", "license": "cc-by-nc-4.0", "access": "open"}]
    second = data_of(made_from("reports", "apache-2.0", weights_sha256="w", data=first))
    assert [data["name"] for data in second] == ["reports", "orders"] and second[1:] == first
    assert data_of(made_from("reports", "apache-2.0", weights_sha256="w")) is None
    assert data_of({"data": {"folder": "orders", "digest": "orders", "access": "open"}}) is None


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ("recipes/tiny/protocol_full.yaml", None),
        ("org/name@v1.0", None),
        ("recipes/tiny/none.yaml", "no such recipe"),
        ("runs/none", "no finished run here"),
        ("name@v1.0", "a repository on the Hub is named"),
    ],
)
def test_a_check_looks_at_what_a_recipe_continues_from(named, expected, workspace):
    recipe = parse_recipe("recipes/tiny/protocol_lora.yaml", ["--start_from", named])
    if not expected:
        check_start(recipe)
        return
    with pytest.raises(InputError, match=f"^recipes/tiny/protocol_lora.yaml: start_from: .*{expected}"):
        check_start(recipe)


def test_every_stage_of_a_recipe_can_be_trained():
    assert list(STAGES) == list(CONFIGS)
    for stage in STAGES.values():
        assert isinstance(stage.load_data, Callable) and isinstance(stage.make_trainer, Callable)
