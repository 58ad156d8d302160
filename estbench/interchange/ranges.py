"""Between which numbers a metric can lie: its unit's bounds, but for a few that go beyond them."""

from __future__ import annotations

import math

from estbench.scoring import BOUNDS

WIDER = {
    "mcc": (-1.0, 1.0),
    "ter": (0.0, math.inf),  # an output can be longer than its reference
    "length_ratio": (0.0, math.inf),
    "character_error_rate": (0.0, math.inf),
}


def bounds(metric: str, unit: str) -> tuple[float, float]:
    """(least, most) of a metric, whatever group or filter its name ends with; KeyError for a unit that is none."""
    return WIDER.get(metric.split(",")[0].split("/")[0]) or BOUNDS[unit]
