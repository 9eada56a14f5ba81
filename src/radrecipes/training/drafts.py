"""Drafts: texts that the starting run of a recipe writes to the prompts of the training split, each with the task's judgement.

They are kept in the folder of the run that wrote them, so that every recipe which asks for the same ones finds them.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from radrecipes import radiology, tasks
from radrecipes.data.parquet import read_table
from radrecipes.errors import InputError
from radrecipes.files import file_sha256, text_sha256, write_atomically
from radrecipes.recipe import Recipe
from radrecipes.tasks import TASKS
from radrecipes.tasks.rendering import render_examples
from radrecipes.tasks.text_task import TextTask
from radrecipes.training import run_folder
from radrecipes.training.data import TrainingData, load_training_data, with_examples
from radrecipes.training.start import Start, find_start

FOLDER = "drafts"
# Prompts of a part, which is written at once and not again.
PROMPTS_OF_A_PART = 64
# What decides the rewards of a text.
_JUDGING_CODE = tuple(Path(package.__file__).parent for package in (tasks, radiology))


@dataclass(frozen=True)
class Drafts:
    """Where the drafts of a recipe are, and of which rows.

    Args:
        start: The run that writes them.
        folder: Of drafts with the same settings.
        places: Indices in the training split of their rows.
    """

    start: Start
    folder: Path
    places: Sequence[int]

    @property
    def parts(self) -> list[tuple[Path, Sequence[int]]]:
        """File and rows of each part; a file exists once it is complete."""
        starts = range(0, len(self.places), PROMPTS_OF_A_PART)
        return [
            (self.folder / f"part-{number:05d}.parquet", self.places[start : start + PROMPTS_OF_A_PART])
            for number, start in enumerate(starts)
        ]

    @property
    def done(self) -> int:
        """Rows of the parts that exist."""
        return sum(len(places) for path, places in self.parts if path.is_file())

    def read(self) -> pa.Table:
        """All drafts, in the order of their rows; an [`InputError`] if a part is missing or damaged."""
        fix = "remove it and run the same command again"
        return pa.concat_tables([read_table(path, fix) for path, _ in self.parts])


def drafts_of(recipe: Recipe, data: TrainingData) -> Drafts:
    """The drafts that a recipe of the stage `rejection` trains on, whether they are written already or not."""
    start, places, args = find_start(recipe, data.dataset), data.places, recipe.training
    judges = sorted(path for folder in _JUDGING_CODE for path in folder.rglob("*") if path.suffix in (".py", ".yaml"))
    settings = [
        *(start.weights.sha256, start.manifest["prompt"]["sha256"], recipe.model.dtype, data.dataset.digest, places),
        *(recipe.arguments.max_new_tokens, args.num_generations, args.temperature, args.seed, PROMPTS_OF_A_PART),
        *map(file_sha256, judges),
    ]
    key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
    # A release is read-only.
    parent = Path("runs", FOLDER) if run_folder.is_release(start.folder) else start.folder / FOLDER
    return Drafts(start, parent / key[:16], places)


def write_part(
    path: Path,
    task: TextTask,
    rows: Sequence[Mapping[str, Any]],
    places: Sequence[int],
    texts: Sequence[Sequence[tuple[str, bool]]],
) -> None:
    """Write and judge the drafts of some rows; `texts` are those of each row, and whether they stopped."""
    table = [
        {"place": place, "number": number, "text": text, "stopped": stopped, **task.rewards(row, text, stopped)}
        for row, place, of_row in zip(rows, places, texts, strict=True)
        for number, (text, stopped) in enumerate(of_row)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda partial: pq.write_table(pa.Table.from_pylist(table), partial))


def chosen(drafts: pa.Table, references: Mapping[int, str]) -> list[tuple[int, str]]:
    """The best draft of each prompt that has one: place and text.

    It stops, passes the task's check, is not the row's own text, and is half to twice as long. Of several the one with the largest
    ROUGE-L against the row's own text is chosen, of equals the first.
    """
    best: dict[int, tuple[float, str]] = {}
    for row in drafts.to_pylist():
        place, text = row["place"], row["text"]
        reference = references[place]
        ratio = len(text.split()) / max(len(reference.split()), 1)
        if (
            row["passes"]
            and text != reference
            and 0.5 <= ratio <= 2.0
            and row["likeness"] > best.get(place, (-1.0, ""))[0]
        ):
            best[place] = row["likeness"], text
    return [(place, text) for place, (_, text) in sorted(best.items())]


def load_with_drafts(recipe: Recipe, keep: bool = False) -> TrainingData:
    """What a recipe of the stage `rejection` trains on: its dataset as [`load_training_data`] loads it, and the chosen drafts."""
    data = load_training_data(recipe, keep=keep)
    task, split = TASKS[recipe.arguments.task], data.dataset.splits["train"]
    table = drafts_of(recipe, data).read()
    kept = chosen(table, {place: task.target(split[place]) for place in data.places})
    passed = pc.mean(table["passes"]).as_py()
    if not kept:
        # A run that knows its training rows by heart passes, but has nothing new to say.
        fix = "raise temperature" if passed > 0.5 else "train that run longer, or raise num_generations"
        raise InputError(
            f"none of the {len(table)} texts of {recipe.arguments.start_from} passes the check ({passed:.0%} do) and differs from "
            f"the row's own; {fix}",
            str(recipe.path),
        )
    rows, texts = [split[place] for place, _ in kept], [text for _, text in kept]
    examples = render_examples(
        task,
        [task.inputs(row) for row in rows],
        texts,
        data.tokenizer,
        recipe.arguments.prompt_style,
        data.stops,
        [row["id"] for row in rows],
    )
    names = [f"{row['id']} draft" for row in rows]
    facts = {"written": len(table), "passed_rate": round(passed, 4), "sha256": text_sha256(json.dumps(kept))}
    return with_examples(data, names, examples, recipe.training.max_length, facts)
