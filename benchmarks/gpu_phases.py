"""The phases of gpu.py, each a function of its rows, the scratch folder and the size."""

import importlib
import json
import runpy
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import radrecipes  # noqa: F401  (before any library: turns telemetry off)

# isort: split
import datasets
import torch
import transformers.trainer
from datasets import Dataset
from gpu_measuring import (
    Rows,
    Size,
    StepClock,
    end_to_end,
    known_as,
    median_seconds,
    register_varlen,
    utilisation,
)
from peft.helpers import disable_input_dtype_casting
from sklearn.metrics import f1_score
from transformers import AutoConfig, AutoModelForCausalLM

from radrecipes import environment
from radrecipes.data.label_sets import LabelSet
from radrecipes.data.prepared import load_prepared_dataset
from radrecipes.data.synthetic_protocol.generator import generate_orders
from radrecipes.evaluation.reproduction import prediction_interval
from radrecipes.evaluation.results import results_path
from radrecipes.inference.generation import generate
from radrecipes.inference.label_scoring import LabelScorer
from radrecipes.inference.predictors import LabelPredictor
from radrecipes.models import base as models
from radrecipes.models.compute_dtype import compute_dtype, measure_products
from radrecipes.planning.basis import Basis
from radrecipes.planning.counting import count_padded_tokens, lay_out
from radrecipes.planning.gpu_plan import make_gpu_plan
from radrecipes.planning.gpus import GPUS
from radrecipes.recipe import Recipe, parse_recipe
from radrecipes.tasks import TASKS
from radrecipes.tasks.rendering import render_completions, render_prompts
from radrecipes.training import trainer as training
from radrecipes.training.collators import IGNORED, PaddedCollator, SharedPrefixCollator
from radrecipes.training.data import fitting_rows, render_rows
from radrecipes.training.interruption import StopRequests
from radrecipes.training.layout_check import check_layout

SEED = 7
PROTOCOL_RECIPE = "recipes/meditron-7b/protocol_qlora.yaml"
REPORT_RECIPE = "recipes/biogpt-large/report_lora_8bit.yaml"
REAL_RECIPE = "recipes/smollm2-135m/protocol_lora.yaml"
LABELS = "data/label_sets/protocol_ct_mr.yaml"
# Model ids of the random models of real shapes.
MEDITRON, BIOGPT, SMOLLM2 = "benchmark/meditron-7b-shape", "benchmark/biogpt-large-shape", "benchmark/smollm2-shape"
_NO = "'no'"  # values on the command line are YAML, in which a bare no is false
FACTS = "facts.json"  # of the machine, written by the first phase: the parent process must not use the GPU


def machine(rows: Rows, scratch: Path, size: Size) -> None:
    """Peak rates of this machine: matrix products and copies."""
    facts: dict[str, Any] = {"hardware": environment.hardware()}
    with rows.attempt("versions", "packages and hardware, stored with the rows"):
        facts["versions"] = environment.packages()
    (scratch / FACTS).write_text(json.dumps(facts), encoding="utf-8")
    with rows.attempt("copy", "bytes read and written per second") as found:
        block = torch.empty(2**29 if size.on_gpu else 2**20, dtype=torch.bfloat16, device=size.device).normal_()
        found["bytes_per_second"] = round(2 * block.nbytes / median_seconds(block.clone, size.on_gpu))
    shape = size.shapes[MEDITRON]
    layer = (shape["intermediate_size"], shape["hidden_size"])
    for tokens in size.product_tokens:
        with rows.attempt(
            f"products_{tokens}", f"bfloat16 product of {tokens} tokens with a layer of {layer}"
        ) as found:
            rate = measure_products(torch.bfloat16, tokens, layer, 1.0 if size.on_gpu else 0.05)
            found["tflops"] = round(rate / 1e12, 3)


