"""What `estbench gate …` and `estbench baseline …` do once their settings are read."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from estbench import evidence, report
from estbench.commands import wants_table
from estbench.errors import ConfigError
from estbench.evidence import Evidence
from estbench.runs import Run, find_run

if TYPE_CHECKING:
    from estbench.gate.policy import Policy
    from estbench.gate.sources import Asked
    from estbench.gate.verdict import Verdict
    from estbench.settings import BaselineSettings, GateSettings

MODEL_KEYS = ("engine", "engine_options", "data", "limit")


def gate(settings: GateSettings) -> int:
    """Decide on a candidate; the exit code is the verdict."""
    from estbench.gate import looks, policy, reports, verdict

    rules = policy.read(settings.policy)
    files = [report.target(name) for name in (settings.junit, settings.markdown)]
    if settings.model and settings.candidate:
        raise ConfigError("candidate= and model= say the same: keep one.")
    word = settings.candidate or settings.model
    if not word:
        raise ConfigError("candidate= is missing: a run (id or folder), or a model's folder.")
    against = _baselines(settings, rules)
    extra: dict[str, Any] = {}
    if settings.budget:
        asked = _asked(settings, rules)
        found = looks.run(word, against, rules, settings.budget, asked, report.say, settings.database)
        verdicts, extra = found.verdicts, found.as_json()
    else:
        verdicts = _at_once(word, against, rules, settings)
    for file, text in zip(files, (reports.as_junit, reports.as_markdown), strict=True):
        if file:
            report.write(file, text(verdicts))
    lines = extra.pop("lines", [])
    if wants_table(settings.output):
        print("\n".join([reports.as_text(verdicts), *lines]))
    else:
        print(report.as_json(reports.as_json(verdicts) | extra))
    return verdict.worst(verdicts).exit_code


def _baselines(settings: GateSettings, rules: Policy) -> list[tuple[str, str]]:
    """What the candidate is compared with: (baseline or reference, its word)."""
    previous = settings.baseline or rules.previous
    pairs = [("baseline", previous)] if previous else []
    if rules.reference:
        pairs.append(("reference", rules.reference.baseline))
    if not pairs:
        raise ConfigError("baseline= is missing: a run, baseline file, URL or model; or `previous:` in the policy.")
    return pairs


def _asked(settings: GateSettings, rules: Policy, like: Evidence | None = None) -> Asked:
    """How models are evaluated: as typed, the policy's tasks, and else like the other side."""
    from estbench.gate.sources import Asked

    given = {key: value for key in MODEL_KEYS if (value := getattr(settings, key))}
    return Asked(",".join(rules.tasks) or None, given, like)


def _at_once(word: str, against: Sequence[tuple[str, str]], rules: Policy, settings: GateSettings) -> list[Verdict]:
    from estbench.gate import sources
    from estbench.gate.verdict import decide, obstacles

    database = settings.database
    stored = [evidence.load(name) if not sources.is_model(name) else None for _, name in against]
    like = next((one for one in stored if one), None)
    if all(stored) and not sources.is_model(word) and (typed := [key for key in MODEL_KEYS if getattr(settings, key)]):
        raise ConfigError(f"{typed[0]}= is for a model that is evaluated; these runs are stored: leave it out.")
    candidate = sources.find(word, _asked(settings, rules, like), report.say, database)
    verdicts = []
    for (kind, name), known in zip(against, stored, strict=True):
        own = rules if kind == "baseline" else rules.for_reference()
        baseline = known or sources.find(name, _asked(settings, rules, candidate), report.say, database)
        fatal, _ = obstacles(own, candidate, baseline)
        if fatal:
            baseline = sources.again(baseline, candidate, fatal, report.say, database) or baseline
            fatal, _ = obstacles(own, candidate, baseline)
        if fatal:
            raise sources.refusal(baseline, candidate, fatal)
        verdicts.append(decide(own, candidate, baseline, against=kind, alpha=rules.alpha / len(against)))
    return verdicts


def baseline_set(settings: BaselineSettings, names: list[str]) -> int:
    """Write a baseline file to commit."""
    if len(names) != 1 or not settings.run:
        raise ConfigError("Say what to call it, and which run: estbench baseline set NAME run=ID.")
    if not re.fullmatch(r"[\w][\w.-]*", names[0]):
        raise ConfigError(f"{names[0]!r} is no name for a file: letters, digits, . _ and - will do.")
    path = Path(settings.folder).expanduser() / f"{names[0]}.json"
    found = evidence.of_run(Run(find_run(settings.run)))
    left_out = evidence.save(found, path, private=settings.private)
    report.say(f"{found.id} -> {path} ({path.stat().st_size / 1e6:.2f} MB): commit it.")
    if left_out:
        report.say(f"Without {', '.join(left_out)}: the golds are withheld, and scores of single documents tell them.")
    return 0


def baseline_list(settings: BaselineSettings, names: list[str]) -> int:
    """The baseline files of the folder."""
    if names:
        raise ConfigError(f"{names[0]} is one word too many: `estbench baseline --help` shows what `list` takes.")
    rows = []
    for path in sorted(Path(settings.folder).expanduser().glob("*.json")):
        found = evidence.load(str(path))
        tasks = len(found.tasks)
        rows.append({"baseline": path.stem, "model": found.name, "run": found.id, "tasks": tasks,
                     "created": str(found.manifest.get("created", ""))[:16].replace("T", " ")})  # fmt: skip
    if not wants_table(settings.output):
        print(report.as_json(rows))
    elif not rows:
        print(f"No baselines in {settings.folder}. The first: estbench baseline set main run=ID")
    else:
        columns = {"baseline": "baseline", "model": "model", "run": "run", "tasks": ">tasks", "created": "run of (UTC)"}
        print(report.listing(rows, columns))
    return 0


def calibrate(settings: GateSettings) -> int:
    """How this policy behaves on these tasks."""
    from estbench.gate import calibration

    return calibration.command(settings)


def noise(settings: GateSettings) -> int:
    """How much scores move from one checkpoint to the next."""
    from estbench.gate import noise as of_steps

    return of_steps.command(settings)


GATE: dict[str, Callable[[GateSettings], int]] = {"run": gate, "calibrate": calibrate, "noise": noise}
BASELINE: dict[str, Callable[[BaselineSettings, list[str]], int]] = {"set": baseline_set, "list": baseline_list}
