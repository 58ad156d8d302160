"""Write the generated pages: docs/tasks.md, docs/reproduce.md, docs/options.md. A test fails where they are not fresh.

python scripts/pages.py
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from estbench import references, report  # noqa: E402
from estbench.engines.options import KINDS  # noqa: E402
from estbench.registry import SKILLS, Registry, Task  # noqa: E402

GENERATED = "<!-- Written by scripts/pages.py from the task files: change those, and run it. -->\n"
REPRODUCED = (  # what a published cell should come out as, with the checkpoint and the task that ask for it
    ("meta-llama/Llama-3.1-8B", "estllm"),
    ("tartuNLP/Llama-3.1-EstLLM-8B-0525", "estllm"),
    ("utter-project/EuroLLM-9B", "estllm"),
    ("tartuNLP/Llammas-base", "estllm"),
)


def tasks_page() -> str:
    """Every task with what its card says, by skill; every suite."""
    registry = Registry()
    lines = [GENERATED, "# Tasks", ""]
    lines += [
        "Each row is one benchmark; `estbench tasks task=NAME` prints the whole card. Chat forms are `NAME_chat`, the",
        "other of the two ways to score options is `NAME_mcf` (letters) or `NAME_cf` (option texts), and `NAME_fresh`",
        "has other documents. Chance is what guessing or the best trivial answer gives, in the unit of",
        "the metric. Items of tasks with a ✗ under *items* are left out of public exports (licence, gate or withheld",
        "golds).",
        "",
    ]
    cards = {card.name: card for card in registry.tasks.values()}
    bases = [card for card in cards.values() if not _is_variant(card, cards)]
    for skill in SKILLS:
        rows = [card for card in bases if card.metadata.get("skill") == skill]
        if rows:
            lines += [f"## {skill.capitalize()}", ""]
            lines += ["| task | title | forms | metric | chance | shots | data set | licence | items |"]
            lines += ["|---|---|---|---|---:|---:|---|---|---|"]
            lines += [_row(card, cards) for card in rows]
            lines += [""]
    lines += ["## Suites", "", "| suite | form | tasks |", "|---|---|---|"]
    for suite in registry.suites.values():
        lines.append(
            f"| `{suite.name}`: {suite.title['en']} | {suite.form} | {', '.join(f'`{t}`' for t in suite.tasks)} |"
        )
    lines += ["", "## Citations", ""]
    citations = dict.fromkeys(str(card.metadata["citation"]) for card in bases if not card.name.startswith("mini_"))
    lines += [f"- {citation}" for citation in sorted(citations)]
    return "\n".join(lines) + "\n"


def _is_variant(card: Task, cards: dict[str, Task]) -> bool:
    return any(card.name.endswith(ending) and card.name.removesuffix(ending) in cards for ending in references.VARIANTS)


def _row(card: Task, cards: dict[str, Task]) -> str:
    forms = [card.form] + [ending[1:] for ending in references.VARIANTS if card.name + ending in cards]
    path, config = card.dataset or ("made by estbench", None)
    access = {"public": "", "gated": " (gated)", "withheld": " (golds withheld)"}[card.access]
    chance = "" if card.chance is None else report.number(card.chance, card.unit)
    items = "✓" if card.metadata.get("publish_items") else "✗"
    cells = [
        f"`{card.name}`",
        f"{card.title['et']} / {card.title['en']}",
        ", ".join(forms),
        card.primary,
        chance,
        str(card.shots),
        f"{path}{f', {config}' if config else ''}{access}",
        str(card.metadata.get("licence")),
        items,
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def reproduce_page() -> str:
    """Published cells, each beside the command that asks the same question."""
    lines = [GENERATED, "# Reproduce published scores", ""]
    lines += [
        "Published cells and the commands that ask the same of the same checkpoint. **Not run here**: they need the",
        "checkpoints and a GPU. A published score was made with other prompts, so that a difference of a few points is",
        "to be expected; one of ten is worth a look at `estbench show`. Where our primary metric is another, it stands",
        "after *ours:*, and the published one beside it where we report that too. Sources:",
        "",
    ]
    lines += [
        f"- {row['title']}: {row['source']} (looked up {row['checked']})" for row in references.sources().values()
    ]
    registry = Registry()
    names = list(dict.fromkeys(row.task for row in references._all()))
    for model, source in REPRODUCED:
        cells = [
            (name, row) for name in names for row in references.of(name) if (row.model, row.source) == (model, source)
        ]
        lines += ["", f"## {model}", ""]
        lines += [
            "```sh",
            f"estbench pull model={model} tasks=estllm",
            f"estbench eval model={model} tasks=estllm gold=FILE  # the golds of winogrande_et",
            "```",
        ]
        lines += ["", "| task | published | metric | ours | command for this cell |", "|---|---:|---|---|---|"]
        for name, row in cells:
            note = f" ({row.note})" if row.note else ""
            lines.append(
                f"| `{name}` | {row.value:.3f}{note} | {_metrics(registry.task(name), row.metric)} | not run here "
                f"| {_command(model, registry.task(name))} |"
            )
    return "\n".join(lines) + "\n"


def options_page() -> str:
    """Every `engine.KEY=VALUE`, engine by engine."""
    lines = ["<!-- Written by scripts/pages.py from estbench/engines/options.py: change that, and run it. -->\n"]
    lines += [
        "# Options of the engines",
        "",
        "Each is given as `engine.KEY=VALUE`; [engines.md](engines.md) says what for.",
        "",
    ]
    for kind in KINDS.values():
        lines += [f"## {(kind.__doc__ or '').rstrip('.')}", "", "| key | what it does | default |", "|---|---|---|"]
        for item in dataclasses.fields(kind):
            words = f" (`{'`, `'.join(item.metadata['choices'])}`)" if item.metadata["choices"] else ""
            required = item.default is dataclasses.MISSING
            default = "has to be given" if required else "" if item.default in (None, "") else f"`{item.default}`"
            lines.append(
                f"| `engine.{item.name}` | {item.metadata['help'].replace('|', chr(92) + '|')}{words} | {default} |"
            )
        lines.append("")
    return "\n".join(lines)


def _metrics(card: Task, published: str) -> str:
    """The published metric; ours too, where the primary one is called otherwise."""
    if published == card.primary:
        return published
    reported = {metric["metric"] for metric in card.config["metric_list"]}
    return f"{published}; ours: {card.primary}{f', {published}' if published in reported else ''}"


def _command(model: str, card: Task) -> str:
    """The command, and what it needs besides the checkpoint."""
    command = f"estbench eval model={model} tasks={card.name}"
    if card.access == "withheld":
        return f"`{command} gold=FILE`: golds withheld, without the maintainers' FILE no score"
    return f"`{command}`" + (": gated, needs its terms accepted and `HF_TOKEN`" if card.access == "gated" else "")


PAGES = {"docs/tasks.md": tasks_page, "docs/reproduce.md": reproduce_page, "docs/options.md": options_page}

if __name__ == "__main__":
    for path, make in PAGES.items():
        (ROOT / path).write_text(make(), "utf-8")
