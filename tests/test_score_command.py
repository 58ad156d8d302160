"""`estbench score`: answers made elsewhere get the score that an eval gives them, or one line that says why not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from worlds import World

from estbench import cli, registry, runner
from estbench.config import EvalSettings
from estbench.engines.mock import MockEngine, MockTokens, mock_checkpoint
from estbench.plan import Scope, render
from estbench.runs import Run

Cli = Callable[..., tuple[int, dict[str, Any], str]]

GEC = """
task: correct
dataset_path: own/correct
dataset_name: et
output_type: generate_until
test_split: test
doc_to_text: "Paranda: {{source}}"
doc_to_target: "{{source}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 64, do_sample: false}
process_results: !function functions.gec_results
metric_list:
  - {metric: f0.5, aggregation: !function functions.gec_aggregation, higher_is_better: true}
metadata: {version: 1, primary: f0.5, chance: 0.0, form: completion, cluster: "{{text}}"}
"""
M2 = """S Mulle on raamat .
A 0 1|||R:CASE|||Mul|||REQUIRED|||-NONE-|||0

S Ta läheb kool .
A 2 3|||R:CASE|||kooli||koolisse|||REQUIRED|||-NONE-|||0

S Ilus ilm on .
A -1 -1|||noop|||-NONE-|||REQUIRED|||-NONE-|||0
"""


@pytest.fixture
def world(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path / "world")
    monkeypatch.setattr(registry, "project_file", lambda name: made.folder / name)
    monkeypatch.setenv("ESTBENCH_DATA", str(made.data))
    (made.tasks / "functions.py").write_text("from estbench.metrics.tasks import *\n", "utf-8")
    (made.tasks / "correct.yaml").write_text(GEC, "utf-8")
    made.fill(
        "correct", [{"source": "Mulle on abi .", "source_tokens": ["Mulle", "on", "abi", "."], "edits": [], "text": 1}]
    )
    return made


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Cli:
    """(exit code, what stdout's JSON holds, stderr)."""

    def call(*arguments: str) -> tuple[int, dict[str, Any], str]:
        code = cli.main(["score", *arguments])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out.strip().startswith("{") else {"table": out}, err

    return call


def evaluated(world: World, task: str, answer: Callable[[str], str]) -> Run:
    engine, tokens = MockEngine(answer), MockTokens()
    given: Any = tokens
    plan = render(registry.Registry().task(task), given, engine.max_length, Scope(data=world.data))
    return runner.evaluate(
        runner.Job(EvalSettings(model="mock", tasks=task), mock_checkpoint(), given, engine, [plan], [], {})
    )


def some_right(world: World) -> Callable[[str], str]:
    """Right for some documents, wrong for some, nothing for some."""
    rows = [json.loads(line) for line in world.file("words").read_text("utf-8").splitlines()]
    answers = {row["question"]: [row["second"], "ei tea", ""][i % 3] for i, row in enumerate(rows)}
    return lambda prompt: answers[prompt.rsplit("Küsimus: ", 1)[1].split("\n")[0]]


def answers_of(run: Run, task: str) -> list[dict[str, Any]]:
    hashes = {sample.doc_id: sample.doc_hash for sample in run.samples(task)}
    return [
        {"doc_id": row["doc_id"], "doc_hash": hashes[row["doc_id"]], "response": row["text"]}
        for row in run.responses(task)
    ]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture
def answers(world: World) -> list[dict[str, Any]]:
    return answers_of(evaluated(world, "words", some_right(world)), "words")


def test_the_same_answers_get_the_same_score_as_in_an_eval(world: World, run: Cli, tmp_path: Path) -> None:
    done = evaluated(world, "words", some_right(world))
    rows = answers_of(done, "words")
    code, found, err = run("task=words", f"outputs={write(tmp_path / 'a.jsonl', rows[::-1])}", "name=mujal")
    assert code == 0 and not err
    assert found["scores"] == [asdict(score) for score in done.scores()]
    assert found["name"] == "mujal" and 0 < found["scores"][0]["value"] < 1
    assert found["scores"][0]["ci_low"] is not None
    lines = tmp_path / "a.txt"
    lines.write_text("".join(f"{row['response']}\n" for row in rows), "utf-8")
    assert run("task=words", f"outputs={lines}")[1]["scores"] == found["scores"]
    others = write(tmp_path / "b.jsonl", [row | {"response": "ei tea"} for row in rows])
    assert run("task=words", f"outputs={others}")[1]["scores"] != found["scores"]


def test_a_corpus_metric_is_the_same_too(world: World, run: Cli, tmp_path: Path) -> None:
    (tmp_path / "gold.m2").write_text(M2, "utf-8")
    outputs = tmp_path / "o.txt"
    outputs.write_text("Mul on raamat .\nTa läheb kooli .\nIlus ilm on .\n", "utf-8")
    whole = run("task=correct", f"outputs={outputs}", f"gold={tmp_path / 'gold.m2'}")[1]["scores"]
    assert {score["metric"]: score["value"] for score in whole} == {
        "f0.5": 1.0,
        "gec_precision": 1.0,
        "gec_recall": 1.0,
    }
    assert whole[0]["n"] == 3
    outputs.write_text("Mul on raamat .\nTa läheb kool .\nIlus ilm olema .\n", "utf-8")
    half = run("task=correct", f"outputs={outputs}", f"gold={tmp_path / 'gold.m2'}")[1]["scores"]
    assert {score["metric"]: score["value"] for score in half} == {"f0.5": 0.5, "gec_precision": 0.5, "gec_recall": 0.5}


def test_an_m2_file_with_oddities_is_read_and_they_are_said(world: World, run: Cli, tmp_path: Path) -> None:
    (tmp_path / "gold.m2").write_bytes(("\ufeff" + M2).replace("\n", "\r\n").encode())
    outputs = tmp_path / "o.txt"
    outputs.write_bytes("\ufeffMul on raamat .\r\nTa läheb koolisse .\r\nIlus ilm on .\r\n".encode())
    code, found, err = run("task=correct", f"outputs={outputs}", f"gold={tmp_path / 'gold.m2'}")
    assert code == 0 and found["scores"][0]["value"] == 1.0 and "CRLF" in err
    (tmp_path / "gold.m2").write_text("see pole M2\n", "utf-8")
    code, _, err = run("task=correct", f"outputs={outputs}", f"gold={tmp_path / 'gold.m2'}")
    assert code == 2 and "gold.m2, line 1" in err and err.count("\n") == 1


def test_gold_is_refused_where_it_means_nothing(
    world: World, run: Cli, tmp_path: Path, answers: list[dict[str, Any]]
) -> None:
    (tmp_path / "gold.m2").write_text(M2, "utf-8")
    code, _, err = run("task=words", f"outputs={write(tmp_path / 'a.jsonl', answers)}", f"gold={tmp_path / 'gold.m2'}")
    assert code == 2 and "golds of its own" in err


def test_what_has_no_answer_is_missing_and_it_is_said(
    world: World, run: Cli, tmp_path: Path, answers: list[dict[str, Any]]
) -> None:
    full = run("task=words", f"outputs={write(tmp_path / 'a.jsonl', answers)}")[1]["scores"][0]
    code, found, err = run("task=words", f"outputs={write(tmp_path / 'a.jsonl', answers[:6])}")
    score = found["scores"][0]
    assert code == 0 and err.count("\n") == 1 and "6 of 12 documents" in err and "6, 7, 8, …" in err
    assert (score["n"], score["n_planned"], score["errors"]) == (6, 12, 6)
    assert full["value"] == pytest.approx(1 / 3) and score["value"] == pytest.approx(1 / 3)  # not a sixth


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [*rows, rows[3]], "line 13: document 3 is answered a second time"),
        (lambda rows: [*rows, {"doc_id": 12, "response": ""}], "no document 12"),
        (lambda rows: [*rows[1:], {"doc_id": -1, "response": ""}], "no document -1"),
        (lambda rows: [{"doc_id": "0", "response": ""}], "whole number"),
        (lambda rows: [{"doc_id": True, "response": ""}], "whole number"),
        (lambda rows: [{"doc_id": 0, "response": None}], "leave out"),
        (lambda rows: [{"doc_id": 0, "answer": "x"}], "response"),
        (lambda rows: [rows[0] | {"doc_hash": rows[1]["doc_hash"]}], "other data"),
        (lambda rows: [], "empty"),
    ],
)
def test_answers_that_do_not_fit_are_refused_in_one_line(
    change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]],
    message: str,
    world: World,
    run: Cli,
    tmp_path: Path,
    answers: list[dict[str, Any]],
) -> None:
    code, _, err = run("task=words", f"outputs={write(tmp_path / 'a.jsonl', change(answers))}")
    assert code == 2 and message in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\n" * 11, "11 lines, the task 12 documents"),
        (b"a\n" * 11 + b"\n\n", "13 lines"),
        (b"\xff\xfe\n" * 12, "not UTF-8"),
        (b"", "empty"),
        (b'{"doc_id": 0, "response": "a"}\nno JSON\n', "line 2 is no JSON"),
    ],
)
def test_plain_text_that_does_not_fit_is_refused_in_one_line(
    content: bytes, message: str, world: World, run: Cli, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    code, _, err = run("task=words", f"outputs={tmp_path / 'a.txt'}")
    assert code == 2 and message in err and err.count("\n") == 1


def test_a_byte_order_mark_and_crlf_change_nothing(
    world: World, run: Cli, tmp_path: Path, answers: list[dict[str, Any]]
) -> None:
    answers[-1]["response"] = "ei tea"
    plain = run("task=words", f"outputs={write(tmp_path / 'a.jsonl', answers)}")[1]["scores"]
    content = "\r\n".join(row["response"] for row in answers)
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + content.encode())  # no line end behind the last
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbf" + content.encode() + b"\r\n")
    (tmp_path / "b.jsonl").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "a.jsonl").read_bytes().replace(b"\n", b"\r\n"))
    for name in ("a.txt", "b.txt", "b.jsonl"):
        assert run("task=words", f"outputs={tmp_path / name}")[1]["scores"] == plain, name


