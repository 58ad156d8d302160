"""What an answer is worth: by rule, by an estbench task's own metric on rows that it does not test, by judges; and that
a missing verdict is never a score."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from estbench_training import scorers
from estbench_training.scorers import JudgeScorer, JudgeSettings, Prompt, RuleScorer, TaskScorer
from judge_server import JudgeServer, Persona

from estbench import registry
from estbench.errors import ConfigError, DataError, EstbenchError

Row = dict[str, Any]


def prompt(text: str, place: int = 0, **row: Any) -> Prompt:
    return Prompt(str(place), ({"role": "user", "content": text},), "test", row)


def write(path: Path, given: Sequence[Row]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in given), "utf-8")
    return path


def silent(line: str) -> None:
    """Hears nothing."""


USER = {"role": "user", "content": "Mis?"}


def said(text: str) -> Row:
    return {"role": "assistant", "content": text}


# --- rules ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "row", "good", "bad"),
    [
        ("exact", {"answers": ["Tartu", "Tartus"]}, " tartu. ", "Tallinn"),
        ("exact", {"target": "42"}, "42", "43"),
        ("follow", {"rules": ["upper", "exclaim"], "words": ["õun", "pall"]}, "ÕUN PALL!", "õun pall!"),
        ("ifeval", {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}, "Tere Mari", "Tere, Mari"),
    ],
)
def test_a_rule_gives_1_and_0(rule: str, row: Row, good: str, bad: str) -> None:
    assert RuleScorer(rule).score([prompt("?", **row)], [[good, bad]], silent) == [[1.0, 0.0]]


def test_rules_that_give_shares() -> None:
    f1 = RuleScorer("f1").score([prompt("?", answers=["president"])], [["Eesti Vabariigi president"]], silent)
    assert f1 == [[0.5]]
    two = {
        "instruction_id_list": ["punctuation:no_comma", "keywords:existence"],
        "kwargs": [{}, {"keywords": ["maja"]}],
    }
    assert RuleScorer("ifeval").score([prompt("?", **two)], [["See on maja.", "See on aed.", "aed, puu"]], silent) == [
        [1.0, 0.5, 0.0]
    ]


def test_a_row_that_a_rule_cant_use_is_named() -> None:
    with pytest.raises(DataError, match="Row '7': the rule 'exact' needs the field 'target'"):
        RuleScorer("exact").score([prompt("?", 7)], [["a"]], silent)
    with pytest.raises(DataError, match=r"Row '7': .*unknown instruction"):
        RuleScorer("ifeval").score([prompt("?", 7, instruction_id_list=["x"], kwargs=[{}])], [["a"]], silent)
    with pytest.raises(ConfigError, match="Did you mean 'exact'"):
        RuleScorer("exactt")


# --- an estbench task -------------------------------------------------------------------------------------------------


def test_prompts_of_a_task_are_its_training_rows_and_never_what_it_is_tested_on() -> None:
    from estbench.lm_tasks import load_rows

    card = registry.Registry().task("mini_follow_chat")
    splits = load_rows(card, None).splits
    found = TaskScorer("mini_follow_chat")
    asked = {one.messages[-1]["content"] for one in found.prompts()}
    trained, tested = ({f"{row['instruction']}\nVastus:" for row in splits[split]} for split in ("train", "test"))
    assert asked == trained and len(asked) == 40
    assert not asked & tested and len(tested) == 320
    assert {one.source for one in found.prompts()} == {"mini_follow_chat/train"}


def test_a_training_row_that_is_also_tested_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    from estbench import lm_tasks

    load = lm_tasks.load_rows

    def leaked(*given: Any) -> Any:
        found = load(*given)
        train = [*found.splits["train"][:5], *found.splits["test"][:3]]
        return dataclasses.replace(found, splits=found.splits | {"train": train})

    monkeypatch.setattr(lm_tasks, "load_rows", leaked)
    found = TaskScorer("mini_follow_chat")
    assert found.split == "train" and len(found.prompts()) == 5 and found.tested == 3


def test_another_split_of_a_tasks_data_may_be_named_but_not_the_tested_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def row(place: int, premise: str) -> Row:
        about = {"premise": premise, "choice1": "Sadas.", "choice2": "Paistis.", "question": "cause", "label": 0}
        return about | {"idx": place, "changed": False}

    folder = tmp_path / "cambridgeltl__xcopa" / "et"
    folder.mkdir(parents=True)
    write(folder / "test.jsonl", [row(0, "Maa oli märg."), row(1, "Mees naeris.")])
    write(folder / "validation.jsonl", [row(7, "Maa oli märg."), row(8, "Laps nuttis.")])
    monkeypatch.setenv("ESTBENCH_DATA", str(tmp_path))
    found = TaskScorer("estcopa_chat", "validation")
    texts = [one.messages[-1]["content"] for one in found.prompts()]
    assert len(texts) == 2 and all("Laps nuttis." in text for text in texts)  # both orders of the one that isn't tested
    assert found.tested == 2  # the other's rows differ in idx alone
    [scores] = found.score(found.prompts()[:1], [["A", "B"]], silent)
    assert sorted(scores) == [0.0, 1.0]
    with pytest.raises(ConfigError, match="estcopa_chat is tested on 'test'"):
        TaskScorer("estcopa_chat", "test")
    with pytest.raises(ConfigError, match="name another split"):
        TaskScorer("estcopa_chat")


def test_a_tasks_own_metric_scores_each_document_by_its_own_row() -> None:
    from estbench.demo.follow import answer

    scorer = TaskScorer("mini_follow_chat")
    some = [scorer.prompts()[place] for place in (3, 0, 7)]
    right = [answer(one.row["rules"], one.row["words"]) for one in some]
    given = [[right[0], "ei tea"], [right[1]], ["jama", right[2], right[0]]]
    assert scorer.score(some, given, silent) == [[1.0, 0.0], [1.0], [0.0, 1.0, 0.0]]
    assert scorer.report() == {
        "rule": "task",
        "task": "mini_follow_chat",
        "split": "train",
        "metric": "follow",
        "left_out_as_tested": 0,
    }


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("mini_follow", "not in chat form"),
        ("ifeval_et_chat", "is tested on"),
        ("mini_folow_chat", "Did you mean"),
    ],
)
def test_tasks_that_can_give_no_prompts_are_refused(task: str, message: str) -> None:
    with pytest.raises(EstbenchError, match=message):
        scorers.open_task(task)


# --- judges -----------------------------------------------------------------------------------------------------------


def quality(text: str) -> float:
    """What the scripted judge sees in a text."""
    return float(text.partition("tase ")[2][:4] or 0)


def level(value: float) -> str:
    return f"Selle vastuse tase {value:.2f} on kirjas siin lauses."


@pytest.fixture
def server(request: pytest.FixtureRequest, home: Path) -> Iterator[JudgeServer]:
    with JudgeServer(quality, name=f"judge-{abs(hash(request.node.name)) % 10**9}") as running:
        yield running


def judged(server: JudgeServer, answers: list[list[str]], **keys: Any) -> tuple[scorers.Scores, Row]:
    settings = JudgeSettings(f"{server.endpoint.name}@{server.url}", **keys)
    scorer = JudgeScorer(settings, "tiny")
    asked = [prompt(f"Küsimus {place}?", place) for place in range(len(answers))]
    return scorer.score(asked, answers, silent), scorer.report()


def test_ratings_are_the_judges_and_order_the_answers(server: JudgeServer) -> None:
    scores, report = judged(server, [[level(0.9), level(0.2)], [level(0.5)]])
    [[high, low], [middle]] = scores
    assert high is not None and low is not None and middle is not None and 0 <= low < middle < high <= 1
    [card] = report["judges"]
    assert server.calls == card["cases"] == 3 and card["missing"] == {} and report["mode"] == "pointwise"


def test_in_pairs_each_game_is_asked_in_both_orders(server: JudgeServer) -> None:
    scores, _ = judged(server, [[level(0.9), level(0.1), level(0.5)]], mode="pairwise")
    [[best, worst, middle]] = scores
    assert best is not None and worst is not None and middle == pytest.approx(0.5) and best > middle > worst
    assert server.calls == 3 * 2


def test_a_judge_that_prefers_the_first_place_makes_no_winner(server: JudgeServer) -> None:
    server.persona = Persona(first=1.0)
    scores, _ = judged(server, [[level(0.5), level(0.5) + " Jah."]], mode="pairwise")
    assert scores == [[0.5, 0.5]]


def test_missing_verdicts_are_missing(server: JudgeServer) -> None:
    server.persona = Persona(failing=0.5, kinds=("prose",))
    answers = [[level(0.3 + place / 50), level(0.2)] for place in range(12)]
    scores, report = judged(server, answers, temperature=0.5)
    flat = [score for row in scores for score in row]
    assert 0 < flat.count(None) < len(flat)
    [card] = report["judges"]
    assert sum(card["missing"].values()) == flat.count(None)


def test_a_game_with_one_valid_order_counts_for_nobody(server: JudgeServer) -> None:
    server.persona = Persona(failing=0.6, kinds=("prose",))
    scores, report = judged(server, [[level(0.9), level(0.1)] for _ in range(10)], mode="pairwise")
    [card] = report["judges"]
    assert all((a is None) == (b is None) for a, b in scores) and any(a is None for a, _ in scores)
    assert all(a + b == pytest.approx(1) for a, b in scores if a is not None and b is not None)
    assert sum(card["missing"].values()) >= sum(a is None for a, _ in scores)


def test_an_empty_or_looping_answer_scores_0_without_a_call(server: JudgeServer) -> None:
    loop = "Nii see on ja nii see jääb. " * 60
    scores, _ = judged(server, [["", loop, level(0.5)]])
    assert scores[0][:2] == [0.0, 0.0] and server.calls == 1
    scores, _ = judged(server, [["", loop, level(0.5)]], mode="pairwise")
    assert scores == [[0.25, 0.25, 1.0]] and server.calls == 1


def test_what_was_judged_is_not_asked_again(server: JudgeServer) -> None:
    answers = [[level(0.9), level(0.2)]]
    before, _ = judged(server, answers)
    calls = server.calls
    after, _ = judged(server, [*answers, [level(0.4)]])
    assert after[:1] == before and server.calls == calls + 1 and not server.paid_twice


def test_the_judge_reads_the_whole_conversation(server: JudgeServer) -> None:
    messages = [{"role": "system", "content": "Ole lühike."}, USER, said("Vesi."), {"role": "user", "content": "Veel?"}]
    scorer = JudgeScorer(JudgeSettings(f"{server.endpoint.name}@{server.url}"), "tiny")
    scorer.score([Prompt("1", tuple(messages), "x")], [[level(0.5)]], silent)
    [body] = server.asked
    text = json.loads(body)["messages"][-1]["content"]
    assert "Ole lühike." in text and "Vesi." in text and "Veel?" in text and level(0.5) in text


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"rubric": "helpfulnes"}, "Did you mean 'helpfulness'"),
        ({"least": 2}, "can't be had of 1 judges"),
        ({"options": {"concurency": "3"}}, "judge.concurency"),
        ({"rubric": "equivalence"}, "has no mode 'pointwise'"),
    ],
)
def test_slips_in_a_judges_settings_are_named(keys: Row, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        JudgeScorer(JudgeSettings("judge@http://127.0.0.1:9/v1", **keys), "tiny")


def test_a_conversation_that_ends_with_an_answer_names_the_right_one_by_it() -> None:
    from estbench_training.scorers import exact, overlap

    row = {"messages": [{"role": "user", "content": "Mis?"}, {"role": "assistant", "content": "Öö."}]}
    assert exact(row, "öö") == 1.0 and exact(row, "päev") == 0.0 and overlap(row, "öö") == 1.0
    with pytest.raises(KeyError):
        exact({"messages": row["messages"][:1]}, "öö")
