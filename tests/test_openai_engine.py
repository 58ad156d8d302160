"""engine=openai against a server on loopback: what is asked and refused, what answers count as, what they cost."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from stub_endpoint import Endpoint, TinyModel, Words
from worlds import CHOICE, TEXT, World, rows

from estbench import registry
from estbench.cli import main
from estbench.engines import endpoint_echo
from estbench.runs import Run

KEY = "sk-very-secret-0123456789"
N = 12
CHAT = {
    **TEXT,
    "task": "talk",
    "num_fewshot": 0,
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 32, "do_sample": False},
    "metadata": {**TEXT["metadata"], "form": "chat"},
}
SCORED_CHAT = {**CHOICE, "task": "letters_chat", "metadata": {**CHOICE["metadata"], "form": "chat"}}


def number(prompt: str) -> int:
    """The number that a question of the world asks for."""
    return int(re.findall(r"number (\d+)", prompt)[-1]) if "number" in prompt else 0


def answer(prompt: str) -> str:
    return f"vastus {number(prompt)}"


@pytest.fixture
def world(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path / "world", N)
    made.write(CHAT)
    made.write(SCORED_CHAT)
    monkeypatch.setattr(registry, "project_file", lambda name: made.folder / name)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return made


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint(Words(answer), name="est-1", fingerprint="fp-1") as server:
        yield server


Outcome = tuple[int, Any, str]
Evaluate = Callable[..., Outcome]


@pytest.fixture
def evaluate(world: World, capsys: pytest.CaptureFixture[str]) -> Evaluate:
    """`evaluate(endpoint, "tasks=talk", ...)`: exit code, stdout as JSON (None where there is none), stderr."""

    def run(endpoint: Endpoint, *words: str) -> Outcome:
        given = {word.partition("=")[0] for word in words}
        fixed = {"engine": "openai", "engine.url": endpoint.url, "engine.model": "est-1", "tasks": "talk"}
        fixed["data"] = str(world.data)
        code = main(["eval", *(f"{key}={value}" for key, value in fixed.items() if key not in given), *words])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out.strip() else None, err

    return run


def work(endpoint: Endpoint) -> list[dict[str, Any]]:
    """The requests that are not the probe's, which ask for PLACES tokens or echo."""
    talks = [body for body in endpoint.posts if "messages" in body]
    return [body for body in talks if "Küsimus" in body["messages"][-1]["content"]]


def folder(outcome: Outcome) -> Run:
    return Run(Path(outcome[1]["folder"]))


def responses(outcome: Outcome, task: str = "talk") -> dict[int, dict[str, Any]]:
    return {row["doc_id"]: row for row in folder(outcome).responses(task)}


def written(home: Path) -> list[str]:
    """Everything in the home but the demo models."""
    return sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())


def test_each_document_is_asked_once_and_a_rerun_asks_nothing(endpoint: Endpoint, evaluate: Evaluate) -> None:
    first = evaluate(endpoint)
    assert first[0] == 0 and len(work(endpoint)) == N
    assert {i: row["text"] for i, row in responses(first).items()} == {i: f"vastus {i}" for i in range(N)}
    body = work(endpoint)[0]
    assert body["model"] == "est-1" and body["temperature"] == 0 and body["max_tokens"] == 32 and body["stop"] == ["\n"]
    again = evaluate(endpoint)
    assert len(work(endpoint)) == N and again[1]["scores"] == first[1]["scores"]
    assert folder(again).manifest["engine"]["ledger"] == folder(first).manifest["engine"]["ledger"]


def test_the_manifest_says_what_is_known_and_what_is_not(endpoint: Endpoint, evaluate: Evaluate) -> None:
    manifest = folder(evaluate(endpoint, "prompt.system=Ole lühike.")).manifest
    model, engine = manifest["model"], manifest["engine"]
    assert (model["name"], model["weights"], model["path"], model["parameters"]) == ("est-1", "unverified", None, None)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", model["observed"]) and model["shown"]["system_fingerprint"] == "fp-1"
    assert model["chat_template"] == "the endpoint's own" and model["url"] == endpoint.url
    usage = engine["ledger"]
    assert usage["calls"] == N and usage["prompt"] > N and usage["completion"] > N and usage["unmetered"] == 0
    assert engine["system_fingerprints"] == {"fp-1": N}


