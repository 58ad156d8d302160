"""engine=vllm: prompts as token ids, the walk and echo give hf's numbers, and nothing unchecked becomes a score.

The server is a stand-in with vLLM's semantics and a tiny checkpoint; the slow tests ask a real vLLM server.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stub_endpoint import Endpoint, Fault, TinyModel
from worlds import World, rows

from estbench import cli, registry
from estbench.checkpoint import Checkpoint, find
from estbench.engines import vllm, vllm_identity, vllm_scoring
from estbench.engines.base import Answer, Decoding, Failed, Generated, Pack, Packing, Request, Scored
from estbench.engines.hf import HFEngine
from estbench.engines.options import VllmOptions
from estbench.engines.transport import Transport
from estbench.engines.trie import scoring_packs
from estbench.engines.vllm import VllmEngine
from estbench.errors import EngineError
from estbench.runs import Run
from estbench.tokens import Tokens

CLOSE = 1e-4  # nats; float32


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeats come at once."""
    monkeypatch.setattr(vllm, "Transport", functools.partial(Transport, backoff=0.01))


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Checkpoint:
    return find(str(tiny_model))


@pytest.fixture(scope="module")
def tokens(model: Checkpoint) -> Tokens:
    return Tokens(model.path)


@pytest.fixture(scope="module")
def hf(model: Checkpoint, tokens: Tokens) -> HFEngine:
    engine = HFEngine(model, tokens)
    engine.load()
    return engine


@pytest.fixture(scope="module")
def tiny(tiny_model: Path) -> TinyModel:
    return TinyModel(tiny_model)


@pytest.fixture
def endpoint(tiny: TinyModel) -> Iterator[Endpoint]:
    with Endpoint(tiny, fingerprint="vllm-0-abc") as endpoint:
        yield endpoint


Make = Callable[..., VllmEngine]


@pytest.fixture
def make(endpoint: Endpoint, model: Checkpoint, tokens: Tokens, home: Path) -> Iterator[Make]:
    """An engine on the stand-in; `engine.heard` is what it said."""
    made: list[VllmEngine] = []

    def one(**options: Any) -> VllmEngine:
        heard: list[str] = []
        engine = VllmEngine(model, tokens, VllmOptions(url=endpoint.url, **options), heard.append)
        engine.heard = heard  # type: ignore[attr-defined]
        made.append(engine)
        engine.load()
        endpoint.posts.clear()
        return engine

    yield one
    for engine in made:
        engine.close()


def pack(requests: list[Request], task: str = "t") -> Pack:
    return Pack(task, tuple(f"{task}-{i}" for i in range(len(requests))), tuple(requests))


def request(prompt: list[int], continuation: list[int]) -> Request:
    return Request(np.array(prompt, np.int32), np.array(continuation, np.int32))


def documents(n: int = 4, length: int = 20) -> list[Request]:
    """Questions with four answers of one to four tokens, some of which begin alike."""
    dice = np.random.default_rng(n)
    shared = dice.integers(3, 300, 8).tolist()
    requests = []
    for _ in range(n):
        prompt = [0, *shared, *dice.integers(3, 300, length).tolist()]
        first = dice.integers(3, 300, 2).tolist()
        requests += [request(prompt, [first[i % 2], *dice.integers(3, 300, i).tolist()]) for i in range(4)]
    return requests


def ask(engine: VllmEngine, *packs: Pack) -> list[Answer]:
    found = {one.id: list(answers) for one, answers in engine.answer(packs)}
    return [answer for one in packs for answer in found[one.id]]


def agree(mine: list[Answer], theirs: list[Answer]) -> None:
    assert len(mine) == len(theirs)
    for a, b in zip(mine, theirs, strict=True):
        assert isinstance(a, Scored) and isinstance(b, Scored)
        assert abs(a.logprob - b.logprob) < CLOSE and a.greedy == b.greedy


