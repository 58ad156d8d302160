"""Numbers of judges that must not mislead: what is known without a judge, what is missing, whose number it is."""

from __future__ import annotations

import dataclasses
import json
import threading
from pathlib import Path

import numpy as np
import pytest
from estbench_judges import calibration, items, layers
from estbench_judges.judging import Wishes, assign
from judge_server import JudgeServer, Persona
from judge_world import answered, quality_of, text_of, write_prompts

from estbench import judged
from estbench.cli import main
from estbench.runs import Run, Score

Said = pytest.CaptureFixture[str]


def judge(run: Run, server: JudgeServer, *words: str) -> int:
    return main(["judge", f"run={run.id}", f"judge={server.endpoint.name}@{server.url}", "output=json", *words])


def scores(run: Run) -> dict[str, Score]:
    return {score.metric: score for score in Run(run.path).scores() if score.task == "own_chat"}


def test_answers_to_tasks_of_others_are_not_screened_for_their_language(home: Path, capsys: Said) -> None:
    """A translation into English is in English: no gate may call that a failure."""
    english = "The weather was cold and the children went home early because it was getting dark outside the house."
    run = answered(Path(), lambda prompt: english, tasks="mini_translate_et_en_chat", name="tõlkija", limit=6)
    assert {one.language for one in items.read(run, "mini_translate_et_en_chat")} == {items.ANY}
    given = assign(run, "mini_translate_et_en_chat", Wishes(rubric="equivalence"))
    assert len(given.asked) == 6 and not given.fixed


def test_two_rubrics_on_a_task_of_others_have_metrics_of_their_own(home: Path, capsys: Said) -> None:
    run = answered(Path(), lambda prompt: text_of(0.6, prompt), tasks="mini_qa_chat", name="vastaja", limit=8)
    with JudgeServer(quality_of) as server:
        for rubric in ("helpfulness", "language_quality"):
            assert judge(run, server, "task=mini_qa_chat", f"rubric={rubric}", "mode=pointwise") == 0
    names = [score.metric for score in Run(run.path).scores()]
    assert len(names) == len(set(names)) and {"rating/helpfulness", "rating/language_quality"} <= set(names)


def test_a_document_without_an_answer_of_the_anchor_is_missing_and_not_out_of_the_plan(
    home: Path, tmp_path: Path, capsys: Said
) -> None:
    prompts = write_prompts(tmp_path / "own.jsonl", 20)
    rows = [json.loads(line) for line in prompts.read_text("utf-8").splitlines()]
    for row in rows[:8]:
        del row["answer"]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    run = answered(prompts, lambda prompt: text_of(0.7, prompt), name="hea")
    with JudgeServer(quality_of) as server:
        assert judge(run, server, "task=own_chat") == 0
    score = scores(run)["win_rate"]
    assert (score.n, score.n_planned, score.errors) == (12, 20, 8) and "bounds" in score.method


def test_a_judge_without_a_valid_verdict_gives_no_score(home: Path, tmp_path: Path, capsys: Said) -> None:
    prompts = write_prompts(tmp_path / "own.jsonl", 8)
    run = answered(prompts, lambda prompt: "" if "number 1:" in prompt else text_of(0.7, prompt), name="hea")
    with JudgeServer(quality_of, Persona(failing=1.0, kinds=("prose",))) as server:
        assert judge(run, server, "task=own_chat") == 4
        assert (
            main(["judge", "attack", f"judge=judge@{server.url}", "limit=1", "output=json"]) == 4
        )  # nor is it cleared
    assert scores(run)["win_rate"].value is None  # what was screened alone is no verdict of a judge


def test_other_verdicts_on_the_same_answers_are_another_result(home: Path, tmp_path: Path, capsys: Said) -> None:
    run = answered(write_prompts(tmp_path / "own.jsonl", 12), lambda prompt: text_of(0.6, prompt), name="hea")
    results = []
    for persona in (Persona(), Persona(always="B")):
        with JudgeServer(quality_of, persona, name="sama") as server:
            assert judge(run, server, "task=own_chat") == 0
        results.append(Run(run.path).manifest["identity"]["result"])
    assert results[0] != results[1]
    assert "are replaced" in capsys.readouterr().err  # a run has one layer of a rubric and mode, and that is said


