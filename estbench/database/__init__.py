"""The database: an index of run folders, which can be rebuilt from them at will.

    from estbench.database import index_run, open_database, queries

    with open_database(None) as database:          # home()/estbench.db; or sqlite:///FILE, postgresql://...
        index_run(database, Run(folder))
        for run in queries.runs(database, task="estcopa"):
            print(run.id, run.model)

`schema` the tables, `migrations` how older files get there, `engine` opening and locking, `packing` arrays and lists as
blobs, `index` from a folder to rows, `queries` every question that reports and pages ask.
"""

from __future__ import annotations

from estbench.database import queries
from estbench.database.engine import Database, open_database
from estbench.database.index import index_run, rebuild, remove_run

__all__ = ["Database", "index_run", "open_database", "queries", "rebuild", "remove_run"]
