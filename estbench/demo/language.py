"""Minimal pairs of the demo world, for watching a language while a model is trained: a right sentence and a broken one.

    rows("mini_pairs_et")["test"][0]        # {"right": "Mari ostis raamatu.", "wrong": "Mari ostsid raamatu."}

A pair of Estonian differs by a wrong case, a wrong form of the verb, or a verb that is not second; a pair of English
by a wrong form (was for were, an for a, buy for bought) or by two neighbours that changed places, one of them a word
that must stand where it stands (an article, a preposition, an auxiliary). The facts are the tests' own
(`facts.held_out`). 600 documents a language tell models apart that differ by about 4 points.
"""

from __future__ import annotations

import random
from functools import cache

from estbench.demo import spoil
from estbench.demo.facts import fact
from estbench.demo.world import Fact, third_person

Doc = dict[str, str]
TASKS = ("mini_pairs_et", "mini_pairs_en")
SIZE = 600
ARTICLES, PREPOSITIONS = ("a", "an", "the"), ("in", "at", "to", "from", "with", "about", "of", "on", "into", "off")
AUXILIARIES = ("is", "are", "was", "were", "will", "did", "does", "do", "not")
BOUND = frozenset([*ARTICLES, *PREPOSITIONS, *AUXILIARIES, "and"])  # words that must stand where they stand
OTHER = {"is": "are", "are": "is", "was": "were", "were": "was", "does": "do", "do": "does", "a": "an", "an": "a"}
TRIES = 20

Change = tuple[int, int, list[str]]  # from, to, the wrong words


@cache
def _rows(task: str, draw: str) -> dict[str, str]:
    r = random.Random(f"{task} {draw}")
    breaks = broken_et if task == "mini_pairs_et" else broken_en
    known = {} if draw == "test" else _rows(task, "test")
    found: dict[str, str] = {}
    while len(found) < SIZE:
        said = fact(r, test=True)
        right = said.et if task == "mini_pairs_et" else said.en
        wrong = breaks(r, said)
        if wrong and right not in found and right not in known:
            found[right] = wrong
    return found


def rows(task: str, *, fresh: bool = False) -> dict[str, list[Doc]]:
    """The documents of a task; always the same ones. fresh: others, as in `tasks.rows`."""
    return {
        "test": [{"right": right, "wrong": wrong} for right, wrong in _rows(task, "fresh" if fresh else "test").items()]
    }


def broken_et(r: random.Random, said: Fact) -> str | None:
    """The Estonian sentence with one error of a learner's; None if none was found that fits."""
    right = spoil.tokens(said.et)
    for _ in range(TRIES):
        change = r.choice((spoil.wrong_case, spoil.wrong_verb, spoil.wrong_order))(r, said, right)
        if change:
            start, end, _, wrong = change
            return spoil.text([*right[:start], *wrong, *right[end:]])
    return None


def broken_en(r: random.Random, said: Fact) -> str | None:
    """The English sentence with one error; None if none was found that fits."""
    right = spoil.tokens(said.en)
    places = {"form": _forms(said, right), "order": _orders(right)}
    found = [kind for kind, changes in places.items() if changes]
    if not found:
        return None
    start, end, wrong = r.choice(places[r.choice(found)])
    return spoil.text([*right[:start], *wrong, *right[end:]])


def _forms(said: Fact, right: list[str]) -> list[Change]:
    """Words in the other form: was for were, an for a, buy for bought or buys."""
    swaps = dict(OTHER)
    base, past = (text.partition(" ")[0] for text in (said.verb.en, said.verb.en_past))
    now = third_person(said.verb.en).partition(" ")[0]
    if said.plural:
        swaps[base] = now
    else:
        swaps |= {now: base, past: base}
    if said.negative or said.tense == "future":
        swaps[base] = past  # did not bought, will bought
    return [(at, at + 1, [swaps[word]]) for at, word in enumerate(right) if at and swaps.get(word, word) != word]


def _orders(right: list[str]) -> list[Change]:
    """Two neighbours in each other's place, one of them bound to its own."""
    places = range(1, len(right) - 2)
    pairs = [(at, right[at], right[at + 1]) for at in places]
    return [(at, at + 2, [two, one]) for at, one, two in pairs if {one, two} & BOUND and one != two]
