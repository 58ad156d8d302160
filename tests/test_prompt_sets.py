"""A prompt set of one's own by its path: any file that somebody may have, what is odd in it by its line, nothing of it
in public."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from judge_server import JudgeServer
from judge_world import answered, quality_of, text_of, write_prompts

from estbench import judged, prompt_sets
from estbench.cli import main
from estbench.database import open_database, queries
from estbench.errors import ConfigError, DataError, EstbenchError
from estbench.exports import export
from estbench.registry import Registry
from estbench.runs import Run

Said = pytest.CaptureFixture[str]
SECRET = "Salajane küsimus"


def written(path: Path, *rows: Any) -> Path:
    lines = (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return path


def simple(n: int = 3, **more: Any) -> list[dict[str, Any]]:
    return [{"prompt": f"{SECRET} {i}: mis on {i} + {i}?", **more} for i in range(n)]


def whole(prompt: str) -> str:
    return text_of(0.7, prompt)


def text_in(folder: Path) -> str:
    parts = []
    for path in folder.rglob("*"):
        if path.is_file():
            raw = path.read_bytes()
            parts.append((gzip.decompress(raw) if path.suffix == ".gz" else raw).decode())
    return "\n".join(parts)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return prompt_sets.rows(Registry().select(str(path)).tasks[0])["test"]


# --- what is a prompt set ---------------------------------------------------------------------------------------------


def test_a_set_stands_beside_suites_and_tasks(tmp_path: Path, home: Path) -> None:
    path = written(tmp_path / "own.jsonl", *simple())
    names = [task.name for task in Registry().select(f"mini,{path},estqa_chat").tasks]
    mini = [task.name for task in Registry().select("mini").tasks]
    assert names == [*mini, "own_chat", "own_language_chat", "estqa_chat"]
    assert [prompt_sets.is_one(task) for task in Registry().select(f"estqa_chat,{path}").tasks] == [False, True, True]
    run = answered(path, whole, tasks=f"estinstruct_chat,{path}", limit=2)
    assert run.tasks == ["estinstruct_chat", "own_chat", "own_language_chat"]
    assert judged.awaiting(run) == run.tasks


def test_rows_with_nothing_but_a_prompt_are_enough(tmp_path: Path, home: Path) -> None:
    path = written(tmp_path / "own.jsonl", *simple(4), "", "   ")
    run = answered(path, whole)
    assert len(list(run.samples("own_chat"))) == 4 and not run.unanswered
    names = {*prompt_sets.TEXTS, *prompt_sets.LISTS}
    assert all(set(row) == names for row in rows_of(path))


def test_without_answers_of_its_own_pairs_have_no_anchor_and_grades_go_on(
    tmp_path: Path, home: Path, capsys: Said
) -> None:
    run = answered(written(tmp_path / "own.jsonl", *simple(4)), whole)
    other = answered(tmp_path / "own.jsonl", lambda prompt: text_of(0.3, prompt), name="halb")
    with JudgeServer(quality_of) as server:
        words = ["judge", f"run={run.id}", f"judge=judge@{server.url}", "task=own_chat", "output=json"]
        capsys.readouterr()
        assert main(words) == 2
        err = capsys.readouterr().err
        assert "anchor=RUN" in err and "no answers of its own" in err and err.count("\n") == 1 and not server.calls
        assert main([*words, "mode=pointwise"]) == 0
        assert json.loads(capsys.readouterr().out)[0]["scores"][0]["n"] == 4
        assert main([*words, f"anchor={other.id}"]) == 0
        assert json.loads(capsys.readouterr().out)[0]["scores"][0]["value"] > 0.6
        for mode, why in (("equivalence", "no reference"), ("checklist", "no checklist")):
            rubric = {"equivalence": "equivalence", "checklist": "instruction_following"}[mode]
            assert main([*words, f"rubric={rubric}", f"mode={mode}"]) == 2 and why in capsys.readouterr().err


def test_every_field_reaches_the_judge(tmp_path: Path, home: Path, capsys: Said) -> None:
    path = write_prompts(tmp_path / "own.jsonl", 6, two_turns=2)
    run = answered(path, whole)
    with JudgeServer(quality_of) as server:
        for more in ([], ["rubric=instruction_following", "mode=checklist"], ["rubric=conversation"]):
            assert main(["judge", f"run={run.id}", f"judge=judge@{server.url}", "task=own_chat", *more]) == 0
        asked = "\n".join(json.loads(body)["messages"][-1]["content"] for body in server.asked)
    for word in ("Ja nüüd lühemalt, palun.", "aastaaeg 3", "Kas vastus on lühike?", "<<<BEGIN CRITERIA"):
        assert word in asked


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("minu küsimused.jsonl", "minu_kusimused"),
        ("Õ Ä Ü.jsonl", "o_a_u"),
        ("žürii-2026 (v2).jsonl", "zurii_2026_v2"),
        ("ÕUNAD.jsonl", "ounad"),
        ("вопросы.jsonl", "prompts"),
        ("a.b.jsonl", "a_b"),
    ],
)
def test_any_file_name_will_do(tmp_path: Path, home: Path, name: str, task: str) -> None:
    path = written(tmp_path / "Minu kaust õige" / name, *simple())
    run = answered(path, whole, tasks=str(path))
    assert run.tasks == [f"{task}_chat", f"{task}_language_chat"]
    assert run.manifest["tasks"][f"{task}_chat"]["title"]["et"] == path.stem
    with JudgeServer(quality_of) as server:
        words = ["judge", f"run={run.id}", f"judge=judge@{server.url}", f"task={task}_chat", "mode=pointwise"]
        assert main(words) == 0


def test_a_path_from_the_folder_one_is_in_and_from_one_s_home_will_do(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path / "own.jsonl", *simple())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for word in ("own.jsonl", "./own.jsonl", "~/own.jsonl"):
        tasks = Registry().select(word).tasks
        assert [task.name for task in tasks] == ["own_chat", "own_language_chat"], word
        assert len(prompt_sets.rows(tasks[0])["test"]) == 3


def test_lines_may_end_as_on_windows_and_hold_line_separators(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    row = json.dumps({"prompt": "Üks\u2028kaks\x85kolm"}, ensure_ascii=False)
    path.write_bytes(f"{row}\r\n{row}\r\n".encode())
    assert [found["prompt"] for found in rows_of(path)] == ["Üks\u2028kaks\x85kolm"] * 2


def test_a_byte_order_mark_in_front_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"prompt": "Mis?"}).encode() + b"\n")
    assert rows_of(path)[0]["prompt"] == "Mis?"


# --- what is odd ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "part"),
    [
        ("{", "no JSON"),
        ("[]", '"prompt"'),
        ("3", '"prompt"'),
        ('{"promt": "Mis?"}', '"prompt"'),
        ({"prompt": ""}, '"prompt"'),
        ({"prompt": " \n"}, '"prompt"'),
        ({"prompt": 7}, '"prompt"'),
        ({"prompt": "Mis?", "anwser": "See."}, "'anwser'"),
        ({"prompt": "Mis?", "answer": ["See."]}, "answer is no text"),
        ({"prompt": "Mis?", "language": 3}, "language is no text"),
        ({"prompt": "Mis?", "checklist": "Kas?"}, "checklist is no list"),
        ({"prompt": "Mis?", "checklist": ["Kas?", 3]}, "checklist is no list"),
        ({"prompt": "Mis?", "checklist": [" "]}, "checklist is no list"),
        ({"prompt": "Mis?", "answer": "See.", "follow_up": "Ja?"}, "go together"),
        ({"prompt": "Mis?", "answer": "See.", "follow_up_answer": "Too."}, "go together"),
        ({"prompt": "Mis?", "follow_up": "Ja?", "follow_up_answer": "Too."}, "go together"),
        ({"prompt": "Mis?", "follow_up_answer": "Too."}, "go together"),
        ({"prompt": "Mis?", "follow_up_checklist": ["Kas?"]}, "go together"),
        ('{"prompt": "Mis?", "answer": NaN}', "answer is no text"),
    ],
)
def test_an_odd_row_is_one_line_with_its_file_and_number(tmp_path: Path, row: Any, part: str) -> None:
    path = written(tmp_path / "own.jsonl", *simple(2), "", row)
    with pytest.raises(DataError) as found:
        rows_of(path)
    assert f"{path}, line 4" in str(found.value) and part in str(found.value) and "\n" not in str(found.value)


def test_an_odd_row_stops_an_eval_before_anything_is_asked(tmp_path: Path, home: Path) -> None:
    path = written(tmp_path / "own.jsonl", *simple(2), {"prompt": 7})
    with pytest.raises(EstbenchError, match="line 3"):
        answered(path, lambda prompt: pytest.fail("nothing is asked"))


@pytest.mark.parametrize("raw", [b"", b"\n\n", b"\xff\xfe{}\n"])
def test_a_file_without_prompts_is_one_line(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "own.jsonl"
    path.write_bytes(raw)
    with pytest.raises(DataError) as found:
        rows_of(path)
    assert str(path) in str(found.value) and "\n" not in str(found.value)


def test_a_file_that_is_not_there_is_refused_before_a_model_is_looked_for(
    tmp_path: Path, home: Path, capsys: Said
) -> None:
    for word in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(ConfigError, match=r"none\.jsonl|no task"):
            Registry().select(str(word))
    assert main(["eval", "model=nobody/nothing", f"tasks={tmp_path / 'none.jsonl'}"]) == 2
    assert "there is no such file" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["estinstruct", "EstQA", "estinstruct-language"])
def test_a_set_can_t_take_the_name_of_a_task_of_ours(tmp_path: Path, home: Path, name: str) -> None:
    """Its scores would stand in the public task's place."""
    path = written(tmp_path / f"{name}.jsonl", *simple())
    with pytest.raises(ConfigError, match="rename the file") as found:
        Registry().select(str(path))
    assert "\n" not in str(found.value)


