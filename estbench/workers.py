"""A process that answers one line of JSON with one line of JSON: how a side environment's tool is used.

    with Worker("COMET", [python, "-I", script, ...]) as worker:
        worker.info                      # its first line: {"ready": {...}}
        worker.ask({"rows": [...]})      # {"scores": [...]}

Every ending has its line: a worker that dies, is killed, stays silent or answers nonsense is an EngineError that ends
with the last thing it said on stderr; `{"error": "..."}` is the worker's own word for what went wrong.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from estbench.errors import EngineError

START_SECONDS = 900.0  # reading a large checkpoint from a slow disk
REPLY_SECONDS = 1800.0  # one batch
CLOSE_SECONDS = 10.0
LONGEST = 64_000_000  # bytes of a line
TAIL = 8192  # bytes of stderr that are looked at


class Worker:
    """The process and the talk with it. Use as a context manager: it ends with the block."""

    def __init__(
        self,
        name: str,
        command: list[str],
        *,
        environment: dict[str, str] | None = None,
        start_seconds: float = START_SECONDS,
        reply_seconds: float = REPLY_SECONDS,
    ) -> None:
        self.name = name
        self.reply_seconds = reply_seconds
        self.said = tempfile.TemporaryFile()  # noqa: SIM115  stderr; a pipe that nobody reads would block the worker
        self.rest = b""
        try:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.said, env=environment
            )
        except OSError as error:
            self.said.close()
            raise EngineError(f"The {name} worker can't be started: {error.strerror}: {Path(command[0])}.") from None
        try:
            first = self._read(start_seconds, "did not get ready")
            if not isinstance(first.get("ready"), dict):
                raise self._failed("did not say that it is ready")
            self.info: dict[str, Any] = first["ready"]
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The reply to a request; EngineError if there is none."""
        line = (json.dumps(request, ensure_ascii=False) + "\n").encode()
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line)
            self.process.stdin.flush()
        except OSError:
            raise self._died() from None
        return self._read(self.reply_seconds, "did not answer")

    def close(self) -> None:
        """End the process: politely (its input ends), then not."""
        process = self.process
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(OSError):  # it left already, with unread input
            process.stdin.close()
        try:
            process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        self.said.close()

    def _read(self, seconds: float, failure: str) -> dict[str, Any]:
        """The next line as an object."""
        line = self._line(seconds, failure)
        try:
            reply = json.loads(line)
        except ValueError:
            reply = None
        if not isinstance(reply, dict):
            raise self._failed(f"answered nonsense: {line[:80].decode('utf-8', 'replace')!r}")
        if "error" in reply:
            raise EngineError(f"The {self.name} worker: {' '.join(str(reply['error']).split())[:500]}")
        return reply

    def _line(self, seconds: float, failure: str) -> bytes:
        assert self.process.stdout is not None
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self.rest:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    self.process.kill()
                    raise self._failed(f"{failure} within {seconds:g} s")
                block = os.read(self.process.stdout.fileno(), 1 << 16)
                if not block:
                    raise self._died()
                self.rest += block
                if len(self.rest) > LONGEST:
                    self.process.kill()
                    raise self._failed("answered nonsense: a line without an end")
        line, _, self.rest = self.rest.partition(b"\n")
        return line

    def _died(self) -> EngineError:
        try:
            code = self.process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        if code == -signal.SIGKILL:
            return self._failed("was killed, probably for lack of memory: take a smaller batch= or another machine")
        how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        return self._failed(f"ended {how}")

    def _failed(self, what: str) -> EngineError:
        last = self._last_words()
        return EngineError(f"The {self.name} worker {what}." + (f" Its last words: {last}" if last else ""))

    def _last_words(self) -> str:
        """The last line that it wrote to stderr."""
        size = os.fstat(self.said.fileno()).st_size
        tail = os.pread(self.said.fileno(), TAIL, max(0, size - TAIL)).decode("utf-8", "replace")
        lines = [re.sub(r"\s+", " ", line).strip() for line in tail.splitlines()]
        return next((line[:300] for line in reversed(lines) if line), "")
