"""What the API answers with, field by field: the schema at /api/v1/openapi.json is made of these.

Names are those of the database and of the pages' own JSON; a score is always beside its interval, n and chance.
"""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, Field

T = TypeVar("T")
BoardName = Literal["chat", "base", "checkpoints"]
Badge = Literal["operator", "audited", "rescored", "claimed"]
Judge = Annotated[
    str | None,
    Field(description="uncalibrated or calibrated: judges gave it, without or with people's votes behind them"),
]


class Rows(BaseModel, Generic[T]):
    """A part of a list. The header `Link` names the parts before and after it."""

    version: Annotated[int, Field(description="of the database: the same version has the same answers")]
    total: int
    limit: int
    offset: int
    rows: list[T]


class ScoreOut(BaseModel):
    """A metric over a task, with the evidence for it."""

    run: str
    model: Annotated[str, Field(description="fingerprint of the weights")]
    name: Annotated[str, Field(description="of the model")]
    task: str
    metric: str
    value: Annotated[float | None, Field(description="null: missing, see reason")]
    ci_low: Annotated[float | None, Field(description="95 % interval")]
    ci_high: float | None
    n: Annotated[int, Field(description="documents that the value is made of")]
    n_planned: int
    chance: Annotated[float | None, Field(description="what guessing gives, in the same unit")]
    parse_failures: Annotated[int, Field(description="answers in which no answer could be found; they count as wrong")]
    errors: Annotated[int, Field(description="documents without a response: missing, not part of n")]
    unit: Annotated[str, Field(description="proportion (0 to 1), points (0 to 100) or bits")]
    higher_is_better: bool
    primary: bool
    method: Annotated[str, Field(description="how the interval was made")]
    signature: str | None
    judge: Judge
    reason: str | None


class Cell(BaseModel):
    """A model's primary score in a task, and why it does not count if it does not."""

    run: str | None
    value: float | None
    ci_low: float | None
    ci_high: float | None
    n: int | None
    judge: Judge
    reason: Annotated[str | None, Field(description="null: it counts for the rank")]
    flags: list[str]


class ModelRow(BaseModel):
    """A model on one board. Chat and base boards are never one rank."""

    slug: str
    name: str
    fingerprint: str
    board: BoardName
    badge: Badge
    submitter: str | None
    ranked: Annotated[bool, Field(description="whether it takes part in ranks")]
    reference: Annotated[bool, Field(description="figures of others, not measured here")]
    withdrawn: Annotated[str | None, Field(description="a tombstone: why")]
    parameters: int | None
    bytes: int | None
    tokens_per_word: float | None
    remote: Annotated[bool, Field(description="behind an endpoint: nobody here has seen its weights")]
    created: Annotated[str, Field(description="of its newest run, UTC")]
    facts: Annotated[
        dict[str, Any], Field(description="licence, commercial, open_weights, organisation, price_in, ...")
    ]
    runs: list[str]


class Rank(BaseModel):
    """A place under the board's own tasks and weights."""

    low: Annotated[int, Field(description="95 % interval of the rank: from")]
    high: Annotated[int, Field(description="to")]
    of: Annotated[int, Field(description="models that have a rank")]
    klass: Annotated[int, Field(description="models of one class can't be told from its best")]
    score: Annotated[float, Field(description="0 is guessing, 1 the best possible")]
    ci_low: float | None
    ci_high: float | None
    judge: Judge


class ModelWhole(ModelRow):
    """A model with its scores and place."""

    rank: Rank | None
    unranked: Annotated[str | None, Field(description="why it has no rank")]
    training: dict[str, Any] | None
    scores: dict[str, Cell]


class TaskRow(BaseModel):
    """A task as its board ranks it: one version of it."""

    name: str
    board: BoardName
    title: dict[str, str]
    skill: str
    language: str
    metric: str
    unit: str
    higher_is_better: bool
    chance: float | None
    n_docs: int
    shots: int
    licence: str | None
    publish_items: Annotated[bool, Field(description="whether single documents may be seen")]
    ranks: Annotated[bool, Field(description="whether it counts if nobody chooses tasks")]


class TaskWhole(TaskRow):
    """A task with its card."""

    card: dict[str, Any]


class BoardRow(BaseModel):
    """A board."""

    name: BoardName
    models: int
    tasks: list[str]
    defaults: Annotated[list[str], Field(description="tasks that count if nobody chooses")]


class RunRow(BaseModel):
    """A run: one model on one plan."""

    id: str
    model: Annotated[str, Field(description="fingerprint of the weights")]
    name: str
    badge: Badge
    submitter: str | None
    created: str
    seconds: float | None
    partial: bool
    suites: list[str]
    tasks: list[str]
    result: Annotated[str | None, Field(description="result identity: equal for equal plans, answers and scorers")]
    observed: Annotated[str | None, Field(description="of a model behind an endpoint: when it was last seen")]


class RunTask(BaseModel):
    """A task of a run: what decides whether two runs can be compared."""

    task: str
    n: int
    n_planned: int | None
    plan_hash: str | None
    primary: str | None
    shots: int | None
    items: Annotated[bool, Field(description="whether single documents may be seen")]


class RunWhole(RunRow):
    """A run with its tasks and manifest."""

    plan: list[RunTask]
    manifest: dict[str, Any]


class SampleRow(BaseModel):
    """A document of a task of a run, with its value in the primary metric."""

    doc: Annotated[str, Field(description="hash of the data row")]
    value: Annotated[Any, Field(description="a number, or the statistics of a corpus metric")]
    cluster: str | None


class SampleWhole(BaseModel):
    """A document: prompt, answer, gold, scores. Texts are as they are: show them as text."""

    run: str
    task: str
    doc: str
    doc_id: int | None
    prompt: str | None
    target: Any
    answer: Any
    values: dict[str, Any]
    parse_failure: bool
    error: str | None
    responses: list[dict[str, Any]]
    votes: Annotated[list[dict[str, Any]], Field(description="what judges said of it, and in which order they saw it")]


class Failure(BaseModel):
    """What went wrong, in one sentence."""

    error: str
