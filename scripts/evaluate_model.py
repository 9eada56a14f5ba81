r"""Evaluate a finished run on its dataset's test split, compared with the untuned base model and its task's baselines.

    python scripts/evaluate_model.py --run runs/smollm2-135m/protocol_lora/seed-42
    python scripts/evaluate_model.py --run runs/smollm2-135m/report_lora/seed-42

Several processes share the rows; the results are those of one process with as many threads:

    python scripts/launch.py --config_file accelerate_configs/ddp.yaml scripts/evaluate_model.py \
        --run runs/smollm2-135m/protocol_lora/seed-42

Writes evaluation/ into the run's folder: metrics.json, predictions.parquet, report.html, figures/. If labels are scored, it fits
a temperature and the thresholds for automatic answers on the validation split and stores them next to the trained weights, where
scripts/predict.py finds them. For labels the last line says which system to use for these data. Fitting their baselines takes
minutes; the scores are cached in the dataset's folder, as .scores/, where the evaluations of other seeds find them. Texts are
evaluated with and without the guard, reports also by a second labeller; the untuned base model, which seldom stops, is evaluated on
a sample. A classification head has no untuned base model to compare with. An existing evaluation is
only shown; --restart evaluates again.

Exit codes: 0 evaluated, or the existing evaluation was shown; nothing was written: 1 memory or disk ran out, or a process was lost,
2 wrong input, 5 another process writes this evaluation, 130 interrupted.
"""

import argparse
import contextlib
import json
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path

import radrecipes  # noqa: F401  (before any library: turns telemetry off)
from radrecipes.cli import fraction, positive, run

_LISTED_ROWS = 5
# What decides the result, apart from the dataset and the split
_DECISIVE = ("target_accuracy", "count_acceptable", "tries", "max_rows", "skip_base")
_DECISIVE += ("similarity_model", "encoder", "judges")


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--run", required=True, help="folder of a finished run, or a release on the Hub, org/name@v1.0"
    )
    parser.add_argument("--dataset", help="prepared dataset to use instead of the recipe's: a folder or org/name@v1.0")
    parser.add_argument("--split", default="test", choices=["validation", "test"], help="default: test")
    parser.add_argument(
        "--decode",
        choices=["score", "generate"],
        help="labels: score all of them, or generate (default: the recipe's; results of the other method go to"
        " evaluation-METHOD/)",
    )
    parser.add_argument(
        "--target-accuracy", type=fraction, help="labels: target accuracy of automatic answers (default: 0.95)"
    )
    parser.add_argument(
        "--count-acceptable",
        action="store_true",
        help="labels: thresholds count answers that the label set names as acceptable as correct",
    )
    parser.add_argument("--tries", type=positive, help="texts: attempts before the fallback text is used (default: 4)")
    parser.add_argument("--max-rows", type=positive, help="only the first rows of each split, for a quick look")
    parser.add_argument("--skip-base", action="store_true", help="do not evaluate the untuned base model")
    parser.add_argument("--batch-size", type=positive, default=32, help="rows per batch (default: 32)")
    parser.add_argument(
        "--similarity-model", help="labels, impressions: sentence-transformers model to compare texts with"
    )
    parser.add_argument(
        "--encoder",
        help="labels: encoder to fine-tune as a baseline, by Hub name or folder, or none (default: all-MiniLM-L6-v2)",
    )
    parser.add_argument(
        "--judges",
        nargs="+",
        metavar="JUDGE",
        help="reports: labeller, a second one that shares no rule with the first (default); metrics of RadEval, such as"
        " radgraph; or none",
    )
    parser.add_argument(
        "--output",
        help="folder to write to (default: evaluation/ of the run, thresholds in the folder of its weights); for another folder no "
        "thresholds are stored",
    )
    parser.add_argument("--restart", action="store_true", help="replace an existing evaluation")
    parser.add_argument(
        "--allow-other-weights",
        action="store_true",
        help="use the base model even if its weights differ from those in training",
    )
    return parser.parse_args()


