"""Many machines: packs go to workers on Ray, whatever dies there, and the bits are those of one process.

Here Ray is a stand-in, `stub_ray`; in test_distributed_cluster.py it is a real one.
"""

from __future__ import annotations

import itertools
import pickle
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stub_ray import Killed, answers_of, cluster, fake, some_packs
from worlds import World

from estbench import config, distributed, engines, ray_session, ray_worker, registry, runner
from estbench.checkpoint import find
from estbench.config import EvalSettings
from estbench.distributed import PackQueue, RayEngine, merged, read_options
from estbench.engines.base import Failed, Pack, PackTooLarge, Request, Scored
from estbench.engines.mock import MockEngine, mock_checkpoint
from estbench.errors import ConfigError, EngineError, MissingPartError, ModelError
from estbench.ray_worker import Order, Worker

__all__ = ["fake"]  # a fixture

# -- what goes to whom ------------------------------------------------------------------------------------------------


def test_a_worker_gets_packs_of_one_stem_until_there_are_none() -> None:
    packs = some_packs(12, stems=2)
    queue = PackQueue(packs)
    taken: dict[str, list[Pack]] = {"a": [], "b": []}
    for _ in range(6):
        for worker, own in taken.items():
            own.append(queue.take(worker) or pytest.fail("nothing waits"))
    assert taken == {"a": packs[:6], "b": packs[6:]}
    assert queue.take("a") is None and len(queue) == 0


def test_workers_without_a_stem_of_their_own_help_with_the_longest_queue() -> None:
    packs = some_packs(9, stems=3)
    queue = PackQueue([*packs[:3], *packs[6:7], *packs[3:6]])  # three, one and three of a stem
    assert [queue.take(worker) for worker in "abc"] == [packs[0], packs[6], packs[3]]
    assert queue.take("b") in (packs[1], packs[4])
    left = list(iter(lambda: queue.take("d"), None))
    assert len(left) == 3 and len(queue) == 0


def test_a_pack_that_comes_back_is_first_again() -> None:
    packs = some_packs(3)
    queue = PackQueue(packs)
    queue.take("a")
    queue.take("b")
    queue.forget("b")
    queue.put_back(packs[1])
    assert [queue.take("a"), queue.take("a"), queue.take("a")] == [packs[1], packs[2], None]


def test_every_pack_is_answered_once_and_stems_stay_together(fake: Any) -> None:
    ray = fake()
    engine, packs = cluster(), some_packs(40, stems=4)
    engine.load()
    found = list(engine.answer(packs))
    assert {pack.id: answers for pack, answers in found} == answers_of(packs) and len(found) == 40
    computed = [actor.computed for actor in ray.actors]
    assert len(computed) == 2 and all(15 <= len(own) <= 25 for own in computed)  # balanced
    changes = sum(
        a.requests[0].prompt[0] != b.requests[0].prompt[0] for own in computed for a, b in itertools.pairwise(own)
    )
    assert changes <= 4  # two workers, four stems
    engine.close()
    assert engine.notes()["cluster"] == {"workers": 2, "nodes": 1, "restarts": 0}


def test_arrays_of_a_pack_are_the_workers_own() -> None:
    [pack] = some_packs(1)
    for request in pack.requests:
        request.prompt.flags.writeable = False
    own = ray_worker.writable(pack)
    assert all(request.prompt.flags.writeable for request in own.requests)
    assert [r.content() for r in own.requests] == [r.content() for r in pack.requests]


# -- what dies --------------------------------------------------------------------------------------------------------


def test_packs_of_dead_workers_go_to_others_and_a_new_worker_comes(fake: Any) -> None:
    dead = {0: 3, 1: 5, 2: 2}  # worker -> how many packs it lives for
    calls: dict[int, int] = {}

    def before(worker: int, what: str, _: Any) -> None:
        if what == "answer":
            calls[worker] = calls.get(worker, 0) + 1
            if calls[worker] == dead.get(worker):
                raise Killed

    ray, said = fake(before), []
    engine, packs = cluster(said), some_packs(30)
    engine.load()
    found = list(engine.answer(packs))
    assert {pack.id: answers for pack, answers in found} == answers_of(packs) and len(found) == 30
    assert len(ray.actors) == 5 and sum("is gone (its process died)" in line for line in said) == 3