@pytest.mark.parametrize("way", ["walk", "echo"])
def test_both_ways_give_the_scores_of_hf(make: Make, hf: HFEngine, way: str) -> None:
    requests = documents()
    greedy = hf.generate([Request(requests[0].prompt, decoding=Decoding(1))])
    assert greedy  # so that at least one continuation is what greedy decoding gives:
    likeliest = max(range(3, 300), key=lambda i: _logprob(hf, requests[0].prompt.tolist(), i))
    requests.append(request(requests[0].prompt.tolist(), [likeliest]))
    requests.append(request([0], [5, 6]))
    engine = make(scoring=way)
    answers = ask(engine, pack(requests))
    agree(answers, list(hf.score(requests)))
    assert any(isinstance(one, Scored) and one.greedy for one in answers)
    assert engine.notes()["scoring"] == {"t": way}


def _logprob(hf: HFEngine, prompt: list[int], token: int) -> float:
    [answer] = hf.score([request(prompt, [token])])
    assert isinstance(answer, Scored)
    return answer.logprob


def test_prompts_travel_as_token_ids(make: Make, endpoint: Endpoint) -> None:
    requests = documents(2)
    ask(make(scoring="echo"), pack(requests), pack([Request(requests[0].prompt, decoding=Decoding(3))], "g"))
    sent = [one for body in endpoint.posts for one in body["prompt"]]
    assert sent and all(isinstance(i, int) for one in sent for i in one)


def test_letters_behind_one_prompt_are_one_request(make: Make, endpoint: Endpoint) -> None:
    prompt = list(range(3, 40))
    ask(make(scoring="walk"), pack([request(prompt, [letter]) for letter in (50, 51, 52, 53)]))
    asked = [body for body in endpoint.posts if prompt in body["prompt"]]
    assert len(asked) == 1 and asked[0]["prompt"] == [prompt] and asked[0]["logprob_token_ids"] == [50, 51, 52, 53]


def test_a_walk_asks_each_scored_prefix_once(make: Make, endpoint: Endpoint) -> None:
    requests = documents(3)
    engine = make(scoring="walk")
    ask(engine, *scoring_packs("t", {f"{i:032x}": one for i, one in enumerate(requests)}, Packing(nodes=60)))
    prefixes = [tuple(one) for body in endpoint.posts for one in body["prompt"] if len(one) > 25]
    whole = {
        (*one.prompt.tolist(), *one.continuation.tolist()[:j])  # type: ignore[union-attr]
        for one in requests
        for j in range(len(one.continuation))  # type: ignore[arg-type]
    }
    assert sorted(prefixes) == sorted(whole)


def test_more_children_than_a_server_gives_are_asked_in_parts(make: Make, endpoint: Endpoint, hf: HFEngine) -> None:
    requests = [request(list(range(3, 20)), [i]) for i in range(30, 75)]
    agree(ask(make(scoring="walk"), pack(requests)), list(hf.score(requests)))
    wanted = [body["logprob_token_ids"] for body in endpoint.posts if list(range(3, 20)) in body["prompt"]]
    assert sorted({i for part in wanted for i in part}) == list(range(30, 75))
    assert max(map(len, wanted)) <= 20  # what every server gives


def test_generated_answers_are_those_of_hf(make: Make, hf: HFEngine, tokens: Tokens) -> None:
    prompts = tokens.encode(["Õues sajab", "The dog", "Žürii jõi öösel", "müts"])
    free = [Request(ids, decoding=Decoding(12)) for ids in prompts]
    expected = list(hf.generate(free))
    assert ask(make(), pack(free, "g")) == expected
    text = next(one.text for one in expected if isinstance(one, Generated) and len(one.text) > 3)
    stopped = [replace(one, decoding=Decoding(12, stop=(text[2:4],))) for one in free]
    found = ask(make(), pack(stopped, "g"))
    assert [one.text for one in found if isinstance(one, Generated)] == [
        one.text for one in hf.generate(stopped) if isinstance(one, Generated)
    ]
    assert found != expected and all(text[2:4] not in one.text for one in found if isinstance(one, Generated))


