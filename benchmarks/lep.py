"""What LEP's solver costs: P by sums over rows and Cholesky, against a least-squares solver that holds all rows.

    OMP_NUM_THREADS=1 python benchmarks/lep.py [rows=32000] [width=256] [times=3]

Both solve argmin ‖A P − B‖ for random rows in float64, B = A P₀ + noise: torch.linalg.lstsq with the driver gelsy (what
LEP's code takes, RefalMachine/ruadapt) and `estbench_training.lep.solve` with ridge 0, which also finds the condition
and the residual on rows that were held out. Prints CPU and wall-clock seconds (the least of several, in turn), how many
times as fast it is, the greatest difference of the two P, and that of P from I where nothing changed, as JSON; random
data from a seed.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import torch
from estbench_training.lep.solve import Normal, slices, solve
from torch import Tensor

Seconds = dict[str, float]


def timed(work: Callable[[], Tensor]) -> tuple[Seconds, Tensor]:
    """Seconds of one call, and what it gives."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    return {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}, found


def streamed(a: Tensor, b: Tensor) -> Tensor:
    """P by `estbench_training.lep.solve`."""
    normal = Normal(a.shape[1])
    for start, stop in slices(len(a)):
        normal.add(a[start:stop], b[start:stop])
    return solve(normal, 0.0).p


def main(rows: int = 32_000, width: int = 256, times: int = 3) -> None:
    dice = torch.Generator().manual_seed(0)
    a = torch.randn(rows, width, generator=dice, dtype=torch.float64)
    p = torch.eye(width, dtype=torch.float64) + torch.randn(width, width, generator=dice, dtype=torch.float64) / width
    b = a @ p + 0.1 * torch.randn(rows, width, generator=dice, dtype=torch.float64)
    ways: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: streamed(a, b),
        "lstsq": lambda: torch.linalg.lstsq(a, b, driver="gelsy").solution,
    }
    found, spent = dict[str, Tensor](), dict[str, Seconds]()
    for _ in range(times):
        for name, way in ways.items():
            seconds, found[name] = timed(way)
            spent[name] = min(seconds, spent.get(name, seconds), key=lambda one: one["cpu_s"])
    print(
        json.dumps(
            {
                "rows": rows,
                "width": width,
                "threads": torch.get_num_threads(),
                **{name: {key: round(value, 3) for key, value in seconds.items()} for name, seconds in spent.items()},
                "times_as_fast": round(spent["lstsq"]["cpu_s"] / spent["ours"]["cpu_s"], 2),
                "greatest_difference": float((found["ours"] - found["lstsq"]).abs().max()),
                "from_identity": float((streamed(a, a) - torch.eye(width, dtype=torch.float64)).abs().max()),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main(**{key: int(value) for key, _, value in (argument.partition("=") for argument in sys.argv[1:])})
