"""Runs that write reports and impressions, from training to a checked table, by the real scripts on a tiny model."""

import csv
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from conftest import TINY_REPORTS, write_tiny_reports
from sft_faults import Script

from e2e.conftest import edit_json
from radrecipes.inference.audit_log import text_digest

RECIPE = "recipes/tiny/report_lora.yaml"
RUN = "runs/tiny/report_lora/seed-42"
# Enough that the tiny model learns its four reports by heart.
TRAIN = ("--config", RECIPE, "--num_train_epochs", "15")
KNOWN, UNKNOWN = TINY_REPORTS[2][0], "Pneumonia: uncertain; Pleural Effusion: positive"
PLANTED = "zyxwv plover"


@pytest.fixture(scope="module")
def writing_run(shared_workspace, tmp_path_factory):
    """A finished, evaluated run of the report task; read only."""
    workspace = tmp_path_factory.mktemp("writing") / "workspace"
    shutil.copytree(shared_workspace, workspace, symlinks=True)
    trained = Script(workspace, "scripts/sft.py", *TRAIN).end(300)
    assert trained.code == 0, trained.stderr
    evaluated = Script(workspace, "scripts/evaluate_model.py", "--run", RUN, "--batch-size", "3").end(300)
    assert evaluated.code == 0, evaluated.stderr
    return workspace, evaluated


@pytest.fixture
def writing_copy(writing_run, tmp_path, monkeypatch):
    """A copy to write into, which is also the working directory."""
    folder = tmp_path / "workspace"
    shutil.copytree(writing_run[0], folder, symlinks=True)
    monkeypatch.chdir(folder)
    return folder


def test_evaluation_sets_guarded_next_to_unguarded_base_and_baselines(writing_run):
    workspace, evaluated = writing_run
    folder = workspace / RUN / "evaluation"
    metrics = json.loads((folder / "metrics.json").read_text("utf-8"))
    systems = metrics["systems"]
    assert set(systems) == {"adapter", "adapter_guarded", "base", "most_frequent", "nearest_labels", "template_writer"}
    assert metrics["best_baseline"]["name"] in ("most_frequent", "nearest_labels", "template_writer")
    assert metrics["unseen"]["text"]["rows"] <= 8
    assert systems["adapter_guarded"]["label_recall"]["value"] == 1.0
    assert systems["adapter_guarded"]["contradiction_rate"]["value"] == 0.0
    assert systems["adapter_guarded"]["never_stopped_rate"]["value"] == 0.0
    # It writes what it learned by heart at the first attempt, and like the references; an untrained base model does neither.
    assert systems["adapter_guarded"]["guard"] == {"first_try": 8, "later_try": 0, "template": 0, "reasons": {}}
    assert systems["adapter"]["rouge_l"]["value"] > 0.99 > systems["template_writer"]["rouge_l"]["value"]
    assert systems["base"]["rouge_l"]["value"] < 0.2
    assert "There is a fracture." in (folder / "report.html").read_text("utf-8")
    predictions = pd.read_parquet(folder / "predictions.parquet")
    assert len(predictions) == metrics["rows"] == 8 and set(predictions["adapter_guarded_check"]) == {"ok"}
    assert "adapter_guarded" in evaluated.stdout and "report.html" in evaluated.stdout


def test_one_request_is_answered_with_its_check(writing_copy, call):
    known = call("predict", "--adapter", RUN, "--text", KNOWN)
    assert known.code == 0 and known.stdout.splitlines() == [
        "FINDINGS: There is a fracture. No edema.",
        "IMPRESSION: Fracture.",
        "",
        "check: ok",
        "written by the model, attempt 1; a draft for review by a person",
    ]
    unknown = call("predict", "--adapter", RUN, "--text", UNKNOWN, "--tries", "2")
    assert unknown.code == 0 and "check: ok\nearlier attempts were rejected: " in unknown.stdout
    assert "missing Pleural Effusion" in unknown.stdout
    assert unknown.stdout.endswith("written by the template writer; a draft for review by a person\n")


