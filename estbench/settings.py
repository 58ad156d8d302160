"""What each command can be told: a dataclass a command, whose fields carry their own help (that of `eval`: config)."""

from __future__ import annotations

from dataclasses import dataclass

from estbench import config
from estbench.config import option


@dataclass(frozen=True)
class ShowSettings:
    """What `estbench show` can be told."""

    task: str = option("a task")
    doc: int = option("which document, counted from 0", 0, least=0)
    model: str | None = option("a checkpoint: shows its token ids, BOS and template", None)
    engine: str = option("openai: what an endpoint would be sent; it is asked nothing", "hf", choices=config.ENGINES)
    engine_options: dict[str, str] = option("engine.KEY=VALUE, as for eval", dict)  # noqa: RUF009  a dataclass field
    prompt_options: dict[str, str] = option("prompt.system=TEXT, as for eval", dict)  # noqa: RUF009
    shots: int | None = option("examples in the prompt", None, least=0)
    seed: int = option("seed of the shots", 1234)
    data: str | None = option("folder with offline copies of the data sets (or ESTBENCH_DATA); samples: ours", None)
    include: str | None = option("folder with lm-eval task files of others", None)
    trust_task_code: str | None = option("folder of theirs whose Python may run", None)
    form: str | None = option("how a task of others is asked; completion unless said", None, choices=config.FORMS)
    output: str | None = option("table or json", None, choices=("table", "json"))


@dataclass(frozen=True)
class TasksSettings:
    """What `estbench tasks` can be told."""

    task: str | None = option("print this task's card", None)
    tasks: str | None = option("check: these tasks and suites; default is all", None)
    data: str = option("check: folder with offline copies of the data sets; samples: ours", "samples")
    include: str | None = option("folder with lm-eval task files of others, listed and checked like ours", None)
    trust_task_code: str | None = option("folder of theirs whose Python may run", None)
    output: str | None = option("table or json", None, choices=("table", "json"))


@dataclass(frozen=True)
class RunsSettings:
    """What `estbench runs` can be told."""

    run: str | None = option("show, export: the run's id (its first letters are enough) or folder", None)
    to: str | None = option("export: a new folder, or a file that ends in .tar.gz", None)
    private: bool = option("export: with the items of tasks that may not be published", False)
    form: str = option("export: a run folder, or Every Eval Ever files", "folder", choices=("folder", "eee"))
    model: str | None = option("list: only this model", None)
    task: str | None = option("list: only runs with it; show: its groups and error types", None)
    data: str | None = option("show: folder with offline copies of the data sets (or ESTBENCH_DATA)", None)
    most: int = option("list: at most this many, newest first", 20, least=1)
    database: str | None = option("database; default is SQLite in ESTBENCH_HOME", None)
    output: str | None = option("table or json", None, choices=("table", "json"))


@dataclass(frozen=True)
class DataSettings:
    """What `estbench data` can be told."""

    tasks: str | None = option("the data of these tasks and suites; default is all", None)
    data: str | None = option("folder with offline copies (or ESTBENCH_DATA), or samples", None)
    remote: bool = option("verify: fetch what the Hub has, compare it with the lock, render all tasks of it", False)
    update: bool = option("pull: accept what the Hub has now in place of what the lock says", False)
    output: str | None = option("table or json", None, choices=("table", "json"))


@dataclass(frozen=True)
class ScoreSettings:
    """What `estbench score` can be told."""

    task: str = option("a task that is answered by generation")
    outputs: str = option("answers: JSON lines {doc_id, response}, or a line a document")
    gold: str | None = option("an M2 file in place of the task's documents, or golds that are withheld", None)
    data: str | None = option("folder with offline copies of the data sets (or ESTBENCH_DATA); samples: ours", None)
    name: str | None = option("what to call the answers' maker", None)
    output: str | None = option("table or json", None, choices=("table", "json"))


@dataclass(frozen=True)
class ContaminationSettings:
    """What `estbench contamination` can be told."""

    corpus: str = option("a file, a folder, or a pattern in quotes: JSONL, plain text, Parquet; .gz and .zst of them")
    tasks: str | None = option("suites and tasks, with commas; default is the run's", None)
    run: str | None = option("a run: its scores on clean and dirty documents", None)
    near: bool = option("look for near-duplicates, too (slower)", False)
    field: str = option("where JSONL and Parquet have the text", "text")
    processes: int | None = option("processes that read; default is one a core", None, least=1)
    data: str | None = option("folder with offline copies of the data sets (or ESTBENCH_DATA); samples: ours", None)
    output: str | None = option("table or json", None, choices=("table", "json"))


@dataclass(frozen=True)
class CometSettings:
    """What `estbench comet` can be told."""

    run: str = option("the run's id (its first letters are enough) or folder")
    task: str | None = option("one of its translation tasks; default is all of them", None)
    model: str = option("owner/name on the Hub, fetched before, or a folder", "Unbabel/wmt22-comet-da")
    accept_licence: str | None = option("name of a model that is for non-commercial use only", None)
    device: str = option("what computes", "auto", choices=("auto", "cpu", "cuda"))
    batch: int = option("segments at once", 16, least=1)
    data: str | None = option("folder with offline copies of the data sets; default is the run's own", None)
    output: str | None = option("table or json", None, choices=("table", "json"))


