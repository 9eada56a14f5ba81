"""The report page: what it says, what it keeps to itself, and that it needs nothing else."""

import base64
import hashlib
import re
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
from made_up_metrics import COSTS
from page_reader import Page

from radrecipes.data.label_sets import Label, LabelSet
from radrecipes.evaluation.embeddings import TextEmbedder
from radrecipes.evaluation.label_baselines import BASELINES, MAJORITY, SVM
from radrecipes.evaluation.label_metrics import compute_metrics, predictions_table
from radrecipes.evaluation.label_systems import ADAPTER, BASE, EvaluationRows, System
from radrecipes.inference.answers import SystemOutput
from radrecipes.reporting.html import p_value
from radrecipes.reporting.label_page import SYSTEM_TITLES
from radrecipes.reporting.page import grid, write_page
from radrecipes.reporting.result_tables import metrics_table

LABELS = [
    Label("CT Head", modality="CT", body_region="head"),
    Label("MRI Knee <left>", modality="MR", body_region="knee"),
    Label("CT Chest & Abdomen", modality="CT", body_region="chest"),
]
NAMES = [label.name for label in LABELS]
HOSTILE = '<script>document.title="stolen"</script> r/o bleed & "fx" \'x\''
TRAIN_LOG = [{"step": step, "loss": 2 / step, "learning_rate": 1e-3} for step in range(1, 41)] + [{"train_loss": 0.3}]


@pytest.fixture
def write(tmp_path, make_metrics):
    """Write a page; the metrics and the predictions agree on the accuracy of the fine-tuned model."""

    def write(
        adapter=0.9,
        baseline=0.5,
        access="synthetic",
        trained_on="open",
        rows=200,
        note="note {}",
        without=(),
        train_log=TRAIN_LOG,
        dataset_manifest=None,
        run_manifest=None,
        free_text="free text",
        confidences=True,
        change=None,
        label_set=LABELS,
        **options,
    ):
        metrics = make_metrics(
            adapter, baseline, 0.0, labels=NAMES, rows=rows, access=access, without=without, **options
        )
        metrics["label_set"] = [asdict(label) for label in label_set]
        if change:
            change(metrics)
        references = [NAMES[number] for number in np.random.default_rng(0).integers(0, 3, rows)]
        columns = {"id": [f"row-{number}" for number in range(rows)], "group": ["group"] * rows}
        columns["note"] = [note.format(number) if "{}" in note else note for number in range(rows)]
        columns["reference"] = references
        for name in metrics["systems"]:
            wrong = [NAMES[(NAMES.index(reference) + 1) % 3] for reference in references]
            # Every second wrong answer of the model is not a label.
            labels = [
                reference
                if place < metrics["systems"][name]["exact_accuracy"]["value"] * rows
                else None
                if name == ADAPTER and place % 2
                else mistaken
                for place, (reference, mistaken) in enumerate(zip(references, wrong, strict=True))
            ]
            columns[f"{name}_text"] = [free_text if label is None else label for label in labels]
            columns[f"{name}_label"] = pd.array(labels, dtype="string")
        if confidences and not options.get("generated"):
            # The surer, the later; the threshold at 95 % of the made-up metrics is 0.817.
            columns["adapter_confidence"] = np.linspace(0.0, 1.0, rows)
            for place, probability in ((1, 0.61), (2, 0.26), (3, 0.13)):
                columns[f"adapter_top{place}_label"] = [NAMES[place - 1]] * rows
                columns[f"adapter_top{place}_probability"] = [probability] * rows
        page = write_page(
            tmp_path,
            title="Tiny model, protocol",
            metrics=metrics,
            predictions=pd.DataFrame(columns),
            dataset_manifest={"task": "protocol", "access": access, **(dataset_manifest or {})},
            run_manifest={
                "recipe": "protocol_lora.yaml",
                "versions": {"torch": "2.13.0"},
                "data": {"access": trained_on},
            }
            if run_manifest is None
            else run_manifest,
            train_log=train_log,
        )
        return page.read_text(encoding="utf-8")

    return write


def test_headline_says_the_result_in_plain_words(write):
    words = Page(write()).words.replace("\u202f", " ")
    assert "The fine-tuned model chose the correct protocol for 90.0 % of 200 orders not seen in training" in words
    assert (
        "The best baseline trained on the same orders, chosen on validation (support vector machine on words and characters)"
        in words
    )
    assert "reached 50.0 %" in words
    assert "The base model without fine-tuning reached 0.0 %" in words
    assert "better than the best baseline, by 40.0 percentage points" in words
    assert "p < 0.001" in words
    assert "synthetic" in words


