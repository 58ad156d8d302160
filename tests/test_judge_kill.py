"""A judge's work is never lost and never paid twice: kill -9 and the same command, and a replay with nobody to ask."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from estbench_judges import judges
from judge_server import JudgeServer, Persona
from judge_world import answered, quality_of, text_of, write_prompts

from estbench import judged
from estbench.cli import main
from estbench.responses import ResponseStore
from estbench.runs import Run

N, TASK, AT_ONCE = 24, "own_chat", 4
Said = pytest.CaptureFixture[str]


@pytest.fixture
def run(home: Path, tmp_path: Path) -> Run:
    prompts = write_prompts(tmp_path / "own.jsonl", N, two_turns=4)
    return answered(prompts, lambda prompt: text_of(0.7, prompt), name="hea")


def words(folder: Path, server: JudgeServer, *more: str) -> list[str]:
    own = [f"run={folder}", f"task={TASK}", f"judge={server.endpoint.name}@{server.url}", "output=json"]
    return ["judge", *own, f"judge.concurrency={AT_ONCE}", *more]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def plain(value: Any) -> Any:
    """JSON without what one call cost, and without the judge's address (each server has a port of its own)."""
    apart = ("ledger", "cost", "spent", "url", "fingerprint", "hashes")
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items() if key not in apart}
    return [plain(part) for part in value] if isinstance(value, list) else value


def layer_of(run: Run) -> judged.Layer:
    [layer] = judged.layers(run.path)
    return layer


# --- kill -9 ----------------------------------------------------------------------------------------------------------


def stored_keys(home: Path) -> set[str]:
    """The keys of all judgments on disk; a torn last line is none."""
    [row] = {json.loads(line)["response_id"] for line in (home / "judges.jsonl").read_text("utf-8").split("\n") if line}
    keys: set[str] = set()
    with ResponseStore(row) as store:
        keys |= store.load(Everything()).keys()
    return keys


class Everything:
    """A container that has every key."""

    def __contains__(self, key: object) -> bool:
        return True


def killed(folder: Path, server: JudgeServer, goal: int) -> bool:
    """Judge in a process of its own that is killed once `goal` answers came from the server; whether it was at work."""
    command = [sys.executable, "-m", "estbench", *words(folder, server)]
    victim = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while answers(server) < goal and victim.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    hit = victim.poll() is None
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    return hit


def answers(server: JudgeServer) -> int:
    """Judgments that the server answered, with repetition."""
    return sum(times for body, times in server.endpoint.answered.items() if body in server.asked)


@pytest.mark.slow
def test_killed_three_times_it_goes_on_and_no_judgment_is_paid_twice(run: Run, home: Path, tmp_path: Path) -> None:
    """An answer was paid once the server has sent it. What it had sent and no line on disk held at a kill was under way
    to the process that died: at most `concurrency` of them. Those are asked again, once a kill; all others never are.
    A third of the first answers is no JSON, so that kills also come between a question and its retry."""
    calm = Path(shutil.copytree(run.path, tmp_path / "calm" / run.path.name))
    faulty = Persona(failing=0.3, kinds=("prose",))
    with JudgeServer(quality_of, faulty, name="kohtunik", latency=0.1) as server:
        lost = 0
        for goal in (10, 25, 45):
            before = answers(server) - lost
            assert killed(run.path, server, goal + lost)
            time.sleep(0.3)  # what the server was about to send is sent or dropped
            kept = len(stored_keys(home))
            assert before <= kept <= answers(server) - lost  # nothing that was stored is gone
            under_way = answers(server) - lost - kept
            assert under_way <= AT_ONCE
            lost += under_way
            assert judged.layers(run.path) == []  # a run is judged whole or not at all
        assert main(words(run.path, server)) == 0
        assert len(server.paid_twice) <= lost and answers(server) == len(server.asked) + lost
        assert answers(server) - len(server.asked) <= 3 * AT_ONCE
        assert len(server.asked) == len(stored_keys(home)) > 2 * N

    with pytest.MonkeyPatch.context() as patch, JudgeServer(quality_of, faulty, name="kohtunik") as server:
        patch.setenv("ESTBENCH_HOME", str(tmp_path / "other"))
        assert main(words(calm, server)) == 0
        assert not server.paid_twice
    other = [re.sub(rb"#[0-9a-f]{8}\|", b"|", (one / "scores.json").read_bytes()) for one in (run.path, calm)]
    assert other[0] == other[1]  # but for the judge's identity: another server is another judge
    assert layer_of(run).values == layer_of(Run(calm)).values
    assert plain(layer_of(run).card) == plain(layer_of(Run(calm)).card)


@pytest.mark.slow
def test_two_processes_at_once_lose_nothing(run: Run, home: Path) -> None:
    """The same command twice at the same time: both end well with the same scores. Either may pay for what the other
    has under way, since neither waits; what is stored then is whole, and a third one asks nothing."""
    with JudgeServer(quality_of, name="kohtunik", latency=0.05) as server:
        command = [sys.executable, "-m", "estbench", *words(run.path, server)]
        both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
        ends = [(one.communicate(timeout=180), one.returncode) for one in both]
        assert [code for _, code in ends] == [0, 0], ends
        printed = [plain(json.loads(out)) for (out, _), _ in ends]
        assert printed[0] == printed[1]
        calls = server.calls
        assert main(words(run.path, server)) == 0
        assert server.calls == calls and layer_of(run).card["judges"][0]["valid"] == 2 * N


