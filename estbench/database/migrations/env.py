"""Alembic's entry: runs the revisions on the connection that `engine` hands over, in its transaction."""

from __future__ import annotations

from alembic import context

from estbench.database.schema import VERSION_TABLE, board, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=[metadata, board],
    version_table=VERSION_TABLE,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
