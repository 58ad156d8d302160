"""Judging a run: what a panel's report names, what the run folder and the database hold afterwards, a run that awaits
its judge, and what is asked again after a change. Against scripted judges on loopback."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from estbench_judges import rubrics
from judge_server import JudgeServer, Persona, roll
from judge_world import answered, quality_of, text_of, write_prompts
from stub_endpoint import Endpoint, Words

from estbench import identity, judged
from estbench.cli import main
from estbench.database import open_database, queries
from estbench.runs import Run, Score

TASK, LANGUAGE = "own_chat", "own_language_chat"
Said = pytest.CaptureFixture[str]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def of(server: JudgeServer) -> str:
    return f"{server.endpoint.name}@{server.url}"


def judge(run: Run, *words: str, code: int = 0) -> None:
    assert main(["judge", f"run={run.path}", *words]) == code


def scores_of(run: Run, task: str = TASK) -> dict[str, Score]:
    return {score.metric: score for score in Run(run.path).scores() if score.task == task}


def indexed(run: Run, task: str = TASK) -> dict[str, Score]:
    """What the database has."""
    with open_database(None) as database:
        rows = queries.scores(database, runs=[run.id], tasks=[task])
    return {row.score.metric: row.score for row in rows}


def card_of(run: Run, task: str = TASK) -> dict[str, Any]:
    [card] = Run(run.path).manifest["tasks"][task]["judge"]["layers"]
    return dict(card)


def one_line(err: str) -> str:
    """What an error says: one line, with no traceback before it."""
    assert "Traceback" not in err
    [line] = [line for line in err.splitlines() if line.startswith("estbench: ")]
    return line


# --- a panel with one bad judge of three ------------------------------------------------------------------------------

PROMPTS = 150
FAULTY = {
    "position": Persona(first=0.7),
    "length": Persona(length=0.3),
    "collapse": Persona(always="A"),
    "family": Persona(family="llama"),
    "failures": Persona(failing=0.1, kinds=("400",)),
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A model of the llama family a bit better than the anchor; its answers are of all lengths."""
    folder = tmp_path_factory.mktemp("panel")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESTBENCH_HOME", str(folder / "home"))
        prompts = write_prompts(folder / "own.jsonl", PROMPTS)

        def answer(prompt: str) -> str:
            return f"Llama vastab. {text_of(0.62, prompt, words=int(20 * 8 ** roll(prompt)))}"

        yield answered(prompts, answer, name="llama-hea")


def noisy(name: str) -> JudgeServer:
    """An honest judge with small opinions of its own."""
    return JudgeServer(lambda text: quality_of(text) + 0.1 * (roll(name, text) - 0.5), name=name)


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTY)
def test_the_report_names_the_fault_of_the_faulty_judge_alone(
    llama: Run, tmp_path: Path, fault: str, capsys: Said
) -> None:
    bad = JudgeServer(quality_of, FAULTY[fault], name=f"paha-{fault}")
    with noisy("aus") as a, noisy("õige") as b, bad:
        panel = [{"model": one.endpoint.name, "url": one.url, "family": "muu"} for one in (a, b, bad)]
        panel[2]["family"] = "llama" if fault == "family" else "kolmas"
        (tmp_path / "panel.yaml").write_text(yaml.safe_dump({"judges": panel}), "utf-8")
        code = 4 if fault == "failures" else 0
        judge(llama, f"judges={tmp_path / 'panel.yaml'}", f"task={TASK}", "output=table", code=code)
    out = capsys.readouterr().out
    rows = {row["name"]: row for row in card_of(llama)["judges"]}
    found = {name: [one["name"] for one in row["faults"]] for name, row in rows.items()}
    assert found == {"aus": [], "õige": [], bad.endpoint.name: [fault]}
    assert f", {fault}: " in out and out.count("fault, ") + out.count("doubt, ") == 1
    assert [row["kin"] for row in rows.values()] == [False, False, fault == "family"]

    honest = float(np.mean([rows["aus"]["value"], rows["õige"]["value"]]))
    panel_value = scores_of(llama)["win_rate"].value
    mean = float(np.mean([row["value"] for row in rows.values()]))  # negative control: instead of the median
    assert panel_value is not None and abs(panel_value - honest) < 0.025
    if fault != "failures":
        assert abs(mean - honest) > max(0.025, 2 * abs(panel_value - honest))


