"""Who is behind an endpoint: stored answers count only while it shows no change, and never where it shows nothing."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stub_endpoint import Endpoint, Words
from worlds import TEXT, World

from estbench import registry
from estbench.cli import main
from estbench.engines import endpoint_identity
from estbench.engines.endpoint_identity import TOLERANCE, Observation, difference, distance, remember
from estbench.runs import Run

N = 12
CHAT = {**TEXT, "task": "talk", "num_fewshot": 0, "metadata": {**TEXT["metadata"], "form": "chat"}}
PROBED = ([("kask", {"kask": -0.2, "mänd": -2.0, "õun": -3.0})], [("cold", {"cold": -0.1, "hot": -2.5})])
SEEN = Observation("http://h/v1", "est-1", "chat", system_fingerprint="fp-1", values=PROBED)


def shifted(by: float, seen: Observation = SEEN) -> Observation:
    """The observation with all log-probabilities moved."""
    values = tuple([(word, {name: value - by for name, value in top.items()}) for word, top in row] for row in PROBED)
    return dataclasses.replace(seen, values=values)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "endpoints.jsonl"


def test_an_endpoint_that_shows_no_change_keeps_its_id(store: Path) -> None:
    first = remember(SEEN, store)
    again = remember(SEEN, store)
    assert again.id == first.id and again.changed is None
    assert remember(shifted(0.1), store).id == first.id  # servers are not stable to the bit


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (dataclasses.replace(SEEN, system_fingerprint="fp-2"), "system fingerprint"),
        (dataclasses.replace(SEEN, system_fingerprint=None), "system fingerprint"),
        (dataclasses.replace(SEEN, served="est-1-new"), "answers as est-1-new"),
        (dataclasses.replace(SEEN, started=99.0), "started anew"),
        (dataclasses.replace(SEEN, values=()), "beyond comparison"),
        (shifted(0.4), "differ by up to 0.4"),
    ],
)
def test_whatever_changes_gives_a_new_id_and_is_named(store: Path, other: Observation, said: str) -> None:
    first = remember(SEEN, store)
    found = remember(other, store)
    assert found.id != first.id and found.changed is not None and said in found.changed
    assert remember(SEEN, store).id == first.id  # and who comes back is known again


@pytest.mark.parametrize("field", ["url", "model", "api", "revision"])
def test_another_place_is_another_model_and_no_change(store: Path, field: str) -> None:
    first = remember(SEEN, store)
    other = remember(dataclasses.replace(SEEN, **{field: "other"}), store)
    assert other.id != first.id and other.changed is None


def test_who_shows_nothing_is_new_each_time(store: Path) -> None:
    nobody = Observation("http://h/v1", "est-1", "chat")
    assert len({remember(nobody, store).id for _ in range(3)}) == 3
    named = dataclasses.replace(nobody, revision="v1")
    assert remember(named, store).id == remember(named, store).id


def test_a_revision_vouches_for_a_server_that_starts_anew_but_not_against_the_probe(store: Path) -> None:
    began = dataclasses.replace(SEEN, system_fingerprint=None, revision="v1", started=1.0)
    first = remember(began, store)
    assert remember(dataclasses.replace(began, started=2.0), store).id == first.id
    assert remember(shifted(0.4, began), store).id != first.id
    unnamed = dataclasses.replace(began, revision=None)
    assert remember(unnamed, store).id != remember(dataclasses.replace(unnamed, started=2.0), store).id


def test_a_slow_drift_is_seen(store: Path) -> None:
    ids = [remember(shifted(0.1 * i), store).id for i in range(3)]
    assert ids[0] == ids[1] != ids[2]
    one, two = shifted(0.1), shifted(0.2)
    assert distance(one.values, two.values) < TOLERANCE  # the control: from step to step it looks the same


def test_tokens_that_only_one_side_lists_count(store: Path) -> None:
    seen = [("kask", {"kask": -0.2, "mänd": -2.0})]
    other = [("kask", {"kask": -0.2, "õun": -2.05})]  # the third of the first may be as likely
    swapped = [("õun", {"õun": -0.2, "mänd": -2.0})]
    assert distance([seen], [other]) < TOLERANCE < distance([seen], [swapped])
    rare = (
        [("kask", {"kask": -0.2, "mänd": -2.0, "tamm": -9.0})],
        [("kask", {"kask": -0.2, "mänd": -2.0, "tamm": -11.0})],
    )
    assert distance([rare[0]], [rare[1]]) == 0.0


def test_places_behind_another_token_are_not_compared() -> None:
    one = [("a", {"a": -0.6, "b": -0.65}), ("x", {"x": -0.1})]
    two = [("b", {"a": -0.65, "b": -0.6}), ("y", {"y": -0.1})]
    assert distance([one], [two]) < TOLERANCE


def test_a_torn_line_costs_nothing_but_itself(store: Path) -> None:
    first = remember(SEEN, store)
    with store.open("a") as file:
        file.write('{"url": "http://h/v1", "mod')
    assert remember(SEEN, store).id == first.id
    new = dataclasses.replace(SEEN, system_fingerprint="fp-2")
    assert remember(new, store).id == remember(new, store).id


def test_jobs_that_start_together_agree(store: Path) -> None:
    with ThreadPool(8) as pool:
        ids = pool.map(lambda i: remember(shifted(0.001 * i), store).id, range(16))
    assert len(set(ids)) == 1


def test_a_revision_gives_the_same_id_on_every_machine(tmp_path: Path) -> None:
    named = dataclasses.replace(SEEN, revision="v1")
    ids = [remember(shifted(0.01 * i, named), tmp_path / str(i) / "endpoints.jsonl").id for i in range(3)]
    assert len(set(ids)) == 1


def test_difference_says_nothing_of_what_is_equal() -> None:
    row = json.loads(json.dumps(dataclasses.asdict(SEEN)))
    assert difference(row, SEEN) is None


class Other(Words):
    """The same words with the probabilities of other weights."""

    def logprobs(self, ids: Sequence[int]) -> np.ndarray:
        return super().logprobs([7, *ids])[1:]


Evaluate = Callable[..., tuple[Run, int, str]]


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint(Words(lambda prompt: "jah"), name="est-1", metrics=False) as server:
        yield server


@pytest.fixture
def evaluate(
    tmp_path: Path,
    home: Path,
    endpoint: Endpoint,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Evaluate:
    """`evaluate("engine.revision=v1")`: the run, how many documents were asked, stderr."""
    world = World(tmp_path / "world", N)
    world.write(CHAT)
    monkeypatch.setattr(registry, "project_file", lambda name: world.folder / name)

    def run(*words: str) -> tuple[Run, int, str]:
        endpoint.posts.clear()
        fixed = ["engine=openai", f"engine.url={endpoint.url}", "engine.model=est-1", "tasks=talk"]
        code = main(["eval", *fixed, f"data={world.data}", *words])
        out, err = capsys.readouterr()
        assert code == 0, err
        asked = [body for body in endpoint.posts if "Küsimus" in str(body["messages"])]
        return Run(Path(json.loads(out)["folder"])), len(asked), err

    return run


def fingerprint(run: Run) -> Any:
    return run.manifest["model"]["fingerprint"]


def test_the_probe_alone_tells_the_same_model_from_another(endpoint: Endpoint, evaluate: Evaluate) -> None:
    first, asked, _ = evaluate()
    again, none, _ = evaluate()
    assert (asked, none) == (N, 0) and fingerprint(first) == fingerprint(again)
    endpoint.model = Other(lambda prompt: "jah")
    other, asked, err = evaluate()
    assert asked == N and fingerprint(other) != fingerprint(first)
    assert "has changed since it was last seen" in err and "engine.revision=NAME" in err


def test_a_server_that_started_anew_is_asked_again(endpoint: Endpoint, evaluate: Evaluate) -> None:
    endpoint.metrics = True
    assert [evaluate()[1], evaluate()[1]] == [N, 0]
    endpoint.started += 60
    _, asked, err = evaluate()
    assert asked == N and "started anew" in err
    assert evaluate("engine.revision=v1")[1] == N
    endpoint.started += 60
    assert evaluate("engine.revision=v1")[1] == 0


def test_an_endpoint_that_shows_nothing_is_asked_each_time(endpoint: Endpoint, evaluate: Evaluate) -> None:
    endpoint.chat_logprobs = False
    first, asked, err = evaluate()
    again, more, _ = evaluate()
    assert (asked, more) == (N, N) and fingerprint(first) != fingerprint(again)
    assert "shows nothing" in err and "engine.revision=NAME" in err
    assert evaluate("engine.revision=v1")[1] == N and evaluate("engine.revision=v1")[1] == 0


def test_answers_older_than_max_age_are_asked_again(
    endpoint: Endpoint, evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert evaluate()[1] == N
    clock = time.time
    monkeypatch.setattr("estbench.answering.time.time", lambda: clock() + 31 * 86400)
    assert evaluate("engine.max_age=40d")[1] == 0
    assert evaluate()[1] == N


def test_the_store_of_observations_holds_no_texts_of_tasks(endpoint: Endpoint, evaluate: Evaluate, home: Path) -> None:
    evaluate()
    text = (home / "endpoints.jsonl").read_text("utf-8")
    assert "est-1" in text and "Küsimus" not in text
    assert endpoint_identity.ALONE not in text
