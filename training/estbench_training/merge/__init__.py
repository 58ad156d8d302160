"""Merging: a model from several, weight by weight, without training.

    - name: chat
      kind: merge
      method: chat_vector
      model: cpt                     # into which the chat vector goes
      base: meta-llama/Llama-3.1-8B
      instruct: meta-llama/Llama-3.1-8B-Instruct
      scale: 0.8

`settings` has the keys, `methods` the formulas, `stream` reads, computes and writes at the same time, `alike` refuses
what doesn't fit together, `tokens` says which row of a matrix is whose, `files` writes what is no tensor, `work` does
all of it, and `command` is `estbench merge`.
"""

from __future__ import annotations

from estbench_training.kinds import Context, Kind
from estbench_training.merge.settings import MergeSettings


def run(settings: MergeSettings, context: Context) -> None:
    """Merge the models of a stage into model/."""
    from estbench.checkpoint import find
    from estbench_training.merge.work import START, merge

    found = {name: find(str(folder)) for name, folder in context.models.items()}
    for name, checkpoint in found.items():
        checkpoint.name = name
    if settings.method == "chat_vector" and settings.into is None:
        found[START] = find(str(context.start))
    merge(settings, found, context.model_folder, context)


MERGE = Kind("merge", MergeSettings, run, makes_model=True)
