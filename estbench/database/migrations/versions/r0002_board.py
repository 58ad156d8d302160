"""Tokens and words of prompts; facts, decisions, submitters, tokens and submissions; a count of changes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

Word = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column("run_tasks", sa.Column("tokens", sa.BigInteger))
    op.add_column("run_tasks", sa.Column("words", sa.BigInteger))
    _changes()
    _facts_and_decisions()
    _submitters()
    _submissions()


def _changes() -> None:
    op.create_table(
        "changes",
        sa.Column("id", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("count", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_changes"),
    )
    op.execute("INSERT INTO changes (id, count) VALUES (1, 0)")


def _facts_and_decisions() -> None:
    op.create_table(
        "facts",
        sa.Column("model", Word, nullable=False),
        sa.Column("facts", sa.JSON, nullable=False),
        sa.Column("updated", Word, nullable=False),
        sa.PrimaryKeyConstraint("model", name="pk_facts"),
    )
    op.create_table(
        "decisions",
        sa.Column("id", sa.Integer, nullable=False),
        *(sa.Column(name, Word, nullable=False) for name in ("created", "actor", "action")),
        *(sa.Column(name, Word) for name in ("run", "model", "task", "submission")),
        sa.Column("reason", Word, nullable=False),
        sa.Column("public", sa.Boolean, nullable=False),
        sa.Column("details", sa.JSON),
        sa.PrimaryKeyConstraint("id", name="pk_decisions"),
    )
    for name in ("run", "model", "submission"):
        op.create_index(f"ix_decisions_{name}", "decisions", [name])


def _submitters() -> None:
    op.create_table(
        "submitters",
        sa.Column("id", Word, nullable=False),
        sa.Column("name", Word, nullable=False),
        sa.Column("contact", Word),
        sa.Column("created", Word, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_submitters"),
        sa.UniqueConstraint("name", name="uq_submitters_name"),
    )
    op.create_table(
        "tokens",
        *(sa.Column(name, Word, nullable=False) for name in ("id", "submitter", "hash")),
        sa.Column("public_key", Word),
        sa.Column("scopes", sa.JSON, nullable=False),
        sa.Column("created", Word, nullable=False),
        *(sa.Column(name, Word) for name in ("expires", "revoked", "used")),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
        sa.ForeignKeyConstraint(["submitter"], ["submitters.id"], name="fk_tokens_submitter"),
    )
    op.create_index("ix_tokens_submitter", "tokens", ["submitter"])


def _submissions() -> None:
    op.create_table(
        "submissions",
        *(sa.Column(name, Word, nullable=False) for name in ("id", "submitter", "token", "run")),
        *(sa.Column(name, Word, nullable=False) for name in ("model_name", "model", "bundle")),
        sa.Column("size", sa.BigInteger, nullable=False),
        *(sa.Column(name, Word, nullable=False) for name in ("state", "badge")),
        sa.Column("reason", Word),
        *(sa.Column(name, Word, nullable=False) for name in ("created", "updated")),
        *(sa.Column(name, Word) for name in ("embargo", "worker", "lease")),
        sa.Column("report", sa.JSON),
        sa.PrimaryKeyConstraint("id", name="pk_submissions"),
        sa.UniqueConstraint("bundle", name="uq_submissions_bundle"),
        sa.ForeignKeyConstraint(["submitter"], ["submitters.id"], name="fk_submissions_submitter"),
        sa.ForeignKeyConstraint(["token"], ["tokens.id"], name="fk_submissions_token"),
    )
    for name in ("submitter", "run", "model", "state"):
        op.create_index(f"ix_submissions_{name}", "submissions", [name])
