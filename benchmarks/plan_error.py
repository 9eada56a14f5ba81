"""The error of `recipes.py plan` on this machine: memory of short runs, memory and time of recorded runs.

    python benchmarks/plan_error.py

The plan is for the largest batch of an epoch, which a short run rarely contains, so it is compared with a plan for the run's own
batches. Results go to benchmarks/plan_error.json. Run it on an idle machine.
"""

import argparse
import json
import os
import runpy
import statistics
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from unittest.mock import patch

import radrecipes  # noqa: F401  (before any library: turns telemetry off)

# isort: split
import torch
from measuring import DOCUMENT, with_table
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from radrecipes import environment
from radrecipes.planning import counting
from radrecipes.planning.basis import load_basis
from radrecipes.planning.machine_plan import make_plan
from radrecipes.recipe import parse_recipe
from radrecipes.training import layout_check
from radrecipes.training import trainer as training
from radrecipes.training.collators import PaddedCollator, SharedPrefixCollator

RESULTS = Path(__file__).parent / "plan_error.json"
PROTOCOL, REPORT = "recipes/smollm2-135m/protocol_lora.yaml", "recipes/smollm2-135m/report_lora.yaml"
RANDOM_MODEL = "benchmarks/random-qwen2"
SHORT_RUNS = {
    "protocol": (PROTOCOL, []),
    "report": (REPORT, []),
    "report, micro batch 2": (REPORT, ["--per_device_train_batch_size=2"]),
    "protocol, padded": (PROTOCOL, ["--batch_layout=padded"]),
    "protocol, micro batch 2": (PROTOCOL, ["--per_device_train_batch_size=2"]),
    "protocol, micro batch 16": (PROTOCOL, ["--per_device_train_batch_size=16"]),
    "protocol, activation checkpointing": (PROTOCOL, ["--activation_checkpointing=true"]),
    "report, activation checkpointing": (REPORT, ["--activation_checkpointing=true"]),
    "protocol, float32": (PROTOCOL, ["--dtype=float32"]),
    "protocol, 8-bit base": (PROTOCOL, ["--load_in_8bit=true"]),
    "protocol, 4-bit base": (PROTOCOL, ["--load_in_4bit=true", "--bnb_4bit_quant_type=nf4"]),
    "protocol, random Qwen2, 8 layers of 768": (PROTOCOL, [f"--model_name_or_path={RANDOM_MODEL}"]),
}


