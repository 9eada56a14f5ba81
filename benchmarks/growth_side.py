"""One measurement of growth.py: a stage with so many labels and rows, timed; the last line that it prints is JSON.

    python benchmarks/growth_side.py evaluation 300 50000

Orders are generated, and so are the labels and the scores of the two systems that are evaluated: what a stage costs does not
depend on who is right. Labels are scored by the adapter of RECIPE, for its own labels and generated ones that are added to them;
the head is a random one on the same base model.
"""

import itertools
import json
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import radrecipes  # noqa: F401  (before any library: turns telemetry off, and sets how threads wait)

# isort: split
import numpy as np
import torch

from radrecipes.data.example import Example
from radrecipes.data.label_sets import LabelSet
from radrecipes.data.preparation import prepare_rows
from radrecipes.data.synthetic_protocol.generator import generate_orders
from radrecipes.errors import InputError
from radrecipes.evaluation.embeddings import TextEmbedder
from radrecipes.evaluation.label_baselines import SVM
from radrecipes.evaluation.label_metrics import compute_metrics, predictions_table
from radrecipes.evaluation.label_systems import ADAPTER, EvaluationRows, scored_system
from radrecipes.inference.head_scoring import HeadScorer
from radrecipes.inference.label_scoring import LabelScorer
from radrecipes.inference.predictors import LabelPredictor
from radrecipes.models import base as models
from radrecipes.recipe import parse_recipe
from radrecipes.reporting.page import write_page
from radrecipes.tasks import TASKS
from radrecipes.tasks.rendering import render_completions, render_prompts
from radrecipes.training.run_folder import is_complete

RECIPE, RUN = "recipes/smollm2-135m/protocol_lora.yaml", Path("runs/smollm2-135m/protocol_lora/seed-42")
TASK = TASKS["protocol"]
NOTES = 64  # that a model answers
TEST_FRACTION, VALIDATION_FRACTION = 0.15, 0.10
_PARTS = (
    ("CT", "MR", "CTA", "MRA", "US", "XR", "NM", "PET CT"),
    (
        "Head",
        "Neck",
        "Chest",
        "Abdomen",
        "Pelvis",
        "Spine",
        "Knee",
        "Shoulder",
        "Hip",
        "Wrist",
        "Ankle",
        "Heart",
        "Liver",
        "Kidney",
    ),
    ("", "without Contrast", "with Contrast", "without and with Contrast", "Low Dose", "Three Phases"),
    ("", "Left", "Right"),
)


def label_names(count: int) -> list[str]:
    """Names of protocols that share their first words, as those of a hospital do."""
    names = [" ".join(filter(None, parts)) for parts in itertools.product(*_PARTS)]
    return sorted(names, key=lambda name: zlib.crc32(name.encode()))[:count]


def label_set_of(count: int) -> LabelSet:
    """A label set of so many labels."""
    return LabelSet.derive("growth", Counter(label_names(count)), "generated")


def orders(labels: int, rows: int) -> list[Example]:
    """Generated orders; each scenario has its own share of the labels, and a label has several scenarios."""
    names = label_names(labels)
    return [
        Example(str(number), row["group"], {"note": row["note"]}, names[zlib.crc32(row["group"].encode()) % labels])
        for number, row in enumerate(generate_orders(0, rows))
    ]


def preparation(labels: int, rows: int) -> dict[str, float]:
    """Cleaning, near-duplicates, splits and the audit."""
    examples = orders(labels, rows)
    label_set = label_set_of(labels)
    start = time.perf_counter()
    prepare_rows(
        examples,
        input_column="note",
        target_column="label",
        label_set=label_set,
        conflicts="vote",
        max_dropped=1.0,
        warn=lambda line: None,
    )
    return {"seconds": time.perf_counter() - start}


