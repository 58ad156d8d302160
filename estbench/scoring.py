"""Samples to scores: each with its interval, chance level and counts. Needs no engine, no torch, no lm-eval.

A metric that `estbench.metrics` knows gets an interval of its kind (proportion, mean, or bootstrap of a corpus metric).
One that only lm-eval knows (also under a name of ours: its "bleu" keeps pairs of texts) is averaged if it is a number,
and otherwise aggregated by lm-eval's own function, without an interval. `metric/group` is the metric over the documents
of one group (a grammatical case, a subject).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from estbench import metrics, stats
from estbench.metrics import Metric
from estbench.runs import Sample, Score

PARSE_FAILURE = "parse_failure"
GUESSING = "guessing"  # what guessing gives on a document, where documents have different numbers of options
KEPT = ("margin", GUESSING)  # kept with each sample, no score
BOUNDS = {"proportion": (0.0, 1.0), "points": (0.0, 100.0), "bits": (0.0, math.inf)}  # of a score, by unit
Aggregate = Callable[[list[Any]], float]


def score_task(
    task: str,
    samples: Sequence[Sample],
    *,
    primary: str,
    chance: float | None,
    n_planned: int,
    listed: Sequence[str] = (),
    higher_is_better: Mapping[str, bool] | None = None,
    aggregations: Mapping[str, Aggregate] | None = None,
    reason: str | None = None,
) -> list[Score]:
    """All scores of a task, the primary one first, those of groups last. `samples` are its documents, those without a
    response included. A metric that is `listed` in the task file and that no document has is reported as missing, with
    the `reason` that is given, or the metric's own. Where documents say what guessing gives, `chance` is its mean."""
    answered = [sample for sample in samples if sample.error is None]
    if guesses := [sample.values[GUESSING] for sample in answered if GUESSING in sample.values]:
        chance = float(np.mean(guesses))
    found = dict.fromkeys(name for sample in answered for name in sample.values)
    names = sorted((name for name in found if name not in (PARSE_FAILURE, *KEPT)), key=lambda name: "/" in name)
    names = [name for name in (primary,) if name in names] + [name for name in names if name != primary]
    shared = {
        "task": task,
        "n": len(answered),
        "n_planned": n_planned,
        "parse_failures": sum(sample.parse_failure for sample in answered),
        "errors": n_planned - len(answered),
    }
    if not answered:
        return [_missing(primary, chance, shared, "no document has a response", primary=True)]
    absent = [name for name in dict.fromkeys((primary, *listed)) if name not in (*found, *KEPT, PARSE_FAILURE)]
    scores = [
        _missing(name, chance if name == primary else None, shared, reason, primary=name == primary) for name in absent
    ]
    for name in names:
        own = chance if name == primary else None
        scores.append(_scored(name, answered, shared, own, name == primary, aggregations, higher_is_better))
    return sorted(scores, key=lambda score: (not score.primary, "/" in score.metric))


def _scored(
    name: str,
    answered: Sequence[Sample],
    shared: dict[str, Any],
    chance: float | None,
    primary: bool,
    aggregations: Mapping[str, Aggregate] | None,
    higher_is_better: Mapping[str, bool] | None,
) -> Score:
    values = [sample.values[name] for sample in answered if name in sample.values]
    clusters = [sample.cluster for sample in answered if name in sample.values]
    metric = metric_of(name, values, _of(aggregations, name))
    whole = None if all(cluster is None for cluster in clusters) else clusters
    interval = _interval(metric, values, whole, _of(aggregations, name))
    return Score(
        metric=name,
        value=interval.value,
        ci_low=interval.low,
        ci_high=interval.high,
        chance=chance,
        unit=metric.unit if metric else "proportion",
        higher_is_better=metric.higher_is_better if metric else _of(higher_is_better, name) is not False,
        primary=primary,
        method=interval.method,
        signature=metric.signature() if metric and metric.signature else None,
        **shared | {"n": interval.n},
    )


def metric_of(name: str, values: Sequence[Any], aggregate: Aggregate | None = None) -> Metric | None:
    """Our metric of that name, if the values are its values and not those of a namesake of lm-eval's."""
    metric = metrics.get(name.split("/")[0])
    ours = aggregate is None or (getattr(aggregate, "__module__", "") or "").startswith("estbench.")
    numbers = all(isinstance(value, (bool, int, float)) for value in values)
    if metric is None or numbers == (metric.kind == "corpus"):
        return None
    return metric if ours or (numbers and _is_mean(aggregate)) else None


def _of(table: Mapping[str, Any] | None, name: str) -> Any:
    """What a task says of a metric; behind a second filter (`exact_match,flexible-extract`) it is that of the first."""
    return (table or {}).get(name.split(",")[0])


def needs_its_own_aggregation(aggregate: Aggregate) -> bool:
    """Whether a metric is neither a mean nor one of ours, so that only the task's code can make a score of it."""
    return not _is_mean(aggregate) and not (aggregate.__module__ or "").startswith("estbench.")


def _is_mean(aggregate: Aggregate | None) -> bool:
    return getattr(aggregate, "__name__", "") == "mean"


def _interval(
    metric: Metric | None, values: list[Any], clusters: Sequence[Any] | None, aggregate: Aggregate | None
) -> stats.Interval:
    if metric and metric.kind == "corpus":
        assert metric.combine is not None
        statistics = metric.prepare(values) if metric.prepare else np.asarray(values, float)
        return stats.corpus_interval(statistics, metric.combine, clusters)
    if metric is None and aggregate and not _is_mean(aggregate):
        return stats.Interval(float(aggregate(values)), None, None, len(values), "lm-eval's aggregation, no interval")
    if all(isinstance(value, (bool, int, float)) for value in values):
        numbers = np.asarray(values, float)
        if (metric is None or metric.kind == "binary") and bool(np.isin(numbers, (0.0, 1.0)).all()):
            return stats.proportion_interval(numbers, clusters)
        bounds = BOUNDS[metric.unit] if metric else (-math.inf, math.inf)
        return stats.mean_interval(numbers, clusters, bounds=bounds)
    return stats.Interval(None, None, None, len(values), "no aggregation known")


def _missing(metric: str, chance: float | None, shared: dict[str, Any], reason: str | None, *, primary: bool) -> Score:
    known = metrics.get(metric)
    if reason is None:
        reason = known.missing if known else "the task's results lack this metric"
    return Score(
        metric=metric,
        value=None,
        ci_low=None,
        ci_high=None,
        chance=chance,
        unit=known.unit if known else "proportion",
        higher_is_better=known.higher_is_better if known else True,
        primary=primary,
        reason=reason,
        **shared,
    )
