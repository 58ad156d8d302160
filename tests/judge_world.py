"""A small world for tests of judges: a prompt set whose answers say how good they are, and runs of made-up models.

    prompts = write_prompts(tmp_path / "own.jsonl", n=40)
    run = answered(prompts, lambda prompt: text_of(0.7, prompt), name="hea")
    with JudgeServer(quality_of) as server:
        main(["judge", f"run={run.id}", f"judge=judge@{server.url}"])

A text's quality stands in it ("tase 0.70"), so that a scripted judge, people and the truth can be compared.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from estbench import checkpoint, engines, runner
from estbench.commands import index
from estbench.config import EvalSettings
from estbench.engines.mock import MockEngine, MockTokens, mock_checkpoint
from estbench.runs import Run

LEVEL = re.compile(r"tase (\d\.\d+)")
ANCHOR = 0.5
WORDS = """
kevadel hakkavad linnud laulma ja aed läheb roheliseks ning inimesed käivad jälle rohkem õues suvel
on päevad pikad ja ilm soe nii et järves saab ujuda sügisel langevad lehed ja
metsas kasvavad seened talvel katab lumi maad ja lapsed lähevad kelgutama sest siis on koolist
vaheaeg
""".split()  # noqa: SIM905  a list of so many words reads badly


def text_of(level: float, seed: str, words: int = 40) -> str:
    """An Estonian answer of a known quality; another one for each seed."""
    dice = random.Random(seed)
    said = " ".join(dice.choice(WORDS) for _ in range(words))
    return f"Selle vastuse tase {level:.2f} on teada. {said.capitalize()}."


def quality_of(text: str) -> float:
    """The quality that a text names; one that names none is worthless."""
    found = LEVEL.findall(text)
    return sum(map(float, found)) / len(found) if found else 0.0


def write_prompts(path: Path, n: int = 40, two_turns: int = 0, seed: int = 1) -> Path:
    """A prompt set with references, checklists and the anchor's answers, the first `two_turns` with a second turn."""
    dice = random.Random(seed)
    rows = []
    for i in range(n):
        level = ANCHOR + dice.uniform(-0.2, 0.2)
        row: dict[str, Any] = {
            "id": f"proov-{i:03d}",
            "category": "proov",
            "prompt": f"Küsimus number {i}: kirjelda üht aastaaega oma sõnadega.",
            "checklist": ["Kas vastus on eesti keeles?", "Kas vastus räägib aastaajast?", "Kas vastus on lühike?"],
            "reference": f"aastaaeg {i % 4}",
            "answer": text_of(level, f"ankur {i}"),
        }
        if i < two_turns:
            row |= {"follow_up": "Ja nüüd lühemalt, palun.", "follow_up_answer": text_of(level, f"teine {i}")}
        rows.append(row)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def answered(prompts: Path, answer: Callable[[str], str], *, name: str = "mudel", tasks: str = "", **more: Any) -> Run:
    """A run of a made-up model on the prompt set, indexed in the home's database; each name is another model."""
    model = mock_checkpoint(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model), "has_chat_template", True)
        patch.setattr(checkpoint, "find", lambda *_, **__: model)
        patch.setattr(engines, "tokens_of", lambda *_: MockTokens("a template"))
        patch.setattr(engines, "make", lambda *_: MockEngine(answer))
        settings = EvalSettings(model="made-up", tasks=tasks or str(prompts), name=name, **more)
        run = runner.evaluate(runner.prepare(settings))
    index(run, None)
    return run
