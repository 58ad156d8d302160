"""Votes to what a run keeps: scores with their evidence, values by document, every call, and what is known of judges.

    write(judged, labels=None)      # RUN/judgments/TASK.RUBRIC.MODE.json and .jsonl.gz, merged into the run

A panel's value of a document is the median of its judges. Beside it stand the number without judges of the model's
family, at equal style, by each judge alone, how often both orders agree, how often the first place wins, what is
missing and how much that could change. Without people's votes a score says that it is uncalibrated.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from estbench import identity, judged, stats
from estbench.errors import DataError
from estbench.judged import CALIBRATED, FOLDER, UNCALIBRATED, Layer
from estbench.runs import Run, Score, write_lines
from estbench.stats import Interval
from estbench.stats.intervals import Floats
from estbench_judges import battles, bradley_terry, faults, ledger, panel, style
from estbench_judges.judging import SAME, SET, Judged
from estbench_judges.rubrics import METRICS, frame

ANCHOR = "(anchor)"  # its name among players: no model has that one


def model_words(run: Run) -> str:
    """What names the model's family: its name, its type, and what it was made from."""
    model = run.manifest["model"]
    lineage = (model.get("training") or {}).get("lineage") or []
    made_from = [str(one.get("name", "")) if isinstance(one, dict) else str(one) for one in lineage]
    return " ".join(
        str(word) for word in (run.manifest["name"], model.get("name"), model.get("type"), *made_from) if word
    )


def signature(of: Judged, calibrated: bool) -> str:
    """What fixes a judged score: `judge:win_rate|helpfulness@1-ab005789|anchor:set|qwen3+gemma#5f0c1d2e|uncalibrated`.

    The eight digits stand for what the names don't say: the judges' identities, the frame's texts, how they were asked.
    """
    given = of.given
    anchor = f"anchor:{given.anchor}|" if given.anchor else ""
    names = "+".join(sorted(one.name for one in of.judges))
    asked = identity.digest([sorted(one.response_id for one in of.judges), frame().hash, _settings(of)])[:8]
    state = CALIBRATED if calibrated else UNCALIBRATED
    return f"{judged.SIGNATURE}{METRICS[given.mode]}|{given.rubric.id}|{anchor}{names}#{asked}|{state}"


def _settings(of: Judged) -> dict[str, Any]:
    """How judges were asked, and what a document needs."""
    wishes = of.given.wishes
    names = ("language", "reasons", "temperature", "repeats", "structured")
    least = wishes.least or len(of.judges) // 2 + 1
    return {name: getattr(wishes, name) for name in names} | {"least": least}


def interval_of(values: Floats, of: Judged) -> Interval:
    """The mean over documents that have a value, with its 95 % interval."""
    clusters = [one.cluster or one.doc for one in of.given.items]
    valid = ~np.isnan(values)
    judged_ones = [
        not np.isnan(v) and one.doc_id not in of.given.fixed for one, v in zip(of.given.items, values, strict=True)
    ]
    if not valid.any() or (of.given.asked and not any(judged_ones)):  # what needs no judge is no verdict of one
        return Interval(None, None, None, 0, "no document has a valid verdict")
    return stats.mean_interval(values[valid], battles.subset(clusters, valid), bounds=(0.0, 1.0))


