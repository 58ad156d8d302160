"""Calls to an OpenAI-compatible server: many under way, each repeated where that helps, none believed unchecked.

    with Transport("http://127.0.0.1:8000/v1", most=64) as transport:
        for call, answer in transport.run(calls):     # as they are done; an answer may be `Unanswered`
            ...

The `openai` client sends, in an event loop in a thread of its own; what is policy is here. `calls` may be a generator:
it runs in the caller's thread and is only some calls ahead. Who leaves the loop early cancels what is under way.

- 429: fewer calls at a time (`pacing`); Retry-After counts for all of them.
- 5xx, 408, 409, 425, a timeout, a dropped connection, a bad reply: again after a pause that grows, at most so often.
- No connection at all: nothing is counted as tried for `patience` seconds (a server that restarts), then EngineError.
- 401, 402, 403 at first, and a used-up quota end it all with an EngineError; another status is `Unanswered` at once.

The key comes from an environment variable and is in no message: what a server sends back is cleaned of it.
"""

from __future__ import annotations

import asyncio
import importlib
import ipaddress
import json
import os
import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

import openai

from estbench.engines.base import Failed
from estbench.engines.pacing import Pace
from estbench.engines.replies import BadReply, NoJSON, parse
from estbench.errors import ConfigError, EngineError

# The HTTP library under the client: httpx, and httpx2 since openai 3.
HTTPX: Any = importlib.import_module(openai.DefaultAsyncHttpxClient.__mro__[1].__module__.partition(".")[0])

AGAIN = {408, 409, 425}  # and 5xx
TRIES = {"timeout": 3, "reply": 5, "error": 8, "limit": 40, "connection": 200}  # attempts, by what went wrong
FIRST_TRIES = 3  # to connect, where nothing was ever reached
BARREN = 600.0  # seconds in which nothing was answered: the server is beyond hope
LONGEST = 20.0  # seconds between two attempts
LONGEST_ASKED = 120.0  # the same, where the server asks for it
CONNECT = 10.0  # seconds to connect
POOL = 8  # connections
RESUME = " What was answered before is stored; the same command goes on."

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Unanswered(Failed):
    """A call without an answer: the HTTP status (0: none came), and what the server said."""

    status: int = 0
    said: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Call(Generic[T]):
    """One question to the server.

    path: after the base URL ("completions"), or from the server's root ("/metrics").
    check: makes the answer from the reply's JSON, or raises BadReply. It runs in the transport's thread; be quick.
    text: the reply is no JSON, and `check` gets it as a string.
    """

    path: str
    check: Callable[[Any], T]
    body: Mapping[str, Any] | None = None  # None: GET
    tag: Any = None  # the caller's own
    text: bool = False


class Trouble(Exception):
    """An attempt that failed in a way in which the next one may not."""

    def __init__(self, kind: str, what: str, *, asked: float = 0.0, status: int = 0, said: str = "") -> None:
        super().__init__(what)
        self.kind, self.what, self.asked, self.status, self.said = kind, what, asked, status, said


