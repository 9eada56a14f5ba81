"""From answers to `metrics.json` and `predictions.parquet`."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

from radrecipes.data.label_sets import LabelSet
from radrecipes.errors import InputError
from radrecipes.evaluation.embeddings import TextEmbedder
from radrecipes.evaluation.label_baselines import EMBEDDING, ENCODER, MAJORITY, SVM
from radrecipes.evaluation.label_metrics import (
    compute_metrics,
    per_label_table,
    predictions_table,
    similarity_chance_levels,
)
from radrecipes.evaluation.label_systems import ADAPTER, BASE, EvaluationRows, System
from radrecipes.inference.answers import SystemOutput

LABEL_SET = LabelSet.from_text("""\
name: made_up
version: 1
labels:
  - {name: CT Head, modality: CT, body_region: head, contrast: none}
  - {name: CT Chest, modality: CT, body_region: chest, contrast: none}
  - {name: MRI Brain, modality: MR, body_region: head, contrast: with}
  - {name: MRI Knee, modality: MR, body_region: knee, contrast: none, always_review: true}
  - {name: CT Never Ordered}
costly_confusions: [[CT Head, MRI Brain]]
""")
LABELS = LABEL_SET.names


@pytest.fixture(scope="module")
def embedder():
    return TextEmbedder()


TRAIN_NOTES = [f"note number {number}" for number in range(0, 400, 4)]
TRAIN = EvaluationRows(TRAIN_NOTES, TRAIN_NOTES, TRAIN_NOTES, ["CT Head", "CT Head", "CT Chest", "MRI Brain"] * 25)


def labelled(labels, confidences=None):
    """Answers that are labels, with a confidence in each if there is one."""
    known = [None] * len(labels) if confidences is None else map(float, confidences)
    return [SystemOutput(label, label, confidence=sure) for label, sure in zip(labels, known, strict=True)]


def answers(references, accuracy, seed, free_text=0.0):
    generator = np.random.default_rng(seed)
    outputs = []
    for reference in references:
        draw = generator.random()
        if draw < accuracy:
            outputs.append(SystemOutput(f" {reference.lower()}", reference, True, 5))
        elif draw < accuracy + free_text:
            outputs.append(SystemOutput("I would suggest an X-ray", None, False, 32))
        else:
            label = LABELS[generator.integers(4)]
            outputs.append(SystemOutput(label, label, True, 5))
    return outputs


@pytest.fixture(scope="module")
def rows():
    generator = np.random.default_rng(0)
    references = generator.choice(LABELS[:4], 200, p=[0.5, 0.3, 0.15, 0.05]).tolist()
    return EvaluationRows(
        ids=[f"row-{number}" for number in range(200)],
        groups=[f"scenario-{number // 2}" for number in range(200)],
        notes=[f"note number {number}" for number in range(200)],
        references=references,
    )


@pytest.fixture(scope="module")
def systems(rows):
    return {
        ADAPTER: answers(rows.references, 0.9, 1, free_text=0.05),
        SVM: labelled([output.label for output in answers(rows.references, 0.6, 2)]),
        BASE: answers(rows.references, 0.0, 3, free_text=0.9),
        MAJORITY: labelled(["CT Head"] * len(rows.ids)),
    }


@pytest.fixture(scope="module")
def validation_rows(rows):
    generator = np.random.default_rng(7)
    references = generator.choice(LABELS[:3], 400).tolist()
    names = [f"validation-{number}" for number in range(400)]
    return EvaluationRows(names, names, [f"order {name}" for name in names], references)


def sure_answers(references, accuracy, seed):
    """Answers with a confidence: of the surer half all are right, of the others as many as `accuracy` leaves."""
    generator = np.random.default_rng(seed)
    outputs = []
    for reference in references:
        confidence = float(generator.random())
        right = confidence > 0.5 or generator.random() < 2 * accuracy - 1
        label = reference if right else LABELS[(LABELS.index(reference) + 1) % 3]
        top = ((label, confidence), ("CT Never Ordered", (1 - confidence) / 2))
        outputs.append(SystemOutput(label, label, confidence=confidence, top=top))
    return outputs


@pytest.fixture(scope="module")
def deciding(rows, validation_rows, embedder):
    """Metrics with everything that needs validation: baselines, confidences, costs."""
    accuracies = {ADAPTER: 0.9, EMBEDDING: 0.6, SVM: 0.8, ENCODER: 0.7}
    speeds = {ADAPTER: 10.0, EMBEDDING: 100.0, SVM: 1000.0, ENCODER: 100.0}
    systems = {
        name: System(
            sure_answers(rows.references, accuracy, 20 + place),
            sure_answers(validation_rows.references, accuracy, 30 + place),
            {"cost": {"rows_per_second": speeds[name]}},
        )
        for place, (name, accuracy) in enumerate(accuracies.items())
    }
    systems[MAJORITY] = System(
        labelled(["CT Head"] * 200, [0.4] * 200),
        labelled(["CT Head"] * 400, [0.4] * 400),
        {"cost": {"rows_per_second": 1e6}},
    )
    return compute(rows, systems, embedder, validation=validation_rows)


def compute(rows, systems, embedder, **changes):
    options = {
        "task": "protocol",
        "label_set": LABEL_SET,
        "train": TRAIN,
        "validation": rows,
        "embedder": embedder,
        "split": "test",
        "dataset": {"name": "made_up", "access": "synthetic", "digest": "0" * 64},
        "decoding": {"strategy": "greedy"},
        "seeds": {"bootstrap": 0},
        "resamples": 300,
    }
    systems = {name: system if isinstance(system, System) else System(system) for name, system in systems.items()}
    return compute_metrics(rows, systems, **{**options, **changes})


@pytest.fixture(scope="module")
def metrics(rows, systems, embedder):
    return compute(rows, systems, embedder)


def test_figures_equal_sklearn_and_lie_in_their_intervals(rows, systems, metrics):
    for name, outputs in systems.items():
        written = [output.label or "" for output in outputs]
        figures = metrics["systems"][name]
        assert figures["exact_accuracy"]["value"] == pytest.approx(accuracy_score(rows.references, written))
        expected_f1 = f1_score(rows.references, written, labels=LABELS[:4], average="macro", zero_division=0)
        assert figures["macro_f1"]["value"] == pytest.approx(expected_f1, abs=1e-6)
        assert figures["out_of_vocabulary_rate"]["value"] == pytest.approx(written.count("") / len(written))
        assert figures["never_stopped_rate"] == pytest.approx(written.count("") / len(written))
        for figure in ("exact_accuracy", "macro_f1", "out_of_vocabulary_rate", "semantic_similarity"):
            assert figures[figure]["low"] <= figures[figure]["value"] <= figures[figure]["high"], (name, figure)


def test_an_accuracy_of_all_or_no_rows_has_an_interval(rows, embedder):
    right = compute(rows, {ADAPTER: labelled(rows.references), BASE: labelled(["CT Never Ordered"] * 200)}, embedder)
    low = 0.025 ** (1 / 100)  # of 100 groups
    of_adapter, of_base = (right["systems"][name]["exact_accuracy"] for name in (ADAPTER, BASE))
    assert of_adapter == {"value": 1, "low": pytest.approx(low), "high": 1}
    assert of_base == {"value": 0, "low": 0, "high": pytest.approx(1 - low)}


def test_content_survives_json_and_says_what_was_compared(rows, metrics):
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    assert (metrics["rows"], metrics["groups"], metrics["labels"], metrics["labels_in_split"]) == (200, 100, 5, 4)
    assert (metrics["task"], metrics["split"]) == ("protocol", "test")
    assert metrics["dataset"]["digest"] == "0" * 64
    assert [(pair["first"], pair["second"]) for pair in metrics["comparisons"]] == [(ADAPTER, SVM), (ADAPTER, BASE)]


def test_paired_comparison_counts_rows_and_its_difference_is_that_of_the_accuracies(rows, systems, metrics):
    comparison = metrics["comparisons"][0]
    ours = [o.label == r for o, r in zip(systems[ADAPTER], rows.references, strict=True)]
    theirs = [o.label == r for o, r in zip(systems[SVM], rows.references, strict=True)]
    assert comparison["n10"] == sum(a and not b for a, b in zip(ours, theirs, strict=True))
    assert comparison["n01"] == sum(b and not a for a, b in zip(ours, theirs, strict=True))
    assert comparison["p_value"] < 0.001
    difference = comparison["difference_in_exact_accuracy"]
    accuracies = [metrics["systems"][name]["exact_accuracy"]["value"] for name in (ADAPTER, SVM)]
    assert difference["value"] == pytest.approx(accuracies[0] - accuracies[1])
    assert 0 < difference["low"] < difference["value"] < difference["high"]


def test_metrics_do_not_depend_on_the_order_of_the_rows(rows, systems, embedder, metrics):
    order = np.random.default_rng(5).permutation(len(rows.ids))

    def reordered(values):
        return [values[place] for place in order]

    shuffled = EvaluationRows(*(reordered(getattr(rows, name)) for name in ("ids", "groups", "notes", "references")))
    again = compute(shuffled, {name: reordered(outputs) for name, outputs in systems.items()}, embedder)
    flat, flat_again = (pd.json_normalize(content["systems"]).iloc[0] for content in (metrics, again))
    for key in flat.index:
        if key.endswith("per_label"):
            assert flat[key] == flat_again[key]
        else:
            assert flat[key] == pytest.approx(flat_again[key]), key
    assert metrics["comparisons"][0]["p_value"] == again["comparisons"][0]["p_value"]


def test_comparisons_need_both_systems(rows, systems, embedder):
    alone = compute(rows, {ADAPTER: systems[ADAPTER]}, embedder)
    assert alone["comparisons"] == []


def test_the_adapter_is_compared_with_every_baseline_that_learns_the_best_of_validation_first(deciding):
    assert deciding["best_baseline"]["name"] == SVM
    assert deciding["best_baseline"]["validation_accuracy"] == pytest.approx(0.8, abs=0.05)
    assert [pair["second"] for pair in deciding["comparisons"]] == [SVM, EMBEDDING, ENCODER]


def test_systems_with_confidences_get_thresholds_and_their_validation_accuracy(deciding):
    systems = deciding["systems"]
    assert systems[ADAPTER]["validation_accuracy"] == pytest.approx(0.9, abs=0.05)
    for figures in systems.values():
        thresholds = figures["selective"]["thresholds"]
        assert [row["target_accuracy"] for row in thresholds] == [0.9, 0.95, 0.98]
        assert thresholds[0]["validation"]["rows"] <= 400
    ours = systems[ADAPTER]["selective"]["thresholds"][1]
    assert ours["threshold"] is not None
    assert ours["test"]["accuracy"]["value"] > 0.9
    assert ours["test"]["coverage"]["value"] == ours["test"]["automatic_rows"] / 200
    assert [row["threshold"] for row in systems[MAJORITY]["selective"]["thresholds"]] == [None] * 3


def test_a_system_without_answers_to_validation_has_a_curve_but_no_threshold(rows, embedder):
    selective = compute(rows, {ADAPTER: sure_answers(rows.references, 0.9, 1)}, embedder)["systems"][ADAPTER][
        "selective"
    ]
    assert selective["thresholds"] == []
    assert selective["curve"]["coverage"][-1] == 1


def accepting(rows):
    """The rows, where `MRI Brain` is acceptable in place of `CT Head`, but not the reverse."""
    return replace(rows, accepted=[{it, "MRI Brain"} if it == "CT Head" else {it} for it in rows.references])


def test_acceptable_answers_count_in_metrics_of_their_own_and_change_no_other(rows, systems, embedder, metrics):
    accepted = accepting(rows)
    found = compute(accepted, systems, embedder, validation=accepted)["systems"]
    for name, figures in found.items():
        labels = [output.label for output in systems[name]]
        counted = [
            reference if label in of_row else (label or "")
            for label, reference, of_row in zip(labels, rows.references, accepted.accepted, strict=True)
        ]
        assert figures["acceptable_accuracy"]["value"] == pytest.approx(accuracy_score(rows.references, counted))
        known = sorted(set(rows.references))
        expected = f1_score(rows.references, counted, labels=known, average="macro", zero_division=0)
        assert figures["acceptable_macro_f1"]["value"] == pytest.approx(expected)
        strict = {key: value for key, value in figures.items() if not key.startswith("acceptable")}
        assert strict == metrics["systems"][name]
    assert found[BASE]["acceptable_accuracy"]["value"] >= found[BASE]["exact_accuracy"]["value"]


def test_thresholds_count_acceptable_answers_only_if_asked(rows, validation_rows, embedder):
    asked, chosen_on = accepting(rows), accepting(validation_rows)
    # Every wrong answer of the system is acceptable.
    wrong = {"CT Head": "MRI Brain"}
    system = System(
        *(
            labelled([wrong.get(reference, reference) for reference in it.references], [0.9] * len(it.ids))
            for it in (asked, chosen_on)
        )
    )
    strict, counting = (
        compute(asked, {ADAPTER: system}, embedder, validation=chosen_on, count_acceptable=count)
        for count in (False, True)
    )
    assert (strict.get("count_acceptable"), counting["count_acceptable"]) == (None, True)
    for document, automatic in ((strict, False), (counting, True)):
        test = document["systems"][ADAPTER]["selective"]["thresholds"][0]["test"]
        assert ((test["automatic_rows"] > 0), test["errors"]) == (automatic, 0)


def test_what_comes_from_validation_is_empty_without_it(metrics):
    assert (metrics["best_baseline"], metrics["recommendation"]) == (None, None)
    assert not any({"selective", "validation_accuracy"} & figures.keys() for figures in metrics["systems"].values())


def test_everything_that_deciding_adds_survives_json(deciding):
    assert json.loads(json.dumps(deciding, allow_nan=False)) == deciding
    assert deciding["systems"][SVM]["cost"] == {"rows_per_second": 1000.0}


def test_costly_confusions_count_the_wrong_answers_of_each_kind(rows, embedder):
    # Every answer is CT Head: contrast and the listed pair for MRI Brain, region for the chest and the knee.
    costly = compute(rows, {MAJORITY: labelled(["CT Head"] * 200)}, embedder)["systems"][MAJORITY]["costly_confusions"]
    brain, other = (
        sum(reference in names for reference in rows.references) for names in (["MRI Brain"], ["CT Chest", "MRI Knee"])
    )
    counts = {kind: figures["count"] for kind, figures in costly.items()}
    # Another modality is not a contrast confusion, and one region is not a region confusion: only the list names that pair.
    assert counts == {"contrast": 0, "side": 0, "region": other, "listed": brain, "any": brain + other}
    assert costly["any"]["share"]["value"] == pytest.approx((brain + other) / 200)
    assert costly["any"]["share"]["low"] < costly["any"]["share"]["value"] < costly["any"]["share"]["high"]


def test_slices_show_the_adapter_and_the_best_baseline(rows, deciding, metrics):
    named = {(part["slice"], part["value"]): part for part in deciding["slices"]}
    assert all(list(part["systems"]) == [ADAPTER, SVM] for part in deciding["slices"])
    assert all(list(part["systems"]) == [ADAPTER] for part in metrics["slices"])
    assert named["modality", "CT"]["rows"] == sum(label.startswith("CT") for label in rows.references)
    # Training contains every fourth of the evaluated notes verbatim.
    assert named["near-duplicate in training", "yes"]["rows"] == 50
    for name in {part["slice"] for part in deciding["slices"]}:
        assert sum(part["rows"] for part in deciding["slices"] if part["slice"] == name) == 200


def test_columns_that_the_dataset_states_are_sliced_for_every_system(rows, metrics, embedder):
    assert "slices_by_column" not in metrics
    site = ["north"] * 150 + ["south"] * 45 + ["islands"] * 5
    systems = {ADAPTER: answers(rows.references, 0.9, 1), MAJORITY: labelled(["CT Head"] * 200)}
    stated = compute(replace(rows, slices={"site": site}), systems, embedder)["slices_by_column"]
    assert [(row["slice"], row["value"], row["rows"], row["too_few"]) for row in stated] == [
        ("site", "islands", 5, True),
        ("site", "north", 150, False),
        ("site", "south", 45, False),
    ]
    right = np.array(
        [output.label == reference for output, reference in zip(systems[ADAPTER], rows.references, strict=True)]
    )
    assert stated[1]["systems"][ADAPTER]["value"] == right[:150].mean()
    assert stated[1]["systems"].keys() == systems.keys() and stated[0]["systems"][MAJORITY] is None


def test_similarity_reads_the_text_as_written_and_accuracy_the_label(rows, embedder):
    right_label_other_text = [SystemOutput("bananas", reference) for reference in rows.references]
    figures = compute(rows, {ADAPTER: right_label_other_text}, embedder)["systems"][ADAPTER]
    assert figures["exact_accuracy"]["value"] == 1
    assert figures["semantic_similarity"]["value"] < 0.4


def test_similarity_chance_levels_equal_the_mean_over_every_label(embedder):
    references = ["CT Head", "MRI Knee", "MRI Knee"]
    levels = similarity_chance_levels(references, LABELS, "CT Chest", embedder)
    naive = [embedder.similarities([reference], [label])[0] for reference in references for label in LABELS]
    assert levels["random_label"] == pytest.approx(np.mean(naive))
    majority = [embedder.similarities([reference], ["CT Chest"])[0] for reference in references]
    assert levels["majority_label"] == pytest.approx(np.mean(majority))
    assert levels["majority_label"] != pytest.approx(levels["random_label"])


def test_per_label_table_equals_sklearn_and_leaves_undefined_values_empty(rows, systems):
    predictions = [output.label for output in systems[ADAPTER]]
    table = per_label_table(rows.references, predictions, LABELS)
    written = [label or "" for label in predictions]
    precision, recall, f1, support = precision_recall_fscore_support(
        rows.references, written, labels=LABELS[:4], zero_division=0
    )
    for place, row in enumerate(table[:4]):
        assert (row["label"], row["support"]) == (LABELS[place], support[place])
        assert [row["precision"], row["recall"], row["f1"]] == pytest.approx(
            [precision[place], recall[place], f1[place]]
        )
    never = {"label": "CT Never Ordered", "support": 0, "predicted": 0, "precision": None, "recall": None, "f1": None}
    assert table[4] == never


def named(systems):
    return {name: System(outputs) for name, outputs in systems.items()}


def test_predictions_table_contains_every_answer(rows, systems, tmp_path):
    predictions_table(rows, named(systems), "open").to_parquet(tmp_path / "predictions.parquet")
    table = pd.read_parquet(tmp_path / "predictions.parquet")
    assert list(table.columns[:4]) == ["id", "group", "note", "reference"]
    assert list(table["note"]) == rows.notes
    for name, outputs in systems.items():
        assert list(table[f"{name}_text"]) == [output.text for output in outputs]
        assert [None if pd.isna(x) else x for x in table[f"{name}_label"]] == [output.label for output in outputs]
        assert list(table[f"{name}_stopped"]) == [output.stopped for output in outputs]
        assert not [column for column in table if column.startswith(f"{name}_top") or column == f"{name}_confidence"]


def test_predictions_table_contains_confidences_and_the_most_probable_labels_if_there_are_any(rows, tmp_path):
    systems = {
        ADAPTER: sure_answers(rows.references, 0.9, 1),
        SVM: labelled(rows.references, np.linspace(0, 1, 200)),
    }
    # One answer less sure than the others in what it says: it names one label only.
    systems[ADAPTER][3] = replace(systems[ADAPTER][3], top=systems[ADAPTER][3].top[:1])
    predictions_table(rows, named(systems), "credentialed").to_parquet(tmp_path / "predictions.parquet")
    table = pd.read_parquet(tmp_path / "predictions.parquet")
    assert list(table.columns) == [
        *("row", "reference", "adapter_label", "adapter_stopped", "adapter_confidence"),
        *("adapter_top1_label", "adapter_top1_probability", "adapter_top2_label", "adapter_top2_probability"),
        *(f"{SVM}_label", f"{SVM}_stopped", f"{SVM}_confidence"),
    ]
    assert list(table[f"{SVM}_confidence"]) == np.linspace(0, 1, 200).tolist()
    assert list(table["adapter_top1_label"]) == [output.label for output in systems[ADAPTER]]
    assert list(table["adapter_top1_probability"]) == [output.confidence for output in systems[ADAPTER]]
    assert list(np.flatnonzero(table["adapter_top2_label"].isna())) == [3]


@pytest.mark.parametrize("access", ["registered", "credentialed", "", "Open to nobody"])
def test_closed_data_leaves_no_free_text_in_the_file(rows, systems, access, tmp_path):
    secret = "jane doe room twelve"
    rows = replace(rows, notes=[secret] * len(rows.ids))
    systems = {**systems, BASE: [SystemOutput(f"the note says {secret}", None, False, 9)] * len(rows.ids)}
    path = tmp_path / "predictions.parquet"
    # Uncompressed, so that the bytes can be searched.
    predictions_table(rows, named(systems), access).to_parquet(path, compression=None)
    assert secret.encode() not in path.read_bytes()
    closed = pd.read_parquet(path)
    # Ids and groups are often numbers of patients.
    assert not [name for name in closed if name in ("note", "id", "group") or name.endswith("_text")]
    assert closed["row"].tolist() == list(range(1, len(rows.ids) + 1))
    predictions_table(rows, named(systems), "synthetic").to_parquet(path, compression=None)
    assert secret.encode() in path.read_bytes()


def test_wrong_arguments_are_refused(rows, systems, embedder):
    with pytest.raises(InputError, match="no rows"):
        compute(EvaluationRows([], [], [], []), {ADAPTER: []}, embedder)
    with pytest.raises(ValueError):
        compute(rows, {**systems, BASE: systems[BASE][1:]}, embedder)
    with pytest.raises(KeyError, match="bootstrap"):
        compute(rows, systems, embedder, seeds={})
