"""The paragraph on methods: what was run and how it was scored, as the runs' manifests and scores say it.

paragraph(found)        sentences in English, to be pasted

Nothing is said that no run says: what a file does not hold is "not recorded".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from estbench import references
from estbench.errors import StoreError
from estbench.evidence import Evidence
from estbench.stats import Difference

if TYPE_CHECKING:
    from estbench.paper.tables import Table

LIBRARIES = ("torch", "transformers", "vllm")
SCORED = "by the log-likelihood of given texts"
UNKNOWN = "not recorded in what was read"
CLUSTERED = re.compile(r", [\d,]+ clusters.*")


def paragraph(found: Table) -> str:
    """What was run, how it was scored, compared and averaged, on which data, and what stands in grey."""
    return " ".join(_sentences(found))


def _sentences(found: Table) -> Iterator[str]:
    named = list(zip(found.runs, found.labels, strict=True))
    yield _sentence("Models were evaluated with", ((_software(run), label) for run, label in named))
    yield _sentence("Responses come from", ((_engine(run), label) for run, label in named))
    systems = [(str(text), label) for run, label in named if (text := _system(run))]
    if systems:
        yield _sentence("A system message stood in front of chat prompts:", systems, always=True)
    tasks = [
        f"{column.task} ({column.n:,}, {'?' if column.shots is None else column.shots}, {column.form or '?'})"
        for column in found.columns
    ]
    yield f"Tasks, with documents, shots and form: {', '.join(tasks)}."
    answers = ((how, column.task) for column in found.columns for run in found.runs for how in _answers(run, column.task))
    yield _sentence("Answers are made", answers)
    yield from _scoring(found)
    yield from _testing(found)
    yield from _averaging(found)
    data = ((how, name) for column in found.columns for run in found.runs for how, name in _data(run, column.task))
    yield _sentence("Data:", data, always=True)
    for name in dict.fromkeys(row.source for row in found.published):
        about = references.sources()[name]
        yield (
            f"Grey rows are published figures, not paired and not ranked with ours: {about['title']} ({about['source']}; "
            f"looked up {about['checked']}); they were made with other prompts and data samples (form: {about['form']})."
        )


def _sentence(start: str, pairs: Iterable[tuple[str, str]], *, always: bool = False) -> str:
    """`start` what is said (of whom); what is said of all alike names nobody."""
    said: dict[str, dict[str, None]] = {}
    for text, name in pairs:
        said.setdefault(text, {})[name] = None
    if len(said) == 1 and not always:
        return f"{start} {next(iter(said))}."
    return f"{start} {'; '.join(f'{text} ({", ".join(names)})' for text, names in said.items())}."
