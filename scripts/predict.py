r"""Predict with a finished run: one input, or a table in and a table out.

    python scripts/predict.py --adapter runs/smollm2-135m/protocol_lora/seed-42 --text "r/o renal recurrence, hx RCC"
    python scripts/predict.py --adapter runs/smollm2-135m/report_lora/seed-42 \
        --text "Pleural Effusion: positive; Pneumothorax: negative; Pneumonia: uncertain"
    python scripts/predict.py --adapter runs/smollm2-135m/protocol_lora/seed-42 \
        --input orders.csv --text-column order_text --id-column order_id --output answers.csv

A table may have any size. The same command continues a killed prediction and produces the same file. Rows that cannot be
answered are rejected: OUTPUT.rejects.csv lists their lines and reasons. With `accelerate launch` several processes share the rows:

    accelerate launch --config_file accelerate_configs/ddp.yaml scripts/predict.py \
        --adapter runs/smollm2-135m/protocol_lora/seed-42 --input all_orders.csv --text-column order_text --output all_answers.csv

Texts are checked by their task: a report that contradicts its request is generated again, and finally replaced by the template
writer's; the output shows which. With --audit-log every row adds one entry, without any text, to a chained log
(scripts/audit_log.py).
The answers are drafts for review by a person; this is not a medical device.

Exit codes: 0 done (rejected rows are not an error), 1 memory or disk ran out, 2 wrong input, 5 another prediction writes this
output, 130 interrupted; the same command continues.
"""

import argparse
import contextlib
from datetime import timedelta
from pathlib import Path

import radrecipes  # noqa: F401  (before any library: turns telemetry off)
from radrecipes.cli import add_answer_options, add_table_form, positive, run, table_form
from radrecipes.errors import InputError
from radrecipes.inference import ENGINES

# What an output depends on, apart from its input and the run; the batch size affects rounding.
_OPTIONS_IN_STATE = ("text_column", "id_column", "keep_text", "batch_size", "chunk_rows", "target_accuracy", "engine")
_OPTIONS_IN_STATE += ("audit_log",)  # and what is logged
_OF_TABLES = ("output", "text_column", "id_column", "keep_text", "plain_csv", "batch_size", "chunk_rows", "restart")


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--text", "--note", help="one input of the run's task, for example the text of an order; --note is an alias"
    )
    source.add_argument(
        "--input", metavar="FILE", help="CSV, TSV, TXT, JSON, JSONL (also .gz), Excel (.xlsx) or Parquet"
    )
    parser.add_argument(
        "--text-column",
        nargs="+",
        metavar="NAME",
        help="column with the inputs (default: the input column of the task); of a run that was trained on several columns, each "
        "of them in that order (default: their names in training)",
    )
    parser.add_argument("--id-column", help="column that identifies a row (default: the row's number)")
    add_table_form(parser, "--input")
    parser.add_argument("--output", metavar="FILE", help="the file to write, .csv, .jsonl or .parquet")
    parser.add_argument(
        "--keep-text",
        action="store_true",
        help="copy the input into the output (default: id only)",
    )
    parser.add_argument(
        "--plain-csv",
        action="store_true",
        help="write cells of a .csv as they are; by default one that a spreadsheet would run as a formula, such as an id that "
        "begins with =, +, - or @, gets an apostrophe, which is left out when this project reads the file",
    )
    parser.add_argument(
        "--audit-log", metavar="FILE", help="append an entry per row: ids, digests, decisions; no text"
    )
    _add_answering(parser)
    args = parser.parse_args()
    for name in (*_OF_TABLES, *table_form(args)) if args.text is not None else ():
        if vars(args)[name] != parser.get_default(name):
            raise InputError("is for a table (--input); leave it out", f"--{name.replace('_', '-')}")
    return args


def _add_answering(parser: argparse.ArgumentParser) -> None:
    """How the answers are made."""
    parser.add_argument("--batch-size", type=positive, default=32, help="rows per batch (default: 32)")
    parser.add_argument(
        "--chunk-rows",
        type=positive,
        default=2048,
        help="rows per saved chunk; at most this many are repeated after a kill (default: 2048)",
    )
    add_answer_options(parser)
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default="transformers",
        help="vllm only generates; scored labels need transformers (default: transformers)",
    )
    parser.add_argument(
        "--restart", action="store_true", help="discard the unfinished work on this output and start again"
    )


def main() -> None:
    """Predict one input or a table."""
    args = parse_args()
    from radrecipes.inference import vllm_engine
    from radrecipes.inference.audit_log import AuditLog
    from radrecipes.inference.distributed import join_processes

    if args.engine == "vllm":
        vllm_engine.check_usable()
    processes = join_processes(longest_wait=timedelta(days=365))  # processes may finish days apart
    log = AuditLog(args.audit_log) if args.audit_log else None
    if args.text is None:
        predict_table(args, log, processes)
    elif processes.is_main_process:
        predict_one(args, log)
    processes.destroy_process_group()


