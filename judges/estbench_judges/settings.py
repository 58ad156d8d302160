"""What `estbench judge` can be told: fields that carry their own help, with the verbs that a key is for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from estbench.config import option
from estbench.errors import ConfigError
from estbench_judges.judging import SET, Wishes
from estbench_judges.rubrics import LANGUAGES, MODES


@dataclass(frozen=True)
class JudgeSettings:
    """What the verbs of `estbench judge` can be told."""

    run: str | None = option("a run's id (its first letters are enough) or folder; several with commas", None)
    judge: str | None = option("who judges: MODEL@URL, URL, a checkpoint, a demo model", None)
    judges: str | None = option("a panel: several of these with commas, or a panel.yaml", None)
    judge_options: dict[str, str] = option(  # noqa: RUF009  a dataclass field
        "judge.KEY=VALUE: options of the judges' engines, docs/engines.md", dict
    )
    task: str | None = option("tasks with commas; default is what awaits a judge", None)
    rubric: str | None = option("a rubric's name or file; default is the task's own", None)
    mode: str | None = option("how; default is the task's own, or the rubric's first", None, choices=MODES)
    anchor: str = option("pairwise: compared with `set` (the prompt set's own answers) or a run", SET)
    language: str = option("of the judge's instructions", "et", choices=LANGUAGES)
    reasons: bool = option("the judge writes a reason before its verdict", True)
    temperature: float = option("of the judge's sampling; 0 is greedy", 0.0)
    repeats: int = option("verdicts that are averaged, with temperature= above 0", 1, least=1)
    structured: bool = option("ask the endpoint to hold answers to the JSON schema", True)
    least: int | None = option(
        "valid votes that a document needs; default is more than half of the panel", None, least=1
    )
    max_cost: float | None = option("stop before all judges together cost more", None)
    replay: bool = option("take everything from the store, ask nobody", False)
    labels: str | None = option("calibrate, label: the file with people's votes", None)
    limit: int | None = option("attack, label: at most N documents, by hash order", None, least=1)
    rater: str | None = option("label: who votes; asked on the page if not given", None)
    port: int = option("label: of the page on 127.0.0.1", 8123, least=0)
    seed: int = option("label: of the order of questions and sides; table: of the bootstrap", 0)
    data: str | None = option("folder with another copy of the data sets than the run was made with", None)
    database: str | None = option("database to index the run in; default is SQLite in ESTBENCH_HOME", None)
    output: str | None = option("table or json", None, choices=("table", "json"))

    def __post_init__(self) -> None:
        if self.judge and self.judges:
            raise ConfigError("judge= and judges= are two answers to one question: leave one out.")
        if not 0 <= self.temperature <= 2:
            raise ConfigError(f"temperature={self.temperature} has to be from 0 to 2.")
        if self.max_cost is not None and not 0 <= self.max_cost < float("inf"):
            raise ConfigError(f"max_cost={self.max_cost} has to be a number from 0 up.")

    @property
    def panel(self) -> str:
        """The judges as typed; ConfigError if there are none."""
        if found := self.judges or self.judge:
            return found
        raise ConfigError(
            "judge= is missing: MODEL@URL (qwen3@http://127.0.0.1:8000/v1), a checkpoint, or judges=a,b,c."
        )

    @property
    def wishes(self) -> Wishes:
        """How tasks are judged."""
        return Wishes(
            rubric=self.rubric,
            mode=self.mode,
            anchor=self.anchor,
            language=self.language,
            reasons=self.reasons,
            repeats=self.repeats,
            temperature=self.temperature,
            structured=self.structured,
            least=self.least,
            data=Path(self.data).expanduser() if self.data else None,
        )
