"""Simulated judges over simulated answers whose quality is known, for tests of what estbench_judges promises.

    world = made(seed)                                  models, prompts, true scores, lengths, people's votes
    first, second = verdicts(rng, world, "position")    (models, prompts) each; None: a judge without a fault
    evidence(world, seed, "length")                     what `diagnose` reads, with two judges beside it that are fine

The faults are those of issue reports on LLM judges: position 70/30 (on equal answers the first wins 70 %), length (0.3
of the score for each doubling), collapse to "A", its own family (+0.25), 10 % of calls failing, more where the model is
weak (so that what is left looks better than it is).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from estbench_judges.battles import Battles, swap_scores
from estbench_judges.faults import Evidence

from estbench.stats.resampling import Floats

FAULTS = ("position", "length", "collapse", "family", "failures")
MODELS = ("gemma-3-4b", "salamandra-7b", "apertus-8b", "eurollm-9b")
JUDGE, OTHERS = "gemma-3-27b", ("qwen-3-32b", "mistral-small")
ABILITIES = (-0.9, -0.3, 0.3, 0.9)  # log-odds against the anchor
LENGTHS = (0.5, 0.0, -0.3, -0.2)  # mean doublings of the anchor's length


@dataclass(frozen=True)
class World:
    """Answers of models to prompts; all arrays (models, prompts) or of a single model (simulations, documents)."""

    truth: Floats  # the score that each answer deserves against the anchor's, 0 to 1
    doublings: Floats  # log2 of its length over the anchor's
    kin: Floats  # 1 where the model is of the judge's family

    @property
    def words(self) -> Floats:
        """(…, 2): lengths of the answer and of the anchor's."""
        own = np.round(150 * 2**self.doublings)
        return np.stack([own, np.full_like(own, 150.0)], axis=-1)


def answers(rng: np.random.Generator, ability: Floats, length: Floats, kin: Floats, shape: tuple[int, int]) -> World:
    """Answers whose quality varies; longer ones are a little better."""
    doublings = length + 0.6 * rng.normal(size=shape)
    truth = 1 / (1 + np.exp(-(ability + rng.normal(size=shape) + 0.1 * (doublings - length))))
    return World(truth, doublings, np.broadcast_to(kin, shape))


def made(
    seed: int, prompts: int = 300, abilities: Sequence[float] = ABILITIES, lengths: Sequence[float] = LENGTHS
) -> World:
    """The four models; the first is a relative of the judge, the weakest, and the longest."""
    rng = np.random.default_rng(seed)
    ability, length = (np.array(values)[:, None] for values in (abilities, lengths))
    return answers(rng, ability, length, np.array([[1.0], [0], [0], [0]]), (len(MODELS), prompts))


def verdicts(rng: np.random.Generator, world: World, fault: str | None = None) -> tuple[Floats, Floats]:
    """The model's score in the games in which it stands first, and in which it stands second."""
    shape = world.truth.shape
    latent = world.truth + 0.12 * rng.normal(size=shape)
    latent = latent + 0.3 * world.doublings * (fault == "length") + 0.25 * world.kin * (fault == "family")
    games = []
    for first in (1.0, 0.0):
        scores = np.clip(np.round(4 * (latent + 0.1 * rng.normal(size=shape))) / 4, 0, 1)
        if fault in ("position", "collapse"):
            blind = rng.random(shape) < (0.4 if fault == "position" else 0.97)
            scores = np.where(blind, first, scores)
        if fault == "failures":
            scores = np.where(
                rng.random(shape) < 0.2 * (1 - world.truth) / (1 - world.truth).mean() / 2, np.nan, scores
            )
        games.append(scores)
    return games[0], games[1]


def scores(rng: np.random.Generator, world: World, fault: str | None = None) -> Floats:
    """Swap scores of a judge, in the shape of the world."""
    first, second = verdicts(rng, world, fault)
    return swap_scores(Battles(first.reshape(-1), second.reshape(-1))).reshape(first.shape)


def people(rng: np.random.Generator, world: World) -> Floats:
    """People's votes: lost, tie, won."""
    return np.clip(np.round(2 * (world.truth + 0.2 * rng.normal(size=world.truth.shape))) / 2, 0, 1)


def evidence(world: World, seed: int, fault: str | None, reference: str = "panel") -> Evidence:
    """A judge's verdicts; `reference`: "panel", "people", or "none"."""
    rng = np.random.default_rng((seed, 1))
    models, prompts = world.truth.shape
    first, second = verdicts(rng, world, fault)
    panel = reference == "panel"
    return Evidence(
        judge=JUDGE,
        models=[MODELS[model] for model in range(models) for _ in range(prompts)],
        prompts=list(range(prompts)) * models,
        first=first.reshape(-1),
        second=second.reshape(-1),
        words=world.words.reshape(-1, 2),
        human=people(rng, world).reshape(-1) if reference == "people" else None,
        others=np.stack([scores(rng, world).reshape(-1) for _ in OTHERS]) if panel else None,
        other_names=OTHERS if panel else (),
    )
