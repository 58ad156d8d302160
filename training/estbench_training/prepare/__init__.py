"""The `prepare` stage: texts become token shards, cleaned, without duplicates and without the documents of tests.

settings.py   the keys in YAML                       near.py           MinHash signatures
sources.py    files, the Hub, the demo world         duplicates.py     which documents have an earlier twin
filters.py    NFC, length, language                  encode.py         texts into tokens
decontaminate.py  documents of tests                 stage.py          the steps, one after the other
pieces.py     cleaned texts on disk                  processes.py      work spread over processes
"""

from estbench_training.kinds import Kind
from estbench_training.prepare.settings import PrepareSettings
from estbench_training.prepare.stage import run

PREPARE = Kind("prepare", PrepareSettings, run, needs="tokenizer")
