"""The training core against naive references: loss, gradients, what is scored, what is left out, what is saved."""

import json
import math
from pathlib import Path

import accelerate.accelerator
import pytest
import torch
import torch.nn.functional as F  # noqa: N812  (the field's usual name)
from accelerate.data_loader import prepare_data_loader as prepare
from accelerate.data_loader import skip_first_batches
from conftest import TINY_REPORT_RECIPE
from datasets import Dataset
from tiny_model import build_tiny_model, build_tiny_tokenizer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    LlamaForCausalLM,
    TrainerState,
    trainer_utils,
)
from trl import SFTTrainer

from radrecipes.data.prepared import load_prepared_dataset
from radrecipes.errors import InputError
from radrecipes.models import base as models
from radrecipes.models.weights import lora_config, weights_in
from radrecipes.recipe import parse_recipe
from radrecipes.tasks.protocol import ProtocolTask
from radrecipes.training import trainer as training
from radrecipes.training.checkpoints import Progress
from radrecipes.training.collators import IGNORED, PaddedCollator, SharedPrefixCollator
from radrecipes.training.data import fitting_rows, load_training_data, render_rows
from radrecipes.training.grpo_trainer import grpo_trainer
from radrecipes.training.interruption import StopRequests
from radrecipes.training.layout_check import check_layout
from radrecipes.training.stages import stage_of

RECIPE = "recipes/tiny/protocol_lora.yaml"
FULL_RECIPE = "recipes/tiny/protocol_full.yaml"
_SIZE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.3,  # large, so that attention decides the output and a wrong mask shows
}
_NO_DROPOUT = {
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "activation_dropout": 0.0,
    "layerdrop": 0.0,
}
ARCHITECTURES = {
    "llama, grouped queries": ("llama", "eager", {}),
    "llama, sdpa": ("llama", "sdpa", {}),
    "llama, a key a query": ("llama", "eager", {"num_key_value_heads": 4}),
    "qwen3": ("qwen3", "eager", {"head_dim": 8}),
    "gemma2, logits soft-capped": (
        "gemma2",
        "eager",
        {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 128, "final_logit_softcapping": 3.0},
    ),
    "gemma3, sliding window": (
        "gemma3_text",
        "sdpa",
        {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 64},
    ),
    "mistral": ("mistral", "eager", {"sliding_window": None}),
    "phi3": ("phi3", "eager", {}),
    "biogpt, learned positions": ("biogpt", "eager", _NO_DROPOUT),
}


def tiny_architecture(architecture, attention="eager", **changes):
    config = AutoConfig.for_model(architecture, vocab_size=len(build_tiny_tokenizer()), **{**_SIZE, **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=attention)


def random_examples(count=5, seed=1, shared=10):
    """Examples that share a beginning, with prompts and answers of many lengths."""
    source = torch.Generator().manual_seed(seed)

    def tokens(number):
        return torch.randint(3, 250, (number,), generator=source).tolist()

    beginning = [1, *tokens(shared - 1)]
    examples = []
    for number in range(count):
        prompt, answer = beginning + tokens(3 + 5 * number % 17), [*tokens(1 + number % 4), 2]
        examples.append({"input_ids": prompt + answer, "labels": [IGNORED] * len(prompt) + answer})
    return examples


def rows_of(examples):
    return Dataset.from_dict({key: [example[key] for example in examples] for key in ("input_ids", "labels")})


def trainer_for(model, examples, *overrides, kind=training.sft_trainer, recipe=RECIPE):
    """A trainer of a tiny recipe, every B matrix random: with B = 0 no gradient would reach A."""
    recipe = parse_recipe(recipe, ["--output_dir", "runs/test", *overrides])
    training.divide_batch(recipe, 1)
    trainer = kind(recipe, model, build_tiny_tokenizer(), rows_of(examples))
    source = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=source) * 0.1)
    return trainer


def plain_trl_trainer(recipe, model, tokenizer, rows):
    return SFTTrainer(
        model=model,
        args=recipe.training,
        data_collator=PaddedCollator(tokenizer.pad_token_id),
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=lora_config(recipe.model),
    )


