"""Record what a recipe reaches over several seeds, and check whether what was published holds here.

    python scripts/reproduce.py record recipes/smollm2-135m/protocol_lora.yaml --seeds 5
    python scripts/reproduce.py check recipes/smollm2-135m/protocol_lora.yaml --smoke
    python scripts/reproduce.py check recipes/smollm2-135m/protocol_lora.yaml

record trains and evaluates every seed (42, 1, 2, …; finished ones are kept), writes <recipe>.results.json, and makes the tables
of README.md and of the model's README.md anew. The untuned base is evaluated with the first seed only: it does not depend on
the seed. An evaluation is kept where it measures this adapter on this dataset.

check takes a recipe with its result file, or a release, org/name@v1.0. First it compares the recipe, the digest of the data, the
prompt and the base's weights with those that were published; where one differs it names it and ends. Then it evaluates the
published adapter again, whose figures must be the same, and trains with a new seed, whose figures must lie in
mean ± t · sd · √(1 + 1/n) of the recorded seeds; a better one fails too. 95 of 100 sound figures lie there, not all: try another
--seed before you look for a fault. --smoke only compares the losses of the first steps.

Exit codes: 0 where everything passed, 1 where something failed, 2 for wrong input, 75 when interrupted. The same command
continues what was interrupted.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import radrecipes  # noqa: F401  (before any library: turns telemetry off)
from radrecipes import reproduction, run_folder
from radrecipes.command_line import positive, run, whole
from radrecipes.errors import InputError
from radrecipes.evaluation import BASE
from radrecipes.recipe import parse_recipe
from radrecipes.reporting.reproduction_tables import differences_lines, losses_table, verdicts_table
from radrecipes.reporting.result_tables import results_table, with_results
from radrecipes.reproduction import Claim, Difference, standing_evaluation
from radrecipes.results import code_of_seeds, results_path, seeds_to_record, summarise

SMOKE_STEPS = 10
INTERRUPTED = 75


def main() -> None:
    """Parse arguments and do what was asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    record = verbs.add_parser("record", help="run a recipe over seeds and write its result file")
    record.add_argument("recipe", help="the recipe, a YAML file")
    record.add_argument("--seeds", type=positive, default=5, help="how many (default: 5); 42, 1, 2, … in this order")
    check = verbs.add_parser("check", help="compare what was published with what comes out here")
    check.add_argument("claim", help="a recipe with its result file, or a release, org/name@v1.0")
    check.add_argument(
        "--dataset", help="where the dataset lies, a folder or org/name@v1.0, if not where the recipe says"
    )
    check.add_argument(
        "--seed", type=whole, help="the new seed (default: the smallest from 1 on that is not recorded)"
    )
    check.add_argument("--smoke", action="store_true", help="only compare the losses of the first steps, in minutes")
    check.add_argument(
        "--anyway", action="store_true", help="measure although something differs; it fails all the same"
    )
    check.add_argument("--restart", action="store_true", help="measure anew what an earlier check measured")
    for verb in (record, check):
        verb.add_argument(
            "--launch", default="accelerate_configs/cpu.yaml", help="launch configuration (default: cpu)"
        )
    args = parser.parse_args()
    if args.verb == "record":
        _record(args)
    elif not _check(args):
        sys.exit(1)


