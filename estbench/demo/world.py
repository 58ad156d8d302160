"""True sentences of the demo world: facts, and how Estonian and English say them.

A Fact is who did what, to what, where and when. `et` and `en` say it; both languages follow from the same parts, so
that each sentence has a twin. What decides the words:

- The object is total (Mari ostis raamatu, "bought a book") or partial (Mari otsis raamatut); negation, mass nouns
  and indefinite plurals are partial. Verbs that allow both tell them apart: luges raamatut "was reading a book",
  luges raamatu läbi "read the book through".
- The present tense needs its adverbial: homme "will", iga päev "buys", praegu "is reading".
- The verb comes second: what is fronted (Eile, Poes) swaps subject and verb, and is fronted in English too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from estbench.demo.lexicon import NUMERALS, Adjective, Name, Noun, Place, Time, Verb

ET_ORDER = (
    "subject",
    "verb",
    "recipient",
    "time",
    "source",
    "partner",
    "without",
    "place",
    "from",
    "object",
    "about",
    "goal",
    "role",
    "particle",
)
EN_ORDER = (
    "subject",
    "verb",
    "object",
    "particle",
    "recipient",
    "source",
    "from",
    "goal",
    "about",
    "role",
    "partner",
    "without",
    "place",
    "time",
)
FRAMES = {  # the parts that a frame has beside subject, verb and time; a question mark: sometimes
    "object": "object place? partner?",
    "from": "object from partner?",
    "to": "object goal partner?",
    "into": "object goal",
    "inside": "object goal",
    "out": "object from",
    "give": "object recipient place?",
    "get": "object source place?",
    "about": "about place?",
    "tell": "about recipient? place?",
    "go": "goal partner? without?",
    "come": "from partner? without?",
    "until": "goal partner?",
    "still": "place partner?",
    "sleep": "place",
    "work": "role place",
    "become": "role",
    "have": "object",
    "lie": "place",
}
PLACE_KINDS = {
    "into": ("container", "surface"),
    "inside": ("container",),
    "out": ("container", "surface"),
    "lie": ("container", "surface"),
}
STATES = ("have", "lie", "work")  # frames whose present tense needs no adverbial


@dataclass(frozen=True, slots=True)
class Thing:
    """A noun phrase: kaks punast õuna, Jaani vana koer, raamatud."""

    noun: Noun
    plural: bool = False
    adjective: Adjective | None = None
    owner: Name | None = None
    count: int = 0  # a key of NUMERALS; the phrase is singular partitive in Estonian then

    def et(self, case: str) -> str:
        words = [self.owner.gen] if self.owner else []
        if self.count:
            words.append(NUMERALS[self.count][0])
            case = "partitive"
        if self.adjective:
            words.append(self.adjective.form(case, self.plural))
        return " ".join([*words, self.noun.form(case, self.plural)])

    def en(self, definite: bool = False) -> str:
        words = [self.adjective.en] if self.adjective else []
        words.append(self.noun.en_pl if self.plural or self.count else self.noun.en)
        if self.owner:
            return " ".join([f"{self.owner.nom}'s", *words])
        if self.count:
            return " ".join([NUMERALS[self.count][1], *words])
        if definite:
            return " ".join(["the", *words])
        if self.plural or not self.noun.countable:
            return " ".join(words)
        return " ".join(["an" if words[0][0] in "aeio" else "a", *words])


@dataclass(slots=True)
class Fact:
    """Who does what; parts that the verb's frame lacks are empty. Nothing changes it once it is filled in."""

    subject: tuple[Name | Thing, ...]
    verb: Verb
    tense: str  # past, future, habit, now
    negative: bool = False
    total: bool = False
    objects: tuple[Thing, ...] = ()
    place: Place | None = None
    way: Place | None = None  # where to or from
    person: Name | Thing | None = None  # recipient or source
    partner: Name | None = None
    without: Noun | None = None
    time: Time | None = None
    front: str = ""  # "time" or "place"

    @property
    def plural(self) -> bool:
        """Whether the verb is in the plural."""
        first = self.subject[0]
        return len(self.subject) > 1 or (isinstance(first, Thing) and first.plural)

    @property
    def et(self) -> str:
        return sentence(text for _, text in self.et_parts())

    @property
    def en(self) -> str:
        parts = en_parts(self)
        order = [name for name in EN_ORDER if name in parts and name != self.front]
        return sentence(parts[name] for name in ([self.front, *order] if self.front else order))

    def et_parts(self) -> list[tuple[str, str]]:
        """(part, its words) in the order of the Estonian sentence."""
        parts = et_parts(self)
        order = [name for name in ET_ORDER if name in parts]
        if self.front:
            rest = [name for name in order if name not in (self.front, "verb", "subject")]
            order = [self.front, "verb", "subject", *rest]
        return [(name, parts[name]) for name in order]


def sentence(phrases: Iterable[str]) -> str:
    """Words as a sentence: a capital and a full stop."""
    text = " ".join(phrases)
    return f"{text[0].upper()}{text[1:]}."