def gradients(model, loss):
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


def naive_loss(model, examples):
    """Each example alone through the plain model, all its logits, the usual cross-entropy."""
    total, count = 0.0, 0
    for example in examples:
        logits = model(input_ids=torch.tensor([example["input_ids"]])).logits[0, :-1]
        targets = torch.tensor(example["labels"][1:])
        total = total + F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
        count += int((targets != IGNORED).sum())
    return total / count


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_loss_and_gradients_equal_each_example_alone(name, workspace):
    architecture, attention, changes = ARCHITECTURES[name]
    examples = random_examples()
    trainer = trainer_for(tiny_architecture(architecture, attention, **changes), examples)
    model = trainer.model.train()
    shared = SharedPrefixCollator(0, torch.float32, row_tokens=48)(examples)
    assert 1 < len(shared["input_ids"]) < len(examples)  # several rows, and several examples in a row

    reference = naive_loss(model, examples)
    reference_gradients = gradients(model, reference)
    assert all(float(gradient.abs().max()) > 1e-4 for gradient in reference_gradients.values())
    for batch in (shared, PaddedCollator(0)(examples)):
        loss = trainer.compute_loss(model, batch)
        assert float(loss.detach()) == pytest.approx(float(reference.detach()), abs=1e-5)
        for parameter, gradient in gradients(model, loss).items():
            scale = max(float(reference_gradients[parameter].abs().max()), 1.0)
            torch.testing.assert_close(gradient, reference_gradients[parameter], atol=1e-5 * scale, rtol=1e-4)
    check_layout(trainer)


def test_loss_and_gradients_equal_trls_own(workspace):
    examples = random_examples()
    ours = trainer_for(tiny_architecture("llama"), examples)
    theirs = trainer_for(tiny_architecture("llama"), examples, kind=plain_trl_trainer)

    for count in (None, torch.tensor(40)):
        loss = ours.compute_loss(ours.model, PaddedCollator(0)(examples), num_items_in_batch=count)
        expected = theirs.compute_loss(theirs.model, PaddedCollator(0)(examples), num_items_in_batch=count)
        assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-5)
        wanted = gradients(theirs.model, expected)
        for name, gradient in gradients(ours.model, loss).items():
            torch.testing.assert_close(gradient, wanted[name], atol=1e-5, rtol=1e-4)


