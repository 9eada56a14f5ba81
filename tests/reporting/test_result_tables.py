import json

import pytest
from conftest import REPOSITORY
from written_reports import evaluated

from radrecipes.errors import InputError
from radrecipes.evaluation.results import over_seeds, results_path, summarise
from radrecipes.publishing.identifiers import find_identifiers
from radrecipes.recipe import find_recipes
from radrecipes.reporting.label_tables import speed
from radrecipes.reporting.result_tables import (
    BEGIN,
    END,
    metrics_table,
    recommended_system,
    results_table,
    summary_table,
    with_results,
)
from radrecipes.tasks import TASKS, TextTask

# A recipe whose result is not recorded says so itself, which the tests of recipes check.
RECORDED = [path for path in find_recipes(REPOSITORY / "recipes") if results_path(path).is_file()]


def figure(mean, sd=None):
    return {"mean": mean, "sd": sd}


RESULT = {
    "recipe": "m/r",
    "task": "protocol",
    "systems": {
        "adapter": {name: figure(0.931, 0.012) for name in ("exact_accuracy", "macro_f1", "out_of_vocabulary_rate")},
        "base": {name: figure(0.0) for name in ("exact_accuracy", "macro_f1", "out_of_vocabulary_rate")},
    },
    "seeds": [
        {"seed": 1, "seconds": 420.0, "against_linear": {"second": "tfidf_logistic_regression", "p_value": 0.0031}},
        {"seed": 2, "against_linear": {"second": "tfidf_logistic_regression", "p_value": 2e-9}},
    ],
    "rows": 988,
    "groups": 54,
    "peak_memory_gib": 3.4,
    "hardware": {"cores": 2, "processor": "AMD EPYC"},
}


def test_table_shows_spread_and_the_worst_p_value():
    table = results_table([RESULT])
    assert "| m/r | adapter | 0.931 ± 0.012 | 0.931 ± 0.012 | 0.931 ± 0.012 |" in table
    assert "| m/r | base | 0.000 |" in table
    # Rounded up: p ≤ 0.003 would be false.
    assert "| m/r | tfidf logistic regression | – | ≤ 0.004 | 2 of 2 |" in table
    assert "training 7.0 minutes (first seed), 3.4 GiB, 2 cores" in table


def test_slices_by_stated_columns_are_a_table_of_all_systems():
    rows = [("implant", 42, figure(0.81, 0.02)), ("age", 9, None)]
    sliced = [
        {"slice": "rule", "value": value, "rows": count, "groups": 7, "systems": {"adapter": found, "base": None}}
        for value, count, found in rows
    ]
    table = results_table([{**RESULT, "slices_by_column": sliced}])
    assert "m/r, exact accuracy by rule:\n\n| rule | orders | adapter | base |" in table
    assert "| implant | 42 | 0.810 ± 0.020 | – |\n| age | 9 | – | – |" in table
    assert "exact accuracy by" not in results_table([RESULT])


def test_decisions_and_the_test_against_the_best_baseline_if_the_result_has_them():
    over_both = {"mean": 0.862, "sd": 0.01, "n": 2}
    scored = {
        **RESULT,
        "calibration": {"expected_calibration_error": {"mean": 0.021, "sd": 0.002, "n": 2}},
        "decisions": {
            "target_accuracy": 0.95,
            "systems": {
                "adapter": dict.fromkeys(("coverage", "accuracy", "area_under_risk_coverage"), over_both),
                "tfidf_linear_svm": {
                    "coverage": {"mean": 0.41, "sd": 0.58, "n": 2},
                    "accuracy": {"mean": 0.97, "sd": None, "n": 1},
                    "area_under_risk_coverage": None,
                },
            },
        },
        "seeds": [
            {**row, "against_best_baseline": {"second": "tfidf_linear_svm", "p_value": p_value}}
            for row, p_value in zip(RESULT["seeds"], (0.149, 0.01), strict=True)
        ],
    }
    accuracies, decisions, compared, _, _ = results_table([RESULT, scored]).split("\n\n")
    assert len(accuracies.splitlines()) == 2 + 4
    assert decisions.splitlines()[2:] == [
        "| m/r | adapter | 95 % | 0.862 ± 0.010 | 0.862 ± 0.010 | 0.862 ± 0.010 | 0.021 ± 0.002 |",
        "| m/r | tfidf linear svm | 95 % | 0.410 ± 0.580 | 0.970 (1 of 2 seeds) | – | – |",
    ]
    assert len({line.count("|") for line in decisions.splitlines()}) == 1
    assert compared.splitlines()[2:] == [
        "| m/r | tfidf logistic regression | – | ≤ 0.004 | 2 of 2 |",
        "| m/r | tfidf linear svm | – | ≤ 0.2 | 1 of 2 |",
        "| m/r | tfidf logistic regression | – | ≤ 0.004 | 2 of 2 |",
    ]
    # A recipe that generates has neither, nor has a result that was recorded earlier.
    generated = {**scored, "calibration": None, "decisions": None}
    assert "coverage" not in results_table([RESULT, generated])