def test_headline_does_not_flatter(write):
    assert "<strong>worse</strong> than the best baseline, by 30.0" in write(0.5, 0.8)
    unclear = write(0.8, 0.79, p_value=0.6)
    assert "no significant difference" in unclear
    assert "better than" not in Page(unclear).words.split("Systems compared")[0]
    # McNemar's test is sure, but over whole groups the difference may be none.
    few_groups = Page(write(0.9, 0.5, difference_width=0.45)).words
    assert "p < 0.001" in few_groups
    assert "no significant difference" in few_groups


def test_nothing_is_claimed_of_a_dataset_that_is_not_the_runs_own(write):
    audit = {"leakage_audit": {"test": {"verbatim": 4, "normalised": 5, "near_duplicate": 6}}}
    of_other = {"data": {"access": "open", "digest": "e" * 64}}
    words = Page(write(dataset_manifest=audit, run_manifest=of_other)).words
    assert "200 orders (95" in words and "The best baseline, chosen on validation" in words
    for claim in ("not seen in training", "trained on the same", "occur verbatim in the training data"):
        assert claim in Page(write(dataset_manifest=audit)).words and claim not in words


def test_every_section_is_there_and_linked(write):
    page = Page(write())
    anchors = {attributes["href"][1:] for tag, attributes in page.elements if tag == "a"}
    identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    sections = {attributes["id"] for tag, attributes in page.elements if tag == "h2"}
    wanted = {"decisions", "probabilities", "systems", "slices", "training", "confusions", "labels", "wrong-answers"}
    wanted |= {"data", "run", "reading", "limits"}
    assert anchors == sections == wanted
    assert len(identifiers) == len(set(identifiers))
    assert "not a medical device" in page.words
    for title in SYSTEM_TITLES.values():
        assert title in page.words


