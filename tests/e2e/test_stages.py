"""The stages that learn from texts of the model itself, by the real scripts: rejection sampling and GRPO."""

import json
import shutil
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import TINY_REPORT_RECIPE, trains_all_weights
from sft_faults import Script, all_of, before, die, losses_of, set_value, two_ranks

from e2e.conftest import files_in

START = "recipes/tiny/report_lora.yaml"
REJECTION, GRPO = (f"recipes/tiny/report_{stage}.yaml" for stage in ("rejection", "grpo"))
RUNS = Path("runs/tiny")
OF_STAGES = f"start_from: {START}\nnum_generations: 8\ntemperature: 1.0\n"


@pytest.fixture(scope="module")
def started(shared_workspace, build_once):
    """A run of the tiny report recipe, to continue from."""

    def build(folder: Path) -> Path:
        trained = Script(
            shared_workspace, "scripts/sft.py", "--config", START, "--output_dir", folder, "--num_train_epochs", "10"
        )
        assert trained.end().code == 0, trained.stderr
        return folder

    return build_once("started", build)


@pytest.fixture
def stages(workspace, started):
    """A workspace with recipes of both stages and the run that they continue from."""
    for path, stage in ((REJECTION, "rejection"), (GRPO, "grpo")):
        text = TINY_REPORT_RECIPE.replace("report_lora", f"report_{stage}") + f"stage: {stage}\n{OF_STAGES}"
        Path(path).write_text(text, encoding="utf-8")
    Path(START).write_text(TINY_REPORT_RECIPE.replace("num_train_epochs: 1", "num_train_epochs: 10"), encoding="utf-8")
    shutil.copytree(started, RUNS / "report_lora/seed-42")
    return workspace


def small_parts(*faults):
    """Drafts of 16 prompts in a part, and other faults."""
    return partial(all_of, partial(set_value, "radrecipes.training.drafts", "PROMPTS_OF_A_PART", 16), *faults)


def drafts_in(run: Path) -> pa.Table:
    """All drafts in a run's folder."""
    return pa.concat_tables([pq.read_table(path) for path in sorted(run.glob("drafts/*/part-*.parquet"))])


def manifest_of(run: Path) -> dict:
    return json.loads((run / "manifest.json").read_text("utf-8"))


@pytest.mark.slow
def test_rejection_trains_on_the_texts_that_pass_and_a_killed_sampling_continues(stages, call):
    words = ("scripts/sft.py", "--config", REJECTION)
    killed = Script(
        stages, *words, fault=small_parts(partial(before, "radrecipes.inference.drafts", "write_part", die, 3))
    )
    assert killed.end().code != 0
    written = {path: path.read_bytes() for path in RUNS.glob("report_lora/seed-42/drafts/*/part-*.parquet")}
    assert len(written) == 2
    done = Script(stages, *words, fault=small_parts()).end()
    assert done.code == 0, done.stderr
    assert {path: path.read_bytes() for path in written} == written

    manifest, started = manifest_of(RUNS / "report_rejection/seed-42"), manifest_of(RUNS / "report_lora/seed-42")
    drafts = drafts_in(RUNS / "report_lora/seed-42")
    assert len(drafts) == 8 * 48 and set(drafts.column_names) >= {
        "place",
        "text",
        "stopped",
        "passes",
        "labels",
        "likeness",
    }
    facts = manifest["training"]["drafts"]
    assert facts["written"] == len(drafts) and facts["passed_rate"] == round(
        sum(drafts["passes"].to_pylist()) / len(drafts), 4
    )
    assert 0 < facts["kept"] <= 48 and manifest["training"]["rows"] == 48 + facts["kept"]
    assert manifest["start"]["weights_sha256"] == started["adapter"]["sha256"]
    # It continues: the first loss is what the start ended with, not that of an untrained adapter.
    assert losses_of(RUNS / "report_rejection/seed-42")[0] < losses_of(RUNS / "report_lora/seed-42")[0] / 2
    assert "nothing to do" in call("sft", "--config", REJECTION).stdout

    # Another machine's processes share the work, and write the same.
    shutil.rmtree(RUNS / "report_lora/seed-42/drafts")
    both = two_ranks(stages, *words, "--output_dir", "runs/two", faults={0: small_parts(), 1: small_parts()})
    assert [script.end().code for script in both] == [0, 0], both[0].stderr
    assert drafts_in(RUNS / "report_lora/seed-42").equals(drafts)
    assert losses_of(Path("runs/two")) == pytest.approx(losses_of(RUNS / "report_rejection/seed-42"), abs=1e-4)


@pytest.mark.slow
def test_grpo_resumes_to_the_same_adapter_and_its_rewards_are_logged(stages, call):
    # 48 prompts, one in a step: the second epoch begins at step 49.
    words = ("--config", GRPO, "--max_steps", "52", "--save_steps", "25", "--reward_weights", "[1.0, 0.5, 0.5]")
    words = (*words, "--max_new_tokens", "24", "--learning_rate", "1e-3")
    whole = call("sft", *words, "--output_dir", "runs/whole")
    assert whole.code == 0, whole.stderr
    killed = Script(
        stages,
        "scripts/sft.py",
        *words,
        fault=partial(before, "radrecipes.inference.drafts", "GroupWriter.__call__", die, 51),
    ).end()
    assert killed.code != 0
    resumed = call("sft", *words)
    assert resumed.code == 0 and "resuming after step 50" in resumed.stdout, resumed.stderr
    run = RUNS / "report_grpo/seed-42"
    assert files_in(run / "adapter") == files_in(Path("runs/whole/adapter"))
    log = [json.loads(line) for line in (run / "train_log.jsonl").read_text("utf-8").splitlines()]
    assert (
        len(log) == 52
        and {"reward", "rewards/passes/mean", "rewards/labels/mean", "rewards/likeness/mean"} <= log[0].keys()
    )
    assert (
        manifest_of(run)["start"]["weights_sha256"] == manifest_of(RUNS / "report_lora/seed-42")["adapter"]["sha256"]
    )


