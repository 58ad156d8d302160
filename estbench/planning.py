"""Looking before leaping: what an eval would do (`plan=true`), what a model sees (`show`), what a task is (`tasks`)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from estbench import references, registry, report
from estbench.config import EvalSettings
from estbench.engines.base import Packing
from estbench.errors import ConfigError, ModelError, UserError
from estbench.plan import TaskPlan, render

if TYPE_CHECKING:
    from estbench.checkpoint import Checkpoint
    from estbench.cli import ShowSettings
    from estbench.tokens import Tokens

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
FLOPS = {
    "cpu": 5e10,
    "gpu": 1.5e14,
}  # what one core and one data-centre GPU reach in practice; good to a factor of three
OVERHEAD_SECONDS = 10  # imports and loading


def outline(settings: EvalSettings, say: Callable[[str], None]) -> dict[str, Any]:
    """Documents, tokens, memory and time of an eval, task by task, and everything that is missing. Loads no weights."""
    from estbench import checkpoint, runner
    from estbench.tokens import Tokens

    settings.slice_of  # noqa: B018  a wrong slice is refused here
    if settings.tasks:
        registry.Registry.of(settings).select(settings.tasks)
    lacking: list[dict[str, str]] = []
    try:
        model = checkpoint.find(settings.model, settings.revision, say, fetch=False)
    except ModelError as error:
        return {"model": settings.model, "tasks": [], "missing": [{"part": "model", "reason": str(error)}], "total": {}}
    folder = Path(settings.data).expanduser() if settings.data else None
    chosen = runner.choose(settings, model, say)
    missing = runner.missing_parts(chosen.tasks, model, folder)
    lacking += [{"part": name, "reason": str(reason)} for name, reason in missing.items()]
    tokens = Tokens(model.path)
    scope = runner.scope_of(settings)
    dtype = _dtype(settings)
    rows = []
    for card in chosen.tasks:
        if card.name in missing:
            continue
        try:
            rows.append(_outline_task(render(card, tokens, model.max_length or 2048, scope), model, dtype))
        except UserError as error:
            lacking.append({"part": card.name, "reason": str(error).removeprefix(f"{card.name}, ")})
    total = {key: sum(row[key] for row in rows) for key in ("docs", "requests", "tokens", "seconds")}
    total["seconds"] += OVERHEAD_SECONDS if rows else 0
    total["memory_bytes"] = max((row["memory_bytes"] for row in rows), default=0)
    return {
        "model": {"name": model.name, "path": str(model.path), "parameters": model.parameters, "dtype": dtype},
        "suites": chosen.suites,
        "tasks": rows,
        "total": total,
        "missing": lacking,
    }


def _dtype(settings: EvalSettings) -> str:
    asked = settings.engine_options.get("dtype", "auto")
    return "float32" if asked == "auto" else asked


def _outline_task(plan: TaskPlan, model: Checkpoint, dtype: str) -> dict[str, Any]:
    for doc in plan.docs:  # any keys will do: nothing is stored
        doc.keys = [hashlib.sha256(request.content()).hexdigest() for request in doc.requests]
    packs = plan.packs(Packing())
    tokens = sum(pack.tokens for pack in packs)
    size = BYTES.get(dtype, 4)
    widest = max((len(pack.requests) * max(r.tokens for r in pack.requests) for pack in packs), default=0)
    config = model.config.get("text_config") or model.config
    heads = config.get("num_key_value_heads") or config.get("num_attention_heads") or 1
    per_head = config.get("head_dim") or (config.get("hidden_size", 0) // (config.get("num_attention_heads") or 1))
    cache = widest * 2 * config.get("num_hidden_layers", 0) * heads * per_head * size
    positions = max((sum(r.positions for r in pack.requests) for pack in packs), default=0)
    logits = 4 * config.get("vocab_size", 0) * positions
    return {
        "task": plan.card.name,
        "form": plan.card.form,
        "docs": len(plan.docs),
        "docs_in_all": plan.n_docs,
        "shots": plan.lm.shots,
        "requests": sum(len(doc.requests) for doc in plan.docs),
        "tokens": tokens,
        "longest": max((request.tokens for doc in plan.docs for request in doc.requests), default=0),
        "memory_bytes": model.parameters * size + cache + logits,
        "seconds": round(2 * model.parameters * tokens / FLOPS["cpu" if dtype == "float32" else "gpu"], 1),
        "data": plan.lm.dataset.origin,
    }


def as_text(plan: dict[str, Any]) -> str:
    """The outline for a terminal."""
    parts: list[str] = []
    if plan["tasks"]:
        columns = {"task": "task", "form": "form", "docs": ">docs", "shots": ">shots", "requests": ">requests"}
        columns |= {"tokens": ">tokens at most", "longest": ">longest", "memory": ">memory", "time": ">about"}
        rows = [*plan["tasks"], plan["total"] | {"task": "all"}]
        shown = [
            row
            | {
                "docs": f"{row['docs']:,}",
                "requests": f"{row['requests']:,}",
                "tokens": f"{row['tokens']:,}",
                "memory": gigabytes(row["memory_bytes"]),
                "time": duration(row["seconds"]),
            }
            for row in rows
        ]
        parts += [report.listing(shown, columns), ""]
    if plan["missing"]:
        parts += ["Missing:", *(f"  {row['part']}: {row['reason']}" for row in plan["missing"])]
        parts.append("`estbench pull` with the same words fetches what can be fetched; missing=skip goes on without.")
    else:
        parts.append("Nothing is missing.")
    return "\n".join(parts)


def prompt(settings: ShowSettings) -> dict[str, Any]:
    """One document's prompt: text, and with a model its token ids, BOS count and stops."""
    from estbench import checkpoint
    from estbench.lm_tasks import LmTask
    from estbench.tokens import Tokens

    card = registry.Registry.of(settings).task(settings.task)
    folder = Path(settings.data).expanduser() if settings.data else None
    tokens: Tokens | None = None
    if settings.model:
        model = checkpoint.find(settings.model)
        tokens = Tokens(model.path)
        if card.form == "chat" and not tokens.chat_template:
            raise ModelError(
                f"{card.name} is in chat form and {model.name} has no chat template: choose a completion task."
            )
    lm = LmTask(card, data_dir=folder, shots=settings.shots, seed=settings.seed)
    if settings.doc >= len(lm.docs):
        raise ConfigError(f"{card.name} has {len(lm.docs):,} documents: doc= goes from 0 to {len(lm.docs) - 1}.")
    chat = tokens.chat if tokens and card.form == "chat" else None
    for doc_id in range(settings.doc if lm.draws_shots else 0):
        lm.render(doc_id, chat)  # random shots advance document by document
    rendered = lm.render(settings.doc, chat)
    view: dict[str, Any] = {
        "task": card.name,
        "doc": settings.doc,
        "form": card.form,
        "template": "the model's chat template"
        if chat
        else "none (the text below is what is sent)"
        if card.form == "completion"
        else "chat messages; give model= to see its template",
        "shots": lm.shots,
        "prompt": rendered.prompt,
        "contexts": list(dict.fromkeys(context for context, _ in rendered.pairs)),
        "continuations": [continuation for _, continuation in rendered.pairs],
        "target": rendered.target,
        "stops": list(rendered.decoding.stop) if rendered.decoding else [],
        "max_new_tokens": rendered.decoding.max_new_tokens if rendered.decoding else None,
        "row": lm.docs[settings.doc],
    }
    return view | _ids(view, rendered.pairs, tokens) if tokens else view