def weights(rows: Rows, scratch: Path, size: Size) -> None:
    """Random weights of the real shapes, and notes as token ids, on disk for the other phases."""
    tokenizer = models.load_tokenizer(parse_recipe(REAL_RECIPE).model)
    for model_id, shape in size.shapes.items():
        with rows.attempt(model_id, "random weights, created and saved") as found:
            began = time.perf_counter()
            torch.manual_seed(0)
            config = AutoConfig.for_model(**shape, bos_token_id=1, eos_token_id=2, pad_token_id=0)
            with torch.device(size.device):
                model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, trust_remote_code=False)
            model.save_pretrained(scratch / "models" / model_id, max_shard_size="4GB")
            tokenizer.save_pretrained(scratch / "models" / model_id)
            found.update(parameters=model.num_parameters(), seconds=round(time.perf_counter() - began, 1))
            del model

    label_set = LabelSet.load(LABELS)
    orders = [
        order | {"label": label_set.canonical(order["label"])} for order in generate_orders(SEED, size.tokenised)
    ]
    stops = models.stop_token_ids(tokenizer)
    longest = parse_recipe(PROTOCOL_RECIPE).training.max_length
    began = time.perf_counter()
    split = Dataset.from_list(orders)
    table = render_rows(split, TASKS["protocol"], tokenizer, "plain", stops)
    tokenised = fitting_rows(table, split["id"][:], longest, max_dropped_fraction=0.05)
    seconds = time.perf_counter() - began
    # Ids beyond the vocabulary of the shape are folded into it.
    known = size.shapes[MEDITRON]["vocab_size"]
    folded = tokenised.rows.map(
        lambda row: {
            "input_ids": [token % known for token in row["input_ids"]],
            "labels": [label if label == IGNORED else label % known for label in row["labels"]],
        }
    )
    (scratch / "rows").mkdir(exist_ok=True)
    folded.to_parquet(scratch / "rows" / "train.parquet")
    lengths = [len(ids) for ids in folded["input_ids"]]
    rows.add(
        "tokenise",
        "rendering and tokenising the notes in one process, with SmolLM2's tokenizer and without a chat template",
        notes_per_second=round(len(orders) / seconds),
        mean_tokens=round(statistics.fmean(lengths), 2),
        longest=max(lengths),
        scored_tokens=round(tokenised.scored_tokens / len(lengths), 2),
        too_long=len(tokenised.too_long),
    )


def lora(rows: Rows, scratch: Path, size: Size) -> None:
    """Our trainer, bfloat16 base model, with the LoRA of the protocol recipe."""
    _train_ours(rows, scratch, size, "lora", *_lora_words(size))


def lora_trl(rows: Rows, scratch: Path, size: Size) -> None:
    """TRL's own script with the same settings."""
    _train_trl(rows, scratch, size, "lora_trl", *_lora_words(size))


def qlora(rows: Rows, scratch: Path, size: Size) -> None:
    """Our trainer, 4-bit base model, as in the protocol recipe."""
    _train_ours(rows, scratch, size, "qlora")


def qlora_trl(rows: Rows, scratch: Path, size: Size) -> None:
    """TRL's own script with the same settings."""
    _train_trl(rows, scratch, size, "qlora_trl")


def smollm2(rows: Rows, scratch: Path, size: Size) -> None:
    """The real SmolLM2-135M recipe, trained and scored, against the prediction interval of its recorded seeds."""
    words = [*size.real_words]
    if words:  # a rehearsal: a random model instead
        _use_scratch(scratch)
    elif not any(Path(models.locate_base(parse_recipe(REAL_RECIPE).model.model_name_or_path)).glob("*.safetensors")):
        rows.add("smollm2_training", "the real recipe", left_out="its weights are not under models/; run `make model`")
        return
    folder = scratch / "smollm2"
    with rows.attempt("smollm2_training", "the real recipe, micro-batches of 16 notes, seed 3") as found:
        words += ["--config", REAL_RECIPE, "--restart", "--output_dir", str(folder), "--save_strategy", _NO]
        words += ["--per_device_train_batch_size", "16", "--seed", "3"]
        sys.argv = ["scripts/sft.py", *words]
        runpy.run_path("scripts/sft.py", run_name="sft")["main"]()
        trained = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["training"]
        found |= {key: trained[key] for key in ("samples_per_second", "seconds")}
    with rows.attempt("smollm2_scoring", "label scoring of the test split, batches of 128") as found:
        predictor = LabelPredictor(folder, load_policy=False)
        dataset = load_prepared_dataset(predictor.manifest["data"]["folder"])
        test = dataset.splits["test"].select(range(size.real_rows or len(dataset.splits["test"])))
        began = time.perf_counter()
        answers = predictor.answer([{"note": note} for note in test["note"]], batch_size=128)
        found["notes_per_second"] = round(len(answers) / (time.perf_counter() - began), 1)
        references, labels = list(test["label"]), [answer.label for answer in answers]
        known = sorted(set(references))
        reached = {
            "exact_accuracy": statistics.fmean(a == b for a, b in zip(references, labels, strict=True)),
            "macro_f1": float(f1_score(references, labels, labels=known, average="macro", zero_division=0)),
        }
        recorded = json.loads(results_path(REAL_RECIPE).read_text(encoding="utf-8"))["systems"]["adapter"]
        for name, value in reached.items():
            low, high = prediction_interval(recorded[name], 0.01)
            found[name] = {"value": round(value, 4), "band": [round(low, 4), round(high, 4)]}
            found[name]["inside"] = low <= value <= high


