"""Validation during training: what it measures, that training does not notice it, and what follows from it."""

import json
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from peft import get_peft_model_state_dict
from safetensors.torch import load_file
from test_trainer import (
    RECIPE,
    MaskIgnoringLlama,
    gradients,
    naive_loss,
    random_examples,
    rows_of,
    tiny_architecture,
)
from tiny_model import build_tiny_model, build_tiny_tokenizer
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, TrainerCallback, TrainerControl, TrainerState
from transformers.modeling_outputs import CausalLMOutput
from transformers.trainer_pt_utils import LabelSmoother

from radrecipes.data.prepared import load_prepared_dataset
from radrecipes.errors import InputError, NoCheckpointError, OutOfMemoryError
from radrecipes.inference.answers import WrittenText
from radrecipes.inference.label_scoring import score_separately
from radrecipes.inference.validation import label_metrics, task_metrics, text_metrics
from radrecipes.models import base as models
from radrecipes.recipe import parse_recipe
from radrecipes.tasks import TASKS
from radrecipes.tasks.rendering import render_completions
from radrecipes.training import trainer as training
from radrecipes.training.checkpoints import Progress, SealsCheckpoints, unfinished_folder
from radrecipes.training.collators import PaddedCollator
from radrecipes.training.data import load_training_data, prompts_of, sample_validation, validation_rows
from radrecipes.training.interruption import StopRequests
from radrecipes.training.validation import EvaluatesEpochs, StopsEarly, check_metrics, evaluations

REPORTS = "recipes/tiny/report_lora.yaml"
EACH_STEP = ("--eval_strategy", "steps", "--eval_steps", "1")


def trainer_on(recipe_path, *overrides, model=None):
    """A trainer with its data and the task's metrics, as `scripts/sft.py` makes it."""
    recipe = parse_recipe(recipe_path, ["--output_dir", "runs/test", *overrides])
    training.divide_batch(recipe, 1)
    data = load_training_data(recipe)
    base = model or models.load_base(recipe.model, training.longest_row(recipe))
    validation = data.validation and data.validation.rows
    trainer = training.sft_trainer(recipe, base, data.tokenizer, data.rows.rows, validation)
    if data.validation:
        trainer.task_metrics = task_metrics(recipe, data)
        check_metrics(trainer)
    return trainer, data


def validating(examples, *overrides):
    """A trainer that validates on examples, without metrics of a task."""
    recipe = parse_recipe(RECIPE, ["--output_dir", "runs/test", "--eval_strategy", "epoch", *overrides])
    training.divide_batch(recipe, 1)
    model, tokenizer = tiny_architecture("llama"), build_tiny_tokenizer()
    return training.sft_trainer(recipe, model, tokenizer, rows_of(random_examples()), rows_of(examples))


# What is measured


@pytest.mark.parametrize("layout", ["shared_prefix", "padded"])
@pytest.mark.parametrize("size", [1, 3, 16])
def test_the_loss_is_per_token_over_the_whole_sample(layout, size, workspace):
    examples = random_examples(count=7, seed=5)  # answers of two to five tokens, and a batch that is not full
    trainer = validating(
        examples,
        "--batch_layout",
        layout,
        "--per_device_eval_batch_size",
        str(size),
        "--label_smoothing_factor",
        "0.1",
    )
    expected = float(naive_loss(trainer.model.eval(), examples).detach())
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("count", [None, torch.tensor(40)])
def test_label_smoothing_is_that_of_transformers(count, workspace):
    examples = random_examples()
    trainer = validating(examples, "--label_smoothing_factor", "0.2")
    batch = PaddedCollator(0)(examples)
    logits = trainer.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    expected = LabelSmoother(epsilon=0.2)(CausalLMOutput(logits=logits), batch["labels"], shift_labels=True)
    if count is not None:
        expected = expected * sum(label >= 0 for example in examples for label in example["labels"]) / count
    loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=count)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-5)
    plain = validating(examples).compute_loss(trainer.model, batch, num_items_in_batch=count)
    assert float(plain.detach()) != pytest.approx(float(loss.detach()), abs=1e-3)


