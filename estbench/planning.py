"""Looking before leaping: what an eval would do (`plan=true`), what a model sees (`show`), what a task is (`tasks`)."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from estbench import references, registry, report, turns
from estbench.config import EvalSettings
from estbench.engines import memory
from estbench.engines.base import Pack, Packing
from estbench.errors import ConfigError, ModelError, UserError
from estbench.plan import TaskPlan, render, with_system
from estbench.remote import Model, RemoteModel

if TYPE_CHECKING:
    from estbench.checkpoint import Checkpoint
    from estbench.settings import ShowSettings
    from estbench.tokens import Tokens

FLOPS = {
    "cpu": 5e10,
    "gpu": 1.5e14,
}  # what one core and one data-centre GPU reach in practice; good to a factor of three
OVERHEAD_SECONDS = 10  # imports and loading


def outline(settings: EvalSettings, say: Callable[[str], None]) -> dict[str, Any]:
    """Documents, tokens, memory and time of an eval, task by task, and everything that is missing. Loads no weights."""
    from estbench import engines, runner

    settings.slice_of  # noqa: B018  a wrong slice is refused here
    if settings.tasks:
        registry.Registry.of(settings).select(settings.tasks)
    lacking: list[dict[str, str]] = []
    try:
        model = engines.find_model(settings, say, fetch=False)
    except ModelError as error:
        return {"model": settings.model, "tasks": [], "missing": [{"part": "model", "reason": str(error)}], "total": {}}
    folder = Path(settings.data).expanduser() if settings.data else None
    chosen = runner.choose(settings, model, say)
    missing = runner.missing_parts(chosen.tasks, model, folder)
    lacking += [{"part": name, "reason": str(reason)} for name, reason in missing.items()]
    tokens = engines.tokens_of(settings, model)
    most = model.max_length or (1 << 30 if isinstance(model, RemoteModel) else 2048)
    scope = runner.scope_of(settings)
    device, dtype, packing = _place(settings, model)
    rows = []
    for card in chosen.tasks:
        if card.name in missing:
            continue
        try:
            rows.append(_outline_task(render(card, tokens, most, scope), model, device, dtype, packing))
        except UserError as error:
            lacking.append({"part": card.name, "reason": str(error).removeprefix(f"{card.name}, ")})
    total = {key: sum(row[key] or 0 for row in rows) for key in ("docs", "requests", "tokens", "seconds")}
    total["seconds"] += OVERHEAD_SECONDS if rows else 0
    total["memory_bytes"] = max((row["memory_bytes"] or 0 for row in rows), default=0)
    if isinstance(model, RemoteModel):
        costs = [row["cost"] for row in rows]
        total |= {"seconds": None, "memory_bytes": None, "cost": None if None in costs else round(sum(costs), 4)}
    return {
        "model": {
            "name": model.name,
            "path": model.path and str(model.path),
            "parameters": model.parameters,
            "dtype": None if isinstance(model, RemoteModel) else dtype,
        },
        "suites": chosen.suites,
        "tasks": rows,
        "total": total,
        "missing": lacking,
    }


def _place(settings: EvalSettings, model: Model) -> tuple[str, str, Packing]:
    """Device, dtype and packs that this machine would take; a server's are taken for those of engine=hf."""
    if isinstance(model, RemoteModel) or importlib.util.find_spec("torch") is None:
        return "cpu", "float32", Packing()
    from estbench.engines.hf import packing_of, place
    from estbench.engines.options import HFOptions, read_options

    options = read_options(settings.engine, settings.engine_options)
    if not isinstance(options, HFOptions):
        options = HFOptions(dtype=getattr(options, "dtype", "auto"))
    device, dtype = place(options, model.config)
    return device, dtype, packing_of(model, device, dtype, options.gpus)


def _outline_task(plan: TaskPlan, model: Model, device: str, dtype: str, packing: Packing) -> dict[str, Any]:
    for doc in plan.docs:  # any keys will do: nothing is stored
        doc.requests += [turns.at_most(doc)] if doc.follow_up else []
        doc.keys = [hashlib.sha256(request.content()).hexdigest() for request in doc.requests]
    packs = plan.packs(packing)
    needs = _cost(packs, model) if isinstance(model, RemoteModel) else _machine(packs, model, device, dtype, packing)
    return {
        "task": plan.card.name,
        "form": plan.card.form,
        "docs": len(plan.docs),
        "docs_in_all": plan.n_docs,
        "shots": plan.lm.shots,
        "requests": sum(len(doc.requests) for doc in plan.docs),
        "tokens": sum(pack.tokens for pack in packs),
        "longest": max((request.tokens for doc in plan.docs for request in doc.requests), default=0),
        **needs,
        "data": plan.lm.dataset.origin,
    }


