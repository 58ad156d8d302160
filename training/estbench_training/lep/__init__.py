"""LEP: what a model has learnt for a new vocabulary, carried over to its siblings. See `LepSettings`."""

from __future__ import annotations

from estbench_training.kinds import Context, Kind
from estbench_training.lep.settings import LepSettings


def run(settings: LepSettings, context: Context) -> None:
    """Propagate."""
    from estbench_training.lep.propagate import run as propagate

    propagate(settings, context)


LEP = Kind("lep", LepSettings, run, needs_model=False, makes_model=True)
