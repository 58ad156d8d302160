"""What certainty costs: the paired bootstrap against scipy's and sacreBLEU's in the same run, and ranks.

    OMP_NUM_THREADS=1 python benchmarks/stats.py [replicates=10000] [documents=10000]

Two systems on the same documents, each alone and in passages of five: one number a document, and chrF++ (24 counts a
document and system). The peers get the same numbers (statistics ready made, so that no text is read), do the same work
20 times less often, and their time is multiplied: scipy.stats.bootstrap(paired=True, vectorized=True) on the difference
of means, sacrebleu.significance.PairedTest with "bs" on chrF++. Ranks: 200 models × 30 tasks × 1,000 documents × 1,000
replicates, a tenth of the results missing; from the documents, prepared, and from the prepared state (all tasks with
other weights, then ten of them: the mean of 20 times). Two threads draw. Prints wall-clock and CPU seconds, and ratios
of CPU, as JSON; random data from a seed.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.significance import PairedTest
from scipy import stats as scipy_stats

from estbench.metrics.translation import CHRF_ORDERS, chrf
from estbench.stats import corpus_difference
from estbench.stats.ranks import Table, TaskValues, prepare, rank
from estbench.stats.resampling import Floats, resampled_sums

PART = 20  # how much less often the peers draw
PASSAGE = 5
TIMES = 20  # rankings from the prepared state


def timed(work: Callable[[], object], times: float = 1) -> dict[str, float]:
    """Seconds of one call, multiplied."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    spent = time.perf_counter() - wall, time.process_time() - cpu
    return {name: round(times * seconds, 3) for name, seconds in zip(("wall_s", "cpu_s"), spent, strict=True)}


def mean(sums: Floats) -> Floats:
    """(..., 2) sums of values and of ones."""
    return np.asarray(sums[..., 0] / sums[..., 1], float)


def counts(dice: np.random.Generator, documents: int, quality: float) -> Floats:
    """chrF++ statistics (documents, 24): [hypothesis, reference, match] n-grams of each order."""
    reference = dice.integers(20, 150, (documents, CHRF_ORDERS))
    hypothesis = reference + dice.integers(-5, 6, reference.shape)
    match = dice.binomial(np.minimum(hypothesis, reference), quality)
    return np.stack([hypothesis, reference, match], axis=-1).reshape(documents, -1).astype(float)


class Ready(CHRF):
    """sacreBLEU's chrF++ of statistics that are there: the "text" of a document is the name of its system."""

    def __init__(self, rows: dict[str, list[list[int]]]) -> None:
        super().__init__(word_order=2)
        self.rows, self.num_refs = rows, 1

    def _extract_corpus_statistics(self, hypotheses: Sequence[str], references: Any) -> list[list[int]]:
        return self.rows[hypotheses[0]]


def scalars(dice: np.random.Generator, documents: int, replicates: int) -> dict[str, Any]:
    a, b = dice.random((2, documents))
    one, other = (np.column_stack([values, np.ones(documents)]) for values in (a, b))
    passages = [place // PASSAGE for place in range(documents)]

    def peer() -> None:
        scipy_stats.bootstrap(
            (a, b),
            lambda one, other, axis: one.mean(axis=axis) - other.mean(axis=axis),
            paired=True,
            vectorized=True,
            n_resamples=replicates // PART,
            batch=50,
            method="percentile",
            rng=np.random.default_rng(1),
        )

    return {
        "documents": timed(lambda: corpus_difference(one, other, mean, replicates=replicates)),
        "passages": timed(lambda: corpus_difference(one, other, mean, passages, replicates=replicates)),
        "sums": timed(lambda: resampled_sums(np.column_stack([a, b]), replicates)),
        "scipy": timed(peer, PART),
    }


def corpus(dice: np.random.Generator, documents: int, replicates: int) -> dict[str, Any]:
    a, b = (counts(dice, documents, quality) for quality in (0.6, 0.59))
    passages = [place // PASSAGE for place in range(documents)]
    metric = Ready({name: table.astype(int).tolist() for name, table in (("a", a), ("b", b))})
    systems: list[tuple[str, Sequence[str]]] = [(name, [name] * documents) for name in metric.rows]

    def peer() -> None:
        PairedTest(systems, {"chrF": metric}, [["-"] * documents], "bs", replicates // PART)()

    return {
        "documents": timed(lambda: corpus_difference(a, b, chrf, replicates=replicates)),
        "passages": timed(lambda: corpus_difference(a, b, chrf, passages, replicates=replicates)),
        "sums": timed(lambda: resampled_sums(np.concatenate([a, b], axis=1), replicates)),
        "sacrebleu": timed(peer, PART),
    }


def ranks(dice: np.random.Generator, models: int = 200, tasks: int = 30, documents: int = 1000) -> dict[str, Any]:
    ability = dice.normal(0, 0.5, (models, 1))
    made = []
    for place in range(tasks):
        hard = dice.normal(0, 1, documents)
        values = (ability + dice.normal(0, 1, (models, documents)) > hard).astype(float)
        values[dice.random(models) < 0.1] = np.nan
        made.append(TaskValues(f"task {place}", values, chance=0.25))
    table = Table([f"model {place}" for place in range(models)], made)
    prepared = prepare(table)
    names = [task.name for task in made]
    weights = [dict(zip(names, dice.random(tasks).tolist(), strict=True)) for _ in range(TIMES)]
    ten = [dict(list(each.items())[:10]) for each in weights]
    return {
        "rank": timed(lambda: rank(table)),
        "prepare": timed(lambda: prepare(table)),
        "prepared": timed(lambda: [prepared.rank(each) for each in weights], 1 / TIMES),
        "prepared, 10 tasks": timed(lambda: [prepared.rank(each) for each in ten], 1 / TIMES),
    }


def main() -> None:
    given = dict(word.partition("=")[::2] for word in sys.argv[1:])
    replicates, documents = int(given.get("replicates", 10_000)), int(given.get("documents", 10_000))
    dice = np.random.default_rng(1)
    found: dict[str, Any] = {
        "scalar": scalars(dice, documents, replicates),
        "chrf++": corpus(dice, documents, replicates),
        "ranks": ranks(dice),
    }
    for name, peer in (("scalar", "scipy"), ("chrf++", "sacrebleu")):
        found[name]["cpu_ratio"] = round(found[name][peer]["cpu_s"] / found[name]["documents"]["cpu_s"], 1)
    cost = found["ranks"]
    cost["cpu_ratio"] = round(cost["rank"]["cpu_s"] / cost["prepared"]["cpu_s"], 1)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
