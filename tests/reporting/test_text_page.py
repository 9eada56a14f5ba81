"""The page of written reports: what it says, what it keeps to itself, and that it needs nothing else."""

import base64
import copy
import hashlib
import re
from functools import cache

import numpy as np
import pandas as pd
import pytest
from page_reader import Page
from written_reports import evaluated

from radrecipes.reporting.page import write_page
from radrecipes.reporting.text_page import failed_and_passed
from radrecipes.tasks import TASKS

HOSTILE = '<script>document.title="stolen"</script> r/o bleed & "fx" \'x\''
SECRET = "jane doe room twelve"
TRAIN_LOG = [{"step": step, "loss": 2 / step} for step in range(1, 41)]
MANIFEST = {
    "task": "report",
    "rows": {"read": 5600, "kept": 5480, "dropped": {"empty_text": 3}},
    "leakage_audit": {"test": {"shared_groups": 0, "verbatim": 14}},
}

measured = cache(evaluated)


@pytest.fixture
def write(tmp_path):
    """Write a page; `change` may alter the metrics, `replace` the predictions."""

    def write(
        task="report",
        access="synthetic",
        trained_on="open",
        change=None,
        replace=None,
        title="Tiny model",
        facts=None,
        train_log=(),
        trained_data="d" * 64,
        **options,
    ):
        metrics, predictions = measured(task, **options)
        metrics = copy.deepcopy(metrics)
        if change:
            change(metrics)
        page = write_page(
            tmp_path,
            title=title,
            metrics=metrics,
            predictions=replace(predictions.copy()) if replace else predictions,
            dataset_manifest={**MANIFEST, "access": access, **(facts or {})},
            run_manifest={
                "recipe": "report_lora.yaml",
                "note": facts or "none",
                "data": {"access": trained_on, "digest": trained_data},
            },
            train_log=train_log,
        )
        return page.read_text(encoding="utf-8")

    return write


def words_of(html):
    return Page(html).words.replace("\u202f", " ")


def percent(figure):
    return f"{100 * figure['value']:.1f} %"


def test_headline_says_the_result_in_plain_words(write):
    metrics, _ = measured()
    systems = metrics["systems"]
    assert 0.5 < systems["adapter"]["passed_rate"]["value"] < 1
    words = words_of(write()).split("Contents")[0].split("Systems compared")[0]
    assert f"{percent(systems['adapter']['passed_rate'])} passed every check at the first attempt" in words
    assert f"{percent(systems['adapter_guarded']['passed_rate'])} pass;" in words
    assert f"without it, {percent(systems['adapter']['contradiction_rate'])} do" in words
    assert "Every report is a draft for review" in words
    assert "studies are synthetic" in words
    assert "studies are synthetic" not in words_of(write(access="open"))


@pytest.mark.parametrize(
    ("difference", "said"),
    [
        ({"value": 0.1, "low": 0.05, "high": 0.15}, "are significantly closer than the best baseline"),
        ({"value": -0.1, "low": -0.15, "high": -0.05}, "are significantly farther away than the best baseline"),
        ({"value": 0.1, "low": -0.01, "high": 0.2}, "do not differ significantly from the best baseline"),
    ],
)
def test_headline_does_not_flatter(write, difference, said):
    def change(metrics):
        for pair in metrics["comparisons"]:
            pair["difference"] = difference

    words = words_of(write(change=change))
    assert said in words
    assert (
        sum(
            words.count(start)
            for start in ("significantly closer", "significantly farther", "do not differ significantly")
        )
        == 1
    )

    def still_contradicting(metrics):
        metrics["systems"]["adapter_guarded"].update(
            contradictions=2, contradiction_rate={"value": 0.031, "low": 0.01, "high": 0.05}
        )

    assert "3.1 % of the reports still contradict a finding" in words_of(write(change=still_contradicting))


def test_nothing_is_claimed_of_a_dataset_that_is_not_the_runs_own(write):
    own, other = (words_of(write("impression", trained_data=letter * 64, rows=120)) for letter in "de")
    assert "wrote for 120 studies not seen in training, " in own and "wrote for 120 studies, " in other
    for claim in ("Texts not seen in training", "not in training the difference is", "in the training data, as short"):
        assert claim in own and claim not in other


