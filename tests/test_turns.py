"""The second turn: what is asked after a model's own first answer, and what becomes of it when something fails."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stub_endpoint import Endpoint, Words
from worlds import TEXT, World, rows

from estbench import answering, checkpoint, engines, identity, merging, registry, runner, turns
from estbench.cli import main
from estbench.config import EvalSettings
from estbench.engines.base import Answer, Decoding, Failed, Pack, Packing, Request
from estbench.engines.mock import MockEngine, MockTokens, mock_checkpoint
from estbench.errors import PlanError
from estbench.registry import Registry
from estbench.runs import Run
from estbench.tokens import Tokens

N, TWO = 12, 6  # documents, and those of them with a second turn
TALK: dict[str, Any] = {
    **TEXT,
    "task": "talk",
    "dataset_path": "own/talk",
    "num_fewshot": 0,
    "fewshot_split": None,
    "fewshot_config": None,
    "doc_to_text": "{{question}}",
    "generation_kwargs": {"until": [], "max_gen_toks": 6, "do_sample": False},
    "metadata": {**TEXT["metadata"], "form": "chat", "follow_up": "later"},
}
FIRST = "<user>Mis on number {i}?<assistant>"
SECOND = "<user>Mis on number {i}?<assistant>{said}<user>Aga enne {i}?<assistant>"


def talk_rows(later: str = "Aga enne {i}?") -> list[dict[str, Any]]:
    return [row | {"later": later.format(i=i) if i % 2 == 0 else None} for i, row in enumerate(rows(N))]


@pytest.fixture
def world(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path / "world", n=4)
    made.write(TALK)
    made.fill("talk", talk_rows())
    monkeypatch.setattr(registry, "project_file", lambda name: made.folder / name)
    return made


class Engine(MockEngine):
    """Remembers what it was asked, how often it was loaded and closed; some prompts fail, some kill it."""

    def __init__(
        self,
        answer: Callable[[str], str] = lambda prompt: f"vastus {len(prompt)}",
        failing: Callable[[str], bool] = lambda prompt: False,
        deadly: Callable[[str], bool] = lambda prompt: False,
        most: int = 1 << 30,
    ) -> None:
        super().__init__(answer)
        self.failing, self.deadly, self.max_length = failing, deadly, most
        self.asked: list[str] = []
        self.loads = self.closes = 0

    def load(self) -> None:
        self.loads += 1

    def close(self) -> None:
        self.closes += 1

    def compute(self, pack: Pack) -> Sequence[Answer]:
        prompts = [request.prompt.tobytes().rstrip(b"\0").decode() for request in pack.requests]
        if any(map(self.deadly, prompts)):
            raise KeyboardInterrupt
        self.asked += prompts
        given = super().compute(pack)
        return [
            Failed("HTTP 500 three times") if self.failing(prompt) else one
            for prompt, one in zip(prompts, given, strict=True)
        ]


Evaluate = Callable[..., Run]


@pytest.fixture
def evaluate(world: World, monkeypatch: pytest.MonkeyPatch) -> Evaluate:
    """`evaluate(engine, name=…)`: a run of a made-up model on the task."""
    monkeypatch.setattr(engines, "tokens_of", lambda *_: MockTokens("a template"))

    def call(engine: Engine, name: str = "mudel", **more: Any) -> Run:
        model = mock_checkpoint(name)
        monkeypatch.setattr(type(model), "has_chat_template", True)
        monkeypatch.setattr(checkpoint, "find", lambda *_, **__: model)
        monkeypatch.setattr(engines, "make", lambda *_: engine)
        settings = EvalSettings(model="made-up", tasks="talk", data=str(world.data), name=name, **more)
        return runner.evaluate(runner.prepare(settings))

    return call


def real(model: Path, world: World, before: runner.Job | None = None, **more: Any) -> tuple[Run, runner.Job]:
    settings = EvalSettings(model=str(model), tasks="talk", data=str(world.data), **more)
    job = runner.prepare(settings, before=before)
    return runner.evaluate(job), job


def evidence(run: Run) -> dict[str, Any]:
    """All that has to be equal to the last bit."""
    parts = {f"{part}/talk": gzip.decompress((run.path / part / "talk.jsonl.gz").read_bytes()) for part in PARTS}
    return parts | {"scores": run.scores(), "identity": run.manifest["identity"]}


PARTS = ("plan", "responses", "samples")


# --- what is asked ----------------------------------------------------------------------------------------------------


def test_the_second_turn_is_asked_with_the_model_s_own_first_answer(evaluate: Evaluate) -> None:
    engine = Engine(lambda prompt: f"  ütlen {len(prompt)} ")
    run = evaluate(engine)
    firsts = {FIRST.format(i=i) for i in range(N)}
    seconds = {
        SECOND.format(i=i, said=f"ütlen {len(FIRST.format(i=i))}") for i in range(0, N, 2)
    }  # stripped, as it is shown
    assert set(engine.asked) == firsts | seconds and len(engine.asked) == N + TWO
    answers = [(row["doc_id"], row["index"]) for row in run.responses("talk")]
    assert answers == sorted([(i, 0) for i in range(N)] + [(i, 1) for i in range(0, N, 2)])


def test_a_system_message_stands_in_front_of_both_turns(evaluate: Evaluate) -> None:
    engine = Engine(lambda prompt: "jah")
    evaluate(engine, prompt_options={"system": "Ole lühike."})
    assert all(prompt.startswith("<system>Ole lühike.<user>") for prompt in engine.asked)
    assert f"<system>Ole lühike.{SECOND.format(i=2, said='jah')}" in engine.asked


def test_an_empty_first_answer_is_said_to_be_empty(evaluate: Evaluate) -> None:
    engine = Engine(lambda prompt: " \n" if "Aga" not in prompt else "teine")
    evaluate(engine)
    assert SECOND.format(i=0, said=turns.NOTHING) in engine.asked


def test_a_real_template_and_tokenizer_make_the_second_prompt(world: World, tiny_model: Path) -> None:
    run, _ = real(tiny_model, world)
    tokens = Tokens(tiny_model)
    said = {(row["doc_id"], row["index"]): row["text"] for row in run.responses("talk")}
    seen = 0
    for doc in run.plan("talk"):
        ids = [np.array(request["prompt_ids"], np.int32) for request in doc.requests]
        assert all(tokens.bos_count(one) == 1 for one in ids)
        assert len(ids) == (2 if doc.doc_id % 2 == 0 else 1)
        if len(ids) == 2:
            messages = [("user", f"Mis on number {doc.doc_id}?"), ("assistant", said[doc.doc_id, 0].strip())]
            messages += [("user", f"Aga enne {doc.doc_id}?")]
            shown = [{"role": role, "content": text or turns.NOTHING} for role, text in messages]
            np.testing.assert_array_equal(ids[1], tokens.encode([tokens.chat(shown)])[0])
            seen += 1
    assert seen == TWO


@pytest.mark.parametrize("system", [None, "Ole lühike."])
def test_an_endpoint_gets_the_conversation_as_messages(world: World, system: str | None) -> None:
    with Endpoint(Words(lambda prompt: f"v{prompt.count('?')}"), name="est-1") as endpoint:
        words = ["engine=openai", f"engine.url={endpoint.url}", "engine.model=est-1", "tasks=talk"]
        words += [f"prompt.system={system}"] if system else []
        assert main(["eval", *words, f"data={world.data}"]) == 0
        asked = [post["messages"] for post in endpoint.posts if "number" in post["messages"][-1]["content"]]
        later = [post["messages"] for post in endpoint.posts if "Aga enne" in post["messages"][-1]["content"]]
    head = [{"role": "system", "content": system}] if system else []
    first = [[*head, {"role": "user", "content": f"Mis on number {i}?"}] for i in range(N)]
    assert sorted(map(json.dumps, asked)) == sorted(map(json.dumps, first))
    expected = [
        [*first[i], {"role": "assistant", "content": "v1"}, {"role": "user", "content": f"Aga enne {i}?"}]
        for i in range(0, N, 2)
    ]
    assert sorted(map(json.dumps, later)) == sorted(map(json.dumps, expected))


# --- identity ---------------------------------------------------------------------------------------------------------


def test_the_plan_is_the_same_for_models_that_answer_differently(evaluate: Evaluate, world: World) -> None:
    one = evaluate(Engine(lambda prompt: "kask"), "kask")
    two = evaluate(Engine(lambda prompt: "mänd ja kuusk"), "mänd")
    assert one.manifest["identity"]["plan"] == two.manifest["identity"]["plan"]
    assert one.manifest["identity"]["result"] != two.manifest["identity"]["result"]
    asked = [[doc.asked for doc in run.plan("talk")] for run in (one, two)]
    assert asked[0] == asked[1]
    world.fill("talk", [row | {"question": row["question"]} for row in talk_rows("Ja pärast {i}?")])
    other = evaluate(Engine(), "kask")  # negative control: another second turn is another question
    now = [doc.asked for doc in other.plan("talk")]
    assert [a != b for a, b in zip(asked[0], now, strict=True)] == [i % 2 == 0 for i in range(N)]
    assert other.manifest["identity"]["plan"] != one.manifest["identity"]["plan"]


def test_response_keys_of_single_turns_are_what_they_were() -> None:
    """The formula as it is documented, computed here, and a value that was written down."""
    fingerprint, ids = "ab" * 32, [1, 5, 7]
    decoding = {"max_new_tokens": 8, "stop": ["\n"], "temperature": 0.0, "top_p": 1.0, "seed": 0}
    asked = json.dumps(decoding, sort_keys=True).encode()
    content = struct.pack("<3q3i", 3, 0, len(asked), *ids) + asked
    key = hashlib.sha256(bytes.fromhex(fingerprint) + content).hexdigest()[:32]
    request = Request(np.array(ids, np.int32), decoding=Decoding(8, ("\n",)))
    assert Decoding(8, ("\n",)).record() == decoding | {"stop": ("\n",)}
    assert identity.response_key(fingerprint, request.content()) == key == "8bb9b7e3a2d78c83b460b246203d0b83"
    for more in ({"schema": "{}"}, {"top": 5}):  # negative control
        other = Request(request.prompt, decoding=Decoding(8, ("\n",), **more))
        assert identity.response_key(fingerprint, other.content()) != key


# --- what fails -------------------------------------------------------------------------------------------------------


def test_a_failed_first_turn_asks_no_second_and_is_missing_data(evaluate: Evaluate) -> None:
    bad = FIRST.format(i=4)
    engine = Engine(failing=lambda prompt: prompt == bad)
    run = evaluate(engine)
    assert len(engine.asked) == N + TWO - 1 and not any("Aga enne 4" in prompt for prompt in engine.asked)
    [sample] = [one for one in run.samples("talk") if one.error]
    assert (sample.doc_id, sample.values, sample.error) == (4, {}, "HTTP 500 three times")
    [score] = [one for one in run.scores() if one.primary]
    assert (score.n, score.n_planned, score.errors) == (N - 1, N, 1) and run.unanswered == 1
    again = Engine()
    whole = evaluate(again)
    assert [prompt.partition("<assistant>")[0] for prompt in again.asked] == ["<user>Mis on number 4?"] * 2
    assert not whole.unanswered and whole.id != run.id


def test_a_failed_second_turn_is_missing_data_and_its_first_is_kept(evaluate: Evaluate) -> None:
    run = evaluate(Engine(failing=lambda prompt: "Aga enne 6" in prompt))
    [sample] = [one for one in run.samples("talk") if one.error]
    assert (sample.doc_id, sample.values) == (6, {})
    again = Engine()
    assert not evaluate(again).unanswered
    assert len(again.asked) == 1 and "Aga enne 6" in again.asked[0]


def test_one_failure_in_the_second_round_alone_does_not_end_the_run(evaluate: Evaluate, world: World) -> None:
    """What came in the first round shows that there is hope: a round in which nothing came is missing data."""
    world.fill("talk", [row | {"later": row["later"] if i == 2 else None} for i, row in enumerate(talk_rows())])
    run = evaluate(Engine(failing=lambda prompt: "Aga" in prompt))
    assert [one.doc_id for one in run.samples("talk") if one.error] == [2]


def test_failures_of_the_first_round_are_not_counted_against_the_second(evaluate: Evaluate, world: World) -> None:
    world.fill("talk", [row | {"later": f"Aga enne {i}?"} for i, row in enumerate(rows(80))])
    few, seconds = answering.HOPELESS + 4, list[str]()

    def failing(prompt: str) -> bool:
        seconds.extend([prompt] * ("Aga" in prompt))
        return len(seconds) <= 2 if "Aga" in prompt else int(prompt.partition("?")[0].rpartition(" ")[2]) < few

    engine = Engine(failing=failing)
    engine.packing = Packing(rows=1)  # an answer at a time, as from an endpoint
    assert evaluate(engine).unanswered == few + 2 and len(engine.asked) == 160 - few


def test_requests_that_fail_again_leave_the_run_as_it_was(evaluate: Evaluate) -> None:
    """Everything else is stored: the engine is not hopeless, and other tasks and judges have to get their turn."""
    bad = Engine(failing=lambda prompt: "Aga enne 6" in prompt)
    run = evaluate(bad)
    assert evidence(evaluate(bad)) == evidence(run)


def test_a_conversation_that_is_longer_than_the_context_is_missing_and_says_so(evaluate: Evaluate) -> None:
    longest = max(len(FIRST.format(i=i).encode()) for i in range(N)) // 4 + 1 + 6
    engine = Engine(lambda prompt: "pikk " * 20 if "number 2?" in prompt else "", most=longest + 12)
    run = evaluate(engine)
    [sample] = [one for one in run.samples("talk") if one.error]
    assert sample.doc_id == 2 and "the conversation needs" in str(sample.error)
    assert f"the model's context is {longest + 12}" in str(sample.error) and sample.values == {}
    assert not any("pikk" in prompt for prompt in engine.asked)
    assert len(list(run.plan("talk"))[2].requests) == 2  # what was not asked can be looked at
    roomy = evaluate(Engine(lambda prompt: "pikk " * 20 if "number 2?" in prompt else "", most=longest + 60), "teine")
    assert not roomy.unanswered  # negative control


# --- rounds, resuming, sharing ----------------------------------------------------------------------------------------


def test_the_engine_is_loaded_once_for_both_rounds(evaluate: Evaluate) -> None:
    engine = Engine()
    evaluate(engine)
    assert engine.loads == 1 and engine.closes >= 1
    idle = Engine()
    evaluate(idle)
    assert idle.loads == 0 and not idle.asked  # all is stored


def test_a_run_that_was_killed_between_the_rounds_ends_with_the_same_bits(
    evaluate: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = evaluate(Engine())
    monkeypatch.setenv("ESTBENCH_HOME", str(tmp_path / "other"))
    with pytest.raises(KeyboardInterrupt):
        evaluate(Engine(deadly=lambda prompt: "Aga" in prompt))
    rest = Engine()
    assert evidence(evaluate(rest)) == evidence(calm)
    assert len(rest.asked) == TWO and rest.loads == 1  # the first answers were stored


def test_a_real_engine_goes_on_after_a_kill_with_the_same_bits(
    world: World, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm, _ = real(tiny_model, world)
    monkeypatch.setenv("ESTBENCH_HOME", str(tmp_path / "other"))
    compute, rounds = answering._compute, Rounds(1)
    with monkeypatch.context() as patch:
        patch.setattr(answering, "_compute", rounds.before(compute))
        with pytest.raises(KeyboardInterrupt):
            real(tiny_model, world)
    assert rounds.done == 1 and not list((tmp_path / "other" / "runs").glob("*/manifest.json"))
    again, _ = real(tiny_model, world)
    assert evidence(again) == evidence(calm)


class Rounds:
    """Lets so many rounds pass, and kills the next one."""

    def __init__(self, most: int) -> None:
        self.most, self.done = most, 0

    def before(self, compute: Callable[..., None]) -> Callable[..., None]:
        def counted(*given: Any) -> None:
            if self.done == self.most:
                raise KeyboardInterrupt
            self.done += 1
            compute(*given)

        return counted


@pytest.fixture
def steps(tmp_path: Path, tiny_model: Path) -> list[Path]:
    """Two checkpoints with one tokenizer that answer differently."""
    found = []
    for number in (1, 10):
        folder = Path(shutil.copytree(tiny_model, tmp_path / f"step-{number}"))
        config = json.loads((folder / "config.json").read_text("utf-8"))
        (folder / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 10.0**number * 1e-6}), "utf-8")
        found.append(folder)
    return found


def test_models_that_share_a_plan_do_not_get_each_other_s_second_turn(
    world: World, steps: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = []
    for i, step in enumerate(steps):
        monkeypatch.setenv("ESTBENCH_HOME", str(tmp_path / f"alone-{i}"))
        alone.append(evidence(real(step, world)[0]))
    firsts = [gzip.decompress(gzip.compress(one["responses/talk"])) for one in alone]
    assert firsts[0] != firsts[1]  # they answer differently, so that a leak would be seen
    monkeypatch.setenv("ESTBENCH_HOME", str(tmp_path / "together"))
    one, job = real(steps[0], world)
    two, other = real(steps[1], world, before=job)
    assert other.plans[0] is job.plans[0]
    assert [evidence(one), evidence(two)] == alone
    assert evidence(real(steps[0], world, before=other)[0]) == alone[0]  # and back
    monkeypatch.setenv("ESTBENCH_HOME", str(tmp_path / "command"))
    assert main(["eval", f"model={steps[0]},{steps[1]}", "tasks=talk", f"data={world.data}"]) == 0
    runs = [Run(path.parent) for path in (tmp_path / "command" / "runs").glob("*/manifest.json")]
    assert sorted(evidence(run)["identity"]["result"] for run in runs) == sorted(
        one["identity"]["result"] for one in alone
    )


def test_slices_make_the_run_with_its_second_turns(evaluate: Evaluate) -> None:
    whole = evaluate(Engine())
    parts = [evaluate(Engine(), slice=f"{i}/3").path for i in (1, 2, 3)]
    before = evidence(whole)
    shutil.rmtree(whole.path)
    [*_, merged] = merging.take_in(parts, print)
    assert merged.id == whole.id
    after = evidence(merged)
    assert {part: after[part] for part in before if part != "identity"} == {
        part: before[part] for part in before if part != "identity"
    }
    assert after["identity"]["result"] == before["identity"]["result"]


# --- commands ---------------------------------------------------------------------------------------------------------


def test_show_plan_and_check_know_such_a_task(
    world: World, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", "task=talk", "doc=2", f"model={tiny_model}", f"data={world.data}", "output=json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert "Mis on number 2?" in shown["prompt"] and shown["row"]["later"] == "Aga enne 2?" == shown["follow_up"]
    assert main(["eval", f"model={tiny_model}", "tasks=talk", f"data={world.data}", "plan=true", "output=json"]) == 0
    [row] = json.loads(capsys.readouterr().out)["tasks"]
    second = sum(bool(one["later"]) for one in talk_rows())
    assert row["task"] == "talk" and row["docs"] == N and row["requests"] == N + second > N  # both turns are priced
    world.edit("talk", metric_list=[*TALK["metric_list"], {"metric": "parse_failure", "aggregation": "mean"}])
    main(["tasks", "check", "task=talk", f"data={world.data}"])
    out, err = capsys.readouterr()
    assert "follow_up is unknown" not in out + err


@pytest.mark.parametrize(
    "change",
    [
        {"metadata": {**TALK["metadata"], "form": "completion"}},
        {"num_fewshot": 1, "fewshot_split": "test"},
        {"output_type": "multiple_choice", "doc_to_choice": "{{[first, second]}}"},
    ],
)
def test_a_second_turn_that_can_t_be_is_one_line(world: World, change: dict[str, Any], tiny_model: Path) -> None:
    world.edit("talk", **change)
    with pytest.raises(PlanError, match="follow_up is for generated answers in chat form without shots"):
        real(tiny_model, world)


def test_rows_without_a_second_turn_have_one(world: World) -> None:
    card = Registry().task("talk")
    for value in (None, ""):
        assert turns.follow_up_of(card, {"later": value}, 0) is None
    assert turns.follow_up_of(card, {}, 0) is None and turns.follow_up_of(card, {"later": "Ja?"}, 0) == "Ja?"