def test_page_loads_nothing_and_only_its_own_script_may_run(write):
    html = write(note=HOSTILE)
    page = Page(html)
    for tag, attributes in page.elements:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "form")
        assert not {"src", "srcset", "data", "action"} & set(attributes), tag
        for name in ("href", "xlink:href"):
            assert attributes.get(name, "#").startswith("#"), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on")]
    # What is left of http is the names of XML vocabularies, which nothing loads.
    assert set(re.findall(r"https?://[^\s\"'<)]+", html)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert "@import" not in html
    assert "url(h" not in html
    assert len(page.scripts) == 1
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(page.scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert len(html) < 2_000_000


def test_notes_labels_and_manifests_are_text_not_markup(write):
    html = write(
        note=HOSTILE,
        free_text=HOSTILE,
        run_manifest={HOSTILE: {"a": [HOSTILE]}, "data": {"access": "open", "b": HOSTILE}},
    )
    page = Page(html)
    assert 'document.title="stolen"' not in "".join(page.scripts)
    assert page.text.count('document.title="stolen"') > 4
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert "MRI Knee <left>" in page.text
    assert "<left>" not in html
    assert "CT Chest &amp; Abdomen" in html


def test_wrong_answers_show_note_expected_and_answered(write):
    words = Page(write(rows=10, adapter=0.8, note="unmistakable note {}")).words
    table = words.split("Wrong answers")[-1]
    assert "unmistakable note 8" in table
    assert "unmistakable note 9" in table
    assert "unmistakable note 7" not in words
    assert "free text not a label" in table


@pytest.mark.parametrize("access", ["registered", "credentialed", "nonsense"])
def test_closed_data_stays_off_the_page(write, access):
    secret = "jane doe room twelve"
    # The table has its notes: the page must escape them itself.
    named = access if access != "nonsense" else "credentialed"
    for classes in ({"access": access}, {"access": "synthetic", "trained_on": access}):
        html = write(**classes, note=f"{secret} {{}}", free_text=secret)
        assert secret not in html
        assert f"or of the training data, is <strong>{named}</strong>" in " ".join(html.split())
    assert secret in write(access="open", note=f"{secret} {{}}")


def test_confusion_matrix_counts_every_answer(write):
    page = Page(write(rows=100, adapter=0.6))
    matrix = page.text[page.text.rindex("Confusions") :]
    right = sum(int(count) for count in re.findall(r": correct in (\d+) of \d+ orders", matrix))
    wrong = sum(int(count) for count in re.findall(r" answered as [^:]+: (\d+) of \d+ orders", matrix))
    assert (right, wrong) == (60, 40)
    assert matrix.count("answered as not a label") == 3


def test_no_train_log_no_curve(write, tmp_path):
    assert "This run has no training log" in Page(write(train_log=[])).words
    assert not (tmp_path / "figures" / "loss_curve.svg").exists()
    assert (
        "This run has no training log" in Page(write(train_log=[{"step": 1, "loss": 1.0}, {"train_loss": 2.0}])).words
    )


@pytest.mark.parametrize(
    ("best", "metric", "expected"),
    [
        (20, "eval_exact_accuracy", "The weights of step 20 were kept, which has the best exact accuracy, 0.9312."),
        (20, "loss", "The weights of step 20 were kept, which has the best loss, 0.9312."),
        (None, None, "The weights of the last step, 20, were kept."),
    ],
)
def test_the_page_says_how_training_was_validated_and_which_step_was_kept(write, best, metric, expected):
    evaluations = [{"step": step, "eval_loss": 1 / step, "eval_exact_accuracy": step / 40} for step in (10, 20)]
    validation = {
        "rows": 256,
        "evaluations": evaluations,
        "best_step": best,
        "kept_step": 20,
        "metric_for_best_model": metric,
        "best_metric": best and 0.93123,
    }
    words = Page(write(run_manifest={"training": {"validation": validation}, "data": {"access": "open"}})).words
    assert f"During training 256 orders of the validation split were evaluated 2 times. {expected}" in words
    assert "validation: exact accuracy" in words
    assert "During training" not in Page(write()).words


def test_loss_curve_is_on_the_page_and_in_a_file_that_stands_alone(write, tmp_path):
    html = write()
    assert "This run has no training log" not in html
    assert ">loss<" in html and "cross-entropy over the labels" not in html
    alone = (tmp_path / "figures" / "loss_curve.svg").read_text()
    assert alone.startswith("<svg")
    assert "var(--" not in alone
    assert "#0b6e75" in alone
    assert "#0b6e75; stroke-width: 2" not in html
    for name, words in (("risk_coverage", "highest confidence first"), ("reliability", "probability of the answer")):
        drawing = (tmp_path / "figures" / f"{name}.svg").read_text()
        assert f">{words}" in drawing or f"{words}</text>" in drawing
        assert "var(--" not in drawing
        assert f"{words}</text>" in html


def test_systems_may_be_missing(write):
    words = Page(write(without=(BASE, *BASELINES))).words
    assert "best baseline" not in words.split("How to read this")[1].split("95")[0]
    assert "Paired comparisons" not in words
    assert "exact McNemar test, p" not in words


def test_no_wrong_answers(write):
    words = Page(write(adapter=1.0)).words
    assert "No answer was wrong." in words
    assert "There are none." in words


def test_many_long_notes_keep_the_page_small(write):
    html = write(rows=1000, adapter=0.0, note="<&> " * 2000 + "{}")
    assert len(html.encode()) < 2_000_000
    assert "The first 300 of 1,000" in Page(html).words


def test_manifests_of_any_shape_are_shown(write):
    manifest = {
        "rows": {"read": 7100, "dropped": {"empty_note": 3}},
        "splits": {"train": {"rows": 6000, "groups": 300}, "test": {"rows": 900, "groups": 45}},
        "leakage_audit": {
            "near_duplicate_threshold": 0.8,
            "validation": {"verbatim": 0, "normalised": 1, "near_duplicate": 2},
            "test": {"verbatim": 4, "normalised": 5, "near_duplicate": 6},
        },
        "sources": [{"name": "orders.csv", "sha256": "a" * 64}],
        "labels_without_rows": [],
        "odd": [None, True, 0.1 + 0.2, {}, [1, [2]]],
    }
    run_manifest = {"complete": True, "seconds": 12.3456789, "nothing": None, "deep": {"deeper": {"deepest": "found"}}}
    words = Page(write(dataset_manifest=manifest, run_manifest=run_manifest)).words
    assert "4 occur verbatim in the training data, 5 up to case" in words
    assert "and 6 nearly" in words
    assert "empty note 3" in words
    assert "rows groups train 6000 300 test 900 45" in words
    assert "orders.csv" in words
    assert "a" * 64 in words
    assert "complete yes seconds 12.3457 nothing – deep deeper deepest found" in words


def test_a_run_that_was_interrupted_shows_losses_changes_and_sentences(write):
    run_manifest = {
        "training": {
            "first_losses": [2.123456789, 1.0],
            "resumes": [{"step": 3, "changed": {}}, {"step": 7, "changed": {"processes": [2, 1]}}],
        },
        "data": {"splits_sha256": {"train": "a" * 64, "test": "b" * 64}},
        "determinism": {"cublas_workspace": None, "not_deterministic": ["Sums differ.", "Atomics <too>."]},
    }
    words = Page(write(run_manifest=run_manifest)).words
    assert "first losses 2.12346, 1 resumes step 3 changed none step 7 changed processes 2, 1" in words
    assert f"splits sha256 train {'a' * 64} test {'b' * 64}" in words
    assert "cublas workspace – not deterministic Sums differ. Atomics <too>." in words


def test_tables_have_headers_and_pictures_have_words(write):
    page = Page(write())
    for tag, attributes in page.elements:
        if tag == "th":
            assert attributes.get("scope") in ("row", "col", "colgroup")
        if attributes.get("role") == "img":
            assert attributes["aria-label"]
    assert ("html", {"lang": "en"}) in page.elements


def test_grid_takes_only_entries_with_the_same_keys():
    assert grid({"a": {"x": 1}, "b": {"x": 2}, "c": 3}) == {"a": {"x": 1}, "b": {"x": 2}}
    assert grid({"a": {"x": 1}, "b": {"y": 2}}) == {}
    assert grid({"a": {"x": 1}}) == {}
    assert grid({"a": {"x": {"y": 1}}, "b": {"x": {"y": 1}}}) == {}


def test_p_values():
    assert [p_value(value) for value in (0.0004, 0.0312, 1.0)] == ["p < 0.001", "p = 0.031", "p = 1.000"]


def test_same_input_same_page(write):
    assert write() == write()


def section(html, start, end):
    """The words between two headings."""
    return Page(html).words.replace("\u202f", " ").split(start)[-1].split(end)[0]


def test_decisions_come_first_next_to_the_best_baseline(write):
    words = section(write(0.9, 0.7), "Selective prediction: what can", "Calibration Reliability")
    assert (
        "answered 60.0 % of the orders automatically, with a selective accuracy of 96.0 %. The other 40.0 % would go"
        in words
    )
    assert "Support vector machine on words and characters (best baseline)" in words
    # Coverage, accuracy, wrong answers of the model, then those of the baseline.
    assert re.search(r"95 % 60\.0 % 57\.0 % – 63\.0 % 96\.0 % 93\.0 % – 99\.0 % 5 2 costly met 40\.0 %", words)
    assert "649 validation orders in 36 groups so that the target is met with 90 % confidence" in words


def test_a_target_that_validation_cannot_support_is_stated(write):
    def unsupported(best_supported):
        def change(metrics):
            for row in metrics["systems"][ADAPTER]["selective"]["thresholds"][1:]:
                nothing = {"value": 0.0, "low": 0.0, "high": 0.0}
                test = {"automatic_rows": 0, "coverage": nothing, "accuracy": None, "errors": 0, "costly_errors": 0}
                row.update(threshold=None, best_supported=best_supported, test=test)

        return section(write(change=change), "Selective prediction: what can", "Calibration Reliability")

    words = unsupported(0.923)
    assert "A target accuracy of 95 % is not supported" in words
    assert "support at most 92.3 %" in words
    assert words.count("Validation does not support this target. Highest supported target: 92.3 %.") == 2
    assert "no target at all" in unsupported(0.0)


@pytest.mark.parametrize(
    ("accuracy", "high", "verdict"),
    [(0.951, 0.97, "met"), (0.94, 0.96, "within chance"), (0.9, 0.94, "missed")],
)
def test_a_missed_target_is_not_hidden(write, accuracy, high, verdict):
    def change(metrics):
        rows = metrics["systems"][ADAPTER]["selective"]["thresholds"]
        rows[1]["test"]["accuracy"] = {"value": accuracy, "low": 0.8, "high": high}
        metrics["systems"][ADAPTER]["selective"]["thresholds"] = rows[1:2]

    table = section(write(change=change), "Target accuracy", "Coverage is the fraction")
    assert verdict in table
    assert (" met " in table) == (verdict == "met")
    assert ("within chance" in table) == (verdict == "within chance")


def test_thresholds_that_decide_nothing_and_a_model_without_scores(write):
    def change(metrics):
        metrics["systems"][ADAPTER]["selective"]["thresholds"][1]["test"].update(accuracy=None, automatic_rows=0)

    words = Page(write(change=change)).words
    assert "answered none of these orders automatically" in words
    assert "nothing was answered automatically" in words
    assert "this system has no confidence" in Page(write(generated=True)).words


def test_thresholds_are_not_praised_on_the_rows_that_they_were_chosen_on(write):
    assert "the table is too optimistic" in Page(write(split="validation")).words
    assert "the table is too optimistic" not in Page(write()).words


def test_generated_answers_have_no_probabilities_and_the_page_says_so(write, tmp_path):
    words = Page(write(generated=True)).words
    assert "generated its answers freely, without a confidence" in words
    assert "there are no probabilities to check" in words
    assert "reports no confidence." in words.split("Limits")[-1]
    assert not (tmp_path / "figures" / "reliability.svg").exists()
    # The baselines have a confidence.
    assert (tmp_path / "figures" / "risk_coverage.svg").exists()
    assert "NEEDS_REVIEW" not in words.split("Wrong answers")[-1].split("Data:")[0]
    alone = Page(write(generated=True, without=(BASE, *BASELINES))).words
    assert "No system has a confidence" in alone


def test_scores_without_validation_answers_have_no_thresholds(write):
    def change(metrics):
        for system in metrics["systems"].values():
            if "selective" in system:
                system["selective"]["thresholds"] = []
        metrics.update(best_baseline=None, recommendation=None)

    words = Page(write(change=change)).words
    assert "No threshold was chosen, because nothing was answered on the validation split" in words
    assert "auto" not in words.split("Wrong answers")[-1].split("Data:")[0]


def test_every_system_shows_its_calibration_and_its_cost(write):
    words = section(write(), "Systems compared The test", "Similarity is the mean")
    assert "Calibration error Training Orders per second" in words
    assert "0.0 % 0.021 8.0 min 12.3" in words and "0.021 4.2 s 3,210" in words
    # The base model was not trained here and no temperature was fitted for it.
    assert "0.0 % – – 11.0" in words
    assert words.count("AMD EPYC 9V74, 2 threads") == 1

    def elsewhere(metrics):
        metrics["systems"][ADAPTER]["cost"]["trained_on"] = "4 × NVIDIA H100"

    words = section(write(change=elsewhere), "Systems compared The test", "Similarity is the mean")
    assert "8.0 min 4 × NVIDIA H100 12.3 AMD EPYC 9V74, 2 threads" in words


def test_the_recommended_system_is_named_at_the_top(write):
    words = section(write(), "The fine-tuned model chose", "Selective prediction").replace("\u202f", " ")
    assert "Use the fine-tuned model for these orders: it is the most accurate one on validation" in words
    assert "Use " not in Page(write(generated=True)).words.split("Selective prediction")[0]


def test_calibration_shows_before_and_after(write):
    words = section(write(), "Calibration Reliability", "Systems compared The test")
    assert "Before temperature scaling 0.081 0.181 0.281 After temperature scaling 0.021 0.121 0.221" in words
    assert "fitted on 649 validation orders in 36 groups" in words
    assert "27 % – 33 % 1 30.0 % 21.9 % 1 30.0 % 27.9 %" in words
    assert "0 % – 7 % 0 – – 0 – –" in words


def test_costly_confusions_by_kind_for_every_system(write):
    words = section(write(0.9, 0.5), "Costly confusions", "Per label")
    assert "Contrast against none Left against right Body region Listed in the label set Any of these" in words
    assert "Fine-tuned model 1 · 0.5 % 0.0 % – 1.5 % 2 · 1.0 %" in words
    assert "Support vector machine on words and characters 5 · 2.5 %" in words


def test_slices_show_intervals_and_small_ones_say_so(write):
    words = section(write(0.9, 0.5), "Slices Exact accuracy by", "Training Training")
    assert "rare (under 20 training rows) 12 2 too few orders or groups" in words
    assert "common (100 and more) 120 20 90.0 % 84.0 % – 96.0 % 50.0 % 44.0 % – 56.0 %" in words
    assert "Near-duplicate in training yes 30" in words


def test_slices_by_stated_columns_show_every_system(write):
    def with_sites(metrics):
        figures = {name: system["exact_accuracy"] for name, system in metrics["systems"].items()}
        metrics["slices_by_column"] = [
            {"slice": "site", "value": value, "rows": rows, "groups": 9, "too_few": rows < 20, "systems": figures}
            for value, rows in (("north <1>", 150), ("south", 12))
        ]

    words = section(write(0.9, 0.5, change=with_sites), "Slices Exact accuracy by", "Training Training")
    assert "by the column site of the dataset" in words
    assert "Site Orders Groups Fine-tuned model Base model" in words
    assert "north <1> 150 9 90.0 %" in words and "south 12 9 too few orders or groups" in words
    assert "of the dataset" not in section(write(0.9, 0.5), "Slices Exact accuracy by", "Training Training")


def test_wrong_answers_that_no_one_would_see_come_first(write):
    words = section(write(rows=10, adapter=0.6, best=SVM), "Wrong answers", "Data: origin")
    # The threshold at 95 % is 0.817: of the wrong rows 6 to 9, two are above it, and the answer to row 9 is not a label.
    assert re.findall(r"(\d+\.\d) % confidence, (auto|NEEDS_REVIEW)", words) == [
        ("88.9", "auto"),
        ("100.0", "NEEDS_REVIEW"),
        ("77.8", "NEEDS_REVIEW"),
        ("66.7", "NEEDS_REVIEW"),
    ]
    assert "or MRI Knee <left>, 26.0 %" in words
    assert "or CT Chest & Abdomen, 13.0 %" in words
    without = section(write(rows=10, adapter=0.6, confidences=False), "Wrong answers", "Data: origin")
    assert "confidence" not in without
    assert without.index("note 6") < without.index("note 7")


def test_labels_that_are_always_reviewed_are_never_auto(write):
    reviewed = [replace(label, always_review=True) for label in LABELS]
    words = section(write(rows=10, adapter=0.6, label_set=reviewed), "Wrong answers", "Data: origin")
    assert re.findall(r"confidence, (auto|NEEDS_REVIEW)", words) == ["NEEDS_REVIEW"] * 4


def test_the_page_understands_what_evaluation_measures(tmp_path):
    generator = np.random.default_rng(3)
    references = [NAMES[number] for number in generator.integers(0, 3, 90)]
    rows = EvaluationRows(
        [f"row-{number}" for number in range(90)],
        [f"group-{number // 3}" for number in range(90)],
        [f"note {number} about {reference}" for number, reference in enumerate(references)],
        references,
    )

    def answers(accuracy):
        right = generator.random(90) < accuracy
        sure = np.where(right, generator.beta(9, 1, 90), generator.beta(3, 3, 90))
        labels = [name if good else NAMES[0] for name, good in zip(references, right, strict=True)]
        return [
            SystemOutput(label, label, confidence=float(p), top=((label, float(p)), (NAMES[1], 1 - float(p))))
            for label, p in zip(labels, sure, strict=True)
        ]

    systems = {ADAPTER: answers(0.9), SVM: answers(0.5)}
    systems = {name: System(found, found, {"cost": COSTS[name]}) for name, found in systems.items()}
    systems[MAJORITY] = System([SystemOutput(NAMES[0], NAMES[0])] * 90)
    metrics = compute_metrics(
        rows,
        systems,
        task="protocol",
        label_set=LabelSet("made_up", 1, tuple(LABELS), ""),
        train=rows,
        validation=rows,
        embedder=TextEmbedder(),
        split="test",
        dataset={"name": "made_up", "access": "synthetic", "digest": "d" * 64},
        decoding={"method": "score"},
        seeds={"bootstrap": 0},
        resamples=50,
    )
    page = write_page(
        tmp_path,
        title="Tiny model, protocol",
        metrics=metrics,
        predictions=predictions_table(rows, systems, "synthetic"),
        dataset_manifest={"access": "synthetic"},
        run_manifest={"data": {"access": "synthetic"}},
        train_log=[],
    )
    words = Page(page.read_text(encoding="utf-8")).words.replace("\u202f", " ")
    decided = metrics["systems"][ADAPTER]["selective"]["thresholds"][0]["test"]
    assert f"90 % {100 * decided['coverage']['value']:.1f} %" in words
    assert "Support vector machine on words and characters (best baseline)" in words
    assert "Body region CT Head" not in words
    assert "knee" in words.split("Slices Exact accuracy by")[1].split("Training Training")[0]
    assert re.search(r"\d % confidence, (auto|NEEDS_REVIEW)", words)
    assert "coverage at target accuracy" in metrics_table(metrics)
