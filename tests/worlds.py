"""A small task folder with its data, for tests of the spine: written anew so that a test can edit any part of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

CHOICE: dict[str, Any] = {
    "task": "letters",
    "dataset_path": "own/letters",
    "dataset_name": "et",
    "output_type": "multiple_choice",
    "test_split": "test",
    "fewshot_split": "train",
    "fewshot_config": {"sampler": "first_n"},
    "num_fewshot": 2,
    "doc_to_text": "Küsimus: {{question}}\nVastus:",
    "doc_to_choice": "{{[first, second]}}",
    "doc_to_target": "{{label}}",
    "metric_list": [
        {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        {"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True},
    ],
    "metadata": {
        "version": 1,
        "title": {"et": "Tähed", "en": "Letters"},
        "skill": "reasoning",
        "language": "et",
        "licence": "CC0",
        "citation": "own",
        "chance": 0.5,
        "primary": "acc",
        "form": "completion",
        "cluster": None,
        "publish_items": True,
        "data_seen": "own",
    },
}

TEXT: dict[str, Any] = {
    **CHOICE,
    "task": "words",
    "dataset_path": "own/words",
    "output_type": "generate_until",
    "doc_to_choice": None,
    "doc_to_target": "{{second}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 6, "do_sample": False},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    "metadata": {**CHOICE["metadata"], "primary": "exact_match", "chance": 0.0},
}


def rows(n: int, start: int = 0) -> list[dict[str, Any]]:
    """Rows that all differ: a question, two options, which of them is right."""
    words = ["õun", "pirn", "tool", "laud", "müts", "öö", "žürii", "šokolaad"]
    return [
        {
            "question": f"Mis on number {i}?",
            "first": f"{words[i % 8]} {i}",
            "second": f"{words[(3 * i + 1) % 8]} {i * 7 % 11}",
            "label": i % 2,
        }
        for i in range(start, start + n)
    ]


class World:
    """`tasks/` and `data/` in a folder. `write` and `edit` change a task file, `fill` its data."""

    def __init__(self, folder: Path, n: int = 12) -> None:
        self.folder = folder
        self.tasks, self.data = folder / "tasks", folder / "data"
        self.tasks.mkdir(parents=True)
        for config in (CHOICE, TEXT):
            self.write(config)
            self.fill(config["task"], rows(n), rows(4, start=1000))
        (self.tasks / "suites.yaml").write_text(
            "both:\n  title: {et: Mõlemad, en: Both}\n  form: completion\n  tasks: [letters, words]\n", "utf-8"
        )

    def write(self, config: dict[str, Any]) -> None:
        whole = {key: value for key, value in config.items() if value is not None}
        text = yaml.safe_dump(whole, allow_unicode=True, sort_keys=False)
        (self.tasks / f"{config['task']}.yaml").write_text(text, "utf-8")

    def read(self, task: str) -> dict[str, Any]:
        loaded = yaml.safe_load((self.tasks / f"{task}.yaml").read_text("utf-8"))
        assert isinstance(loaded, dict)
        return loaded

    def edit(self, task: str, **changes: Any) -> None:
        self.write(self.read(task) | changes)

    def file(self, task: str, split: str = "test") -> Path:
        return self.data / f"own__{task}" / "et" / f"{split}.jsonl"

    def fill(self, task: str, test: list[dict[str, Any]], train: list[dict[str, Any]] | None = None) -> None:
        for split, content in (("test", test), ("train", train)):
            if content is not None:
                self.file(task, split).parent.mkdir(parents=True, exist_ok=True)
                lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content)
                self.file(task, split).write_text(lines, "utf-8")
