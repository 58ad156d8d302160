"""What the mini tasks give to a model that does nothing: the tasks' chance level.

    python -m estbench.demo.baselines     prints each task's best one, which is `metadata.chance` of its YAML file

Three baselines, each in the unit of the task's primary metric: copy (what stands in the prompt), empty, and
frequent (the answer that training gives most often). For mini_copa: always the first option, or always the second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from estbench.demo import english, stream
from estbench.demo.follow import follow_results
from estbench.demo.tasks import TASKS, Doc, rows

COPIES: dict[str, Callable[[Doc], str]] = {
    "mini_qa": lambda doc: str(doc["context"]).split()[0],
    "mini_translate_en_et": lambda doc: str(doc["source"]),
    "mini_translate_et_en": lambda doc: str(doc["source"]),
    "mini_gec": lambda doc: str(doc["source"]),
    "mini_inflect": lambda doc: str(doc["word"]),
    "mini_follow": lambda doc: " ".join(doc["words"]),
    "mini_follow_en": lambda doc: " ".join(doc["words"]),
    "mini_qa_en": lambda doc: str(doc["context"]).split()[0],
}


def baselines(task: str) -> dict[str, float]:
    """Baseline -> primary metric on the test documents."""
    docs = (english.rows if task in english.TASKS else rows)(task)["test"]
    if task == "mini_copa":
        second = sum(doc["label"] for doc in docs) / len(docs)
        return {"first": 1 - second, "second": second}
    trained = islice(stream.instructions(task, "baselines"), 3000)
    frequent = Counter(answer for _, answer in trained).most_common(1)[0][0]
    return {
        "copy": primary(task, docs, [COPIES[task](doc) for doc in docs]),
        "empty": primary(task, docs, [""] * len(docs)),
        "frequent": primary(task, docs, [frequent] * len(docs)),
    }


def primary(task: str, docs: Sequence[Doc], answers: Sequence[str]) -> float:
    """A task's primary metric for one answer a document (not for mini_copa)."""
    import estbench.metrics.tasks as metrics

    scorers: dict[str, tuple[Callable[..., Any], str, Callable[..., float]]] = {
        "mini_qa": (metrics.qa_results, "em", _mean),
        "mini_translate_en_et": (metrics.translation_results, "chrf++", metrics.chrf_aggregation),
        "mini_translate_et_en": (metrics.translation_results, "chrf++", metrics.chrf_aggregation),
        "mini_gec": (metrics.gec_results, "f0.5", metrics.gec_aggregation),
        "mini_inflect": (metrics.exact_results, "exact_match", _mean),
        "mini_follow": (follow_results, "follow", _mean),
        "mini_follow_en": (english.follow_results, "follow", _mean),
        "mini_qa_en": (metrics.qa_results, "em", _mean),
    }
    results, metric, aggregate = scorers[task]
    return aggregate([results(doc, [answer])[metric] for doc, answer in zip(docs, answers, strict=True)])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    for task in (*TASKS, *english.TASKS):
        found = baselines(task)
        print(task, round(max(found.values()), 4), {name: round(value, 4) for name, value in found.items()})
