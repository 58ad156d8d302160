"""What ratings of judged models cost: Bradley–Terry fits and their bootstrap over prompts.

    OMP_NUM_THREADS=1 python benchmarks/judges.py [models=20] [prompts=500] [rounds=1000]

Anchor mode: each model against one anchor on each prompt in both orders, five-way verdicts; raw (all games of a pair
are one row) and with four style covariates (each game is a row). The peer is statsmodels' binomial GLM (dev dependency)
on the same games, refitted with drawn prompts as frequency weights from the first fit on, for a few rounds; its time is
multiplied. Prints wall-clock and CPU seconds, and the ratio of CPU; random data from a seed.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable

import numpy as np
import statsmodels.api as sm
from estbench_judges.bradley_terry import Games, fit

FEW = 4  # rounds of the peer


def games(models: int, prompts: int, seed: int = 0) -> Games:
    """Verdicts that depend on strength, prompt, length and the order."""
    rng = np.random.default_rng(seed)
    model, prompt = np.repeat(np.arange(models), prompts), np.tile(np.arange(prompts), models)
    style = 0.3 * rng.normal(size=(len(model), 4))
    strength = np.linspace(-1.5, 1.5, models)[model] + rng.normal(size=prompts)[prompt] + 0.5 * style[:, 0]
    noise = rng.normal(size=(2, len(model)))
    outcomes = [
        np.round(4 / (1 + np.exp(-(sign * strength + 0.3 + own)))) / 4 for sign, own in zip((1, -1), noise, strict=True)
    ]
    anchor = np.full(len(model), models)
    return Games(
        players=(*(f"model {place}" for place in range(models)), "anchor"),
        first=np.concatenate([model, anchor]),
        second=np.concatenate([anchor, model]),
        outcome=np.concatenate(outcomes),
        prompts=[*prompt.tolist(), *prompt.tolist()],
        anchor=models,
        style=np.concatenate([style, -style]),
    )


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Wall-clock and CPU seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def peer(played: Games, style: bool, rounds: int) -> None:
    """statsmodels' GLM on all games, then `rounds` times on drawn prompts."""
    x = np.zeros((len(played.outcome), len(played.players)))
    rows = np.arange(len(x))
    x[rows, played.first], x[rows, played.second] = 1, -1
    x[:, played.anchor] = 1
    if style and played.style is not None:
        x = np.column_stack([x, played.style])
    prompt = np.asarray(played.prompts)
    count = int(prompt.max()) + 1
    rng = np.random.default_rng(0)
    family = sm.families.Binomial()
    start = sm.GLM(played.outcome, x, family=family).fit().params
    for _ in range(rounds):
        drawn = np.bincount(rng.integers(0, count, count), minlength=count)
        sm.GLM(played.outcome, x, family=family, freq_weights=drawn[prompt]).fit(start_params=start)


def main(models: int, prompts: int, rounds: int) -> None:
    """Print the table."""
    warnings.simplefilter("ignore")  # statsmodels: outcomes that are not 0 or 1
    played = games(models, prompts)
    print(f"{models} models x {prompts} prompts x 2 orders, {rounds} rounds")
    print(f"{'':18}{'wall s':>8}{'CPU s':>8}{'statsmodels CPU s':>20}{'ratio':>8}")
    for name, style in (("raw", False), ("style-controlled", True)):
        wall, cpu = timed(lambda style=style: fit(played, style=style, rounds=rounds))
        theirs = timed(lambda style=style: peer(played, style, FEW))[1] * (rounds + 1) / (FEW + 1)
        print(f"{name:18}{wall:8.2f}{cpu:8.2f}{theirs:20.0f}{theirs / cpu:8.0f}")


if __name__ == "__main__":
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    main(*(int(given.get(key, default)) for key, default in (("models", 20), ("prompts", 500), ("rounds", 1000))))