def _record(args: argparse.Namespace) -> None:
    """Train and evaluate every seed, write the result and the tables that are made from it."""
    seeds = seeds_to_record(args.seeds)
    recipes = {seed: parse_recipe(args.recipe, ["--seed", str(seed)]) for seed in seeds}

    # Every seed, one after another; what is finished is not done again
    runs = []
    for number, (seed, recipe) in enumerate(recipes.items(), 1):
        print(f"seed {seed} ({number} of {len(seeds)})", flush=True)
        _train(args.launch, "--config", args.recipe, "--seed", seed)
        manifest = run_folder.read_manifest(recipe.output_dir)
        runs.append((manifest, _evaluate(recipe.output_dir, manifest["data"]["digest"], with_base=number == 1)))

    # The result file
    result = summarise(runs, f"python scripts/reproduce.py record {args.recipe} --seeds {args.seeds}")
    results_path(args.recipe).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")

    # The tables that are generated from the result files
    for document, root in (
        (Path("README.md"), "recipes"),
        (Path(args.recipe).parent / "README.md", Path(args.recipe).parent),
    ):
        if document.is_file():
            found = [json.loads(path.read_text("utf-8")) for path in sorted(Path(root).rglob("*.results.json"))]
            document.write_text(with_results(document.read_text("utf-8"), found, str(document)), encoding="utf-8")
    print(results_table([result]))
    if len(commits := code_of_seeds(result)) > 1:
        made = "; ".join(f"{name} {', '.join(steps)}" for name, steps in commits.items())
        print(f"the seeds stem from different commits: {made}")


def _check(args: argparse.Namespace) -> bool:
    """Compare hashes, then figures; whether everything is as published."""
    # What was published, and whether the same would be made here
    claim = reproduction.read_claim(args.claim)
    seed = claim.new_seed if args.seed is None else args.seed
    if args.smoke and not claim.first_losses:
        raise InputError("keeps no losses of first steps, because its runs are older; record it again", args.claim)
    if not args.smoke and len(claim.seeds) < 2:
        raise InputError("one recorded seed gives no band to judge a new one by; record five", args.claim)
    if not args.smoke and seed in claim.seeds:
        raise InputError(f"{seed} is recorded already and says nothing new; choose another", "--seed")
    dataset = reproduction.find_dataset(claim, args.dataset)
    here = reproduction.facts_here(claim.recipe, dataset)
    found = reproduction.differences(claim.facts, here)
    decisive = [difference for difference in found if difference.decisive]
    print(f"{claim.name}: recorded with seeds {', '.join(map(str, claim.seeds))}")
    _show("not as published", decisive)
    _show("may differ", [difference for difference in found if not difference.decisive])
    if decisive and not args.anyway:
        print(f"FAIL: {decisive[0].field} is not as published; nothing was trained (--anyway measures nevertheless)")
        return False
    if not decisive:
        print("recipe, data, prompt and base are as published")
    words = ["--config", claim.recipe.path, "--dataset", dataset.folder]
    if args.smoke:
        return _smoke(args.launch, words, claim, here) and not decisive

    # An earlier check is continued where nothing changed since
    folder, state = claim.work_folder, claim.work_folder / "state.json"
    facts = json.dumps({"here": here, "code": reproduction.code_digest(), "published": claim.results}, sort_keys=True)
    if args.restart or (state.is_file() and state.read_text(encoding="utf-8") != facts):
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    state.write_text(facts, encoding="utf-8")

    # The published adapter, evaluated again
    verdicts = []
    if claim.run is None:
        print("no recorded run is here, so that there is none to evaluate again")
    elif any(difference.field.startswith("prompt.") for difference in decisive):
        print(f"{claim.run_name} cannot be evaluated with another prompt than it was trained with")
    else:
        print(f"evaluating {claim.run_name} again", flush=True)
        output = folder / "published"
        options = ["--dataset", dataset.folder, "--output", output, *(["--allow-other-weights"] if decisive else [])]
        metrics = _evaluate(claim.run, dataset.digest, False, claim.run_name, output, options)
        verdicts += reproduction.judge_same_adapter(claim, metrics)
        print(verdicts_table(verdicts, "published"))

    # A new seed
    print(f"training with seed {seed}", flush=True)
    trained = folder / f"seed-{seed}"
    _train(args.launch, *words, "--seed", seed, "--output_dir", trained)
    metrics = _evaluate(trained, dataset.digest, with_base=False)
    of_seed = reproduction.judge_new_seed(claim.results, metrics)
    print(verdicts_table(of_seed, f"mean of {len(claim.seeds)} seeds"))

    # The verdict; on failure what may explain it, now also as the run itself saw it
    found = reproduction.differences(claim.facts, reproduction.facts_of(run_folder.read_manifest(trained)))
    judged = [verdict.passed for verdict in [*verdicts, *of_seed] if verdict.passed is not None]
    decided = any(verdict.passed is not None for verdict in of_seed)
    passed = decided and all(judged) and not decisive and not any(difference.decisive for difference in found)
    if not passed:
        _show("what differs, most likely to explain it first", found)
    wide = [verdict.figure.title for verdict in of_seed if verdict.passed is None and verdict.published is not None]
    if wide:
        print(f"too few seeds are recorded to judge: {', '.join(wide)}")
    print(f"{'PASS' if passed else 'FAIL'}: {sum(judged)} of {len(judged)} figures of {claim.name} are as published")
    return passed


