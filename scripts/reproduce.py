"""Record the result of a recipe over several seeds, or check whether a published result can be reproduced here.

    python scripts/reproduce.py record recipes/smollm2-135m/protocol_lora.yaml --seeds 5
    python scripts/reproduce.py check recipes/smollm2-135m/protocol_lora.yaml --smoke
    python scripts/reproduce.py check recipes/smollm2-135m/protocol_lora.yaml

record trains and evaluates every seed (42, 1, 2, …; finished ones are kept), writes <recipe>.results.json, and updates the tables
of README.md and of the model's README.md. The untuned base model is evaluated with the first seed only, because it does not depend
on the seed. An existing evaluation of this adapter on this dataset is kept.

check takes a recipe with a result file, or a release, org/name@v1.0. It first compares recipe, data, prompt and base weights with
the published digests, and stops if one differs. Then it evaluates the published adapter again, whose metrics must be the same up to
rounding (rates ±0.010, BLEU ±1.0, coverage ±0.06), and trains with a new seed, whose metrics must be in the 95 % prediction
interval of the recorded seeds, mean ± t · sd · √(1 + 1/n); a better one fails, too. One in 20 correct runs is outside, so try
another --seed before you look for an error. --smoke only compares the losses of the first steps.

Exit codes: 0 everything passed, 1 something failed, 2 wrong input, 75 interrupted; those of a failed step: 3 no valid checkpoint,
4 diverged, 5 another process writes the folder, 137 killed. The same command continues what was interrupted.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from types import FrameType
from typing import TYPE_CHECKING, Any

import radrecipes  # noqa: F401  (before any library: turns telemetry off)
from radrecipes.cli import non_negative, positive, run
from radrecipes.errors import InputError, InterruptedRunError
from radrecipes.shipped import find_shipped

if TYPE_CHECKING:  # these take seconds to load
    from radrecipes.data.prepared import PreparedDataset
    from radrecipes.evaluation.reproduction import Claim, Difference, Verdict
    from radrecipes.recipe import Recipe

INTERRUPTED = InterruptedRunError.exit_code
SIGNALS = (getattr(signal, "SIGHUP", signal.SIGINT), signal.SIGINT, signal.SIGTERM)  # Windows has no SIGHUP


def main() -> None:
    """Parse arguments, then record or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    to_record = commands.add_parser("record", help="run a recipe over seeds and write its result file")
    to_record.add_argument("recipe", help="the recipe, a YAML file")
    to_record.add_argument(
        "--seeds", type=positive, default=5, help="how many (default: 5); 42, 1, 2, … in this order"
    )
    to_check = commands.add_parser("check", help="compare a published result with what is measured here")
    to_check.add_argument("claim", help="a recipe with its result file, or a release, org/name@v1.0")
    to_check.add_argument("--dataset", help="a folder or org/name@v1.0, if not the folder in the recipe")
    to_check.add_argument(
        "--seed", type=non_negative, help="the new seed (default: the smallest from 1 on that is not recorded)"
    )
    to_check.add_argument(
        "--smoke", action="store_true", help="only compare the losses of the first steps, in minutes"
    )
    to_check.add_argument(
        "--anyway", action="store_true", help="measure even if something differs; the check fails in any case"
    )
    to_check.add_argument("--restart", action="store_true", help="repeat what an earlier check has measured")
    for command in (to_record, to_check):
        command.add_argument(
            "--launch", default="accelerate_configs/cpu.yaml", help="launch configuration (default: cpu)"
        )
    args = parser.parse_args()
    if args.command == "record":
        record(args)
    else:
        sys.exit(0 if check(args) else 1)