def test_an_answer_that_was_cut_off_says_so(make: Make, hf: HFEngine, tokens: Tokens) -> None:
    [ids] = tokens.encode(["Õues sajab"])
    [answer] = ask(make(), pack([Request(ids, decoding=Decoding(2))], "g"))
    assert isinstance(answer, Generated) and answer.tokens == 2
    assert [answer] == list(hf.generate([Request(ids, decoding=Decoding(2))]))


def test_a_server_that_can_not_walk_echoes_and_says_so(make: Make, endpoint: Endpoint, hf: HFEngine) -> None:
    endpoint.logprob_token_ids = False
    requests = documents(2, 200)
    engine = make(scoring="walk")
    agree(ask(engine, pack(requests)), list(hf.score(requests)))
    assert engine.notes()["scoring"] == {"t": "echo"}
    assert any("echoed whole, which is slow" in line for line in engine.heard)  # type: ignore[attr-defined]


def test_a_wrong_echo_is_found_and_not_used(make: Make, endpoint: Endpoint, hf: HFEngine) -> None:
    endpoint.echo = "shifted"
    requests = documents(2)
    engine = make(scoring="echo")
    agree(ask(engine, pack(requests)), list(hf.score(requests)))
    assert engine.notes()["scoring"] == {"t": "walk"}
    assert any("differ by" in line for line in engine.heard)  # type: ignore[attr-defined]


