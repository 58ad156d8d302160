"""Corpus metrics in pairs where little varies: equal texts are no proof, one document is no interval."""

from __future__ import annotations

from typing import Any

import numpy as np

from estbench.metrics import translation
from estbench.stats import corpus_difference


def ratio(sums: Any) -> Any:
    return sums[..., 0] / sums[..., 1]


def rows(*texts: tuple[str, str]) -> Any:
    return np.array([translation.chrf_statistics(*pair) for pair in texts], float)


def test_equal_texts_of_other_weights_have_an_interval_around_0() -> None:
    statistics = np.random.default_rng(0).integers(1, 9, (320, 2)).astype(float)
    found = corpus_difference(statistics, statistics, ratio)
    low, high = found.interval()
    assert found.value == 0 and found.p_value() == 1.0
    assert low is not None and high is not None and low < 0 < high and found.error


def test_a_constant_difference_is_still_no_variation() -> None:
    assert corpus_difference([[1.0, 7.0]] * 113, [[2.0, 7.0]] * 113, ratio).low(0.05) is None


def test_one_document_has_a_difference_and_no_interval() -> None:
    found = corpus_difference([[1.0, 2.0]], [[2.0, 2.0]], ratio)
    assert found.value == -0.5 and found.low(0.05) is None and (found.better, found.worse) == (0, 1)


def test_better_and_worse_are_counted_by_each_documents_own_score() -> None:
    good = rows(("Koer jookseb metsas.", "Koer jookseb metsas."), ("Kass magab.", "Kass magab."), ("x", "Tere!"))
    poor = rows(("The dog.", "Koer jookseb metsas."), ("Kass magab.", "Kass magab."), ("x", "Tere!"))
    found = corpus_difference(good, poor, translation.chrf)
    assert (found.better, found.worse) == (1, 0)
