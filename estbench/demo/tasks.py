"""The seven tasks of the demo world: documents, prompts and answers.

`document(task, r, test)` makes one document; `rows(task)` the splits: "test" (320 documents, of combinations that
training lacks) and "train" (40, for shots). `rows(task, fresh=True)` has another 320 for tests, none of them among the
first: for results, where settings were found by trying on the first. `prompt` and `answer` say what a model reads and
should write; the YAML files under tasks/mini have the same prompts as Jinja templates (a test compares them).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from estbench.demo import follow, lexicon, spoil
from estbench.demo.facts import fact, held_out
from estbench.demo.lexicon import Cause
from estbench.demo.world import Fact, Thing

Doc = dict[str, Any]
TASKS = (
    "mini_copa",
    "mini_qa",
    "mini_translate_en_et",
    "mini_translate_et_en",
    "mini_gec",
    "mini_inflect",
    "mini_follow",
)
SIZES = {"test": 320, "train": 40}
PROMPTS = {
    "mini_copa": "{premise}, {relation}",
    "mini_qa": "Tekst: {context}\nKüsimus: {question}\nVastus:",
    "mini_translate_en_et": "Inglise keeles: {source}\nEesti keeles:",
    "mini_translate_et_en": "Eesti keeles: {source}\nInglise keeles:",
    "mini_gec": "Lause: {source}\nParandatud lause:",
    "mini_inflect": "Sõna: {word}\nKääne: {case}\nVorm:",
    "mini_follow": "{instruction}\nVastus:",
}
CHAT_PROMPTS = PROMPTS | {"mini_copa": "Vali lause lõpp: {choice1} / {choice2}\n{premise}, {relation}"}
# left out: the illative, which has short forms (kotti), and plural cases that have an i-plural too (raamatuis)
SINGULAR_CASES = ("genitive", "partitive", *(case for case in lexicon.ENDINGS if case != "illative"))
PLURAL_CASES = ("nominative", "genitive", "partitive", "abessive", "comitative")
NEGATION_UNSEEN = 3  # the negative half of one cause in so many is never trained on in mini_copa


def prompt(task: str, doc: Doc, chat: bool = False) -> str:
    """What the model reads, or what a chat model is told; the answer follows behind a space."""
    return (CHAT_PROMPTS if chat else PROMPTS)[task].format(**doc)


def answer(task: str, doc: Doc) -> str:
    """The reference answer."""
    if task == "mini_copa":
        return str(doc[f"choice{doc['label'] + 1}"])
    return str(doc["answers"][0] if "answers" in doc else doc["target"])


@cache
def _rows(task: str) -> dict[str, list[Doc]]:
    return {split: _drawn(task, random.Random(f"{task} {split}"), split == "test", SIZES[split]) for split in SIZES}


@cache
def _fresh(task: str) -> list[Doc]:
    return _drawn(task, random.Random(f"{task} fresh"), True, SIZES["test"], _rows(task)["test"])


def _drawn(task: str, r: random.Random, test: bool, size: int, others: Sequence[Doc] = ()) -> list[Doc]:
    """Documents that ask different things, and nothing that the others ask."""
    docs: list[Doc] = []
    seen = {_asked(task, doc) for doc in others}
    while len(docs) < size:
        new = MAKERS[task](r, test)
        asked = {_asked(task, doc) for doc in new}
        if not asked & seen:
            seen |= asked
            docs += new
    return docs


def _asked(task: str, doc: Doc) -> str:
    return prompt(task, doc) + str(doc.get("choice1")) + str(doc.get("choice2"))


def rows(task: str, *, fresh: bool = False) -> dict[str, list[Doc]]:
    """The documents of a task by split; always the same ones. fresh: others in "test".

    ValueError: fresh ones of mini_inflect, whose tests ask for most of the words and cases that training lacks.
    """
    if fresh and task == "mini_inflect":
        raise ValueError("mini_inflect has no fresh documents: too few words and cases are left")
    splits = _rows(task) | ({"test": _fresh(task)} if fresh else {})
    return {split: [dict(doc) for doc in docs] for split, docs in splits.items()}


def documents(task: str, r: random.Random, test: bool = False) -> list[Doc]:
    """One new document, or two for mini_copa: twins with the same options and swapped answers."""
    return MAKERS[task](r, test)


def translate_en_et(r: random.Random, test: bool) -> list[Doc]:
    said = fact(r, test)
    return [{"source": said.en, "target": said.et}]


def translate_et_en(r: random.Random, test: bool) -> list[Doc]:
    said = fact(r, test)
    return [{"source": said.et, "target": said.en}]


def gec(r: random.Random, test: bool) -> list[Doc]:
    said = fact(r, test)
    source, edits = spoil.spoil(r, said)
    listed = [
        {"annotator": 0, "start": edit.start, "end": edit.end, "type": edit.kind, "corrections": [edit.correction]}
        for edit in edits
    ]
    return [{"source": spoil.text(source), "source_tokens": source, "target": said.et, "edits": listed}]


def inflect(r: random.Random, test: bool) -> list[Doc]:
    while True:
        noun = r.choice(lexicon.nouns())
        plural = noun.countable and r.random() < 0.35
        case = r.choice(PLURAL_CASES if plural else SINGULAR_CASES)
        if held_out(noun.nom, case, str(plural), one_in=4) == test:
            name = lexicon.CASE_NAMES[case]
            return [
                {
                    "word": noun.nom,
                    "case": f"mitmuse {name}" if plural else name,
                    "answers": noun.accepted(case, plural),
                }
            ]


def obey(r: random.Random, test: bool) -> list[Doc]:
    while True:
        rules = follow_rules(r)
        words = [noun.nom for noun in r.sample(lexicon.nouns(), r.choice((2, 3, 4)) if "count" in rules else 3)]
        if held_out(*words[:2]) == test and len({word[0] for word in words}) == len(words):
            return [
                {
                    "instruction": follow.instruction(rules, words),
                    "words": words,
                    "rules": rules,
                    "target": follow.answer(rules, words),
                }
            ]


def follow_rules(r: random.Random) -> list[str]:
    """One to three rules of different groups that go together."""
    if r.random() < 0.07:
        return ["count"]
    groups = r.sample(list(follow.GROUPS), r.choices((1, 2, 3), (6, 4, 1))[0])
    rules = [r.choice(follow.GROUPS[group]) for group in follow.GROUPS if group in groups]
    if {"first", "last"} & set(rules):
        rules = [rule for rule in rules if rule not in ("commas", "and")]
    return rules


QUESTIONS = {  # part -> its question words
    "subject": "Kes",
    "object": "Mida",
    "place": "Kus",
    "time": "Millal",
    "recipient": "Kellele",
    "source": "Kellelt",
    "goal": "Kuhu",
    "from": "Kust",
    "partner": "Kellega koos",
    "about": "Millest",
    "role": "Kelleks",
}


@dataclass(frozen=True)
class Asking:
    """A fact that is asked about among others: about a part of it, in one of three kinds of question.

    alone: only one sentence has what is asked for (a place, say); verb: the verb tells which sentence is meant; rival:
    two people did the same, so that the name, or another detail, has to be found.
    """

    asked: Fact
    others: list[Fact]
    about: str
    kind: str

    @property
    def keep_all(self) -> bool:
        """Whether the question needs every detail of the fact."""
        return self.kind == "rival" and self.about == "subject"


def asking(r: random.Random, test: bool) -> Asking:
    """Something to ask that has a single right answer."""
    while True:
        kind = r.choice(("alone", "alone", "alone", "verb", "rival"))
        asked = fact(r, test, simple=True)
        others = [fact(r, test, verb=asked.verb if kind == "rival" else None, simple=True)]
        if r.random() < 0.4:
            others.append(fact(r, test, simple=True))
        about = r.choice(_askable(asked))
        if (
            len({said.subject[0] for said in (asked, *others)}) == len(others) + 1
            and _kind(asked, others, about) == kind
        ):
            return Asking(asked, others, about, kind)


def qa(r: random.Random, test: bool) -> list[Doc]:
    """A text of two or three sentences and a question."""
    new = asking(r, test)
    context = " ".join(said.et for said in r.sample([new.asked, *new.others], len(new.others) + 1))
    question = _question(r, new.asked, new.about, new.keep_all)
    return [{"context": context, "question": question, "answers": _answers(new.asked, new.about), "kind": new.kind}]


def _askable(said: Fact) -> list[str]:
    parts = dict(said.et_parts())
    return [part for part in QUESTIONS if part in parts and (part, said.verb.frame) != ("subject", "have")]


def _kind(asked: Fact, others: list[Fact], about: str) -> str:
    """The kind of question that this is; empty: it has no single right answer."""
    rivals = [other for other in others if other.verb == asked.verb]
    if rivals:
        return "rival" if all(_differ(asked, rival, about) for rival in rivals) else ""
    alone = about != "subject" and all(about not in dict(other.et_parts()) for other in others)
    return "alone" if alone else "verb"


def _differ(asked: Fact, rival: Fact, about: str) -> bool:
    """Whether the rival would be another answer, and the question still tells the two apart."""
    one, other = dict(asked.et_parts()), dict(rival.et_parts())
    if about != "subject":
        return about in other and one[about] != other[about]
    return any(
        one[part] != other.get(part) for part in one if part not in ("subject", "verb", "particle", "time", "partner")
    )


def _question(r: random.Random, asked: Fact, about: str, keep_all: bool) -> str:
    """The question; keep_all: with every detail of the fact, otherwise with some."""
    parts = asked.et_parts()
    verb = next(words for part, words in parts if part == "verb")
    subject = [words for part, words in parts if part == "subject" and part != about]
    details = [words for part, words in parts if part not in ("subject", "verb", about) and kept(r, part, keep_all)]
    return " ".join([_question_words(asked, about), verb, *subject, *details]) + "?"


def kept(r: random.Random, part: str, keep_all: bool) -> bool:
    """Whether the question has this detail of the fact."""
    return keep_all or part not in ("time", "partner", "place", "without") or r.random() < 0.4


def _question_words(asked: Fact, about: str) -> str:
    alive = all({"animal", "person"} & set(thing.noun.kinds) for thing in asked.objects)
    if about in ("object", "about") and alive:
        return "Kes" if asked.verb.frame == "have" else "Keda" if about == "object" else "Kellest"
    if about == "object" and asked.verb.frame == "have":
        return "Mis"
    return "Kellena" if asked.verb.frame == "work" and about == "role" else QUESTIONS[about]


def _answers(asked: Fact, about: str) -> list[str]:
    """The words of the text, and what else is right: the object in the nominative, the partner without koos."""
    words = dict(asked.et_parts())[about].removeprefix("koos ")
    if about != "object":
        return [words]
    plain = " ja ".join(thing.et("nominative") for thing in asked.objects)
    return list(dict.fromkeys([words, plain]))


def copa(r: random.Random, test: bool) -> list[Doc]:
    """Twins with one pair of options: of two different causes, or of one that was and was not."""
    causes = lexicon.causes()
    effect, denied = r.random() < 0.5, r.random() < 0.5
    while True:
        # training knows common causes well and rare ones hardly; tests ask for all alike
        one, two = (
            r.sample(causes, 2) if test else r.choices(causes, [1 / (3 + rank) for rank in range(len(causes))], k=2)
        )
        name = r.choice(lexicon.names()).nom
        asked = [one] if denied else [one, two]
        if one == two or any(held_out(name, cause.cause, str(effect)) != test for cause in asked):
            continue
        if not test and denied and held_out(one.cause, one_in=NEGATION_UNSEEN):
            continue
        fill = _fillers(r)
        sides = [(one, False), (one, True)] if denied else [(one, False), (two, False)]
        premises = [_premise(name, side, effect, fill) for side in sides]
        options = [_option(side, effect, fill) for side in sides]
        relation = "seetõttu" if effect else "sest"
        twins = [
            {
                "premise": premise,
                "relation": relation,
                "choice1": options[0],
                "choice2": options[1],
                "label": label,
                "twin": "; ".join([*premises, *options]),
            }
            for label, premise in enumerate(premises)
        ]
        r.shuffle(twins)
        return twins


def _fillers(r: random.Random) -> dict[str, str]:
    drink, food = r.choice(lexicon.nouns("drink")), r.choice(lexicon.nouns("food"))
    return {
        "food": Thing(food, plural=food.countable).et("partitive"),
        "drink": drink.part,
        "place": r.choice(lexicon.places("area")).at,
    }


def _premise(name: str, side: tuple[Cause, bool], effect: bool, fill: dict[str, str]) -> str:
    """Mari oli näljane; or, where the cause is asked for, Mari sõi leiba."""
    cause, denied = side
    if effect:
        return f"{name} {cause.cause_negative if denied else cause.cause}"
    verb, rest = (
        (cause.effect_verb_negative, cause.effect_rest_negative) if denied else (cause.effect_verb, cause.effect_rest)
    )
    return f"{name} {verb} {rest}".format(**fill)


def _option(side: tuple[Cause, bool], effect: bool, fill: dict[str, str]) -> str:
    """sõi ta leiba. (seetõttu ...) or ta oli näljane. (sest ...)"""
    cause, denied = side
    if not effect:
        return f"ta {cause.cause_negative if denied else cause.cause}."
    if denied:
        return f"{cause.effect_verb_negative} ta {cause.effect_rest_negative}.".format(**fill)
    return f"{cause.effect_verb} ta {cause.effect_rest}.".format(**fill)


MAKERS: dict[str, Callable[[random.Random, bool], list[Doc]]] = {
    "mini_copa": copa,
    "mini_qa": qa,
    "mini_translate_en_et": translate_en_et,
    "mini_translate_et_en": translate_et_en,
    "mini_gec": gec,
    "mini_inflect": inflect,
    "mini_follow": obey,
}