def pair(second, difference, p_value):
    return {
        "first": "adapter",
        "second": second,
        "p_value": p_value,
        "difference_in_exact_accuracy": {
            "value": difference,
            "low": difference - p_value / 10,
            "high": difference + 0.01,
        },
    }


def test_costs_and_every_comparison_if_the_result_has_them():
    over_both = {"mean": 0.95, "sd": 0.01, "n": 2}
    newer = {
        **RESULT,
        "systems": RESULT["systems"] | {"fine_tuned_encoder": RESULT["systems"]["adapter"]},
        "best_baseline": {"name": "fine_tuned_encoder", "validation_accuracy": 0.95},
        "costs": {
            "adapter": {
                "training_seconds": {"mean": 480.0, "sd": 10.0, "n": 2},
                "rows_per_second": {"mean": 12.25, "sd": 0.5, "n": 2},
                "trained_on": "NVIDIA H100",
                "answered_on": "AMD EPYC, 2 threads",
            },
            "base": {
                "training_seconds": None,
                "rows_per_second": {"mean": 11.0, "sd": None, "n": 1},
                "trained_on": None,
                "answered_on": "AMD EPYC, 2 threads",
            },
            "majority": {
                "training_seconds": {"mean": 0.0, "sd": 0.0, "n": 2},
                "rows_per_second": {"mean": 1234567.84, "sd": 1000.0, "n": 2},
                "trained_on": "AMD EPYC, 2 threads",
                "answered_on": "AMD EPYC, 2 threads",
            },
            "fine_tuned_encoder": None,
        },
        "decisions": {
            "target_accuracy": 0.95,
            "systems": {
                "fine_tuned_encoder": dict.fromkeys(
                    ("coverage", "accuracy", "area_under_risk_coverage", "expected_calibration_error"), over_both
                )
            },
        },
        "seeds": [
            {
                "seed": seed,
                "seconds": 420.0,
                "comparisons": [
                    pair("fine_tuned_encoder", -0.02, 0.031),
                    pair("words_characters_svm", 0.01, p_value),
                    pair("base", 0.9, 1e-9),
                ],
            }
            for seed, p_value in ((1, 0.2), (2, 0.4))
        ],
    }
    accuracies, decisions, costs, compared, _, _ = results_table([RESULT, newer]).split("\n\n")
    assert "| m/r | fine tuned encoder | 0.931 ± 0.012 |" in accuracies
    assert decisions.splitlines()[-1].endswith("| 0.950 ± 0.010 | 0.950 ± 0.010 |")
    assert costs.splitlines()[2:] == [
        "| m/r | adapter | 480.0 ± 10.0 | 12.2 ± 0.5 | NVIDIA H100 | AMD EPYC, 2 threads |",
        "| m/r | base | – | 11.0 | – | AMD EPYC, 2 threads |",
        "| m/r | majority | 0.0 ± 0.0 | 1,234,567.8 ± 1,000.0 | AMD EPYC, 2 threads | AMD EPYC, 2 threads |",
    ]
    assert not find_identifiers(costs)  # a card with this table must pass the gates
    # The difference tells which of the two is better; the interval spans those of both seeds.
    assert compared.splitlines()[3:] == [
        "| m/r | fine tuned encoder | -0.020 (-0.023 to -0.010) | ≤ 0.04 | 2 of 2 |",
        "| m/r | words characters svm | +0.010 (-0.030 to +0.020) | ≤ 0.4 | 0 of 2 |",
    ]
    summary = summary_table([newer])
    assert "| exact accuracy | 0.931 ± 0.012 | 0.000 | 0.931 ± 0.012 (fine tuned encoder) |" in summary


def test_terminal_table_shows_selective_prediction_and_calibration(make_metrics):
    metrics = make_metrics(0.9, 0.7)
    row = metrics["systems"]["adapter"]["selective"]["thresholds"][2]
    row.update(threshold=None, best_supported=0.963)
    lines = metrics_table(metrics).splitlines()
    assert "best baseline on validation: words_characters_svm (0.610)" in lines
    (at_95,) = [line for line in lines if line.startswith("95 %")]
    assert at_95.split("0.600, selective accuracy ")[1].startswith("0.960 (0.930–0.990)")
    assert "0.400, selective accuracy 0.960" in at_95
    assert any(line.startswith("98 %") and "not supported by validation, at most 96.3 %" in line for line in lines)
    assert "expected calibration error: 0.081, after temperature 1.44 0.021" in lines


