"""The `instructions` stage: rows for SFT from instruction sets, parallel text, conversations and training splits.

settings.py   the keys in YAML                       overlap.py    texts of tests
reading.py    files, the Hub, tasks, the demo world  drawing.py    which rows, in which order
cleaning.py   rows into items, and filters           phrasing.py   the wordings of instructions
pairs.py      filters of parallel text               rendering.py  items into conversations
turns.py      shares kept at every prefix            stage.py      the steps, one after the other

    - name: instructions
      kind: instructions
      sources:
        alpaca: {path: alpaca.jsonl, form: alpaca, language: et, licence: cc-by-nc-4.0, url: …}
        parallel: {path: et-en.tsv.gz, fields: {et: 1, en: 2}, licence: cc0-1.0, translation: {directions: {en-et: 1}}}
        chats: {hub: allenai/tulu-3-sft-mixture, form: messages, language: en, licence: odc-by, limit: 50000}
        mini: {demo: [mini_follow, mini_qa], rows: 8000}
"""

from estbench_training.instructions.settings import InstructionSettings
from estbench_training.instructions.stage import run
from estbench_training.kinds import Kind

INSTRUCTIONS = Kind("instructions", InstructionSettings, run, needs_model=False)
