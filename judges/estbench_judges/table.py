"""Several models on one scale: Bradley–Terry over their battles with the anchor, raw and at equal style.

    rows = table([judged_a, judged_b], seed=0)        # a row a model, best first

All have to be judged by the same panel, rubric and anchor. Intervals come from a bootstrap over prompts with the fit
inside it; ranks are intervals, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from estbench import judged, report
from estbench.errors import ConfigError, DataError
from estbench_judges import battles, bradley_terry, layers
from estbench_judges.bradley_terry import Estimate, Games, Rating
from estbench_judges.judging import Judged


def table(of: Sequence[Judged], seed: int = 0) -> dict[str, Any]:
    """Rows by rating with everything that stands beside the number, and the fits' notes."""
    _check(of)
    names = _names(of)
    games = _games(of, names)
    raw = bradley_terry.fit(games, style=False, seed=seed)
    try:
        equal = bradley_terry.fit(games, style=True, seed=seed)
    except DataError:  # style can't be told from strength, with a model or two that always write longer
        equal = None
    rows = []
    for place, one in enumerate(of):
        styled = equal.players[place] if equal else None
        rows.append(_row(one, names[place], raw.players[place], styled))
    rows.sort(key=lambda row: -_theta(row))
    style = {name: _estimate(value) for name, value in equal.style.items()} if equal else {}
    return {
        "models": rows,
        "anchor": of[0].given.anchor,
        "anchor_rank": [raw.players[-1].rank_low, raw.players[-1].rank_high],
        "order": _estimate(raw.order),
        "style": style,
        "methods": [raw.method, *([equal.method] if equal else ["no fit with style: it can't be told from strength"])],
    }


def _theta(row: dict[str, Any]) -> float:
    """For sorting; a model that won (lost) everything has no finite end, and a value all the same."""
    value = row["theta"]["value"]
    return -np.inf if value is None else float(value)


def _check(of: Sequence[Judged]) -> None:
    """ConfigError where the numbers are not on one scale."""
    for one in of:
        if one.given.mode != "pairwise":
            raise ConfigError(f"{one.given.task} of {one.given.run.id} was judged by {one.given.mode}, not in pairs.")
    ids = [one.given.run.id for one in of]
    if twice := next((name for name in ids if ids.count(name) > 1), None):
        raise ConfigError(f"{twice} is named twice: each run once.")
    alike = {(one.given.task, layers.signature(one, False)): one.given.run.id for one in of}
    if len(alike) > 1:
        shown = "; ".join(f"{run}: {task}, {how.removesuffix('|uncalibrated')}" for (task, how), run in alike.items())
        raise ConfigError(f"These runs were not judged alike, so that their numbers are on no one scale: {shown}.")


def _names(of: Sequence[Judged]) -> list[str]:
    """What each model is called; runs of one name by their ids."""
    names = [str(one.given.run.manifest["name"]) for one in of]
    return [one.given.run.id if names.count(name) > 1 else name for name, one in zip(names, of, strict=True)]


def _games(of: Sequence[Judged], names: Sequence[str]) -> Games:
    players = (*names, layers.ANCHOR)
    parts = [part for place, one in enumerate(of) if (part := layers.games_of(one, names[place], place, players))]
    if not parts:
        raise ConfigError("None of these runs has a valid verdict.")
    style = [part.style for part in parts if part.style is not None]
    return Games(
        players,
        np.concatenate([part.first for part in parts]),
        np.concatenate([part.second for part in parts]),
        np.concatenate([part.outcome for part in parts]),
        [prompt for part in parts for prompt in part.prompts],
        anchor=len(names),
        style=np.concatenate(style),
    )


def _row(of: Judged, name: str, raw: Rating, styled: Rating | None) -> dict[str, Any]:
    interval = layers.interval_of(of.panel, of)
    consistency, bias = battles.position_consistency(layers.whole(of)), layers.position_bias(of)
    [score] = [one for one in of.given.run.scores() if one.task == of.given.task and one.metric == of.given.metric]
    return {
        "model": name,
        "run": of.given.run.id,
        "win_rate": {"value": interval.value, "low": interval.low, "high": interval.high},
        "theta": _estimate(raw.theta),
        "rank": [raw.rank_low, raw.rank_high],
        "p_top": raw.p_top,
        "equal_style": _estimate(styled.win_rate) if styled else None,
        "rank_equal_style": [styled.rank_low, styled.rank_high] if styled else None,
        "n": interval.n,
        "n_planned": len(of.given.items),
        "position_consistency": consistency.value if consistency else None,
        "first_position_bias": bias.value if bias else None,
        "state": judged.state(score),
    }


def _estimate(value: Estimate) -> dict[str, float | None]:
    """Finite numbers only: a model that won all has no upper end."""
    ends = (value.value, value.low, value.high)
    low, middle, high = (end if end is not None and np.isfinite(end) else None for end in (ends[1], ends[0], ends[2]))
    return {"value": middle, "low": low, "high": high}


def as_text(made: dict[str, Any]) -> str:
    """The table for a terminal; the anchor has its rank among the models."""
    rows = [
        {
            "model": row["model"],
            "win": _shown(row["win_rate"]),
            "equal": _shown(row["equal_style"]),
            "rank": _rank(row["rank"]),
            "top": "" if row["p_top"] is None else f"{row['p_top']:.0%}",
            "n": f"{row['n']} of {row['n_planned']}",
            "same": _percent(row["position_consistency"]),
            "bias": _percent(row["first_position_bias"]),
            "state": row["state"],
        }
        for row in made["models"]
    ]
    columns = {"model": "model", "win": ">win rate", "equal": ">at equal style", "rank": ">rank", "top": ">P(first)"}
    columns |= {"n": ">n", "same": ">both orders agree", "bias": ">first place", "state": "people"}
    style = ", ".join(f"{name} {_signed(value)}" for name, value in made["style"].items() if value["value"] is not None)
    lines = [
        report.listing(rows, columns),
        "",
        f"Against {made['anchor']}, which has rank {_rank(made['anchor_rank'])} among them.",
        f"Log-odds of the first place: {_signed(made['order'])}",
    ]
    lines += [f"Log-odds of a standard deviation of style: {style}"] if style else []
    return "\n".join([*lines, *made["methods"]])


def _rank(ends: list[int | None]) -> str:
    return "–".join(str(end) for end in dict.fromkeys(ends)) if ends[0] else "–"


def _shown(row: dict[str, Any] | None) -> str:
    if row is None or row["value"] is None:
        return "–"
    ends = [report.number(row[key], "proportion") for key in ("value", "low", "high")]
    return f"{ends[0]} [{ends[1]}, {ends[2]}]"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"


def _signed(row: dict[str, Any]) -> str:
    if row["value"] is None:
        return "–"
    ends = "" if row["low"] is None or row["high"] is None else f" [{row['low']:+.2f}, {row['high']:+.2f}]"
    return f"{row['value']:+.2f}{ends}"
