"""Training of a classification head: loss and gradients of each row alone, whatever the layout, and the order of the rows."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  (the field's usual name)
from datasets import Dataset
from tiny_model import build_tiny_encoder, build_tiny_model

from radrecipes.data.prepared import load_prepared_dataset
from radrecipes.errors import InputError
from radrecipes.models.base import load_base, load_tokenizer
from radrecipes.recipe import parse_recipe
from radrecipes.training.collators import IGNORED, PaddedCollator, SharedPrefixCollator
from radrecipes.training.data import check_data, load_training_data
from radrecipes.training.head_trainer import head_trainer
from radrecipes.training.layout_check import check_layout
from radrecipes.training.sampler import EpochSampler, SimilarLengthSampler
from radrecipes.training.trainer import divide_batch

RECIPE, WRITES = "recipes/tiny/protocol_head.yaml", "recipes/tiny/protocol_lora.yaml"
LABELS = ["CT Head", "MR Brain", "MR Knee", "XR"]


def recipe_of(*overrides):
    return parse_recipe(RECIPE, ["--label_smoothing_factor", "0", "--output_dir", "runs/test", *overrides])


def random_rows(count=6, shared=10):
    source = torch.Generator().manual_seed(1)
    beginning = torch.randint(5, 90, (shared,), generator=source).tolist()
    rests = [torch.randint(5, 90, (3 + 5 * n % 17,), generator=source).tolist() for n in range(count)]
    return [
        {"input_ids": beginning + rest, "labels": [IGNORED] * (shared + len(rest) - 1) + [n % len(LABELS)]}
        for n, rest in enumerate(rests)
    ]


def trainer_for(rows, *overrides):
    """A trainer with random B matrices: with B = 0 no gradient would reach A."""
    recipe = recipe_of(*overrides)
    divide_batch(recipe, 1)
    torch.manual_seed(3)
    base = load_base(recipe.model, labels=LABELS)
    table = Dataset.from_dict({key: [row[key] for row in rows] for key in ("input_ids", "labels")})
    trainer = head_trainer(recipe, base, load_tokenizer(recipe.model), table)
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)) * 0.1)
    return trainer


def naive_loss(model, rows, smoothing=0.0):
    logits = [model(input_ids=torch.tensor([row["input_ids"]])).logits for row in rows]
    targets = torch.tensor([row["labels"][-1] for row in rows])
    return F.cross_entropy(torch.cat(logits), targets, label_smoothing=smoothing)


def gradients(model, loss):
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma3_text", "biogpt", "bert"])
def test_loss_and_gradients_equal_each_row_alone(architecture, workspace):
    build = build_tiny_encoder if architecture == "bert" else build_tiny_model
    fields = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "activation_dropout": 0.0}
    architectures = () if architecture == "bert" else (architecture,)
    build(workspace / "models", "tiny/new", *architectures, initializer_range=0.3, **fields)
    words = ["--model_name_or_path", "tiny/new"]
    if architecture == "bert":
        words += ["--batch_layout", "padded"]
    rows = random_rows()
    trainer = trainer_for(rows, *words)
    model = trainer.model.train()
    trainer.args.label_smoothing_factor = 0.1
    expected = naive_loss(model, rows, 0.1)
    wanted = gradients(model, expected)
    assert any("score" in name or "classifier" in name for name in wanted) and any("lora_A" in name for name in wanted)
    layouts = [PaddedCollator(0)(rows)]
    if architecture != "bert":
        layouts.append(SharedPrefixCollator(0, torch.float32, row_tokens=48)(rows))
        assert 1 < len(layouts[1]["input_ids"]) < len(rows)  # several rows, and several examples in a row
    for batch in layouts:
        loss = trainer.compute_loss(model, batch)
        assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-5)
        for name, gradient in gradients(model, loss).items():
            assert float(wanted[name].abs().max()) > 1e-6, name
            scale = max(float(wanted[name].abs().max()), 1.0)
            torch.testing.assert_close(gradient, wanted[name], atol=1e-5 * scale, rtol=1e-4)
    check_layout(trainer)


def test_a_step_of_several_batches_is_one_step(workspace):
    rows, trained = random_rows(16), []
    for micro in ("16", "4"):
        words = (
            "--global_batch_size",
            "16",
            "--per_device_train_batch_size",
            micro,
            "--max_steps",
            "1",
            "--optim",
            "sgd",
        )
        trainer = trainer_for(rows, *words, "--max_grad_norm", "0", "--learning_rate", "0.5")
        before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
        trainer.train()
        trained.append({name: weight.detach() for name, weight in trainer.model.named_parameters()})
    changed = {name for name, weight in trained[0].items() if not torch.equal(weight, before[name])}
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in changed} >= {"default"}
    assert any("score" in name for name in changed)
    for name, weight in trained[0].items():
        torch.testing.assert_close(trained[1][name], weight, atol=1e-5, rtol=1e-4)


def test_a_batch_of_empty_rows_has_no_loss_and_gradients_of_zero(workspace):
    trainer = trainer_for(random_rows())
    batch = {
        "input_ids": torch.tensor([[0]]),
        "labels": torch.tensor([[IGNORED]]),
        "attention_mask": torch.tensor([[1]]),
    }
    loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=torch.tensor(6))
    assert float(loss.detach()) == 0 and all(
        float(it.abs().max()) == 0 for it in gradients(trainer.model, loss).values()
    )


def test_rows_of_a_head_are_prompts_with_the_index_of_their_label(workspace):
    data = load_training_data(recipe_of())
    dataset = load_prepared_dataset("data/tiny")
    assert data.labels == dataset.label_set.names and data.stops == []
    for number, (row, source) in enumerate(zip(data.rows.rows, dataset.splits["train"], strict=True)):
        assert row["labels"][:-1] == [IGNORED] * (len(row["input_ids"]) - 1)
        prompt, label = data.prompt_and_answer(number)
        assert prompt.endswith(f"{source['note']}<|im_end|>\n<|im_start|>assistant\n") and label == source["label"]
    assert check_data(recipe_of()).endswith("left out, 4 labels")
    # Neither the answers of a language model nor the tokens of another label set are taken from the cache
    keys = {
        len(load_training_data(recipe, keep=True).rows.rows[0]["labels"])
        for recipe in (recipe_of(), parse_recipe(WRITES))
    }
    assert len(keys) == 2 and len(list((workspace / "data/tiny/.tokenised").glob("*.arrow"))) == 2


def test_an_encoder_reads_the_note_alone(workspace):
    build_tiny_encoder(workspace / "models", "tiny/bert")
    words = ("--model_name_or_path", "tiny/bert", "--prompt_style", "input")
    with pytest.raises(InputError, match="is an encoder, in a shared-prefix batch each example would read the others"):
        load_training_data(recipe_of(*words))
    data = load_training_data(recipe_of(*words, "--batch_layout", "padded"))
    note = data.dataset.splits["train"]["note"][0]
    assert data.rows.rows[0]["input_ids"] == data.tokenizer(note)["input_ids"]
    with pytest.raises(InputError, match="is an encoder, which writes no text; set `decode: head`"):
        load_training_data(parse_recipe(WRITES, ["--model_name_or_path", "tiny/bert", "--prompt_style", "plain"]))


def test_rows_of_a_step_have_similar_lengths_in_another_order_each_epoch():
    source = torch.Generator().manual_seed(0)
    lengths = torch.randint(5, 60, (1001,), generator=source).tolist()
    sampler = SimilarLengthSampler(lengths, 8, seed=7)
    first, second = list(sampler), list(sampler)
    assert sorted(first) == sorted(second) == list(range(1001)) and first != second
    padding = sum(
        max(step) * len(step) - sum(step)
        for step in ([lengths[row] for row in first[start : start + 8]] for start in range(0, 1001, 8))
    )
    assert padding < 0.03 * sum(lengths)
    # The same epoch again, also after a resume
    sampler.set_epoch(1)
    assert list(sampler) == second
    filled = EpochSampler(SimilarLengthSampler(lengths, 8, seed=7), 8)
    assert list(filled) == [*first, *[1001] * 7] and len(filled) == 1008
