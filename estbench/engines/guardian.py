"""Runs a server and sees to it that nothing of it is left: `python -I -S guardian.py GRACE COMMAND...`, started
by `vllm_server`.

A server has children of its own (vLLM: an engine core, a worker a GPU), which a killed parent would leave behind, with
the GPU's memory. The guardian holds the other end of a pipe to estbench on its stdin. When the pipe closes
(estbench is done, or was killed, -9 included), when the server ends, or on SIGTERM, it ends the server and every
process that came of it: politely, then not. Its own exit code is the server's.

It is a process of its own, outside estbench's session, and needs the standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

GRACE_OF_CHILDREN = 2.0  # seconds, once their parent has gone
LOOK = 1.0  # seconds between two looks at whether estbench is still there
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
MISSING = 127  # exit code: the command is not there


class Guardian:
    """One server, from its start to the end of its last child."""

    def __init__(self, grace: float, command: list[str]) -> None:
        self.grace = grace  # seconds for the server to end by itself
        self.status: int | None = None  # of the server, as waitpid gives it
        self.told = False  # to end
        self.parent = os.getppid()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._end)
        self.alarm, writer = os.pipe()
        os.set_blocking(self.alarm, False)
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # wakes the loop
        control(PR_SET_CHILD_SUBREAPER, 1)  # what the server leaves behind becomes ours
        self.server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=die_with_parent
        )

    def run(self) -> int:
        """Wait for the end; the exit code to leave with, negative for a signal."""
        while self.status is None and not self.told:
            ready, _, _ = select.select([0, self.alarm], [], [], LOOK)
            if self.alarm in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self.alarm, 1024)
            if (0 in ready and not os.read(0, 1)) or os.getppid() != self.parent:
                self.told = True
            self._reap()
        self._clear()
        return os.waitstatus_to_exitcode(self.status) if self.status is not None else 1

    def _end(self, *_: object) -> None:
        self.told = True

    def _reap(self) -> None:
        """Take leave of whoever has ended; among them may be the server."""
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG)) != (0, 0):
                if found[0] == self.server.pid:
                    self.status = found[1]

    def _clear(self) -> None:
        """End the server, which may end its children, then whatever is left."""
        if self.status is None:
            signal_all([self.server.pid], signal.SIGTERM)
            self._wait(lambda: self.status is not None, self.grace)
        signal_all(self._alive(), signal.SIGTERM)
        self._wait(lambda: not self._alive(), min(self.grace, GRACE_OF_CHILDREN))
        self._wait(self._kill, self.grace)

    def _kill(self) -> bool:
        """Whether nothing is left; what is left gets no choice. Again and again: a child may start another one."""
        left = self._alive()
        signal_all(left, signal.SIGKILL)
        return not left

    def _wait(self, done: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not done() and time.monotonic() < deadline:
            time.sleep(0.05)
            self._reap()

    def _alive(self) -> list[int]:
        self._reap()
        return descendants(os.getpid())


def descendants(root: int) -> list[int]:
    """The processes that come of `root`, those that have ended and wait to be reaped left out."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                state, parent = (folder / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[:2]
                if state != "Z":
                    parents[int(folder.name)] = int(parent)
    found, fresh = [], {root}
    while fresh := {process for process, parent in parents.items() if parent in fresh}:
        found += sorted(fresh)
    return found


def signal_all(processes: Iterable[int], number: int) -> None:
    for process in processes:
        with contextlib.suppress(OSError):
            os.kill(process, number)


def control(option: int, value: int) -> None:
    """prctl(2); of no effect where there is none."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def die_with_parent() -> None:
    """In the server, before it starts: a guardian that is killed, -9 included, takes it along."""
    control(PR_SET_PDEATHSIG, signal.SIGTERM)


def main() -> None:
    try:
        guardian = Guardian(float(sys.argv[1]), sys.argv[2:])
    except OSError as error:
        print(f"{sys.argv[2]} can't be started: {error.strerror}", file=sys.stderr)
        sys.exit(MISSING)
    code = guardian.run()
    if code < 0:  # end as the server did
        signal.signal(-code, signal.SIG_DFL) if -code not in (signal.SIGKILL, signal.SIGSTOP) else None
        os.kill(os.getpid(), -code)
    sys.exit(abs(code))


if __name__ == "__main__":
    main()