# --- judges of the model's own family ---------------------------------------------------------------------------------


@dataclass
class Small:
    """A small world: its prompts, a run, and a judge that stays."""

    folder: Path
    prompts: Path
    run: Run
    server: JudgeServer


N = 12


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Small]:
    folder = tmp_path_factory.mktemp("small")
    with pytest.MonkeyPatch.context() as patch, JudgeServer(quality_of, name="kohtunik") as server:
        patch.setenv("ESTBENCH_HOME", str(folder / "home"))
        prompts = write_prompts(folder / "own.jsonl", N, two_turns=2)
        run = answered(prompts, lambda prompt: text_of(0.7, prompt), name="qwen-hea")
        yield Small(folder, prompts, run, server)


@pytest.fixture
def here(small: Small, monkeypatch: pytest.MonkeyPatch) -> Small:
    monkeypatch.setenv("ESTBENCH_HOME", str(small.folder / "home"))
    return small


def test_a_judge_of_the_model_s_family_is_flagged_and_the_number_without_it_shown(here: Small, capsys: Said) -> None:
    with JudgeServer(quality_of, Persona(always="A_much"), name="qwen3-32b") as kin, noisy("gemma-3") as other:
        judge(here.run, f"judges={of(kin)},{of(other)}", f"task={TASK}", "output=table")
        scores = scores_of(here.run)
        card = card_of(here.run)
        assert [(row["family"], row["kin"]) for row in card["judges"]] == [("qwen", True), ("gemma", False)]
        assert scores["win_rate/without_kin"].value == card["judges"][1]["value"] != scores["win_rate"].value
        assert "same family as the model" in capsys.readouterr().out

        judge(here.run, f"judges={of(kin)}", f"task={TASK}")  # nobody else is left
        assert card_of(here.run)["judges"][0]["kin"] and "win_rate/without_kin" not in scores_of(here.run)
        judge(here.run, f"judges={of(other)}", f"task={TASK}")  # negative control: no relative
        assert not card_of(here.run)["judges"][0]["kin"] and "win_rate/without_kin" not in scores_of(here.run)


# --- what a run holds afterwards --------------------------------------------------------------------------------------


