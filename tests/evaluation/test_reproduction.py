import copy
import json
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from test_results import deciding_run, run_of
from written_reports import evaluated

from radrecipes.errors import InputError
from radrecipes.evaluation.reproduction import (
    LOSS_TOLERANCE,
    Claim,
    Verdict,
    code_digest,
    compare_new_seed,
    compare_same_weights,
    differences,
    existing_evaluation,
    facts_of,
    prediction_interval,
    read_claim,
    same_arithmetic,
    same_losses,
    tolerance,
)
from radrecipes.evaluation.results import figures_of_metrics, figures_of_seed, over_seeds, summarise
from radrecipes.models.weights import weights_in
from radrecipes.reporting.result_tables import differences_lines, losses_table, verdicts_table
from radrecipes.tasks import TASKS, HeadlineMetric

# From most to least likely to explain another result.
PARTS = ("recipe", "data", "prompt", "base", "code", "constraints_sha256", "packages", "hardware", "determinism")
# t(0.975, n - 1) from a printed table.
QUANTILES = {2: 12.706205, 3: 4.302653, 4: 3.182446, 5: 2.776445, 6: 2.570582}


def facts():
    """What a run was made of, with an entry of every part."""
    return {
        "recipe": {"resolved": {"learning_rate": 1e-3, "lora_r": 16, "seed": 42, "dataset": "data/x"}},
        "data": {"digest": "d", "rows": {"train": 8, "test": 2}, "splits_sha256": {"train": "t"}, "folder": "data/x"},
        "prompt": {"sha256": "p", "chat_template_sha256": "c"},
        "base": {"weights_sha256": "w", "dtype": "bfloat16"},
        "code": {"commit": "k", "changed": False},
        "constraints_sha256": "s",
        "packages": {"torch": "2.13", "trl": "1.16"},
        "hardware": {"processor": "x", "threads": 2},
        "determinism": {"threads": 2},
    }


def leaves(value, path=()):
    """Every path to a value that is not a mapping."""
    if isinstance(value, dict):
        return [leaf for key, part in value.items() for leaf in leaves(part, (*path, key))]
    return [path]


def with_change(document, path, value):
    changed = copy.deepcopy(document)
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return changed


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_a_band_is_that_of_the_textbook(values):
    count, mean = len(values), sum(values) / len(values)
    deviation = (sum((value - mean) ** 2 for value in values) / (count - 1)) ** 0.5
    half = QUANTILES[count] * deviation * (1 + 1 / count) ** 0.5
    low, high = prediction_interval(over_seeds(values), 0.0)
    assert (low, high) == (pytest.approx(mean - half, abs=1e-6), pytest.approx(mean + half, abs=1e-6))


def test_nineteen_of_twenty_new_seeds_lie_in_the_band():
    draws = np.random.default_rng(7).normal(0.9, 0.02, (4000, 6))
    inside = [
        low <= row[-1] <= high for row in draws for low, high in [prediction_interval(over_seeds(row[:-1]), 0.0)]
    ]
    # Three standard errors of a share of 4,000.
    assert statistics.fmean(inside) == pytest.approx(0.95, abs=0.0104)


def test_one_seed_gives_no_band_and_equal_seeds_a_small_one():
    assert prediction_interval(over_seeds([0.9]), 0.005) is None and prediction_interval(None, 0.005) is None
    assert prediction_interval(over_seeds([0.5, 0.5, 0.5]), 0.005) == (0.495, 0.505)
    # No narrower than the same adapter may move.
    assert prediction_interval(over_seeds([0.5, 0.5, 0.5001]), 0.005)[1] == pytest.approx(0.505, abs=1e-4)


def test_a_figure_may_move_by_what_its_table_hardly_shows():
    figures = {figure.name: figure for figure in TASKS["report"].headline}
    assert tolerance(figures["rouge_l"]) == pytest.approx(0.01)
    assert tolerance(figures["bleu"]) == pytest.approx(1.0)


def test_the_same_facts_do_not_differ():
    assert differences(facts(), facts()) == []


@pytest.mark.parametrize("path", leaves(facts()), ids=".".join)
def test_one_change_is_named_with_both_values(path):
    found = differences(facts(), with_change(facts(), path, "other"))
    if path[-1] in ("seed", "dataset", "folder"):  # where a run is, and what differs from seed to seed
        assert found == []
        return
    (one,) = found
    assert one.field == ".".join(part for part in path if part != "resolved")
    assert one.now == "other" and one.before != "other"
    assert one.decisive == (path[0] in PARTS[:3] or path == ("base", "weights_sha256"))
    assert f"{one.field}: {one.before} before, other now" in differences_lines(found)