def test_the_accuracy_is_that_of_each_label_alone(workspace):
    trainer, data = trainer_on(RECIPE, *EACH_STEP, "--max_steps", "2")
    trainer.train()
    names = data.dataset.label_set.names
    completions = render_completions(TASKS["protocol"], names, data.tokenizer, "chat", data.stops)
    scores = score_separately(
        trainer.model.eval(), data.tokenizer.pad_token_id, prompts_of(data.validation.rows), completions
    )
    right = [names.index(row["label"]) for row in data.validation.examples]
    assert trainer.evaluate()["eval_exact_accuracy"] == np.mean(scores.argmax(axis=1) == right)


def test_generated_labels_and_texts_are_judged_like_answers(workspace):
    recipe = parse_recipe(RECIPE, EACH_STEP)
    data = load_training_data(recipe)
    rows, label_set = list(data.validation.examples), data.dataset.label_set
    answers = [WrittenText(row["label"]) for row in rows]
    assert label_metrics(TASKS["protocol"], rows, label_set, answers) == {"exact_accuracy": 1.0}
    answers[0] = WrittenText("CT Elbow")
    found = label_metrics(TASKS["protocol"], rows, label_set, answers)
    assert found == {"exact_accuracy": pytest.approx(1 - 1 / len(rows))}

    data, task = load_training_data(parse_recipe(REPORTS, EACH_STEP)), TASKS["report"]
    rows = list(data.validation.examples)
    texts = [WrittenText(task.target(row)) for row in rows]
    assert text_metrics(task, rows, texts) == {"rouge_l": 1.0, "passed_rate": 1.0}
    # One was cut off, one is that of another row.
    texts[:2] = [WrittenText(task.target(rows[0]), stopped=False), texts[0]]
    found = text_metrics(task, rows, texts)
    assert found["passed_rate"] == pytest.approx(1 - 2 / len(rows)) and 0.5 < found["rouge_l"] < 1.0


def test_a_model_that_writes_keeps_its_own_settings(workspace):
    trainer, _ = trainer_on(REPORTS, "--eval_strategy", "epoch")
    before = trainer.model.generation_config
    found = trainer.evaluate()
    assert found.keys() == {"eval_loss", "eval_rouge_l", "eval_passed_rate", "eval_runtime", "epoch"}
    assert found["eval_passed_rate"] == 0.0 and found["eval_rouge_l"] < 0.5
    assert trainer.model.generation_config is before  # a checkpoint of all weights has them


def test_a_model_that_cannot_be_measured_is_refused_before_it_is_trained(workspace):
    with pytest.raises(InputError, match="decode: generate"):
        trainer_on(RECIPE, *EACH_STEP, model=MaskIgnoringLlama(tiny_architecture("llama").config))