def test_the_same_evidence_is_in_the_folder_the_database_and_the_json(here: Small, capsys: Said) -> None:
    judge(here.run, f"judge={of(here.server)}")
    capsys.readouterr()
    assert main(["runs", "show", f"run={here.run.id}", "output=json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    by_show = {(row["task"], row["metric"]): row for row in shown["scores"]}
    stored = json.loads((here.run.path / "scores.json").read_text("utf-8"))
    rows = [row for row in stored if row["task"] in (TASK, LANGUAGE) and str(row["signature"]).startswith("judge:")]
    assert len(rows) >= 8 and {row["metric"] for row in rows} >= {"win_rate", "win_rate/position_consistency"}
    by_index = {(task, name): one for task in (TASK, LANGUAGE) for name, one in indexed(here.run, task).items()}
    for row in rows:
        key = row["task"], row["metric"]
        for field, value in row.items():
            assert getattr(by_index[key], field) == value and by_show[key][field] == value, (key, field)
        assert row["signature"].endswith("|uncalibrated") and judged.state(row) == judged.UNCALIBRATED
        assert row["n"] + row["errors"] == row["n_planned"]
    with open_database(None) as database:
        docs = queries.items(database, here.run.id, TASK, "win_rate")
    assert np.mean(docs.values) == pytest.approx(scores_of(here.run)["win_rate"].value)


def test_judging_changes_the_result_s_identity_and_keeps_the_run_s_id(here: Small) -> None:
    plain = answered(here.prompts, lambda prompt: text_of(0.6, prompt), name="teine")
    before = json.loads((plain.path / "manifest.json").read_text("utf-8"))
    judge(plain, f"judge={of(here.server)}")
    run = Run(plain.path)
    assert run.id == plain.id and run.path == plain.path
    changed = {key for key, value in run.manifest["identity"].items() if before["identity"][key] != value}
    assert changed == {"result"}
    keys = []
    for task in run.tasks:
        keys += [sample.key for sample in run.samples(task)]
        given = [asdict(score) for score in run.scores() if score.task == task and judged.state(score)]
        keys += [identity.digest(given)] if given else []
    assert run.manifest["identity"]["result"] == identity.result_key(run.manifest["identity"]["plan"], keys)


def test_a_second_eval_of_the_same_answers_keeps_the_judgments(here: Small) -> None:
    judge(here.run, f"judge={of(here.server)}")
    before = contents(here.run.path)
    calls = here.server.calls
    again = answered(here.prompts, lambda prompt: pytest.fail("answered again"), name="qwen-hea")
    after = contents(here.run.path)
    assert again.path == here.run.path and here.server.calls == calls
    different = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert different <= {"manifest.json"}  # when it ran
    assert again.manifest["identity"] == json.loads(before["manifest.json"])["identity"]
    assert again.manifest["tasks"][TASK]["judge"] == json.loads(before["manifest.json"])["tasks"][TASK]["judge"]


def test_other_answers_don_t_get_the_judgments(here: Small) -> None:
    """The same model under the same plan, whose answers came out otherwise: its store was lost."""
    first = answered(here.prompts, lambda prompt: text_of(0.6, prompt), name="heitlik")
    judge(first, f"judge={of(here.server)}")
    before = contents(first.path)
    shutil.rmtree(here.folder / "home" / "responses" / first.manifest["identity"]["response"])
    other = answered(here.prompts, lambda prompt: text_of(0.3, prompt), name="heitlik")
    assert other.id != first.id and contents(first.path) == before
    shutil.copytree(first.path / judged.FOLDER, other.path / judged.FOLDER)  # even if they lie in its folder
    other = judged.merge(other)
    assert scores_of(other)["win_rate"].value is None and "judge" not in other.manifest["tasks"][TASK]
    assert judged.awaiting(other) == [TASK, LANGUAGE]
    judge(other, f"judge={of(here.server)}")
    found = scores_of(other)["win_rate"].value
    assert found is not None and found < 0.5


def without_costs(raw: bytes) -> Any:
    """A layer or a manifest without what this call alone cost."""
    return json.loads(raw, object_hook=lambda row: {k: v for k, v in row.items() if k not in COSTS})


COSTS = ("ledger", "cost", "spent")


@pytest.fixture(scope="module")
def twice(small: Small) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """A run folder after judging, and after judging again."""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESTBENCH_HOME", str(small.folder / "home"))
        run = answered(small.prompts, lambda prompt: text_of(0.65, prompt), name="kaks")
        for asked in (4 * N, 0):
            calls = small.server.calls
            judge(run, f"judge={of(small.server)}")
            assert small.server.calls == calls + asked
            found.append(contents(run.path))
    return found[0], found[1]


def test_judging_twice_gives_the_same_bytes_costs_apart(twice: tuple[dict[str, bytes], dict[str, bytes]]) -> None:
    first, second = twice
    assert first.keys() == second.keys()
    different = {name for name in first if first[name] != second[name]}
    assert all(
        name.endswith(".json") and without_costs(first[name]) == without_costs(second[name]) for name in different
    )
    assert "scores.json" not in different


def test_judging_twice_keeps_what_the_first_time_cost(twice: tuple[dict[str, bytes], dict[str, bytes]]) -> None:
    assert twice[0] == twice[1]


# --- a run that awaits its judge --------------------------------------------------------------------------------------


@pytest.fixture
def model() -> Iterator[Endpoint]:
    """A model behind an endpoint: `estbench eval` as people type it."""
    with Endpoint(Words(lambda prompt: text_of(0.7, re.sub(r"\W+", " ", prompt))), name="hea") as endpoint:
        yield endpoint


def eval_words(model: Endpoint, prompts: Path, *words: str) -> list[str]:
    return ["eval", "model=hea", "engine=openai", f"engine.url={model.url}", f"tasks={prompts}", "output=json", *words]


def test_an_eval_without_a_judge_ends_well_and_is_completed_elsewhere(
    here: Small, model: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    assert main(eval_words(model, here.prompts)) == 0
    out, err = capsys.readouterr()
    run = Run(Path(json.loads(out)["folder"]))
    assert f"{TASK}, {LANGUAGE}: awaiting judge" in err and f"estbench judge run={run.id}" in err
    scores = scores_of(run)
    assert scores["win_rate"].value is None and "awaiting judge" in str(scores["win_rate"].reason)
    assert scores["in_language"].value == 1.0
    assert indexed(run)["in_language"].value == 1.0

    folder = Path(shutil.copytree(run.path, tmp_path / "elsewhere" / run.path.name))
    monkeypatch.setenv("ESTBENCH_HOME", str(tmp_path / "home"))
    posts = len(model.posts)
    assert main(["judge", f"run={folder}", f"judge={of(here.server)}", "output=json"]) == 0
    assert f"estbench runs import {folder}" in capsys.readouterr().err
    assert scores_of(Run(folder))["win_rate"].value is not None and judged.awaiting(Run(folder)) == []
    assert len(model.posts) == posts and not (tmp_path / "home" / "runs").exists()
    assert main(["runs", "import", str(folder)]) == 0
    assert indexed(run)["win_rate"] == scores_of(Run(folder))["win_rate"]
    assert scores_of(run)["win_rate"].value is None  # the folder that was copied is as it was


def test_an_eval_with_a_judge_does_it_all_in_one(home: Path, here: Small, model: Endpoint, capsys: Said) -> None:
    """The same numbers as in two steps."""
    assert main(eval_words(model, here.prompts, f"judge={of(here.server)}")) == 0
    out, err = capsys.readouterr()
    printed = json.loads(out)
    run = Run(Path(printed["folder"]))
    assert "awaiting" not in err and judged.awaiting(run) == []
    value = scores_of(run)["win_rate"].value
    assert value is not None
    assert [row["value"] for row in printed["scores"] if row["task"] == TASK and row["metric"] == "win_rate"] == [value]
    assert indexed(run)["win_rate"].value == value and judged.state(indexed(run)["win_rate"]) == "uncalibrated"
    calls = here.server.calls
    judge(run, f"judge={of(here.server)}")
    assert here.server.calls == calls and scores_of(run)["win_rate"].value == value


NOBODY = "kohtunik@http://127.0.0.1:9/v1"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["judge={of}", "judge.nosuch=1"], 2, "judge.nosuch"),
        ([f"judge={NOBODY}"], 4, "127.0.0.1:9"),
        (["judge={of}", "judge.max_cost=1"], 2, "input_price"),
        (["judge={of},{of}"], 2, "Two judges"),
        (["judge=panel.yaml"], 2, "panel.yaml"),
    ],
    ids=["option", "url", "prices", "twice", "panel"],
)
def test_an_eval_with_a_judge_that_can_t_be_is_refused_before_anything_is_answered(
    home: Path, here: Small, model: Endpoint, words: list[str], code: int, said: str, capsys: Said
) -> None:
    calls = here.server.calls
    given = [word.replace("{of}", of(here.server)) for word in words]
    assert main(eval_words(model, here.prompts, *given)) == code
    assert said in one_line(capsys.readouterr().err)
    assert model.posts == [] and here.server.calls == calls and not list((home).glob("runs/*"))


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["judge={of}", "judge.nosuch=1"], 2, "judge.nosuch"),
        ([f"judge={NOBODY}"], 4, "127.0.0.1:9"),
        (["judge={of}", "rubric=kasulikkus"], 2, "no rubric"),
        (["judge={of}", "mode=equivalence"], 2, "no mode"),
        (["judge={of}", "anchor=nosuch"], 2, "nosuch"),
        (["judge={of}", "task=nosuch"], 2, "nosuch"),
        (["judge={of}", "repeats=2"], 2, "temperature="),
        (["judge={of}", "least=2"], 2, "least"),
        (["judge={of}", "judge.input_price=1"], 2, "output_price"),
        ([], 2, "judge= is missing"),
    ],
    ids=["option", "url", "rubric", "mode", "anchor", "task", "repeats", "least", "prices", "nobody"],
)
def test_a_judge_that_can_t_be_is_refused_before_anything_is_written(
    here: Small, words: list[str], code: int, said: str, capsys: Said
) -> None:
    before, calls = contents(here.run.path), here.server.calls
    judge(here.run, *(word.replace("{of}", of(here.server)) for word in words), code=code)
    assert said in one_line(capsys.readouterr().err)
    assert here.server.calls == calls and contents(here.run.path) == before