def build(of: Judged, corrected: Interval | None = None, calibration: dict[str, Any] | None = None) -> Layer:
    """The layer of these votes. corrected: the score that people's votes make of the panel's; calibration: the report
    of that, for the manifest."""
    given, values = of.given, of.panel
    calibrated = corrected is not None
    raw = interval_of(values, of)
    beside = list(_companions(of))
    if corrected is not None:  # the number that counts is people's; the panel's own stands beside it
        beside += [("corrected", corrected), ("panel", raw)]
    rows = [_score(of, given.metric, corrected or raw, calibrated)]
    rows += [
        _score(of, f"{given.metric}/{name}", interval, calibrated and name == "corrected")
        for name, interval in beside
        if interval.value is not None
    ]
    keys = {str(one.doc_id): one.key for one in given.items}
    valid = ~np.isnan(values) if raw.value is not None else np.zeros(len(values), bool)
    kept = {str(one.doc_id): float(v) for one, v, is_one in zip(given.items, values, valid, strict=True) if is_one}
    marks = {doc: of.mark(int(doc)) for doc in keys}
    answered = {str(s.doc_id): s.key.partition("+")[0] for s in given.run.samples(given.task) if s.error is None}
    return Layer(
        given.task,
        given.rubric.name,
        given.mode,
        keys=answered | keys,
        marks=marks,
        values={given.metric: kept},
        scores=[dataclasses.asdict(row) for row in rows],
        card=card(of, calibrated) | ({"calibration": calibration} if calibration else {}),
    )


def with_earlier(of: Judged) -> Judged:
    """The votes with what earlier commands have paid for this very layer: the same judges, rubric and settings."""
    stem = judged.stem_of(of.given.task, of.given.rubric.name, of.given.mode)
    known = [one for one in judged.layers(of.given.run.path) if one.stem == stem]
    rubric, asked = of.given.rubric.hash, {**_settings(of), "frame": frame().hash}
    if not known or known[0].card["rubric"]["hash"] != rubric or any(known[0].card.get(k) != asked[k] for k in asked):
        return of
    earlier = {row["fingerprint"]: row for row in known[0].card["judges"]}
    costs = [
        ledger.together(earlier.get(one.response_id, {}), cost) for one, cost in zip(of.judges, of.costs, strict=True)
    ]
    return dataclasses.replace(of, costs=costs)


def write(of: Judged, layer: Layer) -> Run:
    """Keep the layer and every call in the run folder, and put them into its scores."""
    run = of.given.run
    path = run.path / FOLDER / f"{layer.stem}.jsonl.gz"
    write_lines(path, _calls(of))
    judged.write(run.path, layer)
    return judged.merge(run)


def _score(of: Judged, metric: str, interval: Interval, calibrated: bool) -> Score:
    """A score with the same evidence fields as any other."""
    given = of.given
    task = given.run.manifest["tasks"][given.task]
    n_planned = len(given.items)
    own = metric == given.metric
    n = min(interval.n, n_planned)  # documents; what pairs of verdicts are counted for has more of them
    n_planned = n_planned if own else n
    missing = f"; {n_planned - n} of {n_planned} without a verdict" if own and n < n_planned else ""
    if missing and interval.n:
        low, high = battles.bounds(of.panel, n_planned)
        missing += f", bounds {low:.3f}–{high:.3f}"
    return Score(
        task=given.task,
        metric=metric,
        value=interval.value,
        ci_low=interval.low,
        ci_high=interval.high,
        n=n,
        n_planned=n_planned,
        chance=None,
        parse_failures=len(_screened(of)) if own else 0,
        errors=n_planned - n,
        unit="proportion",
        higher_is_better=True,
        primary=metric == task["primary"],
        method=interval.method + missing,
        signature=signature(of, calibrated),
        reason=None if interval.value is not None else "no document has a valid verdict",
    )


def _screened(of: Judged) -> list[str]:
    """Why answers were screened without a call, one entry an answer."""
    return [why for _, why in of.given.fixed.values() if why != SAME and not why.startswith("anchor ")]


def _companions(of: Judged) -> Iterator[tuple[str, Interval]]:
    """What stands beside the number."""
    kin = [place for place, one in enumerate(of.judges) if _is_kin(of, place)]
    if kin and len(kin) < len(of.judges):
        rest = [place for place in range(len(of.judges)) if place not in kin]
        yield "without_kin", interval_of(panel.median(of.table[rest]), of)
    if of.given.mode != "pairwise":
        return
    clusters = [one.cluster or one.doc for one in of.given.items] * len(of.judges)
    for name, found in (
        ("position_consistency", battles.position_consistency(whole(of), clusters)),
        ("first_position_bias", position_bias(of)),
        ("equal_style", _equal_style(of)),
    ):
        if found is not None:
            yield name, found


