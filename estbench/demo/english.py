"""English twins of mini_follow and mini_qa: instructions for a model that knows no Estonian, and what it is tested on.

    rows("mini_follow_en")["test"][0]["instruction"]      # Write the words in reverse order: apple ball cup
    next(instructions("mini_qa_en", "seed"))              # (prompt, answer), of combinations that no test asks for

Rules and facts are those of the Estonian tasks, and the same combinations are held out: what one language trains on
is no test document of the other. The demo models' own tasks are `tasks.TASKS`; these two are for whoever trains.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from functools import cache

from estbench.demo import follow, lexicon, tasks
from estbench.demo.facts import held_out
from estbench.demo.tasks import SIZES, Doc
from estbench.demo.world import EN_ORDER, Fact, en_parts

TASKS = ("mini_follow_en", "mini_qa_en")
PROMPTS = {  # the same for a chat model
    "mini_follow_en": "{instruction}\nAnswer:",
    "mini_qa_en": "Text: {context}\nQuestion: {question}\nAnswer:",
}
WORDING = {
    "reverse": "write the words in reverse order",
    "twice": "write the whole line twice",
    "sort": "put the words in alphabetical order",
    "first": "answer with the first word only",
    "last": "answer with the last word only",
    "commas": "separate the words with commas",
    "and": "put “and” between the words",
    "upper": "use capital letters only",
    "exclaim": "end the answer with an exclamation mark",
    "quotes": "put the answer in quotation marks",
    "count": "how many words are there",
}
ENGLISH = follow.Language(WORDING, {2: "two", 3: "three", 4: "four"}, "and", "“”", "abcdefghijklmnopqrstuvwxyz")
QUESTIONS = {  # part -> its question words
    "subject": "Who",
    "object": "What",
    "place": "Where",
    "time": "When",
    "recipient": "To whom",
    "source": "From whom",
    "goal": "Where",
    "from": "From where",
    "partner": "With whom",
    "about": "About what",
    "role": "As what",
}
SMALL = ("about ", "as ", "as far as ", "at ", "from ", "in ", "into ", "on ", "onto ", "to ", "with ")
ARTICLES = ("a ", "an ", "the ")


def prompt(task: str, doc: Doc) -> str:
    """What the model reads, or what a chat model is told; the answer follows behind a space."""
    return PROMPTS[task].format(**doc)


def answer(task: str, doc: Doc) -> str:
    """The reference answer."""
    return str(doc["answers"][0] if "answers" in doc else doc["target"])


@cache
def _rows(task: str) -> dict[str, list[Doc]]:
    return {split: _drawn(task, random.Random(f"{task} {split}"), split == "test", SIZES[split]) for split in SIZES}


@cache
def _fresh(task: str) -> list[Doc]:
    return _drawn(task, random.Random(f"{task} fresh"), True, SIZES["test"], _rows(task)["test"])


def _drawn(task: str, r: random.Random, test: bool, size: int, others: Sequence[Doc] = ()) -> list[Doc]:
    """Documents with different prompts, and none that the others have."""
    known = {prompt(task, doc) for doc in others}
    docs: dict[str, Doc] = {}
    while len(docs) < size:
        doc = MAKERS[task](r, test)
        if prompt(task, doc) not in known:
            docs.setdefault(prompt(task, doc), doc)
    return list(docs.values())


def rows(task: str, *, fresh: bool = False) -> dict[str, list[Doc]]:
    """The documents of a task by split; always the same ones. fresh: others in "test", as in `tasks.rows`."""
    splits = _rows(task) | ({"test": _fresh(task)} if fresh else {})
    return {split: [dict(doc) for doc in docs] for split, docs in splits.items()}


def instructions(task: str, seed: str) -> Iterator[tuple[str, str]]:
    """(prompt, answer) of a task without end, as `stream.instructions`; a function of its seed."""
    r = random.Random(f"{task} {seed}")
    while True:
        doc = MAKERS[task](r, False)
        yield prompt(task, doc), answer(task, doc)


def obey(r: random.Random, test: bool) -> Doc:
    """Words and rules, as `tasks.obey`."""
    while True:
        rules = tasks.follow_rules(r)
        nouns = r.sample(lexicon.nouns(), r.choice((2, 3, 4)) if "count" in rules else 3)
        words = [noun.en for noun in nouns]
        if held_out(*(noun.nom for noun in nouns[:2])) == test and len({word[0] for word in words}) == len(words):
            return {
                "instruction": follow.instruction(rules, words, ENGLISH),
                "words": words,
                "rules": rules,
                "target": follow.answer(rules, words, ENGLISH),
            }


def follow_results(doc: dict[str, object], results: Sequence[str]) -> dict[str, int]:
    """lm-eval's `process_results`: {"follow": 0 or 1}."""
    return follow.follow_results(doc, results, ENGLISH)


def qa(r: random.Random, test: bool) -> Doc:
    """A text of two or three sentences and a question, as `tasks.qa`."""
    new = tasks.asking(r, test)
    context = " ".join(said.en for said in r.sample([new.asked, *new.others], len(new.others) + 1))
    question = _question(r, new)
    answers = without_small_words(en_parts(new.asked)[_part(new.asked, new.about)], new.about)
    return {"context": context, "question": question, "answers": answers, "kind": new.kind}


def _part(asked: Fact, about: str) -> str:
    """What English calls an Estonian part: who becomes a doctor has one as object, and not as role."""
    return "object" if about == "role" and asked.verb.frame == "become" else about


def _question(r: random.Random, new: tasks.Asking) -> str:
    """The question, with every detail of the fact or with some: What did Mari buy at the shop?"""
    asked, parts = new.asked, en_parts(new.asked)
    about = _part(asked, new.about)
    details = [
        parts[part]
        for part in EN_ORDER
        if part in parts and part not in ("subject", "verb", about) and tasks.kept(r, part, new.keep_all)
    ]
    if about == "subject":
        return " ".join(["Who", parts["verb"], *details]) + "?"
    first, _, rest = parts["verb"].partition(" ")
    verb = ["was", parts["subject"], rest] if first == "was" else ["did", parts["subject"], asked.verb.en]
    return " ".join([_question_words(asked, about), *verb, *details]) + "?"


def _question_words(asked: Fact, about: str) -> str:
    alive = all({"animal", "person"} & set(thing.noun.kinds) for thing in asked.objects)
    if about == "goal" and asked.verb.frame == "until":
        return "How far"
    if alive and about == "about":
        return "About whom"
    if alive and about == "object" and asked.verb.frame not in ("have", "become"):
        return "Whom"
    return QUESTIONS[about]


def without_small_words(words: str, about: str) -> list[str]:
    """The words of the text, and what else is right: without the preposition (but of a time), without the article."""
    found = [words]
    for beginnings in (SMALL if about != "time" else (), ARTICLES):
        beginning = max((one for one in beginnings if found[-1].startswith(one)), key=len, default="")
        found.append(found[-1].removeprefix(beginning))
    return list(dict.fromkeys(found))


MAKERS: dict[str, Callable[[random.Random, bool], Doc]] = {"mini_follow_en": obey, "mini_qa_en": qa}
