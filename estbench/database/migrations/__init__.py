"""Revisions of the database, applied by `engine.open_database`.

A new one: copy the newest file in `versions`, set `revision` and `down_revision`, write `upgrade` with Alembic's `op`
(`op.batch_alter_table` for changes to a table that SQLite can't make in place), set `schema.HEAD`, and add rows as the
revision before had them to `tests/database_fixtures.py`: the tests upgrade those. What was released never changes.
"""
