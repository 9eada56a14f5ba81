"""What a plan says about validation during training."""

import pytest
import torch

from radrecipes.models import base as models
from radrecipes.planning import validation_plan
from radrecipes.planning.basis import load_basis
from radrecipes.planning.counting import count_workload
from radrecipes.recipe import parse_recipe
from radrecipes.training import trainer as training
from radrecipes.training.construction import build_on_meta
from radrecipes.training.validation import EvaluatesEpochs, evaluations

RECIPE = "recipes/tiny/protocol_lora.yaml"
STEPS = ("--eval_strategy", "steps", "--eval_steps")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), 0),
        (("--eval_strategy", "epoch", "--num_train_epochs", "2.5"), 3),
        (("--eval_strategy", "epoch", "--max_steps", "6"), 1),
        ((*STEPS, "4", "--max_steps", "9"), 3),
        ((*STEPS, "4", "--max_steps", "8"), 2),
        ((*STEPS, "0.25", "--max_steps", "9"), 3),
    ],
)
def test_evaluations_are_those_of_the_trainer(words, expected, workspace):
    recipe = parse_recipe(RECIPE, ["--output_dir", "runs/test", *words])
    basis = load_basis(recipe)
    steps = count_workload(recipe, basis.rows, build_on_meta(recipe, basis.config, torch.float32, "eager"))
    assert validation_plan.count_evaluations(recipe.training, steps.steps, steps.steps_per_epoch) == expected
    lines = validation_plan.describe(recipe, basis, steps)
    if not expected:
        assert lines == []
        return
    named = f"validation   {expected} evaluation{'s' if expected > 1 else ''} of 7 rows: about "
    assert lines[0].startswith(named) and lines[0].endswith("% of the time of training, in addition")
    share = int(lines[0].split("about ")[1].split("%")[0]) / 100
    rows = steps.steps * recipe.arguments.global_batch_size
    assert share == pytest.approx(expected * 7 * validation_plan.row_cost(recipe, basis) / rows, abs=0.005)
    # And the Trainer evaluates as often.
    training.divide_batch(recipe, 1)
    base = models.load_base(recipe.model, training.longest_row(recipe))
    trainer = training.sft_trainer(recipe, base, basis.tokenizer, basis.rows, basis.validation)
    trainer.add_callback(EvaluatesEpochs())
    trainer.train()
    assert len(evaluations(trainer.state)) == expected


def test_a_text_costs_more_than_a_label_and_a_head_less(workspace):
    words = ("--eval_strategy", "epoch")
    label, text = (parse_recipe(f"recipes/tiny/{name}_lora.yaml", words) for name in ("protocol", "report"))
    costs = [validation_plan.row_cost(recipe, load_basis(recipe)) for recipe in (label, text)]
    assert costs[0] == validation_plan.LOSS + validation_plan.SCORES
    assert costs[1] > validation_plan.LOSS + 10 * validation_plan.TOKEN  # as many tokens at least
    path = workspace / "recipes/tiny/head.yaml"
    path.write_text((workspace / RECIPE).read_text("utf-8").replace("max_new_tokens: 12", "decode: head"), "utf-8")
    head = parse_recipe(path, words)
    assert validation_plan.row_cost(head, load_basis(head)) < costs[0]