# --- what a change asks again -----------------------------------------------------------------------------------------


@pytest.fixture
def rubric(here: Small) -> Path:
    """A copy of a rubric with one word changed."""
    text = (rubrics.folder() / "helpfulness.yaml").read_text("utf-8")
    word = next(iter(re.findall(r"\b[a-zõäöü]{6,}\b", rubrics.load("helpfulness").instructions["et"])))
    assert text.count(word) >= 1
    path = here.folder / "oma.yaml"
    path.write_text(text.replace(word, word + "ki", 1), "utf-8")
    return path


def new_calls(here: Small, *words: str, run: Run | None = None, judges: str = "") -> int:
    before = here.server.calls
    judge(run or here.run, f"task={TASK}", judges or f"judge={of(here.server)}", *words)
    return here.server.calls - before


def slowly(*words: str) -> Any:
    return pytest.param(list(words), marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "words",
    [
        ["rubric={rubric}"],
        ["judge.revision=2026-10"],
        ["anchor={other}"],
        slowly("temperature=0.5"),
        slowly("language=en"),
        slowly("reasons=false"),
        slowly("structured=false"),
        slowly('judge.extra={{"top_k": 1}}'),
    ],
    ids=lambda words: str(words[0]).partition("=")[0],
)  # fmt: skip
def test_a_change_of_what_is_asked_asks_everything_again(here: Small, rubric: Path, words: list[str]) -> None:
    new_calls(here)
    other = answered(here.prompts, lambda prompt: text_of(0.4, prompt), name="halb")
    given = [word.format(rubric=rubric, other=other.id) for word in words]
    assert new_calls(here, *given) == 2 * N
    assert new_calls(here, *given) == 0 and new_calls(here) == 0  # both are kept


