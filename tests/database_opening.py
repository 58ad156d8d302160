"""Opening a database for its tests: one with rows in it, and the line with which one is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from database_fixtures import choice_docs, dump, make_run

from estbench.database import index_run, open_database
from estbench.errors import StoreError


def refusal(url: str | None, **options: Any) -> str:
    """The one line with which opening is refused; exit code 2."""
    with pytest.raises(StoreError, match=r"^[^\n]+$") as caught:
        open_database(url, **options).close()
    assert caught.value.exit_code == 2
    return str(caught.value)


def populated(url: str, tmp_path: Path) -> dict[str, list[dict[str, Any]]]:
    with open_database(url) as database:
        index_run(database, make_run(tmp_path / "runs", run="a", tasks={"copa": choice_docs(3)}))
        return dump(database)