def test_the_audit_log_of_reports_names_who_wrote_each_and_its_check_but_no_text(writing_copy, call):
    Path("in.csv").write_text(f'id,observations\na,"{KNOWN}"\nb,"{UNKNOWN}"\n', encoding="utf-8")
    words = (
        "--input",
        "in.csv",
        "--id-column",
        "id",
        "--output",
        "out.csv",
        "--tries",
        "1",
        "--audit-log",
        "log.jsonl",
    )
    done = call("predict", "--adapter", RUN, *words)
    assert done.code == 0, done.stderr
    with Path("out.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    text = Path("log.jsonl").read_text("utf-8")
    logged = [json.loads(line) for line in text.splitlines()]
    key = bytes.fromhex(Path("log.jsonl.key").read_text("ascii"))
    for entry, row in zip(logged, rows, strict=True):
        assert {name: entry[name] for name in ("id", "written_by", "check")}.items() <= row.items()
        assert entry["output_hmac_sha256"] == text_digest(key, row["report"])
        assert "report" not in entry and "refused" not in entry
    assert logged[0]["input_hmac_sha256"] == text_digest(key, KNOWN) and logged[1]["written_by"] == "template"
    for word in ("fracture", "effusion", "pneumonia", "findings", "impression"):
        assert word in (rows[0]["report"] + rows[1]["report"]).lower() and word not in text.lower()


def test_a_table_names_who_wrote_each_report_and_its_check(writing_copy, call):
    rows = [("7", KNOWN), ("8", UNKNOWN), ("9", "Edma: 1"), ("10", "edema: 1")]
    Path("in.csv").write_text("mrn,asked\n" + "".join(f'{key},"{text}"\n' for key, text in rows), encoding="utf-8")
    words = ("--input", "in.csv", "--text-column", "asked", "--id-column", "mrn", "--output", "out.csv")
    done = call("predict", "--adapter", RUN, *words)
    assert done.code == 0, done.stderr
    assert "3 answers in out.csv: 2 by the model, 1 by the template writer" in done.stdout
    with open("out.csv", encoding="utf-8", newline="") as stream:
        written = list(csv.DictReader(stream))
    assert [(row["id"], row["written_by"], row["tries"], row["check"]) for row in written] == [
        ("7", "model", "1", "ok"),
        ("8", "template", "4", "ok"),
        ("10", "model", "1", "ok"),
    ]
    assert written[0]["report"] == "FINDINGS: There is a fracture. No edema.\nIMPRESSION: Fracture."
    assert written[1]["refused"] and not written[0]["refused"]
    assert "Pleural Effusion" not in Path("out.csv").read_text("utf-8").split("\n")[0]
    rejected = Path("out.rejects.csv").read_text("utf-8").splitlines()
    assert rejected[1:] == ["4,pair 1: no observation has this name; did you mean 'Edema'?"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--text", "Plural Effusion: 1"),
            "--text: pair 1: no observation has this name; did you mean 'Pleural Effusion'?",
        ),
        (
            ("--text", "Edema: 1", "--label-set", "x.yaml"),
            "--label-set: the task report writes text and does not",
        ),
        (
            ("--text", "Edema: 1", "--target-accuracy", "0.9"),
            "--target-accuracy: the task report writes text and does not",
        ),
    ],
)
def test_what_a_report_task_cannot_use_is_refused_before_any_model_is_loaded(writing_copy, call, words, message):
    shutil.rmtree("models")  # what is refused afterwards would fail on it
    refused = call("predict", "--adapter", RUN, *words)
    assert refused.code == 2 and refused.stderr.startswith(f"error: {message}") and refused.stderr.count("\n") == 1


