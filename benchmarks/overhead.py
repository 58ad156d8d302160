"""What the harness itself costs: 2,000 documents × 4 choices, 5 shots, an engine that computes nothing, in one process.

    OMP_NUM_THREADS=1 python benchmarks/overhead.py [documents]

Both sides render the same task file over the same rows, "answer" 8,000 requests, score them and keep every sample:
estbench in a run folder, lm-eval with log_samples. lm-eval runs with include_defaults=False, which spares it the index
of its own tasks (6 to 13 s more). CPU seconds without imports, each side in a process of its own, medians of three.
"""

from __future__ import annotations

import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

RUNS = 3
TASK = """
task: overhead
dataset_path: {path}
dataset_name: {name}
{kwargs}
output_type: multiple_choice
test_split: test
fewshot_split: train
num_fewshot: 5
doc_to_text: "Küsimus: {{{{question}}}}\\nVastus:"
doc_to_choice: "{{{{[a, b, c, d]}}}}"
doc_to_target: "{{{{label}}}}"
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1, primary: acc, chance: 0.25, form: completion}}
"""


def make(folder: Path, documents: int) -> None:
    """The rows (questions of about 300 characters) and the task file, once for each side."""
    dice = random.Random(1)
    words = [f"sõna{i}" for i in range(3000)]
    data = folder / "data" / "own__overhead" / "et"
    data.mkdir(parents=True)
    for split, n in (("test", documents), ("train", 200)):
        rows = [
            {"question": " ".join(dice.choices(words, k=40)), "label": dice.randrange(4)}
            | {letter: " ".join(dice.choices(words, k=4)) for letter in "abcd"}
            for _ in range(n)
        ]
        (data / f"{split}.jsonl").write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8"
        )
    files = {split: str(data / f"{split}.jsonl") for split in ("test", "train")}
    (folder / "tasks").mkdir()
    (folder / "peer").mkdir()
    (folder / "tasks" / "overhead.yaml").write_text(TASK.format(path="own/overhead", name="et", kwargs=""), "utf-8")
    kwargs = f"dataset_kwargs: {json.dumps({'data_files': files})}"
    (folder / "peer" / "overhead.yaml").write_text(TASK.format(path="json", name="default", kwargs=kwargs), "utf-8")


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def ours(folder: Path) -> float:
    """CPU seconds of estbench between its imports and the finished run folder."""
    os.environ["ESTBENCH_HOME"] = tempfile.mkdtemp(dir=folder)
    from estbench import lm_tasks, registry, runner
    from estbench.config import EvalSettings
    from estbench.engines.mock import MockEngine, MockTokens, mock_checkpoint
    from estbench.plan import Scope, render

    assert lm_tasks
    begun = cpu()
    settings = EvalSettings(model="mock", tasks="overhead", data=str(folder / "data"))
    card = registry.Registry(folder / "tasks").task("overhead")
    engine, tokens = MockEngine(), MockTokens()
    plan = render(card, tokens, engine.max_length, Scope(data=folder / "data"))  # type: ignore[arg-type]
    run = runner.evaluate(runner.Job(settings, mock_checkpoint(), tokens, engine, [plan], [], {}))  # type: ignore[arg-type]
    spent = cpu() - begun
    assert run.scores()[0].n == len(plan.docs) and engine.forwarded == 4 * len(plan.docs)
    return spent


def peer(folder: Path) -> float:
    """CPU seconds of lm-eval's simple_evaluate with its dummy model."""
    import datasets
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    datasets.disable_progress_bars()
    begun = cpu()
    manager = TaskManager(include_path=str(folder / "peer"), include_defaults=False)
    simple_evaluate(model="dummy", tasks=["overhead"], task_manager=manager, log_samples=True, bootstrap_iters=0)
    return cpu() - begun


def main() -> None:
    documents = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, documents)
        found: dict[str, list[float]] = {"ours": [], "peer": []}
        for _ in range(RUNS):
            for side in found:
                done = subprocess.run(
                    [sys.executable, __file__, side, name], capture_output=True, text=True, check=True
                )
                found[side].append(float(done.stdout.split()[-1]))
    mine, theirs = (statistics.median(found[side]) for side in ("ours", "peer"))
    print(
        json.dumps(
            {"documents": documents, "estbench_cpu_s": mine, "lm_eval_cpu_s": theirs, "ratio": round(theirs / mine, 1)}
        )
    )


if __name__ == "__main__":
    if sys.argv[1:2] in (["ours"], ["peer"]):
        print({"ours": ours, "peer": peer}[sys.argv[1]](Path(sys.argv[2])))
    else:
        main()