def test_headline_compares_with_the_baseline_that_was_best_on_validation(write):
    def change(metrics):
        metrics["best_baseline"]["name"] = "nearest_labels"
        metrics["systems"]["nearest_labels"]["rouge_l"]["value"] = 0.123

    assert "training text with the nearest labels, 0.123" in words_of(write(change=change))
    assert "template sentences, 0.9" in words_of(write())


def test_texts_that_training_does_not_have_are_measured_apart(write):
    metrics, _ = measured("impression", rows=120)
    found = metrics["unseen"]["text"]
    assert found["rows"] >= 20
    words = words_of(write("impression", rows=120))
    shown = words.split("Texts not seen in training System")[1].split("Texts are compared without")[0]
    assert f"Text not in training: {found['rows']} studies" in shown
    rouge = found["systems"]["adapter"]["rouge_l"]
    assert f"{rouge['value']:.3f} {rouge['low']:.3f} – {rouge['high']:.3f}" in shown
    (pair,) = [
        pair
        for pair in metrics["comparisons"]
        if (pair["first"], pair["second"]) == ("adapter_guarded", metrics["best_baseline"]["name"])
    ]
    difference = pair["unseen"]["text"]["difference"]["value"]
    assert f"{found['rows']} studies with text not in training the difference is {difference:+.3f}" in words

    def too_few(metrics):
        metrics["unseen"]["text"]["systems"] = dict.fromkeys(metrics["systems"])
        for pair in metrics["comparisons"]:
            pair["unseen"] = dict.fromkeys(pair["unseen"])

    assert "too few" in words_of(write("impression", rows=120, change=too_few))


def test_every_section_is_there_and_linked(write):
    page = Page(write())
    anchors = {attributes["href"][1:] for tag, attributes in page.elements if tag == "a"}
    identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    sections = {attributes["id"] for tag, attributes in page.elements if tag == "h2"}
    wanted = {
        "systems",
        "unseen",
        "guard",
        "failures",
        "language",
        "consistency",
        "observations",
        "training",
        "failed-texts",
        "data",
    }
    assert anchors == sections == wanted | {"run", "reading", "limits"}
    assert len(identifiers) == len(set(identifiers))
    words = page.words
    assert "not a medical device" in words
    assert "drafts for review" in words.split("Limits")[-1]
    assert "empty text 3" in words
    assert "14 have findings and impression that occur verbatim in the training data" in words
    assert "report_lora.yaml" in words
    assert "This run has no training log" in words


