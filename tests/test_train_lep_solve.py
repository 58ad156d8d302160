"""The matrix P of LEP: equal to a least-squares solver's, the identity where nothing changed, and never 0 for want of
rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from estbench_training.lep.solve import EVERY, Normal, Solution, slices, solve
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from estbench.errors import DataError


def rows(count: int, width: int, seed: int) -> Tensor:
    return torch.tensor(np.random.default_rng(seed).standard_normal((count, width)))


def solved(a: Tensor, b: Tensor, ridge: float = 0.0, size: int = 64) -> Solution:
    normal = Normal(a.shape[1])
    for start, stop in slices(len(a), size):
        normal.add(a[start:stop], b[start:stop])
    return solve(normal, ridge)


@settings(max_examples=25, deadline=None)
@given(width=st.integers(1, 24), more=st.integers(20, 200), seed=st.integers(0, 2**32 - 1), noise=st.floats(0, 2))
@example(width=1, more=20, seed=125, noise=1e-8)  # B is small against A, and the residual against both
def test_p_is_that_of_lstsq(width: int, more: int, seed: int, noise: float) -> None:
    a = rows(2 * width + more, width, seed)
    b = a @ rows(width, width, seed + 1) + noise * rows(len(a), width, seed + 2)
    expected = torch.linalg.lstsq(a, b, driver="gelsy").solution
    found = solved(a, b)
    assert float((found.p - expected).abs().max()) < 1e-10 * max(1.0, float(expected.abs().max()))
    left = float((a @ expected - b).norm() / b.norm())
    assert found.fit.residual == pytest.approx(left, rel=1e-6, abs=1e-7 * max(1.0, found.fit.before))
    assert found.fit.condition == pytest.approx(float(torch.linalg.cond(a.T @ a)), rel=1e-6)


@pytest.mark.parametrize("ridge", [0.0, 1e-9, 1.0])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_rows_that_did_not_change_give_the_identity_bit_for_bit(ridge: float, dtype: torch.dtype) -> None:
    a = rows(300, 16, 0).to(dtype)
    found = solved(a, a, ridge)
    assert torch.equal(found.p, torch.eye(16, dtype=torch.float64))
    assert found.fit.residual == found.fit.moved == found.fit.before == 0
    assert found.fit.held_out == found.fit.held_before == 0
    assert not torch.equal(solved(a, a + 0.1 * rows(300, 16, 1).to(dtype), ridge).p, found.p)  # it does look at b


@settings(max_examples=15, deadline=None)
@given(width=st.integers(2, 12), count=st.integers(1, 30), ridge=st.floats(1e-6, 10), seed=st.integers(0, 2**32 - 1))
def test_the_ridge_pulls_towards_the_identity(width: int, count: int, ridge: float, seed: int) -> None:
    """As least squares with rows √λ·I → √λ·I below."""
    a, b = rows(count, width, seed), rows(count, width, seed + 1)
    root = torch.eye(width, dtype=torch.float64) * float((ridge * (a.T @ a).diagonal().mean()).sqrt())
    expected = torch.linalg.lstsq(torch.cat([a, root]), torch.cat([b, root])).solution
    assert torch.allclose(solved(a, b, ridge).p, expected, rtol=0, atol=1e-7 * float(expected.abs().max()))


def test_fewer_rows_than_dimensions_leave_the_others_as_they_are() -> None:
    a, b = rows(5, 12, 0), rows(5, 12, 1)
    found = solved(a, b, 1e-9)
    assert torch.allclose(a @ found.p, b, atol=1e-6)
    other = torch.linalg.svd(a).Vh[5:]  # at right angles to all rows
    assert torch.allclose(other @ found.p, other, atol=1e-6)
    least_norm = torch.linalg.lstsq(a, b, driver="gelsy").solution
    assert float((other @ least_norm).abs().max()) < 1e-9  # which is what a plain solver does to them


def test_without_a_ridge_rows_that_leave_p_open_are_refused() -> None:
    with pytest.raises(
        DataError, match="5 rows do not determine P in 12 dimensions with ridge: 0; ridge: 1e-09 leaves"
    ):
        solved(rows(5, 12, 0), rows(5, 12, 1))
    twice = rows(100, 12, 0)
    twice[:, 3] = twice[:, 4]
    with pytest.raises(DataError, match="do not determine P"):
        solved(twice, rows(100, 12, 1))


def test_a_fit_to_noise_shows_on_rows_that_were_held_out() -> None:
    a = rows(100, 64, 0)
    noise, true = solved(a, rows(100, 64, 1)), solved(a, a @ rows(64, 64, 2))
    assert noise.fit.held_out is not None and noise.fit.held_out > 1 > noise.fit.residual
    assert true.fit.held_out is not None and true.fit.held_out < 1e-6


def test_what_is_held_out_is_every_twentieth_row_and_p_is_made_of_all() -> None:
    a, b = rows(200, 8, 0), rows(200, 8, 1)
    held = torch.arange(200) % EVERY == EVERY - 1
    p = torch.linalg.lstsq(a[~held], b[~held]).solution
    expected = float((a[held] @ p - b[held]).norm() / b[held].norm())
    assert solved(a, b).fit.held_out == pytest.approx(expected, rel=1e-9)
    without = float((a[held] - b[held]).norm() / b[held].norm())
    assert solved(a, b).fit.held_before == pytest.approx(without, rel=1e-9)
    few = solved(a[:10], a[:10], 1e-9).fit
    assert few.held_out is None and few.held_before is None


def test_the_same_slices_give_the_same_bits() -> None:
    a, b = rows(1000, 32, 0), rows(1000, 32, 1)
    assert torch.equal(solved(a, b, 1e-9).p, solved(a, b, 1e-9).p)
    other = solved(a, b, 1e-9, size=333)
    assert torch.allclose(other.p, solved(a, b, 1e-9).p, rtol=0, atol=1e-12)
    assert other.fit.held_out == pytest.approx(solved(a, b, 1e-9).fit.held_out, rel=1e-9)


def test_no_rows_and_numbers_that_are_none_are_refused() -> None:
    with pytest.raises(DataError, match="no rows"):
        solve(Normal(4), 1e-9)
    broken = rows(40, 4, 0)
    broken[7, 2] = torch.nan
    with pytest.raises(DataError, match="not finite"):
        solved(rows(40, 4, 1), broken)


def test_slices_cover_the_rows_once() -> None:
    assert list(slices(10, 4)) == [(0, 4), (4, 8), (8, 10)] and list(slices(0)) == []


def test_a_ridge_that_is_too_small_is_told_with_one_that_is_enough() -> None:
    """Rows that resemble each other, and are fewer than their numbers: the default would not do for all widths."""
    a = 0.01 * rows(30, 64, 0) + rows(1, 64, 1)
    with pytest.raises(DataError, match="30 rows do not determine P in 64 dimensions with ridge: 1e-14") as caught:
        solved(a, 1.01 * a, 1e-14)
    told = float(str(caught.value).split("; ridge: ")[1].split()[0])
    assert torch.isfinite(solved(a, 1.01 * a, told).p).all()
    wide = 1e-3 * rows(30, 64, 0) + 1e3 * rows(1, 64, 1)
    assert told == 1e-9 and torch.isfinite(solved(wide, wide, told).p).all()


def test_rows_that_are_all_zero_are_told() -> None:
    for ridge in (0.0, 1e-9):
        with pytest.raises(DataError, match="the 40 rows to solve for P are all zero"):
            solved(torch.zeros(40, 4), torch.zeros(40, 4), ridge)


def test_a_direction_that_only_held_out_rows_have_leaves_the_fit_untested() -> None:
    """P is made of all rows; of the others alone there is none."""
    a = rows(200, 8, 0)
    a[:, 7] = 0
    a[EVERY - 1, 7] = 1
    found = solved(a, a + 0.1, ridge=0.0)
    assert found.fit.held_out is None and torch.isfinite(found.p).all()
    assert solved(a, a + 0.1, ridge=1e-6).fit.held_out is not None
