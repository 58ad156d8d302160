"""Where the two sides of a gate come from: stored runs, baseline files, URLs, and models that are evaluated now.

    asked = Asked(tasks, engine, …)                       how models are evaluated that have no run yet
    baseline = find("baselines/main.json", asked, say)    stored, or evaluated
    baseline = again(baseline, candidate, fatal, say)     asked as the candidate was, if its weights are here

Stored runs need no torch; only a model does.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from estbench import evidence
from estbench.compare import Problem
from estbench.config import EvalSettings
from estbench.errors import ConfigError, UserError
from estbench.evidence import Evidence

Say = Callable[[str], None]
SAME_AGAIN = {"engine", "prompts", "scorer", "form"}  # what asking anew can mend; other data it can't
NOT_OF_THE_RUN = {"model", "name", "revision", "slice", "output", "database", "plan"}


@dataclass(frozen=True)
class Asked:
    """How a model is evaluated: as typed, else as the other side was."""

    tasks: str | None = None
    given: dict[str, Any] = field(default_factory=dict)  # settings of an eval that were typed
    like: Evidence | None = None

    def settings(self, model: str) -> EvalSettings:
        """The settings of an eval of a model. ConfigError without tasks."""
        before = dict(self.like.manifest.get("settings") or {}) if self.like else {}
        kept = {key: value for key, value in before.items() if key not in NOT_OF_THE_RUN}
        if "engine" in self.given and self.given["engine"] != kept.get("engine", "hf"):
            kept.pop("engine_options", None)
        tasks = self.tasks or kept.get("tasks")
        if not tasks:
            raise ConfigError("tasks: neither the policy nor the other side says which; name them in the policy.")
        return EvalSettings(**{**kept, **self.given, "tasks": tasks, "model": model})


def is_model(word: str) -> bool:
    """Whether a word means a model that is evaluated, and not a stored run."""
    from estbench.demo import MODELS

    path = Path(word).expanduser()
    if word in MODELS:
        return True
    if path.exists():
        return path.is_dir() and (path / "config.json").exists() and not (path / "manifest.json").exists()
    hub = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", word) is not None
    return hub and not word.endswith((".json", ".yaml")) and not evidence.known(word)


def find(word: str, asked: Asked, say: Say, database: str | None = None) -> Evidence:
    """A stored run or baseline, or the run of a model that is evaluated now (what it answered before is not asked)."""
    if not is_model(word):
        return evidence.load(word)
    return evaluate(asked.settings(word), say, database)


def evaluate(settings: EvalSettings, say: Say, database: str | None) -> Evidence:
    """Evaluate a model and index its run."""
    from estbench import report, runner
    from estbench.commands import index

    say(f"{settings.model} is evaluated.")
    job = runner.prepare(settings, say)
    with report.ProgressBar() as bar:
        run = runner.evaluate(job, say=say, progress=bar)
    index(run, database)
    return evidence.of_run(run)


def again(
    baseline: Evidence, candidate: Evidence, fatal: Sequence[Problem], say: Say, database: str | None = None
) -> Evidence | None:
    """The baseline's weights asked as the candidate was, where nothing but that keeps the two apart; None if its
    weights are not here."""
    if not fatal or not {problem.kind for problem in fatal} <= SAME_AGAIN:
        return None
    place = _weights(baseline, candidate)
    if place is None:
        return None
    say(f"{baseline.name} was asked otherwise ({fatal[0]}); its weights are in {place}, and it is asked again.")
    settings = Asked(like=candidate).settings(place)
    return evaluate(dataclasses.replace(settings, name=baseline.name), say, database)


def _weights(baseline: Evidence, candidate: Evidence) -> str | None:
    """Where the very weights of a baseline can be read."""
    from estbench import checkpoint

    if (candidate.manifest.get("settings") or {}).get("engine") == "openai":
        return None
    model = baseline.manifest["model"]
    for word, revision in ((model.get("path"), None), (model.get("name"), model.get("revision"))):
        if not word:
            continue
        try:
            found = checkpoint.find(str(word), revision, fetch=False)
        except UserError:
            continue
        if found.fingerprint() == model.get("hashes"):
            return str(found.path)
    return None


def refusal(baseline: Evidence, candidate: Evidence, fatal: Sequence[Problem]) -> ConfigError:
    """Why two runs can't be compared, in one line."""
    kinds = ", ".join(dict.fromkeys(problem.kind for problem in fatal))
    shown = "; ".join(str(problem) for problem in fatal[:3])
    more = f"; and {len(fatal) - 3} more" if len(fatal) > 3 else ""
    here = "" if {problem.kind for problem in fatal} - SAME_AGAIN else "; its weights are not here to ask again"
    return ConfigError(
        f"{candidate.name} and {baseline.name} are not comparable in {kinds}: {shown}{more}{here}. Evaluate both the "
        "same way, or make a new baseline."
    )
