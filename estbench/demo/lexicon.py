"""The words of the demo world: hand-made tables in `lexicon/*.csv`, and the forms that follow from them by rule.

A noun or adjective stores nominative, genitive and partitive, singular and plural. Every other case is the genitive
of the same number plus the case's ending (raamatu + s, raamatute + s), which is how Estonian works; the plural
nominative is the singular genitive plus d. Places store their local forms, since short illatives (poodi, tuppa) and
the choice between inner and outer cases (poes, but turul) can't be derived. A mass noun (leib, piim) has empty
plural fields.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

TABLES = Path(__file__).parent / "lexicon"

ENDINGS = {
    "illative": "sse",
    "inessive": "s",
    "elative": "st",
    "allative": "le",
    "adessive": "l",
    "ablative": "lt",
    "translative": "ks",
    "terminative": "ni",
    "essive": "na",
    "abessive": "ta",
    "comitative": "ga",
}
CASE_NAMES = {
    "nominative": "nimetav",
    "genitive": "omastav",
    "partitive": "osastav",
    "illative": "sisseütlev",
    "inessive": "seesütlev",
    "elative": "seestütlev",
    "allative": "alaleütlev",
    "adessive": "alalütlev",
    "ablative": "alaltütlev",
    "translative": "saav",
    "terminative": "rajav",
    "essive": "olev",
    "abessive": "ilmaütlev",
    "comitative": "kaasaütlev",
}
UNDECLINED_BEFORE = (
    "terminative",
    "essive",
    "abessive",
    "comitative",
)  # an adjective stays in the genitive: punase palliga
NUMERALS = {2: ("kaks", "two"), 3: ("kolm", "three"), 4: ("neli", "four"), 5: ("viis", "five"), 6: ("kuus", "six")}


@dataclass(frozen=True, slots=True)
class Noun:
    """A noun; `pl_gen` and `pl_part` are empty and `en_pl` too where it has no plural."""

    nom: str
    gen: str
    part: str
    pl_gen: str
    pl_part: str
    en: str
    en_pl: str
    kinds: tuple[str, ...]

    @property
    def countable(self) -> bool:
        return bool(self.pl_gen)

    def form(self, case: str, plural: bool = False) -> str:
        """The form in a case (a key of CASE_NAMES)."""
        return _form(self, case, plural)

    def accepted(self, case: str, plural: bool = False) -> list[str]:
        """The form and its correct parallels: mune and munasid are both the partitive plural of muna."""
        forms = [self.form(case, plural)]
        if case == "partitive" and plural and self.pl_gen == f"{self.part}de" and not self.pl_part.endswith("sid"):
            forms.append(f"{self.part}sid")
        return forms


@dataclass(frozen=True, slots=True)
class Adjective:
    """An adjective; `kinds` are the kinds of noun that it describes."""

    nom: str
    gen: str
    part: str
    pl_gen: str
    pl_part: str
    en: str
    kinds: tuple[str, ...]

    def form(self, case: str, plural: bool = False) -> str:
        """The form that agrees with a noun in this case."""
        return _form(self, "genitive" if case in UNDECLINED_BEFORE else case, plural)


@dataclass(frozen=True, slots=True)
class Name:
    """A first name: only the singular."""

    nom: str
    gen: str
    part: str

    def form(self, case: str) -> str:
        if case in ENDINGS:
            return self.gen + ENDINGS[case]
        return {"nominative": self.nom, "genitive": self.gen, "partitive": self.part}[case]


@dataclass(frozen=True, slots=True)
class Place:
    """Where things happen (kind "area") or lie ("container", "surface"): at, to and from it, in both languages."""

    nom: str
    at: str
    to: str
    from_: str
    en_at: str
    en_to: str
    en_from: str
    kind: str

    @property
    def until(self) -> str:
        """The terminative: jaamani."""
        return f"{self.at[:-1]}ni"

    @property
    def en_until(self) -> str:
        return f"as far as {self.en_to.removeprefix('to ')}"


@dataclass(frozen=True, slots=True)
class Time:
    """An adverbial of time and the tense that it goes with."""

    et: str
    en: str
    tense: str


@dataclass(frozen=True, slots=True)
class Verb:
    """A verb in the third person.

    frame: which parts its sentence has (see world.FRAMES). aspect: whether its object is total (ostis raamatu),
    partial (otsis raamatut) or either. kinds: what the object may be. particle: what completes a total object
    (luges läbi). No `en_ing`: a state.
    """

    present: str
    past: str
    present_pl: str
    past_pl: str
    negative: str
    participle: str
    en: str
    en_past: str
    en_ing: str
    frame: str
    aspect: str
    particle: str
    en_particle: str
    kinds: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cause:
    """A cause and its effect, said of somebody; the effect is split behind its verb, where ta comes (sõi ta leiba)."""

    cause: str
    cause_negative: str
    effect_verb: str
    effect_verb_negative: str
    effect_rest: str
    effect_rest_negative: str


def _form(word: Noun | Adjective, case: str, plural: bool) -> str:
    if plural and not word.pl_gen:
        raise ValueError(f"{word.nom} has no plural")
    if case in ENDINGS:
        return (word.pl_gen if plural else word.gen) + ENDINGS[case]
    if plural:
        return {"nominative": f"{word.gen}d", "genitive": word.pl_gen, "partitive": word.pl_part}[case]
    return {"nominative": word.nom, "genitive": word.gen, "partitive": word.part}[case]


def table(name: str) -> list[dict[str, Any]]:
    """The rows of `lexicon/NAME.csv`: column (a field's name) -> text, for `kinds` a tuple of words."""
    with open(TABLES / f"{name}.csv", encoding="utf-8", newline="") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    for row in rows:
        if "kinds" in row:
            row["kinds"] = tuple(row["kinds"].split())
    return rows


@cache
def nouns(kind: str = "") -> tuple[Noun, ...]:
    """All nouns, or those of a kind ("food", "animal", ...)."""
    if kind:
        return tuple(noun for noun in nouns() if kind in noun.kinds)
    return tuple(Noun(**row) for row in table("nouns"))


@cache
def adjectives() -> tuple[Adjective, ...]:
    return tuple(Adjective(**row) for row in table("adjectives"))


@cache
def adjectives_for(noun: Noun) -> tuple[Adjective, ...]:
    """The adjectives that describe this noun."""
    if "child" in noun.kinds:
        return ()  # vana poiss is a bachelor
    sizes = () if noun.countable else ("suur", "väike")
    return tuple(word for word in adjectives() if set(word.kinds) & set(noun.kinds) and word.nom not in sizes)


@cache
def names() -> tuple[Name, ...]:
    return tuple(Name(**row) for row in table("names"))


@cache
def places(kind: str) -> tuple[Place, ...]:
    """The places of a kind: "area", "container" or "surface"."""
    return tuple(place for place in (Place(**row) for row in table("places")) if place.kind == kind)


@cache
def times(tense: str) -> tuple[Time, ...]:
    """The adverbials of a tense: "past", "future", "habit" or "now"."""
    return tuple(time for time in (Time(**row) for row in table("times")) if time.tense == tense)


@cache
def verbs() -> tuple[Verb, ...]:
    return tuple(Verb(**row) for row in table("verbs"))


@cache
def causes() -> tuple[Cause, ...]:
    return tuple(Cause(**row) for row in table("causes"))


@cache
def word_forms() -> frozenset[str]:
    """Every form of every word here, as written inside a sentence: what a spelling error must not turn into."""
    forms = {name.form(case) for name in names() for case in CASE_NAMES}
    words: tuple[Noun | Adjective, ...] = (*nouns(), *adjectives())
    for word in words:
        forms |= {
            word.form(case, plural) for case in CASE_NAMES for plural in ((False, True) if word.pl_gen else (False,))
        }
    for place in (place for kind in ("area", "container", "surface") for place in places(kind)):
        forms |= {place.nom, place.at, place.to, place.from_, place.until}
    for verb in verbs():
        forms |= {verb.present, verb.past, verb.present_pl, verb.past_pl, verb.negative, verb.participle, verb.particle}
    forms |= {word for tense in ("past", "future", "habit", "now") for time in times(tense) for word in time.et.split()}
    forms |= {numeral for numeral, _ in NUMERALS.values()} | {"ja", "ei", "koos", "ilma"}
    return frozenset(forms - {""})