def record(args: argparse.Namespace) -> None:
    """Train and evaluate every seed, then write the result file and the tables that are generated from it."""
    from radrecipes.evaluation.results import code_of_seeds, results_path, seeds_to_record, summarise
    from radrecipes.files import read_json, write_atomically
    from radrecipes.recipe import parse_recipe
    from radrecipes.reporting.result_tables import BEGIN, results_table, summary_table, with_results
    from radrecipes.training.run_folder import read_manifest

    if not Path(args.recipe).exists() and find_shipped(args.recipe).exists():
        raise InputError(
            f"results are written next to the recipe; copy it first: radrecipes recipes cp {args.recipe} FILE",
            args.recipe,
        )
    seeds = seeds_to_record(args.seeds)
    recipes = {seed: parse_recipe(args.recipe, ["--seed", str(seed)]) for seed in seeds}
    runs = []
    for number, (seed, recipe) in enumerate(recipes.items(), 1):
        print(f"seed {seed} ({number} of {len(seeds)})", flush=True)
        train_start(args.launch, recipe, seed)
        train(args.launch, "--config", args.recipe, "--seed", seed)
        manifest = read_manifest(recipe.output_dir)
        runs.append((manifest, evaluate(recipe.output_dir, manifest["data"]["digest"], with_base=number == 1)))

    result = summarise(runs, f"python scripts/reproduce.py record {quote(str(args.recipe))} --seeds {args.seeds}")
    write_atomically(results_path(args.recipe), json.dumps(result, indent=2) + "\n")
    print(results_table([result]))
    folder = Path(args.recipe).parent
    generated = ((Path("README.md"), Path("recipes"), summary_table), (folder / "README.md", folder, results_table))
    for document, root, table in generated:
        if document.is_file():
            found = [read_json(path) for path in sorted(root.rglob("*.results.json"))]
            text = document.read_text("utf-8")
            if BEGIN in text:
                write_atomically(document, with_results(text, table(found), str(document)))
            else:
                print(f"{document} stays as it is: without the line `{BEGIN}` it has no place for the table")
    if len(commits := code_of_seeds(result)) > 1:
        made = "; ".join(f"{name} {', '.join(steps)}" for name, steps in commits.items())
        print(f"the seeds were made by different commits: {made}")


def check(args: argparse.Namespace) -> bool:
    """Compare digests, then metrics; returns whether everything is as published."""
    from radrecipes.evaluation import reproduction

    claim = reproduction.read_claim(args.claim)
    seed = claim.new_seed if args.seed is None else args.seed
    if args.smoke and args.seed is not None:
        raise InputError("is not used with --smoke, which repeats a recorded seed; leave it out", "--seed")
    if not args.smoke and len(claim.seeds) < 2:
        raise InputError("a single recorded seed gives no prediction interval; record five", args.claim)
    if not args.smoke and seed in claim.seeds:
        raise InputError(f"{seed} is a recorded seed, which proves nothing; choose another", "--seed")
    dataset = reproduction.find_dataset(claim, args.dataset)
    here = reproduction.facts_here(claim.recipe, dataset)
    found = reproduction.differences(claim.facts, here)
    decisive = [difference for difference in found if difference.decisive]
    print(f"{claim.name}: recorded with seeds {', '.join(map(str, claim.seeds))}")
    _print_differences("not as published", decisive)
    _print_differences("may differ", [difference for difference in found if not difference.decisive])
    if decisive and not args.anyway:
        print(f"FAIL: {decisive[0].field} is not as published; nothing was trained (--anyway measures in any case)")
        return False
    if not decisive:
        print("recipe, data, prompt and base model are as published")
    words = ["--config", claim.recipe.path, "--dataset", dataset.folder]
    if template := claim.recipe.training.chat_template_path:
        words += ["--chat_template_path", template]
    if args.smoke:
        return compare_first_losses(args.launch, words, claim, here) and not decisive

    _open_work_folder(claim, here, args.restart)
    verdicts = evaluate_published(claim, dataset, decisive)
    trained = claim.work_folder / f"seed-{seed}"
    of_seed = train_new_seed(args.launch, words, claim, dataset, seed, trained)
    return _print_result(claim, verdicts, of_seed, trained, not decisive)