def layouts(rows: Rows, scratch: Path, size: Size) -> None:
    """One forward and backward pass of the 7B shape by batch size and layout, then scoring and generation."""
    _use_scratch(scratch)
    recipe = _protocol_recipe(scratch, *_lora_words(size))
    tokenizer, notes = models.load_tokenizer(recipe.model), _notes(scratch)
    base = models.load_base(recipe.model, training.longest_row(recipe))
    trainer = training.sft_trainer(recipe, base, tokenizer, notes)
    # As the Trainer does at its start
    trainer.model.to(size.device).train()
    needed = 10 * max(size.batches)
    examples = (notes.to_list() * -(-needed // len(notes)))[:needed]
    own_tokens = statistics.fmean(len(example["input_ids"]) for example in examples)

    def measure(name: str, what: str, collate: Callable, batch: int, attention: str = "sdpa") -> None:
        with rows.attempt(name, f"{what}, micro-batches of {batch}") as found:
            trainer.model.zero_grad()  # left by an earlier batch that did not fit
            base.set_attn_implementation(attention)
            times, computed, collating = [], [], []
            for number in range(10 if size.on_gpu else 3):
                began = time.perf_counter()
                inputs = collate(examples[number * batch : (number + 1) * batch])
                collating.append(time.perf_counter() - began)
                inputs = {key: _to(value, size.device) for key, value in inputs.items() if key != "index"}
                began = time.perf_counter()
                with torch.autocast(size.device, torch.bfloat16, enabled=trainer.args.bf16):
                    loss = trainer.compute_loss(trainer.model, inputs)
                loss.backward()
                if size.on_gpu:
                    torch.cuda.synchronize()
                times.append(time.perf_counter() - began)
                computed.append(inputs["input_ids"].numel() / batch)
            seconds = statistics.median(times[2:])
            found.update(
                notes_per_second=round(batch / seconds, 1),
                computed_tokens_a_note=round(statistics.fmean(computed), 1),
                collating_ms=round(1000 * statistics.median(collating), 1),
                loss=round(float(loss.detach()), 3),
                **utilisation(trainer.model, own_tokens, statistics.fmean(computed), batch / seconds),
            )

    shared, batch = SharedPrefixCollator(tokenizer.pad_token_id, base.dtype), size.lora_batch
    measure("layout_widened", "as layout_shared, with activations cast to float32 for each adapter", shared, batch)
    with disable_input_dtype_casting(trainer.model):  # as training does
        measure("layout_shared", "shared prefix, rows up to 384 tokens, SDPA with a mask", shared, batch)
        measure("layout_padded", "one note per row, padded, SDPA", PaddedCollator(tokenizer.pad_token_id), batch)
        for length in size.row_lengths:
            longer = SharedPrefixCollator(tokenizer.pad_token_id, base.dtype, row_tokens=length)
            measure(f"layout_shared_{length}", f"shared prefix, rows up to {length} tokens, SDPA", longer, batch)
        what = "concatenated notes without padding and shared prefix, variable-length FlashAttention"
        try:
            register_varlen()
        except ImportError as error:
            rows.add("layout_varlen", what, left_out=str(error))
        else:
            measure("layout_varlen", what, end_to_end, batch, "varlen")
        base.set_attn_implementation("sdpa")
        for batch in size.batches:
            measure(f"batch_{batch}", "shared prefix, rows up to 384 tokens, SDPA with a mask", shared, batch)
    _answer(rows, trainer.model, base, tokenizer, size)


def biogpt(rows: Rows, scratch: Path, size: Size) -> None:
    """Our trainer on reports, with the shape of BioGPT-Large as an 8-bit base model."""
    _use_scratch(scratch)
    words = ["--model_name_or_path", BIOGPT, "--output_dir", str(scratch / "biogpt"), "--save_strategy", _NO]
    recipe = parse_recipe(REPORT_RECIPE, [*words, *size.report_words])
    tokenizer, split = models.load_tokenizer(recipe.model), load_prepared_dataset(recipe.arguments.dataset).splits
    reports = split["train"].select(range(min(len(split["train"]), size.tokenised)))
    stops, style = models.stop_token_ids(tokenizer), recipe.arguments.prompt_style
    table = render_rows(reports, TASKS["report"], tokenizer, style, stops)
    tokenised = fitting_rows(table, reports["id"][:], recipe.training.max_length, max_dropped_fraction=0.05)
    what = "the report recipe, 8-bit base model; `notes` are reports, 30,000 per epoch as well"
    with rows.attempt("biogpt_8bit", what) as found:
        _run_trainer(recipe, tokenizer, tokenised.rows, size, found)


def plan(rows: Rows, scratch: Path, size: Size) -> None:
    """What `recipes.py plan --gpu` predicts for the memory and time of the two runs; does not use the GPU."""
    _use_scratch(scratch)
    name = (known_as(torch.cuda.get_device_name()) if size.on_gpu else None) or "h100"
    for method, words in (("lora", _lora_words(size)), ("qlora", [])):
        with rows.attempt(f"{method}_planned", f"plan of the phase {method} for {name}") as found:
            recipe = _protocol_recipe(scratch, *words)
            tokenizer, config = models.load_tokenizer(recipe.model), models.load_config(recipe.model)
            basis = Basis(_notes(scratch), tokenizer, config)
            planned = make_gpu_plan(recipe, basis, GPUS[name], ["single_gpu"]).costs[0]
            found |= {
                "planned_memory_gib": round(planned.memory.total / 2**30, 2),
                "planned_without_context_gib": round((planned.memory.total - planned.memory.context) / 2**30, 2),
                "planned_seconds_a_step": round(planned.seconds_per_step, 4),
                "planned_batch": planned.batch,
            }


def _lora_words(size: Size) -> list[str]:
    """Arguments that turn the QLoRA recipe into bf16 LoRA with the batch of the comparison."""
    batch = str(size.lora_batch)
    return ["--load_in_4bit", "false", "--global_batch_size", batch, "--per_device_train_batch_size", batch]


def _protocol_recipe(scratch: Path, *words: str) -> Recipe:
    """The protocol recipe on the random model, without a warm-up, so that the first losses can be compared."""
    shape = ["--model_name_or_path", MEDITRON, "--output_dir", str(scratch / "run"), "--save_strategy", _NO]
    shape += ["--dataloader_num_workers", "2", "--lora_target_modules", "all-linear", "--warmup_steps", "0"]
    recipe = parse_recipe(PROTOCOL_RECIPE, [*shape, "--num_train_epochs", "1", *words])
    training.divide_batch(recipe, processes=1)
    return recipe


def _use_scratch(scratch: Path) -> None:
    models.MODELS_FOLDER = scratch / "models"
    datasets.config.HF_DATASETS_CACHE = scratch / "cache"


def _notes(scratch: Path) -> Dataset:
    return Dataset.from_parquet(str(scratch / "rows" / "train.parquet"), cache_dir=str(scratch / "cache"))


def _train_ours(rows: Rows, scratch: Path, size: Size, name: str, *words: str) -> None:
    _use_scratch(scratch)
    recipe = _protocol_recipe(scratch, *words)
    tokenizer, batch = models.load_tokenizer(recipe.model), recipe.arguments.global_batch_size
    with rows.attempt(name, f"{recipe.method}, {batch} notes per step, our trainer") as found:
        _run_trainer(recipe, tokenizer, _notes(scratch), size, found)


def _run_trainer(recipe: Recipe, tokenizer: Any, notes: Dataset, size: Size, found: dict[str, Any]) -> None:
    """Train for some seconds as scripts/sft.py does, without a run folder; adds speed and utilisation to `found`."""
    training.divide_batch(recipe, processes=1)
    base = models.load_base(recipe.model, training.longest_row(recipe))
    trainer = training.sft_trainer(recipe, base, tokenizer, notes)
    check_layout(trainer)
    clock, batch = StepClock(size.train_seconds), recipe.arguments.global_batch_size
    trainer.add_callback(clock)
    training.train(trainer, None, StopRequests())
    found |= clock.speed(batch, size.notes)
    sample = notes.select(range(min(len(notes), 100 * batch)))
    micro = recipe.training.per_device_train_batch_size
    tokens = statistics.fmean(len(ids) for ids in sample["input_ids"])
    computed = lay_out(sample, trainer.data_collator, micro, SEED).tokens / len(sample)
    found["computed_tokens_a_note"] = round(computed, 1)
    if "notes_per_second" in found:
        found |= utilisation(trainer.model, tokens, computed, found["notes_per_second"])


def _train_trl(rows: Rows, scratch: Path, size: Size, name: str, *words: str) -> None:
    """TRL's own script in this process, with our clock as a default callback.

    It pads and so needs more memory than ours; if its batch does not fit, half of it is tried, accumulated twice.
    """
    script = importlib.import_module("trl.scripts.sft")
    _use_scratch(scratch)
    recipe = _protocol_recipe(scratch, *words)
    batch = recipe.arguments.global_batch_size
    for halves, row in ((1, name), (2, f"{name}_halved")):
        clock = StepClock(size.train_seconds)
        transformers.trainer.DEFAULT_CALLBACKS.append(clock)
        what = f"{recipe.method}, {batch} notes per step in {halves} micro-batches, TRL's own script"
        with rows.attempt(row, what) as found:
            settings = _trl_settings(recipe, scratch, size, batch // halves, halves)
            parsed = script.make_parser().parse_args_and_config(
                [word for key, value in settings.items() for word in (f"--{key}", str(value))]
            )
            script.main(*parsed)
            found |= clock.speed(batch, size.notes)
            notes = _notes(scratch)
            sample = notes.select(range(min(len(notes), 100 * batch)))
            padded = count_padded_tokens(sample, batch // halves, SEED)
            tokens = statistics.fmean(len(ids) for ids in sample["input_ids"])
            found["computed_tokens_a_note"] = round(padded / len(sample), 1)
            if "notes_per_second" in found:
                found["tokens_per_second"] = round(found["notes_per_second"] * tokens)
        transformers.trainer.DEFAULT_CALLBACKS.remove(clock)
        if "out_of_memory" not in found:
            return


def _trl_settings(recipe: Recipe, scratch: Path, size: Size, micro: int, accumulated: int) -> dict[str, Any]:
    """The recipe as arguments of TRL's script."""
    model, args = recipe.model, recipe.training
    return {
        "model_name_or_path": scratch / "models" / MEDITRON,
        "dataset_name": scratch / "rows",
        "output_dir": scratch / "trl",
        "dtype": str(compute_dtype(model.dtype)).removeprefix("torch."),
        "bf16": args.bf16,
        "use_cpu": not size.on_gpu,
        "attn_implementation": model.attn_implementation or "sdpa",
        "load_in_4bit": model.load_in_4bit,
        "bnb_4bit_quant_type": model.bnb_4bit_quant_type,
        "use_bnb_nested_quant": model.use_bnb_nested_quant,
        "use_peft": True,
        "lora_r": model.lora_r,
        "lora_alpha": model.lora_alpha,
        "lora_dropout": model.lora_dropout,
        "lora_target_modules": "all-linear",
        "learning_rate": args.learning_rate,
        "lr_scheduler_type": args.lr_scheduler_type.value,
        "warmup_steps": args.warmup_steps,
        "weight_decay": args.weight_decay,
        "max_grad_norm": args.max_grad_norm,
        "max_length": args.max_length,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": accumulated,
        "gradient_checkpointing": False,  # as ours; TRL's default is on
        "dataloader_num_workers": args.dataloader_num_workers,
        "num_train_epochs": 1,
        "seed": args.seed,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
    }


def _answer(rows: Rows, model: Any, base: Any, tokenizer: Any, size: Size) -> None:
    """Label scoring and generation with the 7B shape; random weights, maximally uncertain, are the slowest case of both."""
    base.set_attn_implementation("sdpa")
    model.eval()
    known, task, stops = size.shapes[MEDITRON]["vocab_size"], TASKS["protocol"], models.stop_token_ids(tokenizer)
    names = LabelSet.load(LABELS).names
    completions = render_completions(task, names, tokenizer, "plain", stops)
    completions = [[token % known for token in completion] for completion in completions]
    notes = load_prepared_dataset("data/protocol_synthetic").splits["test"]["note"][: size.answered]
    prompts = render_prompts(task, [{"note": note} for note in notes], tokenizer, "plain")
    prompts = [[token % known for token in prompt] for prompt in prompts]
    for batch in size.scoring_batches:
        with rows.attempt(f"score_{batch}", f"label scoring, {len(names)} labels, batches of {batch}") as found:
            scorer = LabelScorer(model, tokenizer, completions)
            scorer.score(prompts[:8], batch)
            began = time.perf_counter()
            scorer.score(prompts, batch)
            found["notes_per_second"] = round(len(prompts) / (time.perf_counter() - began), 1)
        with rows.attempt(f"generate_{batch}", f"generation, 16 tokens per note, batches of {batch}") as found:
            generate(model, tokenizer, prompts[:8], stops, 16, batch)
            began = time.perf_counter()
            answers = generate(model, tokenizer, prompts, stops, 16, batch)
            seconds = time.perf_counter() - began
            found["notes_per_second"] = round(len(prompts) / seconds, 1)
            found["written_tokens_per_second"] = round(sum(answer.generated_tokens for answer in answers) / seconds)


def _to(value: Any, device: str) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value
