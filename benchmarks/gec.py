"""What scoring a correction costs: outputs that loop, with the cap off, and a whole file of sentences.

    OMP_NUM_THREADS=1 python benchmarks/gec.py [GOLD.m2 OUTPUTS.txt]

The loops repeat eight words against a source of twelve, with an edit of four words and one of a word as gold; the file
has a sentence a line, tokenised, in the order of the M2 file. Prints CPU seconds as JSON.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from pathlib import Path

import numpy as np

from estbench.metrics import gec
from estbench.metrics.m2 import read_m2

SOURCE = ["Ma", "käisin", "eile", "poes", "ja", "ostsin", "leiba", ",", "piima", "ning", "juustu", "."]
LOOP = ["ma", "käisin", "poes", "ja", "ma", "ostsin", "leiba", ","]
GOLD = gec.annotators([[0, 1, 2, "R:LEX", ["käin"]], [0, 1, 5, "R:WO", ["poes eile ja käisin"]]])


def looping(length: int) -> float:
    """CPU seconds for a looping output of so many tokens."""
    output = list(itertools.islice(itertools.cycle(LOOP), length))
    begun = time.process_time()
    gec.counts(SOURCE, output, GOLD)
    return round(time.process_time() - begun, 3)


def file(gold: Path, outputs: Path) -> dict[str, float]:
    """CPU seconds for a whole file, and what it scores."""
    rows, _ = read_m2(gold.read_text("utf-8"), str(gold))
    lines = outputs.read_text("utf-8").splitlines()
    begun = time.process_time()
    values = [
        np.ravel(gec.counts(row["source_tokens"], line.split(), gec.annotators(row["edits"]))).tolist()
        for row, line in zip(rows, lines, strict=True)
    ]
    score = float(gec.f_score(gec.select(values).sum(axis=0)))
    return {
        "sentences": len(rows),
        "cpu_s": round(time.process_time() - begun, 2),
        "f0.5": round(score, 4),
    }


def main() -> None:
    found: dict[str, object] = {f"loop_{length}_tokens_cpu_s": looping(length) for length in (43, 150, 500)}
    if len(sys.argv) == 3:
        found["file"] = file(Path(sys.argv[1]), Path(sys.argv[2]))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
