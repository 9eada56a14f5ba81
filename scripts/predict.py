"""Predict with a finished run: one input, or a table in and a table out.

    python scripts/predict.py --adapter runs/smollm2-135m/protocol_lora/seed-42 --note "r/o renal recurrence, hx RCC"
    python scripts/predict.py --adapter runs/smollm2-135m/report_lora/seed-42 \
        --text "Pleural Effusion: positive; Pneumothorax: negative; Pneumonia: uncertain"
    python scripts/predict.py --adapter runs/smollm2-135m/protocol_lora/seed-42 \
        --input orders.csv --text-column note --id-column order --output answers.csv

A table may have any size. A killed prediction is continued by the same command and gives the same file. Rows that cannot be
read go to OUTPUT.rejects.csv with line and reason. Under `accelerate launch` several processes share the work:

    accelerate launch --config_file accelerate_configs/ddp.yaml scripts/predict.py \
        --adapter runs/smollm2-135m/protocol_lora/seed-42 --input orders.csv --text-column note --output shared.csv

Reports are checked: what contradicts its request is written again, at last by the template writer, and the output says which.
With --audit-log every row leaves one entry in a chained log that holds no text: see scripts/audit_log.py.
The answers are drafts for review by a person; this is not a medical device.
"""

import argparse
import contextlib
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

from tqdm import tqdm

import radrecipes  # noqa: F401  (before any library: turns telemetry off)
from radrecipes.cli import run
from radrecipes.data.example import Example
from radrecipes.errors import InputError
from radrecipes.inference import vllm_engine
from radrecipes.inference.audit_log import AuditLog
from radrecipes.inference.distributed import join_processes
from radrecipes.inference.prediction_stream import (
    OUTPUT_SUFFIXES,
    examine_input,
    iterate_chunks,
    iterate_inputs,
    write_answers,
    write_rejects,
)
from radrecipes.inference.predictors import Predictor, load_predictor, run_of
from radrecipes.inference.unfinished_prediction import UnfinishedPrediction

from prediction.arguments import prediction_arguments


def main() -> None:
    """Parse arguments, predict, write."""
    args = prediction_arguments(__doc__)
    if args.engine == "vllm":
        vllm_engine.check_usable()

    processes = join_processes(longest_wait=timedelta(days=365))  # they may finish days apart
    task = run_of(args.adapter)[2]
    log = AuditLog(args.audit_log) if args.audit_log else None

    # One input: to the terminal
    if args.text is not None:
        inputs = task.read_input(args.text, "--text")
        if log:
            log.check_usable()
        predictor = _load(args)
        answers = predictor.answer([inputs], batch_size=1)
        if log:  # first: no answer is given out that is not in the log
            one = [Example(id="1", group="1", inputs=inputs, target="")]
            table = predictor.answers_table(one, answers, keep_input=False)
            appended = log.append(log.entries(one, table, predictor), uuid4().hex)
        print(predictor.as_text(answers[0]))
        if log:
            print(appended.as_text())
        return

    # A table: the whole input is read once before any work
    if args.output is None:
        raise InputError("--input needs --output, the file to write", "command line")
    output, columns = Path(args.output), (task, args.text_column or task.input_column, args.id_column)
    if output.suffix not in OUTPUT_SUFFIXES:
        raise InputError(
            f"cannot tell the format from the name; it must end with {', '.join(OUTPUT_SUFFIXES)}", str(output)
        )
    work = UnfinishedPrediction(output)
    work.check_output()
    if log:
        log.check_usable([args.input, output, work.rejects])
    facts = examine_input(args.input, *columns)

    # Model, and what an earlier, killed try must have been made of to be continued
    predictor = _load(args)
    state = {
        "input": facts.sha256,
        "adapter, label set, threshold or tries": predictor.fingerprint,
        **{f"--{name.replace('_', '-')}": vars(args)[name] for name in _OPTIONS_IN_STATE},
    }
    if not args.restart:
        work.check_state(state)

    # Every process takes each of its chunks and leaves the finished ones; only the first begins and ends the work
    with work.begun(state, args.restart) if processes.is_main_process else contextlib.nullcontext():
        processes.wait_for_everyone()
        mine = range(processes.process_index, -(-facts.rows // args.chunk_rows), processes.num_processes)
        sizes = {number: min(args.chunk_rows, facts.rows - number * args.chunk_rows) for number in mine}
        finished = {number for number in mine if work.has(number)}
        with tqdm(
            total=sum(sizes.values()),
            initial=sum(sizes[number] for number in finished),
            unit="row",
            desc=f"process 1 of {processes.num_processes}" if processes.num_processes > 1 else None,
            disable=not processes.is_main_process,
        ) as bar:
            for number, chunk in enumerate(iterate_chunks(iterate_inputs(args.input, *columns), args.chunk_rows)):
                if number in mine and number not in finished:
                    inputs = [example.inputs for example in chunk]
                    answers = predictor.answer(inputs, batch_size=args.batch_size, on_progress=bar.update)
                    table = predictor.answers_table(chunk, answers, args.keep_text)
                    work.save(number, table, log.entries(chunk, table, predictor) if log else ())
        processes.wait_for_everyone()

        # The output: assembled from the chunks beside, then renamed, so that it is whole or absent
        if processes.is_main_process:
            if examine_input(args.input, *columns) != facts:
                raise InputError("changed while it was read; run the command again with --restart", args.input)
            parts = [work.part(number) for number in range(-(-facts.rows // args.chunk_rows))]
            counted = write_answers(parts, work.assembling(output), output.suffix, predictor.counted_column)
            if facts.rejected:
                write_rejects(iterate_inputs(args.input, *columns), work.assembling(work.rejects))
            if log:
                appended = log.append(work.audited(len(parts)), work.id)
            work.finish([work.rejects, output] if facts.rejected else [output])
            print(f"{facts.rows:,} answers in {output}: {predictor.summary(counted)}")
            if facts.rejected:
                print(f"{facts.rejected:,} rows rejected: {work.rejects} names line and reason of each")
            if log:
                print(appended.as_text())
    processes.destroy_process_group()


# What an output depends on, beside its input and its adapter: batches of another size round differently.
_OPTIONS_IN_STATE = ("text_column", "id_column", "keep_text", "batch_size", "chunk_rows", "target_accuracy", "engine")
_OPTIONS_IN_STATE += ("audit_log",)  # and what is to be logged


def _load(args: argparse.Namespace) -> Predictor:
    return load_predictor(
        args.adapter,
        args.allow_other_weights,
        args.engine,
        label_set=args.label_set,
        target_accuracy=args.target_accuracy,
        tries=args.tries,
    )


if __name__ == "__main__":
    run(main)
