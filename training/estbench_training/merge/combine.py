"""The merged tensors, slice by slice: read from the models, computed, rounded once, written.

    Merger(settings, parties, rows, writer, pool, seed).run()

Weights of 16 bits are computed with in fp32, others in fp64, and rounded to the nearest (ties to even) at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from estbench.errors import ModelError
from estbench_training.merge import methods
from estbench_training.merge.alike import Model
from estbench_training.merge.settings import SCALED, MergeSettings
from estbench_training.merge.stream import Memory, Pool, cut
from estbench_training.merge.tokens import TokenRows
from estbench_training.weights import TensorInfo, Writer, all_finite, computing, narrowed

OUTPUTS = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
HALVES = 1 << 16  # bins of a histogram over half of the bits of a float32

Compute = Callable[[int, int], Tensor]  # the merged elements [start, stop), in memory of the thread


@dataclass(frozen=True)
class Parties:
    """Who takes part. start: whose names, types and rows the merged model has."""

    start: Model
    base: Model | None
    parts: tuple[Model, ...]

    @property
    def all(self) -> list[Model]:
        """Each model once, `start` first."""
        return list(dict.fromkeys([self.start, *([self.base] if self.base else []), *self.parts]))


@dataclass(frozen=True, slots=True)
class _Piece:
    name: str
    start: int
    stop: int
    compute: Compute


def outputs(settings: MergeSettings, start: Model, rows: TokenRows | None) -> dict[str, TensorInfo]:
    """Types and shapes of the merged tensors."""
    found = {}
    for name, info in start.tensors.items():
        if settings.dtype != "into" and info.torch.is_floating_point:
            info = replace(info, dtype=OUTPUTS[settings.dtype])
        if rows is not None and name in start.by_tokens:
            info = replace(info, shape=(len(rows.chat), *info.shape[1:]))
        found[name] = info
    return found


class Merger:
    """One merge. rows: whose the rows of the embeddings are; None: they are merged like all else."""

    def __init__(
        self,
        settings: MergeSettings,
        parties: Parties,
        rows: TokenRows | None,
        writer: Writer,
        pool: Pool,
        seed: int = 0,
    ) -> None:
        self.settings, self.parties, self.rows = settings, parties, rows
        self.writer, self.pool, self.seed = writer, pool, seed
        self._memory = Memory()
        kinds = {name: [model.tensors[name].torch for model in parties.all] for name in parties.start.tensors}
        self._precision = {name: computing(*of) for name, of in kinds.items()}

    def run(self) -> None:
        """Write all tensors that an interrupted run has not finished. ModelError: a weight is no number."""
        for name, last in self.pool.ordered(self._one, self._pieces()):
            if last:
                self.writer.finished(name)

    def _pieces(self) -> Iterator[_Piece]:
        for name, info in self.writer.tensors.items():
            if self.writer.done(name):
                continue
            compute, by_rows = self._plan(name)
            if not info.elements:
                self.writer.finished(name)
            for start, stop in cut(info, rows=by_rows):
                yield _Piece(name, start, stop, compute)

    def _one(self, piece: _Piece) -> tuple[str, bool]:
        values = piece.compute(piece.start, piece.stop)
        self.writer.write_flat(piece.name, piece.start, values)
        return piece.name, piece.stop == self.writer.tensors[piece.name].elements

    # --- what becomes of a tensor ---

    def _plan(self, name: str) -> tuple[Compute, bool]:
        """How a tensor is computed, and whether in whole rows."""
        own, parties = self.settings, self.parties
        scale = own.scale_of(name)
        embedding = name in parties.start.by_tokens
        if not parties.start.tensors[name].torch.is_floating_point:
            return self._copying(name, parties.start), False
        if self.rows is not None and embedding:
            return self._rows(name, scale, self.rows), True
        if own.method in SCALED and (scale == 0 or (embedding and own.embeddings == "skip")):
            return self._copying(name, parties.start), False
        if own.method == "chat_vector" or (own.method == "task" and len(parties.parts) == 1):
            return self._difference(name, scale * own.shares[0]), False
        if own.method == "slerp":
            return self._slerp(name, scale), False
        if own.method == "average":
            return self._average(name), False
        if own.method == "stock":
            return self._stock(name), False
        return {"task": self._task, "dare": self._dare, "ties": self._ties}[own.method](name, scale), False

    def _copying(self, name: str, model: Model) -> Compute:
        def compute(start: int, stop: int) -> Tensor:
            found = model.weights.read_flat(name, start, stop, self._stored(model, name, "start", stop - start))
            if not found.is_floating_point():
                return found
            return self._rounded(name, found, [model])

        return compute

    def _difference(self, name: str, scale: float) -> Compute:
        base, tuned = self._base, self.parties.parts[0]

        def compute(start: int, stop: int) -> Tensor:
            models = {"start": self.parties.start, "base": base, "part": tuned}
            stored = {
                use: model.weights.read_flat(name, start, stop, self._stored(model, name, use, stop - start))
                for use, model in models.items()
            }
            return self._chat_vector(name, stored, scale, list(models.values()))

        return compute

    def _chat_vector(self, name: str, stored: Mapping[str, Tensor], scale: float, models: Sequence[Model]) -> Tensor:
        """into + λ (tuned − base) of slices as they are stored, rounded."""
        into, base, tuned = (self._widened(name, stored[use], use) for use in ("start", "base", "part"))
        exact = scale == 1 and len({one.dtype for one in stored.values()} | {self._output(name)}) == 1
        mixed = None if exact or scale != 1 else torch.eq(into, base) & torch.isfinite(into)
        if any(one.data_ptr() == stored[use].data_ptr() for use, one in (("start", into), ("base", base))):
            into, base = into.clone(), base.clone()  # fp64 is computed with as it is stored, and needed as it was
        methods.add_difference_(into, base, tuned, scale)
        if mixed is not None:
            torch.where(mixed, tuned, into, out=into)
        found = self._rounded(name, into, models)
        if exact:
            methods.take_where_equal_(found, stored["start"], stored["base"], stored["part"])
        return found

    def _rows(self, name: str, scale: float, rows: TokenRows) -> Compute:
        """Embeddings of a chat vector, whose rows are matched."""
        start_model, base, chat = self.parties.start, self._base, self.parties.parts[0]
        width = start_model.tensors[name].row
        before = np.arange(len(rows.chat))
        before[start_model.tensors[name].rows :] = -1

        def compute(start: int, stop: int) -> Tensor:
            low, high = start // width, stop // width
            asked = {"start": (start_model, before), "base": (base, rows.base), "part": (chat, rows.chat)}
            used = asked if scale else {"start": asked["start"]}
            stored = {use: self._gathered(name, model, ids[low:high], use) for use, (model, ids) in used.items()}
            models = [model for model, _ in used.values()]
            if scale:
                lone = np.flatnonzero((rows.base[low:high] < 0) != (rows.chat[low:high] < 0))
                for use in ("base", "part") if len(lone) else ():  # a row of one of them alone is no difference
                    stored[use].view(high - low, width)[torch.from_numpy(lone)] = 0
                found = self._chat_vector(name, stored, scale, models)
            else:
                found = self._rounded(name, stored["start"], models)
            chosen = np.flatnonzero(rows.chats[low:high])
            if len(chosen):
                taken = self._gathered(name, chat, rows.chat[low:high][chosen], "chosen")
                if not all_finite(taken):
                    raise _not_a_number(chat, name)
                found.view(high - low, width)[torch.from_numpy(chosen)] = taken.view(-1, width).to(found.dtype)
            return found

        return compute

    def _gathered(self, name: str, model: Model, ids: NDArray[np.int64], use: str) -> Tensor:
        """Rows of a matrix, as they are stored, one after another; zeros where there is none."""
        width = model.tensors[name].row
        found = self._stored(model, name, use, len(ids) * width)
        breaks = np.flatnonzero(np.diff(ids) != np.where(ids[:-1] < 0, 0, 1)) + 1
        for low, high in zip([0, *breaks], [*breaks, len(ids)], strict=True):
            into = found[low * width : high * width]
            if low < high and ids[low] < 0:
                into.zero_()
            elif low < high:
                model.weights.read_flat(name, int(ids[low]) * width, (int(ids[low]) + high - low) * width, into)
        return found

    def _average(self, name: str) -> Compute:
        def compute(start: int, stop: int) -> Tensor:
            parts = self._parts(name, start, stop)
            return self._rounded(name, methods.weighted_sum(parts, self.settings.shares), self.parties.parts)

        return compute

    def _learning(self, name: str, scale: float, learnt: Callable[[list[Tensor], int], Tensor]) -> Compute:
        """into + λ τ. learnt: −τ of a slice, of the −τ_i of the parts and of where the slice starts."""

        def compute(start: int, stop: int) -> Tensor:
            into, taken = self._taken(name, start, stop)
            return self._rounded(name, into.sub(learnt(taken, start), alpha=scale), self.parties.all)

        return compute

    def _task(self, name: str, scale: float) -> Compute:
        return self._learning(name, scale, lambda taken, _: methods.weighted_sum(taken, self.settings.shares))

    def _dare(self, name: str, scale: float) -> Compute:
        drop = self.settings.drop or 0.0

        def learnt(taken: list[Tensor], start: int) -> Tensor:
            for at, one in enumerate(taken):
                kept = methods.kept_by_dare(self.seed, name, at, start, len(one), drop)
                one.mul_(torch.from_numpy(kept)).div_(1 - drop)
            return methods.weighted_sum(taken, self.settings.shares)

        return self._learning(name, scale, learnt)

    def _ties(self, name: str, scale: float) -> Compute:
        thresholds = [self._threshold(name, at) for at in range(len(self.parties.parts))]
        shares = self.settings.shares
        return self._learning(name, scale, lambda taken, _: methods.ties(taken, shares, thresholds))

    def _stock(self, name: str) -> Compute:
        ratio = methods.stock_ratio(self._dots(name, lambda start, stop: self._taken(name, start, stop)[1]))
        count = len(self.parties.parts)
        return self._learning(name, ratio, lambda taken, _: methods.weighted_sum(taken, [1 / count] * count))

    def _slerp(self, name: str, t: float) -> Compute:
        if t in (0, 1):
            return self._copying(name, self.parties.parts[int(t)])
        dots = self._dots(name, lambda start, stop: self._parts(name, start, stop))
        three = (float(dots[0, 0]), float(dots[1, 1]), float(dots[0, 1]))

        def compute(start: int, stop: int) -> Tensor:
            first, second = self._parts(name, start, stop)
            return self._rounded(name, methods.slerp(first, second, t, three), self.parties.parts)

        return compute

    # --- what is measured of a whole tensor first ---

    def _dots(self, name: str, read: Callable[[int, int], Sequence[Tensor]]) -> NDArray[np.float64]:
        """Dots of tensors with each other, added up slice by slice in order, in fp64."""

        def of(where: tuple[int, int]) -> NDArray[np.float64]:
            stacked = torch.stack([one.double() for one in read(*where)])
            return (stacked @ stacked.T).numpy().astype(np.float64, copy=True)

        count = len(self.parties.parts)
        return sum(self.pool.ordered(of, cut(self.parties.start.tensors[name])), np.zeros((count, count)))

    def _threshold(self, name: str, part: int) -> float:
        """The smallest |τ| that TIES keeps: the k-th largest, k a share of the elements; by histograms over the upper
        and then the lower half of the bits of |τ|, which order as the numbers do."""
        info = self.parties.start.tensors[name]
        left = int(np.ceil((self.settings.density or 0) * info.elements))
        if left >= info.elements:
            return 0.0

        def bits(where: tuple[int, int]) -> NDArray[np.int32]:
            taken = self._taken(name, *where, only=part)[1][0]
            if not all_finite(taken):
                self._explain(name, taken, self.parties.all)
            return methods.magnitude(taken).view(torch.int32).numpy()

        def upper(where: tuple[int, int]) -> NDArray[np.int64]:
            return np.bincount(bits(where) >> 16, minlength=HALVES)

        high, left = _bin(sum(self.pool.ordered(upper, cut(info)), np.zeros(HALVES, np.int64)), left)

        def lower(where: tuple[int, int]) -> NDArray[np.int64]:
            found = bits(where)
            return np.bincount(found[found >> 16 == high] & (HALVES - 1), minlength=HALVES)

        low, _ = _bin(sum(self.pool.ordered(lower, cut(info)), np.zeros(HALVES, np.int64)), left)
        return float(np.array(high << 16 | low, np.int32).view(np.float32))

    # --- reading and rounding ---

    @property
    def _base(self) -> Model:
        assert self.parties.base is not None  # the settings ask for it
        return self.parties.base

    def _parts(self, name: str, start: int, stop: int) -> list[Tensor]:
        return [self._read(name, model, start, stop, f"part {at}") for at, model in enumerate(self.parties.parts)]

    def _taken(self, name: str, start: int, stop: int, only: int | None = None) -> tuple[Tensor, list[Tensor]]:
        """The slice of `start`, and θ_0 − θ_i of the parts: its sign is such that −0 stays where nothing was learnt."""
        base = self._read(name, self._base, start, stop, "base")
        into = base
        if self.parties.start is not self._base:
            into = self._read(name, self.parties.start, start, stop, "start")
        places = range(len(self.parties.parts)) if only is None else (only,)
        parts = [self._read(name, self.parties.parts[at], start, stop, f"part {at}") for at in places]
        return into, [torch.sub(base, part, out=part) for part in parts]

    def _read(self, name: str, model: Model, start: int, stop: int, use: str) -> Tensor:
        """A slice in the precision that it is computed with."""
        found = model.weights.read_flat(name, start, stop, self._stored(model, name, use, stop - start))
        return self._widened(name, found, use)

    def _stored(self, model: Model, name: str, use: str, count: int) -> Tensor:
        return self._memory.get(f"stored {use}", count, model.tensors[name].torch)

    def _widened(self, name: str, stored: Tensor, use: str) -> Tensor:
        kind = self._precision[name]
        return stored if stored.dtype == kind else self._memory.get(f"wide {use}", stored.numel(), kind).copy_(stored)

    def _output(self, name: str) -> torch.dtype:
        return self.writer.tensors[name].torch

    def _rounded(self, name: str, values: Tensor, models: Sequence[Model]) -> Tensor:
        """In the type that is written; ModelError where it is no number."""
        kind = self._output(name)
        if values.dtype == kind:
            found = values
        elif values.dtype == torch.float64 and kind.itemsize == 2:
            found = narrowed(values, kind)
        else:
            found = self._memory.get("out", values.numel(), kind).copy_(values)
        if not all_finite(found):
            self._explain(name, found, models)
        return found

    def _explain(self, name: str, found: Tensor, models: Sequence[Model]) -> None:
        """ModelError that says which file holds a weight that is no number, or that what was found is too large."""
        for model in models:
            info = model.tensors[name]
            for low, high in cut(info):
                if not all_finite(model.weights.read_flat(name, low, high)):
                    raise _not_a_number(model, name)
        raise ModelError(f"{name} becomes larger than {found.dtype} can hold: say dtype=float32, or a smaller scale.")


def _bin(counts: NDArray[np.int64], left: int) -> tuple[int, int]:
    """The bin that holds the left-th largest, and which of that bin's it is, from the largest on."""
    above = np.cumsum(counts[::-1])
    at = int(np.searchsorted(above, left))
    return len(counts) - 1 - at, left - int(above[at] - counts[::-1][at])


def _not_a_number(model: Model, name: str) -> ModelError:
    return ModelError(
        f"{model.weights.file_of(name)}: {name} holds NaN or an infinity: this model is broken, merge another."
    )
