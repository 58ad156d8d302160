"""Where a model's adapter lies: `cpt` leaves it in adapter/ beside model/."""

from __future__ import annotations

from pathlib import Path

ADAPTER = "adapter"
CONFIG = "adapter_config.json"


def adapter_of(model: Path) -> Path | None:
    """The folder of the adapter that was trained into a model of a stage; None where there is none."""
    place = model.parent / ADAPTER
    return place if (place / CONFIG).is_file() and (model / "config.json").is_file() else None