def object_case(fact: Fact, thing: Thing) -> str:
    """The case of the object: what total and partial come down to."""
    if not fact.total or fact.negative:
        return "partitive"
    if not thing.noun.countable and fact.verb.aspect == "total":
        return "partitive"  # ostis leiba: some of it
    return "nominative" if thing.plural or thing.count or fact.verb.frame == "have" else "genitive"


def et_parts(fact: Fact) -> dict[str, str]:
    """The Estonian words of each part of the sentence, in their cases."""
    frame, verb = fact.verb.frame, fact.verb
    parts = {"subject": both(("adessive" if frame == "have" else "nominative"), fact.subject), "verb": et_verb(fact)}
    if fact.objects:
        if frame in ("about", "tell"):
            parts["about"] = both("elative", fact.objects)
        elif frame in ("work", "become"):
            parts["role"] = both("essive" if frame == "work" else "translative", fact.objects)
        else:
            parts["object"] = " ja ".join(thing.et(object_case(fact, thing)) for thing in fact.objects)
    if fact.way:
        if "from" in FRAMES[frame]:
            parts["from"] = fact.way.from_
        else:
            parts["goal"] = fact.way.until if frame == "until" else fact.way.to
    if fact.person:
        part, case = ("source", "ablative") if frame == "get" else ("recipient", "allative")
        parts[part] = both(case, (fact.person,))
    if fact.place:
        parts["place"] = fact.place.at
    if fact.partner:
        parts["partner"] = f"koos {fact.partner.form('comitative')}"
    if fact.without:
        parts["without"] = f"ilma {fact.without.form('abessive')}"
    if fact.time:
        parts["time"] = fact.time.et
    if fact.total and verb.particle:
        parts["particle"] = verb.particle
    return parts


def both(case: str, things: Sequence[Name | Thing]) -> str:
    """Names and phrases in a case, joined."""
    return " ja ".join(thing.form(case) if isinstance(thing, Name) else thing.et(case) for thing in things)


def et_verb(fact: Fact) -> str:
    verb, past = fact.verb, fact.tense == "past"
    if fact.negative:
        return f"ei {verb.participle if past else verb.negative}"
    if fact.plural and fact.verb.frame != "have":
        return verb.past_pl if past else verb.present_pl
    return verb.past if past else verb.present


def en_parts(fact: Fact) -> dict[str, str]:
    """The English words of each part of the sentence."""
    frame, verb = fact.verb.frame, fact.verb
    parts = {
        "subject": " and ".join(who.nom if isinstance(who, Name) else who.en(True) for who in fact.subject),
        "verb": en_verb(fact),
    }
    if fact.objects:
        definite = fact.total and bool(verb.particle)
        said = " and ".join(
            thing.en(
                definite or (object_case(fact, thing) != "partitive" and (thing.plural or not thing.noun.countable))
            )
            for thing in fact.objects
        )
        part, preposition = {
            "about": ("about", "about "),
            "tell": ("about", "about "),
            "work": ("role", "as "),
            "become": ("object", ""),
        }.get(frame, ("object", ""))
        parts[part] = preposition + said
    if fact.way:
        if "from" in FRAMES[frame]:
            parts["from"] = fact.way.en_from
        else:
            parts["goal"] = {"until": fact.way.en_until, "inside": fact.way.en_at}.get(frame, fact.way.en_to)
    if fact.person:
        name = fact.person.nom if isinstance(fact.person, Name) else fact.person.en(True)
        parts["source" if frame == "get" else "recipient"] = f"{'from' if frame == 'get' else 'to'} {name}"
    if fact.place:
        parts["place"] = fact.place.en_at
    if fact.partner:
        parts["partner"] = f"with {fact.partner.nom}"
    if fact.without:
        parts["without"] = "without " + Thing(fact.without).en()
    if fact.time:
        parts["time"] = fact.time.en
    if fact.total and verb.particle:
        parts["particle"] = verb.en_particle
    return parts


def en_verb(fact: Fact) -> str:
    verb, base, plural = fact.verb, fact.verb.en, fact.plural
    be = ("were" if plural else "was") if fact.tense == "past" else ("are" if plural else "is")
    no = "not " if fact.negative else ""
    if base == "be":
        return f"{be} not" if fact.negative else be
    if fact.tense == "future":
        return f"will {no}{base}"
    progressive = bool(verb.en_ing) and (
        fact.tense == "now" or (fact.tense == "past" and verb.aspect == "both" and not fact.total and not fact.negative)
    )
    if progressive:
        return f"{be} {no}{verb.en_ing}"
    if fact.negative:
        return f"{'did' if fact.tense == 'past' else 'do' if plural else 'does'} not {base}"
    if fact.tense == "past":
        return verb.en_past
    return base if plural else third_person(base)


def third_person(base: str) -> str:
    """buy -> buys, look for -> looks for, go -> goes, carry -> carries, have -> has."""
    first, _, rest = base.partition(" ")
    if first == "have":
        first = "has"
    elif first.endswith(("o", "s", "sh", "ch", "x")):
        first += "es"
    elif first.endswith("y") and first[-2] not in "aeiou":
        first = f"{first[:-1]}ies"
    else:
        first += "s"
    return f"{first} {rest}".strip()
