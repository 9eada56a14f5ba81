"""Pages in Chromium: that of scripts/review.py by keys, as a person uses it, and how an evaluation begins."""

import csv
import shutil

import pytest
from playwright.sync_api import sync_playwright
from review_server import ReviewServer, write_answers

from e2e.conftest import RUN

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
]
FOCUSED = "document.activeElement.id"


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as running:
        started = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def server(tmp_path):
    write_answers(tmp_path / "answers.csv", rows=6, automatic=2, A1='<img src=x onerror=alert(1)> "knee"\nsecond line')
    with ReviewServer("answers.csv", "--reviewer", "reader", "--sample", "1", cwd=tmp_path) as running:
        running.folder = tmp_path
        yield running


@pytest.fixture
def context(browser, server):
    """A browser of one person; fails after the test if a page logged an error or asked for anything elsewhere."""
    wrong, of_person = [], browser.new_context()
    of_person.on(
        "console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None
    )
    of_person.on("weberror", lambda error: wrong.append(str(error.error)))
    of_person.on(
        "request", lambda sent: None if sent.url.startswith((server.url, "data:")) else wrong.append(sent.url)
    )
    of_person.wrong = wrong
    yield of_person
    of_person.close()
    assert wrong == []


def open_page(context, address):
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("#work:not([hidden])")
    return page


def press(page, keys, said):
    """Press keys one after the other, and wait for the status."""
    for key in keys:
        page.keyboard.press(key)
    page.wait_for_selector(f"#status:has-text('{said}')")


def stored(server):
    with (server.folder / "corrections.csv").open(encoding="utf-8", newline="") as stream:
        return [(row["id"], row["label"], row["comment"]) for row in csv.DictReader(stream)]


def test_all_rows_are_reviewed_by_keys_alone(server, context):
    page = open_page(context, server.address)
    assert "token" not in page.url and page.inner_text("#count") == "0 of 5 reviewed"
    assert page.evaluate(FOCUSED) == "heading" and page.inner_text("#heading") == "A0"
    labels = page.locator("#candidates button").all_inner_texts()
    press(page, "2", "Saved")
    assert stored(server) == [("A0", labels[1].split("\n")[-1], "")]
    assert page.inner_text("#text") == '<img src=x onerror=alert(1)> "knee"\nsecond line'

    # A comment, and a label that is not among the three, found by parts of its words
    page.keyboard.press("c")
    page.keyboard.type("1 of the s series, u")
    page.keyboard.press("Enter")
    assert page.evaluate(FOCUSED) == "heading"
    page.keyboard.press("/")
    page.keyboard.type("ki ct")
    assert page.locator("#options [aria-selected=true]").inner_text().strip() == "CT Dedicated Kidney"
    assert page.get_attribute("#search", "aria-activedescendant") == "option-0"
    press(page, ["Enter"], "Saved: CT Dedicated Kidney for A1")
    assert stored(server)[1] == ("A1", "CT Dedicated Kidney", "1 of the s series, u")

    # Undo, skip, arrows; a letter starts the search; Escape leaves it
    press(page, "u", "Undone: A1")
    assert page.inner_text("#heading") == "A1" and page.inner_text("#count") == "1 of 5 reviewed"
    page.keyboard.press("m")
    assert page.input_value("#search") == "m" and page.locator("#options li").count() == 2
    page.keyboard.press("ArrowDown")
    assert page.locator("#options [aria-selected=true]").inner_text().strip() == "MR Knee"
    page.keyboard.press("Escape")
    assert page.evaluate(FOCUSED) == "heading" and page.is_hidden("#options")
    page.keyboard.press("s")
    page.wait_for_selector("#heading:has-text('A2')")
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector("#heading:has-text('A1')")
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector("#earlier:not([hidden])")
    page.keyboard.press("1")  # a reviewed row has no labels to choose
    assert page.is_hidden("#choice") and "by reader" in page.inner_text("#earlier-by")

    # A reload shows the same row; then the rest
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#heading:has-text('A1')")
    page.reload()
    page.wait_for_selector("#heading:has-text('A1')")
    while page.is_visible("#work"):
        press(page, "1", f"for {page.inner_text('#heading')}.")
    assert page.inner_text("#none-heading") == "All 5 rows are reviewed"
    assert "Right among the sampled automatic rows" in page.inner_text("#summary")
    assert len(stored(server)) == 5


def test_two_windows_never_show_the_same_row_and_a_second_decision_is_refused(server, context):
    one, two = open_page(context, server.address), open_page(context, server.url)
    assert (one.inner_text("#heading"), two.inner_text("#heading")) == ("A0", "A1")
    press(one, "1", "Saved")
    assert one.inner_text("#heading") == "A2"
    server.post("decide", "elsewhere", id="A2", label="MR Knee")
    one.keyboard.press("1")
    one.wait_for_selector("#alert:has-text('Not saved: A2 was reviewed before')")
    assert one.inner_text("#earlier-label") == "MR Knee"
    assert context.wrong.pop().count("409"), "what Chromium says about a refused request"

    # A window that is left gives its row back
    two.goto("about:blank")
    journal = server.folder / "corrections.csv.journal"
    while '"release"' not in journal.read_text("utf-8"):
        two.wait_for_timeout(20)
    one.keyboard.press("ArrowLeft")
    one.wait_for_selector("#heading:has-text('A1')")


def test_nothing_counts_as_saved_while_the_command_does_not_answer(server, context):
    page = open_page(context, server.address)
    server.process.kill()
    server.process.wait()
    page.keyboard.press("1")
    page.wait_for_selector("#alert:has-text('Nothing was saved')")
    assert page.inner_text("#heading") == "A0" and page.inner_text("#status") == ""
    assert not (server.folder / "corrections.csv").exists()
    context.wrong[:] = [text for text in context.wrong if "ERR_CONNECTION_REFUSED" not in text]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone_and_has_enough_contrast(server, browser, scheme):
    phone = browser.new_context(viewport={"width": 375, "height": 700}, has_touch=True, color_scheme=scheme)
    page = open_page(phone, server.address)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    small = page.evaluate("""[...document.querySelectorAll("button, input")].filter((e) => e.offsetParent
        && e.getBoundingClientRect().height < 44).map((e) => e.textContent)""")
    assert small == [], "too small to touch"
    unnamed = page.evaluate("""[...document.querySelectorAll("button, input, section, nav, progress, ul")].filter((e) =>
        !(e.textContent.trim() || e.labels?.length || e.getAttribute("aria-label") || e.getAttribute("aria-labelledby"))).length""")
    assert unnamed == 0
    colours = "(e) => [getComputedStyle(e).color, getComputedStyle(e.closest('.order, #alert, button, body')).backgroundColor]"
    for name in ("#text", "#place", "#heading", "#candidates button", "nav button", ".kind"):
        assert contrast(*page.eval_on_selector(name, colours)) >= 4.5, name
    phone.close()


def contrast(*colours):
    """The contrast of two colours as WCAG 2 defines it."""
    luminance = []
    for colour in colours:
        parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        luminance.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(luminance) + 0.05) / (min(luminance) + 0.05)


def test_an_evaluation_begins_with_a_figure_beside_its_sentence(browser, finished):
    page = browser.new_page(viewport={"width": 1100, "height": 800})
    page.goto((finished.workspace / RUN / "evaluation" / "report.html").as_uri())
    figure, whole = (page.locator(name).bounding_box() for name in (".headline .figure", ".headline"))
    assert page.locator(".recommended").count() == 1 and figure["width"] < whole["width"] / 3
    assert page.locator(".headline p").first.bounding_box()["width"] > whole["width"] * 0.6
    page.close()
