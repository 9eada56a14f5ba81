"""What an adapter recites, and what only looks like it."""

import random
import re

from hypothesis import given
from hypothesis import strategies as st

from radrecipes.publishing.memorisation import COMMON_FROM, SHORTEST_RUN, verbatim_overlap

SECRET = "the small nodule that nine of her brothers carved beside a blue harbour wall in august"
WORDS = st.lists(st.sampled_from(["lung", "heart", "no", "clear", "left", "edema"]), max_size=25).map(" ".join)


def naive_longest(output, training_texts, prompt, base_outputs):
    """The same by comparing every place with every place; common phrases not counted."""
    tokens, texts = (lambda text: re.findall(r"\w+|[^\w\s]", text.lower())), []
    known = [tokens(prompt), *map(tokens, base_outputs)]

    def stands_in(window, text):
        return any(text[place : place + len(window)] == window for place in range(len(text)))

    output, texts, best = tokens(output), list(map(tokens, training_texts)), 0
    for text in texts:
        for start in range(len(output)):
            for place in range(len(text)):
                length = 0
                while output[start + length : start + length + 1] == text[place + length : place + length + 1] != []:
                    length += 1
                    window = output[start + max(0, length - SHORTEST_RUN) : start + length]
                    owners = sum(stands_in(window, other) for other in texts)
                    novel = not any(stands_in(window, other) for other in known) and owners < COMMON_FROM
                    if length >= SHORTEST_RUN and not novel:
                        break
                    if length >= SHORTEST_RUN:
                        best = max(best, length)
    return best


@given(st.lists(WORDS, max_size=6), WORDS, WORDS, st.lists(WORDS, max_size=2))
def test_longest_runs_are_those_of_a_naive_search(training_texts, output, prompt, base_outputs):
    # Half of a training text in the output, so that runs occur.
    if training_texts:
        output = f"{output} {training_texts[0]}"
    found = verbatim_overlap([output], training_texts, [prompt], base_outputs)
    assert found.longest == (naive_longest(output, training_texts, prompt, base_outputs),)


def test_recited_text_is_found_with_its_length_and_share():
    texts = ["No pneumothorax.", f"Clear. {SECRET}.", "Stable."]
    found = verbatim_overlap(
        [f"FINDINGS: {SECRET.upper()} today.", "No pneumothorax."], texts, ["Edema: 1"] * 2, ["x", "y"]
    )
    assert found.longest == (len(SECRET.split()), 0)
    assert found.repeated == len(SECRET.split()) and found.tokens == len(SECRET.split()) + 4 + 3
    assert found.figures()["longest_run"] == 16 and found.figures()["rows_with_a_run"] == 1


def test_what_is_in_the_prompt_or_in_any_answer_of_the_base_is_not_memorised():
    assert verbatim_overlap([SECRET], [SECRET], [f"Summarise: {SECRET}"], [""]).longest == (0,)
    assert verbatim_overlap([SECRET, ""], [SECRET], ["", ""], ["", SECRET]).longest == (0, 0)
    # Another row's prompt does not excuse it.
    assert verbatim_overlap([SECRET, ""], [SECRET], ["", SECRET], ["", ""]).longest == (16, 0)


def test_phrases_of_many_patients_are_of_no_patient_but_many_reports_of_one_patient_are():
    texts = [SECRET] * COMMON_FROM
    assert verbatim_overlap([SECRET], texts, [""], [""]).longest == (0,)
    assert verbatim_overlap([SECRET], texts, [""], [""], groups=["p"] * COMMON_FROM).longest == (16,)
    assert verbatim_overlap([SECRET], texts[1:], [""], [""]).longest == (16,)


def test_a_run_is_of_one_text_and_never_stitched_from_two():
    first, second = SECRET.split()[:10], [*SECRET.split()[10:], "and", "some", "more", "words"]
    longest = verbatim_overlap([" ".join(first + second)], [" ".join(first), " ".join(second)], [""], [""]).longest
    assert longest == (10,)


def test_nothing_to_compare_is_nothing_found():
    assert verbatim_overlap([], [], [], []).figures()["repeated_share"] == 0.0
    assert verbatim_overlap(["too short"], ["too short"], [""], [""]).longest == (0,)


def test_many_texts_cost_linear_time():
    draw = random.Random(0)
    texts = [" ".join(draw.choices(SECRET.split(), k=80)) for _ in range(4000)]
    found = verbatim_overlap(texts[:64], texts, [""] * 64, [""] * 64)
    assert found.longest == (80,) * 64