def predict_one(args: argparse.Namespace, log) -> None:
    """Answer one input on the terminal."""
    from huggingface_hub.utils import enable_progress_bars
    from transformers.utils import logging as transformers_logging

    from radrecipes.data.example import Example
    from radrecipes.training.run_folder import run_of

    inputs = run_of(args.adapter)[2].read_input(args.text, "--text")
    if log:
        log.check_usable()
    transformers_logging.disable_progress_bar()  # of loading, which takes a second
    enable_progress_bars()  # of a download, which does not
    predictor = _load(args)
    if reason := predictor.refusals([inputs])[0]:
        raise InputError(reason, "--text")
    answers = predictor.answer([inputs], batch_size=1)
    if log:  # first, so that no answer is shown that is not in the log
        one = [Example(id="1", group="1", inputs=inputs, target="")]
        table = predictor.answers_table(one, answers, keep_input=False)
        appended = log.append_new(log.entries(one, table, predictor))
    print(predictor.as_text(answers[0]))
    if log:
        print(appended.as_text())


def _output(args: argparse.Namespace) -> Path:
    """The file to write, if its format is known."""
    from radrecipes.inference.prediction_stream import OUTPUT_SUFFIXES

    if args.output is None:
        raise InputError("--input needs --output, the file to write", "command line")
    if Path(args.output).suffix.lower() not in OUTPUT_SUFFIXES:
        raise InputError(
            f"the format is not clear from the name; it must end with {', '.join(OUTPUT_SUFFIXES)}", args.output
        )
    return Path(args.output)


def _reading(args: argparse.Namespace) -> tuple:
    """How the rows of the table are read: arguments of `iterate_inputs`."""
    from radrecipes.data.sources.table_form import TableForm
    from radrecipes.inference.prediction_stream import input_columns
    from radrecipes.training.run_folder import run_of

    folder, _, task = run_of(args.adapter)
    return task, input_columns(folder, task, args.text_column), args.id_column, TableForm(**table_form(args))


def predict_table(args: argparse.Namespace, log, processes) -> None:
    """Answer every row of a table, chunk by chunk."""
    from tqdm import tqdm

    from radrecipes.access import protect
    from radrecipes.inference.prediction_stream import examine_input, iterate_chunks, iterate_inputs, without_refused
    from radrecipes.inference.unfinished_prediction import UnfinishedPrediction

    # The complete input is read once before any work
    reading = _reading(args)
    work = UnfinishedPrediction(_output(args))
    work.check_output()
    if log:
        log.check_usable([args.input, work.output, work.rejects])
    facts = examine_input(args.input, *reading)
    if facts.said and processes.is_main_process:
        print(facts.said)

    # Model, and the state that a killed run must share to be continued
    predictor = _load(args)
    options = {**{name: vars(args)[name] for name in _OPTIONS_IN_STATE}, **table_form(args)}
    state = {
        "input": facts.sha256,
        "adapter, label set, threshold or --tries": predictor.fingerprint,
        **{f"--{name.replace('_', '-')}": value for name, value in options.items()},
    }
    if not args.restart:
        work.check_state(state)

    # The class of a table is unknown, so it counts as closed
    protect(None)

    # Every process does its own unfinished chunks; only the first starts and completes the work
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
            for number, chunk in enumerate(iterate_chunks(iterate_inputs(args.input, *reading), args.chunk_rows)):
                if number in mine and number not in finished:
                    rows, refused = without_refused(chunk, predictor.refusals([row.inputs for row in chunk]))
                    bar.update(len(refused))
                    inputs = [row.inputs for row in rows]
                    answers = predictor.answer(inputs, batch_size=args.batch_size, on_progress=bar.update)
                    table = predictor.answers_table(rows, answers, args.keep_text)
                    work.save(number, table, log.entries(rows, table, predictor) if log else None, refused)
        processes.wait_for_everyone()

        if processes.is_main_process:
            if examine_input(args.input, *reading) != facts:
                raise InputError("changed while it was read; run the command again with --restart", args.input)
            _write_output(args, log, predictor, work, facts, reading)


def _write_output(args: argparse.Namespace, log, predictor, work, facts, reading) -> None:
    """Assemble the output from the chunks elsewhere, then rename it, so that it is complete or absent."""
    from radrecipes.inference.prediction_stream import iterate_inputs, write_answers, write_rejects

    output, rejected = work.output, 0
    parts = [work.part(number) for number in range(-(-facts.rows // args.chunk_rows))]
    assembled, kind = work.assembling(output), output.suffix.lower()
    counted = write_answers(parts, assembled, kind, predictor.counted_column, args.plain_csv)
    if facts.rejected or counted.total() < facts.rows:
        rows, refused = iterate_inputs(args.input, *reading), work.refused(len(parts))
        rejected = write_rejects(rows, refused, work.assembling(work.rejects))
    if log:
        appended = log.append(work.audited(len(parts)), work.id)
    work.finish([work.rejects, output] if rejected else [output])
    print(f"{counted.total():,} answers in {output}: {predictor.summary(counted)}")
    if rejected:
        print(f"{rejected:,} rows rejected: {work.rejects} names line and reason of each")
    if log:
        print(appended.as_text())


def _load(args: argparse.Namespace):
    from radrecipes.inference.predictors import load_predictor

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