@given(st.permutations(leaves(facts())), st.integers(1, 15))
def test_the_most_likely_causes_come_first(paths, count):
    now = facts()
    for path in paths[:count]:
        now = with_change(now, path, "other")
    parts = [PARTS.index(one.field.split(".")[0]) for one in differences(facts(), now)]
    assert parts == sorted(parts)


def test_what_only_one_side_knows_is_a_difference_of_recipes_only():
    older = facts()
    del older["determinism"], older["prompt"]["chat_template_sha256"], older["packages"]["trl"]
    assert differences(older, facts()) == [] and differences(facts(), older) == []
    more = with_change(facts(), ("recipe", "resolved", "weight_decay"), 0.1)
    (one,) = differences(facts(), more)
    assert (one.field, one.before, one.now, one.decisive) == ("recipe.weight_decay", None, 0.1, True)
    (one,) = differences(more, facts())
    assert (one.before, one.now) == (0.1, None)


def test_a_default_that_changed_is_found():
    before, now = facts(), facts()
    for document, decay in ((before, 0.0), (now, 0.1)):
        document["recipe"]["resolved"] |= {"weight_decay": decay, "use_cpu": decay == 0.0, "save_steps": decay}
    assert [one.field for one in differences(before, now)] == ["recipe.weight_decay"]


def test_facts_of_a_run_and_of_a_result_are_of_one_form():
    manifest, metrics = run_of(42, 0.9)
    of_run, of_result = facts_of(manifest), facts_of(summarise([(manifest, metrics)], "command"))
    assert differences(of_run, of_result) == []
    assert of_run.keys() == of_result.keys() and "resolved" in of_result["recipe"]


def verdicts_by_name(verdicts):
    return {verdict.metric.name: verdict for verdict in verdicts}


def result_of(*runs):
    return summarise(runs, "command")


def test_a_new_seed_is_judged_by_every_headline_figure_and_by_what_it_settles_alone():
    result = result_of(*(deciding_run(seed, 0.6 + seed / 40, 0.97) for seed in (1, 2, 3)))
    _, metrics = deciding_run(4, 0.65, 0.97)
    found = verdicts_by_name(compare_new_seed(result, metrics))
    names = [figure.name for figure in TASKS["protocol"].headline]
    assert list(found) == [*names, "coverage", "accuracy"]
    assert all(verdict.passed for verdict in found.values())
    low, high = prediction_interval(over_seeds([0.625, 0.65, 0.675]), 0.005)
    assert (found["coverage"].low, found["coverage"].high) == (pytest.approx(low), pytest.approx(high))

    # Worse fails, and so does better: neither was reproduced.
    for coverage in (0.2, 0.9):
        _, metrics = deciding_run(4, coverage, 0.97)
        found = verdicts_by_name(compare_new_seed(result, metrics))
        assert found["coverage"].passed is False and found["accuracy"].passed is True
    assert "FAIL" in verdicts_table(list(found.values()), "mean")


def test_an_accuracy_that_some_seeds_lack_is_judged_only_if_there_is_one():
    covering, empty = deciding_run(1, 0.6, 0.97), deciding_run(2, 0.6, None)
    new, none = deciding_run(3, 0.6, 0.97)[1], deciding_run(3, 0.6, None)[1]
    cases = (
        (
            (covering, deciding_run(2, 0.6, 0.97)),
            none,
            False,
        ),  # every recorded seed settled something, this one nothing
        ((covering, deciding_run(4, 0.6, 0.97), empty), none, None),
        ((covering, deciding_run(4, 0.6, 0.97), empty), new, True),
        ((covering, empty), new, None),  # one seed gives no interval
        ((empty, deciding_run(1, 0.6, None)), new, None),
    )
    for runs, metrics, passed in cases:
        assert verdicts_by_name(compare_new_seed(result_of(*runs), metrics))["accuracy"].passed is passed