def _cost(packs: Sequence[Pack], model: RemoteModel) -> dict[str, Any]:
    """What an endpoint's answers cost at most, about, where its prices are given."""
    from estbench.engines import prices

    known = prices.of(model.options, model.name)
    used = prices.estimate([request for pack in packs for request in pack.requests], model.options)
    return {"memory_bytes": None, "seconds": None, "cost": round(known.most(*used), 4) if known else None}


def _machine(packs: Sequence[Pack], model: Checkpoint, device: str, dtype: str, packing: Packing) -> dict[str, Any]:
    """Memory and time that this model needs, about."""
    size = memory.BYTES.get(dtype, 4)
    token = memory.kv_bytes(model.config, size) + memory.activation_bytes(model.config, size)
    logits = memory.logits_bytes(model.config, size)
    largest = 0
    for pack in packs:
        if pack.scores:  # distinct tokens are forwarded, and have logits where a continuation's token follows
            nodes = min(pack.tokens, max(packing.nodes, *(request.tokens for request in pack.requests)))
            positions = min(nodes, sum(request.positions for request in pack.requests))
            largest = max(largest, (nodes + max(pack.stem, default=0)) * token + positions * logits)
        else:
            rows = len(pack.requests)
            largest = max(largest, rows * (max(request.tokens for request in pack.requests) * token + logits))
    tokens = sum(pack.tokens for pack in packs)
    return {
        "memory_bytes": model.parameters * size + largest,
        "seconds": round(2 * model.parameters * tokens / FLOPS["cpu" if device == "cpu" else "gpu"], 1),
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
                "memory": gigabytes(row["memory_bytes"] or 0),
                "time": duration(row["seconds"] or 0),
            }
            for row in rows
        ]
        if plan["total"]["memory_bytes"] is None:  # an endpoint: it is not this machine that computes
            columns = {key: head for key, head in columns.items() if key not in ("memory", "time")}
            columns |= {"cost": ">cost at most"} if plan["total"]["cost"] is not None else {}
        parts += [report.listing(shown, columns), ""]
    if plan["missing"]:
        parts += ["Missing:", *(f"  {row['part']}: {row['reason']}" for row in plan["missing"])]
        parts.append("`estbench pull` with the same words fetches what can be fetched; missing=skip goes on without.")
    else:
        parts.append("Nothing is missing.")
    return "\n".join(parts)


def prompt(settings: ShowSettings) -> dict[str, Any]:
    """One document's prompt: text, and with a model its token ids, BOS count and stops."""
    from estbench import engines
    from estbench.lm_tasks import LmTask

    card = registry.Registry.of(settings).task(settings.task)
    folder = Path(settings.data).expanduser() if settings.data else None
    tokens: Tokens | None = None
    if settings.model or settings.engine == "openai":
        asked = EvalSettings(settings.model or "", engine=settings.engine, engine_options=settings.engine_options)
        model = engines.find_model(asked, fetch=settings.engine != "openai")
        tokens = engines.tokens_of(asked, model)
        if isinstance(model, RemoteModel) and (why := model.cannot(card)):
            raise ConfigError(f"{card.name}: {why}.")
        if card.form == "chat" and not model.has_chat_template:
            raise ModelError(
                f"{card.name} is in chat form and {model.name} has no chat template: choose a completion task."
            )
    lm = LmTask(card, data_dir=folder, shots=settings.shots, seed=settings.seed)
    if settings.doc >= len(lm.docs):
        raise ConfigError(f"{card.name} has {len(lm.docs):,} documents: doc= goes from 0 to {len(lm.docs) - 1}.")
    chat = with_system(tokens.chat, settings.prompt_options.get("system")) if tokens and card.form == "chat" else None
    for doc_id in range(settings.doc if lm.draws_shots else 0):
        lm.render(doc_id, chat)  # random shots advance document by document
    rendered = lm.render(settings.doc, chat)
    view: dict[str, Any] = {
        "task": card.name,
        "doc": settings.doc,
        "form": card.form,
        "template": ("the endpoint's own" if tokens and tokens.sends_messages else "the model's chat template")
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
    if follow_up := turns.follow_up_of(card, lm.docs[settings.doc], lm.shots):
        view["follow_up"] = follow_up  # asked once the first answer is there
    if tokens and tokens.sends_messages:
        return view | {"messages": json.loads(rendered.prompt)}
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
    said = [f"{message['role']}:\n{message['content']}" for message in view.get("messages", ())]
    for context in said or view["contexts"] or [view["prompt"]]:  # several where options are contexts of one ending
        lines += [context, rule]
    if "follow_up" in view:
        lines += [f"once that is answered, the user says: {view['follow_up']}", rule]
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
