"""Ratings of many models from games between their answers: Bradley–Terry with style and the order of the answers.

    games = Games(players, first, second, outcome, prompts, anchor=0, style=differences)
    raw = fit(games, style=False)
    controlled = fit(games, style=True)        win rates at equal style
    raw.players[3].win_rate, .low, .high, .rank_low, .rank_high, .p_top

P(first wins) = σ(θ_first − θ_second + βᵀz + γ) (Bradley & Terry 1952; the order term γ of Davidson & Beaver 1977; style
covariates z as in Arena-Hard 2.0). A tie is half a win. Intervals come from the bootstrap over prompts with the whole
fit inside: games of one prompt, its two orders and all models on it, are drawn together (drawing games one by one, as
others do, gives intervals that are too narrow).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from estbench.errors import DataError
from estbench.stats import Interval, proportion_interval
from estbench.stats.distributions import LEVEL
from estbench.stats.intervals import Floats
from estbench_judges.style import NAMES

Places = NDArray[np.intp]
RIDGE = (
    0.1  # half the precision of a prior at 0: a model that wins all of 600 games gets 99.9 %, others move by < 0.1 %
)
ROUNDS = 1000
LEAST_PROMPTS = 20  # below, the bootstrap's percentiles are too narrow: no interval
STEPS, CLOSE = 100, 1e-5  # of Newton's method; after a step of so few logits the error is its square
BOUNDS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)


@dataclass(frozen=True, slots=True, eq=False)
class Games:
    """Games of players on prompts. ValueError: arrays that don't belong together."""

    players: tuple[str, ...]
    first: Places  # (n,) places among the players: whose answer stood first
    second: Places  # (n,)
    outcome: Floats  # (n,) of the first: 1 won, 0 lost, .5 tie, or between; nan: no valid verdict
    prompts: Sequence[Hashable]  # (n,): what is drawn together
    anchor: int | None = None  # the player whose θ is 0; None: the mean of all is 0
    style: Floats | None = None  # (n, k): first less second; 0 is equal style. Scaled in the fit
    style_names: tuple[str, ...] = NAMES

    def __post_init__(self) -> None:
        n, count = len(self.outcome), len(self.players)
        if not len(self.first) == len(self.second) == len(self.prompts) == n:
            raise ValueError("first, second, outcome and prompts have to be equally long")
        if n and not (
            0 <= min(self.first.min(), self.second.min()) <= max(self.first.max(), self.second.max()) < count
        ):
            raise ValueError(f"games are between players 0 to {count - 1}")
        if (self.first == self.second).any() or len(set(self.players)) < count:
            raise ValueError("a game has two players, and each has a name of its own")
        if ((self.outcome < 0) | (self.outcome > 1)).any():
            raise ValueError("outcomes lie between 0 and 1, or are nan")
        if self.style is not None and self.style.shape != (n, len(self.style_names)):
            raise ValueError(f"style is {self.style.shape}, not {n} games × {len(self.style_names)} names")


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95 % bootstrap interval; None where nothing can be said."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Rating:
    """One player. Without a chain of games to the anchor all is None."""

    player: str
    games: int  # with a valid verdict
    prompts: int  # that they are on
    theta: Estimate  # log-odds of beating the anchor (without one: the average player)
    win_rate: Estimate  # against the anchor, at equal style and without the order's effect; None: there is no anchor
    rank: int | None  # 1 + the players with a higher rating
    rank_low: int | None  # 95 % interval of the rank, simultaneous over the other players
    rank_high: int | None
    p_top: float | None  # share of rounds in which it is the best


@dataclass(frozen=True, slots=True, eq=False)
class Ratings:
    """All players, in the order of the games' players."""

    players: tuple[Rating, ...]
    order: Estimate  # γ: log-odds that the first place adds
    style: dict[str, Estimate]  # β of one standard deviation; empty: raw. Value None: no game differs in it
    games: int
    missing: int  # games without a valid verdict
    prompts: int
    rounds: int
    method: str
    replicates: Floats = field(repr=False)  # (rounds, players): θ in each round; nan where not rated


