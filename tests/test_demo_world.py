"""Facts and their sentences in both languages."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest

from estbench.demo import facts, lexicon, world
from estbench.demo.world import Fact, Thing

NAMES = {name.nom: name for name in lexicon.names()}
NOUNS = {noun.nom: noun for noun in lexicon.nouns()}
VERBS = {verb.past: verb for verb in lexicon.verbs() if verb.frame not in ("lie", "become")}
ADJECTIVES = {adjective.nom: adjective for adjective in lexicon.adjectives()}
PLACES = {place.nom: place for kind in ("area", "container") for place in lexicon.places(kind)}
TIMES = {time.et: time for tense in ("past", "future", "habit", "now") for time in lexicon.times(tense)}
MARI, JAAN = NAMES["Mari"], NAMES["Jaan"]
RED = ADJECTIVES["punane"]


def thing(nom: str, **parts: object) -> Thing:
    return Thing(NOUNS[nom], **parts)  # type: ignore[arg-type]


def said(past: str, *objects: Thing, tense: str = "past", **parts: object) -> Fact:
    return Fact((MARI,), VERBS[past], tense, objects=objects, **parts)  # type: ignore[arg-type]


SENTENCES = [
    (said("ostis", thing("raamat"), total=True), "Mari ostis raamatu.", "Mari bought a book."),
    (said("ostis", thing("raamat"), total=True, negative=True), "Mari ei ostnud raamatut.", "Mari did not buy a book."),
    (said("ostis", thing("leib"), total=True), "Mari ostis leiba.", "Mari bought bread."),
    (said("ostis", thing("õun", count=3), total=True), "Mari ostis kolm õuna.", "Mari bought three apples."),
    (
        said("ostis", thing("õun", plural=True), total=True, place=PLACES["turg"], time=TIMES["eile"], front="time"),
        "Eile ostis Mari turul õunad.",
        "Yesterday Mari bought the apples at the market.",
    ),
    (
        said("leidis", thing("müts", adjective=RED), total=True, tense="future", time=TIMES["homme"]),
        "Mari leiab homme punase mütsi.",
        "Mari will find a red hat tomorrow.",
    ),
    (said("otsis", thing("võti", owner=JAAN)), "Mari otsis Jaani võtit.", "Mari looked for Jaan's key."),
    (said("luges", thing("raamat")), "Mari luges raamatut.", "Mari was reading a book."),
    (
        said("luges", thing("raamat"), total=True),
        "Mari luges raamatu läbi.",
        "Mari read the book through.",
    ),
    (
        said("luges", thing("raamat"), tense="now", time=TIMES["praegu"]),
        "Mari loeb praegu raamatut.",
        "Mari is reading a book now.",
    ),
    (
        said("luges", thing("ajaleht"), tense="habit", time=TIMES["iga päev"], negative=True),
        "Mari ei loe iga päev ajalehte.",
        "Mari does not read a newspaper every day.",
    ),
    (
        said("andis", thing("pall", adjective=RED), total=True, person=JAAN),
        "Mari andis Jaanile punase palli.",
        "Mari gave a red ball to Jaan.",
    ),
    (said("sai", thing("kiri"), total=True, person=JAAN), "Mari sai Jaanilt kirja.", "Mari got a letter from Jaan."),
    (
        said("tõi", thing("leib"), total=True, way=PLACES["pood"]),
        "Mari tõi poest leiba.",
        "Mari brought bread from the shop.",
    ),
    (
        said("viis", thing("tool"), total=True, way=PLACES["kool"]),
        "Mari viis tooli kooli.",
        "Mari took a chair to the school.",
    ),
    (
        said("pani", thing("võti"), total=True, way=PLACES["kott"]),
        "Mari pani võtme kotti.",
        "Mari put a key into the bag.",
    ),
    (
        said("võttis", thing("õun"), total=True, way=PLACES["kott"]),
        "Mari võttis kotist õuna.",
        "Mari took an apple from the bag.",
    ),
    (
        said("rääkis", thing("hobune"), person=JAAN),
        "Mari rääkis Jaanile hobusest.",
        "Mari talked to Jaan about a horse.",
    ),
    (said("kõndis", way=PLACES["jaam"]), "Mari kõndis jaamani.", "Mari walked as far as the station."),
    (
        said("läks", way=PLACES["pood"], without=NOUNS["müts"]),
        "Mari läks ilma mütsita poodi.",
        "Mari went to the shop without a hat.",
    ),
    (
        said("läks", way=PLACES["tuba"], negative=True, tense="future", time=TIMES["homme"]),
        "Mari ei lähe homme tuppa.",
        "Mari will not go to the room tomorrow.",
    ),
    (
        said("töötas", thing("arst"), place=PLACES["haigla"]),
        "Mari töötas haiglas arstina.",
        "Mari worked as a doctor at the hospital.",
    ),
    (said("oli", thing("pall", adjective=RED), total=True), "Maril oli punane pall.", "Mari had a red ball."),
    (
        said("oli", thing("pall", adjective=RED), total=True, tense="habit", negative=True),
        "Maril ei ole punast palli.",
        "Mari does not have a red ball.",
    ),
    (
        said("silitas", thing("koer", plural=True, adjective=ADJECTIVES["must"]), partner=JAAN),
        "Mari silitas koos Jaaniga musti koeri.",
        "Mari stroked black dogs with Jaan.",
    ),
    (
        Fact((MARI, JAAN), VERBS["laulis"], "past", place=PLACES["aed"], front="place"),
        "Aias laulsid Mari ja Jaan.",
        "In the garden Mari and Jaan sang.",
    ),
    (
        Fact((thing("laps", plural=True),), VERBS["sõi"], "habit", objects=(thing("supp"),), time=TIMES["sageli"]),
        "Lapsed söövad sageli suppi.",
        "The children eat soup often.",
    ),
]


@pytest.mark.parametrize(("fact", "et", "en"), SENTENCES, ids=lambda value: value if isinstance(value, str) else "")
def test_both_languages_say_the_fact(fact: Fact, et: str, en: str) -> None:
    assert fact.et == et
    assert fact.en == en


def some(test: bool, count: int = 3000, seed: int = 1) -> list[Fact]:
    r = random.Random(seed)
    return [facts.fact(r, test) for _ in range(count)]


def test_negation_always_has_a_partitive_object() -> None:
    checked = 0
    for fact in some(False):
        if fact.negative and "object" in dict(fact.et_parts()):
            assert all(world.object_case(fact, one) == "partitive" for one in fact.objects)
            assert " ei " in fact.et
            checked += 1
    assert checked > 100


def test_the_verb_comes_second_behind_what_is_fronted() -> None:
    fronted = [fact for fact in some(False) if fact.front]
    assert len(fronted) > 100
    for fact in fronted:
        assert [part for part, _ in fact.et_parts()][:3] == [fact.front, "verb", "subject"]
        assert fact.en.startswith(world.en_parts(fact)[fact.front][1:].join((fact.en[0], "")))


def test_many_cases_and_every_verb_occur() -> None:
    made = some(False, 6000)
    assert {fact.verb for fact in made} == set(lexicon.verbs())
    assert len({part for fact in made for part, _ in fact.et_parts()}) == len(world.ET_ORDER)
    assert {fact.tense for fact in made} == {"past", "future", "habit", "now"}


def test_training_and_test_facts_never_share_a_combination() -> None:
    def keys(test: bool) -> set[tuple[str, ...]]:
        return {facts._key(fact) for fact in some(test)}

    assert not keys(True) & keys(False)
    assert len(keys(True)) > 1000


def test_twins_are_one_to_one_in_english() -> None:
    """No English sentence has two Estonian twins, so that a translation can be right or wrong."""
    twins: dict[str, set[str]] = {}
    for fact in some(False, 20000):
        twins.setdefault(fact.en, set()).add(fact.et)
    assert [english for english, estonian in twins.items() if len(estonian) > 1] == []


@pytest.mark.parametrize(
    ("base", "third"),
    [
        ("buy", "buys"),
        ("carry", "carries"),
        ("wash", "washes"),
        ("go", "goes"),
        ("look for", "looks for"),
        ("have", "has"),
    ],
)
def test_english_third_person(base: str, third: str) -> None:
    assert world.third_person(base) == third


def test_facts_depend_on_the_seed_alone() -> None:
    code = (
        "import random; from estbench.demo.facts import fact; r = random.Random('x');"
        "print([fact(r, True).et for _ in range(50)])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONUTF8": "1"},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