def test_gradient_accumulation_changes_nothing(workspace):
    examples = random_examples(count=16)
    trained = []
    for micro in (16, 8):
        words = ["--global_batch_size", "16", "--per_device_train_batch_size", str(micro), "--max_grad_norm", "0"]
        trainer = trainer_for(
            tiny_architecture("llama"),
            examples,
            *words,
            "--max_steps",
            "1",
            "--optim",
            "sgd",
            "--learning_rate",
            "0.1",
        )
        before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
        assert trainer.args.gradient_accumulation_steps == 16 // micro
        trainer.train()
        trained.append({name: weight.detach() for name, weight in trainer.model.named_parameters()})
    assert any(not torch.equal(before[name], weight) for name, weight in trained[0].items())
    for name, weight in trained[0].items():
        torch.testing.assert_close(trained[1][name], weight, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("layout", ["shared_prefix", "padded"])
def test_only_scored_positions_reach_the_head(layout, workspace):
    examples = random_examples()
    trainer = trainer_for(tiny_architecture("llama"), examples, "--batch_layout", layout)
    rows_seen = []
    head = trainer.model.get_output_embeddings()
    head.register_forward_hook(lambda module, args, output: rows_seen.append(output.shape))

    trainer.compute_loss(trainer.model, trainer.data_collator(examples))
    scored = sum(label != IGNORED for example in examples for label in example["labels"])
    filled = -(-scored // 32) * 32  # to a multiple of 32, far fewer than all positions
    assert rows_seen == [torch.Size([filled, len(trainer.processing_class)])]


def test_a_batch_without_scored_tokens_has_a_finite_loss(workspace):
    trainer = trainer_for(tiny_architecture("llama"), random_examples())
    batch = PaddedCollator(0)([{"input_ids": [1, 3, 4], "labels": [IGNORED] * 3}])
    assert float(trainer.compute_loss(trainer.model, batch).detach()) == 0.0


class MaskIgnoringLlama(LlamaForCausalLM):
    """A model whose attention takes no mask of its own."""

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, **kwargs):
        return super().forward(input_ids=input_ids, **kwargs)


RECURRENT = {
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "attn_layer_indices": [1],
}
# What they do wrong in a shared-prefix row: read the examples before, or count positions from the beginning of the row.
UNFIT = {
    "a model that ignores the mask": (lambda: MaskIgnoringLlama(tiny_architecture("llama").config), "depends on the other"),
    "bamba, a state": (lambda: tiny_architecture("bamba", **RECURRENT), "depends on the other"),
    "rwkv, only states": (lambda: tiny_architecture("rwkv"), "depends on the other"),
    "lfm2, convolutions": (lambda: tiny_architecture("lfm2", layer_types=["conv", "full_attention"]), "depends on the other"),
    "mpt, distances": (lambda: tiny_architecture("mpt", n_heads=4, d_model=32, n_layers=2), "differs from that in a padded"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNFIT)
def test_check_layout_refuses_what_gives_a_single_token_another_score(name, workspace):
    build, said = UNFIT[name]
    torch.manual_seed(0)
    adapted = {"bamba, a state": ["--lora_target_modules", "[in_proj]"]}.get(
        name, []
    )  # PEFT cannot adapt its out_proj
    trainer = trainer_for(build(), random_examples(), *adapted)
    with pytest.raises(InputError, match=f"{said}.*batch_layout: padded"):
        check_layout(trainer)


def test_check_layout_refuses_a_model_that_takes_no_mask_of_its_own(workspace):
    trainer = trainer_for(tiny_architecture("bloom", n_head=4), random_examples())
    with pytest.raises(InputError, match=r"cannot score a shared-prefix batch.*batch_layout: padded"):
        check_layout(trainer)


def test_check_layout_leaves_the_padded_layout_alone(workspace):
    trainer = trainer_for(tiny_architecture("bloom", n_head=4), random_examples(), "--batch_layout", "padded")
    check_layout(trainer)


@pytest.mark.parametrize(
    "global_batch, micro, processes, expected",
    [(16, 16, 1, (16, 1)), (16, 8, 1, (8, 2)), (16, 16, 4, (4, 1)), (16, 2, 2, (2, 4)), (1, 1, 1, (1, 1))],
)
def test_divide_batch(global_batch, micro, processes, expected, workspace):
    words = ["--global_batch_size", str(global_batch), "--per_device_train_batch_size", str(micro)]
    recipe = parse_recipe(RECIPE, words)
    training.divide_batch(recipe, processes)
    args = recipe.training
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == expected


@pytest.mark.parametrize("global_batch, micro, processes, names", [(16, 16, 3, "3 processes"), (24, 8, 2, "size 8")])
def test_divide_batch_refuses_what_does_not_divide(global_batch, micro, processes, names, workspace):
    words = ["--global_batch_size", str(global_batch), "--per_device_train_batch_size", str(micro)]
    with pytest.raises(InputError, match=names):
        training.divide_batch(parse_recipe(RECIPE, words), processes)


def tokenise_tiny(max_length=160, allowed=0.0, style="chat"):
    split = load_prepared_dataset("data/tiny").splits["train"]
    tokenizer = build_tiny_tokenizer()
    stops = models.stop_token_ids(tokenizer)
    table = render_rows(split, ProtocolTask(), tokenizer, style, stops)
    return split, fitting_rows(table, split["id"][:], max_length, allowed)


@pytest.mark.parametrize("style", ["chat", "plain"])
def test_tokenise_scores_exactly_the_answer_and_its_stop_token(style, workspace):
    split, found = tokenise_tiny(style=style)
    tokenizer = build_tiny_tokenizer()

    assert len(found.rows) == len(split) and found.too_long == []
    assert found.longest == max(map(len, found.rows["input_ids"]))
    assert found.tokens == sum(map(len, found.rows["input_ids"]))
    assert found.scored_tokens == sum(label != IGNORED for labels in found.rows["labels"] for label in labels)
    for row, tokenised in zip(split, found.rows, strict=True):
        first = next(index for index, label in enumerate(tokenised["labels"]) if label != IGNORED)
        scored = tokenised["labels"][first:]
        assert IGNORED not in scored and scored == tokenised["input_ids"][first:]
        assert scored[-1] == tokenizer.eos_token_id and tokenizer.eos_token_id not in scored[:-1]
        assert tokenizer.decode(scored[:-1]).strip() == row["label"]
        assert row["note"] in tokenizer.decode(tokenised["input_ids"][:first])


def test_tokenise_leaves_out_and_counts_rows_that_are_too_long(workspace):
    split, whole = tokenise_tiny()
    lengths = [len(ids) for ids in whole.rows["input_ids"]]
    limit = sorted(set(lengths))[-2]
    longer = [number for number, length in enumerate(lengths, start=1) if length > limit]
    assert longer
    _, found = tokenise_tiny(max_length=limit, allowed=0.5)

    assert found.too_long == longer
    assert len(found.rows) == len(split) - len(longer) and found.longest == limit


def test_tokenise_refuses_more_long_rows_than_allowed(workspace):
    _, whole = tokenise_tiny()
    limit = whole.longest - 1
    first = [len(ids) for ids in whole.rows["input_ids"]].index(whole.longest) + 1
    with pytest.raises(InputError, match=rf"max_length {limit} .*row {first} of train.parquet"):
        tokenise_tiny(max_length=limit)
    with pytest.raises(InputError, match="max_length"):
        tokenise_tiny(max_length=3, allowed=1.0)  # nothing would be left


def test_tokenise_refuses_an_empty_split(workspace):
    split = load_prepared_dataset("data/tiny").splits["train"].select([])
    table = render_rows(split, ProtocolTask(), build_tiny_tokenizer(), "chat", [2])
    with pytest.raises(InputError, match="no rows"):
        fitting_rows(table, [], 160, 0.0)


def test_a_real_run_learns_logs_and_saves_an_adapter_that_loads_equal(workspace):
    recipe = parse_recipe(RECIPE, ["--max_steps", "6", "--output_dir", "runs/test"])
    training.divide_batch(recipe, 1)
    _, tokenised = tokenise_tiny()
    base = models.load_base(recipe.model, training.longest_row(recipe))
    tokenizer = models.load_tokenizer(recipe.model)
    trainer = training.sft_trainer(recipe, base, tokenizer, tokenised.rows)
    log = training.TrainLog(workspace / "train_log.jsonl", Progress())
    trainer.add_callback(log)
    check_layout(trainer)
    trainer.train()

    lines = [json.loads(line) for line in log.path.read_text(encoding="utf-8").splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    assert all({"epoch", "learning_rate", "grad_norm", "seconds"} <= line.keys() for line in steps)
    assert [line["seconds"] for line in lines] == sorted(line["seconds"] for line in lines)
    assert all(math.isfinite(line["loss"]) for line in steps) and steps[-1]["loss"] < steps[0]["loss"] - 0.05

    # A checkpoint's state has the same lines, with which a resumed run begins its log.
    trainer.state.save_to_json(str(workspace / "state.json"))
    state = TrainerState.load_from_json(str(workspace / "state.json"))
    training.TrainLog(workspace / "resumed.jsonl", Progress()).on_train_begin(trainer.args, state, trainer.control)
    assert [json.loads(line) for line in (workspace / "resumed.jsonl").read_text("utf-8").splitlines()] == lines

    probe = tokenised.rows[0]["input_ids"]
    check = training.save_and_verify(trainer, recipe, weights_in(workspace / "adapter"), probe)
    assert check["largest_b"] > 0 and check["output_change"] > 0
    trained = trainer.model.eval()
    fresh = models.load_base(recipe.model, training.longest_row(recipe))
    loaded = weights_in(workspace / "adapter").load(fresh, recipe.model)
    with torch.no_grad():
        torch.testing.assert_close(
            loaded(input_ids=torch.tensor([probe])).logits, trained(input_ids=torch.tensor([probe])).logits
        )


@pytest.mark.parametrize(("save_steps", "warnings"), [("0.5", 0), ("2", 1)])
def test_resuming_warns_of_another_number_of_steps_but_not_of_a_fraction(save_steps, warnings, workspace, monkeypatch):
    words, warned = ("--max_steps", "6", "--save_steps"), []
    trainer_for(tiny_architecture("llama"), random_examples(16), *words, "0.5").train()
    resumed = trainer_for(tiny_architecture("llama"), random_examples(16), *words, save_steps)
    monkeypatch.setattr(trainer_utils.logger, "warning_once", warned.append)
    training.train(resumed, Path("runs/test/checkpoint-3"), StopRequests())
    assert resumed.state.global_step == 6
    assert len(warned) == warnings and all("save_steps: 2 (from args) != 3" in line for line in warned)


def test_an_untrained_adapter_is_not_saved_as_a_result(workspace):
    recipe = parse_recipe(RECIPE)
    trainer = trainer_for(tiny_architecture("llama"), random_examples())
    for name, parameter in trainer.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.zeros_(parameter)
    with pytest.raises(InputError, match="nothing was trained; raise learning_rate"):
        training.save_and_verify(trainer, recipe, weights_in(workspace / "adapter"), [1, 3, 4])


# What this project relies on in TRL and Transformers; one of these fails if an upgrade removes it.


def test_trl_keeps_rows_with_labels_as_they_are(workspace):
    examples = random_examples()
    trainer = trainer_for(tiny_architecture("llama"), examples)
    assert trainer.train_dataset.to_list() == [{**example} for example in examples]


def test_a_shipped_chat_template_needs_no_checkout(workspace):
    template = "recipes/chat_templates/qwen3.jinja"
    assert not (workspace / template).exists()
    trainer = trainer_for(tiny_architecture("llama"), random_examples(), f"--chat_template_path={template}")
    assert trainer.processing_class.chat_template == build_tiny_tokenizer().chat_template


def test_trl_forward_without_its_fused_head_gives_plain_logits(workspace):
    model = tiny_architecture("llama")
    ids = torch.tensor([[1, 5, 6, 7]])
    wanted = model(input_ids=ids).logits
    trainer = trainer_for(model, random_examples())
    with trainer.model.disable_adapter():
        torch.testing.assert_close(trainer.model(input_ids=ids).logits, wanted)


def test_trainer_counts_the_scored_tokens_of_all_accumulated_batches(workspace):
    examples = random_examples(count=4)
    trainer = trainer_for(tiny_architecture("llama"), examples)
    batches = [trainer.data_collator(examples[:2]), trainer.data_collator(examples[2:])]
    _, count = trainer.get_batch_samples(iter(batches), 2, torch.device("cpu"))
    assert int(count) == sum(label != IGNORED for example in examples for label in example["labels"])


def test_a_bfloat16_recipe_runs_under_autocast_with_a_float32_adapter(workspace):
    examples = random_examples()
    model = tiny_architecture("llama").to(torch.bfloat16)
    trainer = trainer_for(model, examples, "--dtype", "bfloat16", "--max_steps", "1")

    adapter = {weight.dtype for name, weight in trainer.model.named_parameters() if "lora_" in name}
    assert adapter == {torch.float32} and trainer.args.bf16
    assert trainer.data_collator(examples)["attention_mask"].dtype == torch.bfloat16
    check_layout(trainer)
    autocast = []
    trainer.model.get_output_embeddings().register_forward_hook(
        lambda *parts: autocast.append(torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu"))
    )
    read = set()
    for name, module in trainer.model.named_modules():
        if name.endswith("lora_A.default"):
            module.register_forward_pre_hook(lambda module, args: read.add(args[0].dtype))
    training.train(trainer, None, StopRequests())
    assert autocast == [torch.bfloat16]
    assert read == {torch.bfloat16}  # no copy in float32 is kept for the backward pass
    reference = trainer_for(tiny_architecture("llama"), examples)
    expected = float(naive_loss(reference.model, examples).detach())
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected, rel=0.03)
    assert {weight.dtype for name, weight in trainer.model.named_parameters() if "lora_" in name} == {torch.float32}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_all_weights_in_bfloat16_are_checked_as_they_are_trained(attention, workspace):
    """The weights are in float32 and the mask in bfloat16, which SDPA takes under autocast only."""
    examples, options = random_examples(), ("--dtype", "bfloat16", "--max_steps", "1")
    trainer = trainer_for(tiny_architecture("llama", attention), examples, *options, recipe=FULL_RECIPE)
    check_layout(trainer)
    training.train(trainer, None, StopRequests())
    expected = float(naive_loss(tiny_architecture("llama"), examples).detach())
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("bits", [4, 8])
def test_checking_the_layout_leaves_quantised_layers_their_gradients(bits, workspace):
    """In evaluation mode bitsandbytes can repack 4-bit weights, and a packed layer answers without passing gradients back."""
    folder = build_tiny_model(workspace / "models", "tiny/wide", hidden_size=128)
    quantisation = BitsAndBytesConfig(
        load_in_4bit=bits == 4, load_in_8bit=bits == 8, bnb_4bit_compute_dtype=torch.float32
    )
    examples = random_examples()
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, quantization_config=quantisation)
    trainer = trainer_for(base, examples)
    batch = PaddedCollator(0)(examples)
    before = gradients(trainer.model.train(), trainer.compute_loss(trainer.model, dict(batch)))
    check_layout(trainer)
    after = gradients(trainer.model, trainer.compute_loss(trainer.model, dict(batch)))
    for name, gradient in before.items():
        assert float(gradient.abs().max()) > 0, name
        torch.testing.assert_close(after[name], gradient, msg=name)


def grpo_recipe(*overrides):
    """A recipe of the stage `grpo` with two texts to each prompt."""
    recipe = Path("recipes/tiny/report_grpo.yaml")
    fields = "stage: grpo\nstart_from: recipes/tiny/report_lora.yaml\nnum_generations: 2\n"
    recipe.write_text(TINY_REPORT_RECIPE.replace("report_lora", "report_grpo") + fields, encoding="utf-8")
    return parse_recipe(recipe, ["--output_dir", "runs/test", *overrides])


@pytest.mark.parametrize("processes", [1, 2])
def test_grpo_resumed_in_its_second_epoch_continues_with_the_prompts_of_that_epoch(processes, workspace, monkeypatch):
    recipe = grpo_recipe("--global_batch_size", "8", "--per_device_train_batch_size", "4")
    training.divide_batch(recipe, processes)
    data, base = load_training_data(recipe), models.load_base(recipe.model)
    trainer = grpo_trainer(recipe, base, data, write=None)
    of_first = {"num_processes": processes, "process_index": 0}
    monkeypatch.setattr(
        accelerate.accelerator, "prepare_data_loader", lambda *args, **kwargs: prepare(*args, **{**kwargs, **of_first})
    )

    def prompts(skipped, epoch):
        loader = trainer.get_train_dataloader()
        loader = skip_first_batches(loader, skipped) if skipped else loader
        loader.set_epoch(epoch)
        return [[row["index"] for row in batch] for batch in loader]

    first, second = prompts(0, 0), prompts(0, 1)
    assert first != second
    assert prompts(3, 0) == first[3:] and prompts(3, 1) == second[3:]


def test_grpo_needs_enough_prompts_for_a_step(workspace):
    rows = len(load_prepared_dataset("data/tiny_reports").splits["train"])

    def load(texts):
        recipe = grpo_recipe("--global_batch_size", str(texts), "--per_device_train_batch_size", "2")
        return stage_of(recipe).load_data(recipe)

    assert len(load(2 * rows).rows.rows) == rows
    with pytest.raises(InputError, match=rf"global_batch_size {2 * rows + 2} takes {rows + 1} prompts .*are {rows};"):
        load(2 * rows + 2)