def test_a_panel_s_revision_asks_everything_again_and_its_name_nothing(here: Small, tmp_path: Path) -> None:
    def panel(**more: str) -> str:
        row = {"model": here.server.endpoint.name, "url": here.server.url, **more}
        path = tmp_path / "panel.yaml"
        path.write_text(yaml.safe_dump({"judges": [row]}), "utf-8")
        return f"judges={path}"

    new_calls(here)
    assert new_calls(here, judges=panel()) == 0
    assert new_calls(here, judges=panel(name="muu nimi", family="muu")) == 0
    assert new_calls(here, judges=panel(revision="3")) == 2 * N
    assert new_calls(here, judges=panel(revision="3")) == 0


SPEED = ("judge.concurrency=2", "judge.timeout=50", "judge.max_age=20d")
PRICED = ("judge.input_price=1", "judge.output_price=2", "max_cost=5")
USUAL = ("rubric=helpfulness", "mode=pairwise", "anchor=set", "language=et", "seed=5")
ELSEWHERE = "database=sqlite:///{folder}/muu.db"


@pytest.mark.parametrize(
    "words",
    [
        ["labels=pole.jsonl", "least=1", "output=table", ELSEWHERE, *SPEED, *PRICED, *USUAL],
        *(slowly(word) for word in ("labels=pole.jsonl", "least=1", "output=table", ELSEWHERE)),
        *(slowly(*words) for words in (SPEED, PRICED, USUAL)),
    ],
    ids=lambda words: words[0] if len(words) == 1 else f"{words[0]} and {len(words) - 1} more",
)
def test_what_changes_no_judgment_asks_nothing_again(here: Small, words: list[str]) -> None:
    new_calls(here)
    before = scores_of(here.run)
    assert new_calls(here, *(word.format(folder=here.folder) for word in words)) == 0
    assert scores_of(here.run) == before


@pytest.mark.parametrize(
    ("field", "value", "calls"),
    [("answer", text_of(0.1, "uus"), 2), ("reference", "sügis", 2), ("category", "muu", 0), ("id", "uus-7", 0)],
    ids=["answer", "reference", "category", "id"],
)
def test_a_changed_row_asks_that_document_again_if_judges_see_the_change(
    here: Small, tmp_path: Path, field: str, value: str, calls: int
) -> None:
    new_calls(here)
    rows = [json.loads(line) for line in here.prompts.read_text("utf-8").splitlines()]
    rows[7][field] = value
    path = tmp_path / here.prompts.name
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    run = answered(path, lambda prompt: pytest.fail("answered again"), name="qwen-hea")
    assert run.id != here.run.id and new_calls(here, run=run) == calls
