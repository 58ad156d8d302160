"""Values of documents as the tasks' own metrics keep them, for the made-up world: see board_world.

of = values_of(card, n, clusters, dice)         # a task: how hard its docs are
drawn = of.draw(ability, dice)                  # a model on it
of.score(drawn.values, kept)                    # value and interval of the docs that are kept
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from estbench import metrics
from estbench.registry import Task
from estbench.stats.intervals import mean_interval, proportion_interval
from estbench.stats.ranks import linearised

Array = NDArray[Any]


@dataclass(frozen=True)
class Drawn:
    """A model's values: `kind` and `width` as in estbench.database.packing."""

    values: Array
    kind: str
    width: int
    right: NDArray[np.bool_]  # whether its answer reads as the right one


@dataclass(frozen=True)
class Words:
    """The texts of a task, a doc each."""

    prompts: list[str]
    targets: list[str]
    right: list[str]
    wrong: list[str]
    keys: list[str]


@dataclass(frozen=True)
class Values:
    """A task's documents."""

    metric: str
    chance: float
    hard: Array
    sizes: Array  # (n, 8): how much there is to get right
    clusters: list[str] | None

    def draw(self, ability: float, dice: np.random.Generator) -> Drawn:
        """The values of a model."""
        share = 1 / (1 + np.exp(np.clip(self.hard - ability, -30, 30)))
        make = KINDS.get(self.metric, _binary)
        values, kind = make(self, share, dice)
        width = values.shape[1] if values.ndim == 2 else 0
        right = values > 0.5 if values.ndim == 1 else share > 0.5
        return Drawn(values, kind, width, right)

    def score(self, values: Array, kept: NDArray[np.bool_]) -> tuple[float, float | None, float | None]:
        """Value, and the ends of its interval."""
        rows = values[kept]
        clusters = None if self.clusters is None else [self.clusters[place] for place in np.flatnonzero(kept)]
        metric = metrics.get(self.metric)
        if rows.ndim == 1:
            interval = (proportion_interval if rows.dtype == np.uint8 else mean_interval)(rows, clusters)
            return float(rows.mean()), interval.low, interval.high
        assert metric is not None and metric.combine is not None
        table = metric.prepare(rows.tolist()) if metric.prepare else rows.astype(float)
        value = float(metric.combine(table.sum(axis=0)))
        half = 1.96 * float(linearised(table, metric.combine).std()) / math.sqrt(len(table))
        return value, value - half, value + half


def values_of(card: Task, n: int, clusters: list[str] | None, dice: np.random.Generator) -> Values:
    """A task's documents: how hard each is, and how long."""
    hard = dice.normal(0, 1.2, n) + dice.normal(0, 0.7)
    sizes = dice.integers(8, 60, (n, 8))
    return Values(card.primary, min(0.9, card.chance or 0.0), hard, sizes, clusters)


def _binary(of: Values, share: Array, dice: np.random.Generator) -> tuple[Array, str]:
    return (dice.random(len(share)) < of.chance + (1 - of.chance) * share).astype(np.uint8), "u1"


def _mean(of: Values, share: Array, dice: np.random.Generator) -> tuple[Array, str]:
    return np.clip(share + dice.normal(0, 0.2, len(share)), 0, 1).round(3).astype("<f8"), "f8"


def _chrf(of: Values, share: Array, dice: np.random.Generator) -> tuple[Array, str]:
    hypothesis = of.sizes + dice.integers(-5, 6, of.sizes.shape)
    match = dice.binomial(np.minimum(hypothesis, of.sizes), 0.2 + 0.6 * share[:, None])
    return np.stack([hypothesis, of.sizes, match], axis=-1).reshape(len(share), -1).astype("<i4"), "i4"


def _edits(of: Values, share: Array, dice: np.random.Generator) -> tuple[Array, str]:
    gold = of.sizes[:, 0] // 8
    correct = dice.binomial(gold, share)
    proposed = correct + dice.poisson(2 * (1 - share))
    return np.stack([correct, proposed, gold], axis=1).astype("<i4"), "i4"


def _entities(of: Values, share: Array, dice: np.random.Generator) -> tuple[Array, str]:
    gold = of.sizes[:, 0] // 8
    correct = dice.binomial(gold, share)
    return np.stack([correct, gold - correct, dice.poisson(2 * (1 - share))], axis=1).astype("<i4"), "i4"


def _instructions(of: Values, share: Array, dice: np.random.Generator) -> tuple[Array, str]:
    asked = 1 + of.sizes[:, 0] % 3
    return np.stack([dice.binomial(asked, of.chance + (1 - of.chance) * share), asked], axis=1).astype("<i4"), "i4"


def _labels(of: Values, share: Array, dice: np.random.Generator) -> tuple[Array, str]:
    gold = of.sizes[:, 0] % 4
    given = np.where(dice.random(len(share)) < share, gold, dice.integers(0, 4, len(share)))
    return np.stack([gold, given, np.full(len(share), 4)], axis=1).astype("<i4"), "i4"


def _bits(of: Values, share: Array, dice: np.random.Generator) -> tuple[Array, str]:
    size = of.sizes[:, 0] * 10.0
    return np.stack([size * (0.6 + 0.8 * (1 - share)), size], axis=1).round(3).astype("<f8"), "f8"


KINDS: dict[str, Callable[[Values, Array, np.random.Generator], tuple[Array, str]]] = {
    "f1": _mean,
    "squad_f1": _mean,
    "win_rate": _mean,
    "chrf++": _chrf,
    "f0.5": _edits,
    "entity_f1": _entities,
    "ifeval_inst_strict": _instructions,
    "mcc": _labels,
    "bits_per_byte": _bits,
}


def answer_lines(card: Task, words: Words) -> tuple[list[bytes], list[bytes]]:
    """What the database keeps of each doc's answer, if it is right and if it is wrong."""
    return _lines(words, words.right), _lines(words, words.wrong)


def _lines(words: Words, answers: Sequence[str]) -> list[bytes]:
    return [
        json.dumps(
            [answer, key, False, None, [{"index": 0, "text": answer, "tokens": 5, "finish": "stop"}]],
            ensure_ascii=False,
            separators=(",", ":"),
        ).encode("utf-8", "surrogatepass")
        for answer, key in zip(answers, words.keys, strict=True)
    ]