def test_terminal_table_has_the_costs_of_every_system(make_metrics):
    metrics = make_metrics()
    lines = metrics_table(metrics).splitlines()
    assert lines[2].endswith("training  orders/s")
    assert next(line for line in lines if line.startswith("adapter ")).endswith("8.0 min   12.3")
    assert next(line for line in lines if line.startswith("base ")).endswith("–         11.0")
    assert "timed on AMD EPYC 9V74, 2 threads" in lines
    for system in metrics["systems"].values():
        del system["cost"]
    assert "orders/s" not in metrics_table(metrics)


def test_terminal_table_of_generated_answers_and_of_an_older_evaluation(make_metrics):
    generated = metrics_table(make_metrics(generated=True))
    assert "no threshold" in generated and "calibration" not in generated
    older = make_metrics(generated=True)
    for key in ("best_baseline", "recommendation", "slices"):
        del older[key]
    for system in older["systems"].values():
        for key in ("selective", "calibration", "cost"):
            system.pop(key, None)
    assert "coverage" not in metrics_table(older)
    assert "adapter − base" in metrics_table(older)


def test_only_the_marked_part_of_a_document_changes():
    document = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    made = with_results(document, results_table([RESULT]), "x.md")
    assert made.startswith(f"before\n{BEGIN}\n| recipe") and made.endswith(f"{END}\nafter\n") and "old" not in made
    assert with_results(made, results_table([RESULT]), "x.md") == made
    with pytest.raises(InputError, match=r"x\.md: the lines"):
        with_results("no markers", "", "x.md")


@pytest.mark.parametrize(
    "document", ["README.md", *dict.fromkeys(f"recipes/{path.parent.name}/README.md" for path in RECORDED)]
)
def test_tables_of_the_documentation_are_not_stale(document):
    path = REPOSITORY / document
    root = REPOSITORY / "recipes" if document == "README.md" else path.parent
    found = [json.loads(file.read_text("utf-8")) for file in sorted(root.rglob("*.results.json"))]
    assert found
    table = summary_table if document == "README.md" else results_table
    assert with_results(path.read_text("utf-8"), table(found), document) == path.read_text("utf-8")


@pytest.fixture(scope="module")
def written():
    """The result of two seeds of a made-up recipe; the base was asked for fewer rows, with the first seed only."""
    runs = []
    for seed, options in ((42, {"base_rows": 40}), (1, {"without": ("base",), "flawless": True})):
        metrics, _ = evaluated(**options)
        training = {"seed": seed, "mean_loss": 0.5, "first_losses": [2.0], "seconds": 60.0}
        training |= {"peak_memory_gib": 2.0, "trainable_parameters": 7}
        manifest = {
            "recipe": {"name": "m/report", "fields": {"task": "report", "seed": seed}, "resolved": {}},
            "training": training,
            "hardware": {"cores": 2, "processor": "AMD EPYC"},
            **{part: {"weights_sha256": "b", "digest": "d", "sha256": "p"} for part in ("base", "data", "prompt")},
            **{part: {} for part in ("packages", "code", "constraints_sha256", "determinism")},
        }
        runs.append((manifest, metrics | {"code": {}}))
    return runs, summarise(runs, "command")


def test_summary_of_written_reports(written):
    ((_, first), (_, second)), result = written
    assert result["task"] == "report"
    assert result["system_rows"] == {"base": 40}
    for figure in ("passed_rate", "rouge_l", "label_recall", "contradiction_rate", "never_stopped_rate"):
        values = [metrics["systems"]["adapter"][figure]["value"] for metrics in (first, second)]
        assert result["systems"]["adapter"][figure] == over_seeds(values)
    assert result["systems"]["adapter"]["bleu"] == over_seeds(
        [m["systems"]["adapter"]["bleu"] for m in (first, second)]
    )
    assert result["systems"]["base"]["rouge_l"]["n"] == 1
    row = result["seeds"][0]
    guarded = first["systems"]["adapter_guarded"]
    assert (row["seed"], row["rouge_l"], row["bleu"]) == (42, guarded["rouge_l"]["value"], guarded["bleu"])
    assert row["guard"] == {way: guarded["guard"][way] for way in ("first_try", "later_try", "template")}
    assert row["comparisons"] == first["comparisons"]
    assert not {"calibration", "decisions", "against_linear"} & ({*result} | {*row})
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_figures_that_no_seed_has_are_none():
    metrics, _ = evaluated(without=("base",))
    metrics["systems"]["nearest_labels"]["label_precision"] = None
    assert "–" in next(line for line in metrics_table(metrics).splitlines() if line.startswith("label precision"))