@dataclass(frozen=True)
class ParitySettings:
    """What `estbench parity` can be told."""

    model: str = option("a checkpoint's folder, owner/name on the Hub, or a demo model")
    tasks: str = option("suites and tasks, with commas")
    engines: str = option("two engines, each with options behind colons: hf,hf:dtype=bfloat16", "hf,vllm")
    limit: int | None = option("at most N documents a task, by hash order", 50, least=1)
    tolerance: float = option("nats that a log-likelihood, or the margin of a choice that turns, may differ by", 0.01)
    equal: float = option("the least share of generated texts that have to be equal", 0.9)
    shots: int | None = option("examples in the prompt; each task has its own number", None, least=0)
    seed: int = option("seed of the shots", 1234)
    revision: str | None = option("a Hub model's commit, branch or tag", None)
    data: str | None = option("folder with offline copies of the data sets (or ESTBENCH_DATA); samples: ours", None)
    include: str | None = option("folder with lm-eval task files of others; their names may stand in tasks=", None)
    trust_task_code: str | None = option("folder of theirs whose Python may run", None)
    form: str | None = option("how tasks of others are asked; completion unless said", None, choices=config.FORMS)
    output: str | None = option("table or json", None, choices=("table", "json"))


@dataclass(frozen=True)
class EnvSettings:
    """What `estbench env` can be told."""

    variant: str | None = option("install vllm: cpu or cuda; default is what fits this machine", None)
    model: str | None = option("install comet: fetch this COMET model, too", None)
    accept_licence: str | None = option("install comet: name of a model that is for non-commercial use only", None)
    output: str | None = option("table or json", None, choices=("table", "json"))


@dataclass(frozen=True)
class CompareSettings:
    """What `estbench compare` can be told."""

    tasks: str | None = option("suites and tasks, with commas; default is all that both have", None)
    metric: str | None = option("another metric than each task's primary one", None)
    flips: int = option("show so many documents a task on which the two differ", 0, least=0)
    output: str | None = option("table or json", None, choices=("table", "json"))


@dataclass(frozen=True)
class ReportSettings:
    """What `estbench report` can be told."""

    runs: str = option("runs and baseline files, with commas")
    tasks: str | None = option("suites and tasks, with commas; default is all that the runs have", None)
    reference: str | None = option("published figures to show in grey: estllm, euroeval", None)
    output: str | None = option("what to write", "markdown", choices=("latex", "markdown", "csv", "json"))


@dataclass(frozen=True)
class GateSettings:
    """What `estbench gate` can be told."""

    policy: str = option("a policy file, or core, core_base, checkpoint, mini")
    candidate: str | None = option("a run (id or folder), or a model that is evaluated now", None)
    model: str | None = option("a model to evaluate and decide on, look by look (with budget=)", None)
    baseline: str | None = option("a run, a baseline (file, name or URL) or a model; default is the policy's", None)
    budget: str | None = option("model=: at most so many documents (5000), or minutes (30m)", None)
    runs: str | None = option("calibrate, noise: runs with commas or patterns", None)
    simulations: int = option("calibrate: simulated nights", 1000, least=100)
    svg: str | None = option("calibrate: write the power curve to this file", None)
    engine: str | None = option("of a model: what computes", None, choices=config.ENGINES)
    engine_options: dict[str, str] = option("engine.KEY=VALUE, as for eval", dict)  # noqa: RUF009
    data: str | None = option("of a model: folder with offline copies of the data sets; samples: ours", None)
    limit: int | None = option("of a model: at most N documents a task, by hash order", None, least=1)
    junit: str | None = option("write JUnit XML to this file", None)
    markdown: str | None = option("write Markdown to this file", None)
    database: str | None = option("database to index runs of models in; default is SQLite in ESTBENCH_HOME", None)
    output: str | None = option("table or json", None, choices=("table", "json"))


@dataclass(frozen=True)
class BaselineSettings:
    """What `estbench baseline` can be told."""

    run: str | None = option("set: the run's id (its first letters are enough) or folder", None)
    folder: str = option("where baselines are kept", "baselines")
    private: bool = option("set: with tasks whose golds are withheld", False)
    output: str | None = option("table or json", None, choices=("table", "json"))


@dataclass(frozen=True)
class ServeSettings:
    """What `estbench serve` can be told."""

    database: str | None = option("database of the board; default is SQLite in ESTBENCH_HOME", None)
    host: str = option("address to listen at; 0.0.0.0 is every one of this machine", "127.0.0.1")
    port: int = option("port to listen at; 0 takes a free one", 8000, least=0)
    immutable: bool = option("a SQLite file that nobody writes to: read without locks, pages kept for an hour", False)
    url: str | None = option("public address of the board, for feeds, cite boxes and link previews", None)
    contact: str | None = option("whom readers and submitters can ask: an e-mail address or an https:// address", None)


@dataclass(frozen=True)
class ExportSettings:
    """What `estbench export` can be told."""

    database: str | None = option("database of the board; default is SQLite in ESTBENCH_HOME", None)
    url: str | None = option("public address that the files will have, for feeds, cite boxes and link previews", None)
    contact: str | None = option("whom readers and submitters can ask: an e-mail address or an https:// address", None)
    samples: int = option("pages of single answers a task, at most", 3, least=0)
    data: bool = option("with the public part of the database, to download", True)
