"""The arguments of scripts/predict.py."""

import argparse

from radrecipes.cli import positive
from radrecipes.inference.predictors import ENGINES


def prediction_arguments(description: str) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", required=True, metavar="RUN", help="folder of a finished run, or org/name@v1.0")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--text", "--note", help="one note, list of observations or findings, as the run's task reads")
    source.add_argument("--input", metavar="FILE", help="a CSV, TSV or JSONL file, also with .gz, or a Parquet file")
    parser.add_argument(
        "--text-column", help="its column to read (default: note, observations or findings, by the task)"
    )
    parser.add_argument("--id-column", help="its column that identifies a row (default: the row's number)")
    parser.add_argument("--output", metavar="FILE", help="the file to write, .csv, .jsonl or .parquet")
    parser.add_argument(
        "--keep-text", "--keep-note", action="store_true", help="copy what was read into the output (default: id only)"
    )
    parser.add_argument("--audit-log", metavar="FILE", help="append an entry a row: ids, digests, decisions; no text")
    parser.add_argument("--batch-size", type=positive, default=32, help="rows a batch (default: 32)")
    parser.add_argument("--chunk-rows", type=positive, default=2048, help="rows a kill may cost (default: 2048)")
    parser.add_argument("--label-set", metavar="FILE", help="labels: a label set with some added to the adapter's")
    parser.add_argument("--target-accuracy", type=float, help="labels: decide by the threshold for this accuracy")
    parser.add_argument("--tries", type=positive, help="reports: tries before the template writer (default: 4)")
    parser.add_argument("--engine", choices=ENGINES, default="transformers", help="vllm: generation only")
    parser.add_argument("--allow-other-weights", action="store_true", help="accept a base of another hash")
    parser.add_argument("--restart", action="store_true", help="throw unfinished work on this output away")
    return parser.parse_args()