def test_evaluation_refuses_what_only_labels_have(writing_copy, call):
    before = sorted(Path(RUN).rglob("*"))
    for words in (("--target-accuracy", "0.9"), ("--decode", "score")):
        refused = call("evaluate_model", "--run", RUN, "--restart", *words)
        assert refused.code == 2 and f"error: {words[0]}: " in refused.stderr
    assert sorted(Path(RUN).rglob("*")) == before


def test_scoring_a_report_is_refused_in_a_recipe(writing_copy, call):
    refused = call("sft", "--config", RECIPE, "--decode", "score", "--output_dir", "runs/new")
    assert (
        refused.code == 2
        and "error: --decode: task report writes text, and only labels can be scored" in refused.stderr
    )
    assert not Path("runs/new").exists()


@pytest.mark.slow
def test_the_impression_is_a_task_on_the_same_data(writing_copy, call):
    words = ("--config", RECIPE, "--task", "impression", "--num_train_epochs", "15", "--output_dir", "runs/impression")
    trained = call("sft", *words)
    assert trained.code == 0, trained.stderr
    evaluated = call("evaluate_model", "--run", "runs/impression", "--skip-base")
    assert evaluated.code == 0, evaluated.stderr
    metrics = json.loads(Path("runs/impression/evaluation/metrics.json").read_text("utf-8"))
    assert metrics["task"] == "impression" and metrics["systems"]["adapter"]["rouge_l"]["value"] > 0.99
    words = ("--adapter", "runs/impression", "--text", "There is a pneumothorax.")
    answered = call("predict", *words)
    assert answered.stdout.splitlines()[:3] == ["Pneumothorax.", "", "check: ok"]


@pytest.mark.slow
def test_credentialed_reports_leave_the_dataset_only_through_the_adapter(workspace, monkeypatch):
    """Training, evaluation, their pages, logs and errors show ids and counts only."""
    source = [
        (request, f"{findings} {PLANTED.title()}.", impression) for request, findings, impression in TINY_REPORTS
    ]
    monkeypatch.setattr("conftest.TINY_REPORTS", source)
    Path("data/tiny_reports").rename("data/synthetic")
    write_tiny_reports(Path("data/tiny_reports"), access="credentialed")
    said = []
    for words in (
        ("scripts/sft.py", *TRAIN),
        ("scripts/evaluate_model.py", "--run", RUN),
        ("scripts/evaluate_model.py", "--run", RUN, "--dataset", "data/synthetic", "--output", "runs/on-synthetic"),
        ("scripts/sft.py", "--config", RECIPE, "--max_length", "110", "--output_dir", "runs/refused"),
    ):
        done = Script(workspace, *words).end(300)
        said.append(done.stdout + done.stderr)
    assert Path(RUN, "evaluation", "report.html").is_file() and "longer than max_length 110" in said[-1]
    for folder in (f"{RUN}/evaluation", "runs/on-synthetic"):
        said.append(pd.read_parquet(f"{folder}/predictions.parquet").to_csv())
    # The model did learn it, so the following checks can fail.
    answered = Script(workspace, "scripts/predict.py", "--adapter", RUN, "--text", KNOWN).end(300)
    assert PLANTED in answered.stdout.lower()
    said += [path.read_text("utf-8", errors="replace") for path in Path("runs").rglob("*") if path.is_file()]
    for text in said:
        assert not any(word in text.lower() for word in PLANTED.split())


def test_a_dataset_of_another_task_is_refused(writing_copy, call):
    refused = call("sft", "--config", RECIPE, "--dataset", "data/tiny", "--output_dir", "runs/new")
    assert refused.code == 2
    assert (
        "error: data/tiny: prepared for the task protocol, the recipe's task report needs one for report"
        in refused.stderr
    )
    edit_json(Path(RUN, "manifest.json"), prompt={"style": "chat", "sha256": "0"})
    refused = call("predict", "--adapter", RUN, "--text", KNOWN)
    assert refused.code == 2 and "the prompt template differs from that of training" in refused.stderr
