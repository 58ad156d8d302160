"""The Hugging Face Hub: all splits of a data set's config, as plain rows. Everything else in estbench reads copies.

    fetch("facebook/belebele", "est_Latn", None)  # -> Fetched(commit, {"test": [row, ...]})

Nothing is run: a data set that is published as a script is taken from the Hub's own Parquet form of it. The token comes
from `HF_TOKEN` only. Each fault is a DataError of one line: data set, revision, cure.
"""

from __future__ import annotations

import datetime
import errno
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from estbench.copies import Row
from estbench.errors import DataError
from estbench.identity import canonical

CONVERTED = "refs/convert/parquet"  # the branch in which the Hub keeps a data set's Parquet form
TIMEOUT = 30.0  # seconds for the Hub's first answer
MOST_SECONDS = 1200.0  # for all of a data set
CARRY = "run `estbench data pull` where there is a network and carry the copy here, or name one with data=DIR."
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
COPY = "name a copy with data=DIR."


@dataclass(frozen=True)
class Fetched:
    """What the Hub gave: all splits of a config, and the commit they belong to."""

    commit: str
    splits: dict[str, list[Row]]
    name: str = ""  # what the Hub calls the data set, where it said so: another name after a renaming


def switched_off() -> bool:
    """Whether the environment says that there is no network."""
    return any(os.environ.get(name, "").lower() in ("1", "true", "yes", "on") for name in OFFLINE)


def fetch(path: str, config: str | None, revision: str | None) -> Fetched:
    """All splits of a config at a revision (None: the newest). DataError for anything that goes wrong."""
    what = f"{path}:{config or 'default'} (revision {revision or 'main'})"
    if switched_off():
        raise DataError(f"{what} can't be fetched, the Hub is switched off (HF_HUB_OFFLINE): {CARRY}")
    import datasets
    import huggingface_hub

    _hush()
    token = hf_token() or False  # False: a token that other programs stored is not used
    api = huggingface_hub.HfApi(token=token)

    def at(wanted: str | None) -> Fetched:
        info = api.dataset_info(path, revision=wanted, timeout=TIMEOUT)
        place = f"hf://datasets/{path}"  # the name alone could mean a folder here
        loaded = datasets.load_dataset(place, config, revision=info.sha, token=token, cache_dir=cache)
        splits = {str(split): [_plain_row(row, what) for row in rows] for split, rows in loaded.items()}
        return Fetched(str(info.sha), splits, str(info.id))

    def at_revision() -> Fetched:
        try:
            return at(revision)
        except RuntimeError as error:
            if "scripts are no longer supported" not in str(error):
                raise
            return at(CONVERTED)

    try:  # the cache is not kept: our own copy is
        with tempfile.TemporaryDirectory(prefix="estbench-hub-", ignore_cleanup_errors=True) as cache:
            return _in_time(at_revision)
    except DataError:
        raise
    except Exception as error:  # the libraries raise what they like; each kind gets its line
        raise hub_error(what, error) from None


def _in_time(work: Callable[[], Fetched]) -> Fetched:
    """What the work gives. TimeoutError after MOST_SECONDS: the client tries for ever while a few bytes come."""
    result: Future[Fetched] = Future()

    def run() -> None:
        try:
            result.set_result(work())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return result.result(MOST_SECONDS)


def _hush() -> None:
    """One line says what went wrong: no bars, and no notes about each retry."""
    import datasets
    from huggingface_hub.utils import disable_progress_bars, logging  # type: ignore[attr-defined]

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    disable_progress_bars()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]


def hub_error(what: str, error: BaseException) -> DataError:
    """What went wrong at the Hub, in one line with the cure."""
    chain = list(_causes(error))
    kinds = {kind.__name__ for member in chain for kind in type(member).__mro__}
    text = without_token(" ".join(str(error).split()))
    answers = [getattr(getattr(member, "response", None), "status_code", None) for member in chain]
    status = next((code for code in answers if isinstance(code, int)), 0)
    if any(isinstance(member, OSError) and member.errno in (errno.ENOSPC, errno.EDQUOT) for member in chain):
        return DataError(f"{what}: there is no room for it in {tempfile.gettempdir()}: free some, or set TMPDIR.")
    if "GatedRepoError" in kinds or "is a gated dataset" in text or status == 403:
        page = f"https://huggingface.co/datasets/{what.split(':')[0]}"
        return DataError(f"{what} is gated: accept its terms at {page} and set HF_TOKEN.")
    if "RevisionNotFoundError" in kinds:
        return DataError(
            f"{what}: the Hub does not have this revision, or no Parquet form of a data set that is published as a "
            f"script: take the newest with `estbench data pull … update=true`, or {COPY}"
        )
    if kinds & {"RepositoryNotFoundError", "DatasetNotFoundError"}:
        return DataError(f"{what} is not on the Hub: renamed, removed, or private (then set HF_TOKEN); or {COPY}")
    if status == 401:
        return DataError(f"{what}: the Hub does not take this HF_TOKEN: set a valid one, or {COPY}")
    if status >= 500:
        return DataError(f"{what}: the Hub has a fault of its own (HTTP {status}): try again later, or {COPY}")
    if kinds & {"TimeoutException", "TimeoutError", "Timeout"}:
        return DataError(f"{what}: the Hub did not answer in time: try again, or {COPY}")
    if kinds & {"OfflineModeIsEnabled", "NetworkError", "ConnectionError", "LocalEntryNotFoundError"}:
        return DataError(f"{what} can't be fetched, the Hub can't be reached: {CARRY}")
    if "RemoteProtocolError" in kinds or "consistency check failed" in text.lower():
        return DataError(f"{what}: the download broke off: try again, or {COPY}")
    if (fault := _unreadable(kinds, text)) is not None:
        return DataError(f"{what} {fault}, or {COPY}")
    return DataError(f"{what} could not be fetched ({type(error).__name__}: {text[:200]}): try again, or {COPY}")


def _unreadable(kinds: set[str], text: str) -> str | None:
    """What is wrong with files that the Hub did give."""
    if "BuilderConfig" in text:
        return (
            f"is no config of the Hub's data set now ({text[:200].rstrip('.')}): correct dataset_name in the task file"
        )
    if "StopIteration" in kinds or "EmptyDatasetError" in kinds:
        return "has an empty file on the Hub: take another revision"
    if "DatasetGenerationError" in kinds:
        return "has a damaged file, or files with different fields, on the Hub: take another revision"
    if "FileNotFoundError" in kinds:
        return "lacks its files on the Hub, or has them in a form that is not read: take another revision"
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it was raised from, the outermost first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__  # `datasets` raises some faults "from None"


def hf_token() -> str:
    """HF_TOKEN, or an empty text. DataError for one that no request can carry (the client would quote it)."""
    token = os.environ.get("HF_TOKEN", "").strip()
    if not re.fullmatch(r"[\x21-\x7e]*", token):
        raise DataError("HF_TOKEN holds characters that no token has: set it again.")
    return token


def without_token(text: str) -> str:
    """A library's message may quote the request."""
    token = os.environ.get("HF_TOKEN", "").strip()
    return text.replace(token, "…") if token else text


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
