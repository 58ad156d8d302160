"""How often somebody may do something: a token bucket for each key, in this process.

    sending = Rate(per_hour=12, burst=6)
    sending.take(address)       # Refused(429) with the seconds to wait

One process keeps its own count, so that a board with several web processes lets each of them have the rate.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from estbench_leaderboard.submissions.errors import Refused

KEYS = 10_000  # remembered at most; the one that was longest not seen is forgotten


class Rate:
    """`burst` at once, and then `per_hour`, for each key."""

    def __init__(self, *, per_hour: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_second, self.burst, self.clock = per_hour / 3600, burst, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # key -> (left, when)
        self._lock = threading.Lock()

    def take(self, key: str) -> None:
        """Count one for this key; Refused(429) if it has none left."""
        with self._lock:
            now = self.clock()
            left, then = self._buckets.pop(key, (float(self.burst), now))
            left = min(float(self.burst), left + (now - then) * self.per_second)
            self._buckets[key] = (left - 1 if left >= 1 else left, now)
            while len(self._buckets) > KEYS:
                self._buckets.popitem(last=False)
        if left < 1:
            wait = math.ceil((1 - left) / self.per_second)
            raise Refused(429, f"That is too often: try again in {wait:,} seconds.")