def main() -> None:
    """Measure every case, each in its own processes, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12, help="steps of a short run (default: 12)")
    parser.add_argument("--only", nargs="+", metavar="CASE", help="only these short runs; the other results are kept")
    args = parser.parse_args()
    found = json.loads(RESULTS.read_text("utf-8")) if RESULTS.is_file() else {"short_runs": {}}
    build_random_model()
    for name in args.only or SHORT_RUNS:
        found["short_runs"][name] = measure(*SHORT_RUNS[name], args.steps)
        print(row(name, found["short_runs"][name]), flush=True)
        write(found)
    found["recorded_runs"] = {path: compare_recorded(path) for path in (PROTOCOL, REPORT)}
    for name, result in found["recorded_runs"].items():
        print(row(name, result))
    hardware = environment.hardware()
    found |= {"date": date.today().isoformat(), "versions": environment.packages()}
    found |= {"processor": hardware["processor"], "cores": hardware["cores"], "threads": hardware["threads"]}
    write(found)


def measure(recipe: str, words: list[str], steps: int) -> dict:
    """One short run, and the plan for its largest batch."""
    words = [*words, f"--max_steps={steps}"]
    real = in_new_process("train", recipe, *words, "--save_strategy='no'")
    plan = in_new_process("plan", recipe, *words, f"--batches={json.dumps(real.pop('batches'))}")
    error = round(plan["memory_gib"] / real["memory_gib"] - 1, 3)
    return {**real, "steps": steps, "planned_gib": plan["memory_gib"], "of_it": plan["of_it"], "memory_error": error}


def compare_recorded(recipe: str) -> dict:
    """The plan of a complete recipe against its recorded results, which may stem from older code."""
    recorded = json.loads(Path(recipe).with_suffix(".results.json").read_text("utf-8"))
    first = recorded["seeds"][0]
    threads = first["hardware"]["threads"]
    plan = in_new_process("plan", recipe, threads=threads)
    return {
        "memory_gib": recorded["peak_memory_gib"],
        "planned_gib": plan["memory_gib"],
        "of_it": plan["of_it"],
        "memory_error": round(plan["memory_gib"] / recorded["peak_memory_gib"] - 1, 3),
        "seconds": first["seconds"],
        "threads": threads,
        "planned_seconds": plan["seconds"],
        "time_error": round(plan["seconds"] / first["seconds"] - 1, 3),
    }


def train(recipe: str, words: list[str]) -> dict:
    """Run scripts/sft.py in this process and record the shapes of its batches."""
    shapes = []

    def recording(collate):
        def collate_and_record(collator, examples):
            batch = collate(collator, examples)
            shapes.append((*batch["input_ids"].shape, int((batch["labels"] != -100).sum())))
            return batch

        return collate_and_record

    with tempfile.TemporaryDirectory() as folder:
        sys.argv = ["scripts/sft.py", "--config", recipe, f"--output_dir={folder}/run", *words]
        with (
            patch.object(SharedPrefixCollator, "__call__", recording(SharedPrefixCollator.__call__)),
            patch.object(PaddedCollator, "__call__", recording(PaddedCollator.__call__)),
            # It scores a few examples in both layouts, which are not batches of the run.
            patch.object(layout_check, "check_layout"),
        ):
            runpy.run_path("scripts/sft.py", run_name="__main__")
        memory = json.loads(Path(folder, "run", "manifest.json").read_text("utf-8"))["training"]["peak_memory_gib"]
    largest = counting.Layout(shapes).largest
    return {"memory_gib": memory, "largest": largest, "shapes": len({s[:2] for s in shapes}), "batches": shapes}


def plan(recipe: str, words: list[str]) -> dict:
    """Plan in this process, for the given batches if there are any."""
    batches = [word.partition("=")[2] for word in words if word.startswith("--batches=")]
    parsed = parse_recipe(recipe, [word for word in words if not word.startswith("--batches=")])
    training.divide_batch(parsed, processes=1)
    basis = load_basis(parsed)
    if batches:
        seen = counting.Layout([tuple(batch) for batch in json.loads(batches[0])])
        with patch.object(counting, "lay_out", return_value=seen):
            made = make_plan(parsed, basis)
    else:
        made = make_plan(parsed, basis)
    parts = ("weights", "adapter", "activation", "framework")
    return {
        "memory_gib": round(made.memory_bytes / 2**30, 3),
        "of_it": {part: round(vars(made)[f"{part}_bytes"] / 2**30, 3) for part in parts},
        "seconds": round(made.seconds, 1),
    }


def in_new_process(what: str, *words: str, threads: int | None = None) -> dict:
    """The result of [`train`] or [`plan`] in a new process."""
    environment_of_it = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    with tempfile.NamedTemporaryFile("r", suffix=".json") as answer:
        command = [sys.executable, __file__, f"--{what}", answer.name, *words]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment_of_it)
        if ended.returncode:
            raise RuntimeError(f"{what} {' '.join(words)} failed:\n{ended.stderr[-2000:]}")
        return json.loads(answer.read())


def build_random_model() -> None:
    """A model of another shape under `models/`, with the tokenizer of the default base model; ignored by git."""
    folder = Path("models") / RANDOM_MODEL
    if (folder / "config.json").is_file():
        return
    tokenizer = AutoTokenizer.from_pretrained("models/HuggingFaceTB/SmolLM2-135M-Instruct", trust_remote_code=False)
    config = AutoConfig.for_model(
        "qwen2",
        vocab_size=len(tokenizer),
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=8,
        num_attention_heads=12,
        num_key_value_heads=4,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
    )
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, trust_remote_code=False).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def row(name: str, result: dict) -> str:
    """One line for the terminal."""
    line = f"{name:<44} planned {result['planned_gib']:.2f} GiB, measured {result['memory_gib']:.2f}: {result['memory_error']:+.0%}"
    if "seconds" in result:
        line += f"; planned {result['planned_seconds']:,.0f} s, measured {result['seconds']:,.0f}: {result['time_error']:+.0%}"
    return line


def write(found: dict) -> None:
    """Write the results so far, and the table in README.md."""
    errors = [abs(result["memory_error"]) for result in found["short_runs"].values()]
    found["short_runs_median_error"] = round(statistics.median(errors), 3)
    RESULTS.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    document = with_table(DOCUMENT.read_text("utf-8"), "plan error", "plan_error.py", table(found))
    DOCUMENT.write_text(document, encoding="utf-8")


def table(found: dict) -> str:
    """The short runs as Markdown."""
    rows = [
        f"| {name} | {run['steps']} | {run['planned_gib']:.2f} | {run['memory_gib']:.2f} | {run['memory_error']:+.0%} |"
        for name, run in found["short_runs"].items()
    ]
    return "\n".join(["| run | steps | planned | measured | error |", "|---|---:|---:|---:|---:|", *rows])


if __name__ == "__main__":
    if len(sys.argv) > 2 and sys.argv[1] in ("--train", "--plan"):
        _, what, answer, recipe, *words = sys.argv
        Path(answer).write_text(json.dumps({"--train": train, "--plan": plan}[what](recipe, words)), "utf-8")
    else:
        main()
