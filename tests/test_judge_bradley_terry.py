"""Ratings are maximum likelihood, their intervals come from prompts, and nothing is made up where games are missing."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import statsmodels.api as sm
from estbench_judges import bradley_terry
from estbench_judges.bradley_terry import Games, fit
from hypothesis import given, settings
from hypothesis import strategies as st

from estbench.errors import DataError
from estbench.stats.resampling import Floats


def sigma(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-x)), float)


def made(
    abilities: list[float],
    prompts: int,
    seed: int,
    *,
    order: float = 0.3,
    beta: float = 0.0,
    longer: list[float] | None = None,
    shared: float = 1.0,
) -> Games:
    """Both games of each model with the anchor on each prompt; quality differs from prompt to prompt."""
    rng = np.random.default_rng(seed)
    count = len(abilities)
    model, prompt = np.repeat(np.arange(count), prompts), np.tile(np.arange(prompts), count)
    style = 0.3 * rng.normal(size=(count * prompts, 2))
    style[:, 0] += np.array(longer or [0.0] * count)[model]
    strength = np.array(abilities)[model] + shared * rng.normal(size=prompts)[prompt] + beta * style[:, 0]
    own = shared * rng.normal(size=count * prompts)
    outcomes = [
        np.round(2 * sigma(sign * (strength + own) + order + 0.7 * rng.normal(size=len(own)))) / 2 for sign in (1, -1)
    ]
    anchor = np.full(count * prompts, count)
    return Games(
        players=(*(f"m{place}" for place in range(count)), "anchor"),
        first=np.concatenate([model, anchor]),
        second=np.concatenate([anchor, model]),
        outcome=np.concatenate(outcomes),
        prompts=[*prompt.tolist(), *prompt.tolist()],
        anchor=count,
        style=np.concatenate([style, -style]),
        style_names=("length", "bold"),
    )


def design(games: Games, style: bool) -> Floats:
    """The regression written out, without the anchor's column."""
    rows = np.arange(len(games.outcome))
    x = np.zeros((len(rows), len(games.players)))
    x[rows, games.first] += 1
    x[rows, games.second] -= 1
    x = x[:, :-1]
    assert games.style is not None
    scaled = games.style / np.sqrt((games.style**2).mean(axis=0))
    return np.column_stack([x, np.ones(len(rows)), *(scaled.T if style else [])])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("style", [False, True])
def test_estimates_are_those_of_statsmodels(style: bool) -> None:
    games = made([-1, 0, 0.7], 80, 1, beta=1.0)
    found = fit(games, style=style, ridge=1e-9, rounds=1)
    peer = sm.GLM(games.outcome, design(games, style), family=sm.families.Binomial()).fit().params
    ours = [row.theta.value for row in found.players[:-1]] + [found.order.value]
    np.testing.assert_allclose(ours + [one.value for one in found.style.values()], peer, atol=1e-6)


@pytest.mark.parametrize("style", [False, True])
def test_each_round_is_a_fit_of_the_drawn_prompts(style: bool) -> None:
    """By brute force: the games of each drawn prompt written out as often as it was drawn."""
    games = made([-1, 0.5], 30, 2, beta=1.0)
    found = fit(games, style=style, rounds=3, seed=7)
    rng = np.random.default_rng(7)
    for values in found.replicates:
        drawn = rng.integers(0, 30, 30)
        # Prompts are numbered as they first occur among the games ordered by pair: here by their own number.
        rows = np.concatenate([np.flatnonzero(np.array(games.prompts) == prompt) for prompt in drawn])
        x, y = design(games, style)[rows], games.outcome[rows]
        at = np.zeros(x.shape[1])
        for _ in range(50):
            p = sigma(x @ at)
            curvature = (x * (p * (1 - p))[:, None]).T @ x + bradley_terry.RIDGE * np.eye(len(at))
            at = at + np.linalg.solve(curvature, x.T @ (y - p) - bradley_terry.RIDGE * at)
        np.testing.assert_allclose(values[:2], at[:2], atol=1e-6)


