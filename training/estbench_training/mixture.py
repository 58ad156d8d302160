"""Which text comes when: the mixture of sources as a pure function of (seed, sample number).

    mixture = Mixture(MixtureSettings(weights={"et": 3, "en": 1}), {"et": 10**9, "en": 10**9}, 4096, samples, seed=42)
    mixture.sample(123_456)        Sample(source="et", start=…, epoch=0, index=92_592)

A sample is `sequence` tokens of one source, so shares of samples are shares of tokens, however long documents are.
Nothing is drawn and nothing is remembered: sample number i is the same for any number of processes, workers and
resumes.

*Order of sources.* Weights are taken as the decimals that were written, as exact fractions. Within a phase the schedule
is Tijdeman's (The chairman assignment problem, Discrete Mathematics 32, 1980, 323–330): among the sources whose
deficit w·i − count is at least 1/(2n − 2), the one whose deficit would be the first to pass 1 − 1/(2n − 2). For n
sources every prefix of i samples has |count − w·i| ≤ 1 − 1/(2n − 2) < 1; always taking the largest deficit does not
keep within 1 from six sources on. The schedule repeats after as many samples as the weights' common denominator.

*Order within a source.* Its N tokens are a circle. Epoch e begins at an offset of its own and reads ⌈N / sequence⌉
windows, which cover the circle once (up to sequence − 1 tokens twice: `Share.overlap`), in the order of a keyed
permutation: a Feistel network over the next power of four, walked until it lands inside (Black and Rogaway, Ciphers
with arbitrary finite domains, CT-RSA 2002), with splitmix64 (Steele, Lea and Flood, OOPSLA 2014) as round function and
keys from SHA-256 of seed, source and epoch. It needs no memory, and no library's new version changes it.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from estbench.errors import ConfigError, did_you_mean

Indices = NDArray[np.int64]
ROUNDS = 8  # of the Feistel network; small domains mix badly with the usual four


@dataclass(frozen=True)
class Replay:
    """A source that gets `share` of all tokens; the others divide the rest by their weights."""

    source: str
    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ConfigError(
                f"mixture.replay.share is {self.share}: it has to be above 0 and below 1, as 0.25 for a quarter of "
                "all tokens."
            )


@dataclass(frozen=True)
class Phase:
    """The weights up to `until`, a share of the run; the next phase begins there."""

    until: float
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _positive(self.weights, "mixture.phases' weights")


@dataclass(frozen=True)
class MixtureSettings:
    """The key `mixture` of a stage. Weights are relative (3 and 1 are 75 % and 25 % of the tokens).

    weights  of each source; with phases, each phase has its own. Not needed for a single source
    replay   a source with a fixed share, left out of the weights
    phases   weights that change during the run, ascending, the last until 1.0; a source that a phase does not name is
             not read in it
    epochs   the most often that a source may be read: a run that needs more is refused
    """

    weights: Mapping[str, float] = field(default_factory=dict)
    replay: Replay | None = None
    phases: tuple[Phase, ...] = ()
    epochs: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _positive(self.weights, "mixture.weights")
        _positive(self.epochs, "mixture.epochs")
        if self.phases and self.weights:
            raise ConfigError("mixture has weights and phases: give each phase its weights, and take mixture.weights out.")
        ends = [phase.until for phase in self.phases]
        if ends and not (0 < ends[0] and all(a < b for a, b in zip(ends, ends[1:], strict=False)) and ends[-1] == 1):
            raise ConfigError(
                f"mixture.phases end at {', '.join(map(str, ends))}: the ends are shares of the run, ascending, "
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
        for source, count in tokens.items():
            if count < 1:
                raise ConfigError(
                    f"Source {source!r} is empty: its filters left no text. Loosen them, or take the source out of data."
                )
        self.sources = tuple(sorted(tokens))
        self.tokens = {source: int(tokens[source]) for source in self.sources}
        self.sequence, self.samples_planned, self.seed = sequence, samples, seed
        self._phases = _phases(settings, self.sources, samples)
        self._epoch_keys: dict[tuple[str, int], _Epoch] = {}
        _check_epochs(settings.epochs, self.report(), samples)

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