def evaluation(labels: int, rows: int) -> dict[str, float]:
    """Metrics, table of predictions and page, of two systems that score every label."""
    names, generator = label_names(labels), np.random.default_rng(0)

    def split(name: str, fraction: float) -> EvaluationRows:
        count = round(rows * fraction)
        ids = [f"{name}-{number}" for number in range(count)]
        groups = [f"{name}-{number // 4}" for number in range(count)]
        return EvaluationRows(ids, groups, ids, generator.choice(names, count).tolist())

    def scores_of(asked: EvaluationRows) -> np.ndarray:
        places = {name: place for place, name in enumerate(names)}
        scores = generator.normal(size=(len(asked.ids), labels))
        scores[np.arange(len(asked.ids)), [places[label] for label in asked.references]] += 4.0
        return scores

    label_set = label_set_of(labels)
    train = split("train", 1 - TEST_FRACTION - VALIDATION_FRACTION)
    validation, test = split("validation", VALIDATION_FRACTION), split("test", TEST_FRACTION)
    embedder = TextEmbedder()
    start = time.perf_counter()
    cost = {"training_seconds": 1.0, "trained_on": "", "rows_per_second": 1.0, "answered_on": ""}
    systems = {
        name: scored_system(label_set, validation, scores_of(validation), test, scores_of(test), cost=cost)
        for name in (ADAPTER, SVM)
    }
    metrics = compute_metrics(
        test,
        systems,
        task="protocol",
        label_set=label_set,
        train=train,
        validation=validation,
        embedder=embedder,
        split="test",
        dataset={"name": "growth", "access": "synthetic", "digest": "0" * 64},
        decoding={"method": "score", "max_new_tokens": None, "left_out_mass": 0.0, "left_out_share": 0.0},
        seeds={"training": 0, "bootstrap": 0},
    )
    table = predictions_table(test, systems, "synthetic")
    measured = time.perf_counter() - start
    with tempfile.TemporaryDirectory(prefix="radrecipes-bench-") as folder:
        start = time.perf_counter()
        manifest = {"name": "growth", "task": "protocol", "access": "synthetic", "rows": {}, "splits": {}}
        page = write_page(
            folder,
            title="growth",
            metrics=metrics,
            predictions=table,
            dataset_manifest=manifest,
            run_manifest={"data": {"access": "synthetic"}},
            train_log=[],
        )
        size = page.stat().st_size / 2**20
    return {"seconds": measured, "page_seconds": time.perf_counter() - start, "page_mib": size}


def scoring(labels: int, rows: int) -> dict[str, float]:
    """Label scoring by a fine-tuned adapter, which knows the first labels of the list."""
    if not is_complete(RUN):
        raise InputError(f"no finished run; train it first: make demo RECIPE={RECIPE}", str(RUN))
    predictor = LabelPredictor(RUN, load_policy=False)
    own = predictor.label_set.names
    names = [*own, *(name for name in label_names(labels) if name not in own)][:labels]
    completions = render_completions(TASK, names, predictor.tokenizer, predictor.style, predictor.stops)
    return _by_rate(LabelScorer(predictor.model, predictor.tokenizer, completions), predictor.prompts(_notes()), rows)


def head(labels: int, rows: int) -> dict[str, float]:
    """A classification head with random weights."""
    recipe = parse_recipe(RECIPE)
    tokenizer = models.load_tokenizer(recipe.model)
    prompts = render_prompts(TASK, _notes(), tokenizer, recipe.arguments.prompt_style)
    model = models.load_base(recipe.model, labels=label_names(labels), dtype=torch.float32)
    return _by_rate(HeadScorer(model, tokenizer, range(labels)), prompts, rows)


def _notes() -> list[dict[str, str]]:
    return [{"note": row["note"]} for row in generate_orders(1, NOTES)]


def _by_rate(scorer: LabelScorer | HeadScorer, prompts: list[list[int]], rows: int) -> dict[str, float]:
    scorer.score(prompts[:4])
    start = time.perf_counter()
    scorer.score(prompts)
    rate = len(prompts) / (time.perf_counter() - start)
    return {"seconds": rows * TEST_FRACTION / rate, "rows_per_second": rate}


STAGES: dict[str, Callable[[int, int], dict[str, float]]] = {
    "preparation": preparation,
    "scoring": scoring,
    "head": head,
    "evaluation": evaluation,
}


if __name__ == "__main__":
    print(json.dumps(STAGES[sys.argv[1]](int(sys.argv[2]), int(sys.argv[3]))))
