"""Learners' errors, planted: a correct sentence becomes a wrong one, with the edits that mend it.

Kinds, with the labels of the Estonian learner corpus: R:NOM:FORM (a wrong case: ostis pood leiba, punane palliga),
R:VERB:FORM (number, or a finite verb behind ei), R:SPELL (a lost diacritic, a letter too many or too few), R:WO
(the verb is not second), U:OTHER (a word said twice), M:OTHER (ja is missing).
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from estbench.demo import lexicon
from estbench.demo.lexicon import Name
from estbench.demo.world import Fact, Thing

PLAIN_LETTERS = str.maketrans("õäöüšžÕÄÖÜŠŽ", "oaouszOAOUSZ")


@dataclass(frozen=True, slots=True)
class Edit:
    """Replace the source tokens [start, end) by `correction` (words, perhaps none)."""

    start: int
    end: int
    kind: str
    correction: str


def tokens(text: str) -> list[str]:
    """A sentence of this world as tokens: the full stop is one."""
    return [*text.removesuffix(".").split(), "."]


def text(words: list[str]) -> str:
    """Tokens as a sentence."""
    return " ".join(words[:-1]) + words[-1]


def spoil(r: random.Random, fact: Fact) -> tuple[list[str], list[Edit]]:
    """The source tokens of the spoilt sentence (one in six is not spoilt) and the edits that mend it."""
    right = tokens(fact.et)
    wanted = r.choices((0, 1, 2), (1, 3, 2))[0]
    changes: list[tuple[int, int, str, list[str]]] = []  # span of `right`, kind, the wrong words
    for _ in range(20 * wanted):
        change = r.choice((wrong_case, wrong_case, wrong_verb, wrong_spelling, wrong_order, doubled, missing))(
            r, fact, right
        )
        if change and all(change[1] < start or end < change[0] for start, end, _, _ in changes):
            changes.append(change)
        if len(changes) == wanted:
            break
    source: list[str] = []
    edits, done = [], 0
    for start, end, kind, wrong in sorted(changes):
        source += right[done:start]
        edits.append(Edit(len(source), len(source) + len(wrong), kind, " ".join(right[start:end])))
        source += wrong
        done = end
    return source + right[done:], edits


def mend(source: list[str], edits: list[Edit]) -> list[str]:
    """The source with the edits applied."""
    result: list[str] = []
    done = 0
    for edit in edits:
        result += source[done : edit.start] + edit.correction.split()
        done = edit.end
    return result + source[done:]


Change = tuple[int, int, str, list[str]]


def wrong_case(r: random.Random, fact: Fact, right: list[str]) -> Change | None:
    """A noun or an adjective in the nominative instead of its case."""
    base = _nominatives(fact)
    found = [at for at in range(1, len(right) - 1) if base.get(right[at], right[at]) != right[at]]
    if not found:
        return None
    at = r.choice(found)
    return at, at + 1, "R:NOM:FORM", [base[right[at]]]


def _nominatives(fact: Fact) -> dict[str, str]:
    """Form -> nominative, for the words of the sentence whose nominative would be wrong there.

    Left out: nominatives that are genitive or partitive too, which may be right (ostis muna; andis Mari raamatu), and
    those that could be mended in two ways (luges raamat: raamatut or raamatu; tuli linn: linna or linnast).
    """
    forms: dict[str, str] = {}
    things = [*fact.objects, *([fact.person] if isinstance(fact.person, Thing) else [])]
    open_aspect = fact.verb.aspect == "both" and not fact.negative and not (fact.total and fact.verb.particle)
    for thing in things:
        if (thing.plural and not fact.negative) or (open_aspect and thing in fact.objects):
            continue  # parandas telefonid is right beside parandas telefone
        for word in (thing.noun, thing.adjective) if thing.adjective else (thing.noun,):
            if word.nom not in (word.gen, word.part):
                nominative = word.form("nominative", thing.plural)
                forms |= {
                    word.form(case, plural): nominative
                    for case in lexicon.CASE_NAMES
                    for plural in {False, thing.plural}
                }
    for name in (fact.partner, fact.person):
        if isinstance(name, Name) and name.nom != name.gen:
            forms |= {name.form(case): name.nom for case in lexicon.ENDINGS}
    for place in (fact.place, None if fact.verb.frame in ("come", "until") else fact.way):
        if place and place.nom != place.at[:-1]:
            forms |= {place.at: place.nom, place.to: place.nom, place.from_: place.nom, place.until: place.nom}
    return forms


def wrong_verb(r: random.Random, fact: Fact, right: list[str]) -> Change | None:
    """The other number, or a finite verb behind ei."""
    verb, past = fact.verb, fact.tense == "past"
    said = fact.et_parts()
    at = sum(len(words.split()) for words in _until_verb(said))
    if fact.negative:
        wrong = verb.past if past else verb.present
        at += 1
    else:
        forms = (verb.past, verb.past_pl) if past else (verb.present, verb.present_pl)
        wrong = forms[0] if fact.plural and verb.frame != "have" else forms[1]
    return (at, at + 1, "R:VERB:FORM", [wrong]) if at and wrong != right[at] else None


def _until_verb(parts: list[tuple[str, str]]) -> list[str]:
    names = [name for name, _ in parts]
    return [words for _, words in parts[: names.index("verb")]]


def wrong_spelling(r: random.Random, fact: Fact, right: list[str]) -> Change | None:
    """A lost diacritic, a letter too many or too few; the result is no word of this world."""
    at = r.randrange(1, len(right) - 1)
    word = right[at]
    if len(word) < 4 or word[0].isupper():
        return None
    cut = r.randrange(1, len(word) - 1)
    stripped = word.translate(PLAIN_LETTERS)
    wrong = (
        stripped
        if stripped != word and r.random() < 0.7
        else r.choice((word[:cut] + word[cut + 1 :], word[:cut] + word[cut] + word[cut:]))
    )
    return None if wrong in lexicon.word_forms() or wrong == word else (at, at + 1, "R:SPELL", [wrong])


def wrong_order(r: random.Random, fact: Fact, right: list[str]) -> Change | None:
    """Subject before verb behind a fronted word: Eile Mari ostis leiba."""
    if not fact.front or fact.negative:
        return None
    parts = fact.et_parts()
    start = len(parts[0][1].split())
    verb, subject = parts[1][1].split(), parts[2][1].split()
    return start, start + len(verb) + len(subject), "R:WO", [*subject, *verb]


def doubled(r: random.Random, fact: Fact, right: list[str]) -> Change | None:
    """A word said twice."""
    at = r.randrange(1, len(right) - 1)
    return (at, at, "U:OTHER", [right[at - 1]]) if at > 1 else None


def missing(r: random.Random, fact: Fact, right: list[str]) -> Change | None:
    """Two things without ja between them."""
    found = [at for at in range(1, len(right) - 1) if right[at] == "ja"]
    if not found:
        return None
    at = r.choice(found)
    return at, at + 1, "M:OTHER", []
