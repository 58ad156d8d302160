"""The mixture: shares of tokens at every prefix, a pure function of (seed, i), and settings that can't be kept."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from estbench_training.mixture import Mixture, MixtureSettings, Phase, Replay, Sample, permute, schedule
from estbench_training.reading import parse
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from estbench.errors import ConfigError

MANY = 10**9  # tokens of a source that is never read twice


def mixture(
    weights: dict[str, float] | None = None,
    tokens: dict[str, int] | None = None,
    samples: int = 1000,
    sequence: int = 16,
    seed: int = 42,
    **more: Any,
) -> Mixture:
    known = dict.fromkeys(weights or {}, MANY)
    return Mixture(MixtureSettings(weights or {}, **more), tokens or known, sequence, samples, seed)


def worst(order: Sequence[int], weights: Sequence[Fraction]) -> Fraction:
    """The largest |count - w i| over all prefixes."""
    whole = math.lcm(*(weight.denominator for weight in weights))
    parts = np.array([int(weight * whole) for weight in weights])  # whole numbers: exact
    counts = np.cumsum(np.asarray(order)[:, None] == np.arange(len(weights)), axis=0)
    distances = np.abs(counts * whole - np.arange(1, len(order) + 1)[:, None] * parts)
    return Fraction(int(distances.max()), whole)


def fractions(parts: Sequence[int]) -> list[Fraction]:
    return [Fraction(part, sum(parts)) for part in parts]


def greedy(weights: Sequence[Fraction], samples: int) -> list[int]:
    """Always the largest deficit."""
    counts, order = [0] * len(weights), []
    for i in range(1, samples + 1):
        deficits = [weight * i - count for weight, count in zip(weights, counts, strict=True)]
        order.append(deficits.index(max(deficits)))
        counts[order[-1]] += 1
    return order


@given(st.lists(st.one_of(st.integers(1, 4), st.integers(1, 200)), min_size=2, max_size=12))
@hypothesis_settings(max_examples=60, deadline=None)
def test_every_prefix_is_within_one_sample_of_its_weights(parts: list[int]) -> None:
    weights = fractions(parts)
    bound = 1 - Fraction(1, 2 * len(parts) - 2)  # Tijdeman 1980
    assert worst(schedule(weights, 600).tolist(), weights) <= bound < 1


def test_the_largest_deficit_alone_passes_one_sample() -> None:
    weights = fractions([60, 60, 14, 1, 1])
    assert worst(greedy(weights, 136), weights) > Fraction(11, 10)
    assert worst(schedule(weights, 136).tolist(), weights) < 1


def test_the_schedule_repeats_after_the_common_denominator() -> None:
    weights = fractions([5, 3, 2, 1])
    assert schedule(weights, 10**9).tolist() == schedule(weights, 11).tolist()
    assert Counter(schedule(weights, 11).tolist()) == {0: 5, 1: 3, 2: 2, 3: 1}


def test_prefixes_hold_with_decimals_replay_and_many_sources() -> None:
    dice = random.Random(3)
    weights = {f"s{number:02}": dice.choice([1, 0.37, 12.5, 0.001, 3e-5]) for number in range(11)}
    made = mixture(weights, dict.fromkeys([*weights, "en"], MANY), 2500, replay=Replay("en", 0.25))
    total = sum(Fraction(str(weight)) for weight in weights.values())
    shares = {name: Fraction(str(weight)) / total * Fraction(3, 4) for name, weight in weights.items()}
    shares["en"] = Fraction(1, 4)
    order = [made.sources.index(sample.source) for sample in made.samples(0, 2500)]
    assert worst(order, [shares[source] for source in made.sources]) < 1


def test_the_order_of_keys_in_the_recipe_does_not_matter() -> None:
    weights = {"et": 3, "en": 1, "code": 2}
    assert mixture(weights).samples(0, 300) == mixture(dict(reversed(weights.items()))).samples(0, 300)


def test_five_million_samples_are_planned_and_looked_up() -> None:
    made = mixture({"et": 3, "en": 1}, {"et": MANY, "en": MANY}, 5_000_000, 4096)
    assert made.sample(4_999_999).index in (3_749_999, 1_249_999)
    assert made.counts(5_000_000) == {"en": 1_250_000, "et": 3_750_000}


def test_weights_without_a_common_rhythm_are_kept_exactly() -> None:
    made = mixture({"a": 123_456_789, "b": 987_654_321, "c": 1}, samples=20_000)
    counts = made.counts(20_000)
    assert sum(counts.values()) == 20_000
    assert abs(counts["a"] - 20_000 * 123_456_789 / 1_111_111_111) < 1
    assert len(made._phases[0].choices) == 20_000  # no period to fold into


@given(st.integers(1, 400), st.binary(min_size=64, max_size=64))
@hypothesis_settings(max_examples=80, deadline=None)
def test_the_windows_of_an_epoch_are_a_permutation(n: int, key: bytes) -> None:
    assert sorted(permute(np.arange(n), n, key).tolist()) == list(range(n))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 16, 17, 64, 65, 1023, 1024, 1025, 65_537, 100_003])
def test_permutations_of_sizes_around_the_networks_own_are_whole(n: int) -> None:
    found = permute(np.arange(n), n, bytes(range(64)))
    assert np.array_equal(np.sort(found), np.arange(n))
    assert np.array_equal(permute(np.array([0, n - 1, 0]), n, bytes(range(64))), found[[0, n - 1, 0]])


def test_permutations_are_shuffled() -> None:
    """Fixed points and rising neighbours of 200 permutations of 1,000 are as of random ones (1 and a half)."""
    dice = np.random.default_rng(5)
    found = np.array([permute(np.arange(1000), 1000, dice.bytes(64)) for _ in range(200)])
    assert abs((found == np.arange(1000)).sum() / 200 - 1) < 4 / math.sqrt(200)
    assert abs((np.diff(found) > 0).mean() - 0.5) < 4 * math.sqrt(1 / 12 / 1000 / 200)
    assert abs(found[:, 0].mean() - 499.5) < 4 * 1000 / math.sqrt(12 * 200)


def test_small_permutations_all_occur() -> None:
    dice = np.random.default_rng(6)
    counts = Counter(tuple(permute(np.arange(3), 3, dice.bytes(64)).tolist()) for _ in range(600))
    assert len(counts) == 6
    assert all(abs(count - 100) < 40 for count in counts.values())


def test_the_order_is_the_same_for_ever() -> None:
    """A change here changes what every recipe makes: raise the version of the kinds that read mixtures."""
    made = mixture({"et": 3, "en": 1}, {"et": 1000, "en": 1777}, samples=400)  # 63 and 112 windows
    found = [(one.source, one.start) for one in made.samples(0, 6)]
    assert found == [("et", 126), ("en", 1424), ("et", 414), ("et", 702), ("et", 46), ("en", 1184)]
    assert made.sample(399) == Sample("et", 21, 4, 299)


def test_an_epoch_reads_every_token_once_and_says_what_it_reads_twice() -> None:
    made = mixture({"et": 1}, {"et": 1000}, samples=126, sequence=16)
    for epoch in range(2):
        window = made.samples(epoch * 63, epoch * 63 + 63)
        assert {one.epoch for one in window} == {epoch}
        read = Counter((one.start + place) % 1000 for one in window for place in range(16))
        assert len(read) == 1000
        assert sum(count - 1 for count in read.values()) == made.report()["et"].overlap == 63 * 16 - 1000
    first, second = ([one.start for one in made.samples(begin, begin + 63)] for begin in (0, 63))
    assert sorted(first) != sorted(second), "each epoch begins at another offset"
    assert [(start - first[0]) % 1000 for start in first] != [(start - second[0]) % 1000 for start in second]


def test_samples_do_not_depend_on_processes_workers_or_resume() -> None:
    settings = {"weights": {"et": 5, "en": 2, "code": 1}, "tokens": {"et": 5000, "en": 3000, "code": 100}}
    whole = mixture(**settings).samples(0, 1000)
    assert [mixture(**settings).sample(i) for i in (0, 17, 512, 999)] == [whole[i] for i in (0, 17, 512, 999)]
    made = mixture(**settings)
    for world in (2, 4, 8):
        shared: list[Any] = [None] * 1000
        with ThreadPoolExecutor(world) as pool:
            for rank, found in enumerate(pool.map(lambda rank: made.samples(rank * 40, rank * 40 + 40), range(25))):
                shared[rank * 40 : rank * 40 + 40] = found
        assert shared == whole
    resumed = mixture(**settings)
    assert resumed.samples(613, 1000) == whole[613:]
    assert mixture(**settings, seed=43).samples(0, 1000) != whole


def test_a_longer_run_begins_with_the_shorter_one() -> None:
    weights, tokens = {"et": 5, "en": 2}, {"et": 5000, "en": 3000}
    assert mixture(weights, tokens, 500).samples(0, 500) == mixture(weights, tokens, 5000).samples(0, 500)


def test_replay_gets_its_share_and_the_others_the_rest() -> None:
    made = mixture({"et": 3, "code": 1}, {"et": MANY, "code": MANY, "en": MANY}, 1600, replay=Replay("en", 0.25))
    assert made.counts(1600) == {"et": 900, "code": 300, "en": 400}
    for i in range(1600):
        assert abs(made.counts(i)["en"] - i / 4) < 1


def test_one_source_needs_no_weight() -> None:
    assert mixture(tokens={"et": 1000}).report()["et"].share == 1
    assert mixture(tokens={"et": MANY, "en": MANY}, replay=Replay("en", 0.1)).counts(1000) == {"et": 900, "en": 100}


def test_phases_change_weights_and_go_on_reading_where_they_were() -> None:
    phases = (Phase(0.8, {"et": 1, "web": 3}), Phase(1.0, {"et": 9, "best": 1}))
    made = mixture(tokens={"et": 1000, "web": 4000, "best": 500}, samples=1000, phases=phases)
    assert made.counts(800) == {"et": 200, "web": 600, "best": 0}
    assert made.counts(1000) == {"et": 380, "web": 600, "best": 20}
    for source in ("et", "web", "best"):
        own = [one for one in made.samples(0, 1000) if one.source == source]
        assert [one.index for one in own] == list(range(len(own)))
        windows = -(-made.tokens[source] // 16)
        for _, group in itertools.groupby(own, lambda one: one.epoch):
            starts = [one.start for one in group]
            assert len(set(starts)) == len(starts) <= windows
    for i in range(800, 1001):
        assert abs(made.counts(i)["et"] - 200 - 0.9 * (i - 800)) < 1


def test_replay_holds_in_every_phase() -> None:
    phases = (Phase(0.5, {"et": 1, "code": 1}), Phase(1.0, {"et": 3, "code": 1}))
    tokens = {"et": MANY, "code": MANY, "en": MANY}
    made = mixture(tokens=tokens, samples=400, phases=phases, replay=Replay("en", 0.5))
    assert [made.counts(i)["en"] for i in (100, 200, 300, 400)] == [50, 100, 150, 200]
    assert made.counts(400) == {"et": 125, "code": 75, "en": 200}


def test_counts_are_those_of_the_samples() -> None:
    phases = (Phase(0.3, {"a": 2, "b": 1}), Phase(1.0, {"a": 1, "b": 7}))
    made = mixture(tokens={"a": 100, "b": 1000}, samples=200, phases=phases)
    order = [one.source for one in made.samples(0, 200)]
    for i in range(201):
        assert made.counts(i) == {source: order[:i].count(source) for source in ("a", "b")}


def test_the_report_counts_tokens_shares_and_epochs() -> None:
    row = mixture({"et": 3, "en": 1}, {"et": 4000, "en": MANY}).report()["et"]
    assert (row.tokens, row.share, row.available, row.epochs) == (12_000, 0.75, 4000, 3.0)
    assert mixture({"et": 3, "en": 1}, {"et": 4000, "en": MANY}).report(4)["et"].tokens == 48


def test_a_source_is_not_read_more_often_than_it_may_be() -> None:
    tokens = {"et": 4000, "en": MANY}
    assert mixture({"et": 3, "en": 1}, tokens, epochs={"et": 3}).report()["et"].epochs == 3
    with pytest.raises(ConfigError) as caught:
        mixture({"et": 3, "en": 1}, tokens, epochs={"et": 2.5})
    text = str(caught.value)
    assert "epochs.et is 2.5" in text and "needs 3:" in text and "12,000 tokens of 4,000" in text
    assert "at most 13,333 tokens" in text and "\n" not in text
    fits = 13_333 // 16
    assert mixture({"et": 3, "en": 1}, tokens, fits, epochs={"et": 2.5}).report()["et"].epochs <= 2.5


def test_sources_shorter_than_a_sample_are_read_round_and_counted() -> None:
    made = mixture({"et": 1}, {"et": 5}, samples=10, sequence=16)
    assert made.report()["et"].epochs == 32
    assert all(0 <= one.start < 5 for one in made.samples(0, 10))


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"weights": {"et": 0, "en": 1}}, "weights.et is 0: it has to be a number above 0."),
        ({"weights": {"et": 0, "en": 0}}, "weights.et is 0"),
        ({"weights": {"et": -1, "en": 1}}, "weights.et is -1"),
        ({"weights": {"et": float("nan"), "en": 1}}, "weights.et"),
        ({"weights": {"et": float("inf"), "en": 1}}, "weights.et"),
        ({"weights": {"et": "viel", "en": 1}}, "weights.et: 'viel' is no number"),
        ({"weights": {"et": 1}}, "weights has no 'en': give it a weight"),
        ({}, "weights has no 'en'"),
        ({"weights": {"et": 1, "en": 1, "ett": 1}}, "Did you mean 'et'"),
        ({"weights": {"et": 1, "en": 1}, "epochs": {"e": 2}}, "names 'e', which is no source"),
        ({"weights": {"et": 1, "en": 1}, "epochs": {"et": 0}}, "epochs.et is 0"),
        ({"weights": {"et": 1}, "replay": {"source": "end", "share": 0.2}}, "Did you mean 'en'"),
        (
            {"weights": {"et": 1}, "replay": {"source": "en", "share": 0}},
            "share is 0: it has to be above 0 and below 1",
        ),
        ({"weights": {"et": 1}, "replay": {"source": "en", "share": 1.0}}, "share is 1.0"),
        ({"weights": {"et": 1}, "replay": {"source": "en", "share": -0.5}}, "share is -0.5"),
        ({"weights": {"et": 1, "en": 1}, "replay": {"source": "en", "share": 0.2}}, "take it out of one of them"),
        ({"phases": [{"until": 0.5, "weights": {"et": 1, "en": 1}}]}, "the last is 1.0"),
        (
            {"phases": [{"until": 0.5, "weights": {"et": 1, "en": 1}}, {"until": 0.4, "weights": {"et": 1, "en": 1}}]},
            "phases end at 0.5, 0.4",
        ),
        ({"phases": [{"until": 0, "weights": {"et": 1}}, {"until": 1, "weights": {"en": 1}}]}, "phases end at 0, 1"),
        ({"phases": [{"until": 1, "weights": {"et": 1}}]}, "weights has no 'en'"),
        ({"phases": [{"until": 0.5, "weights": {"et": 1, "en": 1}}, {"until": 1}]}, "each phase needs weights"),
        (
            {"phases": [{"until": 1e-6, "weights": {"et": 1, "en": 1}}, {"until": 1, "weights": {"et": 1, "en": 2}}]},
            "phases[0] has none of the run's 1000 samples",
        ),
        ({"weights": {"et": 1, "en": 1}, "phases": [{"until": 1, "weights": {"et": 1}}]}, "both given"),
        ({"wieghts": {"et": 1, "en": 1}}, "Did you mean 'weights'"),
    ],
)
def test_settings_that_can_not_be_kept_say_how(row: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Mixture(parse(MixtureSettings, row, "stage cpt, mixture"), {"et": MANY, "en": MANY}, 16, 1000, 42)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_an_empty_source_is_refused() -> None:
    with pytest.raises(ConfigError, match="'en' is empty"):
        mixture({"et": 1, "en": 1}, {"et": 100, "en": 0})


def test_the_only_source_can_not_be_replayed() -> None:
    with pytest.raises(ConfigError, match="only source"):
        mixture(tokens={"en": 100}, replay=Replay("en", 0.5))


def test_samples_outside_the_run_are_refused() -> None:
    made = mixture({"et": 1}, samples=10)
    for i in (-1, 10):
        with pytest.raises(IndexError):
            made.sample(i)


def test_a_source_that_is_left_out_is_not_read_and_the_run_is_as_if_it_was_not_there() -> None:
    weights = {"et": 3.0, "code": 1.0}
    without = Mixture(MixtureSettings(weights=weights), {"et": 900, "code": 500}, 10, 200, 1)
    left = Mixture(MixtureSettings(weights=weights, left_out=("en",)), {"et": 900, "en": 700, "code": 500}, 10, 200, 1)
    assert left.samples(0, 200) == without.samples(0, 200)


@pytest.mark.parametrize(
    ("left_out", "said"),
    [
        (("eno",), "no source 'eno'. Did you mean 'en'"),
        (("en", "et"), "nothing is left"),
        ((), "name the source in left_out"),
    ],
)
def test_left_out_has_to_fit_the_data(left_out: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Mixture(MixtureSettings(weights={"et": 1.0}, left_out=left_out), {"et": 900, "en": 700}, 10, 200, 1)