def test_an_answer_ends_at_the_tasks_stop_strings(
    world: World, run: Cli, tmp_path: Path, answers: list[dict[str, Any]]
) -> None:
    plain = run("task=words", f"outputs={write(tmp_path / 'a.jsonl', answers)}")[1]["scores"]
    longer = [row | {"response": f"{row['response']}\n\nKüsimus: veel?"} for row in answers]
    assert run("task=words", f"outputs={write(tmp_path / 'b.jsonl', longer)}")[1]["scores"] == plain
    world.edit("words", generation_kwargs={"until": [], "max_gen_toks": 6, "do_sample": False})  # the control
    assert run("task=words", f"outputs={tmp_path / 'b.jsonl'}")[1]["scores"] != plain


def test_a_task_of_log_likelihoods_is_refused_and_the_other_form_named(world: World, run: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("A\n" * 12)
    code, _, err = run("task=letters", f"outputs={tmp_path / 'a.txt'}")
    assert code == 2 and "log-likelihoods" in err and "no form" in err and err.count("\n") == 1
    world.write(world.read("words") | {"task": "letters_chat"})
    assert "task=letters_chat" in run("task=letters", f"outputs={tmp_path / 'a.txt'}")[2]


def test_files_and_tasks_that_are_not_there_are_one_line(world: World, run: Cli, tmp_path: Path) -> None:
    code, _, err = run("task=words", f"outputs={tmp_path / 'none.txt'}")
    assert code == 2 and "none.txt" in err and err.count("\n") == 1
    code, _, err = run("task=wrds", f"outputs={tmp_path / 'none.txt'}")
    assert code == 2 and "'words'" in err


def test_nothing_is_written(world: World, run: Cli, tmp_path: Path, home: Path, answers: list[dict[str, Any]]) -> None:
    before = sorted(home.rglob("*"))
    assert run("task=words", f"outputs={write(tmp_path / 'a.jsonl', answers)}", "output=table")[0] == 0
    assert sorted(home.rglob("*")) == before


def test_the_table_is_evals(world: World, run: Cli, tmp_path: Path, answers: list[dict[str, Any]]) -> None:
    _, found, _ = run("task=words", f"outputs={write(tmp_path / 'a.jsonl', answers)}", "output=table")
    for word in ("a.jsonl", "words", "exact_match", "95 % interval", "33.3"):
        assert word in found["table"]


def test_records_without_doc_id_are_not_taken_for_answers(world: World, run: Cli, tmp_path: Path) -> None:
    path = tmp_path / "answers.txt"
    path.write_text("".join(json.dumps({"id": i, "response": "x"}) + "\n" for i in range(12)), "utf-8")
    code, _, err = run("task=words", f"outputs={path}")
    assert code == 2 and "needs doc_id" in err


def test_answers_that_a_stop_cuts_are_counted(world: World, run: Cli, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    said = ["\nõun", "pirn", "tool \n"]  # the last one loses nothing but a space
    path.write_text("".join(json.dumps({"doc_id": i, "response": text}) + "\n" for i, text in enumerate(said)), "utf-8")
    code, _, err = run("task=words", f"outputs={path}")
    assert code == 0 and "1 of 3 answers were cut at a stop of words" in err and "task=words_chat" in err