def test_without_requeueing_answers_would_be_missing(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the test above."""
    monkeypatch.setattr(distributed, "TRIES", 1)
    killed: list[int] = []

    def before(worker: int, what: str, _: Any) -> None:
        if what == "answer" and not killed:
            killed.append(worker)
            raise Killed

    fake(before)
    engine, packs = cluster(), some_packs(30)
    engine.load()
    found = [answer for _, answers in engine.answer(packs) for answer in answers]
    assert sum(isinstance(answer, Failed) for answer in found) == 2 and len(found) == 60


def test_a_pack_that_kills_three_workers_is_missing_data_and_the_others_are_answered(fake: Any) -> None:
    packs = some_packs(20)
    poison, victims = packs[7].id, []

    def before(worker: int, what: str, arguments: Any) -> None:
        if what == "answer" and arguments[0].id == poison:
            victims.append(worker)
            raise Killed

    fake(before)
    engine = cluster()
    engine.load()
    found = {pack.id: answers for pack, answers in engine.answer(packs)}
    expected = answers_of(packs)
    failed = found.pop(poison)
    assert len(victims) == 3 and all(isinstance(answer, Failed) for answer in failed)
    assert "3 workers died while they computed this pack of 2 requests of t" in failed[0].reason
    assert found == {key: answers for key, answers in expected.items() if key != poison}


def test_workers_that_never_live_end_the_run(fake: Any) -> None:
    def before(worker: int, what: str, _: Any) -> None:
        if what == "load":
            raise Killed

    ray = fake(before)
    engine = cluster()
    with pytest.raises(EngineError, match="All workers died before they were ready, 3 times each: its process died"):
        engine.load()
    assert len(ray.actors) == 6
    engine.close()
    assert not any(actor.alive for actor in ray.actors)


def test_no_worker_within_the_time_limit_ends_the_run_with_the_cure(fake: Any) -> None:
    ray = fake()
    engine = cluster(workers="2", gpus="8", wait="0.05")
    engine._start()
    for actor in ray.actors:
        actor.answers = False  # Ray has no room for them
    with pytest.raises(
        EngineError, match=r"No worker for 0.05 s: the cluster has 1 CPUs and 0 GPUs to spare, a worker "
    ):
        engine.load()


def test_a_run_goes_on_as_long_as_one_worker_remains(fake: Any) -> None:
    lost: list[bool] = []

    def before(worker: int, what: str, _: Any) -> None:
        if worker > 0 and lost:  # two nodes go, and what comes in their place does not live either
            raise Killed

    ray, said = fake(before), []
    engine, packs = cluster(said, workers="3"), some_packs(12)
    engine.load()
    given = engine.answer(packs)
    found = [next(given)]
    lost.append(True)
    found += list(given)
    assert {pack.id: answers for pack, answers in found} == answers_of(packs) and len(found) == 12
    assert len(ray.actors) <= 9 and sum("in a row died before they were ready" in line for line in said) == 2


# -- what an engine refuses -------------------------------------------------------------------------------------------


def test_a_pack_that_is_too_large_is_halved_by_whoever_asks(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def compute(self: MockEngine, pack: Pack) -> Any:
        if len(pack.requests) > 2:
            raise PackTooLarge(pack, "the device")
        return self.score(pack.requests)

    monkeypatch.setattr(MockEngine, "compute", compute)
    fake()
    engine, packs = cluster(), [*some_packs(6), *some_packs(1, each=4, task="u")]
    engine.load()
    found: dict[str, Any] = {}
    given = engine.answer([packs[-1], *packs[:-1]])
    with pytest.raises(PackTooLarge) as large:
        found.update((pack.id, answers) for pack, answers in given)
    assert large.value.pack.id == packs[-1].id
    halves = packs[-1].halves()
    for pack, answers in engine.answer([*halves, *(pack for pack in packs[:-1] if pack.id not in found)]):
        assert pack.id not in found  # nothing is given twice
        found[pack.id] = answers
    assert found.keys() == {pack.id for pack in [*packs[:-1], *halves]}


def test_an_error_of_the_engine_is_raised_as_its_own_kind(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def compute(self: MockEngine, pack: Pack) -> Any:
        raise EngineError("mock gives NaN probabilities in float32: its weights are damaged.")

    monkeypatch.setattr(MockEngine, "compute", compute)
    fake()
    engine = cluster()
    engine.load()
    with pytest.raises(EngineError, match="NaN probabilities"):
        list(engine.answer(some_packs(3)))


def test_a_bug_on_a_worker_is_one_line_that_names_the_node(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MockEngine, "compute", lambda self, pack: 1 / 0)
    fake()
    engine = cluster()
    engine.load()
    with pytest.raises(EngineError, match=r"A worker on node .* failed: ZeroDivisionError: division by zero"):
        list(engine.answer(some_packs(3)))


def test_devices_of_two_kinds_are_refused(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def fingerprint(self: MockEngine) -> dict[str, str]:
        made.append(1)
        return {"engine": "mock", "device": "MI250X" if len(made) == 1 else "A100"}

    monkeypatch.setattr(MockEngine, "fingerprint", fingerprint)
    fake()
    with pytest.raises(ConfigError, match=r"The cluster is mixed: device is MI250X on node .* and A100 on node"):
        cluster().load()


def test_what_engines_say_is_said_once(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(settings: Any, model: Any, tokens: Any, say: Any) -> MockEngine:
        say("This model falls back to padded batches.")
        return MockEngine()

    monkeypatch.setattr(engines, "make", make)
    fake()
    said: list[str] = []
    cluster(said, workers="4").load()
    assert said.count("This model falls back to padded batches.") == 1


def test_a_node_without_the_model_or_with_another_one_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    model = find(str(tiny_model))
    order = Order(EvalSettings(model=str(tiny_model)), "tiny", str(tiny_model), model.fingerprint(), {})
    assert ray_worker.find_here(order).name == "tiny"
    reply = Worker(replace(order, path=str(tmp_path / "gone"), settings=EvalSettings(model=str(tmp_path)))).open()
    assert isinstance(reply.raised(), ModelError) and f"has no {tmp_path}/gone" in str(reply.raised())
    reply = Worker(replace(order, hashes=order.hashes | {"weights": "0" * 64})).open()
    assert isinstance(reply.raised(), ModelError) and "is another model than on the driver (other weights)" in str(
        reply.raised()
    )


def test_a_worker_computes_what_one_process_computes(tiny_model: Path) -> None:
    """Bits, without Ray: the worker's engine is the driver's."""
    model = find(str(tiny_model))
    settings = EvalSettings(model=str(tiny_model))
    worker = Worker(Order(settings, model.name, str(tiny_model), model.fingerprint(), {}))
    facts = worker.open().value
    assert worker.load().error is None
    tokens = engines.tokens_of(settings, model)
    engine = engines.make(settings, model, tokens, lambda _: None)
    assert facts.fingerprint == engine.fingerprint() and facts.max_length == engine.max_length
    engine.load()
    ids = np.arange(40, dtype=np.int32) % 300
    pack = Pack("t", ("a", "b"), (Request(ids[:20], ids[20:23]), Request(ids[:20], ids[30:35])))
    [(_, expected)] = engine.answer([pack])
    assert worker.answer(pack).value == list(expected) and isinstance(expected[0], Scored)


def test_a_worker_is_told_no_database_and_no_gold(fake: Any) -> None:
    ray = fake()
    settings = EvalSettings(model="mock", cluster="auto", database="postgresql://me:secret@host/db", gold="gold.jsonl")
    engine = RayEngine(settings, mock_checkpoint(), lambda _: None)
    engine.load()
    assert b"secret" not in pickle.dumps(engine.order) and b"gold.jsonl" not in pickle.dumps(engine.order)
    assert len(ray.actors) == 2  # without GPUs one a node


def test_gpus_are_declared_and_hidden_where_none_are_asked(fake: Any) -> None:
    ray = fake(gpus=4)
    engine = cluster(cpus="1")
    engine._start()
    assert ray.asked["num_gpus"] == 1 and len(ray.actors) == 8
    assert "CUDA_VISIBLE_DEVICES" not in engine.order.environment
    ray = fake(gpus=4)
    settings = EvalSettings(model="mock", cluster="auto", engine_options={"gpus": "2"})
    RayEngine(settings, mock_checkpoint(), lambda _: None)._start()
    assert ray.asked["num_gpus"] == 2 and len(ray.actors) == 4
    ray = fake(gpus=4)
    engine = cluster(gpus="0")
    engine._start()
    assert ray.asked["num_gpus"] == 0 and engine.order.environment["CUDA_VISIBLE_DEVICES"] == ""


def test_notes_of_workers_are_put_together() -> None:
    notes = [{"forwarded": 3, "path": "tree", "of": {"a": 1}}, {"forwarded": 4, "path": "tree", "of": {"a": 2, "b": 1}}]
    assert merged(notes) == {"forwarded": 7, "path": "tree", "of": {"a": 3, "b": 1}}
    assert merged([{"path": "tree"}, {"path": "rows"}]) == {"path": ["tree", "rows"]}


# -- what a user types ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cluster=lokal"], "cluster=lokal is not one of local, auto, ray://host:port"),
        (["cluster.workers=2"], "cluster.workers= needs cluster=local"),
        (["cluster=local", "cluster.worker=2"], "There is no key 'cluster.worker'. Did you mean 'workers'?"),
        (["cluster=local", "cluster.workers=0"], "cluster.workers=0 is too small"),
        (["cluster=local", "engine=openai"], "engine=openai needs no cluster="),
        (["cluster=local", "engine=vllm", "engine.url=http://127.0.0.1:8000/v1"], "it needs no cluster="),
    ],
)
def test_slips_are_answered_before_anything_starts(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_options(config.read(["model=m", *words], EvalSettings))
    assert message in str(error.value)


def test_addresses_and_options_are_read() -> None:
    words = ["model=m", "cluster=ray://head-node.hpc:10001", "cluster.workers=16", "cluster.gpus=1", "cluster.cpus=7"]
    options = read_options(config.read(words, EvalSettings))
    assert (options.workers, options.gpus, options.cpus, options.wait) == (16, 1, 7, 600.0)


def test_without_ray_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingPartError, match=r"pip install 'estbench\[ray\]'"):
        ray_session.join("local", cpus=1, gpus=None)


def test_an_address_where_nobody_listens_is_said_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(EngineError, match=f"cluster=127.0.0.1:{port} can't be reached"):
        ray_session._check_reachable(f"127.0.0.1:{port}")


def test_ray_is_imported_only_when_a_cluster_is_asked_for() -> None:
    code = "import sys; from estbench import runner, distributed, ray_worker; print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_responses_of_one_process_are_reused_on_a_cluster_and_back(
    fake: Any, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path / "world")
    monkeypatch.setattr(registry, "project_file", lambda name: world.folder / name)
    ray = fake()
    asked = EvalSettings(model="mock", tasks="both", data=str(world.data), limit=6)
    first = runner.evaluate(runner.prepare(replace(asked, cluster="auto")))
    computed = sum(len(pack.requests) for actor in ray.actors for pack in actor.computed)
    assert computed == 18
    said: list[str] = []
    again = runner.evaluate(runner.prepare(asked), say=said.append)
    assert again.path == first.path and any("no token is forwarded" in line for line in said)
    whole = replace(asked, limit=None)
    runner.evaluate(runner.prepare(whole))
    ray = fake()
    runner.evaluate(runner.prepare(replace(whole, cluster="auto")))
    assert not any(actor.computed for actor in ray.actors)
    assert not any(actor.worker.engine.loaded for actor in ray.actors if actor.worker.engine)
    assert not any(actor.alive for actor in ray.actors)  # although nothing was computed