def test_reports_and_protocols_have_tables_of_their_own(written):
    _, result = written
    alone = results_table([result])
    head, rule, *rows = alone.split("\n\n")[0].splitlines()
    assert head == (
        "| recipe | system | passes all checks | ROUGE-L | BLEU | distinct-2 | template sentences ↓ | label recall | "
        "label precision | contradictions ↓ | invented positives ↓ | never stopped ↓ |"
    )
    assert {line.count("|") for line in (rule, *rows)} == {head.count("|")}
    assert len(rows) == 6
    assert rows[0].startswith("| m/report | adapter guarded | ")
    assert any(row.startswith("| m/report | base (40 studies only) | 0.000 | ") for row in rows)
    bleu = result["systems"]["adapter"]["bleu"]
    assert f"| {bleu['mean']:.1f} ± {bleu['sd']:.1f} |" in rows[1]
    note = alone.splitlines()[-1]
    assert "60 studies of 30 patients not seen in training; seeds 42, 1" in note
    best = result["best_baseline"]["name"]
    pairs = [pair for row in result["seeds"] for pair in row["comparisons"] if pair["second"] == best]
    guarded = [pair["difference"] for pair in pairs if pair["first"] == "adapter_guarded"]
    low, high = min(pair["low"] for pair in guarded), max(pair["high"] for pair in guarded)
    compared = next(part for part in alone.split("\n\n") if "compared with" in part)
    against = f"{best.replace('_', ' ')} | ROUGE-L"
    mean = sum(pair["value"] for pair in guarded) / 2
    assert f"| adapter guarded | {against} | all | {mean:+.3f} ({low:+.3f} to {high:+.3f}) |" in compared
    assert f"| adapter | {against} | all |" in compared and f"| {against} | text not in training |" in compared
    assert "most frequent" not in compared
    # Without groups, as in OpenI, no patients are named.
    assert "60 studies not seen in training" in results_table([{**result, "groups": 60}])
    assert "passed at the first attempt" in note

    both = results_table([result, RESULT])
    assert both.index("**Protocols from orders**") < both.index("**Reports from findings**")
    for table in (alone, results_table([RESULT])):
        assert table in both
        assert "**" not in table
    impressions = results_table([{**result, "task": "impression"}, result])
    assert impressions.index("**Reports from findings**") < impressions.index("**Impressions from")


def test_summary_is_one_table_with_the_base_model_and_the_best_baseline(written):
    _, result = written
    head, rule, *rows = summary_table([result, RESULT]).split("\n\n")[0].splitlines()
    assert head == "| task | recipe | metric | fine-tuned | base model | best baseline |"
    assert {line.count("|") for line in (rule, *rows)} == {7} and len(rows) == 4
    assert rows[0] == "| Protocols from orders | m/r | exact accuracy | 0.931 ± 0.012 | 0.000 | – |"
    guarded = result["systems"]["adapter_guarded"]["passed_rate"]
    assert f"| m/report | passes all checks | {guarded['mean']:.3f} ± {guarded['sd']:.3f} | 0.000 | " in rows[1]
    # Whichever was best on validation, in every row.
    assert rows[2].endswith(f"({result['best_baseline']['name'].replace('_', ' ')}) |")
    other = summary_table([{**result, "best_baseline": {"name": "most_frequent", "validation_rouge_l": 0.1}}])
    assert other.count("(most frequent)") == 3
    unseen = result["unseen"]["text"]["systems"]["adapter_guarded"]["rouge_l"]
    assert f"| ROUGE-L, text not in training | {unseen['mean']:.3f} ± {unseen['sd']:.3f} | " in rows[3]
    # An older result has neither.
    older = {key: result[key] for key in result if key not in ("best_baseline", "unseen")}
    assert "(template writer) |" in summary_table([older]) and " with text not in training |" not in results_table(
        [older]
    )