def compare_first_losses(launch: str, words: Sequence[object], claim: "Claim", here: dict[str, Any]) -> bool:
    """Train the first steps, and compare their losses with the recorded ones."""
    from radrecipes.evaluation.reproduction import LOSS_TOLERANCE, same_arithmetic, same_losses
    from radrecipes.files import scratch_folder
    from radrecipes.reporting.result_tables import losses_table
    from radrecipes.training.run_folder import read_train_log

    if claim.recipe.arguments.stage == "grpo":
        raise InputError("compares losses, which say nothing of `stage: grpo`; run the whole check", "--smoke")
    recorded = claim.first_losses
    train_start(launch, claim.recipe, claim.seed)
    print(f"training the first {len(recorded)} steps of seed {claim.seed}, then stopping", flush=True)
    with scratch_folder("radrecipes-smoke-") as scratch:
        output = Path(scratch, "run")
        options = ["--seed", claim.seed, "--output_dir", output, "--stop-after", len(recorded)]
        if dtype := claim.facts["base"].get("dtype"):  # in the recorded one, also where another is faster
            options += ["--dtype", dtype]
        threads = str(claim.facts["hardware"]["threads"])
        train(launch, *words, *options, may_stop=True, OMP_NUM_THREADS=threads)
        losses = [line["loss"] for line in read_train_log(output)]
    exact = same_arithmetic(claim.facts, here)
    same = same_losses(recorded, losses, exact)
    print(losses_table(recorded, losses, same))
    how = "bit-identical" if exact else f"the same within {LOSS_TOLERANCE:.0%}, because versions or processor differ"
    print(f"{'PASS' if all(same) else 'FAIL'}: {sum(same)} of {len(same)} losses of seed {claim.seed} are {how}")
    return all(same)


def _open_work_folder(claim: "Claim", here: dict[str, Any], restart: bool) -> None:
    """Keep the results of an earlier check only if nothing has changed since then."""
    from radrecipes import owned_folder
    from radrecipes.evaluation.reproduction import code_digest
    from radrecipes.files import read_text

    folder, state = claim.work_folder, claim.work_folder / "state.json"
    facts = json.dumps({"here": here, "code": code_digest(), "published": claim.results}, sort_keys=True)
    owned_folder.check_replaceable(folder, "check")
    if restart or (state.is_file() and read_text(state) != facts):
        owned_folder.remove(folder, "check")
    folder.mkdir(parents=True, exist_ok=True)
    owned_folder.mark(folder, "check")
    state.write_text(facts, encoding="utf-8")


def evaluate_published(
    claim: "Claim", dataset: "PreparedDataset", decisive: Sequence["Difference"]
) -> list["Verdict"]:
    """Evaluate the published adapter again, if it is available and the prompt is the same."""
    from radrecipes.evaluation.reproduction import compare_same_weights
    from radrecipes.reporting.result_tables import verdicts_table

    if claim.run is None:
        print("there is no recorded run here to evaluate again")
        return []
    if any(difference.field.startswith("prompt.") for difference in decisive):
        print(f"{claim.run_name} cannot be evaluated, because its prompt differs from the one it was trained with")
        return []
    print(f"evaluating {claim.run_name} again", flush=True)
    output = claim.work_folder / "published"
    options = ["--dataset", dataset.folder, "--output", output, *(["--allow-other-weights"] if decisive else [])]
    metrics = evaluate(claim.run, dataset.digest, False, claim.run_name, output, options)
    verdicts = compare_same_weights(claim, metrics)
    print(verdicts_table(verdicts, "published"))
    return verdicts


def train_new_seed(
    launch: str, words: Sequence[object], claim: "Claim", dataset: "PreparedDataset", seed: int, output: Path
) -> list["Verdict"]:
    """Train and evaluate a seed that was not recorded."""
    from radrecipes.evaluation.reproduction import compare_new_seed
    from radrecipes.reporting.result_tables import verdicts_table

    train_start(launch, claim.recipe, seed)
    print(f"training with seed {seed}", flush=True)
    train(launch, *words, "--seed", seed, "--output_dir", output)
    metrics = evaluate(output, dataset.digest, with_base=False)
    verdicts = compare_new_seed(claim.results, metrics)
    print(verdicts_table(verdicts, f"mean of {len(claim.seeds)} seeds"))
    return verdicts