def test_a_list_of_runs_shows_the_date(
    endpoint: Endpoint, evaluate: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    observed = folder(evaluate(endpoint)).manifest["model"]["observed"]
    assert main(["runs", "output=table"]) == 0
    assert f"weights unverified ({observed})" in capsys.readouterr().out


def test_messages_are_sent_as_messages(endpoint: Endpoint, evaluate: Evaluate, world: World) -> None:
    world.edit("talk", num_fewshot=1)
    outcome = evaluate(endpoint, "prompt.system=Ole lühike.")
    assert outcome[0] == 0
    roles = [one["role"] for one in work(endpoint)[0]["messages"]]
    assert roles == ["system", "user", "assistant", "user"]
    assert work(endpoint)[0]["messages"][0]["content"] == "Ole lühike."
    planned = next(iter(folder(outcome).plan("talk")))
    assert [one["role"] for one in planned.requests[0]["messages"]] == roles


def test_the_key_is_sent_and_nowhere_else(
    endpoint: Endpoint, evaluate: Evaluate, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint.key = KEY
    monkeypatch.setenv("MY_KEY", KEY)
    good = evaluate(endpoint, "engine.key_variable=MY_KEY")
    monkeypatch.setenv("MY_KEY", f"{KEY}-wrong")
    bad = evaluate(endpoint, "engine.key_variable=MY_KEY")
    assert good[0] == 0 and bad[0] == 4 and "MY_KEY" in bad[2]
    assert endpoint.headers[0]["Authorization"] == f"Bearer {KEY}"  # the control: it was in use
    for text in (*map(str, good), *map(str, bad), *(path.read_bytes().decode("latin-1") for path in files(home))):
        assert KEY not in text
    zipped = [line for path in files(home) if path.suffix == ".gz" for line in gunzip(path)]
    assert zipped and not any(KEY in line for line in zipped)


def files(home: Path) -> list[Path]:
    return [path for path in home.rglob("*") if path.is_file() and not path.is_symlink()]


def gunzip(path: Path) -> list[str]:
    import gzip

    return gzip.decompress(path.read_bytes()).decode().splitlines()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["engine.model=est-2"], 2, "Did you mean 'est-1'"),
        (["engine.url=http://127.0.0.1:9/v1"], 4, "can't be reached"),
        (["engine.url=http://me:geheim@127.0.0.1:9/v1"], 2, "environment variable"),
        (["engine.key_variable=sk-123"], 2, "no name of an environment variable"),
        (["engine.max_cost=1"], 2, "engine.input_price="),
        (["engine.api=completions"], 2, "engine.tokenizer=FOLDER"),
        (["engine.max_age=soon"], 2, "30d"),
        (["engine.extra={}}"], 2, "JSON object"),
        (["engine.colour=red"], 2, "has no option 'colour'"),
        (["model=other"], 2, "two models"),
        (["cluster=local"], 2, "cluster="),
    ],
)
def test_what_can_not_be_is_refused_in_one_line_and_nothing_is_written(
    endpoint: Endpoint, evaluate: Evaluate, home: Path, words: list[str], code: int, said: str
) -> None:
    before = written(home)
    found, out, err = evaluate(endpoint, *words)
    assert found == code and out is None and said in err and "sk-123" not in err and "geheim" not in err
    assert len(err.splitlines()) == 1 and err.startswith("estbench: ")
    assert written(home) == before and not work(endpoint)


