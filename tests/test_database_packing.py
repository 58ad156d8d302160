"""What is packed comes back exactly, in the smallest type that holds it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from estbench.database import packing

numbers = st.one_of(
    st.booleans(), st.integers(), st.floats(), st.sampled_from([0, 1, 0.0, 1.0, -0.0, 2**53, 2**53 + 1, -(2**63)])
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def back(values: list[Any]) -> list[Any]:
    packed = packing.pack_values(values)
    return list(packing.unpack_values(packed.kind, packed.width, packed.data).tolist())


def same(one: Any, other: Any) -> bool:
    """Equal, with -0.0 and NaN told apart from the rest."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return (math.isnan(one) and math.isnan(other)) or (
            one == other and math.copysign(1, one) == math.copysign(1, other)
        )
    return bool(one == other)


@given(st.lists(numbers))
def test_numbers_come_back_exactly(values: list[Any]) -> None:
    assert same(back(values), values)


@given(st.lists(st.lists(numbers, max_size=4)))
def test_statistics_come_back_exactly_even_if_ragged(values: list[Any]) -> None:
    assert same(back(values), values)


@settings(max_examples=40)
@given(st.lists(anything, max_size=5))
def test_any_json_value_comes_back_exactly(values: list[Any]) -> None:
    assert same(back(values), values)
    assert packing.unpack_list(packing.pack_list(values)[1]) == tuple(values)
    packed = packing.pack_records(values)
    assert [packing.unpack_record(packed, i) for i in range(len(values))] == values


@pytest.mark.parametrize(
    ("values", "kind", "width"),
    [
        ([0, 1, True, 1.0], "u1", 0),
        ([0, 1, 0.5], "f8", 0),
        ([float("nan"), 1], "f8", 0),
        ([0, 2], "i4", 0),
        ([0, 2**31], "i8", 0),
        ([0, 2**63], "json", 0),
        ([[1, 0, 1], [0, 1, 1]], "i4", 3),
        ([[1, 0.5], [2, 2]], "f8", 2),
        ([[1], [1, 2]], "json", 0),
        ([[[1], [2]], [[3], [4]]], "json", 0),
        ([[], []], "json", 0),
        ([1, [1]], "json", 0),
        ([0.5, 2**53 + 1], "json", 0),
    ],
)
def test_the_smallest_exact_type_is_chosen(values: list[Any], kind: str, width: int) -> None:
    packed = packing.pack_values(values)
    assert (packed.kind, packed.width) == (kind, width)


def test_zeros_and_ones_cost_bits_not_bytes() -> None:
    values = np.random.default_rng(0).integers(0, 2, 10_000).tolist()
    assert len(packing.pack_values(values).data) < 10_000 / 4


@given(st.lists(st.booleans(), min_size=1))
def test_a_mask_comes_back(present: list[bool]) -> None:
    mask = packing.pack_mask(present)
    assert (mask is None) == all(present)
    if mask is not None:
        assert packing.unpack_mask(mask, len(present)).tolist() == present


@given(st.text(alphabet=st.characters()))
def test_text_comes_back(text: str) -> None:
    assert packing.unpack_text(packing.pack_text(text)) == text
    assert packing.unpack_text(packing.pack_text(text + "\ud800\x00")) == text + "\ud800\x00"


def test_equal_lists_have_one_hash_and_others_another() -> None:
    assert packing.pack_list(["a", "b"]) == packing.pack_list(("a", "b"))
    assert packing.pack_list(["a", "b"])[0] != packing.pack_list(["ab"])[0]