def test_page_loads_nothing_and_only_its_own_script_may_run(write):
    html = write(mark=HOSTILE)
    page = Page(html)
    for tag, attributes in page.elements:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "form")
        assert not {"src", "srcset", "data", "action"} & set(attributes), tag
        for name in ("href", "xlink:href"):
            assert attributes.get(name, "#").startswith("#"), (tag, attributes)
    assert "@import" not in html
    assert "url(h" not in html
    assert len(page.scripts) == 1
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(page.scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_texts_reasons_and_manifests_are_text_not_markup(write):
    def change(metrics):
        metrics["systems"]["adapter_guarded"]["guard"]["reasons"][HOSTILE] = 1

    page = Page(write(mark=HOSTILE, title=HOSTILE, facts={HOSTILE: [HOSTILE]}, change=change))
    assert 'document.title="stolen"' not in "".join(page.scripts)
    assert page.text.count('document.title="stolen"') > 8
    assert [tag for tag, _ in page.elements].count("script") == 1


@pytest.mark.parametrize("task", ["report", "impression"])
@pytest.mark.parametrize("access", ["registered", "credentialed", "nonsense"])
def test_closed_data_stays_off_the_page(write, task, access):
    # The table has its texts: the page must escape them itself.
    named = access if access != "nonsense" else "credentialed"
    # A model trained on closed data recites them to whatever it is asked.
    for classes in ({"access": access}, {"access": "synthetic", "trained_on": access}):
        html = write(task, **classes, mark=SECRET)
        assert SECRET not in html
        assert not re.search(r"s500000\d\d", html)
        assert f"or of the training data, is <strong>{named}</strong>" in " ".join(html.split())
    shown = write(task, "open", mark=SECRET)
    assert SECRET in shown
    assert re.search(r"s500000\d\d", shown)


def test_a_table_without_texts_makes_a_page(write):
    html = write(access="credentialed", replace=lambda table: measured(access="credentialed")[1])
    assert "No text and no single row is shown" in words_of(html)


def test_base_may_be_missing_or_have_written_less(write):
    assert "without fine-tuning" not in write(without=("base",))
    words = words_of(write(base_rows=17))
    assert "17 of the studies only" in words
    assert words.count("of the studies only") == 5
    assert "without fine-tuning passed in 0.0 %" in words


def test_systems_have_one_order_whatever_that_of_the_metrics(write):
    def change(metrics):
        metrics["systems"] = dict(sorted(metrics["systems"].items(), key=lambda item: item[0], reverse=True))

    assert Page(write(change=change)).words == Page(write()).words


def test_baselines_may_be_missing(write):
    words = words_of(write(without=("base", "nearest_labels", "template_writer")))
    assert "best baseline (" not in words
    assert "Fine-tuned model without guard" in words


def test_guard_counts_and_reasons_are_on_the_page(write):
    metrics, _ = measured()
    guard = metrics["systems"]["adapter_guarded"]["guard"]
    assert all(guard[way] for way in ("first_try", "later_try", "template"))
    words = words_of(write()).split("Guard: accepted and rejected")[1].split("Failures Fraction of")[0]
    share = f"{100 * guard['first_try'] / metrics['rows']:.1f} %"
    assert f"Accepted at the first attempt {guard['first_try']} {share}" in words
    assert f"replaced by template sentences {guard['template']} " in words
    assert "after 3 attempts" in words
    for reason, count in guard["reasons"].items():
        assert f"{reason} {count}" in words


def test_worst_texts_come_first_with_request_and_reference(write):
    rows, _ = failed_and_passed(measured()[1], TASKS["report"])
    kinds = [[reason.split()[0] for reason in row["reasons"]] for row in rows]
    firsts = ["contradicts" in kind for kind in kinds]
    assert firsts == sorted(firsts, reverse=True)
    assert 0 < sum(firsts) < len(firsts)
    worst = rows[0]
    table = words_of(write()).split("The worst reports")[-1]
    assert table.index(worst["id"]) < table.index(rows[-1]["id"])
    for part in (worst["text"], worst["reference"], worst["guarded_text"], *worst["reasons"]):
        assert " ".join(part.split()) in table
    # A failure that the guard let through is worse than any that it caught.
    predictions = measured()[1].copy()
    predictions.loc[predictions["id"] == rows[-1]["id"], "adapter_guarded_check"] = "missing Edema"
    assert failed_and_passed(predictions, TASKS["report"])[0][0]["id"] == rows[-1]["id"]


def test_some_texts_that_passed_are_shown_evenly_over_the_split(write):
    predictions = measured()[1]
    checked = (predictions["adapter_check"] == "ok") & (predictions["adapter_guarded_check"] == "ok")
    passed = predictions[checked & predictions["adapter_stopped"]]
    failed = {row["id"]: row["reasons"] for row in failed_and_passed(predictions, TASKS["report"])[0]}
    endless = predictions[checked & ~predictions["adapter_stopped"]]["id"]
    assert len(endless) and all(failed[study] == ["never stopped"] for study in endless)
    shown = [row["id"] for row in failed_and_passed(predictions, TASKS["report"])[1]]
    assert 4 < len(shown) <= 8 < len(passed)
    places = [passed["id"].tolist().index(study) for study in shown]
    assert places[0] == 0 and len(set(np.diff(places))) == 1 and places[-1] > len(passed) // 2
    words = words_of(write()).split("that passed at the first attempt")[1].split("Data: origin")[0]
    assert shown[-1] in words
    assert failed_and_passed(predictions[predictions["adapter_check"] != "ok"], TASKS["report"])[1] == []


def test_impressions_are_read_next_to_the_findings_that_they_sum_up(write):
    (row, *_), _ = failed_and_passed(measured("impression")[1], TASKS["impression"])
    assert row["input"].startswith("Portable view.")
    assert "FINDINGS" not in row["reference"]
    words = words_of(write("impression"))
    assert row["input"] in words.split("The worst impressions")[-1]
    assert "impressions that the fine-tuned model wrote for 60 studies" in words
    assert "state every finding requested" not in words


def test_nothing_wrong(write):
    words = words_of(write(flawless=True))
    assert "No report failed a check." in words
    assert "Nothing was rejected." in words


def test_consistency_and_observations_show_both_sides_of_the_guard(write):
    metrics, _ = measured()
    html = write()
    words = words_of(html)
    found = metrics["systems"]["adapter"]["consistency"]["uncertain_as_negative"]
    cells = [
        found[count][mean][key]
        for count in ("14", "5")
        for mean in ("micro", "macro")
        for key in ("precision", "recall", "f1")
    ]
    shown = " ".join(f"{100 * cell:.1f}" for cell in cells)
    assert f"Fine-tuned model without guard {shown}" in words.split("Uncertain counted as negative")[1]
    sortable = re.search(r'<table class="sortable">.*?</table>', html, re.DOTALL)[0]
    heads = re.findall(r"<tr>(.*?)</tr>", sortable.split("</thead>")[0], re.DOTALL)[-1].count("<th")
    rows = re.findall(r"<tr>(.*?)</tr>", sortable.split("</thead>")[1], re.DOTALL)
    # The script sorts by the place of the pressed heading in its row.
    assert {row.count("<td") + row.count("<th") for row in rows} == {heads}
    assert len(rows) == 14


def test_figures_follow_light_and_dark_and_stand_alone_in_their_files(write, tmp_path):
    html = write(train_log=TRAIN_LOG)
    assert "color-scheme: light dark" in html
    assert "@media (prefers-color-scheme: dark)" in html
    for name in ("failures", "loss_curve"):
        alone = (tmp_path / "figures" / f"{name}.svg").read_text()
        assert alone.startswith("<svg")
        assert "var(--" not in alone
        colours = set(re.findall(r"#[0-9a-f]{6}\b", alone))
        drawn = re.search(rf'aria-label="[^"]*">(<svg.*?{name}-.*?</svg>)', html, re.DOTALL)[1]
        assert not colours & set(re.findall(r"#[0-9a-f]{6}\b", drawn)) - {"#ffffff", "#000000"}
    assert "Contradicts a finding" in (tmp_path / "figures" / "failures.svg").read_text()


def test_many_long_texts_keep_the_page_small(write):
    def replace(predictions):
        many = pd.concat([predictions] * 10, ignore_index=True)
        many["adapter_check"] = "; ".join(["contradicts Edema"] * 12)
        for column in [name for name in many if name.endswith("_text") or name.startswith("reference_")]:
            many[column] = '"' * 5000
        return many

    for task in ("report", "impression"):
        html = write(task, replace=replace)
        assert len(html.encode()) < 2_000_000
        assert "The worst 80 of 600" in Page(html).words


def test_figures_that_cannot_be_computed_are_dashes(write):
    def change(metrics):
        metrics["systems"]["base"].update(label_recall=None, label_precision=None, label_f1=None)
        for mean in ("micro", "macro"):
            metrics["systems"]["base"]["consistency"]["uncertain_as_positive"]["5"][mean]["precision"] = None

    assert "– – –" in words_of(write(change=change))


def test_same_input_same_page(write):
    assert write() == write()


def test_tables_have_headers_and_pictures_have_words(write):
    page = Page(write())
    for tag, attributes in page.elements:
        if tag == "th":
            assert attributes.get("scope") in ("row", "col", "colgroup")
        if attributes.get("role") == "img":
            assert attributes["aria-label"]


def test_missing_checks_of_rows_are_not_failures(write):
    predictions = measured()[1].copy()
    predictions["adapter_check"] = pd.array([pd.NA] * len(predictions), dtype="string")
    predictions["adapter_guarded_check"] = "ok"
    predictions["adapter_stopped"] = pd.array([pd.NA] * len(predictions), dtype="boolean")
    assert failed_and_passed(predictions, TASKS["report"])[0] == []
    assert "No report failed a check." in words_of(write(replace=lambda table: predictions))
