"""The costs of docs/large-datasets.md: the page shows what the script prints, and the script reads what was measured."""

import copy
import sys

import pytest
from conftest import REPOSITORY

from radrecipes.errors import InputError

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

import scale_costs


@pytest.fixture
def results():
    return scale_costs.read_results()


def test_the_page_shows_what_the_script_makes_of_the_results(results):
    page = (REPOSITORY / "docs/large-datasets.md").read_text(encoding="utf-8")
    for name, table in scale_costs.tables(scale_costs.ASSUMPTIONS, results).items():
        assert scale_costs.with_table(page, name, table) == page, (
            "run python benchmarks/scale_costs.py --write docs/large-datasets.md"
        )


def test_the_last_column_is_the_one_worked_out_by_hand(results):
    _, given = scale_costs.read_assumptions(scale_costs.ASSUMPTIONS, results)
    found, rates = scale_costs.costs(500_000_000, given), results["scale_rates"]["rates"]
    longer = 300 / rates["words_a_report"]
    assert found["prepare, core hours"] == pytest.approx(5e8 * longer / rates["prepare_reports_per_second"] / 3600)
    assert found["tokenise, core hours"] == pytest.approx(5e8 * 400 / rates["tokeniser_tokens_per_second"] / 3600)
    assert found["near-duplicates (MinHash), core hours"] == pytest.approx(800)
    label = found["label all with 8B, GPU hours"]
    assert label == pytest.approx(5e8 * (2 * 8.03e9 * 400 / (0.5 * 989e12) + 60 / 6338) / 3600)
    tune = found["fine-tune 8B on a sample, GPU hours"]
    assert tune == pytest.approx(1e6 * 400 * 4 * 8.03e9 / (0.3 * 989e12) / 3600)
    assert found["text and token ids stored, GB"] == pytest.approx(800 / 2.8 + 800)
    cores = sum(value for row, value in found.items() if row.endswith("core hours") and "comparison" not in row)
    money = cores * 0.04 + (label + tune) * 2.5 + found["text and token ids stored, GB"] * 0.023 * 3
    assert found["all of these, dollars"] == pytest.approx(money)


def test_all_but_the_sample_grows_with_the_reports(results):
    _, given = scale_costs.read_assumptions(scale_costs.ASSUMPTIONS, results)
    small, large = scale_costs.costs(10_000_000, given), scale_costs.costs(20_000_000, given)
    for name in small:
        if "sample" in name:
            assert large[name] == small[name]
        elif "dollars" not in name:
            assert large[name] == pytest.approx(2 * small[name]), name


def test_a_measurement_that_changes_changes_the_costs(results):
    slower = copy.deepcopy(results)
    slower["scale_rates"]["rates"]["identifiers_reports_per_second"] /= 2
    before, after = (
        scale_costs.costs(1000, scale_costs.read_assumptions(scale_costs.ASSUMPTIONS, found)[1])
        for found in (results, slower)
    )
    assert after["identifiers, core hours"] == pytest.approx(2 * before["identifiers, core hours"])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('assumed: "4 tokens for 3 words"', 'note: "4 tokens for 3 words"'),
        ('assumed: "4 tokens for 3 words"', 'assumed: "4 tokens for 3 words", source: "a page"'),
        ("{value: 400, assumed:", "{assumed:"),
    ],
)
def test_an_assumption_without_its_number_or_its_one_source_is_refused(old, new, tmp_path, results):
    text = scale_costs.ASSUMPTIONS.read_text(encoding="utf-8")
    assert old in text
    broken = tmp_path / "mine.yaml"
    broken.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(InputError, match=r"text\.tokens_a_report needs a number"):
        scale_costs.read_assumptions(broken, results)


def test_a_measurement_that_is_not_in_the_results_is_refused(results):
    results.pop("train_vs_trl_sft")
    with pytest.raises(InputError, match=r"small\.trained_notes_a_second needs a number"):
        scale_costs.read_assumptions(scale_costs.ASSUMPTIONS, results)