def main() -> None:
    """Evaluate, or show the evaluation that exists."""
    args = parse_args()
    from radrecipes.files import check_writable, read_json_object
    from radrecipes.inference.distributed import join_processes
    from radrecipes.owned_folder import check_replaceable
    from radrecipes.tasks import LabelTask
    from radrecipes.training.run_folder import is_reference, run_of, weights_folder

    # The processes synchronise after every system, so a lost one is noticed by then
    processes = join_processes(longest_wait=timedelta(minutes=30))
    folder, recipe, task = run_of(args.run)
    same_decoding = args.decode in (None, recipe.arguments.decode)
    # A release is read-only and includes its thresholds, so its evaluation is written next to the user's own runs.
    place = Path("runs", "pulled", args.run) if is_reference(args.run) else folder
    default = place / ("evaluation" if same_decoding else f"evaluation-{args.decode}")
    output = Path(args.output or default)
    # Why thresholds are not stored, apart from another dataset
    kept_apart = (
        "a release contains its own"
        if place != folder
        else f"--output is not {default}"
        if os.path.realpath(output) != os.path.realpath(default)
        else "--max-rows leaves rows out"
        if args.max_rows
        else None
    )
    scores = isinstance(task, LabelTask) and (args.decode or recipe.arguments.decode) != "generate"
    to_store = weights_folder(folder) if scores and not kept_apart else None
    if os.path.isfile(output / "metrics.json") and not args.restart:
        if processes.is_main_process:
            show(args, read_json_object(output / "metrics.json"), output, to_store)
        return
    check_replaceable(output, "evaluation")
    if to_store:
        check_writable(to_store)
    with _locked(output) if processes.is_main_process else contextlib.nullcontext():
        evaluate_run(args, processes, folder, output, kept_apart)


def show(args: argparse.Namespace, metrics: dict, output: Path, weights: Path | None) -> None:
    """Print an existing evaluation, and what it lacks of what was asked for; thresholds belong into `weights`."""
    from radrecipes.inference.abstention import POLICY_FILE
    from radrecipes.reporting.result_tables import metrics_table

    print(metrics_table(metrics))
    print(f"{output} exists already; --restart evaluates again")
    asked = {"split": args.split, **options_of(args)}
    # An older evaluation does not say what else it was made with
    found = {"split": metrics["split"], **metrics.get("options", options_of(args))}
    different = [name for name in ("split", *_DECISIVE) if asked.get(name) != found.get(name)]
    if different:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in different)
        print(f"it was made with another {names}; --restart evaluates with what is given now")
    if weights and not (weights / POLICY_FILE).is_file():
        print("no thresholds are stored with the weights; --restart fits them")


def options_of(args: argparse.Namespace) -> dict:
    """The given options that decide the result, as `metrics.json` has them."""
    return {name: vars(args)[name] for name in _DECISIVE if vars(args)[name]}


