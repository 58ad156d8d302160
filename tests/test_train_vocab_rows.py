"""Formulas behind the rows of a new vocabulary: rounding, sparsemax, and embeddings of what stands together."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
import vocab_world as world
from estbench_training.vocab import focus, resize
from estbench_training.vocab.forms import Vocabulary
from hypothesis import given, settings
from hypothesis import strategies as st


@given(st.floats(1e-7, 1e30), st.sampled_from(["bfloat16", "float16"]))
@settings(max_examples=200, deadline=None)
def test_values_are_rounded_once_to_the_nearest(value: float, name: str) -> None:
    dtype = getattr(torch, name)
    made = resize.rounded(torch.tensor([value], dtype=torch.float64), dtype)
    assert resize.rounded(torch.tensor([-value], dtype=torch.float64), dtype).item() == -made.item()
    near = made.view(torch.int16).item()
    if not math.isfinite(made.item()):
        assert value > 65519 and name == "float16"
        return
    around = torch.tensor([max(near - 1, 0), near, near + 1], dtype=torch.int16).view(dtype).double()
    distances = [abs(Fraction(value) - Fraction(one)) for one in around.tolist() if math.isfinite(one)]
    assert abs(Fraction(value) - Fraction(made.item())) == min(distances)


def test_torch_alone_would_round_twice() -> None:
    """Control: between two bfloat16, so near the middle that float32 is exactly there."""
    value = torch.tensor([1 + 2**-8 + 2**-40], dtype=torch.float64)
    assert resize.rounded(value, torch.bfloat16).item() == 1 + 2**-7 != value.bfloat16().item()


@given(st.lists(st.floats(-2, 2), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_sparsemax_is_the_nearest_point_of_the_simplex(scores: list[float]) -> None:
    z = torch.tensor([scores], dtype=torch.float64)
    p = focus.sparsemax(z)
    assert p.sum().item() == pytest.approx(1) and (p >= 0).all()
    left = (z - p)[p > 0]  # the conditions of Karush, Kuhn and Tucker
    assert left.max().item() == pytest.approx(left.min().item(), abs=1e-12)
    assert (z[p == 0] <= left.max() + 1e-12).all()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(focus, "HIGHEST", 1)
        ((places, shares),) = focus.sparsest(z)
    assert sorted(shares.tolist()) == pytest.approx(sorted(p[p > 0].tolist())) and len(places) == (p > 0).sum()


def test_auxiliary_embeddings_are_those_of_a_whole_svd() -> None:
    dice = np.random.default_rng(2)
    text = dice.integers(0, 12, 900)
    made = focus.auxiliary(text, 12, seed=1)
    counts = np.zeros((12, 12))
    for apart in range(1, focus.WINDOW + 1):
        np.add.at(counts, (text[:-apart], text[apart:]), 1 / apart)
        np.add.at(counts, (text[apart:], text[:-apart]), 1 / apart)
    smoothed = counts.sum(0) ** focus.SMOOTHED
    expected = counts.sum(1)[:, None] * smoothed / smoothed.sum()
    left, sizes, _ = np.linalg.svd(np.log(np.maximum(counts / expected, 1)))
    reference = left * np.sqrt(sizes)
    assert np.allclose((made @ made.T).numpy(), reference @ reference.T, atol=1e-6)


def test_focus_finds_the_token_that_stands_where_the_new_one_does() -> None:
    """kass and koer stand in the same sentences, and auto doesn't."""
    sentences = [f"{who} {what} {where}" for who in ("xkoer", "xkass") for what in ("magab", "sööb", "hüppab")
                 for where in ("toas", "aias", "voodis")]  # fmt: skip
    sentences += [f"auto {what} {where}" for what in ("sõidab", "seisab") for where in ("tänaval", "garaažis")] * 4
    from estbench_training.vocab.extend import extend

    old = Vocabulary.of(world.llama3())
    wider = extend(old, [text for text in sentences if "xkass" not in text] * 9, 540).vocabulary()
    new = extend(wider, sentences * 9, 560).vocabulary()
    token, koer, auto = (new.names.index(name) for name in ("xkass", "xkoer", "auto"))
    made = focus.focus(wider, new, sentences * 9, seed=0)
    some = slice(made.indptr[token], made.indptr[token + 1])
    shares = dict(zip(made.indices[some].tolist(), made.weights[some].tolist(), strict=True))
    assert max(shares, key=lambda one: shares[one]) == koer and auto not in shares
    again = focus.focus(wider, new, sentences * 9, seed=0)
    assert np.array_equal(again.weights, made.weights)
