"""Large tasks: what a plan holds in memory while its requests are answered, and what comes back when it is scored."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from worlds import World

from estbench import registry
from estbench.engines.base import Decoding
from estbench.engines.mock import MockTokens
from estbench.lm_tasks import LmTask, Rendered
from estbench.plan import CHUNK, Scope, TaskPlan, render
from estbench.texts import Texts
from estbench.tokens import Tokens

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "documents.py"


@pytest.fixture
def world(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path / "world")
    monkeypatch.setattr(registry, "project_file", lambda name: made.folder / name)
    return made


def plan_of(world: World, task: str, tokens: Any = None, **scope: Any) -> TaskPlan:
    return render(registry.Registry().task(task), tokens or MockTokens(), 1 << 20, Scope(data=world.data, **scope))


def test_choices_share_one_prompt_and_keep_nothing_else_alive(world: World, tiny_model: Path) -> None:
    for doc in plan_of(world, "letters", Tokens(tiny_model)).docs:
        first, second = doc.requests
        assert first.prompt is second.prompt
        for ids in (first.prompt, first.continuation, second.continuation):
            assert ids is not None and ids.dtype == np.int32 and ids.base is None


def test_texts_come_back_as_they_were_rendered(world: World) -> None:
    for task in ("letters", "words"):
        plan = plan_of(world, task)
        lm = LmTask(registry.Registry().task(task), data_dir=world.data)
        for doc, text in (pair for part in plan.parts() for pair in part):
            fresh = lm.render(doc.doc_id)
            assert (text.pairs, text.prompt, text.decoding, text.target) == (
                fresh.pairs,
                fresh.prompt,
                fresh.decoding,
                fresh.target,
            )


@pytest.mark.parametrize("text", ["õäöü šž", "\ud83d half a pair", 'quotes " and \\ \n lines', "\u2028", ""])
def test_any_text_survives_packing(text: str) -> None:
    kept = Texts()
    docs = [
        Rendered([(text, "a"), ("other", text)], text, None, "source", [text, 1, None]),
        Rendered([], text, Decoding(5, (text, "\n"), 0.5, 0.9), "source", 2),
        Rendered([("", text)], "", None, "source", "", rolling=True),
    ]
    kept.add(docs)
    [back] = kept
    assert [doc.source for doc in back] == [None] * 3
    for doc, was in zip(back, docs, strict=True):
        assert (doc.pairs, doc.prompt, doc.decoding, doc.target, doc.rolling) == (
            was.pairs,
            was.prompt,
            was.decoding,
            was.target,
            was.rolling,
        )


def test_parts_keep_documents_and_texts_together_across_their_borders(world: World) -> None:
    long = [
        {"question": f"Mis on number {i}?", "first": f"õun {i}", "second": f"pirn {i}", "label": i % 2}
        for i in range(2 * CHUNK + 3)
    ]
    world.fill("letters", long)
    plan = plan_of(world, "letters", limit=2 * CHUNK + 1)
    pairs = [pair for part in plan.parts() for pair in part]
    assert len(pairs) == 2 * CHUNK + 1 and [doc for doc, _ in pairs] == plan.docs
    assert all(f"Mis on number {doc.doc_id}?" in text.prompt for doc, text in pairs)


def test_a_document_costs_its_row_its_ids_once_and_its_text_packed(world: World) -> None:
    dice = random.Random(1)
    world.edit("letters", num_fewshot=0, doc_to_choice="{{[first, second, first ~ 'x', second ~ 'x']}}")
    n = 2 * CHUNK
    size = 4000
    questions = ["".join(dice.choices("abcdefgh ", k=size)) for _ in range(n)]
    world.fill("letters", [{"question": q, "first": "a", "second": "b", "label": 0} for q in questions])
    plan_of(world, "words")  # what is paid for once
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        plan = plan_of(world, "letters")
        held = (tracemalloc.get_traced_memory()[0] - before) / n
    finally:
        tracemalloc.stop()
    ids = plan.docs[0].requests[0].prompt.nbytes
    assert ids >= size
    row, packed, rest = size, size / 2, 4000
    assert held < row + ids + packed + rest, f"{held:,.0f} bytes a document; a second copy of text or ids is {size:,}"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["choices", "texts"])
def test_cost_and_memory_of_a_document_do_not_rise_with_their_number(kind: str) -> None:
    done = subprocess.run(
        [sys.executable, BENCHMARK, kind, "500", "2500"], capture_output=True, text=True, timeout=500, check=True
    )
    small, large = map(json.loads, done.stdout.splitlines())
    assert large["cpu_ms_a_document"] < 2.5 * small["cpu_ms_a_document"]  # about 1; where each is compared with all, 5
    assert 1e6 * (large["memory_mb"] - small["memory_mb"]) / 2000 < 10_000  # bytes: 1 GB for 100,000