def test_opposite_position_biases_do_not_cancel(home: Path, tmp_path: Path, capsys: Said) -> None:
    run = answered(write_prompts(tmp_path / "own.jsonl", 20), lambda prompt: text_of(0.6, prompt), name="hea")
    with JudgeServer(quality_of, Persona(always="A")) as a, JudgeServer(quality_of, Persona(always="B"), name="b") as b:
        words = [f"run={run.id}", f"judges=judge@{a.url},b@{b.url}", "task=own_chat", "output=json"]
        assert main(["judge", *words]) == 0
    assert abs(scores(run)["win_rate/first_position_bias"].value or 0.0) == 1.0


def test_two_commands_at_once_ask_each_case_once(home: Path, tmp_path: Path) -> None:
    run = answered(write_prompts(tmp_path / "own.jsonl", 12), lambda prompt: text_of(0.6, prompt), name="hea")
    with JudgeServer(quality_of, latency=0.02) as server:
        both = [threading.Thread(target=judge, args=(run, server, "task=own_chat")) for _ in range(2)]
        for one in both:
            one.start()
        for one in both:
            one.join(120)
        assert not server.paid_twice and server.calls == 24


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_a_correction_covers_the_truth_where_answers_were_screened(home: Path, tmp_path: Path, share: float) -> None:
    """1,000 label sets drawn from what judges were asked: ≥ 93 %; with all documents as one population far fewer."""
    n, labelled = 400, 200
    prompts = write_prompts(tmp_path / "own.jsonl", n)
    empty = round(share * n)
    run = answered(prompts, lambda p: "" if int(p.split("number ")[1].split(":")[0]) < empty else text_of(0.6, p))
    given = assign(run, "own_chat", Wishes())
    assert len(given.fixed) == empty and len(given.asked) == n - empty
    dice = np.random.default_rng(3)
    covered = 0
    for _ in range(1000):
        truth = np.where(dice.random(n) < 0.5, 1.0, 0.0)
        judge_says = np.clip(truth * 0.6 + 0.3 + dice.normal(0, 0.1, n), 0, 1)  # it likes what it sees
        places = {one.doc_id: i for i, one in enumerate(given.items)}
        for doc in given.fixed:
            truth[places[doc]] = judge_says[places[doc]] = 0.0
        asked = np.array([places[one.doc_id] for one in given.asked])
        human = np.full(n, np.nan)
        drawn = dice.choice(asked, labelled, replace=False)
        human[drawn] = truth[drawn]
        found = calibration._corrected(Fixed(given, judge_says), human)  # type: ignore[arg-type]
        assert isinstance(found, layers.Interval) or found.value is not None  # type: ignore[union-attr]
        target = 0.5 * len(asked) / n  # of documents like these
        covered += bool(found.low <= target <= found.high)  # type: ignore[union-attr,operator]
    assert covered >= 930


@dataclasses.dataclass
class Fixed:
    """As much of a `Judged` as a correction needs."""

    given: object
    panel: np.ndarray


def test_a_layer_that_is_not_what_its_name_says_is_refused(home: Path, tmp_path: Path, capsys: Said) -> None:
    run = answered(write_prompts(tmp_path / "own.jsonl", 6), lambda prompt: text_of(0.6, prompt), name="hea")
    with JudgeServer(quality_of) as server:
        assert judge(run, server, "task=own_chat") == 0
    [path] = (run.path / "judgments").glob("*.json")
    row = json.loads(path.read_text("utf-8"))
    for change in (
        {"rubric": "../../etc"},
        {"values": {"exact_match": {"0": 1.0}}},
        {"values": {"win_rate": {"0": 7}}},
    ):
        path.write_text(json.dumps(row | change), "utf-8")
        with pytest.raises(judged.StoreError, match="can't be read"):
            judged.layers(run.path)


def test_a_secret_in_extra_is_refused_before_it_is_recorded(home: Path, tmp_path: Path, capsys: Said) -> None:
    run = answered(write_prompts(tmp_path / "own.jsonl", 4), lambda prompt: text_of(0.6, prompt), name="hea")
    words = [f"run={run.id}", "judge=j@http://127.0.0.1:9/v1", 'judge.extra={"api_key": "sk-1"}']
    assert main(["judge", *words]) == 2 and "sk-1" not in capsys.readouterr().err
