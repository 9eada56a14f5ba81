"""Prediction over tables: formats, rejected rows, interruption, several processes. Every answer is the tiny model's own."""

import csv
import gzip
import itertools
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pandas as pd
import psutil
import pytest
from conftest import TINY_MODEL, run_script
from safetensors.torch import load_file, save_file

from e2e.conftest import LAUNCH, RUN, edit_json, files_in
from radrecipes.data.label_sets import LabelSet
from radrecipes.errors import InputError
from radrecipes.files import file_sha256
from radrecipes.inference.abstention import POLICY_FILE
from radrecipes.inference.audit_log import verify
from radrecipes.inference.predictors import load_predictor
from radrecipes.inference.unfinished_prediction import UnfinishedPrediction
from radrecipes.owned_folder import MARKER

# At length: PREDICT_ROWS=100000 python -m pytest -s tests/e2e/test_predict_tables.py -k killed
ROWS = int(os.environ.get("PREDICT_ROWS", "600"))
CHUNK = max(4, ROWS // 2000 * 40)
# Places of rejected rows among 97
BROKEN, LONG = 50, 70
QUESTIONS = ("chronic knee pain, r/o meniscal tear", "worst headache of life, r/o bleed", "sudden onset weakness")
COLUMNS = ["id", "label", "probability", "decision", "reason"] + [
    name for place in (1, 2, 3) for name in (f"top_{place}", f"top_{place}_probability")
]


def write_orders(path, rows, bad=True):
    """A table of many notes of different lengths; of 97 rows one is broken and one longer than the model reads."""
    with Path(path).open("w", encoding="utf-8", newline="") as stream:
        stream.write("mrn,order\n")
        for number in range(rows):
            note = f"{20 + number % 70} yo {'MF'[number % 2]}, {QUESTIONS[number % 3]}" + ", hx of fall" * (number % 5)
            note += ", hx of fall" * 200 * (bad and number % 97 == LONG)
            stream.write(f'{number},"{note}\n' if bad and number % 97 == BROKEN else f'{number},"{note}"\n')
    return len([number for number in range(rows) if bad and number % 97 in (BROKEN, LONG)])


def words(output, *more, source="orders.csv"):
    columns = ("--text-column", "order", "--id-column", "mrn")
    return ("--adapter", RUN, "--input", source, *columns, "--output", output, "--batch-size", "8", *more)


def read_csv(path):
    with Path(path).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_answers_come_with_probability_decision_and_top_three(finished_copy, call):
    rejected = write_orders("orders.csv", 120)
    assert call("predict", *words("first.csv", "--chunk-rows", "50")).code == 0
    # Eight validation rows support no threshold. One in the widest gap between two probabilities gives both decisions,
    # whatever this processor made of the tiny model.
    found = sorted({float(row["probability"]) for row in read_csv("first.csv")})
    threshold = statistics.mean(max(itertools.pairwise(found), key=lambda pair: pair[1] - pair[0]))
    policy = json.loads(Path(RUN, "adapter", POLICY_FILE).read_text("utf-8"))
    edit_json(
        Path(RUN, "adapter", POLICY_FILE),
        thresholds=[{**choice, "threshold": threshold} for choice in policy["thresholds"]],
    )
    done = call("predict", *words("out.csv", "--chunk-rows", "50"))
    assert done.code == 0, done.stderr
    rows = read_csv("out.csv")
    assert list(rows[0]) == COLUMNS
    assert [int(row["id"]) for row in rows] == [number for number in range(120) if number not in (BROKEN, LONG)]
    for row in rows:
        tops = [float(row[f"top_{place}_probability"]) for place in (1, 2, 3)]
        assert tops == sorted(tops, reverse=True) and row["top_1"] == row["label"]
        assert float(row["probability"]) == tops[0]
        decided = ("auto", "") if tops[0] >= threshold else ("NEEDS_REVIEW", "below threshold")
        assert (row["decision"], row["reason"]) == decided
    assert {row["decision"] for row in rows} == {"auto", "NEEDS_REVIEW"}
    # Each answer belongs to its note: the same as when the note is answered alone.
    orders, predictor = {row["mrn"]: row["order"] for row in read_csv("orders.csv")}, load_predictor(RUN)
    for row in rows[::13]:
        (alone,) = predictor.answer([{"note": orders[row["id"]]}])
        assert (alone.label, alone.top[0][1]) == (row["label"], pytest.approx(float(row["probability"]), abs=1e-5))
    automatic = sum(row["decision"] == "auto" for row in rows)
    assert done.stdout.splitlines() == [
        f"{len(rows)} answers in out.csv: {automatic} auto, {len(rows) - automatic} NEEDS_REVIEW",
        f"{rejected} rows rejected: out.rejects.csv names line and reason of each",
    ]
    broken, long = read_csv("out.rejects.csv")
    assert (broken["line"], long["line"]) == (str(BROKEN + 2), str(LONG + 2))
    assert re.fullmatch(r"the prompt has [\d,]+ tokens, and the model reads \d+; shorten the text", long["reason"])
    assert "118/118" not in done.stderr and "119/119" in done.stderr
    assert not Path("out.csv.unfinished").exists()


def test_a_run_of_several_columns_reads_them_from_a_table_as_in_training(finished_copy, call):
    manifest = json.loads(Path(RUN, "manifest.json").read_text("utf-8"))
    edit_json(Path(RUN, "manifest.json"), data=manifest["data"] | {"input_columns": ["exam", "indication"]})
    orders = [("MR knee", "knee pain, Übelkeit"), ("", "worst headache of life"), ("CT", "weakness")]
    lines = [
        "An export",
        "mrn;exam;indication",
        *(f"{n};{exam};{text}" for n, (exam, text) in enumerate(orders)),
        "Total;3",
    ]
    Path("orders.csv").write_bytes("\n".join(lines).encode("cp1252"))
    renamed = "\n".join(["Nr|Anforderung|Frage", *(f"{n}|{exam}|{text}" for n, (exam, text) in enumerate(orders))])
    Path("renamed.txt").write_text(renamed, encoding="utf-8")
    command = ("predict", "--adapter", RUN, "--keep-text", "--id-column")
    done = call(*command, "mrn", "--input", "orders.csv", "--output", "out.csv")
    assert done.code == 0, done.stderr
    assert done.stdout.startswith("orders.csv: separated by ;, cp1252, header in line 2, 1 footer row left out\n")
    assert [row["note"] for row in read_csv("out.csv")] == [
        "exam: MR knee\nindication: knee pain, Übelkeit", "indication: worst headache of life", "exam: CT\nindication: weakness",
    ]  # fmt: skip
    named = ("--text-column", "Anforderung", "Frage")
    assert call(*command, "Nr", "--input", "renamed.txt", "--output", "renamed.csv", *named).code == 0
    assert Path("renamed.csv").read_bytes() == Path("out.csv").read_bytes()
    refused = call(*command, "Nr", "--input", "renamed.txt", "--output", "x.csv", "--text-column", "Frage")
    assert refused.code == 2 and "trained on the 2 columns exam, indication; name one for each" in refused.stderr


def test_every_input_and_output_format_gives_the_same_answers(finished_copy, call):
    write_orders("orders.csv", 30, bad=False)
    frame = pd.read_csv("orders.csv", dtype=str)
    frame.to_csv("orders.tsv", sep="\t", index=False)
    Path("orders.csv.gz").write_bytes(gzip.compress(Path("orders.csv").read_bytes()))
    frame.to_json("orders.jsonl", orient="records", lines=True)
    frame.to_parquet("orders.parquet")
    for source in ("orders.csv", "orders.tsv", "orders.csv.gz", "orders.jsonl", "orders.parquet"):
        done = call("predict", *words(f"{source}.out.csv", "--keep-text", source=source))
        assert done.code == 0, done.stderr
        assert Path(f"{source}.out.csv").read_bytes() == Path("orders.csv.out.csv").read_bytes()
        assert "rejected" not in done.stdout and not list(finished_copy.glob("*.rejects.csv"))
    expected = pd.read_csv("orders.csv.out.csv", dtype={"id": str})
    assert expected["note"].tolist() == frame["order"].tolist()
    for suffix in (".jsonl", ".parquet"):
        assert call("predict", *words(f"out{suffix}", "--keep-text")).code == 0
        if suffix == ".jsonl":
            found = pd.DataFrame([json.loads(line) for line in Path("out.jsonl").read_text("utf-8").splitlines()])
        else:
            found = pd.read_parquet("out.parquet")
        assert list(found.columns) == list(expected.columns)
        for name in expected:
            assert found[name].fillna("").tolist() == expected[name].fillna("").tolist(), (suffix, name)


def test_rejected_rows_are_named_and_contain_no_note(finished_copy, call):
    Path("orders.csv").write_text(
        'mrn,order\n1,knee pain\n2,"Mrs Quill\n3," "\n4,a,b\n5,worst headache of life\n', encoding="utf-8"
    )
    done = call("predict", *words("out.csv"))
    assert done.code == 0, done.stderr
    assert [row["id"] for row in read_csv("out.csv")] == ["1", "5"]
    rejects = read_csv("out.rejects.csv")
    assert [row["line"] for row in rejects] == ["3", "4", "5"]
    for row, said in zip(rejects, ("quote", "empty", "3 fields, the header 2"), strict=True):
        assert said in row["reason"]
    assert "Quill" not in done.stdout + done.stderr + Path("out.rejects.csv").read_text("utf-8")


def start(workspace, *arguments):
    return subprocess.Popen(
        [sys.executable, "scripts/predict.py", *map(str, arguments)],
        cwd=workspace,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )


def watch(process, output, chunks=None):
    """Until a process has ended or finished some chunks: its greatest memory so far, by number of finished chunks."""
    folder, memory = Path(f"{output}.unfinished"), {}
    while process.poll() is None:
        done = len(list(folder.glob("[0-9]*.parquet"))) if folder.is_dir() else 0
        if done:
            memory[done] = max(memory.get(done, 0), psutil.Process(process.pid).memory_info().rss)
        if chunks is not None and done >= chunks:
            break
        time.sleep(0.02)
    return memory


@pytest.mark.slow
def test_a_prediction_killed_three_times_resumes_and_gives_the_same_bytes_in_flat_memory(finished_copy):
    rejected = write_orders("orders.csv", ROWS)
    process = start(finished_copy, *words("whole.csv", "--chunk-rows", CHUNK))
    memory = watch(process, "whole.csv")
    whole, _ = process.communicate()
    assert process.returncode == 0 and f"{rejected:,} rows rejected" in whole

    # Memory after the first tenth of the rows is what it stays at.
    chunks = -(-(ROWS - len(range(BROKEN, ROWS, 97))) // CHUNK)
    first = max(size for done, size in memory.items() if done <= max(chunks // 10, min(memory)))
    print(f"{ROWS:,} rows: {first / 2**20:.0f} MiB after a tenth, at most {max(memory.values()) / 2**20:.0f} MiB")
    assert max(memory.values()) <= 1.1 * first

    for number in (1, 2, 3):
        process = start(finished_copy, *words("out.csv", "--chunk-rows", CHUNK))
        watch(process, "out.csv", number * chunks // 8)
        assert process.poll() is None, "it must be killed while it works"
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert not Path("out.csv").exists() and not Path("out.rejects.csv").exists()
        parts = {path.name: path.stat().st_mtime_ns for path in Path("out.csv.unfinished").glob("[0-9]*.parquet")}
        assert number * chunks // 8 <= len(parts) < chunks
    process = start(finished_copy, *words("out.csv", "--chunk-rows", CHUNK))
    watch(process, "out.csv", len(parts) + 1)
    # What was finished is not done again.
    kept = {path.name: path.stat().st_mtime_ns for path in Path("out.csv.unfinished").glob("[0-9]*.parquet")}
    assert parts.items() <= kept.items()
    assert process.communicate()[0] == whole.replace("whole", "out") and process.returncode == 0
    assert Path("out.csv").read_bytes() == Path("whole.csv").read_bytes()
    assert Path("out.rejects.csv").read_bytes() == Path("whole.rejects.csv").read_bytes()
    assert not Path("out.csv.unfinished").exists()


@pytest.mark.slow
def test_two_processes_write_the_same_file_as_one(finished_copy, call):
    write_orders("orders.csv", 100)
    launch = (*LAUNCH, "accelerate_configs/cpu_2proc.yaml", "scripts/predict.py")
    two = run_script(finished_copy, *launch, *words("two.parquet", "--chunk-rows", "15", "--audit-log", "log.jsonl"))
    assert two.returncode == 0, two.stderr
    one = call("predict", *words("one.parquet", "--chunk-rows", "15", "--audit-log", "log.jsonl"))
    assert one.code == 0, one.stderr
    # The log contains the same answers of both, in the order of the output, whichever process gave them.
    logged = [json.loads(line) for line in Path("log.jsonl").read_text("utf-8").splitlines()]
    rows = pd.read_parquet("one.parquet")["id"].tolist()
    assert verify("log.jsonl").entries == 2 * len(rows) and [entry["id"] for entry in logged] == rows + rows
    for name in ("input_hmac_sha256", "output_hmac_sha256", "probability", "decision"):
        assert [entry[name] for entry in logged[: len(rows)]] == [entry[name] for entry in logged[len(rows) :]]
    assert Path("two.parquet").read_bytes() == Path("one.parquet").read_bytes()
    assert Path("two.rejects.csv").read_bytes() == Path("one.rejects.csv").read_bytes()
    said = [re.sub("head [0-9a-f]{64}", "", printed) for printed in (one.stdout.replace("one.", "two."), two.stdout)]
    assert said[0] == said[1], "only the first process prints"
    # Seven chunks: the first process has four of them.
    assert "process 1 of 2" in two.stderr and "54/54" in two.stderr
    note = run_script(finished_copy, *launch, "--adapter", RUN, "--note", "knee pain", "--audit-log", "log.jsonl")
    assert note.returncode == 0 and note.stdout.count("probability") == 1, note.stdout + note.stderr
    assert verify("log.jsonl").entries == 2 * len(rows) + 1


def unfinished(finished_copy, call, monkeypatch):
    """A prediction that ended after its first chunk of three, with an adapter that has no thresholds yet."""
    write_orders("orders.csv", 60, bad=False)
    Path(RUN, "adapter", POLICY_FILE).unlink()
    saved = UnfinishedPrediction.save

    def save_one(work, chunk, *saved_parts):
        if chunk:
            raise InputError("interrupted")
        saved(work, chunk, *saved_parts)

    with monkeypatch.context() as patch:
        patch.setattr(UnfinishedPrediction, "save", save_one)
        assert call("predict", *words("out.csv", "--chunk-rows", "20")).code == 2
    left = {path.name for path in Path("out.csv.unfinished").iterdir()}
    assert left == {MARKER, "state.json", "id", "000000000.parquet"}


def more_orders():
    with Path("orders.csv").open("a", encoding="utf-8") as stream:
        stream.write("60,knee pain\n")


def more_labels():
    text = Path(RUN, "adapter", "label_set.yaml").read_text("utf-8")
    Path("labels.yaml").write_text(f"{text.rstrip()}\n- name: US Thyroid\n", encoding="utf-8")


def other_adapter():
    """The same adapter with other weights, which a prediction may not mix with the first ones."""
    path = Path(RUN, "adapter", "adapter_model.safetensors")
    weights = {name: tensor * 1.5 for name, tensor in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})
    edit_json(Path(RUN, "manifest.json"), adapter={"sha256": file_sha256(path)})


@pytest.mark.parametrize(
    ("change", "more", "said"),
    [
        (more_orders, (), "another input)"),
        (other_adapter, (), "another adapter, label set, threshold or --tries)"),
        (more_labels, ("--label-set", "labels.yaml"), "another adapter, label set, threshold or --tries)"),
        (lambda: None, ("--keep-text",), "another --keep-text)"),
        (lambda: None, ("--batch-size", "4"), "another --batch-size)"),
        (lambda: None, ("--chunk-rows", "10"), "another --chunk-rows)"),
        (lambda: None, ("--audit-log", "log.jsonl"), "another --audit-log)"),
    ],
)
def test_unfinished_work_of_another_prediction_is_refused(finished_copy, call, monkeypatch, change, more, said):
    unfinished(finished_copy, call, monkeypatch)
    change()
    before = files_in(finished_copy)
    done = call("predict", *words("out.csv", "--chunk-rows", "20", *more))
    assert done.code == 2 and "out.csv.unfinished: unfinished work of another prediction" in done.stderr
    assert said in done.stderr and "--restart" in done.stderr
    assert files_in(finished_copy) == before
    again = call("predict", *words("out.csv", "--chunk-rows", "20", *more, "--restart"))
    assert again.code == 0, again.stderr
    assert len(read_csv("out.csv")) in (60, 61) and not Path("out.csv.unfinished").exists()


def test_the_same_command_resumes_and_counts_only_what_is_left(finished_copy, call, monkeypatch):
    unfinished(finished_copy, call, monkeypatch)
    Path("orders.csv").touch()
    done = call("predict", *words("out.csv", "--chunk-rows", "20"))
    assert done.code == 0, done.stderr
    # The bar starts where the first attempt ended, so that rate and remaining time are those of this one.
    assert re.search(r"33%.* 20/60 ", done.stderr) and "60/60" in done.stderr
    assert call("predict", *words("whole.csv", "--chunk-rows", "20")).code == 0
    assert Path("out.csv").read_bytes() == Path("whole.csv").read_bytes()


def test_an_input_that_changes_meanwhile_is_refused(finished_copy, call, monkeypatch):
    write_orders("orders.csv", 60, bad=False)
    saved = UnfinishedPrediction.save

    def save_and_add(work, chunk, *saved_parts):
        more_orders()
        saved(work, chunk, *saved_parts)

    monkeypatch.setattr(UnfinishedPrediction, "save", save_and_add)
    done = call("predict", *words("out.csv"))
    assert done.code == 2 and "orders.csv: changed while it was read" in done.stderr
    assert not Path("out.csv").exists()


@pytest.mark.parametrize("decode", ["score", "generate"])
def test_a_long_row_is_refused_by_itself_and_changes_no_other(finished_copy, decode):
    predictor = load_predictor(RUN, decode=decode)
    notes = [{"note": note} for note in QUESTIONS]
    room = int(predictor.positions) - len(predictor.prompts([{"note": ""}])[0])
    # One that is as long as it may be, and one that is longer.
    fits, exceeds = ({"note": "fall " * words} for words in (room // 5, room))
    while predictor.refusals([{"note": fits["note"] + "x"}]) == [None]:
        fits["note"] += "x"
    *others, reason = predictor.refusals([*notes, fits, exceeds])
    assert others == [None] * 4 and "tokens, and the model reads" in reason
    alone, beside = predictor.answer(notes), predictor.answer([*notes, fits])
    assert [answer.text for answer in beside[:3]] == [answer.text for answer in alone]
    assert [answer.generated_tokens for answer in beside[:3]] == [answer.generated_tokens for answer in alone]
    with pytest.raises(InputError, match=r"1 of 2 inputs cannot be answered \(first: the prompt has [\d,]+ tokens"):
        predictor.answer([fits, exceeds])


@pytest.mark.parametrize("decode", ["score", "generate"])
def test_a_last_chunk_without_any_readable_row_is_written(finished_copy, call, monkeypatch, decode):
    monkeypatch.setattr("radrecipes.inference.predictors.load_predictor", partial(load_predictor, decode=decode))
    Path("orders.csv").write_text(f"mrn,order\n1,knee pain\n2,{'fall ' * 3000}\n", encoding="utf-8")
    done = call("predict", *words("out.csv", "--chunk-rows", "1"))
    assert done.code == 0, done.stderr
    assert [row["id"] for row in read_csv("out.csv")] == ["1"] and "1 rows rejected" in done.stdout


def test_one_note_prints_label_probability_decision_and_top_three(finished_copy, call):
    one = call("predict", "--adapter", RUN, "--note", "50 yo F, chronic knee pain, r/o meniscal tear")
    assert one.code == 0, one.stderr
    label, sure, top = one.stdout.splitlines()
    assert label in LabelSet.load("data/tiny/label_set.yaml").names
    probability = re.fullmatch(r"probability ([01]\.\d{3}); (?:auto|NEEDS_REVIEW \(.+\))", sure)[1]
    assert re.fullmatch(rf"top: {label} {probability}, .+ [01]\.\d{{3}}, .+ [01]\.\d{{3}}", top)
    assert "%|" not in one.stderr  # no bar of loading the model


@pytest.mark.parametrize(
    "words",
    [
        *[
            ("--output", "out.csv"),
            ("--text-column", "order"),
            ("--id-column", "mrn"),
            ("--keep-text",),
            ("--restart",),
        ],
        *[("--plain-csv",), ("--delimiter", ";"), ("--skip-rows", "0"), ("--chunk-rows", "8"), ("--batch-size", "8")],
    ],
    ids=lambda words: words[0],
)
def test_what_only_a_table_has_is_refused_with_one_note(call, monkeypatch, words):
    monkeypatch.chdir(Path(__file__).parents[2])
    refused = call("predict", "--adapter", "runs/none", "--note", "knee pain", *words)
    assert refused.code == 2 and refused.stderr == f"error: {words[0]}: is for a table (--input); leave it out\n"


def test_no_id_is_run_by_a_spreadsheet_and_answers_can_be_read_again(finished_copy, call):
    ids = ["=1+1", "-7", "@x", "+a"]
    Path("orders.CSV").write_text("mrn,order\n" + "".join(f"{row_id},knee pain\n" for row_id in ids), encoding="utf-8")
    assert call("predict", *words("answers.CSV", "--keep-text", source="orders.CSV")).code == 0
    assert [row["id"] for row in read_csv("answers.CSV")] == ["'=1+1", "-7", "'@x", "'+a"]
    again = ("--text-column", "note", "--id-column", "id", "--output", "again.csv", "--plain-csv")
    assert call("predict", "--adapter", RUN, "--input", "answers.CSV", *again).code == 0
    assert [row["id"] for row in read_csv("again.csv")] == ids


@pytest.mark.parametrize("source", [("--note", "knee pain"), ("--input", "orders.csv", "--output", "out.csv")])
def test_a_missing_vllm_is_reported_before_any_work(finished_copy, call, source):
    before = files_in(finished_copy)
    done = call("predict", "--adapter", "runs/none", *source, "--engine", "vllm")
    assert done.code == 2 and done.stdout == ""
    assert done.stderr.startswith("error: --engine vllm: vLLM is not installed; ")
    assert done.stderr.count("\n") == 1 and files_in(finished_copy) == before


def test_chunks_of_two_base_models_are_not_mixed(finished_copy):
    own = load_predictor(RUN).fingerprint
    assert load_predictor(RUN, allow_other_weights=True).fingerprint == own
    path = Path("models", TINY_MODEL, "model.safetensors")
    save_file({name: tensor * 1.01 for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})
    assert load_predictor(RUN, allow_other_weights=True).fingerprint != own