def _ids(view: dict[str, Any], pairs: list[tuple[str, str]], tokens: Tokens) -> dict[str, Any]:
    encoded = tokens.encode_pairs(pairs) if pairs else [(tokens.encode([view["prompt"]])[0], None)]
    first = encoded[0][0]
    return {
        "prompt_ids": first.tolist(),
        "pieces": tokens.pieces(first),
        "continuation_ids": [ids.tolist() for _, ids in encoded if ids is not None],
        "bos": tokens.bos_count(first),
        "tokens": len(first),
    }


def prompt_text(view: dict[str, Any]) -> str:
    """The prompt for a terminal: plain text, so that nothing in it is taken for markup."""
    rule = "─" * 72
    lines = [f"{view['task']} · document {view['doc']} · {view['shots']} shots · template: {view['template']}", rule]
    for context in view["contexts"] or [view["prompt"]]:  # several where options are contexts of one ending
        lines += [context, rule]
    if view["continuations"]:
        lines += ["continuations:", *(f"  {text!r}" for text in view["continuations"])]
    lines.append(f"target: {view['target']!r}")
    if view["max_new_tokens"]:
        lines.append(
            f"stops: {', '.join(map(repr, view['stops'])) or 'end token only'}, at most {view['max_new_tokens']} tokens"
        )
    if "prompt_ids" in view:
        lines += [
            f"tokens: {view['tokens']}, BOS: {view['bos']}",
            " ".join(map(str, view["prompt_ids"])),
            "│".join(piece.replace("\n", "↵") for piece in view["pieces"]),
        ]
        lines += [f"continuation ids: {ids}" for ids in view["continuation_ids"]]
    return "\n".join(lines)


def card(task: registry.Task) -> dict[str, Any]:
    """A task's card as data."""
    path, name = task.dataset or ("made by estbench", None)
    return {
        "task": task.name,
        **task.metadata,
        "dataset": path,
        "config": name,
        "splits": task.splits,
        "output_type": task.config.get("output_type", "generate_until"),
        "shots": task.shots,
        "metrics": [row["metric"] for row in task.config.get("metric_list") or []],
        "file": task.path.name,
        "published": [asdict(row) for row in references.of(task.name)],
    }


def card_text(row: dict[str, Any]) -> str:
    """A card for a terminal."""
    title = row.get("title") or {}
    published = row.get("published") or []
    shown = {key: ", ".join(map(str, value)) if isinstance(value, list) else value for key, value in row.items()}
    lines = [f"{key:<16}{value}" for key, value in shown.items() if key not in ("title", "published")]
    if published:
        lines += ["", "Published elsewhere: other prompts and data samples, not paired, never ranked with ours"]
        lines += [
            f"  {part['model']:<48} {part['metric']} {part['value']:g}"
            + (f" ± {part['plus_minus']:g}" if part["plus_minus"] is not None else "")
            + f"  ({part['source']}{'; ' + part['note'] if part['note'] else ''})"
            for part in published
        ]
    return "\n".join([f"{title.get('et', row['task'])} ({title.get('en', '')})", *lines])


def gigabytes(size: float) -> str:
    """1234567890 -> 1.2 GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def duration(seconds: float) -> str:
    """A rough time in words."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