def test_an_interrupt_between_answers_and_the_folder_costs_nothing(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All is answered, nothing is written yet."""
    from estbench_judges import layers

    with JudgeServer(quality_of, name="kohtunik") as server:
        with monkeypatch.context() as patch:
            patch.setattr(layers, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            assert main(words(run.path, server)) not in (0, 2)
        assert server.calls == 2 * N and judged.layers(run.path) == []
        assert main(words(run.path, server)) == 0
        assert server.calls == 2 * N and layer_of(run).card["judges"][0]["valid"] == 2 * N


def test_a_torn_last_line_is_asked_again_and_nothing_else(run: Run, home: Path) -> None:
    """As a kill in the middle of a write leaves it."""
    with JudgeServer(quality_of, name="kohtunik") as server:
        assert main(words(run.path, server)) == 0
        before, scores = layer_of(run).values, (run.path / "scores.json").read_bytes()
        [file] = (home / "responses" / layer_of(run).card["judges"][0]["fingerprint"]).glob("*.jsonl")
        raw = file.read_bytes()
        file.write_bytes(raw[: raw.rindex(b"\n", 0, -1) + 40])
        assert main(words(run.path, server)) == 0
        assert server.calls == 2 * N + 1 and len(server.paid_twice) == 1
        assert layer_of(run).values == before and (run.path / "scores.json").read_bytes() == scores


# --- replay -----------------------------------------------------------------------------------------------------------


def test_a_replay_needs_no_server_and_prints_the_same(run: Run, monkeypatch: pytest.MonkeyPatch, capsys: Said) -> None:
    """Retries and failed answers among them. Another copy of the folder, that was never judged, ends the same."""
    untouched = Path(shutil.copytree(run.path, run.path.parent.parent / "untouched" / run.path.name))
    with JudgeServer(quality_of, Persona(failing=0.3, kinds=("prose", "cut", "refusal")), name="kohtunik") as server:
        assert main(words(run.path, server)) == 0
        asked = words(untouched, server, "replay=true")
    first = json.loads(capsys.readouterr().out)
    scores = (run.path / "scores.json").read_bytes()

    import socket

    def refuse(*_: Any) -> None:
        raise AssertionError("a replay needs no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert main(asked) == 0
    assert plain(json.loads(capsys.readouterr().out)) == plain(first)
    assert (untouched / "scores.json").read_bytes() == scores
    ours, theirs = contents(run.path / judged.FOLDER), contents(untouched / judged.FOLDER)
    assert ours.keys() == theirs.keys()
    assert all(ours[name] == theirs[name] for name in ours if name.endswith(".gz"))  # every call
    assert layer_of(Run(untouched)).marks == layer_of(run).marks


def test_a_replay_of_label_probabilities_needs_no_server(run: Run, capsys: Said) -> None:
    with JudgeServer(quality_of, name="kohtunik") as server:
        assert main(words(run.path, server, "mode=pointwise")) == 0
        asked = words(run.path, server, "mode=pointwise", "replay=true")
    first = json.loads(capsys.readouterr().out)
    assert main(asked) == 0
    assert plain(json.loads(capsys.readouterr().out)) == plain(first)


@pytest.mark.parametrize(
    ("before", "more", "code"),
    [
        (False, (), 2),
        (True, ("language=en",), 4),
        pytest.param(True, ("judge.revision=2",), 2, marks=pytest.mark.slow),
        pytest.param(True, ("temperature=0.5",), 4, marks=pytest.mark.slow),
    ],
    ids=["never", "language", "revision", "temperature"],
)
def test_a_replay_of_what_was_never_asked_is_one_clear_line(
    run: Run, before: bool, more: tuple[str, ...], code: int, capsys: Said
) -> None:
    with JudgeServer(quality_of, name="kohtunik") as server:
        if before:
            assert main(words(run.path, server)) == 0
        held, calls = contents(run.path), server.calls
        capsys.readouterr()
        assert main(words(run.path, server, "replay=true", *more)) == code
        assert server.calls == calls
    out, err = capsys.readouterr()
    [line] = [line for line in err.splitlines() if line.strip() and "stored already" not in line]
    assert line.startswith("estbench: ") and ("never asked" in line or "Not all judgments" in line) and not out
    assert contents(run.path) == held


def test_who_was_asked_is_known_by_what_changes_answers_alone(home: Path) -> None:
    """A limit, prices and speed are no part of who a judge is; its address, revision and extra are."""

    def spec(**more: str) -> str:
        [one] = judges.find("kohtunik@http://127.0.0.1:9/v1", more)
        return judges._spec(one)

    assert spec() == spec(concurrency="3") == spec(timeout="5", input_price="1", output_price="2")
    assert len({spec(), spec(revision="2"), spec(extra='{"a": 1}'), spec(thinking_tokens="5")}) == 4