class Transport:
    """The way to one server, for one thread at a time. `close` ends what is under way; then it can be used again."""

    def __init__(
        self,
        url: str,
        *,
        key_variable: str = "OPENAI_API_KEY",
        most: int = 64,
        start: int = 16,
        timeout: float = 600.0,
        patience: float = 120.0,
        backoff: float = 0.5,
    ) -> None:
        """url: the base, such as https://host/v1. most, start: calls under way together, in the end and at first.

        timeout: seconds for one attempt, all in all. patience: seconds without a connection after which it gives up on
        a server that was there. backoff: seconds before the first repeat; later ones wait longer.
        """
        self.url = check_url(url)
        self.pace = Pace(most, start)
        self.attempts = 0  # sent so far
        self.repeats: Counter[str] = Counter()  # of these, after a failure: by what went wrong
        self._key_variable, self._key = key_variable, read_key(key_variable)
        self._timeout, self._patience, self._backoff = timeout, patience, backoff
        self._reached = self._answered = False
        self._barren_since: float | None = None  # the first failure after the last answer
        self._places: list[openai.AsyncOpenAI] = []  # free places in pools, the one used last at the end
        self._clients: list[openai.AsyncOpenAI] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Transport:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, call: Call[T]) -> T | Unanswered:
        """One call."""
        for _, answer in self.run([call]):
            return answer
        raise AssertionError

    def run(self, calls: Iterable[Call[T] | None]) -> Iterator[tuple[Call[T], T | Unanswered]]:
        """Each call once with its answer, as they are done.

        `None` among the calls: there is nothing more to ask before another answer is in.
        EngineError: the server refuses the key, has gone, or has answered nothing for a long time.
        """
        loop = self._begin()
        self._barren_since = None
        done: queue.SimpleQueue[tuple[Call[T], T | Unanswered] | BaseException] = queue.SimpleQueue()
        tasks: set[asyncio.Task[None]] = set()  # touched in the loop's thread only

        def launch(call: Call[T]) -> None:
            task = loop.create_task(self._carry(call, done))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        source, under_way, more = iter(calls), 0, True
        try:
            while True:
                while more and under_way < 2 * self.pace.most:  # some wait, so that a slow caller does not hold it up
                    try:
                        call = next(source)
                    except StopIteration:
                        more = False
                    else:
                        if call is None:
                            break
                        loop.call_soon_threadsafe(launch, call)
                        under_way += 1
                if not under_way:
                    assert not more, "nothing is under way that could be waited for"
                    return
                got = done.get()
                if isinstance(got, BaseException):
                    raise got
                under_way -= 1
                yield got
        finally:
            if loop.is_running():
                loop.call_soon_threadsafe(lambda: [task.cancel() for task in list(tasks)])

    def close(self) -> None:
        """Cancel what is under way, close all connections and end the thread."""
        loop, thread = self._loop, self._thread
        self._loop = self._thread = None
        if loop is None or thread is None:
            return
        with suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(self._end(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        if not thread.is_alive():
            loop.close()

    def _begin(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._clients = self._make_clients()
            self._places = [self._clients[i // POOL] for i in range(self.pace.most)]
            self._thread = threading.Thread(target=self._loop.run_forever, name="estbench-transport", daemon=True)
            self._thread.start()
        return self._loop

    def _make_clients(self) -> list[openai.AsyncOpenAI]:
        """One for POOL connections each: a pool walks over all its connections for every call."""
        environment = not is_loopback(self.url)  # a proxy can't reach this machine
        certificates = HTTPX.create_ssl_context(trust_env=environment)
        options: dict[str, Any] = {
            "limits": HTTPX.Limits(max_connections=POOL, max_keepalive_connections=POOL),
            "timeout": HTTPX.Timeout(self._timeout, connect=min(CONNECT, self._timeout), pool=None),
            "trust_env": environment,
            "verify": certificates,
            "follow_redirects": False,  # a POST that is redirected turns into a GET
        }
        return [
            openai.AsyncOpenAI(
                base_url=self.url,
                api_key=self._key or "none",
                max_retries=0,
                http_client=openai.DefaultAsyncHttpxClient(**options),
            )
            for _ in range(0, self.pace.most, POOL)
        ]

    async def _end(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for client in self._clients:
            await client.close()

    async def _carry(self, call: Call[T], done: queue.SimpleQueue[Any]) -> None:
        """One call to its end, which goes into `done`: its answer, or what stops everything."""
        try:
            done.put((call, await self._answer(call)))
        except asyncio.CancelledError:
            done.put(EngineError("The connection was closed."))  # for a caller that still waits
            raise
        except BaseException as error:
            done.put(error)

    async def _answer(self, call: Call[T]) -> T | Unanswered:
        tried: Counter[str] = Counter()
        while True:
            ticket = await self.pace.enter()
            try:
                answer = await self._attempt(call)
                self._barren_since = None
                self._answered = self._answered or not isinstance(answer, Unanswered)
                self.pace.grow()
                return answer
            except Trouble as error:
                trouble = error
                if trouble.kind == "limit":
                    self.pace.cut(ticket, trouble.asked)
            finally:
                self.pace.leave()
            tried[trouble.kind] += 1
            if tried[trouble.kind] >= TRIES[trouble.kind]:
                times = f"{tried.total()} attempts, the last one: " if tried.total() > 1 else ""
                return Unanswered(f"{times}{trouble.what}", trouble.status, trouble.said)
            self._check_hope(trouble, tried)
            self.repeats[trouble.kind] += 1
            await asyncio.sleep(self._pause(trouble, tried.total()))

    def _check_hope(self, trouble: Trouble, tried: Counter[str]) -> None:
        """EngineError where no call will be answered."""
        now = time.monotonic()
        if self._barren_since is None:
            self._barren_since = now
        lost = now - self._barren_since
        if trouble.kind == "connection" and not self._reached and tried["connection"] >= FIRST_TRIES:
            raise EngineError(f"{self.url} can't be reached ({trouble.what}). Is the server running, the URL right?")
        limit = self._patience if trouble.kind == "connection" else BARREN + self._timeout
        if lost > limit:
            raise EngineError(f"{self.url} has answered nothing for {lost:.0f} s ({trouble.what}).{RESUME}")

    def _pause(self, trouble: Trouble, tried: int) -> float:
        """Seconds to wait before the next attempt."""
        if trouble.kind == "limit" and trouble.asked:
            return 0.0  # everyone waits
        grown = min(LONGEST if trouble.kind != "connection" else 5.0, self._backoff * 2.0 ** (tried - 1))
        return max(trouble.asked, grown * random.uniform(0.5, 1.5))

    async def _attempt(self, call: Call[T]) -> T | Unanswered:
        """One attempt. Trouble: another one may do better. EngineError: nothing will."""
        self.attempts += 1
        try:
            async with asyncio.timeout(self._timeout):
                response = await self._send(call)
        except (TimeoutError, openai.APITimeoutError) as error:
            if isinstance(error.__cause__, HTTPX.ConnectTimeout):
                raise Trouble("connection", f"no connection within {CONNECT:.0f} s") from None
            self._reached = True
            raise Trouble("timeout", f"no answer within {self._timeout:g} s") from None
        except openai.APIStatusError as error:
            self._reached = True
            return self._refused(error.response)
        except (openai.APIConnectionError, HTTPX.HTTPError, OSError) as error:
            cause = error.__cause__ or error
            said = self._clean(str(cause) or type(cause).__name__)
            if isinstance(cause, HTTPX.ConnectError):
                raise Trouble("connection", said) from None
            self._reached = True
            raise Trouble("error", f"the connection broke ({said})") from None
        self._reached = True
        try:
            return call.check(response.text if call.text else parse(response.content))
        except NoJSON:
            what = f"no JSON but {short(self._clean(response.text), 100)}" if response.content else "an empty body"
            raise Trouble("reply", f"a bad reply: {what}") from None
        except BadReply as error:
            raise Trouble("reply", f"a bad reply: {self._clean(str(error))}") from None
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            said = self._clean(f"{type(error).__name__}: {error}")
            raise Trouble("reply", f"a reply of an unknown shape ({said})") from None

    async def _send(self, call: Call[Any]) -> Any:
        """The raw response."""
        place = urlsplit(self.url)
        root = f"{place.scheme}://{place.netloc}" if call.path.startswith("/") else f"{self.url}/"
        # the client would send what other variables say of an account at OpenAI, to any server
        headers: dict[str, Any] = {"OpenAI-Organization": openai.omit, "OpenAI-Project": openai.omit}
        if not self._key:
            headers["Authorization"] = openai.omit
        options: Any = {"cast_to": HTTPX.Response, "options": {"headers": headers}}
        client = self._places.pop()
        try:
            if call.body is None:
                return await client.get(root + call.path, **options)
            return await client.post(root + call.path, body=call.body, **options)
        finally:
            self._places.append(client)

    def _refused(self, response: Any) -> Unanswered:
        """What a status other than 2xx means."""
        status, said = int(response.status_code), error_text(self._clean(response.text))
        what = f"HTTP {status}" + (f": {said}" if said else "")
        if status in (301, 302, 303, 307, 308):
            what += f", moved to {self._clean(response.headers.get('location', 'nowhere'))}"
        asked = seconds_asked(response.headers)
        if status in (401, 403):
            what += f" (the key is in the environment variable {self._key_variable}{'' if self._key else ', not set'})"
        used_up = status == 402 or (status == 429 and "insufficient_quota" in response.text)
        if used_up or status == 401 or (status == 403 and not self._answered):
            raise EngineError(f"{self.url} says {what}.{RESUME if self._answered else ''}")
        if status == 429:
            raise Trouble("limit", what, asked=asked, status=status, said=said)
        if status >= 500 or status in AGAIN:
            raise Trouble("error", what, asked=asked, status=status, said=said)
        return Unanswered(what, status, said)

    def _clean(self, text: str) -> str:
        """What a server said, without the key."""
        return text.replace(self._key, "***") if self._key else text


def check_url(url: str) -> str:
    """The base URL without its last slash. ConfigError for one that can't be, or that holds a password."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ConfigError(f"engine.url= is no URL ({error}).") from None
    if parts.username or parts.password or "@" in parts.netloc:
        raise ConfigError("engine.url= holds a user name or password. Keys come from an environment variable only.")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"engine.url={url} is no URL. It looks like http://127.0.0.1:8000/v1.")
    if parts.query or parts.fragment:
        raise ConfigError("engine.url= ends with its path, such as /v1; leave out what follows ? or #.")
    return url.rstrip("/")


def is_loopback(url: str) -> bool:
    """Whether the server is on this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def read_key(variable: str) -> str:
    """The key from the environment, or an empty string. ConfigError, without the key, for one that can't be sent."""
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()) and key:
        raise ConfigError(f"The environment variable {variable} holds characters that no key has.")
    return key


def error_text(body: str) -> str:
    """What the body of an error says, on one line of at most 200 characters."""
    try:
        reply = json.loads(body)
        error = reply.get("error", reply)
        said = error.get("message") if isinstance(error, dict) else error
    except (ValueError, AttributeError, RecursionError):
        said = None
    return short(said if isinstance(said, str) and said else body, 200)


def short(text: str, length: int) -> str:
    """The text on one line, cut where it is longer."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[:length] + "…"


def seconds_asked(headers: Mapping[str, str]) -> float:
    """Seconds that Retry-After asks for, given in seconds or as a date; 0 where it says nothing."""
    said = headers.get("retry-after", "").strip()
    try:
        seconds = float(said)
    except ValueError:
        try:
            when = parsedate_to_datetime(said)
        except ValueError:
            return 0.0
        seconds = (when - datetime.now(when.tzinfo or UTC)).total_seconds() if when.tzinfo else 0.0
    return min(max(seconds, 0.0), LONGEST_ASKED) if seconds == seconds else 0.0
