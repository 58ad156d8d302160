"""Single rows of a matrix, wherever they stand; numbers in a narrower type, and the check that they are numbers.

rows = gather(weights, "model.embed_tokens.weight", np.array([3, 17, 18]))
check_finite(rows, "model.safetensors: model.embed_tokens.weight", np.array([3, 17, 18]))
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from estbench.errors import ModelError
from estbench_training.weights.reading import Weights

AT_ONCE = 1 << 24  # elements that are read at once
APART = 1 << 17  # bytes that are read and thrown away rather than begun anew
WHOLE = {  # what the bits of a floating-point number are read as
    torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32, torch.float64: torch.int64,
}  # fmt: skip
INFINITY = {dtype: int(torch.tensor(torch.inf, dtype=dtype).view(whole)) for dtype, whole in WHOLE.items()}


def all_finite(values: Tensor) -> bool:
    """Whether none of the values, of any shape and type, is a NaN or an infinity.

    Read as whole numbers these are the largest of either sign, so that two maxima tell: fifty times as fast as
    torch.isfinite with bf16.
    """
    if not values.is_floating_point() or not values.numel():
        return True
    values = values if values.dtype in WHOLE else values.float()
    infinity, bits = INFINITY[values.dtype], values.contiguous().view(WHOLE[values.dtype]).numpy()
    sign = 1 << (8 * bits.itemsize - 1)
    return int(bits.max()) < infinity and int(bits.view(f"u{bits.itemsize}").max()) < sign + infinity


def check_finite(values: Tensor, what: str, rows: NDArray[np.int64] | None = None, start: int = 0) -> None:
    """ModelError naming the first row of `values` that has a NaN or an infinity. rows: their numbers; else from
    `start` on."""
    if (bad := _broken(values)) is not None:
        row = start + bad if rows is None else int(rows[bad])
        raise ModelError(f"{what} holds a NaN or an infinity in row {row:,}: take a checkpoint from before it broke.")


def rounded(values: Tensor, dtype: torch.dtype, name: str, start: int) -> Tensor:
    """Finite rows from `start` on, in another type; ModelError naming the first one that it can't hold."""
    found = narrowed(values, dtype)
    if (bad := _broken(found)) is not None:
        raise ModelError(
            f"{name}: row {start + bad:,} becomes larger than {dtype} can hold: take a smaller scale, or models in "
            "bfloat16 or float32."
        )
    return found


def narrowed(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Numbers in another type, rounded once, to the nearest even, of any shape.

    torch takes fp64 to 16 bits by way of fp32, which rounds twice. Here fp32 is rounded to odd on the way, so that what
    it loses still shows in its last bit (Boldo & Melquiond 2008, doi:10.1109/TC.2007.70819).
    """
    if values.dtype != torch.float64 or dtype not in (torch.bfloat16, torch.float16):
        return values.to(dtype)
    once = values.float()
    lost = (once != values) & ~torch.isnan(values)
    bits = once.view(torch.int32)
    even = (bits & 1) == 0
    step = torch.where(values.abs() > once.abs(), 1, -1).to(torch.int32)
    bits += step * (lost & even)
    return once.to(dtype)


def _broken(values: Tensor) -> int | None:
    """The first row that has a NaN or an infinity."""
    if all_finite(values):
        return None
    finite = torch.isfinite(values if values.element_size() > 1 else values.float())
    return int(torch.nonzero(~finite.reshape(len(values) if values.dim() else 1, -1).all(1))[0])


def gather(weights: Weights, name: str, ids: NDArray[np.int64]) -> Tensor:
    """(ids, …): some rows, whose numbers rise, in the stored type; neighbours are read together."""
    info = weights.tensors[name]
    found = torch.empty((len(ids), *info.shape[1:]), dtype=info.torch)
    far = np.flatnonzero(np.diff(ids) > max(1, APART * info.rows // info.bytes)) + 1
    most = max(1, AT_ONCE // info.row)  # rows, so that memory is bounded
    for begin, end in itertools.pairwise([0, *far.tolist(), len(ids)]):
        while begin < end:
            first = int(ids[begin])
            stop = begin + int(np.searchsorted(ids[begin:end], first + most))
            block = weights.read(name, first, int(ids[stop - 1]) + 1)
            found[begin:stop] = block[torch.from_numpy(ids[begin:stop] - first)]
            begin = stop
    return found
