"""Whose turn it is: shares that are kept at every prefix."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Generic, TypeVar

from estbench_training.mixture import schedule

T = TypeVar("T")


def fractions(weights: Mapping[T, float]) -> dict[T, Fraction]:
    """The weights as exact shares that sum to 1: of the decimals that were written."""
    whole = {name: Fraction(str(weight)) for name, weight in weights.items()}
    total = sum(whole.values())
    return {name: weight / total for name, weight in whole.items()}


class Turns(Generic[T]):
    """Names in turn: of the first i, each has its weight's share of i, to less than one (`mixture.schedule`)."""

    def __init__(self, weights: Mapping[T, float], most: int) -> None:
        """most: so many turns are taken at most."""
        self._names = list(weights)
        self._order = schedule(list(fractions(weights).values()), most)
        self._taken = 0

    def next(self) -> T:
        """Whose turn it is."""
        name: T = self._names[int(self._order[self._taken % len(self._order)])]
        self._taken += 1
        return name