def test_terminal_table_of_written_reports(written):
    ((_, metrics), _), _ = written
    lines = metrics_table(metrics).splitlines()
    assert lines[0] == "test split: 60 rows of 30 groups, 95 % intervals"
    # At most five systems side by side
    heads = [line.split() for line in lines if line.startswith(" ")]
    assert [name for head in heads[:2] for name in head] == list(metrics["systems"])
    recall = metrics["systems"]["adapter"]["label_recall"]
    line, *_ = [line for line in lines if line.startswith("label recall")]
    assert f"{recall['value']:.3f} ({recall['low']:.3f}–{recall['high']:.3f})" in line
    assert "base was evaluated on 40 rows only" in lines
    assert sum(line.startswith("adapter_guarded − ") for line in lines) == 4
    best = metrics["best_baseline"]
    assert f"best baseline on validation: {best['name']} ({best['validation_rouge_l']:.3f} in rouge_l)" in lines
    guard = metrics["systems"]["adapter_guarded"]["guard"]
    said = f"guard: {guard['first_try']} passed at the first attempt, {guard['later_try']} at a later"
    (place,) = [place for place, line in enumerate(lines) if line.startswith(said)]
    found = metrics["unseen"]["text"]
    assert lines[place + 2] == f"text not in training: {found['rows']} rows of {found['groups']} groups"
    rouge = found["systems"]["adapter"]["rouge_l"]
    line, *_ = [line for line in lines[place:] if line.startswith("ROUGE-L")]
    assert f"{rouge['value']:.3f} ({rouge['low']:.3f}–{rouge['high']:.3f})" in line
    assert max(map(len, lines)) < 200


@pytest.mark.parametrize("recipe", RECORDED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_recorded_results_contain_three_seeds_and_beat_the_simple_baseline(recipe):
    result = json.loads(results_path(recipe).read_text("utf-8"))
    assert len(result["seeds"]) >= 3
    if isinstance(TASKS[result["task"]], TextTask):
        written, template = (result["systems"][name]["rouge_l"] for name in ("adapter_guarded", "template_writer"))
        assert written["mean"] > template["mean"]
        return
    # Results that were recorded with fewer baselines have the pair under a name of its own.
    simple = "embedding_logistic_regression" if "costs" in result else "tfidf_logistic_regression"
    adapter, other = (result["systems"][name]["exact_accuracy"] for name in ("adapter", simple))
    assert adapter["mean"] > other["mean"]
    for row in result["seeds"]:
        pairs = row.get("comparisons") or [row["against_linear"]]
        assert next(pair["p_value"] for pair in pairs if pair["second"] == simple) < 0.05


def test_metrics_of_an_older_version_are_one_line_that_says_what_to_do(make_metrics):
    metrics = make_metrics()
    del metrics["task"]
    for older in (metrics, {}):
        with pytest.raises(InputError, match="older version wrote it; evaluate again with --restart"):
            metrics_table(older)


def test_the_most_accurate_system_with_figures_and_costs(make_metrics):
    assert recommended_system(make_metrics()) == (
        "Use adapter for these orders: it is the most accurate one on validation (+0.400 (+0.350 to +0.450) against "
        "words_characters_svm); exact accuracy on test is 0.900 (0.870–0.930) against 0.500 (0.470–0.530); it was trained in "
        "8.0 min and answers 12.3 orders per second, the other 4.2 s and 3,210 (AMD EPYC 9V74, 2 threads)."
    )


def test_a_faster_system_that_validation_cannot_tell_from_it_is_named(make_metrics):
    metrics = make_metrics()
    metrics["recommendation"]["as_accurate"] = "words_characters_svm"
    metrics["systems"]["adapter"]["cost"]["trained_on"] = "NVIDIA H100"
    said = recommended_system(metrics, {"adapter": "the model", "words_characters_svm": "the SVM"})
    assert said.startswith("Use the model for these orders: it is the most accurate one on validation")
    assert said.endswith(
        "it was trained in 8.0 min (NVIDIA H100) and answers 12.3 (AMD EPYC 9V74, 2 threads) orders per second, the other "
        "4.2 s (AMD EPYC 9V74, 2 threads) and 3,210 (AMD EPYC 9V74, 2 threads); the SVM is faster, and validation cannot tell "
        "it from the first."
    )


def test_without_answers_to_validation_nothing_is_recommended(make_metrics):
    assert recommended_system(make_metrics(generated=True)).startswith("No system is recommended, because")
    of_texts = make_metrics()
    del of_texts["recommendation"]
    assert recommended_system(of_texts) is None


def test_a_speed_has_no_more_digits_than_it_means():
    assert [speed(rate) for rate in (None, 1.234, 12.34, 99.96, 113.4, 41_105_011.0)] == [
        *("–", "1.2", "12.3", "100", "113", "41,100,000")
    ]
