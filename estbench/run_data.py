"""The data rows behind a run's samples: run folders hold prompts and answers, and not the data.

for sample, row in rows_of(Run(path), "estgec_l2_chat"):
    row["source_tokens"]
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from estbench.errors import DataError
from estbench.registry import Registry
from estbench.runs import Run, Sample


def rows_of(run: Run, task: str, data: Path | None = None) -> Iterator[tuple[Sample, dict[str, Any]]]:
    """Each answered sample of a task with its row, from the run's own `data=` unless another copy is named.

    Raises DataError if a row is not in the data that is here (it was changed, or is another version).
    """
    from estbench.lm_tasks import LmTask

    given = run.manifest.get("settings", {}).get("data")
    lm = LmTask(Registry().task(task), data_dir=data or (Path(given).expanduser() if given else None))
    rows = dict(zip(lm.doc_hashes, lm.docs, strict=True))
    for sample in run.samples(task):
        if sample.error is not None:
            continue
        if (row := rows.get(sample.doc_hash)) is None:
            raise DataError(
                f"{task}: the row of document {sample.doc_id} of run {run.id} is not in the data that is here: name "
                "the copy that the run was made with (data=DIR)."
            )
        yield sample, row
