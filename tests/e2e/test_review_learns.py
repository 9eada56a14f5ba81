"""What a person decides on the review page is read as training rows, and a run trained on it gives those answers."""

import csv
import itertools
from pathlib import Path

import pytest
from review_server import ReviewServer

from e2e.conftest import RUN
from radrecipes.files import read_json_object

# Words that the finished run has never seen; a person knows them.
SLANG = {"kub stone hunt": "CT Dedicated Kidney", "ich?": "CT Head", "code grey": "MR Brain", "acl pop": "MR Knee"}
HISTORIES = ("HTN", "smoker", "on warfarin", "asthma", "none given", "DM2")


def labels_in(path):
    with Path(path).open(encoding="utf-8", newline="") as stream:
        return {row["id"]: row["label"] for row in csv.DictReader(stream)}


@pytest.mark.slow
def test_predict_review_prepare_train_and_the_answers_are_right(finished_copy, call):
    right = {}
    with Path("orders.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["no", "patient", "order_text"])
        for number, ((words, label), history) in enumerate(itertools.product(SLANG.items(), HISTORIES * 2)):
            writer.writerow([f"N{number}", f"P{number}", f"{20 + number} yo, {words}. History: {history}"])
            right[f"N{number}"] = label
    texts = ("--input", "orders.csv", "--text-column", "order_text", "--id-column", "no")
    assert call("predict", "--adapter", RUN, *texts, "--output", "before.csv", "--audit-log", "log.jsonl").code == 0
    before = labels_in("before.csv")

    label_set = ("--label-set", f"{RUN}/adapter/label_set.yaml", "--sample", "999", "--group-column", "patient")
    with ReviewServer("before.csv", *texts, *label_set, "--reviewer", "expert", cwd=finished_copy) as server:
        done = server.decide_all(lambda row: right[row["id"]])
        assert done["reviewed"] == len(right) and server.stop()[0] == 0
    assert labels_in("corrections.csv") == right

    columns = (
        "--text-column",
        "order_text",
        "--label-column",
        "label",
        "--id-column",
        "id",
        "--group-column",
        "group",
    )
    columns += ("--near-duplicate-threshold", "1")  # they differ in little
    prepared = call("prepare_data", "protocol", "--source", "corrections.csv", *columns, "--output", "data/corrected")
    assert prepared.code == 0, prepared.stderr
    assert read_json_object("data/corrected/manifest.json")["rows"]["kept"] == len(right)
    run = ("--dataset", "data/corrected", "--output_dir", "runs/corrected")
    trained = call("sft", "--config", "recipes/tiny/protocol_head.yaml", "--num_train_epochs", "20", *run)
    assert trained.code == 0, trained.stderr
    assert call("predict", "--adapter", "runs/corrected", *texts, "--output", "after.csv").code == 0
    after = labels_in("after.csv")
    assert count(before, right) < 0.7 * len(right) and count(after, right) >= 0.95 * len(right)


def count(answers, right):
    """How many answers are right."""
    return sum(answers[row] == label for row, label in right.items())