def whole(of: Judged) -> battles.Battles:
    """The games of all judges, one after the other."""
    first = np.concatenate([one.model_first for one in of.games])
    return battles.Battles(first, np.concatenate([one.model_second for one in of.games]))


def position_bias(of: Judged) -> Interval | None:
    """First-position bias of the judge that has most of it: opposite ones would cancel in a mean."""
    clusters = [one.cluster or one.doc for one in of.given.items]
    found = [bias for one in of.games if (bias := battles.first_position_bias(one, clusters))]
    return max(found, key=lambda bias: abs(bias.value or 0.0), default=None)


def _is_kin(of: Judged, place: int) -> bool:
    one, model = of.judges[place], model_words(of.given.run)
    return any(panel.kin(word, model) for word in (one.family, one.name, one.model_name) if word)


def texts_of(of: Judged) -> list[tuple[str, str]]:
    """The model's and the anchor's words of each item, all turns together."""
    anchors = of.given.anchors
    return [("\n\n".join(one.answers), "\n\n".join(anchors.get(one.doc, ()))) for one in of.given.items]


def games_of(
    of: Judged, name: str, place: int = 0, players: tuple[str, ...] | None = None
) -> bradley_terry.Games | None:
    """The panel's median of each game, as battles of this model (`place`) against the anchor, the last player. What no
    judge was asked about counts as in the win rate, and says nothing of style."""
    players = players or (name, ANCHOR)
    anchor = len(players) - 1
    first = panel.median(np.array([one.model_first for one in of.games]), of.given.wishes.least)
    second = panel.median(np.array([one.model_second for one in of.games]), of.given.wishes.least)
    n = len(of.given.items)
    docs = [one.cluster or one.doc for one in of.given.items]
    apart = np.array([style.differences(mine, theirs) for mine, theirs in texts_of(of)])
    for i, item in enumerate(of.given.items):
        if item.doc_id in of.given.fixed:
            first[i] = second[i] = of.given.fixed[item.doc_id][0]
            apart[i] = 0.0
    if not n or np.isnan(np.concatenate([first, second])).all():
        return None
    return bradley_terry.Games(
        players,
        np.array([place] * n + [anchor] * n),
        np.array([anchor] * n + [place] * n),
        np.concatenate([first, 1 - second]),
        docs * 2,
        anchor=anchor,
        style=np.concatenate([apart, -apart]),
    )


def _equal_style(of: Judged) -> Interval | None:
    """The win rate at equal length and markdown."""
    games = games_of(of, "model")
    if games is None:
        return None
    try:
        found = bradley_terry.fit(games, style=True)
    except DataError:  # a model that always writes longer: style can't be told from strength
        return None
    rating = found.players[0].win_rate
    return Interval(rating.value, rating.low, rating.high, found.prompts, found.method)


def card(of: Judged, calibrated: bool) -> dict[str, Any]:
    """What the manifest says: who judged what, by which rubric, what failed, what is wrong with them."""
    given = of.given
    anchors = hashlib.sha256(identity.canonical(dict(sorted(given.anchors.items())))).hexdigest()[:16]
    return {
        "rubric": {"name": given.rubric.name, "version": given.rubric.version, "hash": given.rubric.hash},
        "axis": given.rubric.axis,
        "mode": given.mode,
        "metric": given.metric,
        "frame": frame().hash,
        **_settings(of),
        "anchor": {"name": given.anchor, "hash": anchors} if given.anchor else None,
        "calibrated": calibrated,
        "documents": len(given.items),
        "left_out": dict(given.left_out),
        "without_call": dict(collections.Counter(why for _, why in given.fixed.values())),
        "judges": [_judge_card(of, place) for place in range(len(of.judges))],
        "bounds": list(battles.bounds(of.panel, len(given.items))),
    }


