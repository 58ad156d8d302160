"""What a document costs as a task grows: 1,000, 10,000 and 100,000 documents, an engine that computes nothing.

    OMP_NUM_THREADS=1 python benchmarks/documents.py [choices | texts] [documents ...]

Each size runs in a process of its own and does what `estbench eval` does but for the model: rows are read, prompts of
about 400 tokens (5 shots, drawn for each document) rendered and tokenised by a real tokenizer, answers stored, scored,
written to a run folder and indexed. `choices` asks four log-likelihoods a document, `texts` one generated answer.
Printed: CPU time a document and what memory rose to beyond the imports."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

SIZES = (1000, 10_000, 100_000)
WORDS = 3000
SCORED = """
output_type: multiple_choice
doc_to_choice: "{{[a, b, c, d]}}"
doc_to_target: "{{label}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
metadata: {version: 1, primary: acc, chance: 0.25, form: completion}
"""
GENERATED = """
output_type: generate_until
doc_to_target: "{{a}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 16, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
metadata: {version: 1, primary: exact_match, chance: 0.0, form: completion}
"""
SHARED = """
task: TASK
dataset_path: own/TASK
dataset_name: et
test_split: test
fewshot_split: train
num_fewshot: 5
doc_to_text: "Küsimus: {{question}}\\nVastus:"
"""


def make(folder: Path, kind: str, documents: int) -> None:
    """Rows of about 40 words, two task files (a small one to warm up on), a tokenizer that knows the words."""
    dice = random.Random(1)
    words = [f"sõna{number}" for number in range(WORDS)]
    (folder / "tasks").mkdir()
    for task, n in (("growing", documents), ("warm", 50)):
        data = folder / "data" / f"own__{task}" / "et"
        data.mkdir(parents=True)
        for split, rows in (("test", n), ("train", 200)):
            with open(data / f"{split}.jsonl", "w", encoding="utf-8") as lines:
                for _ in range(rows):
                    row = {"question": " ".join(dice.choices(words, k=24)), "label": dice.randrange(4)}
                    row |= {letter: " ".join(dice.choices(words, k=4)) for letter in "abcd"}
                    lines.write(json.dumps(row, ensure_ascii=False) + "\n")
        text = SHARED.replace("TASK", task) + (SCORED if kind == "choices" else GENERATED)
        (folder / "tasks" / f"{task}.yaml").write_text(text, "utf-8")
    save_tokenizer(folder / "tokenizer", words)


def save_tokenizer(folder: Path, words: list[str]) -> None:
    """A byte-level BPE whose tokens are the words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=WORDS + 1000,
        special_tokens=["<s>", "</s>"],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    bpe.train_from_iterator([f" {word}" for word in words] * 3, trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)])
    fast: Any = PreTrainedTokenizerFast
    fast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>").save_pretrained(folder)


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def memory(what: str) -> float:
    """MB: `VmRSS` now, `VmHWM` at most so far."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text("utf-8"))
    assert found
    return int(found[1]) / 1000


def measure(folder: Path) -> dict[str, float]:
    """What `growing` costs, once imports and first times are paid for on `warm`."""
    os.environ["ESTBENCH_HOME"] = str(folder / "home")
    _evaluate(folder, "warm")
    return _evaluate(folder, "growing")


def _evaluate(folder: Path, task: str) -> dict[str, float]:
    """Render, answer, score, write and index; what that cost."""
    from estbench import registry, runner
    from estbench.config import EvalSettings
    from estbench.database import index_run, open_database
    from estbench.engines.base import Answer, Generated, Request
    from estbench.engines.mock import MockEngine, mock_checkpoint
    from estbench.plan import Scope, render
    from estbench.tokens import Tokens

    class Engine(MockEngine):
        def generate(self, requests: Sequence[Request]) -> Sequence[Answer]:
            return [Generated("sõna1", 2, "stop") for _ in requests]

    tokens = Tokens(folder / "tokenizer")
    marks = [(cpu(), memory("VmRSS"))]
    settings = EvalSettings(model="mock", tasks=task, data=str(folder / "data"))
    card = registry.Registry(folder / "tasks").task(task)
    engine = Engine()
    plan = render(card, tokens, engine.max_length, Scope(data=folder / "data"))
    prompt = len(plan.docs[0].requests[0].prompt)
    marks.append((cpu(), memory("VmHWM")))
    run = runner.evaluate(runner.Job(settings, mock_checkpoint(), tokens, engine, [plan], [], {}))
    marks.append((cpu(), memory("VmHWM")))
    with open_database(None) as database:
        index_run(database, run)
    marks.append((cpu(), memory("VmHWM")))
    n = run.scores()[0].n
    assert n == len(plan.docs)
    spent = [1000 * (after[0] - before[0]) / n for before, after in pairwise(marks)]
    rose = [mark[1] - marks[0][1] for mark in marks[1:]]
    names = ("render", "evaluate", "index")
    return {"documents": n, "prompt_tokens": prompt, "cpu_ms_a_document": round(sum(spent), 3)} | {
        "memory_mb": round(max(rose)),
        **{f"{name}_ms": round(value, 3) for name, value in zip(names, spent, strict=True)},
        **{f"{name}_mb": round(value) for name, value in zip(names, rose, strict=True)},
    }


def main(words: list[str]) -> None:
    kinds = [word for word in words if not word.isdigit()] or ["choices", "texts"]
    sizes = [int(word) for word in words if word.isdigit()] or list(SIZES)
    for kind in kinds:
        for documents in sizes:
            with tempfile.TemporaryDirectory() as name:
                make(Path(name), kind, documents)
                done = subprocess.run(
                    [sys.executable, __file__, "measure", name], stdout=subprocess.PIPE, text=True, check=True
                )
                print(json.dumps({"kind": kind} | json.loads(done.stdout.splitlines()[-1])), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        print(json.dumps(measure(Path(sys.argv[2]))))
    else:
        main(sys.argv[1:])