@pytest.mark.parametrize("wanted", [1, 3, 100])
def test_the_sample_is_spread_evenly_and_the_same_every_time(wanted, workspace):
    split = load_prepared_dataset("data/tiny").splits["validation"]
    sample = sample_validation(split, wanted)
    assert len(sample) == min(wanted, len(split)) and sample["id"][:] == sample_validation(split, wanted)["id"][:]
    if wanted == 3:
        assert sample["id"][:] == [split["id"][place] for place in (0, len(split) // 2, len(split) - 1)]
    with pytest.raises(InputError, match="validation split contains no rows"):
        sample_validation(split.select([]), wanted)


def test_rows_of_the_sample_that_are_too_long_are_left_out_and_counted(workspace):
    whole = load_training_data(parse_recipe(RECIPE, EACH_STEP)).validation
    lengths = [len(ids) for ids in whole.rows["input_ids"]]
    table = whole.rows.data.table.drop_columns("index")
    longest = sorted(lengths)[2]
    found = validation_rows(whole.examples, table, longest)
    kept = [place for place, length in enumerate(lengths) if length <= longest]
    assert found.too_long == len(lengths) - len(kept) > 0
    assert found.examples["id"][:] == [whole.examples["id"][place] for place in kept]
    assert found.rows["input_ids"][:] == [whole.rows["input_ids"][place] for place in kept]
    with pytest.raises(InputError, match="all 7 rows of the validation sample are longer than max_length 3"):
        validation_rows(whole.examples, table, 3)


@pytest.mark.parametrize("path", [RECIPE, REPORTS])
def test_validation_needs_no_test_split(path, workspace, monkeypatch):
    def without_test(folder):
        dataset = load_prepared_dataset(folder)
        del dataset.splits["test"]
        return dataset

    monkeypatch.setattr("radrecipes.training.data.load_prepared_dataset", without_test)
    trainer, _ = trainer_on(path, *EACH_STEP, "--max_steps", "1")
    trainer.train()
    (found,) = evaluations(trainer.state)
    assert {
        "eval_loss",
        *(f"eval_{name}" for name in TASKS[path.split("/")[-1].split("_")[0]].validation_metrics),
    } <= found.keys()


# Training does not notice it


def random_states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state().tolist()


@pytest.mark.parametrize("path", [RECIPE, REPORTS])
def test_an_evaluation_draws_no_random_number_and_leaves_the_model_in_training(path, workspace):
    trainer, _ = trainer_on(path, "--eval_strategy", "epoch", "--lora_dropout", "0.5")
    trainer.model.train()
    before = random_states()
    trainer.evaluate()
    assert random_states() == before
    assert all(module.training for module in trainer.model.modules())


@pytest.mark.parametrize("path", [RECIPE, pytest.param(REPORTS, marks=pytest.mark.slow)])
def test_a_run_that_validates_ends_with_the_same_weights(path, workspace):
    trained = []
    for words in ((), EACH_STEP):
        trainer, _ = trainer_on(path, *words, "--max_steps", "4", "--lora_dropout", "0.2")
        trainer.train()
        assert len(evaluations(trainer.state)) == (4 if words else 0)
        trained.append({name: weight.detach() for name, weight in trainer.model.named_parameters()})
    for name, weight in trained[0].items():
        assert torch.equal(weight, trained[1][name]), name


@pytest.mark.parametrize("bits", [4, 8])
def test_an_evaluation_leaves_quantised_layers_their_gradients(bits, workspace):
    folder = build_tiny_model(workspace / "models", "tiny/wide", hidden_size=128)
    quantisation = BitsAndBytesConfig(
        load_in_4bit=bits == 4, load_in_8bit=bits == 8, bnb_4bit_compute_dtype=torch.float32
    )
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, quantization_config=quantisation)
    trainer, data = trainer_on(RECIPE, *EACH_STEP, "--model_name_or_path", "tiny/wide", model=base)
    batch = PaddedCollator(0)(data.rows.rows.select(range(4)).to_list())
    before = gradients(trainer.model.train(), trainer.compute_loss(trainer.model, dict(batch)))
    trainer.evaluate()
    after = gradients(trainer.model, trainer.compute_loss(trainer.model, dict(batch)))
    assert any(float(gradient.abs().max()) > 0 for gradient in before.values())
    for name, gradient in before.items():
        torch.testing.assert_close(after[name], gradient, msg=name)


def test_memory_that_runs_out_names_the_field(workspace, monkeypatch):
    trainer = validating(random_examples())
    monkeypatch.setattr("radrecipes.training.trainer.measure", lambda trainer: torch.empty(2**50))
    with pytest.raises(OutOfMemoryError, match="smaller --per_device_eval_batch_size"):
        trainer.evaluate()


# What follows from it


def test_the_weights_of_the_best_step_are_loaded_only_if_their_checkpoint_is_whole(workspace):
    trainer, _ = trainer_on(RECIPE, *EACH_STEP, "--load_best_model_at_end", "true", "--max_steps", "3")
    trainer.args.output_dir = str(unfinished_folder(workspace))
    trainer.add_callback(SealsCheckpoints(workspace, {}, Progress()))
    trainer.add_callback(Ruins())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "radrecipes.training.trainer.measure", lambda trainer: {"loss": trainer.state.global_step, "runtime": 0}
        )
        training.train(trainer, None, StopRequests())
    state = trainer.state
    assert (state.best_global_step, state.best_metric) == (1, 1)
    assert state.best_model_checkpoint == str(workspace / "checkpoints" / "checkpoint-1")
    saved = load_file(workspace / "checkpoints/checkpoint-1/adapter_model.safetensors")
    assert all(torch.equal(tensor, saved[name]) for name, tensor in get_peft_model_state_dict(trainer.model).items())

    written = json.loads((workspace / "checkpoints/checkpoint-3/trainer_state.json").read_text("utf-8"))
    assert written["best_model_checkpoint"] == state.best_model_checkpoint
    (workspace / "checkpoints/checkpoint-1/optimizer.pt").unlink()
    with pytest.raises(
        NoCheckpointError, match=r"checkpoint-1: optimizer\.pt is missing .* it has the weights to keep"
    ):
        trainer.load_best()


