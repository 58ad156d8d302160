"""Models, runs, scores, items, responses, lists and prompts."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

Word = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
SHARED = ("docs", "doc_ids", "clusters", "prompts", "asked", "targets")


def upgrade() -> None:
    _models_and_runs()
    _lists_and_tasks()
    _scores()
    item = [sa.Column(name, sa.Integer, nullable=False) for name in ("n", "width")]
    mask = sa.Column("present", sa.LargeBinary)
    _of_a_task("items", sa.Column("metric", Word, nullable=False), *item, sa.Column("kind", Word, nullable=False), mask)
    _of_a_task("responses", sa.Column("block", sa.Integer, nullable=False))


def _models_and_runs() -> None:
    op.create_table(
        "models",
        sa.Column("fingerprint", Word, nullable=False),
        sa.Column("name", Word, nullable=False),
        *(sa.Column(name, Word) for name in ("path", "revision")),
        *(sa.Column(name, sa.BigInteger) for name in ("parameters", "bytes")),
        sa.Column("card", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("fingerprint", name="pk_models"),
    )
    op.create_table(
        "runs",
        *(sa.Column(name, Word, nullable=False) for name in ("id", "model", "name", "created")),
        sa.Column("seconds", sa.Double),
        sa.Column("partial", sa.Boolean, nullable=False),
        *(sa.Column(name, Word) for name in ("slice", "response_identity", "plan_identity", "result_identity")),
        *(sa.Column(name, sa.JSON, nullable=False) for name in ("suites", "engine", "manifest")),
        sa.PrimaryKeyConstraint("id", name="pk_runs"),
        sa.ForeignKeyConstraint(["model"], ["models.fingerprint"], name="fk_runs_model"),
    )
    op.create_index("ix_runs_model", "runs", ["model"])
    op.create_index("ix_runs_created", "runs", ["created"])


def _lists_and_tasks() -> None:
    for name, content in (("lists", "data"), ("prompts", "text")):
        op.create_table(
            name,
            sa.Column("hash", Word, nullable=False),
            sa.Column(content, sa.LargeBinary, nullable=False),
            sa.PrimaryKeyConstraint("hash", name=f"pk_{name}"),
        )
    op.create_table(
        "run_tasks",
        *(sa.Column(name, Word, nullable=False) for name in ("run_id", "task")),
        *(sa.Column(name, sa.Integer, nullable=False) for name in ("position", "n")),
        *(sa.Column(name, sa.Integer) for name in ("n_docs", "n_planned")),
        *(sa.Column(name, Word) for name in ("plan_hash", "skill", "form", "language")),
        sa.Column("chance", sa.Double),
        sa.Column("primary_metric", Word),
        sa.Column("shots", sa.Integer),
        sa.Column("publish_items", sa.Boolean, nullable=False),
        *(sa.Column(name, Word) for name in SHARED),
        sa.Column("card", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("run_id", "task", name="pk_run_tasks"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_run_tasks_run_id", ondelete="CASCADE"),
        *(sa.ForeignKeyConstraint([name], ["lists.hash"], name=f"fk_run_tasks_{name}") for name in SHARED),
    )
    for name in ("task", *SHARED):
        op.create_index(f"ix_run_tasks_{name}", "run_tasks", [name])


def _scores() -> None:
    op.create_table(
        "scores",
        *(sa.Column(name, Word, nullable=False) for name in ("run_id", "task", "metric", "unit", "method")),
        *(sa.Column(name, sa.Double) for name in ("value", "ci_low", "ci_high", "chance")),
        *(
            sa.Column(name, sa.Integer, nullable=False)
            for name in ("position", "n", "n_planned", "parse_failures", "errors")
        ),
        *(sa.Column(name, sa.Boolean, nullable=False) for name in ("higher_is_better", "primary")),
        *(sa.Column(name, Word) for name in ("signature", "reason")),
        sa.PrimaryKeyConstraint("run_id", "task", "metric", name="pk_scores"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_scores_run_id", ondelete="CASCADE"),
    )
    op.create_index("ix_scores_task_metric", "scores", ["task", "metric"])


def _of_a_task(table: str, part: sa.Column[Any], *columns: sa.Column[Any]) -> None:
    """A table of blobs, each a part of what belongs to a task of a run."""
    op.create_table(
        table,
        *(sa.Column(name, Word, nullable=False) for name in ("run_id", "task")),
        part,
        *columns,
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("run_id", "task", part.name, name=f"pk_{table}"),
        sa.ForeignKeyConstraint(
            ["run_id", "task"],
            ["run_tasks.run_id", "run_tasks.task"],
            name=f"fk_{table}_run_id_task",
            ondelete="CASCADE",
        ),
    )