def _judge_card(of: Judged, place: int) -> dict[str, Any]:
    one, votes = of.judges[place], of.votes[place].values()
    alone = interval_of(of.table[place], of)
    valid = sum(vote.verdict is not None for vote in votes)
    whys = collections.Counter(vote.why for vote in votes if vote.verdict is None)
    covered = [vote.verdict.covered for vote in votes if vote.verdict and vote.verdict.covered is not None]
    return one.card() | {
        "kin": _is_kin(of, place),
        **_order(of, place),
        "value": alone.value,
        "ci_low": alone.low,
        "ci_high": alone.high,
        "cases": len(of.votes[place]),
        "valid": valid,
        "failed": sum(vote.failed for vote in votes),
        "again": sum(any(call["step"] == "again" for call in vote.calls) for vote in votes),
        "missing": dict(whys.most_common(5)),
        "covered": float(np.mean(covered)) if covered else None,
        "expected": len(covered),
        "faults": [as_row(fault) for fault in faults_of(of, place)],
        **(of.costs[place] if of.costs else {}),
    }


def _order(of: Judged, place: int) -> dict[str, float | None]:
    """How often a judge's two orders agree, and what the first place is worth to it."""
    if of.given.mode != "pairwise":
        return {}
    same, bias = battles.position_consistency(of.games[place]), battles.first_position_bias(of.games[place])
    return {
        "position_consistency": same.value if same else None,
        "first_position_bias": bias.value if bias else None,
    }


def evidence(of: Judged, place: int, human: Floats | None = None) -> faults.Evidence:
    """A judge's verdicts as `faults` looks at them; the other judges are the reference."""
    asked = [i for i, one in enumerate(of.given.items) if one.answered and one.doc_id not in of.given.fixed]
    model = model_words(of.given.run)
    others = [row for i, row in enumerate(of.table) if i != place]
    words = np.array([[len(mine.split()), len(theirs.split())] for mine, theirs in texts_of(of)], float)
    return faults.Evidence(
        of.judges[place].family or of.judges[place].name,
        [model] * len(asked),
        [of.given.items[i].cluster or of.given.items[i].doc for i in asked],
        of.games[place].model_first[asked],
        of.games[place].model_second[asked],
        words=np.maximum(words[asked], 1.0) if asked else None,
        anchor=of.given.anchor if of.given.anchor != SET else None,
        human=human[asked] if human is not None else None,
        others=np.array(others)[:, asked] if others else None,
        other_names=[one.name for i, one in enumerate(of.judges) if i != place],
    )


def faults_of(of: Judged, place: int, human: Floats | None = None) -> list[faults.Fault]:
    """What is wrong with a judge, by its battles."""
    if of.given.mode != "pairwise" or not of.given.asked:
        return []
    return faults.diagnose(evidence(of, place, human))


def as_row(fault: faults.Fault) -> dict[str, Any]:
    """A fault as JSON can hold it: an interval that is not there is null."""
    row = dataclasses.asdict(fault)
    return {key: None if isinstance(value, float) and not np.isfinite(value) else value for key, value in row.items()}


def _calls(of: Judged) -> Iterator[dict[str, Any]]:
    """Every call, document by document: what an audit reads."""
    by_doc: dict[int, list[dict[str, Any]]] = collections.defaultdict(list)
    for one, votes in zip(of.judges, of.votes, strict=True):
        for name, vote in votes.items():
            verdict = vote.verdict
            row = {
                "judge": one.name,
                "case": name,
                "first": vote.case.first if of.given.mode == "pairwise" else None,
                "vote": verdict.label if verdict else None,
                "score": verdict.score if verdict else None,
                "reason": verdict.reason if verdict else None,
                "covered": verdict.covered if verdict else None,
                "met": list(verdict.met) if verdict and verdict.met else None,
                "missing": vote.why or None,
                "failed": vote.failed,
                "calls": vote.calls,
            }
            by_doc[vote.case.item.doc_id].append(row)
    for item in of.given.items:
        fixed = of.given.fixed.get(item.doc_id)
        yield {
            "doc_id": item.doc_id,
            "doc": item.doc,
            "without_call": fixed[1] if fixed else None,
            "votes": by_doc[item.doc_id],
        }