def evaluate_run(args: argparse.Namespace, processes, folder: Path, output: Path, kept_apart: str | None) -> None:
    """Run every system on every row; the first process fits the thresholds, computes metrics and writes."""
    from radrecipes.data.prepared import LABEL_SET_FILE, load_prepared_dataset
    from radrecipes.errors import InputError
    from radrecipes.evaluation.evaluate import EvaluationOptions, evaluate
    from radrecipes.hub.pull import pull
    from radrecipes.inference.predictors import load_predictor
    from radrecipes.training import run_folder

    # Data: the rows that the run was split from
    manifest = run_folder.read_manifest(folder)
    source = args.dataset or manifest["data"]["folder"]
    dataset = load_prepared_dataset(pull(source, "dataset") if run_folder.is_reference(source) else source)
    own = dataset.digest == manifest["data"]["digest"]
    if not own and not args.dataset:
        raise InputError(
            "the dataset changed since training, so its test rows may have been trained on; train again", str(folder)
        )
    run_folder.run_of(folder)[2].check_dataset(dataset)

    # Answers of all systems; the first process computes the metrics
    predictor = load_predictor(
        folder,
        args.allow_other_weights,
        label_set=dataset.folder / LABEL_SET_FILE if dataset.label_set and not own else None,
        decode=args.decode,
        load_policy=False if dataset.label_set else None,
        tries=args.tries,
    )
    predictor.shared = processes.num_processes > 1
    if not predictor.has_base and processes.is_main_process:
        print("the base model is left out, because without training it has no head")
    options = EvaluationOptions(
        args.split,
        args.max_rows,
        args.batch_size,
        args.skip_base,
        args.target_accuracy,
        args.similarity_model,
        args.count_acceptable,
        args.encoder,
        args.judges,
    )
    progress = partial(_progress, hidden=not processes.is_main_process)
    evaluated = evaluate(predictor, dataset, options, progress, processes.is_main_process)
    processes.destroy_process_group()
    if evaluated is None:
        return
    evaluated.metrics["options"] = options_of(args)
    kept_apart = kept_apart or (None if own else "--dataset is not the run's own")
    write(evaluated, output, folder, dataset.manifest, kept_apart)


def write(evaluated, output: Path, folder: Path, dataset_manifest: dict, kept_apart: str | None) -> None:
    """Write the files of an evaluation, and its policy into the folder of the run's weights."""
    from radrecipes.environment import code_version
    from radrecipes.owned_folder import complete_folder
    from radrecipes.recipe import header
    from radrecipes.reporting.page import write_page
    from radrecipes.reporting.result_tables import metrics_table, recommended_system
    from radrecipes.training import run_folder

    with complete_folder(output, "evaluation") as unfinished:
        evaluated.predictions.to_parquet(unfinished / "predictions.parquet", index=False)
        write_page(
            unfinished,
            metrics=evaluated.metrics,
            predictions=evaluated.predictions,
            title=header(folder / "recipe.yaml").split(". ")[0],
            dataset_manifest=dataset_manifest,
            run_manifest=run_folder.read_manifest(folder),
            train_log=run_folder.read_train_log(folder),
        )
        metrics = json.dumps(evaluated.metrics | {"code": code_version()}, indent=2) + "\n"
        (unfinished / "metrics.json").write_text(metrics, encoding="utf-8")
        if evaluated.policy and not kept_apart:
            evaluated.policy.save(run_folder.weights_folder(folder))
    print(metrics_table(evaluated.metrics))
    for split, ids in evaluated.left_out.items():
        more = ", …" if len(ids) > _LISTED_ROWS else ""
        print(f"left out of {split}, which the model cannot read: {', '.join(ids[:_LISTED_ROWS])}{more}")
    if evaluated.policy and kept_apart:
        print(f"no thresholds were stored with the weights: {kept_apart}")
    print(f"report: {output / 'report.html'}")
    if recommended := recommended_system(evaluated.metrics):
        print(recommended)


@contextlib.contextmanager
def _locked(output: Path) -> Iterator[None]:
    """Keep others from writing the same evaluation, and find out before the work whether it can be written."""
    from radrecipes.errors import InputError, OutputInUseError
    from radrecipes.files import LockedError, lock

    with contextlib.ExitStack() as stack:
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock(output.with_name(f".{output.name}.LOCK"), wait=False))
        except LockedError as error:
            raise OutputInUseError(f"{output}: another process writes it ({error}); wait, or set --output") from None
        except OSError as error:
            raise InputError(f"cannot be written ({error.strerror}); set --output", str(output)) from None
        yield


@contextlib.contextmanager
def _progress(title: str, rows: int, hidden: bool) -> Iterator[Callable[[int], None]]:
    from tqdm import tqdm

    with tqdm(total=rows, unit="row", desc=title, disable=hidden) as bar:
        yield bar.update


if __name__ == "__main__":
    run(main)
