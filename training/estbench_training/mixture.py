"""Which text comes when: the mixture of sources as a pure function of (seed, sample number).

    mixture = Mixture(MixtureSettings(weights={"et": 3, "en": 1}), {"et": 10**9, "en": 10**9}, 4096, samples, seed=42)
    mixture.sample(123_456)        Sample(source="et", start=…, epoch=0, index=92_592)

A sample is `sequence` tokens of one source, so shares of samples are shares of tokens, however long documents are.
Nothing is drawn and nothing is remembered: sample number i is the same for any number of processes, workers and
resumes.

*Order of sources.* Weights are taken as the decimals that were written, as exact fractions. Within a phase the schedule
is Tijdeman's (The chairman assignment problem, Discrete Mathematics 32, 1980, 323–330): among the sources whose
deficit w·i − count is at least 1/(2n − 2), the one whose deficit would be the first to pass 1 − 1/(2n − 2). For n
sources every prefix of i samples has |count − w·i| ≤ 1 − 1/(2n − 2) < 1; always taking the largest deficit
passes 1 from five sources on (weights 60, 60, 14, 1, 1). The schedule repeats after as many samples as the weights'
common denominator says. A phase begins a schedule of its own.

*Order within a source.* Its N tokens are a circle. Epoch e begins at an offset of its own and reads ⌈N / sequence⌉
windows, which cover the circle once (up to sequence − 1 tokens twice: `Share.overlap`), in the order of a keyed
permutation: a Feistel network over the next power of two, walked until it lands inside (Black and Rogaway, Ciphers
with arbitrary finite domains, CT-RSA 2002), with splitmix64 (Steele, Lea and Flood, OOPSLA 2014) as round function and
keys from SHA-512 of seed, source and epoch. It needs no memory, and no library's new version changes it.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from estbench.errors import ConfigError, did_you_mean

Indices = NDArray[np.int64]
ROUNDS = 8  # of the Feistel network, an even number; small domains mix badly with the usual four


@dataclass(frozen=True)
class Replay:
    """A source that gets `share` of all tokens; the others divide the rest by their weights."""

    source: str
    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ConfigError(
                f"share is {self.share}: it has to be above 0 and below 1, as 0.25 for a quarter of all tokens."
            )


@dataclass(frozen=True)
class Phase:
    """The weights up to `until`, a share of the run; the next phase begins there."""

    until: float
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _positive(self.weights, "weights")


@dataclass(frozen=True)
class MixtureSettings:
    """The key `mixture` of a stage. Weights are relative (3 and 1 are 75 % and 25 % of the tokens).

    weights  of each source; with phases, each phase has its own. Not needed for a single source
    replay   a source with a fixed share, left out of the weights
    phases   weights that change during the run, ascending, the last until 1.0; a source that a phase does not name is
             not read in it
    epochs   the most often that a source may be read: a run that needs more is refused
    left_out sources of the data that this run doesn't read
    """

    weights: Mapping[str, float] = field(default_factory=dict)
    replay: Replay | None = None
    phases: tuple[Phase, ...] = ()
    epochs: Mapping[str, float] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _positive(self.weights, "weights")
        _positive(self.epochs, "epochs")
        if self.phases and self.weights:
            raise ConfigError(
                "weights and phases are both given: give each phase its weights, and take out the others."
            )
        ends = [phase.until for phase in self.phases]
        if ends and not (ends[0] > 0 and all(a < b for a, b in itertools.pairwise(ends)) and ends[-1] == 1):
            raise ConfigError(
                f"phases end at {', '.join(map(str, ends))}: the ends are shares of the run, ascending, "
                "and the last is 1.0."
            )


@dataclass(frozen=True)
class Sample:
    """`sequence` tokens of one source, from position `start` of its circle on.

    epoch: which reading of the source, from 0. index: how many samples of this source come before it in the run.
    """

    source: str
    start: int
    epoch: int
    index: int


@dataclass(frozen=True)
class Share:
    """What a run reads of one source.

    tokens: read in the run; share: of the run's tokens; available: tokens that the source has; epochs: tokens /
    available; overlap: tokens of one whole epoch that are read twice, so that all windows are equally long.
    """

    tokens: int
    share: float
    available: int
    epochs: float
    overlap: int


class Mixture:
    """The samples of a run. See the module for the rules."""

    def __init__(
        self, settings: MixtureSettings, tokens: Mapping[str, int], sequence: int, samples: int, seed: int
    ) -> None:
        """tokens: how many each source has. Raises ConfigError for settings that can't be kept."""
        if sequence < 1 or samples < 1:
            raise ConfigError(f"A mixture of {samples} samples of {sequence} tokens: both have to be at least 1.")
        for source in settings.left_out:
            if source not in tokens:
                raise ConfigError(f"mixture.left_out: the data has no source {source!r}.{did_you_mean(source, tokens)}")
        tokens = {source: count for source, count in tokens.items() if source not in settings.left_out}
        if not tokens:
            raise ConfigError("mixture.left_out names every source of the data: nothing is left to read.")
        for source, count in tokens.items():
            if count < 1:
                raise ConfigError(f"Source {source!r} is empty: loosen its filters, or take it out of the data.")
        self.sources = tuple(sorted(tokens))
        self.tokens = {source: int(tokens[source]) for source in self.sources}
        self.sequence, self.samples_planned, self.seed = sequence, samples, seed
        self._phases = _phases(settings, self.sources, samples)
        _check_epochs(settings.epochs, self.report())

    def __len__(self) -> int:
        return self.samples_planned

    def sample(self, i: int) -> Sample:
        """Sample number i, from 0: a pure function of the settings, the seed and i."""
        return self.samples(i, i + 1)[0]

    def samples(self, start: int, stop: int) -> list[Sample]:
        """Samples start ≤ i < stop, in that order. Raises IndexError outside the run."""
        if not 0 <= start <= stop <= self.samples_planned:
            raise IndexError(f"samples {start} to {stop} of a run of {self.samples_planned}")
        kinds, indices = self._places(np.arange(start, stop))
        starts, epochs = np.empty(len(kinds), np.int64), np.empty(len(kinds), np.int64)
        for kind in np.unique(kinds):
            source = self.sources[kind]
            windows = self._windows(source)
            epochs[kinds == kind] = indices[kinds == kind] // windows
            for epoch in np.unique(epochs[kinds == kind]):
                own = (kinds == kind) & (epochs == epoch)
                starts[own] = self._starts(source, int(epoch), indices[own] % windows)
        rows = zip(kinds.tolist(), starts.tolist(), epochs.tolist(), indices.tolist(), strict=True)
        return [Sample(self.sources[kind], begin, epoch, index) for kind, begin, epoch, index in rows]

    def counts(self, i: int) -> dict[str, int]:
        """How many of the first i samples are of each source."""
        if not 0 <= i <= self.samples_planned:
            raise IndexError(f"{i} samples of a run of {self.samples_planned}")
        phase = next(phase for phase in self._phases if i <= phase.stop)
        return dict(zip(self.sources, phase.counts(i).tolist(), strict=True))

    def report(self, samples: int | None = None) -> dict[str, Share]:
        """What the run, or its first `samples` samples, reads of each source."""
        samples = self.samples_planned if samples is None else samples
        rows = {}
        for source, count in self.counts(samples).items():
            read, available = count * self.sequence, self.tokens[source]
            overlap = self._windows(source) * self.sequence - available
            share = read / (samples * self.sequence) if samples else 0.0
            rows[source] = Share(read, share, available, read / available, overlap)
        return rows

    def _places(self, numbers: Indices) -> tuple[Indices, Indices]:
        """Of samples in ascending order: their sources' numbers, and their indices within their sources."""
        kinds, indices = np.empty(len(numbers), np.int64), np.empty(len(numbers), np.int64)
        for phase in self._phases:
            own = slice(*np.searchsorted(numbers, [phase.start, phase.stop]))
            kinds[own], indices[own] = phase.places(numbers[own])
        return kinds, indices

    def _windows(self, source: str) -> int:
        """Windows of one epoch."""
        return -(-self.tokens[source] // self.sequence)

    def _starts(self, source: str, epoch: int, places: Indices) -> Indices:
        """Where in the circle the windows begin that are read at these places of an epoch."""
        digest = hashlib.sha512(f"{self.seed}/{epoch}/{source}".encode()).digest()
        offset = int.from_bytes(hashlib.sha256(digest).digest(), "little") % self.tokens[source]
        return (offset + permute(places, self._windows(source), digest) * self.sequence) % self.tokens[source]


@dataclass(frozen=True)
class _Phase:
    """Samples start ≤ i < stop, in a schedule that repeats every len(choices) samples.

    choices, ranks: (period,), the source of each sample of a period, and how many of that source are before it there.
    before, each: (sources,), how many samples of each source are before the phase, and in a period.
    """

    start: int
    stop: int
    choices: NDArray[np.uint16]
    ranks: NDArray[np.int32]
    before: Indices
    each: Indices

    def places(self, numbers: Indices) -> tuple[Indices, Indices]:
        """The sources' numbers of samples, and their indices within their sources."""
        rounds, places = (numbers - self.start) // len(self.choices), (numbers - self.start) % len(self.choices)
        kinds = self.choices[places].astype(np.int64)
        return kinds, np.asarray(self.before[kinds] + rounds * self.each[kinds] + self.ranks[places], np.int64)

    def counts(self, i: int) -> Indices:
        """(sources,): how many of each source the first i samples of the run have."""
        rounds, place = divmod(i - self.start, len(self.choices))
        part = np.bincount(self.choices[:place], minlength=len(self.each))
        return np.asarray(self.before + rounds * self.each + part, np.int64)


def schedule(weights: Sequence[Fraction], samples: int) -> NDArray[np.uint16]:
    """(min(samples, common denominator),): which weight's turn it is; repeated, it is the order of any many samples.

    Every prefix of i has |count - w i| < 1 for each weight w. The weights are positive and sum to 1 (Tijdeman 1980).
    """
    whole = math.lcm(*(weight.denominator for weight in weights))
    parts = [int(weight * whole) for weight in weights]
    length = min(samples, whole)
    if len(parts) == 1:
        return np.zeros(length, np.uint16)
    # Deficits are compared as whole numbers, in units of 1 / (whole · unit): exact for any weights.
    unit = 2 * len(parts) - 2
    order, counts = array("H"), [0] * len(parts)
    due = [((unit - 1) * whole / (part * unit), kind) for kind, part in enumerate(parts)]
    heapq.heapify(due)
    for place in range(1, length + 1):
        early = []
        while unit * (parts[kind := due[0][1]] * place - counts[kind] * whole) < whole:
            early.append(heapq.heappop(due))
        order.append(kind)
        counts[kind] += 1
        heapq.heapreplace(due, ((unit * (counts[kind] + 1) - 1) * whole / (parts[kind] * unit), kind))
        for other in early:
            heapq.heappush(due, other)
    return np.frombuffer(order, np.uint16)


def permute(places: Indices, n: int, key: bytes) -> Indices:
    """What a permutation of 0 … n - 1 makes of some of them; key: 8 × ROUNDS bytes that decide which permutation."""
    bits = max(2, (n - 1).bit_length())
    low = np.uint64(bits - bits // 2)
    masks = np.array([(1 << bits // 2) - 1, (1 << bits - bits // 2) - 1], np.uint64)  # of the left part, and the right
    keys = np.frombuffer(key, "<u8")[:ROUNDS]
    values = np.asarray(places, np.uint64)
    outside = np.ones(len(values), bool)
    while outside.any():
        left, right = values[outside] >> low, values[outside] & masks[1]
        for number, round_key in enumerate(keys):  # the parts change places, and after two rounds are back
            left, right = right, left ^ (_splitmix64(right + round_key) & masks[number % 2])
        values[outside] = left << low | right
        outside = values >= n
    return values.astype(np.int64)


def _splitmix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64: every input bit changes every output bit with probability of about a half."""
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return values ^ values >> np.uint64(31)


def _positive(values: Mapping[str, float], what: str) -> None:
    for source, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise ConfigError(
                f"{what}.{source} is {value}: it has to be a number above 0. A source that is not to be read is "
                "named in left_out."
            )


def _phases(settings: MixtureSettings, sources: tuple[str, ...], samples: int) -> list[_Phase]:
    phases = settings.phases or (Phase(1.0, settings.weights),)
    _check_sources(settings, phases, sources)
    made: list[_Phase] = []
    start, before = 0, np.zeros(len(sources), np.int64)
    for number, phase in enumerate(phases):
        stop = round(Fraction(str(phase.until)) * samples)
        if stop <= start:
            raise ConfigError(
                f"mixture.phases[{number}] has none of the run's {samples} samples: make it longer, or train longer."
            )
        shares = _shares(phase.weights, settings.replay, sources)
        kinds = np.array(sorted(map(sources.index, shares)), np.uint16)
        choices = kinds[schedule([shares[sources[kind]] for kind in kinds], stop - start)]
        each = np.bincount(choices, minlength=len(sources))
        made.append(_Phase(start, stop, choices, _ranks(choices, len(sources)), before, each))
        start, before = stop, made[-1].counts(stop)
    return made


def _ranks(choices: NDArray[np.uint16], kinds: int) -> NDArray[np.int32]:
    """(period,): how many equal choices are before each."""
    ranks = np.empty(len(choices), np.int32)
    for kind in range(kinds):
        own = np.flatnonzero(choices == kind)
        ranks[own] = np.arange(len(own), dtype=np.int32)
    return ranks


def _shares(weights: Mapping[str, float], replay: Replay | None, sources: tuple[str, ...]) -> dict[str, Fraction]:
    """The share of the tokens that each source gets, as exact fractions of the decimals in the recipe."""
    shares = {source: Fraction(str(weight)) for source, weight in weights.items()}
    replayed = Fraction(str(replay.share)) if replay else Fraction(0)
    if not shares:  # checked: one source alone needs no weight
        shares = {source: Fraction(1) for source in sources if not replay or source != replay.source}
    total = sum(shares.values())
    shares = {source: share / total * (1 - replayed) for source, share in shares.items()}
    return shares | ({replay.source: replayed} if replay else {})


def _check_sources(settings: MixtureSettings, phases: Sequence[Phase], sources: tuple[str, ...]) -> None:
    """ConfigError unless every name is a source and every source has a share."""
    replayed = settings.replay.source if settings.replay else None
    weighted = {source for phase in phases for source in phase.weights}
    for name in sorted({*weighted, *settings.epochs, *([replayed] if replayed else [])} - set(sources)):
        raise ConfigError(
            f"mixture names {name!r}, which is no source of the data.{did_you_mean(name, sources)} "
            f"Sources: {', '.join(sources)}."
        )
    if replayed in weighted:
        raise ConfigError(
            f"mixture.weights has {replayed!r}, whose share mixture.replay fixes: take it out of one of them."
        )
    others = [source for source in sources if source != replayed]
    if not others:
        raise ConfigError(f"mixture.replay: {replayed!r} is the only source, so it can't have a part. Take replay out.")
    alone = len(others) == 1 and not settings.phases
    for source in others:
        if source not in weighted and not (alone and not weighted):
            raise ConfigError(
                f"mixture.weights has no {source!r}: give it a weight (relative, in tokens), or name the source in "
                "left_out."
            )
    if not all(phase.weights for phase in phases) and not alone:
        raise ConfigError("mixture.phases: each phase needs weights, as {until: 1.0, weights: {et: 3, en: 1}}.")


def _check_epochs(limits: Mapping[str, float], report: Mapping[str, Share]) -> None:
    """ConfigError for a source that the run would read more often than it may be read."""
    for source, limit in limits.items():
        row = report[source]
        if row.tokens > limit * row.available:
            fits = int(limit * row.available / row.share)
            raise ConfigError(
                f"mixture.epochs.{source} is {limit:g}, but the run needs {row.epochs:.4g}: {row.tokens:,} tokens of "
                f"{row.available:,} that are there. Lower its weight, train on at most {fits:,} tokens in all, raise "
                f"mixture.epochs.{source}, or add text."
            )
