"""The results that this repository ships come out again: the first losses of every recorded recipe, with the real base model."""

import json

import pytest
from conftest import REPOSITORY, run_script

from radrecipes.environment import hardware
from radrecipes.evaluation.results import results_path
from radrecipes.recipe import find_recipes, parse_recipe

pytestmark = pytest.mark.slow

# Without those whose dataset this machine lacks, such as real reports.
RECORDED = [
    path.relative_to(REPOSITORY).as_posix()
    for path in find_recipes(REPOSITORY / "recipes")
    if results_path(path).is_file() and (REPOSITORY / parse_recipe(path).arguments.dataset).is_dir()
]


@pytest.mark.parametrize("recipe", RECORDED)
def test_the_first_losses_are_the_recorded_ones(recipe):
    recorded = json.loads(results_path(REPOSITORY / recipe).read_text("utf-8"))
    if recorded["base"]["dtype"] == "bfloat16" and not hardware()["bfloat16_instructions"]:
        pytest.skip("recorded in bfloat16, which takes this processor a quarter of an hour")
    done = run_script(REPOSITORY, "scripts/reproduce.py", "check", recipe, "--smoke", timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "recipe, data, prompt and base model are as published" in done.stdout
    assert "PASS: 10 of 10 losses of seed 42 are " in done.stdout
