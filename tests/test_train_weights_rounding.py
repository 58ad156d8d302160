"""fp64 to 16 bits, rounded once: against whole numbers, in which there is no rounding. What is a finite number."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from estbench_training.weights import all_finite, narrowed
from hypothesis import given, settings
from hypothesis import strategies as st

KINDS = {torch.bfloat16: torch.int16, torch.float16: torch.int16}


def nearest(value: float, kind: torch.dtype) -> float:
    """The nearest number of a type, of two the one whose last bit is 0; by trying neighbours."""
    start = int(torch.tensor(value, dtype=torch.float64).to(kind).view(torch.int16))
    tried = torch.tensor([start + step for step in (-1, 0, 1) if -(2**15) <= start + step < 2**15], dtype=torch.int16)
    found = [one for one in tried.view(kind).double().tolist() if abs(one) < float("inf")]
    even = {one: int(torch.tensor(one, dtype=torch.float64).to(kind).view(torch.int16)) % 2 for one in found}
    return min(found, key=lambda one: (abs(Fraction(one) - Fraction(value)), even[one]))


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(list(KINDS)),
    st.integers(0, 2**15 - 1),
    st.sampled_from([0.0, 0.5]),
    st.sampled_from([0.0, 2.0**-30, -(2.0**-30), 2.0**-18, -(2.0**-18)]),
    st.booleans(),
)
def test_fp64_is_rounded_once_to_the_nearest_even(
    kind: torch.dtype, bits: int, between: float, off: float, negative: bool
) -> None:
    """Numbers of the type, the middles between them, and what lies a little beside those."""
    low, high = torch.tensor([bits, min(bits + 1, 2**15 - 1)], dtype=torch.int16).view(kind).double().tolist()
    if not abs(high) < float("inf") or high != high or low != low:
        return
    value = (low + (high - low) * (between + off)) * (-1 if negative else 1)
    made = narrowed(torch.tensor([value], dtype=torch.float64), kind)
    assert made.dtype == kind and made.item() == nearest(value, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_number_or_too_large_stays_so(kind: torch.dtype) -> None:
    odd = torch.tensor([float("nan"), float("inf"), -float("inf"), 1e300, -1e300, 1e-320, -1e-320, -0.0])
    given_ = torch.tensor(odd.tolist(), dtype=torch.float64)
    given_[3:7] = torch.tensor([1e300, -1e300, 1e-320, -1e-320], dtype=torch.float64)
    made = narrowed(given_, kind)
    assert torch.isnan(made[0])
    assert made[1:].double().tolist() == [float("inf"), -float("inf")] * 2 + [0.0, -0.0, -0.0]
    assert torch.signbit(made).tolist()[1:] == [False, True, False, True, False, True, True]
    assert narrowed(torch.ones((), dtype=torch.float64), kind).shape == ()
    assert torch.equal(narrowed(torch.arange(3.0), kind), torch.arange(3.0).to(kind))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([2, 4, 8]), st.booleans(), st.binary(max_size=64))
def test_any_bits_are_finite_numbers_where_torch_says_so(size: int, other: bool, data: bytes) -> None:
    kind = {2: torch.float16 if other else torch.bfloat16, 4: torch.float32, 8: torch.float64}[size]
    values = torch.frombuffer(bytearray(data[: len(data) // size * size] or bytes(size)), dtype=kind)
    assert all_finite(values) == bool(torch.isfinite(values).all())


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.float8_e5m2])
@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan"), -float("nan")])
def test_one_number_that_is_none_is_seen_beside_the_largest(kind: torch.dtype, bad: float) -> None:
    most = torch.finfo(kind).max
    values = torch.tensor([[most, -most, 0.0], [-0.0, 1.0, -1.0]], dtype=torch.float64).to(kind)
    assert all_finite(values) and all_finite(values[:0]) and all_finite(values[:, ::2])
    values[1, 1] = bad
    assert not all_finite(values) and not all_finite(values[1, 1]) and all_finite(values[0])
    assert all_finite(torch.tensor([7, -1]))
