"""Continued pretraining: a model goes on learning from prepared shards.

`settings` is what a recipe says, `stage` runs it. `setup` makes the model, its optimizer and the state (`freezing`,
`losses`, `parallel`, `averaging`, `saving`), `loop` takes the steps by `schedule` under `guards`, `logs` and `plots`
write them down, `exporting` leaves a model, `flops` says what it all costs.
"""

from __future__ import annotations

from estbench_training.cpt.settings import CptSettings
from estbench_training.cpt.stage import run
from estbench_training.kinds import Kind

CPT = Kind("cpt", CptSettings, run, version=1, makes_model=True, parallel=True)
