"""The Hugging Face Hub: all splits of a data set's config, as plain rows. Everything else in estbench reads copies.

    fetch("facebook/belebele", "est_Latn", None)  # -> Fetched(commit, {"test": [row, ...]})

Nothing is run: a data set that is published as a script is taken from the Hub's own Parquet form of it. The token comes
from `HF_TOKEN` only. Each fault is a DataError of one line: data set, revision, cure.
"""

from __future__ import annotations

import datetime
import os
from dataclasses import dataclass
from typing import Any

from estbench.errors import DataError
from estbench.identity import canonical

CONVERTED = "refs/convert/parquet"  # the branch in which the Hub keeps a data set's Parquet form
TIMEOUT = 30.0  # seconds for the Hub's first answer
CARRY = "run `estbench data pull` where there is a network and carry the copy here, or name one with data=DIR."
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
COPY = "name a copy with data=DIR."

Row = dict[str, Any]


@dataclass(frozen=True)
class Fetched:
    """What the Hub gave: all splits of a config, and the commit they belong to."""

    commit: str
    splits: dict[str, list[Row]]


def fetch(path: str, config: str | None, revision: str | None) -> Fetched:
    """All splits of a config at a revision (None: the newest). DataError for anything that goes wrong."""
    what = f"{path}:{config or 'default'} (revision {revision or 'main'})"
    if any(os.environ.get(name, "").lower() in ("1", "true", "yes", "on") for name in OFFLINE):
        raise DataError(f"{what} can't be fetched, the Hub is switched off (HF_HUB_OFFLINE): {CARRY}")
    import datasets
    import huggingface_hub

    token = os.environ.get("HF_TOKEN") or False  # False: a token that other programs stored is not used
    api = huggingface_hub.HfApi(token=token)

    def at(wanted: str | None) -> Fetched:
        commit = str(api.dataset_info(path, revision=wanted, timeout=TIMEOUT).sha)
        loaded = datasets.load_dataset(path, config, revision=commit, token=token)
        return Fetched(commit, {str(split): [_plain_row(row, what) for row in rows] for split, rows in loaded.items()})

    try:
        try:
            return at(revision)
        except RuntimeError as error:
            if "scripts are no longer supported" not in str(error):
                raise
            return at(CONVERTED)
    except DataError:
        raise
    except Exception as error:  # the libraries raise what they like; each kind gets its line
        raise hub_error(what, error) from None


def hub_error(what: str, error: BaseException) -> DataError:
    """What went wrong at the Hub, in one line with the cure."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    text = " ".join(str(error).split())
    status = getattr(getattr(error, "response", None), "status_code", None)
    if "GatedRepoError" in kinds or "gated" in text.lower() or status in (401, 403):
        page = f"https://huggingface.co/datasets/{what.split(':')[0]}"
        return DataError(f"{what} is gated: accept its terms at {page} and set HF_TOKEN.")
    if "RevisionNotFoundError" in kinds:
        return DataError(
            f"{what}: the Hub does not have this revision, or no Parquet form of a data set that is published as a "
            f"script: take the newest with `estbench data pull … update=true`, or {COPY}"
        )
    if kinds & {"RepositoryNotFoundError", "DatasetNotFoundError"}:
        return DataError(f"{what} is not on the Hub: renamed, removed, or private (then set HF_TOKEN); or {COPY}")
    if kinds & {"TimeoutException", "TimeoutError", "Timeout"}:
        return DataError(f"{what}: the Hub did not answer in time: try again, or {COPY}")
    if kinds & {"OfflineModeIsEnabled", "NetworkError", "ConnectionError", "LocalEntryNotFoundError"}:
        return DataError(f"{what} can't be fetched, the Hub can't be reached: {CARRY}")
    if isinstance(status, int) and status >= 500:
        return DataError(f"{what}: the Hub has a fault of its own (HTTP {status}): try again later, or {COPY}")
    return DataError(f"{what} could not be fetched ({type(error).__name__}: {text[:200]}): try again, or {COPY}")


def _plain_row(row: Row, what: str) -> Row:
    plain: Row = _plain(row)
    try:
        canonical(plain)
    except (TypeError, ValueError) as error:
        raise DataError(f"{what} has a value that JSON can't hold ({error}): only text and numbers are read.") from None
    return plain


def _plain(value: Any) -> Any:
    """Dates become ISO texts (`2023-06-01` where there is no time of day); the rest stays."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return value.date().isoformat()
    return value.isoformat() if isinstance(value, datetime.date) else value
