"""Start-up: CPU seconds of `estbench --help` and `estbench tasks` beside lm-eval's, in the same run.

    python benchmarks/startup.py [repeats=5]

User + system time of the child process, median of the repeats after one that warms the disk cache; lm-eval's task list
takes so long that it runs once. The promise is that both commands of estbench take under 0.3 s; exit code 1 if not.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

LIMIT = 0.3
BIN = Path(sys.executable).parent


def cpu_seconds(command: list[str]) -> float:
    """CPU time of a command with all its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    subprocess.run([str(BIN / command[0]), *command[1:]], check=True, capture_output=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)


def median(command: list[str], repeats: int) -> float:
    if repeats > 1:
        cpu_seconds(command)
    return statistics.median(cpu_seconds(command) for _ in range(repeats))


def main() -> int:
    repeats = next((int(word.partition("=")[2]) for word in sys.argv[1:] if word.startswith("repeats=")), 5)
    slow = False
    for ours, theirs, times in (
        (["estbench", "--help"], ["lm-eval", "--help"], repeats),
        (["estbench", "tasks", "output=table"], ["lm-eval", "ls", "tasks"], 1),
    ):
        mine, peer = median(ours, repeats), median(theirs, times)
        print(f"{' '.join(ours):29} {mine:6.3f} s   {' '.join(theirs):16} {peer:6.2f} s   ratio {peer / mine:5.0f}x")
        slow |= mine >= LIMIT
    return int(slow)


if __name__ == "__main__":
    sys.exit(main())