def test_two_sets_of_one_name_are_not_taken_for_one(tmp_path: Path, home: Path) -> None:
    one = written(tmp_path / "a" / "own.jsonl", *simple(2))
    two = written(tmp_path / "b" / "own.jsonl", *simple(3))
    with pytest.raises(EstbenchError, match="own_chat"):
        answered(one, whole, tasks=f"{one},{two}")


# --- nothing of it is published ---------------------------------------------------------------------------------------


def test_nothing_of_it_is_published(tmp_path: Path, home: Path, capsys: Said) -> None:
    rows = [{**row, "answer": text_of(0.5, row["prompt"])} for row in simple(4)]
    run = answered(written(tmp_path / "minu saladus" / "own.jsonl", *rows), whole)
    with JudgeServer(quality_of) as server:
        assert main(["judge", f"run={run.id}", f"judge=judge@{server.url}"]) == 0
    run = Run(run.path)
    secrets = [SECRET, "tase 0.", "minu saladus", str(tmp_path)]
    secrets += [sample.doc_hash for sample in run.samples("own_chat")]
    assert all(secret in text_in(run.path) for secret in secrets)  # it is there to be found
    assert export(run, tmp_path / "public", private=False) == ["own_chat", "own_language_chat"]
    assert main(["runs", "export", f"run={run.id}", f"to={tmp_path / 'eee'}", "form=eee"]) == 0
    for folder in (tmp_path / "public", tmp_path / "eee"):
        text = text_in(folder)
        assert not [secret for secret in secrets if secret in text] and "own_chat" in text
    assert Run(tmp_path / "public").scores() == run.scores()
    card = Registry().select(str(tmp_path / "minu saladus" / "own.jsonl")).tasks[0].metadata
    assert card["publish_items"] is False and card["canary"] is None and card["licence"] == "private"


def test_the_database_knows_that_its_items_are_private(tmp_path: Path, home: Path) -> None:
    run = answered(written(tmp_path / "own.jsonl", *simple(4)), whole)
    with open_database(None) as database:
        assert {row.score.task for row in queries.scores(database, runs=[run.id])} == set(run.tasks)
    assert all(card["publish_items"] is False for card in run.manifest["tasks"].values())


def test_an_edited_row_is_another_document(tmp_path: Path, home: Path) -> None:
    path = written(tmp_path / "own.jsonl", *simple(3))
    before = {sample.doc_hash for sample in answered(path, whole).samples("own_chat")}
    written(path, *simple(2), {"prompt": "Uus?"})
    after = {sample.doc_hash for sample in answered(path, whole).samples("own_chat")}
    assert len(before & after) == 2 and len(after) == 3
