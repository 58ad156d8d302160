"""Families by name, and medians of votes some of which are missing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from estbench_judges.panel import families_of, family_of, kin, leave_one_out, median, without_kin
from hypothesis import given
from hypothesis import strategies as st

VOTES = st.integers(1, 5).flatmap(
    lambda judges: st.lists(
        st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, math.nan]), min_size=judges, max_size=judges),
        min_size=1,
        max_size=20,
    ).map(lambda rows: np.array(rows).T)
)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "llama"),
        ("tartuNLP/Llammas", "llama"),
        ("tartuNLP/EstLLM-8B-0825", "llama"),
        ("/models/llama3-et/checkpoint-2000", "llama"),
        ("Qwen/Qwen2.5-7B-Instruct", "qwen"),
        ("Qwen3-30B-A3B", "qwen"),
        ("QwQ-32B", "qwen"),
        ("google/gemma-3-27b-it", "gemma"),
        ("gemini-2.5-pro", "gemini"),
        ("mistralai/Ministral-8B-Instruct-2410", "mistral"),
        ("mistral-small-latest", "mistral"),
        ("gpt-4o-mini", "gpt"),
        ("openai/gpt-oss-20b", "gpt"),
        ("o3-mini", "gpt"),
        ("AI-Sweden-Models/gpt-sw3-6.7b", "gpt-sw3"),
        ("EleutherAI/gpt-neox-20b", None),
        ("claude-sonnet-4-5", "claude"),
        ("microsoft/Phi-4", "phi"),
        ("swiss-ai/Apertus-8B-Instruct-2509", "apertus"),
        ("deepseek-ai/DeepSeek-V3.1", "deepseek"),
        ("CohereLabs/c4ai-command-r-plus", "command"),
        ("ibm-granite/granite-4.0-micro", "granite"),
        ("LumiOpen/Viking-7B", "poro"),
        ("LumiOpen/Poro-34B", "poro"),
        ("LumiOpen/Llama-Poro-2-8B-Instruct", "llama"),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-32B", "qwen"),
        ("Unbabel/M-Prometheus-7B", "qwen"),
        ("philosophy-7b", None),  # a word, not letters of one
        ("my-model", None),
        ("", None),
    ],
)
def test_families_are_told_by_words_of_the_name(name: str, family: str | None) -> None:
    assert family_of(name) == family


def test_relatives_share_any_family() -> None:
    assert families_of("DeepSeek-R1-Distill-Llama-70B") == ("llama", "deepseek")
    assert kin("meta-llama/Llama-3.3-70B", "tartuNLP/Llammas")
    assert kin("deepseek-v3", "DeepSeek-R1-Distill-Llama-70B") and kin("llama-3", "DeepSeek-R1-Distill-Llama-70B")
    assert not kin("gemini-2.5-pro", "gemma-3-4b") and not kin("my-judge", "my-model") and kin("my-model", "my-model")


@given(VOTES)
def test_the_median_is_numpy_s_where_enough_voted(votes: np.ndarray) -> None:
    least = len(votes) // 2 + 1
    for at, found in enumerate(median(votes)):
        valid = votes[~np.isnan(votes[:, at]), at]
        assert (found == np.median(valid)) if len(valid) >= least else math.isnan(found)


def test_least_votes() -> None:
    votes = [[1, 1, math.nan], [0, math.nan, math.nan], [1, math.nan, 0.5]]
    np.testing.assert_array_equal(median(votes), [1, math.nan, math.nan])
    np.testing.assert_array_equal(median(votes, least=1), [1, 1, 0.5])
    np.testing.assert_array_equal(median(votes, least=3), [1, math.nan, math.nan])
    for least in (0, 4):
        with pytest.raises(ValueError, match="votes"):
            median(votes, least=least)
    with pytest.raises(ValueError, match="at least one judge"):
        median(np.zeros((0, 3)))


@given(VOTES.filter(lambda votes: len(votes) >= 3 and not np.isnan(votes).any()), st.floats(0, 1))
def test_one_judge_moves_the_median_no_further_than_the_others_go(votes: np.ndarray, bad: float) -> None:
    votes[0] = bad
    found = median(votes)
    assert (votes[1:].min(axis=0) <= found).all() and (found <= votes[1:].max(axis=0)).all()


def test_without_relatives() -> None:
    judges = ["gemma-3-27b", "qwen-3-32b", "mistral-small"]
    votes = np.array([[1.0, 1.0], [0.0, 0.5], [0.5, math.nan]])
    found = without_kin(votes, judges, "google/gemma-3-4b")
    assert found is not None
    np.testing.assert_array_equal(found, [0.25, math.nan])  # two are left, and more than half of them have to vote
    untouched = without_kin(votes, judges, "apertus-8b")
    assert untouched is not None
    np.testing.assert_array_equal(untouched, median(votes))
    assert without_kin(votes[:1], judges[:1], "gemma-3-4b") is None
    assert without_kin(votes, judges, "gemma-3-4b", least=3) is None


def test_without_each_judge() -> None:
    votes = np.array([[1.0], [0.0], [0.5]])
    found = leave_one_out(votes, ["a", "b", "c"])
    assert {name: one.tolist() for name, one in found.items()} == {"a": [0.25], "b": [0.75], "c": [0.5]}
    assert leave_one_out(votes[:1], ["a"]) == {}
    with pytest.raises(ValueError, match="one row of votes"):
        leave_one_out(votes, ["a", "a", "b"])
