"""A text task without anything of its own is evaluated by word overlap and by its check."""

import json

import pytest

from radrecipes.errors import InputError
from radrecipes.evaluation.text_evaluation import (
    ADAPTER,
    ADAPTER_GUARDED,
    BASE,
    MOST_FREQUENT,
    NEAREST,
    TextEvaluation,
)
from radrecipes.inference.answers import WrittenText
from radrecipes.tasks import TextCheck, TextTask


class Explaining(TextTask):
    """Explanations, which must not be empty."""

    name = "explaining"
    input_column = "finding"
    target_column = "explanation"
    instruction = "Explain."

    def check(self, inputs, text):
        return TextCheck(() if text else ("empty",))


PAIRS = [("acute bleed", "There is fresh blood."), ("old stroke", "A part died long ago."), ("tear", "It is torn.")]


def rows_of(pairs=PAIRS):
    rows = [
        {"id": f"r{number}", "group": f"g{number}", "finding": finding, "explanation": explanation}
        for number, (finding, explanation) in enumerate(pairs)
    ]
    return TextEvaluation(Explaining(), rows)


def metrics_of(rows, systems, **options):
    return rows.metrics(
        systems,
        rows.checks(systems),
        split="test",
        dataset={"name": "tiny", "access": "synthetic", "digest": "0"},
        decoding={"method": "generate"},
        seeds={"bootstrap": 0},
        resamples=20,
        **options,
    )


def test_metrics_of_every_system_without_observations():
    rows = rows_of()
    right = [WrittenText(explanation, generated_tokens=5) for _, explanation in PAIRS]
    alone = [right[0], WrittenText(""), WrittenText("It is torn.", stopped=False)]
    guarded = [right[0], WrittenText("A part died.", tries=2, reasons=("empty",)), WrittenText("", tries=4)]
    systems = {ADAPTER: alone, ADAPTER_GUARDED: guarded, BASE: [None, None, WrittenText("the the")]}
    systems |= rows_of().baselines(rows_of()).write(rows)
    metrics = metrics_of(rows, systems)
    json.dumps(metrics, allow_nan=False)
    assert metrics["task"] == "explaining" and metrics["figures"] == list(TextEvaluation.figures)
    assert {name: system["rows"] for name, system in metrics["systems"].items()} == {
        ADAPTER: 3,
        ADAPTER_GUARDED: 3,
        BASE: 1,
        MOST_FREQUENT: 3,
        NEAREST: 3,
    }
    measured = metrics["systems"][ADAPTER]
    assert set(measured) == {
        "rows",
        "rouge_l",
        "bleu",
        "passed_rate",
        "never_stopped_rate",
        "mean_generated_tokens",
        "mean_words",
        "distinct_2",
    }
    # One is empty, and one was cut off.
    assert measured["passed_rate"]["value"] == pytest.approx(1 / 3)
    assert measured["rouge_l"]["value"] == pytest.approx(2 / 3)
    assert metrics["systems"][ADAPTER_GUARDED]["guard"] == {
        "first_try": 1,
        "later_try": 1,
        "template": 0,
        "refused": 1,
        "reasons": {"empty": 1},
    }
    assert [pair["second"] for pair in metrics["comparisons"]] == [MOST_FREQUENT, NEAREST, ADAPTER]


def test_the_nearest_input_of_the_train_split_lends_its_text():
    train = rows_of()
    asked = rows_of([("an acute bleed again", "?"), ("zzz", "?")])
    found = [text.text for text in train.baselines(train).write(asked)[NEAREST]]
    assert found[0] == "There is fresh blood."
    with pytest.raises(InputError):
        rows_of([]).baselines(train)


def test_the_table_has_input_and_reference_only_if_they_may_be_shown():
    rows = rows_of()
    systems = {ADAPTER: [WrittenText("secret"), WrittenText(""), None]}
    checks = rows.checks(systems)
    shown = rows.table(systems, checks, "open")
    assert list(shown) == ["id", "group", "finding", "reference", "adapter_text", "adapter_check", "adapter_stopped"]
    assert shown["adapter_check"].tolist()[:2] == ["ok", "empty"] and shown["adapter_check"].isna()[2]
    assert shown["reference"].tolist() == [explanation for _, explanation in PAIRS]
    assert list(rows.table(systems, checks, "credentialed")) == ["row", "adapter_check", "adapter_stopped"]


def test_a_system_with_few_different_sentences_shows_in_distinct_2():
    rows = rows_of()
    texts = [WrittenText("It is torn here."), WrittenText("it is torn"), WrittenText("Alone.")]
    measured = metrics_of(rows, {ADAPTER: texts, ADAPTER_GUARDED: texts})["systems"][ADAPTER]
    # it-is and is-torn occur twice, torn-here once.
    assert measured["distinct_2"] == pytest.approx(3 / 5) and measured["mean_words"] == pytest.approx(8 / 3)


def test_unseen_texts_have_the_figures_of_their_rows_alone():
    pairs = [(f"finding {n}", f"Explanation {n % 30}.") for n in range(50)]
    train, rows = rows_of(pairs[:5]), rows_of(pairs)
    # Explanations 0 to 4 stand in training: ten rows of test are seen, five of them with their finding.
    unseen = rows.unseen(train)
    assert {name: int(mask.sum()) for name, mask in unseen.items()} == {"text": 40, "pair": 45}
    texts = [WrittenText(text if n % 3 else "Nothing.") for n, (_, text) in enumerate(pairs)]
    base = [text if n < 15 else None for n, text in enumerate(texts)]
    systems = {ADAPTER: texts, ADAPTER_GUARDED: texts, BASE: base, **train.baselines(rows).write(rows)}
    metrics = metrics_of(rows, systems, unseen=unseen, best_baseline={"name": NEAREST, "validation_rouge_l": 0.1})
    json.dumps(metrics, allow_nan=False)

    kept = [place for place in range(50) if unseen["text"][place]]
    alone = rows_of([pairs[place] for place in kept])
    for group, row in zip(alone.rows, kept, strict=True):
        group["group"] = rows.groups[row]
    alone = TextEvaluation(rows.task, alone.rows)
    expected = metrics_of(
        alone, {name: [texts[place] for place in kept] for name, texts in systems.items() if name != BASE}
    )
    found = metrics["unseen"]["text"]
    assert (found["rows"], found["groups"]) == (40, 40)
    for name, figures in expected["systems"].items():
        assert found["systems"][name] == {key: figures[key] for key in ("rows", *TextEvaluation.figures)}
    # The base wrote fewer than 20 of these rows.
    assert found["systems"][BASE] is None
    first = metrics["comparisons"][0]
    assert first["unseen"]["text"]["difference"] == expected["comparisons"][0]["difference"]
    assert first["unseen"]["text"]["rows"] == 40 and first["rows"] == 50
    # The model without guard is compared with the best baseline.
    assert [(pair["first"], pair["second"]) for pair in metrics["comparisons"]][-1] == (ADAPTER, NEAREST)


def test_the_best_baseline_is_that_of_validation():
    train = rows_of([("one", "Same."), ("two", "Same."), ("three", "Other.")])
    for pairs, best in (
        ([("three", "Other."), ("four", "Other.")], NEAREST),
        ([("three", "Same."), ("four", "Same.")], MOST_FREQUENT),
    ):
        validation = rows_of(pairs)
        found = validation.best_baseline(train.baselines(validation))
        assert found["name"] == best and 0 < found["validation_rouge_l"] <= 1


def test_no_rows_are_refused():
    with pytest.raises(InputError, match="no rows"):
        metrics_of(rows_of([]), {})