def fit(
    games: Games, *, style: bool, ridge: float = RIDGE, rounds: int = ROUNDS, seed: int | Sequence[int] = 0
) -> Ratings:
    """Maximum of the likelihood with a ridge −½·ridge·(|θ|² + |β|² + γ²), so that all stays finite where a model wins
    all its games, and its bootstrap over prompts.

    style: with the covariates (`games.style`, each divided by its root mean square; 0 stays equal style). The same seed
    gives the same intervals. Fewer than 20 prompts, or rounds without any spread: no interval; a player that won (lost)
    every game against the anchor has the lower (upper) end of Wilson's interval over its prompts, as no draw of its
    prompts could show a loss.
    DataError: no valid verdict, or games in one order only, whose strengths can't be told from the order's effect.
    ValueError: style without covariates, a ridge that isn't above 0.
    """
    if (style and games.style is None) or not ridge > 0 or rounds < 1:
        raise ValueError("a fit with style needs covariates; a ridge is above 0, and there is a round")
    model = _Model.of(games, style, ridge)
    estimate = model.solve(model.weights(None), np.zeros(model.size))
    values = np.full((rounds, model.size), np.nan)
    for at, weights in enumerate(_drawn(model.prompts, rounds, seed)):
        values[at] = model.solve(model.weights(weights), estimate)
    theta, replicates = model.thetas(estimate[None])[0], model.thetas(values)
    sure = model.prompts >= LEAST_PROMPTS
    order, *betas = (
        _estimate(value, column if sure else None)
        for value, column in zip(estimate[model.free :], values[:, model.free :].T, strict=True)
    )
    names = games.style_names if style else ()
    found = dict(zip([names[at] for at in model.kept], betas, strict=True))
    return Ratings(
        players=tuple(_rows(games, model, theta, replicates)),
        order=order,
        style={name: found.get(name, Estimate(None)) for name in names},
        games=len(model.outcome),
        missing=int(np.isnan(games.outcome).sum()),
        prompts=model.prompts,
        rounds=rounds,
        method=f"Bradley–Terry, ridge {ridge:g}, {'style-controlled' if style else 'raw'}; "
        + (f"bootstrap of {model.prompts} prompts, {rounds} rounds" if sure else "no interval: too few prompts"),
        replicates=replicates,
    )


def _drawn(prompts: int, rounds: int, seed: int | Sequence[int]) -> Iterator[Floats]:
    """How often each prompt is drawn, round by round."""
    rng = np.random.default_rng(seed)
    for _ in range(rounds):
        yield np.bincount(rng.integers(0, prompts, prompts), minlength=prompts).astype(float)


