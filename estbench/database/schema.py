"""The tables.

    models      weights, by fingerprint; names as in the newest run
    runs        one model on one plan             run_tasks   a task of a run, and its plan
    scores      a metric over a task              items       the same metric doc by doc, as a packed array
    responses   answers and what the engine said, in blocks of BLOCK docs
    lists       what runs share about the docs of a task (hashes, clusters, prompts, targets), once by content
    prompts     prompt text, once by hash

Those come from run folders and can be made anew from them. What only the database knows belongs to the board:

    changes     one row: how often anything here was written
    facts       what people say of a model: licence, price, whether its weights are open
    decisions   append-only: hidden, shown, corrected, published, rejected, withdrawn, audited, marked; by whom and why
    submitters  who may send runs                 tokens      their keys, hashed
    submissions runs that came from outside, and how far they got

Pages about scores read models, runs, run_tasks, scores and the board's tables only; everything that grows with the
number of samples lies in the others.
A change here needs a revision in `migrations/versions`, and `HEAD` to name it.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
)

HEAD = "0002"  # the newest revision
VERSION_TABLE = "estbench_revision"  # not Alembic's default: the database may be shared with other programs
BLOCK = 256  # docs in a row of responses: large enough to compress well, small enough to read for one sample

# Text that is compared and sorted: by code point on both engines, whatever the locale of the server is.
Word = Text().with_variant(Text(collation="C"), "postgresql")
Json = JSON(none_as_null=True)

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

models = Table(
    "models",
    metadata,
    Column("fingerprint", Word, primary_key=True),
    Column("name", Word, nullable=False),
    Column("path", Word),
    Column("revision", Word),
    Column("parameters", BigInteger),
    Column("bytes", BigInteger),
    Column("card", Json, nullable=False),  # `model` of the newest run's manifest
)

runs = Table(
    "runs",
    metadata,
    Column("id", Word, primary_key=True),
    Column("model", Word, ForeignKey("models.fingerprint"), nullable=False, index=True),
    Column("name", Word, nullable=False),
    Column("created", Word, nullable=False, index=True),  # UTC, YYYY-MM-DDTHH:MM:SS.ffffffZ: sorts as text
    Column("seconds", Double),
    Column("partial", Boolean, nullable=False),
    Column("slice", Word),
    Column("response_identity", Word),
    Column("plan_identity", Word),
    Column("result_identity", Word),
    Column("suites", Json, nullable=False),
    Column("engine", Json, nullable=False),
    Column("manifest", Json, nullable=False),
)


def _list(name: str) -> Column[str]:
    return Column(name, Word, ForeignKey("lists.hash"), index=True)


run_tasks = Table(
    "run_tasks",
    metadata,
    Column("run_id", Word, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("task", Word, primary_key=True, index=True),
    Column("position", Integer, nullable=False),  # in the plan's order
    Column("n", Integer, nullable=False),  # samples held here, failed ones among them
    Column("n_docs", Integer),  # docs of the data set
    Column("n_planned", Integer),
    Column("plan_hash", Word),
    Column("skill", Word),
    Column("form", Word),
    Column("language", Word),
    Column("chance", Double),
    Column("primary_metric", Word),
    Column("shots", Integer),
    Column("publish_items", Boolean, nullable=False),
    _list("docs"),  # doc hashes in order of doc_id; None: scores without samples
    _list("doc_ids"),
    _list("clusters"),  # None: the task has none
    _list("prompts"),  # prompt hashes
    _list("asked"),  # hashes of what is asked, before the model's template and tokenizer
    _list("targets"),
    Column("tokens", BigInteger),  # of all prompts here, and the words in them; None: not known
    Column("words", BigInteger),
    Column("card", Json, nullable=False),  # the task's part of the manifest: title, licence, data, scorer, ...
)

SHARED = ("docs", "doc_ids", "clusters", "prompts", "asked", "targets")  # the columns of run_tasks that point to lists


def _of_a_task() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["run_id", "task"], ["run_tasks.run_id", "run_tasks.task"], ondelete="CASCADE")


scores = Table(
    "scores",
    metadata,
    Column("run_id", Word, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("task", Word, primary_key=True),  # also one that was skipped, which run_tasks lacks
    Column("metric", Word, primary_key=True),
    Column("position", Integer, nullable=False),
    Column("value", Double),
    Column("ci_low", Double),
    Column("ci_high", Double),
    Column("n", Integer, nullable=False),
    Column("n_planned", Integer, nullable=False),
    Column("chance", Double),
    Column("parse_failures", Integer, nullable=False),
    Column("errors", Integer, nullable=False),
    Column("unit", Word, nullable=False),
    Column("higher_is_better", Boolean, nullable=False),
    Column("primary", Boolean, nullable=False),
    Column("method", Word, nullable=False),
    Column("signature", Word),
    Column("reason", Word),
    Index(None, "task", "metric"),
)

items = Table(
    "items",
    metadata,
    Column("run_id", Word, primary_key=True),
    Column("task", Word, primary_key=True),
    Column("metric", Word, primary_key=True),
    Column("n", Integer, nullable=False),  # docs that have a value
    Column("kind", Word, nullable=False),  # u1, i4, i8, f8 (little-endian) or json
    Column("width", Integer, nullable=False),  # k of (n, k) statistics; 0: one number a doc
    Column("present", LargeBinary),  # bit a doc: has a value; None: all have
    Column("data", LargeBinary, nullable=False),  # zlib
    _of_a_task(),
)

responses = Table(
    "responses",
    metadata,
    Column("run_id", Word, primary_key=True),
    Column("task", Word, primary_key=True),
    Column("block", Integer, primary_key=True, autoincrement=False),  # position of the doc // BLOCK
    Column("data", LargeBinary, nullable=False),  # zlib of JSON lines
    _of_a_task(),
)

lists = Table(
    "lists",
    metadata,
    Column("hash", Word, primary_key=True),
    Column("data", LargeBinary, nullable=False),  # zlib of a JSON list
)

prompts = Table(
    "prompts",
    metadata,
    Column("hash", Word, primary_key=True),
    Column("text", LargeBinary, nullable=False),  # zlib of UTF-8
)


# ---- what run folders do not know

board = MetaData(naming_convention=metadata.naming_convention)

changes = Table(
    "changes",
    board,
    Column("id", Integer, primary_key=True, autoincrement=False),  # always 1
    Column("count", BigInteger, nullable=False),
)

facts = Table(
    "facts",
    board,
    Column("model", Word, primary_key=True),  # fingerprint
    Column("facts", Json, nullable=False),
    Column("updated", Word, nullable=False),
)

decisions = Table(
    "decisions",
    board,
    Column("id", Integer, primary_key=True),
    Column("created", Word, nullable=False),
    Column("actor", Word, nullable=False),
    Column("action", Word, nullable=False),
    Column("run", Word, index=True),  # what it is about: a run, a model (fingerprint), a task, or a task of a model
    Column("model", Word, index=True),
    Column("task", Word),
    Column("submission", Word, index=True),
    Column("reason", Word, nullable=False),
    Column("public", Boolean, nullable=False),
    Column("details", Json),
)

submitters = Table(
    "submitters",
    board,
    Column("id", Word, primary_key=True),
    Column("name", Word, nullable=False, unique=True),  # shown on the board
    Column("contact", Word),  # never shown
    Column("created", Word, nullable=False),
)

tokens = Table(
    "tokens",
    board,
    Column("id", Word, primary_key=True),  # the public part of the token
    Column("submitter", Word, ForeignKey("submitters.id"), nullable=False, index=True),
    Column("hash", Word, nullable=False),  # SHA-256 of the secret part, which has 256 random bits
    Column("public_key", Word),  # Ed25519, base64; None until the first bundle binds one
    Column("scopes", Json, nullable=False),
    Column("created", Word, nullable=False),
    Column("expires", Word),
    Column("revoked", Word),
    Column("used", Word),
)

submissions = Table(
    "submissions",
    board,
    Column("id", Word, primary_key=True),
    Column("submitter", Word, ForeignKey("submitters.id"), nullable=False, index=True),
    Column("token", Word, ForeignKey("tokens.id"), nullable=False),
    Column("run", Word, nullable=False, index=True),
    Column("model_name", Word, nullable=False),
    Column("model", Word, nullable=False, index=True),  # fingerprint, as claimed
    Column("bundle", Word, nullable=False, unique=True),  # SHA-256: the same bundle is taken once
    Column("size", BigInteger, nullable=False),  # bytes
    Column("state", Word, nullable=False, index=True),  # received, rescored, rejected, published, withdrawn
    Column("badge", Word, nullable=False),  # claimed, rescored, audited
    Column("reason", Word),
    Column("created", Word, nullable=False),
    Column("updated", Word, nullable=False),
    Column("embargo", Word),  # not shown before
    Column("worker", Word),  # who rescores it, and until when nobody else does
    Column("lease", Word),
    Column("report", Json),
)