def _smoke(launch: str, words: Sequence[object], claim: Claim, here: dict) -> bool:
    """Compare the losses of the first steps with the recorded ones."""
    recorded = claim.first_losses[:SMOKE_STEPS]
    threads = claim.facts["hardware"]["threads"]
    print(f"training the first {len(recorded)} steps of seed {claim.seed}, then it is stopped", flush=True)
    with tempfile.TemporaryDirectory(prefix="radrecipes-smoke-") as scratch:
        output = Path(scratch, "run")
        options = ["--seed", claim.seed, "--output_dir", output, "--stop-after", len(recorded)]
        _train(launch, *words, *options, may_stop=True, OMP_NUM_THREADS=str(threads))
        losses = [line["loss"] for line in run_folder.read_train_log(output)]
    exact = reproduction.same_arithmetic(claim.facts, here)
    same = reproduction.same_losses(recorded, losses, exact)
    print(losses_table(recorded, losses, same))
    how = "to the bit" if exact else f"within {reproduction.SAME_LOSS:.0%}, because versions or processor differ"
    print(
        f"{'PASS' if all(same) else 'FAIL'}: {sum(same)} of {len(same)} losses of seed {claim.seed} are the same {how}"
    )
    return all(same)


def _show(title: str, differences: Sequence[Difference]) -> None:
    if differences:
        print(f"{title}:\n{differences_lines(differences)}")


def _train(launch: str, *words: object, may_stop: bool = False, **environment: str) -> None:
    """Run scripts/sft.py, which continues what was interrupted and leaves what is finished."""
    accepted = (0, INTERRUPTED) if may_stop else (0,)
    _run(["scripts/launch.py", "--quiet", "--config_file", launch, "scripts/sft.py", *words], accepted, **environment)


def _evaluate(
    folder: Path,
    dataset_digest: str,
    with_base: bool,
    name: str | None = None,
    output: Path | None = None,
    options: Sequence[object] = (),
) -> dict:
    """Figures of a run on the test split of a dataset; an evaluation that fits is kept."""
    output = output or folder / "evaluation"
    metrics = standing_evaluation(folder, output, dataset_digest)
    if metrics is None or (with_base and BASE not in metrics["systems"]):
        words = [*options, *([] if with_base else ["--skip-base"])]
        _run(["scripts/evaluate_model.py", "--run", name or folder, "--restart", *words])
        metrics = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    return metrics


def _run(words: Sequence[object], accepted: Sequence[int] = (0,), **environment: str) -> None:
    """Run a step; where it fails, this script ends with the same exit code. What stops this script stops the step first."""
    command = [sys.executable, *map(str, words)]
    # In a session of its own, so that Ctrl-C in a terminal reaches it once, from here.
    step = subprocess.Popen(command, start_new_session=True, env=os.environ | environment)
    before = {
        number: signal.signal(number, lambda number, frame: step.send_signal(number))
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
    }
    try:
        code = step.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if code in accepted:
        return
    if code == INTERRUPTED:
        print("interrupted; run the same command again, it continues", file=sys.stderr)
    else:
        print("this step failed, see above; run the same command again once it is mended", file=sys.stderr)
    sys.exit(code if code > 0 else 128 - code)


if __name__ == "__main__":
    run(main)