def test_a_wrong_key_is_told_before_anything_is_written(endpoint: Endpoint, evaluate: Evaluate, home: Path) -> None:
    endpoint.key = KEY
    before = written(home)
    code, out, err = evaluate(endpoint)
    assert (code, out) == (4, None) and "OPENAI_API_KEY" in err and "not set" in err and written(home) == before


def test_tasks_that_a_chat_endpoint_can_not_do_are_named_before_the_first_request(
    endpoint: Endpoint, evaluate: Evaluate
) -> None:
    code, out, err = evaluate(endpoint, "tasks=letters,letters_chat,talk")
    assert (code, out) == (2, None) and "letters, letters_chat: it needs log-likelihoods" in err
    assert not work(endpoint)
    code, out, err = evaluate(endpoint, "tasks=words")
    assert code == 2 and "words: it is in completion form" in err
    code, out, _ = evaluate(endpoint, "tasks=letters,talk", "missing=skip")
    assert code == 0 and len(work(endpoint)) == N
    reasons = {score["task"]: score["reason"] for score in out["scores"]}
    assert reasons["talk"] is None and "log-likelihoods" in reasons["letters"]


def reply_with(change: Callable[[int, dict[str, Any]], None]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Replies of the stub, changed by the number that was asked for: `change(number, choice)`."""

    def changed(reply: dict[str, Any]) -> dict[str, Any]:
        [choice] = reply["choices"]
        if found := re.fullmatch(r"vastus (\d+)", choice["message"]["content"]):
            change(int(found[1]), choice)
        return reply

    return changed


def test_answers_are_recorded_as_what_they_are(endpoint: Endpoint, evaluate: Evaluate, world: World) -> None:
    def change(i: int, choice: dict[str, Any]) -> None:
        if i == 0:
            choice["finish_reason"] = "content_filter"
        elif i == 1:
            choice["message"] |= {"content": None, "refusal": "Sellele ma ei vasta."}
        elif i == 2:
            choice["finish_reason"] = "length"
        elif i == 3:
            choice["message"]["content"] = ""

    world.edit("talk", generation_kwargs={"until": [], "max_gen_toks": 64})
    endpoint.reply = reply_with(change)
    outcome = evaluate(endpoint)
    found = {i: (row["finish"], row["text"]) for i, row in responses(outcome).items()}
    assert found[0] == ("refusal", "vastus 0") and found[1] == ("refusal", "Sellele ma ei vasta.")
    assert found[2] == ("length", "vastus 2") and found[3] == ("stop", "") and found[4] == ("stop", "vastus 4")
    endings = folder(outcome).manifest["tasks"]["talk"]["endings"]
    assert (endings["n"], endings["truncated"], endings["refused"], endings["empty"]) == (N, 1, 2, 1)
    assert (
        "Cut off at the token limit: 1 of 12 in talk. Refused: 2 of 12 in talk. Empty: 1 of 12 in talk." in outcome[2]
    )
    assert "Refused" in evaluate(endpoint)[2]  # also where all is stored


def test_a_prompt_that_is_filtered_is_a_refusal_and_a_prompt_that_fails_is_none(
    endpoint: Endpoint, evaluate: Evaluate
) -> None:
    from stub_endpoint import Refuse

    def change(i: int, choice: dict[str, Any]) -> None:
        if i == 3:
            raise Refuse(400, "The prompt triggered the content management policy.", code="content_filter")
        if i == 4:
            raise Refuse(400, "This model's maximum context length is 10 tokens.")

    endpoint.reply = reply_with(change)
    outcome = evaluate(endpoint)
    found = responses(outcome)
    assert outcome[0] == 4 and len(found) == N - 1 and 4 not in found
    assert (found[3]["finish"], found[3]["text"]) == ("refusal", "")
    errors = {sample.doc_id: sample.error for sample in folder(outcome).samples("talk") if sample.error}
    assert list(errors) == [4] and "maximum context length" in errors[4]


def test_thinking_is_kept_apart_and_counted(endpoint: Endpoint, evaluate: Evaluate) -> None:
    def change(i: int, choice: dict[str, Any]) -> None:
        message = choice["message"]
        if i % 3 == 0:
            message["reasoning_content"] = "hm\nvastus 99"
        elif i % 3 == 1:
            message["content"] = f"<think>hm\nvastus 99</think>\n\nvastus {i}\nja veel"

    def with_usage(reply: dict[str, Any]) -> dict[str, Any]:
        reply["usage"]["completion_tokens_details"] = {"reasoning_tokens": 3}
        return reply_with(change)(reply)

    endpoint.reply = with_usage
    outcome = evaluate(endpoint, "engine.thinking_tokens=100")
    for i, row in responses(outcome).items():
        assert row["text"] == f"vastus {i}" and row["thinking_tokens"] == 3
        assert row.get("thinking", "") == ("" if i % 3 == 2 else "hm\nvastus 99")
    assert all(body["max_tokens"] == 132 and "stop" not in body for body in work(endpoint))
    assert folder(outcome).manifest["engine"]["thinking_tokens"] == "100"
    plain = evaluate(endpoint)  # another decoding: nothing is taken from the first run
    assert len(work(endpoint)) == 2 * N and "engine.thinking_tokens=N gives room" in plain[2]


def test_parameters_that_are_refused_are_left_out_and_that_is_said(endpoint: Endpoint, evaluate: Evaluate) -> None:
    plain = folder(evaluate(endpoint)).manifest["identity"]["response"]
    endpoint.posts.clear()
    endpoint.unsupported = ["max_tokens", "temperature", "seed", "stop", "logprobs"]
    outcome = evaluate(endpoint)
    assert outcome[0] == 0 and len(work(endpoint)) == N
    for body in work(endpoint):
        assert body.keys() == {"model", "max_completion_tokens", "messages"} and body["max_completion_tokens"] == 32
    assert "takes no temperature: it samples" in outcome[2] and "takes no stop: answers are cut here" in outcome[2]
    manifest = folder(outcome).manifest
    assert manifest["engine"]["unsent"] == "seed, stop, temperature"
    assert manifest["engine"]["limit"] == "max_completion_tokens" and manifest["identity"]["response"] != plain


def test_answers_are_cut_at_every_stop_string_though_four_are_sent(
    endpoint: Endpoint, evaluate: Evaluate, world: World
) -> None:
    world.edit("talk", generation_kwargs={"until": ["1.", "2.", "3.", "4.", "tus"], "max_gen_toks": 64})
    outcome = evaluate(endpoint)
    assert {row["text"] for row in responses(outcome).values()} == {"vas"}
    assert {row["finish"] for row in responses(outcome).values()} == {"stop"}
    assert all(body["stop"] == ["1.", "2.", "3.", "4."] for body in work(endpoint))


def test_extra_goes_into_each_request_and_into_the_identity(endpoint: Endpoint, evaluate: Evaluate) -> None:
    plain = evaluate(endpoint)
    extra = evaluate(endpoint, 'engine.extra={"reasoning_effort": "low"}')
    assert len(work(endpoint)) == 2 * N and work(endpoint)[-1]["reasoning_effort"] == "low"
    assert plain[1]["identity"]["response"] != extra[1]["identity"]["response"]


PRICE = ("engine.input_price=1000", "engine.output_price=1000")  # a token is 0.001


def test_a_limit_of_cost_holds_and_the_rest_is_asked_later(endpoint: Endpoint, evaluate: Evaluate, home: Path) -> None:
    code, out, err = evaluate(endpoint, *PRICE, "engine.max_cost=0.4")
    assert (code, out) == (4, None) and "engine.max_cost= is 0.4" in err and "stored" in err
    asked = len(work(endpoint))
    used = sum(len(words_of(body)) + len(answer(words_of(body))) for body in work(endpoint)) / 1000
    assert 0 < asked < N and used <= 0.4
    whole = evaluate(endpoint, *PRICE, "engine.max_cost=100")
    assert whole[0] == 0 and len(work(endpoint)) == N
    cost = folder(whole).manifest["engine"]["cost"]
    assert 0 < cost["spent"] < 100 and f"{N - asked} requests, about" in whole[2]


def test_without_a_limit_more_is_spent(endpoint: Endpoint, evaluate: Evaluate) -> None:
    """The control of the test above."""
    cost = folder(evaluate(endpoint, *PRICE)).manifest["engine"]["cost"]
    assert cost["spent"] > 0.5


def words_of(body: dict[str, Any]) -> str:
    return str(body["messages"][-1]["content"])


def test_a_reply_without_usage_counts_at_its_most(endpoint: Endpoint, evaluate: Evaluate) -> None:
    endpoint.reply = lambda reply: {key: value for key, value in reply.items() if key != "usage"}
    ledger = folder(evaluate(endpoint)).manifest["engine"]["ledger"]
    assert ledger["unmetered"] == N and ledger["completion"] == 32 * N and ledger["prompt"] > 60 * N


def test_a_change_in_mid_run_is_noticed(endpoint: Endpoint, evaluate: Evaluate) -> None:
    def change(i: int, choice: dict[str, Any]) -> None:
        endpoint.fingerprint = "fp-2" if i % 2 else "fp-1"

    endpoint.reply = reply_with(change)
    outcome = evaluate(endpoint, "engine.concurrency=1")
    assert "changed in mid-run" in outcome[2]
    prints = folder(outcome).manifest["engine"]["system_fingerprints"]
    assert prints.keys() == {"fp-1", "fp-2"} and sum(prints.values()) == N


def test_show_and_plan_ask_the_endpoint_nothing(
    endpoint: Endpoint, evaluate: Evaluate, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = evaluate(endpoint, "plan=true", "engine.input_price=1", "engine.output_price=2")
    assert code == 0 and out["total"]["requests"] == N and out["total"]["cost"] > 0
    where = ["engine=openai", f"engine.url={endpoint.url}", "engine.model=est-1", f"data={world.data}"]
    assert main(["show", "task=talk", "doc=3", *where, "prompt.system=Ole lühike.", "output=json"]) == 0
    view = json.loads(capsys.readouterr().out)
    assert [one["role"] for one in view["messages"]] == ["system", "user"] and "prompt_ids" not in view
    assert view["template"] == "the endpoint's own"
    assert not endpoint.headers


class Tiny:
    """A real model behind the stub, and the words that use it by token ids."""

    def __init__(self, folder: Path, **switches: Any) -> None:
        self.endpoint = Endpoint(TinyModel(folder), name="est-1", **switches)
        self.words = ["engine.api=completions", f"engine.tokenizer={folder}"]


def by_hf(world: World, folder: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    code = main(["eval", f"model={folder}", "tasks=both", f"data={world.data}"])
    assert code == 0
    return json.loads(capsys.readouterr().out)


def test_log_likelihoods_by_echo_are_those_of_hf(
    world: World, evaluate: Evaluate, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    local = Run(Path(by_hf(world, tiny_model, capsys)["folder"]))
    tiny = Tiny(tiny_model)
    with tiny.endpoint as server:
        outcome = evaluate(server, *tiny.words, "tasks=both")
    assert outcome[0] == 0
    remote = folder(outcome)
    assert remote.manifest["engine"]["prompts"] == "token ids"
    for task, compared in (("letters", ("logprob", "greedy")), ("words", ("text", "finish"))):
        here, there = (list(run.responses(task)) for run in (local, remote))
        assert len(here) == len(there) and all(row.keys() >= set(compared) for row in there)
        for a, b in zip(here, there, strict=True):
            assert [a[key] for key in compared] == pytest.approx([b[key] for key in compared], abs=1e-4)


@pytest.mark.parametrize(("echo", "said"), [("shifted", "another place"), ("ignored", "echo"), ("refused", "echo")])
def test_wrong_log_likelihoods_are_found_by_the_probe(
    evaluate: Evaluate, tiny_model: Path, echo: str, said: str
) -> None:
    tiny = Tiny(tiny_model, echo=echo)
    with tiny.endpoint as server:
        code, out, err = evaluate(server, *tiny.words, "tasks=both")
        assert (code, out) == (2, None) and "letters: it needs log-likelihoods" in err and said in err
        code, out, _ = evaluate(server, *tiny.words, "tasks=both", "missing=skip")
        assert code == 0 and {score["task"]: score["value"] for score in out["scores"]}["letters"] is None


def test_an_endpoint_that_shifts_would_give_wrong_numbers(
    evaluate: Evaluate, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: without the probe's comparison the numbers come, and are others."""
    found = []
    for echo in ("right", "shifted"):
        tiny = Tiny(tiny_model, echo=echo)
        monkeypatch.setattr(endpoint_echo, "CLOSE", 1e9)
        with tiny.endpoint as server:
            outcome = evaluate(server, *tiny.words, "tasks=letters")
            assert outcome[0] == 0
            found.append([row["logprob"] for row in folder(outcome).responses("letters")])
    assert max(abs(a - b) for a, b in zip(*found, strict=True)) > 0.5


def test_a_server_without_token_ids_gets_text_and_that_is_said(evaluate: Evaluate, tiny_model: Path) -> None:
    tiny = Tiny(tiny_model, token_prompts=False)
    with tiny.endpoint as server:
        outcome = evaluate(server, *tiny.words, "tasks=words")
        sent = [body["prompt"] for body in server.posts if "Küsimus" in str(body["prompt"])]
    assert outcome[0] == 0 and "takes no token ids" in outcome[2] and len(sent) == N
    assert all(isinstance(prompt, str) and not prompt.startswith("<s>") for prompt in sent)
    assert folder(outcome).manifest["engine"]["prompts"] == "text"


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
def test_no_document_is_lost_or_doubled_by_kills(endpoint: Endpoint, world: World, home: Path) -> None:
    n = 120
    world.fill("words", rows(n))
    endpoint.latency = 0.1
    words = ["engine=openai", f"engine.url={endpoint.url}", "engine.model=est-1", "engine.concurrency=4"]
    command = [sys.executable, "-c", SCRIPT, str(world.folder), "eval", *words, "tasks=talk", f"data={world.data}"]
    environment = os.environ | {"ESTBENCH_HOME": str(home)}
    kills = 0
    for goal in (10, 45, 80):
        victim = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while len(work(endpoint)) < goal and victim.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        kills += victim.poll() is None
        victim.send_signal(signal.SIGKILL)
        victim.wait()
    assert kills == 3  # each hit a run at work
    done = subprocess.run(command, env=environment, capture_output=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    found = list(Run(Path(json.loads(done.stdout)["folder"])).responses("talk"))
    assert [row["doc_id"] for row in found] == list(range(n))
    assert all(row["text"] == f"vastus {row['doc_id']}" for row in found)
    asked = len(work(endpoint))
    assert n <= asked <= n + kills * 8  # only what was under way at a kill is asked again
    assert {number(words_of(body)) for body in work(endpoint)} == set(range(n))


def test_an_alias_may_resolve_to_another_name_but_not_to_two(endpoint: Endpoint, evaluate: Evaluate) -> None:
    names = {"served": "est-1-2026-11-01"}

    def renamed(reply: dict[str, Any]) -> dict[str, Any]:
        text = reply["choices"][0]["message"]["content"]
        return {**reply, "model": "est-0" if text == "vastus 7" else names["served"]}

    endpoint.reply = renamed
    code, out, err = evaluate(endpoint)
    assert code == 4 and "est-0" in err
    run = Run(Path(out["folder"]))
    assert run.manifest["model"]["shown"]["served"] == "est-1-2026-11-01"
    assert [row["doc_id"] for row in run.responses("talk")] == [i for i in range(N) if i != 7]
