"""The transport: how many calls are under way, what is repeated, what ends it all, and that no key gets out."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from stub_endpoint import Endpoint, Words
from stub_faults import Fault

from estbench.engines.base import Failed
from estbench.engines.pacing import Pace
from estbench.engines.replies import as_text, choices
from estbench.engines.transport import (
    FIRST_TRIES,
    Call,
    Transport,
    Unanswered,
    check_url,
    error_text,
    is_loopback,
    seconds_asked,
)
from estbench.errors import ConfigError, EngineError

KEY = "sk-very-secret-0123456789"


def text_of(reply: Any) -> str:
    return as_text(choices(reply)[0].get("text"), "the text")


def calls(n: int, **more: Any) -> Iterator[Call[str]]:
    """Question i has the answer "i"."""
    for i in range(n):
        yield Call("completions", text_of, {"model": "stub", "prompt": str(i), "max_tokens": 20, **more}, i)


def endpoint(**switches: Any) -> Endpoint:
    return Endpoint(Words(lambda prompt: f"answer {prompt}"), **switches)


def transport(server: Endpoint, **more: Any) -> Transport:
    return Transport(server.url, **{"backoff": 0.01, "timeout": 20.0, **more})


def all_right(found: list[tuple[Call[str], str | Unanswered]], n: int) -> bool:
    """Every question once, with its own answer."""
    return sorted((call.tag, answer) for call, answer in found) == [(i, f"answer {i}") for i in range(n)]


# How many at a time


def rounds(pace: Pace, n: int) -> list[int]:
    """Calls under way in each of n rounds; in each one all of them are answered."""

    async def play() -> list[int]:
        running: list[asyncio.Future[None]] = []

        async def call() -> None:
            await pace.enter()
            running.append(asyncio.get_running_loop().create_future())
            await running[-1]
            pace.grow()
            pace.leave()

        tasks = [asyncio.create_task(call()) for _ in range(1000)]
        sizes = []
        for _ in range(n):
            for _ in range(10):
                await asyncio.sleep(0)
            sizes.append(len(running))
            answered, running[:] = running[:], []
            for turn in answered:
                turn.set_result(None)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return sizes

    return asyncio.run(play())


def test_slow_start_doubles_up_to_the_most() -> None:
    assert rounds(Pace(64, 4), 6) == [4, 8, 16, 32, 64, 64]
    assert rounds(Pace(8, 16), 1) == [8]  # never more than the most


def test_429_halves_once_a_round_and_then_it_grows_by_one() -> None:
    async def play() -> Pace:
        pace = Pace(64, 64)
        tickets = [await pace.enter() for _ in range(64)]
        for ticket in tickets:  # all of one round are refused
            pace.cut(ticket, 0)
            pace.leave()
        assert pace.limit == 32 and pace.cuts == 1
        again = [await pace.enter() for _ in range(32)]
        pace.cut(again[-1], 0)
        assert pace.limit == 16 and pace.cuts == 2
        for _ in again:
            pace.leave()
        return pace

    sizes = rounds(asyncio.run(play()), 5)
    assert sizes[0] == 16 and sizes[-1] in (19, 20)


def test_a_place_that_was_given_to_a_cancelled_call_is_free_again() -> None:
    async def play() -> None:
        pace = Pace(1, 1)
        first = await pace.enter()
        second, third = asyncio.create_task(pace.enter()), asyncio.create_task(pace.enter())
        await asyncio.sleep(0)
        pace.leave()  # second has its place, but has not run yet
        second.cancel()
        assert first < await asyncio.wait_for(third, 1)
        assert pace.under_way == 1

    asyncio.run(play())


def test_all_calls_are_answered_once_at_full_concurrency_over_that_many_connections() -> None:
    with endpoint(latency=0.25) as server, transport(server, most=24, start=4) as way:  # time for the others to begin
        found = list(way.run(calls(300)))
    assert all_right(found, 300)
    assert server.peak == 24 == way.pace.peak
    assert len(server.connections) <= 24
    assert len(server.posts) == 300 == way.attempts


def test_a_server_that_says_429_is_asked_less() -> None:
    with endpoint(latency=0.02, at_once=6) as server, transport(server, most=64) as way:
        found = list(way.run(calls(200)))
    assert all_right(found, 200)
    assert way.pace.cuts >= 1 and way.pace.limit < 20
    assert server.statuses[429] < 150 and server.statuses[200] == 200


def test_no_other_failure_makes_it_slower() -> None:
    """The control of the test above."""
    with endpoint(latency=0.02, faults=[Fault("503", every=4)]) as server, transport(server, most=32) as way:
        found = list(way.run(calls(200)))
    assert all_right(found, 200)
    assert way.pace.cuts == 0 and way.pace.limit == 32
    assert server.statuses[503] > 50


@pytest.mark.parametrize("as_date", [False, True])
def test_retry_after_counts_for_all_calls(as_date: bool) -> None:
    def after() -> str:
        return format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True) if as_date else "1"

    with endpoint(faults=[Fault("429", first=1)], retry_after=after()) as server, transport(server, start=1) as way:
        found = list(way.run(calls(10)))
    assert all_right(found, 10)
    assert server.times[1] - server.times[0] > (0.5 if as_date else 0.95)  # a date has whole seconds


def test_retry_after_in_all_its_forms() -> None:
    assert seconds_asked({"retry-after": "7"}) == 7
    assert seconds_asked({"retry-after": "0.25"}) == 0.25
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 28 < seconds_asked({"retry-after": soon}) <= 30
    past = format_datetime(datetime.now(UTC) - timedelta(days=1), usegmt=True)
    for said in ("", "-5", "nan", "tomorrow", past):
        assert seconds_asked({"retry-after": said}) == 0, said
    assert seconds_asked({}) == 0
    assert seconds_asked({"retry-after": "1e9"}) == seconds_asked({"retry-after": "inf"}) == 120  # a cap


# Long runs


def test_calls_are_taken_as_they_are_needed() -> None:
    taken = 0

    def counted() -> Iterator[Call[str]]:
        nonlocal taken
        for call in calls(100_000):
            taken += 1
            yield call

    with endpoint() as server, transport(server, most=4) as way:
        for number, _ in enumerate(way.run(counted())):
            assert taken <= number + 1 + 2 * 4
            if number == 50:
                break


def test_a_caller_can_wait_for_an_answer_before_it_asks_more() -> None:
    answers: list[str | Unanswered] = []

    def one_by_one() -> Iterator[Call[str] | None]:
        for i, call in enumerate(calls(5)):
            while len(answers) < i:
                yield None
            yield call

    with endpoint(latency=0.01) as server, transport(server) as way:
        answers.extend(answer for _, answer in way.run(one_by_one()))  # extend takes them one by one
    assert server.peak == 1
    assert answers == [f"answer {i}" for i in range(5)]


def test_who_leaves_early_cancels_what_is_under_way() -> None:
    with endpoint(latency=0.02) as server, transport(server, most=8) as way:
        for _ in way.run(calls(1000)):
            server.latency = 3600
            break
        for _ in range(200):
            time.sleep(0.01)
            if not server.under_way:
                break
        assert server.under_way == 0
        sent = len(server.posts)
        server.latency = 0
        assert way.ask(next(calls(1))) == "answer 0"  # and it can be used again
        assert len(server.posts) == sent + 1


def test_close_ends_the_thread_and_the_connections() -> None:
    before = threading.active_count()
    with endpoint(latency=3600) as server:
        way = transport(server)
        running = way.run(calls(10))
        when_asked(server, way.close)
        with pytest.raises(EngineError, match="closed"):
            next(running)
        way.close()
        server.latency = 0
        assert way.ask(next(calls(1))) == "answer 0"
        way.close()
    assert threading.active_count() <= before + 1  # the thread that closed it may still be there


def when_asked(server: Endpoint, act: Callable[[], object]) -> None:
    """Do something in another thread, once a call is under way."""

    def wait() -> None:
        while not server.posts:
            time.sleep(0.01)
        act()

    threading.Thread(target=wait, daemon=True).start()


def test_an_interrupt_from_the_keyboard_comes_through() -> None:
    with endpoint(latency=3600) as server, transport(server) as way:
        when_asked(server, lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            list(way.run(calls(10)))


# Failures


@pytest.mark.parametrize("status", ["400", "404", "422", "301"])
def test_a_refusal_is_not_repeated(status: str) -> None:
    with endpoint(faults=[Fault(status)]) as server, transport(server) as way:
        answer = way.ask(next(calls(1)))
    assert isinstance(answer, Failed) and isinstance(answer, Unanswered)
    assert answer.status == int(status) and f"HTTP {status}" in answer.reason and "an error while" in answer.said
    assert len(server.posts) == 1


def test_a_failure_is_repeated_only_so_often_and_then_named() -> None:
    with endpoint(faults=[Fault("500")]) as server, transport(server) as way:
        answer = way.ask(next(calls(1)))
    assert isinstance(answer, Unanswered)
    assert (
        answer.reason == "8 attempts, the last one: HTTP 500: The server had an error while it processed your request."
    )
    assert len(server.posts) == 8


@pytest.mark.parametrize("status", [401, 402, 403])
def test_a_key_that_is_refused_stops_everything(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SITE_KEY", KEY)
    server = endpoint(faults=[Fault(str(status))], latency=0.02)
    with server, transport(server, key_variable="SITE_KEY", start=2) as way:
        with pytest.raises(EngineError, match=f"HTTP {status}") as caught:
            list(way.run(calls(500)))
        assert "SITE_KEY" in str(caught.value) or status == 402
        assert len(server.posts) < 20


def test_a_single_403_after_answers_is_that_calls_own() -> None:
    with endpoint(faults=[Fault("403", every=5)]) as server, transport(server, most=1) as way:
        found = [answer for _, answer in way.run(calls(9))]
    assert [isinstance(answer, Unanswered) for answer in found] == [False] * 4 + [True] + [False] * 4


def test_a_server_that_is_not_there_is_said_at_once() -> None:
    with Transport("http://127.0.0.1:9/v1", backoff=0.01) as way:
        with pytest.raises(EngineError, match="can't be reached"):
            list(way.run(calls(10_000)))
        assert way.attempts <= 2 * way.pace.most * FIRST_TRIES  # of those under way at first, not of all


def test_a_server_that_restarts_loses_nothing() -> None:
    with endpoint(latency=0.01) as server, transport(server, most=8) as way:
        found = []
        for number, pair in enumerate(way.run(calls(200))):
            found.append(pair)
            if number == 50:
                server.restart(after=0.3)
    assert all_right(found, 200)
    assert way.repeats["connection"] > 0


def test_a_server_that_does_not_come_back_ends_it() -> None:
    with endpoint() as server, transport(server, most=4, patience=0.3) as way:
        running = way.run(calls(500))
        for _ in range(50):
            next(running)
        server.restart(after=None)
        with pytest.raises(EngineError, match="answered nothing for"):
            list(running)


# Keys and addresses


def test_the_key_is_sent_and_in_no_message(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    with endpoint(key=KEY) as server, transport(server) as way:
        assert way.ask(next(calls(1))) == "answer 0"
        assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
        server.key = "another"
        with pytest.raises(EngineError, match=r"Incorrect API key provided: Bearer \*\*\*") as caught:
            way.ask(next(calls(1)))
        server.key, server.reply = None, lambda reply: {"choices": f"Bearer {KEY}"}
        answer = way.ask(next(calls(1)))
    assert isinstance(answer, Unanswered) and "Bearer ***" in answer.reason
    shown = f"{caught.value!r} {caught.value.__cause__!r} {answer!r} {way!r} {caplog.text}"
    assert KEY not in shown and "secret" not in shown


def test_without_a_key_none_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY"):
        monkeypatch.delenv(variable, raising=False)
    with endpoint() as server, transport(server) as way:
        assert way.ask(next(calls(1))) == "answer 0"
        assert way.ask(Call("models", lambda reply: reply["data"][0]["id"])) == "stub"
        assert "process_start_time_seconds" in str(way.ask(Call("/metrics", str, text=True)))
    assert all("Authorization" not in headers for headers in server.headers)


def test_a_key_that_cannot_be_sent_is_refused_without_showing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SITE_KEY", "sk-secret\nsk-second")
    with pytest.raises(ConfigError, match="SITE_KEY") as caught:
        Transport("http://127.0.0.1:9/v1", key_variable="SITE_KEY")
    assert "secret" not in str(caught.value)
    monkeypatch.setenv("SITE_KEY", f" {KEY}\n")  # as `$(cat file)` may leave it
    with endpoint(key=KEY) as server, transport(server, key_variable="SITE_KEY") as way:
        assert way.ask(next(calls(1))) == "answer 0"


@pytest.mark.parametrize(
    "url",
    ["http://me:secret@host/v1", "host:8000/v1", "ftp://host/v1", "http:///v1", "http://h:x/v1", "http://h/v1?k=1"],
)
def test_an_address_that_cannot_be_is_refused(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_url(url)
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


def test_proxies_count_except_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable)
    with endpoint() as server:
        with transport(server) as way:  # the proxy of the test environment leads nowhere
            assert way.ask(next(calls(1))) == "answer 0"
        for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(variable, server.url.removesuffix("/v1"))
        with Transport("http://endpoint.invalid/v1", backoff=0.01) as way:
            assert way.ask(next(calls(1))) == "answer 0"
    assert server.headers[-1]["Host"] == "endpoint.invalid"


def test_this_machine_has_several_names() -> None:
    assert all(is_loopback(f"http://{host}:1/v1") for host in ("127.0.0.1", "127.8.8.8", "[::1]", "localhost"))
    assert not any(is_loopback(f"http://{host}/v1") for host in ("10.0.0.1", "localhost.ee", "0.0.0.0"))


def test_an_error_is_shown_in_one_line() -> None:
    assert error_text('{"error": {"message": "No such\\nmodel."}}') == "No such model."
    assert error_text('{"error": "plain"}') == "plain"
    assert error_text('{"message": "old vLLM"}') == "old vLLM"
    assert error_text("<html>\n<body>Bad gateway") == "<html> <body>Bad gateway"
    assert len(error_text("x" * 5000)) == 201
