"""Random facts: what can happen in the demo world, and how often.

    fact(random.Random(1), test=False).et

Facts belong to training or to tests by a hash of their subject, verb and object (`held_out`), so that no training text
holds a combination that a test asks for. Everything is a function of the random.Random that is handed in.
"""

from __future__ import annotations

import random
import zlib

from estbench.demo import lexicon
from estbench.demo.lexicon import NUMERALS, Name, Noun, Place, Verb
from estbench.demo.world import FRAMES, PLACE_KINDS, STATES, Fact, Thing


def held_out(*key: str, one_in: int = 6) -> bool:
    """Whether this combination of words belongs to the tests."""
    return zlib.crc32("|".join(key).encode()) % one_in == 0


def fact(r: random.Random, test: bool, verb: Verb | None = None, simple: bool = False) -> Fact:
    """A random fact, from the tests' combinations or from training's.

    simple: in the past, affirmative, one person with a name, one object (to ask about). verb: with this verb.
    """
    while True:
        done = verb or r.choice(lexicon.verbs())
        if simple and done.frame == "lie":
            continue
        tense = "past" if simple else _tense(r, done)
        new = Fact(_subject(r, done, simple), done, tense, negative=not simple and r.random() < 0.2)
        _add_object(r, new, simple)
        if new.objects and held_out(*_key(new)) != test:
            continue
        _add_parts(r, new)
        if new.objects or held_out(*_key(new)) == test:
            _add_time(r, new)
            return new


def _key(new: Fact) -> tuple[str, str, str]:
    first = new.subject[0]
    target = new.objects[0].noun.nom if new.objects else new.way.nom if new.way else new.place.nom if new.place else ""
    return first.nom if isinstance(first, Name) else first.noun.nom, new.verb.present, target


def _tense(r: random.Random, verb: Verb) -> str:
    if verb.frame in STATES or not verb.en_ing:
        return r.choice(("past", "habit"))
    choices = ["past", "past", "past", "past", "future", "habit"]
    if verb.aspect != "total" and verb.frame != "become":
        choices.append("now")
    return (
        "past"
        if verb.frame == "become" and r.random() < 0.7
        else "future"
        if verb.frame == "become"
        else r.choice(choices)
    )


def _subject(r: random.Random, verb: Verb, simple: bool) -> tuple[Name | Thing, ...]:
    if verb.frame == "lie":
        return (Thing(r.choice(lexicon.nouns("thing")), plural=r.random() < 0.25),)
    kind = 0.0 if simple or verb.frame in ("have", "work", "become") else r.random()
    if kind < 0.66:
        return (r.choice(lexicon.names()),)
    if kind < 0.78:
        return tuple(r.sample(lexicon.names(), 2))
    noun = r.choice(lexicon.nouns("person"))
    fitting = lexicon.adjectives_for(noun)
    return (Thing(noun, plural=kind > 0.92, adjective=r.choice(fitting) if fitting and r.random() < 0.3 else None),)


def _add_object(r: random.Random, new: Fact, simple: bool) -> None:
    """Adds object (or what is talked about, or the role), and whether it is total."""
    verb = new.verb
    if not verb.kinds:
        return
    noun = r.choice(lexicon.nouns(r.choice(verb.kinds)))
    if verb.frame in ("work", "become"):
        new.objects = (Thing(noun),)
        return
    new.total = verb.aspect == "total" or (
        verb.aspect == "both" and (new.tense == "future" or (new.tense == "past" and r.random() < 0.5))
    )
    thing = _thing(r, new, noun)
    new.objects = (thing,)
    if not simple and not thing.count and verb.frame != "have" and r.random() < 0.12:
        second = r.choice([other for other in lexicon.nouns(r.choice(verb.kinds)) if other != noun])
        new.objects = (thing, Thing(second, plural=second.countable and thing.plural))


def _thing(r: random.Random, new: Fact, noun: Noun) -> Thing:
    fitting = lexicon.adjectives_for(noun)
    adjective = r.choice(fitting) if fitting and r.random() < 0.3 else None
    shape = r.random() if noun.countable else 1.0
    if shape < 0.12 and new.total and not new.negative and not (new.verb.particle or "person" in noun.kinds):
        return Thing(noun, adjective=adjective, count=r.choice(list(NUMERALS)))
    if shape < 0.36 and new.verb.frame != "have":
        return Thing(noun, plural=True, adjective=adjective)
    owned = (
        shape < 0.46
        and {"thing", "tame"} & set(noun.kinds)
        and new.verb.frame not in ("have", "give", "get")
        and not new.verb.particle
    )
    return Thing(noun, adjective=adjective, owner=_other_name(r, new) if owned else None)


def _other_name(r: random.Random, new: Fact) -> Name:
    """A name that the fact does not have yet."""
    used = [*new.subject, *(thing.owner for thing in new.objects)]
    while True:
        name = r.choice(lexicon.names())
        if name not in used:
            return name


def _add_parts(r: random.Random, new: Fact) -> None:
    """Adds place, way, person, partner and what is lacking, as the frame has them."""
    verb, frame = new.verb, new.verb.frame
    parts = [part.rstrip("?") for part in FRAMES[frame].split() if not part.endswith("?") or r.random() < 0.45]
    used = {thing.noun.nom for thing in (*new.objects, *(who for who in new.subject if isinstance(who, Thing)))}
    if "place" in parts and (verb.en_ing or frame in ("lie", "work") or verb.en == "see"):
        new.place = _place(r, frame, used)
    if "goal" in parts or "from" in parts:
        new.way = _place(r, frame, used)
    if "recipient" in parts or "source" in parts:
        people = [noun for noun in lexicon.nouns("person") if noun.nom not in used]
        new.person = _other_name(r, new) if r.random() < 0.75 else Thing(r.choice(people))
    if "partner" in parts and r.random() < 0.6 and verb.en_ing and len(new.subject) == 1:
        new.partner = _other_name(r, new)
    if "without" in parts and r.random() < 0.5 and not new.partner:
        new.without = r.choice(lexicon.nouns("clothes"))


def _place(r: random.Random, frame: str, used: set[str]) -> Place:
    """A place of a kind that fits the frame, other than the things talked about."""
    while True:
        place = r.choice(lexicon.places(r.choice(PLACE_KINDS.get(frame, ("area",)))))
        if place.nom not in used:
            return place


def _add_time(r: random.Random, new: Fact) -> None:
    """Adds the adverbial of time, which actions need unless past, and perhaps puts it or the place first."""
    verb = new.verb
    if verb.en in ("love", "fear") or ((verb.frame in STATES or not verb.en_ing) and new.tense != "past"):
        return
    if new.tense != "past" or r.random() < 0.6:
        fitting = lexicon.times(new.tense)
        new.time = r.choice(fitting[1:] if new.negative and new.tense == "future" else fitting)  # not: ei tule varsti
    first = r.random()
    if new.time and first < 0.25:
        new.front = "time"
    elif new.place and new.place.kind == "area" and first > 0.85:
        new.front = "place"
