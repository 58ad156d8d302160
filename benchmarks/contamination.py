"""How fast a corpus is compared with tests, and that memory does not grow with the corpus.

    OMP_NUM_THREADS=1 python benchmarks/contamination.py [megabytes] [JSONL corpus with the field "text"]

Without a corpus it makes one of Estonian-like words: documents of 300 to 3,000 characters, nothing of the tests in it.
The tests are 5,000 documents of 20 to 120 words. Two processes read; times are wall-clock seconds of the scan, with the
index and the start of the processes, and CPU seconds of all processes. Peak memory is that of the largest process, for
the whole corpus and for a tenth of it.
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from estbench.contamination import corpus, scan, text
from estbench.contamination.items import Material, Shown
from estbench.registry import Task

PROCESSES = 2
STEMS = [
    "maja",
    "kool",
    "laps",
    "raamat",
    "jõgi",
    "mets",
    "õun",
    "päev",
    "töö",
    "sõber",
    "linn",
    "küsimus",
    "öö",
    "žürii",
    "vesi",
    "tuul",
    "saar",
    "keel",
    "hääl",
    "süda",
]
ENDINGS = ["", "s", "st", "le", "lt", "ga", "ni", "ks", "ta", "na", "d", "de", "dele", "dega", "kene", "lik", "ja"]


def sentences(dice: random.Random, words: int) -> str:
    parts = [
        f"{dice.choice(STEMS)}{dice.choice(STEMS)[: dice.randrange(5)]}{dice.choice(ENDINGS)}" for _ in range(words)
    ]
    for place in range(dice.randrange(4, 12), words, 11):
        parts[place] += dice.choice([",", ".", "!", " –", " 1924."])
    return " ".join(parts)


def make(path: Path, size: int, source: str | None) -> None:
    """A corpus of about `size` bytes: made up, or the file `source` as often as it fits."""
    with open(path, "wb") as file:
        if source:
            content = Path(source).read_bytes()
            while file.tell() < size:
                file.write(content)
            return
        dice = random.Random(1)
        lines = [
            json.dumps({"id": i, "text": sentences(dice, dice.randrange(40, 400))}, ensure_ascii=False)
            for i in range(4000)
        ]
        content = "".join(line + "\n" for line in lines).encode()
        while file.tell() < size:
            file.write(content)


def material() -> Material:
    dice = random.Random(2)
    texts = text.plain([sentences(dice, dice.randrange(20, 120)) for _ in range(5000)])
    made = Material()
    made.add(Task("benchmark", Path(), {"metadata": {}}), [Shown(str(i), [one], []) for i, one in enumerate(texts)])
    return made


def measure(path: str, near: bool) -> dict[str, float]:
    """One scan, in this process and its children."""
    tests = material()
    kinds = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    before = sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, kinds))
    begun = time.perf_counter()
    found = scan.scan(corpus.sources(path), tests, with_near=near, processes=PROCESSES)
    seconds = time.perf_counter() - begun
    assert not found.hashes.any() and not found.near
    usages = [resource.getrusage(kind) for kind in kinds]
    return {
        "megabytes": found.tally.bytes / 1e6,
        "seconds": seconds,
        "cpu_seconds": sum(usage.ru_utime + usage.ru_stime for usage in usages) - before,
        "peak_mb": max(usage.ru_maxrss for usage in usages) / 1024,
    }


def main() -> None:
    size = int(sys.argv[1]) * 10**6 if len(sys.argv) > 1 else 200 * 10**6
    source = sys.argv[2] if len(sys.argv) > 2 else None
    result: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, part, near in (("exact", 1, ""), ("exact_tenth", 10, ""), ("near", 1, "near")):
            path = Path(folder) / f"{part}.jsonl"
            if not path.exists():
                make(path, size // part, source)
            done = subprocess.run(
                [sys.executable, __file__, "measure", str(path), near], capture_output=True, text=True, check=True
            )
            row = json.loads(done.stdout.splitlines()[-1])
            result |= {
                f"{name}_mb_per_s": round(row["megabytes"] / row["seconds"], 1),
                f"{name}_mb_per_cpu_s": round(row["megabytes"] / row["cpu_seconds"], 1),
                f"{name}_peak_mb": round(row["peak_mb"]),
            }
    print(json.dumps(result))


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        print(json.dumps(measure(sys.argv[2], bool(sys.argv[3]))))
    else:
        main()
