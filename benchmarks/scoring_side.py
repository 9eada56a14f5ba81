"""One side of a scoring comparison: answers notes with a run's adapter and times itself.

    python benchmarks/scoring_side.py score runs/smollm2-135m/protocol_lora/seed-42 64 out.json

Loading is not timed. The notes are the first of the test split under a fixed shuffle.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import radrecipes  # noqa: F401  (before any library: turns telemetry off, and sets how threads wait)

# isort: split
import numpy as np
import torch

from radrecipes.data.prepared import load_prepared_dataset
from radrecipes.inference.calibration import label_probabilities
from radrecipes.inference.generation import generate
from radrecipes.inference.label_scoring import score_separately
from radrecipes.inference.predictors import LabelPredictor

BATCH = 32
WARM_UP = 4  # notes


def score(predictor: LabelPredictor, notes: list[str]) -> np.ndarray:
    """Ours: the probability of every label."""
    return label_probabilities(predictor.score([{"note": note} for note in notes], BATCH).log_likelihoods)


def separate(predictor: LabelPredictor, notes: list[str]) -> np.ndarray:
    """Each label as a separate sequence after each note, without a cache, in batches."""
    prompts, scorer = prompts_of(predictor, notes), predictor.scorer
    pad = predictor.tokenizer.pad_token_id
    return label_probabilities(score_separately(predictor.model, pad, prompts, scorer.completions, BATCH))


def own_generate(predictor: LabelPredictor, notes: list[str]) -> list[str]:
    """This project's own batched greedy generation."""
    prompts = prompts_of(predictor, notes)
    answers = generate(predictor.model, predictor.tokenizer, prompts, predictor.stops, 16, BATCH)
    return [answer.text for answer in answers]


def transformers_generate(predictor: LabelPredictor, notes: list[str]) -> list[str]:
    """Greedy generation as Transformers documents it: batches padded on the left, here sorted by length."""
    prompts, tokenizer = prompts_of(predictor, notes), predictor.tokenizer
    tokenizer.padding_side = "left"
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    answers = [""] * len(prompts)
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        batch = tokenizer.pad({"input_ids": [prompts[index] for index in chosen]}, return_tensors="pt")
        with torch.inference_mode():
            written = predictor.model.generate(
                **batch,
                max_new_tokens=16,
                do_sample=False,
                eos_token_id=predictor.stops,
                pad_token_id=tokenizer.pad_token_id,
            )
        texts = tokenizer.batch_decode(written[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        for index, text in zip(chosen, texts, strict=True):
            answers[index] = text.strip()
    return answers


def pipeline(predictor: LabelPredictor, notes: list[str]) -> list[str]:
    """One `pipeline()` call per note, stopping at the stop token."""
    import transformers

    write = transformers.pipeline("text-generation", model=predictor.model, tokenizer=predictor.tokenizer)
    answers = []
    for note in notes:
        turns = [{"role": "user", "content": predictor.task.question({"note": note})}]
        written = write(
            turns,
            max_new_tokens=16,
            do_sample=False,
            return_full_text=False,
            eos_token_id=predictor.stops,
            pad_token_id=predictor.tokenizer.pad_token_id,
        )
        answers.append(written[0]["generated_text"].strip())
    return answers


def prompts_of(predictor: LabelPredictor, notes: list[str]) -> list[list[int]]:
    """Token ids of the rendered prompts."""
    return predictor.prompts([{"note": note} for note in notes])


SIDES: dict[str, Callable[[LabelPredictor, list[str]], np.ndarray | list[str]]] = {
    "score": score,
    "separate": separate,
    "own_generate": own_generate,
    "transformers_generate": transformers_generate,
    "pipeline": pipeline,
}


def main(side: str, run: str, count: int, output: str) -> None:
    """Answer `count` notes; write labels, probabilities if there are any, and notes per second as JSON."""
    predictor = LabelPredictor(run, load_policy=False)
    test = load_prepared_dataset(predictor.manifest["data"]["folder"]).splits["test"]
    notes = test.shuffle(seed=0)["note"][:count]
    SIDES[side](predictor, notes[:WARM_UP])
    began = time.perf_counter()
    answers = SIDES[side](predictor, notes)
    seconds = time.perf_counter() - began
    result = {"samples_per_second": count / seconds}
    if isinstance(answers, np.ndarray):
        result["labels"] = [predictor.label_set.names[index] for index in answers.argmax(axis=1)]
        result["probabilities"] = answers.tolist()
    else:
        result["labels"] = answers
    Path(output).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