def test_without_the_probe_a_wrong_echo_would_be_scored(
    make: Make, endpoint: Endpoint, hf: HFEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control for the test above."""
    monkeypatch.setattr(vllm_identity, "examine", lambda *_: {})
    endpoint.echo = "shifted"
    requests = documents(2)
    with pytest.raises(AssertionError):
        agree(ask(make(scoring="echo"), pack(requests)), list(hf.score(requests)))


def test_a_server_without_right_numbers_is_refused(make: Make, endpoint: Endpoint) -> None:
    endpoint.logprob_token_ids, endpoint.echo = False, "ignored"
    with pytest.raises(EngineError, match="gives no log-likelihoods that hold"):
        ask(make(), pack(documents(1)))


FAULTS = ("500", "503", "garbage", "half", "cut", "drop", "empty", "extra", "none", "nan", "positive", "short", "list")


@pytest.mark.parametrize("way", ["walk", "echo"])
@pytest.mark.parametrize("kind", FAULTS)
def test_faults_now_and_then_change_no_score(
    make: Make, endpoint: Endpoint, hf: HFEngine, kind: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_scoring, "PROMPTS", 3)
    engine = make(scoring=way)
    engine._able = ("walk", "echo")
    requests = documents(4)
    endpoint.faults = [Fault(kind, every=3)]
    agree(ask(engine, pack(requests[:8]), pack(requests[8:], "u")), list(hf.score(requests)))
    assert len(endpoint.posts) > sum(endpoint.answered.values())


@pytest.mark.parametrize("kind", ["500", "garbage", "nan", "short", "none"])
def test_what_has_no_answer_is_named_and_never_zero(make: Make, endpoint: Endpoint, kind: str) -> None:
    engine = make(scoring="walk")
    engine._able = ("walk", "echo")
    endpoint.faults = [Fault(kind)]
    answers = ask(engine, pack(documents(1)), pack([Request(np.array([5], np.int32), decoding=Decoding(2))], "g"))
    assert all(isinstance(one, Failed) and one.reason for one in answers[:4])


class Dying:
    """A server of ours that goes away in mid-run and, when asked, comes back once."""

    model, key_variable = "stub", "NO_KEY_IS_SET"

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint, self.restarts, self.asked = endpoint, 0, 0

    @property
    def url(self) -> str:
        return self.endpoint.url

    def revive(self) -> None:
        self.asked += 1
        if self.restarts:
            raise EngineError("It had been started again once.")
        self.restarts = 1
        time.sleep(1.5)  # until it is back

    def close(self) -> None:
        pass


def test_a_server_of_ours_that_dies_is_started_again_and_no_pack_is_lost_or_doubled(
    make: Make, endpoint: Endpoint, hf: HFEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm, "PATIENCE", 0.2)
    monkeypatch.setattr(endpoint, "latency", 0.3)  # so that some are under way when it dies
    engine, server = make(scoring="echo", concurrency=1), Dying(endpoint)
    engine.server = server  # type: ignore[assignment]
    engine._connect()
    requests = [documents(1, 15 + i) for i in range(6)]
    packs = [pack(some, f"t{i}") for i, some in enumerate(requests)]
    done = []
    for one, answers in engine.answer(packs):
        if not done:
            endpoint.restart(after=1.0)
            time.sleep(0.2)
        done.append(one.task)
        agree(list(answers), list(hf.score(one.requests)))
    assert sorted(done) == [one.task for one in packs] and server.asked == server.restarts == 1


def test_a_server_of_ours_that_dies_again_ends_the_run(
    make: Make, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm, "PATIENCE", 0.2)
    engine, server = make(concurrency=2), Dying(endpoint)
    endpoint.latency = 0.3
    server.restarts = 1
    engine.server = server  # type: ignore[assignment]
    engine._connect()
    work = engine.answer([pack(documents(1), f"t{i}") for i in range(9)])
    next(work)
    endpoint.restart(after=5.0)
    time.sleep(0.2)
    with pytest.raises(EngineError, match="started again once"):
        list(work)


def test_a_server_that_may_serve_other_weights_is_unverified(make: Make, endpoint: Endpoint) -> None:
    first = make()
    assert first.fingerprint()["weights"] == "unverified" and first.max_age == 30 * 86400
    assert any("nothing shows" in line for line in first.heard)  # type: ignore[attr-defined]
    assert make().fingerprint() == first.fingerprint()
    endpoint.fingerprint = "vllm-0-another"
    assert make().fingerprint() != first.fingerprint()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["engine.url=http://127.0.0.1:1/v1", "engine.command=vllm serve"], "engine.command= is for a server that"),
        (["engine.url=http://127.0.0.1:1/v1", "engine.lora=adapter"], "engine.lora= is for a server that"),
        (["engine.model=m"], "engine.model= is for url="),
        (["engine.timeout=0"], "above 0"),
        (["engine.lora=adapter"], "name it with name="),
        (["engine.scoring=trie"], "walk, echo"),
        (["engine.url=http://127.0.0.1:1/v1"], "can't be reached"),
    ],
)
def test_what_can_not_be_is_one_line(
    words: list[str], why: str, home: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = cli.main(["eval", f"model={tiny_model}", "tasks=mini_copa", "engine=vllm", *words])
    said = capsys.readouterr().err.strip().splitlines()
    assert code in (2, 4) and why in said[-1] and not any("Traceback" in line for line in said)
    assert not (home / "runs").exists()


@pytest.fixture
def world(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path / "world", 12)
    monkeypatch.setattr(registry, "project_file", lambda name: made.folder / name)
    return made


def evaluate(capsys: pytest.CaptureFixture[str], *words: str) -> Run:
    assert cli.main(["eval", *words]) == 0
    return Run(Path(json.loads(capsys.readouterr().out)["folder"]))


def same(one: Run, other: Run, tasks: tuple[str, ...] = ("letters", "words")) -> None:
    """Both runs have each document once, log-likelihoods within tolerance and equal texts and decisions."""
    for task in tasks:
        mine, theirs = (list(run.responses(task)) for run in (one, other))
        assert [(row["doc_id"], row["index"]) for row in mine] == [(row["doc_id"], row["index"]) for row in theirs]
        for a, b in zip(mine, theirs, strict=True):
            assert a.get("text") == b.get("text") and a.get("greedy") == b.get("greedy")
            assert abs(a.get("logprob", 0) - b.get("logprob", 0)) < 1e-3
        assert [(s.doc_id, s.values) for s in one.samples(task)] == [(s.doc_id, s.values) for s in other.samples(task)]


def test_an_eval_gives_the_run_of_hf_and_a_rerun_asks_nothing(
    endpoint: Endpoint, world: World, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"model={tiny_model}", "tasks=both", f"data={world.data}"]
    mine = evaluate(capsys, *words, "engine=vllm", f"engine.url={endpoint.url}")
    same(mine, evaluate(capsys, *words))
    assert mine.manifest["engine"]["weights"] == "unverified" and mine.manifest["engine"]["observed"]
    asked = len(endpoint.posts)
    evaluate(capsys, *words, "engine=vllm", f"engine.url={endpoint.url}")
    assert len(endpoint.posts) <= asked + 1  # a look at who it is


SCRIPT = """
import sys
from pathlib import Path
from estbench import registry
from estbench.cli import main
folder = Path(sys.argv[1])
registry.project_file = lambda name: folder / name
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.slow
def test_no_document_is_lost_or_doubled_by_kills(
    endpoint: Endpoint, world: World, home: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for task in ("letters", "words"):
        world.fill(task, rows(60))
    endpoint.latency = 0.2
    words = [f"model={tiny_model}", "tasks=both", f"data={world.data}"]
    mine = [*words, "engine=vllm", f"engine.url={endpoint.url}", "engine.concurrency=2"]
    command = [sys.executable, "-c", SCRIPT, str(world.folder), "eval", *mine]
    kills = 0
    for goal in (12, 40):
        victim = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while len(endpoint.posts) < goal and victim.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        kills += victim.poll() is None
        victim.send_signal(signal.SIGKILL)
        victim.wait()
    assert kills == 2  # each hit a run at work
    same(evaluate(capsys, *mine), evaluate(capsys, *words))


def killed_eval(words: list[str], home: Path) -> None:
    """An eval that is killed once some of its responses are stored."""
    victim = subprocess.Popen(
        [sys.executable, "-m", "estbench", "eval", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 300
    while victim.poll() is None and time.monotonic() < deadline:
        if any(file.stat().st_size for file in (home / "responses").glob("*/*.jsonl")):
            break
        time.sleep(0.01)
    assert victim.poll() is None, "it was done before it could be killed"
    victim.send_signal(signal.SIGKILL)
    victim.wait()


@pytest.mark.slow
def test_a_real_server_gives_the_scores_of_hf_and_survives_a_kill(
    vllm_server: Any, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", os.environ[vllm_server.key_variable])
    words = ["model=demo", "tasks=mini", "limit=30"]
    mine = [*words, "engine=vllm", f"engine.url={vllm_server.url}", "engine.concurrency=1"]
    killed_eval(mine, home)
    run = evaluate(capsys, *mine)
    assert "weights" not in run.manifest["engine"]  # it says that it has loaded this very folder
    same(run, evaluate(capsys, *words), tuple(run.tasks))


@pytest.mark.slow
@pytest.mark.parametrize("way", ["walk", "echo"])
def test_a_real_server_walks_and_echoes_alike(
    vllm_server: Any, home: Path, demo_model: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", os.environ[vllm_server.key_variable])
    model = find(str(demo_model))
    tokens = Tokens(model.path)
    engine = VllmEngine(model, tokens, VllmOptions(url=vllm_server.url, scoring=way))
    reference = HFEngine(model, tokens)
    reference.load()
    engine.load()
    try:
        requests = documents(4, 200)
        agree(ask(engine, pack(requests)), list(reference.score(requests)))
        before = vllm_identity.cache_counts(engine._asking())
        ask(engine, pack(requests, "again"))
        after = vllm_identity.cache_counts(engine._asking())
        assert before and after and (after[0] > before[0]) == (way == "walk")  # hits of the prefix cache
    finally:
        engine.close()
