"""Evaluate a finished run on its dataset's test split, beside the untuned base and a linear classifier.

    python scripts/evaluate_model.py --run runs/smollm2-135m/protocol_lora/seed-42

Writes evaluation/ into the run's folder: metrics.json, predictions.parquet, report.html, figures/.
An evaluation that is there already is shown as it is; --restart makes it anew.
"""

import argparse
import json
import shutil
from pathlib import Path

from tqdm import tqdm

import radrecipes  # noqa: F401  (before any library: turns telemetry off)
from radrecipes import run_folder
from radrecipes.baselines import fit_linear_baseline, majority_label
from radrecipes.command_line import positive, run
from radrecipes.data.prepared import load_prepared_dataset
from radrecipes.embeddings import TextEmbedder
from radrecipes.errors import InputError
from radrecipes.evaluation import (
    ADAPTER,
    BASE,
    LINEAR,
    MAJORITY,
    EvaluationRows,
    classifier_outputs,
    compute_metrics,
    predictions_table,
)
from radrecipes.predictor import Predictor
from radrecipes.recipe import header
from radrecipes.reporting.report_page import write_report
from radrecipes.reporting.result_tables import metrics_table


def main() -> None:
    """Answer every row with every system, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="folder of a finished run")
    parser.add_argument("--dataset", help="another prepared dataset than the recipe's")
    parser.add_argument("--split", default="test", choices=["validation", "test"], help="default: test")
    parser.add_argument("--max-rows", type=positive, help="only the first rows of the split, for a quick look")
    parser.add_argument(
        "--skip-base", action="store_true", help="leave the untuned base out (it takes most of the time)"
    )
    parser.add_argument("--batch-size", type=positive, default=32, help="rows a batch (default: 32)")
    parser.add_argument("--similarity-model", help="sentence-transformers model, a name or folder")
    parser.add_argument("--restart", action="store_true", help="replace an evaluation that is there")
    parser.add_argument("--allow-other-weights", action="store_true", help="accept a base of another hash")
    args = parser.parse_args()

    # An evaluation that is there already
    folder = Path(args.run)
    manifest = run_folder.read_manifest(folder)
    output = folder / "evaluation"
    if (output / "metrics.json").is_file() and not args.restart:
        print(metrics_table(json.loads((output / "metrics.json").read_text(encoding="utf-8"))))
        print(f"{output} was there already; --restart evaluates anew")
        return

    # Data: the very rows that the run was split from
    dataset = load_prepared_dataset(args.dataset or manifest["data"]["folder"])
    if not args.dataset and dataset.digest != manifest["data"]["digest"]:
        raise InputError(
            "the dataset changed since training, so its test rows may have been trained on; train again", str(folder)
        )
    splits = {name: split.to_dict() for name, split in dataset.splits.items()}
    chosen = {column: values[: args.max_rows] for column, values in splits[args.split].items()}
    rows = EvaluationRows(chosen["id"], chosen["group"], chosen["note"], chosen["label"])
    embedder = TextEmbedder(args.similarity_model)
    predictor = Predictor(folder, args.allow_other_weights)
    predictor.task.check_dataset(dataset)

    # Answers of every system
    inputs = [{"note": note} for note in rows.notes]
    systems = {}
    for name in [ADAPTER] if args.skip_base else [ADAPTER, BASE]:
        with tqdm(total=len(inputs), unit="note", desc=name) as bar:
            systems[name] = predictor.answer(inputs, args.batch_size, untuned=name == BASE, on_progress=bar.update)
    train, validation = splits["train"], splits["validation"]
    linear = fit_linear_baseline(train["note"], train["label"], validation["note"], validation["label"])
    systems[LINEAR] = classifier_outputs(linear.predict(rows.notes))
    majority = majority_label(train["label"])
    systems[MAJORITY] = classifier_outputs([majority] * len(rows.ids))

    # Figures
    metrics = compute_metrics(
        rows,
        systems,
        label_names=dataset.label_set.names,
        train_majority_label=majority,
        embedder=embedder,
        split=args.split,
        dataset={"name": dataset.folder.name, "access": dataset.access, "digest": dataset.digest},
        decoding={"method": "greedy", "max_new_tokens": predictor.recipe.arguments.max_new_tokens},
        seeds={"training": predictor.recipe.training.seed, "bootstrap": 0},
    )

    # Files: beside, then renamed, so that the folder is whole or absent
    unfinished = folder / "evaluation.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    predictions = predictions_table(rows, systems, dataset.access)
    predictions.to_parquet(unfinished / "predictions.parquet", index=False)
    write_report(
        unfinished,
        title=header(folder / "recipe.yaml").split(". ")[0],
        metrics=metrics,
        predictions=predictions,
        labels=dataset.label_set.labels,
        dataset_manifest=dataset.manifest,
        run_manifest=manifest,
        train_log=run_folder.read_train_log(folder),
    )
    (unfinished / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(output, ignore_errors=True)
    unfinished.rename(output)
    print(metrics_table(metrics))
    print(f"report: {output / 'report.html'}")


if __name__ == "__main__":
    run(main)