class Ruins(TrainerCallback):
    """Sets the weights to zero once training is over, before the best ones are loaded."""

    def on_train_end(self, args, state, control, model=None, **kwargs):
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.zero_()


class Notes(TrainerCallback):
    """What happens after which step."""

    def __init__(self, stop_after=None):
        self.seen, self.stop_after = [], stop_after

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.stop_after:
            control.should_save = control.should_training_stop = True

    def on_evaluate(self, args, state, control, **kwargs):
        self.seen.append(("evaluated", state.global_step))

    def on_save(self, args, state, control, **kwargs):
        self.seen.append(("saved", state.global_step))


@pytest.mark.parametrize(
    ("words", "stop_after", "expected"),
    [
        (("--num_train_epochs", "2"), None, [("evaluated", 6), ("saved", 6), ("evaluated", 12), ("saved", 12)]),
        (("--max_steps", "8"), None, [("evaluated", 6), ("saved", 6), ("evaluated", 8), ("saved", 8)]),
        (("--num_train_epochs", "2"), 4, [("saved", 4)]),
        (("--num_train_epochs", "2"), 6, [("evaluated", 6), ("saved", 6)]),
    ],
)
def test_an_epoch_is_evaluated_before_its_checkpoint_and_only_at_its_end(words, stop_after, expected, workspace):
    trainer, _ = trainer_on(
        RECIPE, "--eval_strategy", "epoch", "--save_strategy", "steps", "--save_steps", "6", *words
    )
    notes = Notes(stop_after)
    trainer.add_callback(EvaluatesEpochs())
    trainer.add_callback(notes)
    trainer.train()
    assert notes.seen == expected


def test_early_stopping_continues_to_count_in_a_resumed_run():
    args = SimpleNamespace(metric_for_best_model="loss", greater_is_better=False)
    told = []

    def evaluated(callback, state, loss):
        control = TrainerControl()
        callback.on_evaluate(args, state, control, {"eval_loss": loss})
        return control.should_training_stop

    def begun(callback, state):
        control = TrainerControl()
        callback.on_train_begin(args, state, control)
        return control.should_training_stop

    first = StopsEarly(2, told.append)
    state = TrainerState(stateful_callbacks=[first], best_metric=1.0, best_global_step=3, global_step=6, max_steps=9)
    assert not begun(first, state) and not evaluated(first, state, 1.5)
    state.stateful_callbacks["StopsEarly"] = first.state()  # as in a checkpoint
    resumed = StopsEarly(2, told.append)
    assert not begun(resumed, state) and not told
    assert evaluated(resumed, state, 1.2)
    assert told == ["stopping after step 6 of 9: no better loss than that of step 3 in 2 evaluations in a row"]
    state.stateful_callbacks["StopsEarly"] = resumed.state()
    assert begun(StopsEarly(2, told.append), state)  # there is nothing left to train
    # A checkpoint from before the recipe had the field.
    state.stateful_callbacks.clear()
    assert not begun(StopsEarly(2, told.append), state) and "StopsEarly" in state.stateful_callbacks