def test_a_band_that_nothing_could_leave_judges_nothing():
    # Two seeds that differ by 0.1: fifteen standard deviations to both sides.
    result = result_of(deciding_run(1, 0.5, 0.97), deciding_run(2, 0.6, 0.97))
    found = verdicts_by_name(compare_new_seed(result, deciding_run(3, 0.1, 0.97)[1]))
    assert (found["coverage"].low, found["coverage"].passed) == (None, None)
    assert "any value" in verdicts_table([found["coverage"]], "mean") and found["accuracy"].passed
    # Three of them judge.
    result = result_of(*(deciding_run(seed, 0.9 + seed / 100, 0.99) for seed in (1, 2, 3)))
    found = verdicts_by_name(compare_new_seed(result, deciding_run(4, 0.5, 0.99)[1]))
    assert found["coverage"].passed is False and 0.8 < found["coverage"].low < 0.9 < found["coverage"].high < 1


def claim_of(manifest, metrics, result):
    figures = figures_of_metrics(metrics)
    return Claim("x", None, result, facts_of(manifest), 1, None, Path("run"), "run", figures)


def test_the_same_adapter_must_give_the_tolerances():
    manifest, metrics = deciding_run(1, 0.6, 0.97)
    result = result_of((manifest, metrics))
    assert figures_of_seed(result, 1) == figures_of_metrics(metrics)
    claim = claim_of(manifest, metrics, result)
    assert all(verdict.passed for verdict in compare_same_weights(claim, metrics))
    moved = verdicts_by_name(compare_same_weights(claim, deciding_run(1, 0.65, 0.95)[1]))
    assert moved["coverage"].passed and not moved["accuracy"].passed


def test_a_new_seed_is_one_that_is_not_recorded():
    result = {"seeds": [{"seed": 42}, {"seed": 1}, {"seed": 2}, {"seed": 4}]}
    claim = Claim("x", None, result, {}, 42, None, None, None, {})
    assert claim.new_seed == 3
    assert Claim("x", None, {"seeds": [{"seed": 42}]}, {}, 42, None, None, None, {}).new_seed == 1


@given(st.lists(st.floats(0.01, 20), min_size=1, max_size=10), st.floats(-0.2, 0.2))
def test_losses_are_the_same_to_the_bit_or_within_a_share(recorded, shift):
    assert all(same_losses(recorded, recorded, exact=True))
    moved = [loss * (1 + shift) for loss in recorded]
    assert same_losses(recorded, moved, exact=True) == [a == b for a, b in zip(recorded, moved, strict=True)]
    if abs(abs(shift) - LOSS_TOLERANCE) > 1e-9:
        assert set(same_losses(recorded, moved, exact=False)) == {abs(shift) < LOSS_TOLERANCE}


def test_a_step_that_was_not_reached_or_gave_no_number_is_not_the_same():
    assert same_losses([2.0, 1.0], [2.0], exact=False) == [True, False]
    assert same_losses([2.0, 1.0], [2.0, float("nan")], exact=False) == [True, False]
    shown = losses_table([2.0, 1.0], [2.0], [True, False]).splitlines()
    assert shown[1].endswith("0 PASS") and shown[2].endswith("– FAIL")


def test_losses_must_be_the_same_to_the_bit_on_the_same_versions_and_kind_of_processor_only():
    processor = {"processor": "x", "processor_version": "1", "instruction_set": "AVX2", "bfloat16_instructions": []}
    here = facts() | {"hardware": processor}
    assert same_arithmetic(here, here | {"code": {"commit": "other"}})
    for part, key in (("packages", "torch"), *(("hardware", key) for key in processor)):
        assert not same_arithmetic(here, with_change(here, (part, key), "other"))
    assert not same_arithmetic(facts(), here)  # an older manifest does not say which instructions
    assert not same_arithmetic(here, with_change(here, ("hardware", "gpus"), ["NVIDIA L4"]))