def _print_result(
    claim: "Claim", verdicts: Sequence["Verdict"], of_seed: Sequence["Verdict"], trained: Path, as_published: bool
) -> bool:
    """Print the result; after a failure also possible causes, as the run itself recorded them."""
    from radrecipes.evaluation.reproduction import differences, facts_of
    from radrecipes.training.run_folder import read_manifest

    found = differences(claim.facts, facts_of(read_manifest(trained)))
    counted = [verdict.passed for verdict in [*verdicts, *of_seed] if verdict.passed is not None]
    conclusive = any(verdict.passed is not None for verdict in of_seed)
    as_published = as_published and not any(difference.decisive for difference in found)
    passed = conclusive and all(counted) and as_published
    if not passed:
        _print_differences("what differs, most likely causes first", found)
    wide = [verdict.metric.title for verdict in of_seed if verdict.passed is None and verdict.published is not None]
    if wide:
        print(f"too few seeds are recorded to compare: {', '.join(wide)}")
    result = "PASS" if passed else "FAIL"
    print(f"{result}: {sum(counted)} of {len(counted)} metrics of {claim.name} are as published")
    return passed


def _print_differences(title: str, differences: Sequence["Difference"]) -> None:
    from radrecipes.reporting.result_tables import differences_lines

    if differences:
        print(f"{title}:\n{differences_lines(differences)}")


def train_start(launch: str, recipe: "Recipe", seed: int) -> None:
    """Train the recipe that another one continues from, with the same seed, unless that is done."""
    from radrecipes.recipe import parse_recipe

    start = recipe.arguments.start_from
    if start and start.endswith(".yaml"):
        earlier = parse_recipe(start)
        if recipe.path.resolve() in (earlier.path.resolve(), Path(earlier.arguments.start_from or "").resolve()):
            raise InputError(f"{start} continues from this recipe again", f"{recipe.path}: start_from")
        train_start(launch, earlier, seed)
        print(f"{recipe.name} continues from {start}, seed {seed}", flush=True)
        train(launch, "--config", start, "--seed", seed)


def train(launch: str, *words: object, may_stop: bool = False, **environment: str) -> None:
    """Run scripts/sft.py, which resumes an interrupted run and leaves a finished one as it is."""
    accepted = (0, INTERRUPTED) if may_stop else (0,)
    command = ["scripts/launch.py", "--quiet", "--config_file", launch, "scripts/sft.py", *words]
    run_step(command, accepted, **environment)


def evaluate(
    folder: Path,
    dataset_digest: str,
    with_base: bool,
    name: str | None = None,
    output: Path | None = None,
    options: Sequence[object] = (),
) -> dict[str, Any]:
    """A run's test metrics on a dataset, by scripts/evaluate_model.py unless a matching evaluation exists."""
    from radrecipes.evaluation.label_systems import BASE
    from radrecipes.evaluation.reproduction import existing_evaluation
    from radrecipes.files import read_json_object

    output = output or folder / "evaluation"
    metrics = existing_evaluation(folder, output, dataset_digest)
    # A classification head has no answers without its trained weights.
    complete = metrics and (not with_base or BASE in metrics["systems"] or metrics["decoding"]["method"] == "head")
    if not complete:
        words = [*options, *([] if with_base else ["--skip-base"])]
        run_step(["scripts/evaluate_model.py", "--run", name or folder, "--restart", *words])
        metrics = read_json_object(output / "metrics.json")
    return metrics


def run_step(words: Sequence[object], accepted: Sequence[int] = (0,), **environment: str) -> None:
    """Run a script in its own process and exit with its code if it fails; signals are forwarded to it.

    A step that such a signal killed before it could stop cleanly counts as interrupted, too.
    """
    command = [sys.executable, *map(str, (find_shipped(words[0]), *words[1:]))]
    # In its own session, so that Ctrl-C in a terminal reaches it only once, through this process.
    step = subprocess.Popen(command, start_new_session=True, env=os.environ | environment)
    forwarded: set[int] = set()

    def forward(number: int, frame: FrameType | None) -> None:
        forwarded.add(number)
        step.send_signal(number)

    before = {number: signal.signal(number, forward) for number in SIGNALS}
    try:
        code = step.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if any(code in (-number, 128 + number, INTERRUPTED) for number in forwarded):
        code = INTERRUPTED
    elif code in accepted:
        return
    if code == INTERRUPTED:
        print("interrupted; run the same command again to continue", file=sys.stderr)
    else:
        print("this step failed, see above; fix it and run the same command again", file=sys.stderr)
    sys.exit(code if code > 0 else 128 - code)


if __name__ == "__main__":
    run(main)