@given(st.integers(0, 1000), st.permutations(range(60)))
@settings(max_examples=20, deadline=None)
def test_the_order_of_games_does_not_matter(seed: int, order: list[int]) -> None:
    games = made([-0.5, 0, 0.8], 10, seed)
    assert games.style is not None
    mixed = replace(
        games,
        first=games.first[order],
        second=games.second[order],
        outcome=games.outcome[order],
        prompts=[games.prompts[place] for place in order],
        style=games.style[order],
    )
    one, other = fit(games, style=True, rounds=1), fit(mixed, style=True, rounds=1)
    for a, b in zip(one.players, other.players, strict=True):
        assert a.theta.value == pytest.approx(b.theta.value, abs=1e-7)


def test_a_swapped_record_of_the_same_games_says_the_same() -> None:
    games = made([-0.5, 0.8], 40, 3)
    turned = replace(games, first=games.second, second=games.first, outcome=1 - games.outcome, style=-games.style)
    one, other = fit(games, style=True, rounds=50), fit(turned, style=True, rounds=50)
    assert other.order.value == pytest.approx(-(one.order.value or 0), abs=1e-7)
    assert [row.theta.value for row in one.players] == pytest.approx([row.theta.value for row in other.players])
    assert one.style["length"].value == pytest.approx(other.style["length"].value)


def test_the_order_of_answers_does_not_move_win_rates() -> None:
    fair, biased = (fit(made([0.0, 1.0], 400, 4, order=order), style=False, rounds=1) for order in (0.0, 1.0))
    for a, b in zip(fair.players, biased.players, strict=True):
        assert a.win_rate.value == pytest.approx(b.win_rate.value, abs=0.05)
    assert biased.order.value is not None and biased.order.value > 0.5


def test_style_control_takes_off_what_length_bought() -> None:
    """Two equal models, one much longer, a judge that pays for length."""
    games = made([0.0, 0.0], 500, 5, beta=1.5, longer=[0.6, 0.0])
    raw, controlled = fit(games, style=False, rounds=100), fit(games, style=True, rounds=100)
    gaps = [(one.players[0].theta.value or 0) - (one.players[1].theta.value or 0) for one in (raw, controlled)]
    assert gaps[0] > 0.3 and abs(gaps[1]) < 0.2
    length, bold = controlled.style["length"], controlled.style["bold"]
    assert length.low is not None and length.low > 0
    assert bold.low is not None and bold.high is not None and bold.low < 0 < bold.high
    assert raw.style == {}


def test_a_model_that_wins_all_stays_finite_and_is_not_certain() -> None:
    games = made([0.0, 0.5], 200, 6)
    outcome = games.outcome.copy()
    outcome[games.first == 0], outcome[games.second == 0] = 1, 0
    winner = fit(replace(games, outcome=outcome), style=False, rounds=100).players[0]
    assert winner.theta.value is not None and 4 < winner.theta.value < 9
    assert winner.win_rate.low == pytest.approx(200 / (200 + 1.96**2), abs=1e-3) and winner.win_rate.high == 1
    assert winner.rank == winner.rank_low == winner.rank_high == 1 and winner.p_top == 1
    loser = fit(replace(games, outcome=1 - outcome), style=False, rounds=100).players[0]
    assert loser.win_rate.low == 0 and loser.win_rate.high == pytest.approx(1 - (winner.win_rate.low or 0))


def test_games_without_a_verdict_are_counted_and_change_nothing() -> None:
    games = made([-0.5, 0.8], 60, 8)
    more = Games(
        games.players,
        np.append(games.first, [0, 1]),
        np.append(games.second, [2, 2]),
        np.append(games.outcome, [math.nan, math.nan]),
        [*games.prompts, 0, 1],
        anchor=2,
    )
    one, other = fit(games, style=False, rounds=30), fit(more, style=False, rounds=30)
    assert (one.missing, other.missing, other.games) == (0, 2, one.games)
    assert one.players == other.players


def test_without_games_to_the_anchor_there_is_no_rating() -> None:
    games = made([-0.5, 0.8], 60, 9)
    apart = Games(
        ("m0", "m1", "anchor", "lone", "one", "two"),
        np.append(games.first, [4, 5]),
        np.append(games.second, [5, 4]),
        np.append(games.outcome, [1.0, 0.0]),
        [*games.prompts, 0, 0],
        anchor=2,
    )
    found = fit(apart, style=False, rounds=30)
    assert [row.theta.value is None for row in found.players] == [False, False, False, True, True, True]
    assert found.players[4].rank is None and found.players[4].games == 2 and found.players[3].games == 0
    with pytest.raises(DataError, match="anchor"):
        fit(replace(apart, outcome=np.where(apart.first < 4, math.nan, apart.outcome)), style=False)


