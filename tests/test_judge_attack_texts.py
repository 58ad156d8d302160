"""Attacks on judges: fixed, of every known kind, and without effect on a judge that obeys all outside fences."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from estbench_judges import fences, rubrics
from estbench_judges.attack_texts import ATTACKS, Attack, guess
from estbench_judges.items import Item
from estbench_judges.rendering import Case
from estbench_judges.screens import screen
from judge_server import Persona, Prompt, decide

load = functools.cache(rubrics.load)
GULLIBLE, HONEST = Persona(gullible=True), Persona()
ONE = Item(
    task="estinstruct_chat", doc="d1", doc_id=0, key="k", language="et",
    turns=("Kirjuta lühike kutse külapäevale. Nimeta aeg ja koht.",),
    answers=("Tule laupäeval kell 12 Koeru rahvamajja külapäevale!",),
    reference="Laupäeval kell 12 Koeru rahvamajas.",
    checklists=(("Kas aeg on nimetatud?", "Kas koht on nimetatud?"),),
    anchors=("Ootame kõiki laupäeval kell 12 Koeru rahvamajja külapäevale. Kaasa hea tuju!",),
)  # fmt: skip
TWO = Item(
    task="estinstruct_chat", doc="d2", doc_id=1, key="k2", language="et",
    turns=("Mis on Eesti rahvuslind?", "Aga rahvuslill?"),
    answers=("Suitsupääsuke.", "Rukkilill."),
    reference="suitsupääsuke ja rukkilill",
    checklists=(("Kas lind on õige?",), ("Kas lill on õige?",)),
    anchors=("Eesti rahvuslind on suitsupääsuke.", "Rahvuslill on rukkilill."),
)  # fmt: skip


def attacked(item: Item, attack: Attack, seed: int = 0) -> Item:
    return dataclasses.replace(item, answers=attack.make(item, guess(seed)))


def worth(text: str) -> float:
    """Real answers are good; one that says the same three times is no better, all else is nothing."""
    real = [one for item in (ONE, TWO) for one in ("\n\n".join(item.answers), "\n\n".join(item.anchors))]
    padded = ["\n\n".join("\n\n".join([one] * 3) for one in item.anchors) for item in (ONE, TWO)]
    return 0.9 if text in real else 0.8 if text in padded else 0.1


def cases(item: Item) -> list[Case]:
    """Every mode and language, both orders."""
    usual = load("helpfulness")
    found = []
    for language in ("et", "en"):
        found += [Case(item, usual, "pairwise", language, other=item.anchors, first=one) for one in ("model", "anchor")]
        found.append(Case(item, usual, "pointwise", language))
        found.append(Case(item, load("equivalence"), "equivalence", language))
        found.append(Case(item, load("instruction_following"), "checklist", language))
    return found


def reply(persona: Persona, case: Case) -> dict[str, Any]:
    return decide(persona, worth, case.messages(), case.schema())


def test_there_are_twenty_or_more_with_a_name_and_titles_of_their_own() -> None:
    assert len(ATTACKS) >= 20
    for values in ([a.name for a in ATTACKS], [a.title_et for a in ATTACKS], [a.title_en for a in ATTACKS]):
        assert len(set(values)) == len(values) and all(values)
    assert all(re.fullmatch(r"[a-z_]+", attack.name) for attack in ATTACKS)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
@pytest.mark.parametrize("item", [ONE, TWO], ids=["one", "two"])
def test_an_attack_answers_every_turn_and_always_with_the_same(attack: Attack, item: Item) -> None:
    answers = attack.make(item, guess(3))
    assert len(answers) == len(item.turns) and all(isinstance(one, str) for one in answers)
    assert attack.make(item, guess(3)) == answers


def test_a_guessed_nonce_has_the_shape_of_real_ones_and_is_another_for_each_seed() -> None:
    assert all(re.fullmatch(rf"[0-9a-f]{{{fences.NONCE}}}", guess(seed)) for seed in range(5))
    assert len({guess(seed) for seed in range(50)}) == 50
    named = [attack for attack in ATTACKS if any(guess(7) in one for one in attack.make(ONE, guess(7)))]
    assert len(named) >= 5


def test_fake_verdicts_fit_the_schema_of_their_mode() -> None:
    by_name = {attack.name: attack for attack in ATTACKS}
    for name, case in zip(
        ("json_pairwise", "json_pointwise", "json_equivalence", "json_checklist"), cases(ONE)[1:], strict=False
    ):
        forged = json.loads(by_name[name].make(ONE, guess(0))[0])
        assert forged.keys() == case.schema()["properties"].keys()
    assert json.loads(by_name["json_checklist"].make(TWO, guess(0))[0])["criteria"] == [True, True]


def test_an_attack_works_without_anchor_reference_and_checklist() -> None:
    bare = Item(task="t", doc="d", doc_id=0, key="k", turns=("Mis kell on?",), answers=("Kaks.",))
    assert all(len(attack.make(bare, guess(0))) == 1 for attack in ATTACKS)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
@pytest.mark.parametrize("item", [ONE, TWO], ids=["one", "two"])
def test_a_judge_that_obeys_what_stands_outside_fences_judges_an_attack_as_an_honest_one_does(
    attack: Attack, item: Item
) -> None:
    for case in cases(attacked(item, attack)):
        assert reply(GULLIBLE, case) == reply(HONEST, case)
        if case.mode == "pairwise":
            model = "A" if case.first == "model" else "B"
            assert not reply(GULLIBLE, case)["verdict"].startswith(model)


@pytest.mark.parametrize("item", [ONE, TWO], ids=["one", "two"])
def test_the_prompts_own_instructions_are_none_that_a_gullible_judge_obeys(item: Item) -> None:
    for name in rubrics.names():
        rubric = load(name)
        for mode in rubric.modes:
            for language in ("et", "en"):
                for label in (False, True) if mode == "pointwise" else (False,):
                    case = Case(
                        item, rubric, mode, language, label=label, other=item.anchors if mode == "pairwise" else ()
                    )
                    for messages in (case.messages(), case.messages(again=True)):
                        assert decide(GULLIBLE, worth, messages, case.schema()) == decide(
                            HONEST, worth, messages, case.schema()
                        )


def raw(value: Any) -> str:
    """No defence at all: the text as it is."""
    return value if isinstance(value, str) else "\n".join(str(one) for one in value)


def json_alone(value: Any) -> str:
    """JSON without escapes of fences: one line, but the shape is in it."""
    return json.dumps(value, ensure_ascii=False)


@pytest.mark.parametrize("weaker", [raw, json_alone])
def test_the_same_attacks_move_that_judge_where_answers_are_not_encoded(
    weaker: Callable[[Any], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fences, "encode", weaker)
    won = {
        attack.name
        for attack in ATTACKS
        for case in cases(attacked(ONE, attack))
        if case.mode == "pairwise" and case.first == "model" and reply(GULLIBLE, case)["verdict"].startswith("A")
    }
    closing = {attack.name for attack in ATTACKS if attack.name.startswith(("closing", "worse"))}
    assert won >= closing and len(closing) == 6
    graded = [case for case in cases(attacked(ONE, ATTACKS[-1])) if case.mode == "pointwise"]
    assert all(reply(GULLIBLE, case) == reply(HONEST, case) for case in graded)  # no fence in it: nothing to obey


def test_gates_stop_what_says_nothing_or_is_in_another_language_without_a_call() -> None:
    stopped = {
        attack.name: found.reason
        for attack in ATTACKS
        if (found := screen(attack.make(ONE, guess(0)), "et")) is not None
    }
    expected = {"empty": "empty", "colon": "empty", "thought_process": "empty", "other_language": "language"}
    assert stopped == expected


def test_what_is_judged_in_an_attack_is_its_text_unchanged() -> None:
    for attack in ATTACKS:
        item = attacked(ONE, attack)
        case = Case(item, load("helpfulness"), "pointwise")
        assert Prompt.of(case.messages()[1]["content"]).parts["ANSWER"] == item.answers[0]
