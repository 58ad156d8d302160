"""How many calls are under way at the same time: slow start, and a cut when the server says that it is too much.

The limit doubles with every round of answers from `start` to `most`. HTTP 429 halves it, once a round: the other calls
that were under way are refused for the same reason. From then on it grows by one a round. Nothing else cuts it, since a
server that breaks down now and then is not one that is asked too much.
"""

from __future__ import annotations

import asyncio
from collections import deque


class Pace:
    """A limit that adapts. All methods run in one event loop; `ticket` names a call between `enter` and its end."""

    def __init__(self, most: int, start: int) -> None:
        self.most = most
        self.limit = float(min(start, most))
        self.under_way = 0
        self.peak = 0  # most calls that were under way together
        self.cuts = 0
        self._threshold = float(most)  # up to here the limit doubles
        self._issued = 0
        self._cut_at = 0  # tickets up to this one were issued before the last cut
        self._closed_until = 0.0  # in the loop's time
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> int:
        """Wait for a place, first come first served. The caller calls `leave` when its attempt is over."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it had its place already
                self.leave()
            raise
        self._issued += 1
        return self._issued

    def leave(self) -> None:
        """Give the place back."""
        self.under_way -= 1
        self._admit()

    def grow(self) -> None:
        """A call was answered (and has not left yet). The limit grows only where it is what holds calls back."""
        if self.under_way >= int(self.limit):
            self.limit = min(self.most, self.limit + (1 if self.limit < self._threshold else 1 / self.limit))

    def cut(self, ticket: int, pause: float) -> None:
        """A call was refused with 429: halve the limit, and send nothing for `pause` seconds."""
        if ticket > self._cut_at:
            self._cut_at = self._issued
            self.cuts += 1
            self.limit = self._threshold = max(1.0, self.limit / 2)
        if pause > 0:
            self.pause(pause)

    def pause(self, seconds: float) -> None:
        """Let nobody in for so long."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        if until > self._closed_until:
            self._closed_until = until
            loop.call_at(until, self._admit)

    def _admit(self) -> None:
        if not self._waiting or asyncio.get_running_loop().time() < self._closed_until:
            return
        while self._waiting and self.under_way < int(self.limit):
            turn = self._waiting.popleft()
            if not turn.done():
                self.under_way += 1
                self.peak = max(self.peak, self.under_way)
                turn.set_result(None)
