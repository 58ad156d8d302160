"""The generated pages are fresh, and what they promise of suites holds."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from estbench import references
from estbench.registry import Registry

ROOT = Path(__file__).parents[1]


def pages() -> Any:
    spec = importlib.util.spec_from_file_location("pages", ROOT / "scripts" / "pages.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", ["docs/tasks.md", "docs/reproduce.md", "docs/options.md"])
def test_generated_pages_are_fresh(path: str) -> None:
    assert (ROOT / path).read_text("utf-8") == pages().PAGES[path](), "run python scripts/pages.py"


def test_every_task_is_on_the_page() -> None:
    text = (ROOT / "docs" / "tasks.md").read_text("utf-8")
    for name in Registry().tasks:
        base = name
        for ending in references.VARIANTS:
            base = base.removesuffix(ending)
        assert f"`{base}`" in text or f"`{name}`" in text


def test_suites_have_one_form_and_name_tasks_of_it() -> None:
    registry = Registry()
    for suite in registry.suites.values():
        cards = [registry.task(name) for name in suite.tasks]
        assert {card.form for card in cards} == {suite.form}, suite.name
        assert len(set(suite.tasks)) == len(suite.tasks)
        assert set(suite.title) == {"et", "en"}


def test_the_suites_named_all_hold_every_task_of_their_form() -> None:
    registry = Registry()
    for name, form in (("all", "completion"), ("all_chat", "chat")):
        wanted = {
            task.name for task in registry.tasks.values() if task.form == form and not task.name.startswith("mini_")
        }
        assert set(registry.suites[name].tasks) == wanted


def test_core_is_answered_by_generation_and_core_base_is_not_chat() -> None:
    registry = Registry()
    core = [registry.task(name) for name in registry.suites["core"].tasks]
    assert all(card.form == "chat" and card.config["output_type"] == "generate_until" for card in core)
    assert all(card.access == "public" for card in core), "everybody can run the core"
    base = [registry.task(name) for name in registry.suites["core_base"].tasks]
    assert all(card.form == "completion" and card.access == "public" for card in base)


def test_published_figures_are_of_our_tasks_and_have_a_source() -> None:
    tasks = Registry().tasks
    rows = [row for name in tasks for row in references.of(name)]
    assert len(rows) > 300 and all(row.task in tasks and row.source in references.sources() for row in rows)
    llama = [row.value for row in references.of("belebele_et_chat") if row.model == "meta-llama/Llama-3.1-8B"]
    assert llama == [0.67]
    high = {"proportion": 1.0, "points": 100.0}
    assert all(-10 <= row.value <= high[references.sources()[row.source]["unit"]] for row in rows)