@pytest.mark.slow
def test_grpo_in_two_processes_shares_the_texts_and_resumes_to_the_same_adapter(stages):
    words = ("scripts/sft.py", "--config", GRPO, "--max_steps", "4", "--save_steps", "2", "--learning_rate", "1e-3")
    for run, stops in (("runs/two", ()), ("runs/stopped", ("--stop-after", "2")), ("runs/stopped", ())):
        both = [script.end() for script in two_ranks(stages, *words, "--output_dir", run, *stops)]
        assert [script.code for script in both] == [75 if stops else 0] * 2, both[0].stderr + both[1].stderr
    whole, resumed = Path("runs/two"), Path("runs/stopped")
    assert files_in(whole / "adapter") == files_in(resumed / "adapter")
    log = [json.loads(line) for line in (whole / "train_log.jsonl").read_text("utf-8").splitlines()]
    assert len(log) == 4 and all(0 <= line["rewards/passes/mean"] <= 1 for line in log)
    # One prompt with its eight texts is a step of either number of processes.
    facts = manifest_of(whole)["training"]
    assert facts["processes"] == 2 and facts["per_device_batch_size"] * facts["accumulation_steps"] == 4


@pytest.mark.slow
def test_inspect_shows_texts_with_rewards_and_the_page_their_course(stages, call):
    shown = call("recipes", "inspect", GRPO, "--rows", "1")
    assert shown.code == 0 and shown.stdout.count("\npasses ") == 3 and "labels 1.00, likeness 1.00" in shown.stdout
    assert call("sft", "--config", GRPO, "--max_steps", "4").code == 0
    run = RUNS / "report_grpo/seed-42"
    assert call("evaluate_model", "--run", run, "--skip-base").code == 0
    page = (run / "evaluation/report.html").read_text("utf-8")
    assert "Line chart of the training rewards" in page and "Mean reward of the texts" in page

    shutil.rmtree(RUNS / "report_lora")
    shown = call("recipes", "inspect", REJECTION, "--rows", "1")
    assert shown.code == 0 and "no text with its rewards is shown" in shown.stdout and "stop tokens" in shown.stdout
    refused = call("sft", "--config", REJECTION)
    assert refused.code == 2 and "report_lora/seed-42 is not a finished run; train it first" in refused.stderr


@pytest.mark.slow
def test_record_trains_what_the_recipe_continues_from(stages, call):
    shutil.rmtree(RUNS / "report_lora")
    Path(GRPO).write_text(Path(GRPO).read_text("utf-8") + "max_steps: 3\n", encoding="utf-8")
    recorded = call("reproduce", "record", GRPO, "--seeds", "1")
    assert recorded.code == 0, recorded.stderr
    start, run = manifest_of(RUNS / "report_lora/seed-42"), manifest_of(RUNS / "report_grpo/seed-42")
    assert run["start"]["weights_sha256"] == start["adapter"]["sha256"]
    (row,) = json.loads(Path(GRPO).with_suffix(".results.json").read_text("utf-8"))["seeds"]
    assert row["seed"] == 42


@pytest.mark.slow
def test_what_does_not_fit_is_refused_before_any_text_is_written(stages, call):
    own = RUNS / "report_lora/seed-42"

    def refusal(*words):
        refused = call("sft", "--config", REJECTION, *words)
        assert refused.code == 2 and refused.stderr.startswith("error: "), refused.stderr
        assert not list(own.glob("drafts/*/*.parquet"))
        return refused.stderr

    assert "has another lora_target_modules" in refusal("--lora_target_modules", "[q_proj]")
    assert "names the folder of this run; set another --output_dir" in refusal("--output_dir", str(own), "--restart")
    assert "has another task (report) than this recipe (impression)" in refusal("--task", "impression")
    assert "is not a finished run; train it first" in refusal("--seed", "7")
    manifest = manifest_of(own)
    manifest["data"]["access"] = "credentialed"
    (own / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert "was trained on credentialed data, of which it may repeat a text" in refusal()


@pytest.mark.slow
def test_all_weights_pass_through_both_stages(stages, call):
    for path in (START, REJECTION, GRPO):
        Path(path).write_text(trains_all_weights(Path(path).read_text("utf-8")), encoding="utf-8")
    of_all = ("--learning_rate", "3e-3")
    base, better, last = "runs/base", "runs/better", "runs/last"
    for words in (
        # Not until it knows all rows by heart, or no text of its own is new.
        ("--config", START, "--output_dir", base, "--num_train_epochs", "4"),
        ("--config", REJECTION, "--start_from", base, "--output_dir", better),
        ("--config", GRPO, "--start_from", better, "--output_dir", last, "--max_steps", "2"),
    ):
        done = call("sft", *words, *of_all)
        assert done.code == 0, done.stderr
    for run, start in ((better, base), (last, better)):
        assert manifest_of(Path(run))["start"]["weights_sha256"] == manifest_of(Path(start))["model"]["sha256"]
        assert files_in(Path(run, "model")) != files_in(Path(start, "model"))
