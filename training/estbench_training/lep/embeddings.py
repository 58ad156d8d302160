"""The rows of the new vocabulary in the target: of each variant, slice by slice.

    carried = prepare(settings, roles, say)          # solves for P where the variant needs one
    carried["input"].rows(0, 4096)                   # (4096, d) of the new embeddings, in fp32, or fp64 of fp32 models
    carried["input"].fit                             # how well P does, or None

    swap        E_new = E^D
    overlap     E_new = E^D P,   P = argmin ‖E^S_O P − E^T_O‖, O the tokens that are in both vocabularies
    conversion  E_new = E^D P,   P = argmin ‖C(E^S) P − C(E^T)‖, C(E)[v] the mean of the old pieces of v
    delta       E_new = E^D + C(E^T − E^S)

The first three are those of arXiv 2412.21140; delta is ours: one matrix P can't hold what single tokens have learnt,
C(E^T − E^S) does. With the same vocabulary it is the chat vector of the embeddings (arXiv 2310.04799). Added tokens of
the target take no part in P; their rows are the target's. Rows that are no token's are the donor's, P applied.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from estbench.errors import DataError
from estbench_training.kinds import Say
from estbench_training.lep.roles import Ids, Part, Roles
from estbench_training.lep.settings import LepSettings
from estbench_training.lep.solve import Fit, Normal, slices, solve
from estbench_training.merge.methods import chat_vector
from estbench_training.vocab.forms import BYTE, ORDINARY
from estbench_training.vocab.pieces import Pieces, overlap, pieces_of
from estbench_training.weights import computing, rounded

AT_ONCE = 4096  # new rows that are computed together


@dataclass(frozen=True)
class Carried:
    """One matrix of tokens of the new model, by rows. p: of the variants that have one; pieces: of delta, None where
    the vocabulary is the same."""

    roles: Roles
    part: Part
    variant: str
    pieces: Pieces | None = None
    p: Tensor | None = None
    fit: Fit | None = None

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows start … stop - 1 in what is computed in; those of the target's added tokens are the target's."""
        donor, target = self.roles.donor, self.roles.target
        kind = computing(target.weights.tensors[target.parts[self.part]].torch)
        made = donor.rows(self.part)(np.arange(start, stop)).to(kind)
        if self.p is not None:
            made = made @ self.p.to(kind)
        elif self.variant == "delta":
            made = self._moved(made, start, stop)
        new, old = self.roles.special
        first, last = np.searchsorted(new, [start, stop])
        if last > first:
            made[torch.from_numpy(new[first:last] - start)] = target.rows(self.part)(old[first:last]).to(kind)
        return made

    def all(self, count: int, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
        """(first row, rows) of all `count` rows, rounded to `dtype`; ModelError where one is too large for it."""
        for start, stop in slices(count, AT_ONCE):
            yield start, rounded(self.rows(start, stop), dtype, self.roles.target.parts[self.part], start)

    def _moved(self, made: Tensor, start: int, stop: int) -> Tensor:
        """E^D + C(E^T − E^S); rows beyond the vocabulary stay the donor's."""
        source, target = (model.rows(self.part) for model in (self.roles.source, self.roles.target))
        if self.pieces is None:
            ids = np.arange(start, stop)
            return chat_vector(made, target(ids).to(made.dtype), source(ids).to(made.dtype))
        count = max(0, min(stop, self.pieces.size) - start)
        if count:
            before, after = (self.pieces.apply(read, start, start + count).to(made.dtype) for read in (source, target))
            made[:count] = chat_vector(made[:count], after, before)
        return made


def prepare(settings: LepSettings, roles: Roles, say: Say) -> Mapping[Part, Carried]:
    """What makes the new rows, matrix by matrix; DataError where P can't be had."""
    variant, pieces = settings.variant, None
    if variant == "conversion" or (variant == "delta" and not roles.same_vocabulary):
        pieces = pieces_of(roles.source.vocabulary, roles.donor.vocabulary, weighting=settings.weighting)
    if variant in ("swap", "delta"):
        return {part: Carried(roles, part, variant, pieces) for part in roles.parts}
    carried = {}
    for part in roles.parts:
        normal = _of_pieces(roles, part, pieces) if pieces is not None else _of_overlap(roles, part)
        try:
            solution = solve(normal, settings.ridge)
        except DataError as error:
            raise DataError(f"variant: {variant}, {roles.target.parts[part]}: {error}.") from None
        _say_fit(roles.target.parts[part], solution.fit, say)
        carried[part] = Carried(roles, part, variant, None, solution.p, solution.fit)
    return carried


def _of_pieces(roles: Roles, part: Part, pieces: Pieces) -> Normal:
    """C(E^S) and C(E^T): all tokens of the new vocabulary that are text and have old pieces."""
    normal = Normal(roles.target.width)
    usual = np.isin(roles.donor.vocabulary.kinds[: pieces.size], (ORDINARY, BYTE))
    usual[pieces.empty] = False
    source, target = (model.rows(part) for model in (roles.source, roles.target))
    for start, stop in slices(pieces.size):
        kept = torch.from_numpy(usual[start:stop])
        normal.add(pieces.apply(source, start, stop)[kept], pieces.apply(target, start, stop)[kept])
    return normal


def _of_overlap(roles: Roles, part: Part) -> Normal:
    """E^S_O and E^T_O: the tokens that are text and in both vocabularies."""
    normal = Normal(roles.target.width)
    ids = shared(roles)
    source, target = (model.rows(part) for model in (roles.source, roles.target))
    for start, stop in slices(len(ids)):
        normal.add(source(ids[start:stop]), target(ids[start:stop]))
    return normal


def shared(roles: Roles) -> Ids:
    """The source's ids of the tokens that are text and in the donor's vocabulary, too, rising."""
    old, new = overlap(roles.source.vocabulary, roles.donor.vocabulary)
    return np.unique(old[np.isin(roles.donor.vocabulary.kinds[new], (ORDINARY, BYTE))])


def _say_fit(name: str, fit: Fit, say: Say) -> None:
    held, without = fit.held_out, fit.held_before
    tested = "" if held is None else f"; on tokens that P was not made of {held:.3g} ({without:.3g} without it)"
    say(
        f"{name}: P of {fit.rows:,} tokens in {fit.width:,} dimensions leaves {fit.residual:.3g} of the target's rows "
        f"({fit.before:.3g} without P){tested}; condition {fit.condition:.2g}, ridge {fit.ridge:g}"
    )
    if held is not None and without is not None and held > without:
        say(f"{name}: on tokens that it was not made of P is worse than none: try variant: delta, or a larger ridge.")
