"""What `estbench push` and each verb of `estbench board` can be told: fields that carry their own help."""

from __future__ import annotations

from dataclasses import dataclass

from estbench.config import ENGINES, option


@dataclass(frozen=True)
class PushSettings:
    """What `estbench push` can be told. The token is in the environment, ESTBENCH_TOKEN."""

    run: str = option("the run's id (its first letters are enough) or folder")
    url: str = option("the board, https://HOST")
    embargo: str | None = option("not shown before this day, YYYY-MM-DD", None)
    key: str | None = option(
        "file with the key that signs; default is push_key in ESTBENCH_HOME, made on first use", None
    )
    dry_run: bool = option("show what would become public, and how large it is; send nothing", False)
    output: str | None = option("table or json", None, choices=("table", "json"))


@dataclass(frozen=True)
class BoardSettings:
    """What the verbs of `estbench board` can be told; the help says to which verb a key belongs."""

    submission: str | None = option("moderate, withdraw, audit, rescore: the id of a submission", None)
    action: str | None = option("moderate: what to do", None, choices=("publish", "reject"))
    run: str | None = option("hide, show, correct, withdraw: a run's id", None)
    model: str | None = option(
        "hide, show, correct, mark, unmark, withdraw, describe: a model's name or fingerprint; audit: its weights", None
    )
    task: str | None = option("hide, show, correct, mark, unmark: a task", None)
    reason: str | None = option("why, in one line; all decisions but publish need one", None)
    details: str | None = option("correct: a JSON file with more, kept in the public log", None)
    private: bool = option("hide, show: keep it out of the public log", False)
    actor: str | None = option("who decides; default is who is logged in on this machine", None)
    state: str | None = option("submissions: only these", None)
    name: str | None = option("token new: whom the board names as sender", None)
    contact: str | None = option("token new: how to reach them; never shown", None)
    scopes: str = option("token new: submit, moderate, or both with a comma", "submit")
    days: int | None = option("token new: how long it holds; without it until it is revoked", None, least=1)
    key: str | None = option("token new: their Ed25519 public key, base64; without it the first bundle binds one", None)
    token: str | None = option("token revoke: its id", None)
    docs: int = option("audit: documents of each task that are drawn at random", 50, least=1)
    tolerance: float = option("audit: nats that a log-likelihood may differ by", 0.01)
    equal: float = option("audit: least share of documents of each task that have to agree", 0.9)
    engine: str = option("audit: what computes; openai for a model behind an endpoint", "hf", choices=ENGINES)
    engine_options: dict[str, str] = option("audit: engine.KEY=VALUE, as for eval", dict)  # noqa: RUF009
    revision: str | None = option("audit: a Hub model's commit, branch or tag", None)
    facts: str | None = option("describe: a YAML or JSON file with facts", None)
    licence: str | None = option("describe: the weights' licence", None)
    organisation: str | None = option("describe: who made the model", None)
    commercial: bool | None = option("describe: whether the licence allows commercial use", None)
    open_weights: bool | None = option("describe: whether everyone can have the weights", None)
    price_in: float | None = option("describe: price of a million tokens that are read, in euros", None)
    price_out: float | None = option("describe: price of a million tokens that are written, in euros", None)
    kind: str | None = option("describe: what the model is", None, choices=("chat", "base", "reference"))
    ours: bool | None = option("describe: whether the board's operators made it", None)
    once: bool = option("rescore: end when nothing is left, and do not wait for more", False)
    data: str | None = option("rescore, audit: folder with offline copies of the data sets (or ESTBENCH_DATA)", None)
    golds: str | None = option("rescore: folder with TASK.jsonl for tasks that withhold their golds", None)
    folder: str | None = option("where bundles and runs lie; default is board in ESTBENCH_HOME", None)
    database: str | None = option("database of the board; default is SQLite in ESTBENCH_HOME", None)
    output: str | None = option("table or json", None, choices=("table", "json"))