@dataclass(frozen=True, slots=True, eq=False)
class _Model:
    """The valid games as rows of a logistic regression. Its parameters: θ of the rated players but the anchor, γ, β.

    Rows are ordered by pair of players, so that sums over a pair's rows are sums over a slice. Without covariates all
    rows of a pair have one logit: they are one row, whose weight and outcome a product of matrices gives.
    """

    games: Games
    ridge: float
    kept: tuple[int, ...]  # the covariates that vary
    place: Places  # (players,): each one's parameter; −1 the anchor, −2 not rated
    free: int  # parameters that are θ
    size: int  # all parameters
    signs: Floats  # (pairs, free): +1 the first, −1 the second
    pair: Places  # (rows,)
    starts: Places  # (pairs,): the first row of each
    prompt: Places  # (rows,)
    prompts: int
    outcome: Floats  # (rows,)
    covariates: Floats  # (1 + k, rows): ones, scaled style
    table: Floats | None  # (2·pairs, prompts): games and points of each pair on each prompt; None: with style

    @classmethod
    def of(cls, games: Games, style: bool, ridge: float) -> _Model:
        """The games as a regression; see `fit` for the errors."""
        valid = np.flatnonzero(~np.isnan(games.outcome))
        if not len(valid):
            raise DataError("no game has a valid verdict: nothing can be rated; look at the judge's failures")
        count = len(games.players)
        place = _places(games, valid)
        valid = valid[place[games.first[valid]] > -2]
        pairs, pair = np.unique(games.first[valid] * count + games.second[valid], return_inverse=True)
        by_pair = np.argsort(pair, kind="stable")
        rows, pair = valid[by_pair], pair[by_pair]
        codes: dict[Hashable, int] = {}
        prompt = np.fromiter((codes.setdefault(games.prompts[row], len(codes)) for row in rows.tolist()), np.intp)
        covariates, kept = _covariates(games, rows, style)
        free = int(place.max()) + 1
        signs = np.zeros((len(pairs), free + 2))  # two columns more: the anchor's, and none's
        np.add.at(signs, (np.arange(len(pairs)), place[pairs // count]), 1)
        np.add.at(signs, (np.arange(len(pairs)), place[pairs % count]), -1)
        starts = np.searchsorted(pair, np.arange(len(pairs)))
        made = cls(
            games=games,
            ridge=ridge,
            kept=kept,
            place=place,
            free=free,
            size=free + len(covariates),
            signs=signs[:, :free],
            pair=pair,
            starts=starts,
            prompt=prompt,
            prompts=len(codes),
            outcome=games.outcome[rows],
            covariates=covariates,
            table=None if style else _table(pair, prompt, games.outcome[rows], len(codes)),
        )
        made.check()
        return made

    def check(self) -> None:
        """DataError where strengths, order and style can't be told apart; the ridge would give something all the same.
        Without an anchor θ is free up to a constant, and there the ridge may decide."""
        design = np.column_stack([self.signs[self.pair], self.covariates.T])
        lacking = int(self.games.anchor is None)
        order = self.free + 1
        if np.linalg.matrix_rank(design[:, :order].T @ design[:, :order]) < order - lacking:
            raise DataError(
                "games in one order only: how good the models are can't be told from what the first place adds; "
                "judge each pair in both orders"
            )
        if np.linalg.matrix_rank(design.T @ design) < self.size - lacking:
            raise DataError(
                "style can't be told from strength in these games (too few, or each model has one style throughout); "
                "show the raw ratings alone"
            )

    def weights(self, draws: Floats | None) -> tuple[Floats, Floats]:
        """Weight and weighted outcome of each row (without covariates: of each pair). draws: times of each prompt."""
        if self.table is not None:
            sums = self.table.sum(axis=1) if draws is None else self.table @ draws
            return sums[: len(sums) // 2], sums[len(sums) // 2 :]
        weights = np.ones(len(self.outcome)) if draws is None else draws[self.prompt]
        return weights, weights * self.outcome

    def solve(self, rows: tuple[Floats, Floats], start: Floats) -> Floats:
        """Newton's method from `start`; far from the end it goes ln(1 + d)/d of a step that moves a logit by d, which
        never goes too far (Sun & Tran-Dinh 2019)."""
        weights, points = rows
        few = self.table is not None
        covariates = np.ones((1, len(weights))) if few else self.covariates
        signs, free = self.signs, self.free
        at = start
        for _ in range(STEPS):
            strength = signs @ at[:free]
            logits = (strength if few else strength[self.pair]) + at[free:] @ covariates
            chance = 1 / (1 + np.exp(-logits))
            expected = weights * chance
            spread = expected * (1 - chance)
            crossed = spread * covariates
            stacked = np.vstack([points - expected, spread, crossed])
            sums = stacked if few else np.add.reduceat(stacked, self.starts, axis=1)
            gradient = np.concatenate([signs.T @ sums[0], covariates @ stacked[0]]) - self.ridge * at
            curvature = np.empty((self.size, self.size))
            curvature[:free, :free] = signs.T @ (sums[1][:, None] * signs)
            curvature[:free, free:] = signs.T @ sums[2:].T
            curvature[free:, :free] = curvature[:free, free:].T
            curvature[free:, free:] = crossed @ covariates.T
            curvature.flat[:: self.size + 1] += self.ridge
            step = np.linalg.solve(curvature, gradient)
            far = 2 * float(np.abs(step[:free]).max(initial=0)) + 3 * float(np.abs(step[free:]).sum())
            at = at + (step if far <= 1 else step * math.log1p(far) / far)
            if far < CLOSE:
                break
        return at

    def thetas(self, values: Floats) -> Floats:
        """(rounds, players): θ from parameters (rounds, size); the anchor's is 0, nan of players not rated."""
        rounds = len(values)
        ends = np.column_stack([values[:, : self.free], np.full(rounds, np.nan), np.zeros(rounds)])
        return np.asarray(ends[:, self.place], float)  # −1 is the last column, −2 the one before


def _places(games: Games, valid: Places) -> Places:
    """Each player's parameter: those joined by games to the anchor (without one: to the most players) are rated."""
    count = len(games.players)
    joined = np.zeros((count, count), bool)
    joined[games.first[valid], games.second[valid]] = True
    reach = joined | joined.T | np.eye(count, dtype=bool)
    for _ in range(max(1, count.bit_length())):
        reach = reach @ reach
    hub = int(reach.sum(axis=1).argmax()) if games.anchor is None else games.anchor
    rated = reach[hub].copy()
    if not (reach[hub].sum() > 1):
        raise DataError(f"no valid game of {games.players[hub]}, which the others are measured against")
    place = np.full(count, -2, np.intp)
    if games.anchor is not None:
        rated[games.anchor] = False
        place[games.anchor] = -1
    place[rated] = np.arange(rated.sum())
    return place


def _covariates(games: Games, rows: Places, style: bool) -> tuple[Floats, tuple[int, ...]]:
    """(1 + k, rows): ones for the order and the style, scaled; and the columns of it that vary. It is not centred: 0 is
    equal style."""
    ones = np.ones((1, len(rows)))
    if not style or games.style is None:
        return ones, ()
    values = games.style[rows]
    if not np.isfinite(values).all():
        raise ValueError("a style covariate is not a number")
    scale = np.sqrt((values**2).mean(axis=0))
    kept = np.flatnonzero(scale > 0)
    return np.vstack([ones, (values[:, kept] / scale[kept]).T]), tuple(kept.tolist())


def _table(pair: Places, prompt: Places, outcome: Floats, prompts: int) -> Floats:
    pairs = int(pair.max()) + 1
    cells = pair * prompts + prompt
    counts = [np.bincount(cells, weights, minlength=pairs * prompts) for weights in (None, outcome)]
    return np.concatenate(counts).astype(float).reshape(2 * pairs, prompts)


def _estimate(value: float, replicates: Floats | None) -> Estimate:
    """With the percentile interval of its replicates, where they spread."""
    if replicates is None or np.ptp(replicates) < 1e-6:
        return Estimate(float(value))
    low, high = np.quantile(replicates, BOUNDS)
    return Estimate(float(value), float(low), float(high))


def _rows(games: Games, model: _Model, theta: Floats, replicates: Floats) -> Iterator[Rating]:
    rated = np.flatnonzero(~np.isnan(theta))
    ranks = dict(zip(rated.tolist(), _ranks(theta[rated], replicates[:, rated]), strict=True))
    rows = np.flatnonzero(~np.isnan(games.outcome))
    for at, name in enumerate(games.players):
        own = rows[(games.first[rows] == at) | (games.second[rows] == at)]
        prompts = len({games.prompts[row] for row in own.tolist()})
        if at not in ranks:
            yield Rating(name, len(own), prompts, Estimate(None), Estimate(None), None, None, None, None)
            continue
        sure = prompts >= LEAST_PROMPTS and at != games.anchor
        value = _estimate(theta[at], replicates[:, at] if sure else None)
        won = np.where(games.first[own] == at, games.outcome[own], 1 - games.outcome[own])
        if sure and games.anchor is not None and won[0] in (0, 1) and (won == won[0]).all():
            value = _one_sided(value, proportion_interval(np.full(prompts, won[0])))
        rank, low, high, top = ranks[at]
        if not sure and at != games.anchor:
            yield Rating(name, len(own), prompts, value, _win_rate(games, value), rank, 1, len(rated), None)
        else:
            yield Rating(name, len(own), prompts, value, _win_rate(games, value), rank, low, high, top)


def _one_sided(value: Estimate, wilson: Interval) -> Estimate:
    """Of a player that won (lost) all: what its prompts allow, and no bound on the other side."""
    assert value.value is not None and wilson.low is not None and wilson.high is not None
    if wilson.value:
        return Estimate(value.value, min(value.value, math.log(wilson.low / (1 - wilson.low))), math.inf)
    return Estimate(value.value, -math.inf, max(value.value, math.log(wilson.high / (1 - wilson.high))))


def _win_rate(games: Games, theta: Estimate) -> Estimate:
    """σ(θ) against the anchor; None without one."""
    if games.anchor is None:
        return Estimate(None)
    ends = (theta.value, theta.low, theta.high)
    return Estimate(*(None if end is None else float(1 / (1 + np.exp(-end))) for end in ends))


def _ranks(theta: Floats, replicates: Floats) -> Iterator[tuple[int, int, int, float]]:
    """Of each player its rank, the interval of it, and how often it is the best.

    Each interval comes from the simultaneous interval of one player's differences to all others, by the bootstrap of
    their largest |t|: 1 + the players that are surely better, to all less those that are surely worse (Mogstad, Romano,
    Shaikh & Wilhelm 2024).
    """
    best = replicates >= replicates.max(axis=1, keepdims=True)
    top = (best / best.sum(axis=1, keepdims=True)).mean(axis=0)
    for at in range(len(theta)):
        gaps = np.delete(theta - theta[at], at)
        drawn = np.delete(replicates - replicates[:, [at]], at, axis=1) - gaps
        error = np.maximum(drawn.std(axis=0), 1e-9)
        needed = float(np.quantile(np.abs(drawn / error).max(axis=1, initial=0), LEVEL)) * error
        surely_better, surely_worse = int((gaps > needed).sum()), int((gaps < -needed).sum())
        yield 1 + int((gaps > 1e-9).sum()), 1 + surely_better, len(theta) - surely_worse, float(top[at])
