"""The `vocab` stage: a model gets another vocabulary, learnt on texts, and keeps what it knows of the old one.

forms.py     tokens as bytes                      assemble.py   a tokenizer.json put together anew
pieces.py    new tokens in old ones (LEP, too)    focus.py      rows from those of similar tokens
corpus.py    the texts                            resize.py     the weights, piece by piece
learn.py     mode: replace                        files.py      tokenizer, configuration
extend.py    mode: extend                         fertility.py  tokens per word, what they save
shrink.py    modes: shrink and optimise           command.py    `estbench fertility`
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from estbench_training.kinds import Kind
from estbench_training.vocab.settings import VocabSettings

if TYPE_CHECKING:
    from estbench_training.kinds import Context


def run(settings: VocabSettings, context: Context) -> None:
    """Run the stage; what it needs is imported only now."""
    from estbench_training.vocab import stage

    stage.run(settings, context)


VOCAB = Kind("vocab", VocabSettings, run, makes_model=True)
