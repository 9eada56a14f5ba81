"""Predict with a finished run: one note, or a table in and a table out.

    python scripts/predict.py --adapter runs/smollm2-135m/protocol_lora/seed-42 --note "r/o renal recurrence, hx RCC"
    python scripts/predict.py --adapter runs/smollm2-135m/protocol_lora/seed-42 \
        --input orders.csv --text-column note --output answers.csv

The answers are drafts for review by a person; this is not a medical device.
"""

import argparse
import csv
from pathlib import Path

from tqdm import tqdm

import radrecipes  # noqa: F401  (before any library: turns telemetry off)
from radrecipes.command_line import positive, run
from radrecipes.data.normalise import normalise_note
from radrecipes.data.tables import read_examples
from radrecipes.errors import InputError
from radrecipes.predictor import Predictor


def main() -> None:
    """Parse arguments, predict, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", required=True, metavar="RUN", help="folder of a finished run")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--note", help="one note, on the command line")
    source.add_argument("--input", metavar="FILE", help="a CSV, TSV, JSONL or Parquet file")
    parser.add_argument("--text-column", default="note", help="its column with the notes (default: note)")
    parser.add_argument("--id-column", help="its column that identifies a row (default: the row's number)")
    parser.add_argument("--output", metavar="FILE", help="the CSV to write: id, note, label, answer")
    parser.add_argument("--batch-size", type=positive, default=32, help="rows a batch (default: 32)")
    parser.add_argument("--allow-other-weights", action="store_true", help="accept a base of another hash")
    args = parser.parse_args()

    # Input, before the model is loaded
    if args.note is not None:
        rows = [(None, _note(args.note, "--note"))]
    else:
        output = _new_file(args.output)
        examples = read_examples(args.input, inputs={"note": args.text_column}, id_column=args.id_column)
        rows = [(example.id, _note(example.inputs["note"], example.where)) for example in examples]

    # Predict
    predictor = Predictor(args.adapter, args.allow_other_weights)
    with tqdm(total=len(rows), unit="note", disable=args.note is not None) as bar:
        answers = predictor.answer(
            [{"note": note} for _, note in rows], batch_size=args.batch_size, on_progress=bar.update
        )

    # One note: to the terminal
    if args.note is not None:
        print(answers[0].label or f"no label of the label set; the model wrote: {answers[0].text}")
        return

    # A table: beside, then renamed, so that it is whole or absent
    unfinished = output.with_name(output.name + ".unfinished")
    with unfinished.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "note", "label", "answer"])
        for (row_id, note), answer in zip(rows, answers, strict=True):
            writer.writerow([row_id, note, answer.label or "", answer.text])
    unfinished.rename(output)
    without = sum(answer.label is None for answer in answers)
    print(f"{len(rows):,} answers in {output}, {without} of them no label of the label set (empty column `label`)")


def _note(text: str, where: str) -> str:
    note = normalise_note(text)
    if not note:
        raise InputError("the note is empty; remove the row or give it a text", where)
    return note


def _new_file(name: str | None) -> Path:
    if name is None:
        raise InputError("--input needs --output, the CSV to write", "command line")
    path = Path(name)
    if path.exists():
        raise InputError("the output exists already; choose another name or remove it", name)
    if not path.parent.is_dir():
        raise InputError("the folder of the output does not exist; make it first", name)
    return path


if __name__ == "__main__":
    run(main)