def test_one_order_alone_is_refused() -> None:
    """With the model always first its strength is the order's effect, and a ridge would hide that."""
    games = made([-0.5, 0.8], 60, 10)
    with pytest.raises(DataError, match="both orders"):
        fit(replace(games, outcome=np.where(games.first == 2, math.nan, games.outcome)), style=False)
    with pytest.raises(DataError, match="valid verdict"):
        fit(replace(games, outcome=np.full_like(games.outcome, math.nan)), style=False)


def test_style_that_is_a_model_s_own_is_refused() -> None:
    games = made([0.0], 60, 11)
    own = np.where(games.first == 0, 1.0, -1.0)[:, None] * np.array([1.0, 0.0])
    with pytest.raises(DataError, match="style can't be told"):
        fit(replace(games, style=own), style=True)
    flat = fit(replace(games, style=np.zeros_like(own)), style=True, rounds=30)
    assert [one.value for one in flat.style.values()] == [None, None]


def test_few_prompts_have_no_interval() -> None:
    found = fit(made([0.0, 1.0], bradley_terry.LEAST_PROMPTS - 1, 12), style=False, rounds=30)
    assert found.players[0].theta.low is None and found.order.low is None
    assert (found.players[0].rank_low, found.players[0].rank_high, found.players[0].p_top) == (1, 3, None)
    assert "too few prompts" in found.method


def test_ranks_of_clear_and_of_equal_models() -> None:
    found = fit(made([-2.0, 0.5, 0.5, 2.5], 300, 13), style=False, rounds=300)
    ranks = [(row.rank_low, row.rank_high) for row in found.players]
    assert ranks[3] == (1, 1) and ranks[0] == (5, 5)
    assert ranks[1][0] == 2 and ranks[1][1] >= 3
    assert sum(row.p_top or 0 for row in found.players) == pytest.approx(1)


def test_a_round_robin_needs_no_anchor() -> None:
    games = made([-1.0, 1.0], 200, 14)
    free = fit(replace(games, anchor=None), style=False, rounds=30)
    held = fit(games, style=False, rounds=30)
    assert sum(row.theta.value or 0 for row in free.players) == pytest.approx(0, abs=1e-9)
    for a, b in zip(free.players, held.players, strict=True):
        assert (a.theta.value or 0) - (free.players[2].theta.value or 0) == pytest.approx(b.theta.value, abs=0.01)
        assert a.win_rate.value is None


def test_the_same_seed_gives_the_same_intervals() -> None:
    games = made([-0.5, 0.8], 60, 15)
    one, other, third = (fit(games, style=True, rounds=50, seed=seed).players for seed in (1, 1, 2))
    assert one == other != third


@pytest.mark.parametrize(
    "change",
    [
        {"prompts": [0]},
        {"outcome": np.full(8, 2.0)},
        {"second": np.full(8, 7)},
        {"first": np.full(8, 1), "second": np.full(8, 1)},
        {"players": ("a", "a")},
        {"style": np.zeros((8, 3))},
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        replace(made([0.0], 4, 0), **change)


def coverage(cluster: bool, simulations: int) -> tuple[float, float]:
    """How often a win rate's interval covers, and its mean width; `cluster`: prompts are drawn, or single games."""
    truth = fit(made([0.6], 100_000, 99), style=False, rounds=1).players[0].win_rate.value
    hits, widths = 0, []
    for seed in range(simulations):
        games = made([0.6], 150, seed)
        if not cluster:
            games = replace(games, prompts=list(range(len(games.outcome))))
        found = fit(games, style=False, rounds=400, seed=seed).players[0].win_rate
        assert found.low is not None and found.high is not None and truth is not None
        hits += found.low <= truth <= found.high
        widths.append(found.high - found.low)
    return hits / simulations, float(np.mean(widths))


@pytest.mark.slow
def test_the_bootstrap_covers_the_true_win_rate() -> None:
    assert coverage(True, 300)[0] >= 0.925  # 95 % less two standard errors


@pytest.mark.slow
def test_drawing_games_in_place_of_prompts_gives_intervals_that_are_too_narrow() -> None:
    """Negative control."""
    share, width = coverage(False, 100)
    assert share < 0.9 and width < 0.85 * coverage(True, 20)[1]
