"""A panel beside people: how far they agree, how far people agree among themselves, and the score that this corrects.

    found = calibrate(judged, labels)        # `found.report` for the manifest, `found.corrected` for the scores

Labels are matched by what was answered, not by run. A document's human score is the mean of its raters. With at least
200 labelled documents of this very model the score is corrected by PPI++ and counts as calibrated; with fewer the
report says how many are missing, and the score stays uncalibrated.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np

from estbench.errors import ConfigError
from estbench.stats import Interval
from estbench.stats.intervals import Floats
from estbench_judges import agreement, battles, corrected, labels, layers
from estbench_judges.corrected import Corrected
from estbench_judges.items import answer_hash
from estbench_judges.judging import Judged
from estbench_judges.labels import Label

LABELLED = ("pairwise", "equivalence")  # modes that people vote in
Axis = Literal["content", "language"]


@dataclass(frozen=True)
class Calibration:
    """What people's votes say of a panel's score."""

    report: dict[str, Any]
    corrected: Interval | None  # None: too few labels

    @property
    def calibrated(self) -> bool:
        return self.corrected is not None


def calibrate(of: Judged, votes: Sequence[Label]) -> Calibration:
    """The panel and each judge beside people. ConfigError where nobody voted on these answers."""
    if of.given.mode not in LABELLED:
        raise ConfigError(f"Mode {of.given.mode} has no votes of people to stand beside: they vote in pairs.")
    people = ratings(of, votes)
    with np.errstate(invalid="ignore"):
        voted = ~np.isnan(people).all(axis=0) if len(people) else np.zeros(len(of.given.items), bool)
    if not voted.any():
        raise ConfigError(
            f"No vote is on the answers of run {of.given.run.id} to {of.given.task}"
            f"{' against ' + of.given.anchor if of.given.anchor else ''}: `estbench judge label` collects some."
        )
    human = np.full(len(of.given.items), np.nan)
    human[voted] = np.nanmean(people[:, voted], axis=0)
    found = _corrected(of, human)
    report: dict[str, Any] = {
        "axis": of.given.rubric.axis,
        "labels": int(voted.sum()),
        "raters": len(people),
        "lacking": 0 if isinstance(found, Corrected) else found.lacking,
        "panel": _beside(of, of.panel, people, human),
        "judges": {
            one.name: _beside(of, of.table[place], people, human) | _own(of, place, human)
            for place, one in enumerate(of.judges)
        },
    }
    if not isinstance(found, Corrected) or found.value is None:
        return Calibration(report, None)
    report |= {"lambda": found.lam, "method": found.method}
    return Calibration(report, Interval(found.value, found.low, found.high, found.n + found.N, found.method))


def ratings(of: Judged, votes: Sequence[Label]) -> Floats:
    """(raters, items): people's scores of the model's answers, nan where one did not vote."""
    by_answer: dict[tuple[str, str, str | None], dict[str, float]] = {}
    for (_, doc, answer, anchor), given in labels.human(votes, cast(Axis, of.given.rubric.axis)).items():
        by_answer.setdefault((doc, answer, anchor), {}).update(given)
    pair = of.given.mode == "pairwise"
    found: dict[str, Floats] = {}
    for place, item in enumerate(of.given.items):
        key = (item.doc, answer_hash(item.answers), answer_hash(of.given.anchors.get(item.doc, ())) if pair else None)
        for rater, score in by_answer.get(key, {}).items() if item.answered else ():
            found.setdefault(rater, np.full(len(of.given.items), np.nan))[place] = score
    return np.array([found[rater] for rater in sorted(found)], float).reshape(len(found), len(of.given.items))


def _corrected(of: Judged, human: Floats) -> Corrected | corrected.Missing:
    """PPI++ over the documents that judges were asked about, of which labels are a part; together with what needed no
    judge, whose values are known, the mean over all. Documents without a response belong to neither."""
    asked = np.zeros(len(of.given.items), bool)
    places = {one.doc_id: place for place, one in enumerate(of.given.items)}
    asked[[places[one.doc_id] for one in of.given.asked]] = True
    voted = ~np.isnan(human) & asked
    clusters = [one.cluster or one.doc for one in of.given.items]
    labelled, others = np.flatnonzero(voted), np.flatnonzero(asked & ~voted)
    found = corrected.ppi(
        human[labelled],
        of.panel[labelled],
        of.panel[others],
        ([clusters[i] for i in labelled], [clusters[i] for i in others]),
    )
    fixed = [value for value, _ in of.given.fixed.values()]
    if not isinstance(found, Corrected) or found.value is None or not fixed:
        return found
    whole = len(fixed) + int(asked.sum())
    weight, known = float(asked.sum()) / whole, sum(fixed) / whole
    low, high = (None if end is None else known + weight * end for end in (found.low, found.high))
    method = f"{found.method}; {len(fixed)} answers that needed no judge have known values"
    return dataclasses.replace(
        found, value=known + weight * found.value, low=low, high=high, N=found.N + len(fixed), method=method
    )


def _beside(of: Judged, values: Floats, people: Floats, human: Floats) -> dict[str, Any]:
    """Agreement of one column of scores with people: α beside the ceiling, κ of the winner, q0 and q1."""
    clusters = [one.cluster or one.doc for one in of.given.items]
    voted = ~np.isnan(human)
    kept = battles.subset(clusters, voted)
    alpha = agreement.compared(values[voted], people[:, voted], "interval", kept)
    mine, theirs = np.sign(values - 0.5), np.sign(human - 0.5)
    decided = voted & (mine != 0) & (theirs != 0) & ~np.isnan(mine)
    rates = agreement.error_rates(
        (mine[decided] > 0).astype(float), (theirs[decided] > 0).astype(float), battles.subset(clusters, decided)
    )
    return {
        "alpha": _row(alpha.judge),
        "alpha_people": _row(alpha.people),
        "alpha_gap": _row(alpha.gap),
        "kappa": agreement.cohen_kappa(mine[voted], theirs[voted], "linear", (-1.0, 0.0, 1.0)),
        "q0": _row(rates.q0),
        "q1": _row(rates.q1),
    }


def _own(of: Judged, place: int, human: Floats) -> dict[str, Any]:
    """What is known of one judge besides: whose store it is, consistency, and faults measured against people."""
    found: dict[str, Any] = {"fingerprint": of.judges[place].response_id}
    if of.given.mode == "pairwise":
        consistency = battles.position_consistency(of.games[place])
        found["position_consistency"] = _row(consistency) if consistency else None
    found["faults"] = [layers.as_row(one) for one in layers.faults_of(of, place, human)]
    return found


def _row(interval: Interval) -> dict[str, Any]:
    return {"value": interval.value, "low": interval.low, "high": interval.high, "n": interval.n}


def as_text(report: dict[str, Any]) -> str:
    """The report for a terminal."""
    lines = [f"  people: {report['labels']} labelled documents, {report['raters']} raters, {report['axis']}"]
    if report["lacking"]:
        lines.append(
            f"  {report['lacking']} labels of this model are missing for a correction ({corrected.LEAST} are needed): "
            "uncalibrated"
        )
    rows = {"panel": report["panel"], **{f"judge {name}": row for name, row in report["judges"].items()}}
    ceiling = _shown(report["panel"]["alpha_people"])
    lines.append(f"  α among people {ceiling}")
    for name, row in rows.items():
        kappa = "–" if row["kappa"] is None else f"{row['kappa']:.2f}"
        lines.append(f"  {name}: α {_shown(row['alpha'])}, κ {kappa}, q0 {_shown(row['q0'])}, q1 {_shown(row['q1'])}")
        lines += [f"    {fault['severity']}, {fault['name']}: {fault['words']}" for fault in row.get("faults", ())]
    return "\n".join(lines)


def _shown(row: dict[str, Any]) -> str:
    if row["value"] is None:
        return "–"
    ends = "" if row["low"] is None or row["high"] is None else f" [{row['low']:.2f}, {row['high']:.2f}]"
    return f"{row['value']:.2f}{ends}"
