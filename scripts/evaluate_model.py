"""Evaluate a finished run on its dataset's test split, beside the untuned base and four baselines.

    python scripts/evaluate_model.py --run runs/smollm2-135m/protocol_lora/seed-42

Writes evaluation/ into the run's folder: metrics.json, predictions.parquet, report.html, figures/. Where labels are scored, it
fits a temperature and the thresholds for automatic answers on the validation split and stores them in the adapter's folder,
where scripts/predict.py finds them. An evaluation that is there already is shown as it is; --restart makes it anew.
"""

import argparse
import json
import shutil
from functools import partial
from pathlib import Path

from datasets import Dataset
from tqdm import tqdm

import radrecipes  # noqa: F401  (before any library: turns telemetry off)
from radrecipes import run_folder
from radrecipes.command_line import positive, run, share
from radrecipes.data.prepared import LABEL_SET_FILE, load_prepared_dataset
from radrecipes.embeddings import TextEmbedder
from radrecipes.errors import InputError
from radrecipes.evaluation import ADAPTER, BASE, EvaluationRows, baseline_outputs, compute_metrics, predictions_table
from radrecipes.predictor import Predictor
from radrecipes.recipe import header, parse_recipe
from radrecipes.reporting.report_page import write_report
from radrecipes.reporting.result_tables import metrics_table
from radrecipes.selective import DEFAULT_TARGET, TARGETS


def main() -> None:
    """Answer every row with every system, fit the thresholds, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="folder of a finished run")
    parser.add_argument("--dataset", help="another prepared dataset than the recipe's; thresholds are not stored then")
    parser.add_argument("--split", default="test", choices=["validation", "test"], help="default: test")
    parser.add_argument(
        "--decode", choices=["score", "generate"], help="default: the recipe's; another has its own folder"
    )
    parser.add_argument(
        "--target-accuracy", type=share, help="accuracy that automatic answers shall have (default: 0.95)"
    )
    parser.add_argument("--max-rows", type=positive, help="only the first rows of each split, for a quick look")
    parser.add_argument("--skip-base", action="store_true", help="leave the untuned base out")
    parser.add_argument("--batch-size", type=positive, default=32, help="rows a batch (default: 32)")
    parser.add_argument("--similarity-model", help="sentence-transformers model, a name or folder")
    parser.add_argument("--restart", action="store_true", help="replace an evaluation that is there")
    parser.add_argument("--allow-other-weights", action="store_true", help="accept a base of another hash")
    args = parser.parse_args()

    # An evaluation that is there already
    folder = Path(args.run)
    manifest = run_folder.read_manifest(folder)
    decode = parse_recipe(folder / "recipe.yaml").arguments.decode
    output = folder / ("evaluation" if args.decode in (None, decode) else f"evaluation-{args.decode}")
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
    train = _rows(dataset.splits["train"], None)
    validation, rows = (_rows(dataset.splits[split], args.max_rows) for split in ("validation", args.split))
    embedder = TextEmbedder(args.similarity_model)
    label_set = dataset.folder / LABEL_SET_FILE if args.dataset else None
    predictor = Predictor(folder, args.allow_other_weights, label_set, decode=args.decode, load_policy=False)
    predictor.task.check_dataset(dataset)

    # Answers of the model; where it scores labels, temperature and thresholds come from the validation split
    systems, validated, calibration = {}, {}, None
    if predictor.decode == "score":
        target = args.target_accuracy or DEFAULT_TARGET
        scores = _with_progress(predictor.score, validation, args.batch_size, "validation")
        policy = predictor.fit_policy(
            scores, validation.references, validation.groups, dataset.digest, sorted({*TARGETS, target}), target
        )
        if args.target_accuracy:
            policy.threshold_for(target)  # a target that was asked for and cannot be supported ends here
        validated[ADAPTER] = predictor.decided(predictor.probabilities(scores))
        scores = _with_progress(predictor.score, rows, args.batch_size, ADAPTER)
        systems[ADAPTER] = predictor.decided(predictor.probabilities(scores))
        calibration = predictor.calibration(scores, rows.references)
        left_out = float(scores.left_out.mean())
    else:
        policy, left_out = None, None
        systems[ADAPTER] = _with_progress(predictor.answer, rows, args.batch_size, ADAPTER)
    if not args.skip_base:
        systems[BASE] = _with_progress(partial(predictor.answer, untuned=True), rows, args.batch_size, BASE)

    # Answers of the baselines, trained on the same rows
    validation_baselines, baselines = baseline_outputs(train, validation, rows)
    systems |= baselines
    validated |= validation_baselines

    # Figures
    metrics = compute_metrics(
        rows,
        systems,
        label_set=predictor.label_set,
        train_notes=train.notes,
        train_labels=train.references,
        embedder=embedder,
        split=args.split,
        dataset={"name": dataset.folder.name, "access": dataset.access, "digest": dataset.digest},
        decoding={
            "method": predictor.decode,
            "max_new_tokens": predictor.recipe.arguments.max_new_tokens if policy is None else None,
            "left_out_mass": predictor.scorer.left_out_mass if policy else None,
            "left_out_share": left_out,
        },
        seeds={"training": predictor.recipe.training.seed, "bootstrap": 0},
        validation_rows=validation,
        validation_systems=validated,
        calibration=calibration,
        targets=[choice.target_accuracy for choice in policy.thresholds] if policy else TARGETS,
    )

    # Files: beside, then renamed, so that the folder is whole or absent
    unfinished = output.with_name(output.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    predictions = predictions_table(rows, systems, dataset.access)
    predictions.to_parquet(unfinished / "predictions.parquet", index=False)
    write_report(
        unfinished,
        title=header(folder / "recipe.yaml").split(". ")[0],
        metrics=metrics,
        predictions=predictions,
        labels=predictor.label_set.labels,
        dataset_manifest=dataset.manifest,
        run_manifest=manifest,
        train_log=run_folder.read_train_log(folder),
    )
    (unfinished / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    if policy and not args.dataset and not args.max_rows:
        policy.save(folder / "adapter")
    shutil.rmtree(output, ignore_errors=True)
    unfinished.rename(output)
    print(metrics_table(metrics))
    print(f"report: {output / 'report.html'}")


def _rows(split: Dataset, limit: int | None) -> EvaluationRows:
    columns = split.to_dict()
    return EvaluationRows(*(columns[name][:limit] for name in ("id", "group", "note", "label")))


def _with_progress(answer, rows: EvaluationRows, batch_size: int, title: str):
    with tqdm(total=len(rows.notes), unit="note", desc=title) as bar:
        return answer([{"note": note} for note in rows.notes], batch_size, on_progress=bar.update)


if __name__ == "__main__":
    run(main)
