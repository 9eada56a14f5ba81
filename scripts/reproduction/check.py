"""Check whether what was published holds here."""

import argparse
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from radrecipes.errors import InputError
from radrecipes.evaluation import reproduction
from radrecipes.evaluation.reproduction import Claim, Difference
from radrecipes.reporting.reproduction_tables import differences_lines, losses_table, verdicts_table
from radrecipes.training import run_folder

from reproduction.steps import evaluate_run, train_run


def check(args: argparse.Namespace) -> bool:
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
    if template := claim.recipe.training.chat_template_path:
        words += ["--chat_template_path", template]
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
        metrics = evaluate_run(claim.run, dataset.digest, False, claim.run_name, output, options)
        verdicts += reproduction.judge_same_adapter(claim, metrics)
        print(verdicts_table(verdicts, "published"))

    # A new seed
    print(f"training with seed {seed}", flush=True)
    trained = folder / f"seed-{seed}"
    train_run(args.launch, *words, "--seed", seed, "--output_dir", trained)
    metrics = evaluate_run(trained, dataset.digest, with_base=False)
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
    recorded = claim.first_losses
    threads = claim.facts["hardware"]["threads"]
    print(f"training the first {len(recorded)} steps of seed {claim.seed}, then it is stopped", flush=True)
    with tempfile.TemporaryDirectory(prefix="radrecipes-smoke-") as scratch:
        output = Path(scratch, "run")
        options = ["--seed", claim.seed, "--output_dir", output, "--stop-after", len(recorded)]
        train_run(launch, *words, *options, may_stop=True, OMP_NUM_THREADS=str(threads))
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
