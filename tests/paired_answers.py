"""Right and wrong answers of two models on the same documents, for the tests of paired differences."""

from __future__ import annotations


def pairs(better: int, worse: int, both: int, neither: int) -> tuple[list[int], list[int]]:
    a = [1] * better + [0] * worse + [1] * both + [0] * neither
    b = [0] * better + [1] * worse + [1] * both + [0] * neither
    return a, b


def bound(value: float | None) -> float:
    assert value is not None
    return value