@pytest.fixture
def run(tmp_path):
    """The files of a finished run that tell whether an evaluation is its own."""
    (tmp_path / "adapter").mkdir()
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "COMPLETE").touch()
    save_file({"x": torch.zeros(1)}, tmp_path / "adapter" / "adapter_model.safetensors")
    weights = weights_in(tmp_path / "adapter").sha256
    manifest = {
        "recipe": {"digest": "r", "fields": {}, "resolved": {}}, "base": {"weights_sha256": "b"}, "prompt": {"sha256": "p"},
        "data": {"digest": "d", "rows": {"test": 8}, "label_set_sha256": None}, "adapter": {"sha256": weights},
    }  # fmt: skip
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    metrics = {
        "task": "protocol", "split": "test", "rows": 8, "dataset": {"digest": "d"}, "adapter_sha256": weights,
    }  # fmt: skip
    (tmp_path / "evaluation" / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    return tmp_path


def test_an_evaluation_is_kept_only_if_it_measures_this_adapter_on_all_rows_of_this_dataset(run):
    path = run / "evaluation" / "metrics.json"
    metrics = json.loads(path.read_text("utf-8"))
    assert existing_evaluation(run, run / "evaluation", "d") == metrics
    assert existing_evaluation(run, run / "evaluation", "other") is None
    for same in (
        {"rows": 6, "left_out": {"test": 2}},
        {"options": {}},
        {"options": {"skip_base": True, "max_rows": 9}},
    ):
        path.write_text(json.dumps(metrics | same), encoding="utf-8")
        assert existing_evaluation(run, run / "evaluation", "d") == metrics | same
    deciding = [{"tries": 1}, {"count_acceptable": True}, {"encoder": "none"}, {"judges": ["none"]}]
    options = [{"options": one} for one in (*deciding, {"target_accuracy": 0.9}, {"similarity_model": "other"}, [])]
    others = ({"split": "validation"}, {"rows": 7}, {"adapter_sha256": "other"}, {"dataset": None}, *options)
    for change in others:
        path.write_text(json.dumps(metrics | change), encoding="utf-8")
        assert existing_evaluation(run, run / "evaluation", "d") is None, change
    path.write_text(json.dumps(metrics), encoding="utf-8")
    save_file({"x": torch.ones(1)}, run / "adapter" / "adapter_model.safetensors")
    with pytest.raises(InputError, match="changed since training"):
        existing_evaluation(run, run / "evaluation", "d")
    path.write_text("{", encoding="utf-8")
    assert existing_evaluation(run, run / "evaluation", "d") is None
    path.unlink()
    assert existing_evaluation(run, run / "evaluation", "d") is None


def test_code_is_known_by_its_content(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\n", encoding="utf-8")
    before = code_digest(tmp_path)
    assert before == code_digest(tmp_path)
    (tmp_path / "a.py").write_text("x = 2\n", encoding="utf-8")
    changed = code_digest(tmp_path)
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert len({before, changed, code_digest(tmp_path)}) == 3


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"fields": {}, "seeds": [], "systems": {}}'])
def test_a_result_file_that_is_none_is_named(workspace, content):
    recipe = Path("recipes/tiny/protocol_lora.yaml")
    with pytest.raises(
        InputError, match=r"protocol_lora\.results\.json: is missing.*reproduce\.py record recipes/tiny"
    ):
        read_claim(str(recipe))
    recipe.with_suffix(".results.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"protocol_lora\.results\.json: is not a result over seeds"):
        read_claim(str(recipe))


def test_a_table_shows_what_must_lie_where():
    figure = HeadlineMetric("exact_accuracy", "exact accuracy")
    rows = [Verdict(figure, 0.9, 0.85, 0.95, now) for now in (0.9, 0.96, None)]
    shown = verdicts_table([*rows, Verdict(figure, None, None, None, 0.5)], "published").splitlines()
    assert [line.split()[-1] for line in shown[1:]] == ["PASS", "FAIL", "FAIL", "–"]
    assert "0.8500 to 0.9500" in shown[1]


def test_metrics_that_one_of_two_evaluations_lacks_are_not_compared():
    metrics, _ = evaluated("report")
    older = copy.deepcopy(metrics)
    for system in older["systems"].values():
        del system["distinct_2"]
    figures = figures_of_metrics(older)
    assert "distinct_2" in figures_of_metrics(metrics) and "distinct_2" not in figures
    claim = Claim("x", None, {}, {}, 1, None, Path("run"), "run", figures)
    found = verdicts_by_name(compare_same_weights(claim, metrics))
    assert "distinct_2" not in found and found["rouge_l"].passed
    recorded = {name: over_seeds([figure, figure]) for name, figure in figures_of_metrics(metrics).items()}
    result = {"task": "report", "systems": {"adapter_guarded": recorded}, "seeds": [{}, {}]}
    found = verdicts_by_name(compare_new_seed(result, older))
    assert "distinct_2" not in found and found["rouge_l"].passed
