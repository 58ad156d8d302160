"""The URL holds the board's state: what is read is written again, odd values are refused, strange keys are ignored."""

from __future__ import annotations

from dataclasses import fields
from typing import Any
from unicodedata import normalize
from urllib.parse import parse_qsl

import pytest
from estbench_leaderboard import query
from estbench_leaderboard.catalogue import CODES, languages
from estbench_leaderboard.errors import BadRequest
from estbench_leaderboard.query import Query
from estbench_leaderboard.skills import PRESETS
from hypothesis import given, settings
from hypothesis import strategies as st

calm = settings(deadline=None)  # machines are busy
NAMES = st.from_regex(r"[A-Za-z0-9_./+-]{1,80}", fullmatch=True)
WEIGHTS = st.integers(0, 999_999).map(lambda n: n / 1000)
TEXTS = st.text(st.characters(exclude_categories=("C", "Zl", "Zp"))).filter(str.isprintable)
WORDS = TEXTS.map(lambda text: normalize("NFC", normalize("NFC", text)[: query.MOST].strip()))
TASKS = st.dictionaries(NAMES, WEIGHTS, max_size=8).filter(lambda tasks: not tasks or any(tasks.values()))
QUERIES = st.builds(
    Query,
    board=st.sampled_from(("", *query.BOARDS)),
    view=st.sampled_from(("", *query.VIEWS)),
    preset=st.sampled_from(tuple(PRESETS)),
    tasks=TASKS.map(lambda tasks: tuple(tasks.items())),
    q=WORDS,
    size=st.sampled_from(("", *query.SIZES)),
    open=st.sampled_from(("", *query.OPEN)),
    commercial=st.sampled_from(("", *query.OPEN)),
    licence=WORDS,
    since=st.dates().map(lambda day: day.isoformat()) | st.just(""),
    all=st.sampled_from(("", "yes")),
    sort=st.sampled_from(query.SORTS) | NAMES,
    order=st.sampled_from(("", "reverse")),
    rows=st.sampled_from(query.ROWS),
    page=st.integers(1, 999_999),
)


def read(url: str) -> Query:
    """As a browser would open it."""
    return Query.read(dict(parse_qsl(url.partition("?")[2], keep_blank_values=True)))


@given(QUERIES)
@calm
def test_a_link_shows_what_its_sender_saw(state: Query) -> None:
    assert read(state.url("/")) == state


@given(QUERIES)
@calm
def test_a_state_has_one_link(state: Query) -> None:
    assert read(state.url()).url() == state.url()


def test_the_start_page_has_no_parameters() -> None:
    assert Query().parameters() == [] and Query().url("/") == "/"
    assert Query().url() == "?"  # relative: takes away what the page's own address has


@given(QUERIES, st.dictionaries(st.text(min_size=1), st.text()))
@calm
def test_strange_keys_are_ignored(state: Query, strange: dict[str, str]) -> None:
    known = {field.name for field in fields(Query)}
    values = dict(state.parameters())
    assert Query.read({key: value for key, value in strange.items() if key not in known} | values) == state


@given(st.sampled_from([field.name for field in fields(Query)]), st.text())
@calm
def test_whatever_a_value_is_it_is_read_or_refused(key: str, value: str) -> None:
    named = None
    try:
        found = Query.read({key: value})
    except BadRequest as error:
        named = error.values["parameter"]
    assert named == key if named else read(found.url("/")) == found


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("board", "both"),
        ("view", "skill"),
        ("preset", "best"),
        ("tasks", "a:b"),
        ("tasks", "a:-1"),
        ("tasks", "a:1e9"),
        ("tasks", "a:0"),
        ("tasks", "a:٣"),
        ("tasks", "a b"),
        ("tasks", ","),
        ("tasks", ",".join(f"t{place}" for place in range(query.MOST_TASKS + 1))),
        ("q", "x" * (query.MOST + 1)),
        ("q", "kood\u202e"),
        ("q", "a\x00b"),
        ("licence", "a\nb"),
        ("size", "tiny"),
        ("open", "true"),
        ("commercial", "1"),
        ("since", "2026"),
        ("since", "2026-13-01"),
        ("since", "٢٠٢٦-01-01"),
        ("all", "no"),
        ("sort", "rank;drop table"),
        ("order", "desc"),
        ("rows", "51"),
        ("rows", "1e2"),
        ("page", "0"),
        ("page", "-1"),
        ("page", "9999999"),
        ("page", "٣"),
    ],
)
def test_a_wrong_value_is_named(key: str, value: str) -> None:
    with pytest.raises(BadRequest) as caught:
        Query.read({key: value})
    assert caught.value.values["parameter"] == key and caught.value.status == 400


def test_an_empty_field_of_a_form_asks_for_nothing() -> None:
    assert Query.read({field.name: " " for field in fields(Query)}) == Query()


def test_weights_default_to_one_and_the_last_word_counts() -> None:
    assert Query.read({"tasks": "a, b:2,a:0.5"}).tasks == (("a", 0.5), ("b", 2.0))


def test_a_search_is_the_same_in_either_unicode_form() -> None:
    assert Query.read({"q": "o\u0303un"}) == Query.read({"q": "õun"})


def test_another_view_begins_on_its_first_page() -> None:
    deep = Query(page=3, q="llama")
    assert deep.but(sort="name") == Query(page=1, q="llama", sort="name")
    assert deep.but(page=4).page == 4


@pytest.mark.parametrize("code", CODES)
@given(state=QUERIES)
@calm
def test_every_state_has_a_sentence(code: str, state: Query) -> None:
    text = languages()[code].t
    told: list[Any] = [getattr(state, key) for key in ("licence", "since", "q") if getattr(state, key)]
    sentence = state.sentence(text)
    assert all(word in sentence for word in told)
