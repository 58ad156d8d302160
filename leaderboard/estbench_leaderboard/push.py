"""`estbench push`: a run goes to a board, after it was shown what will become public.

    estbench push run=demo-3f url=https://tabel.ee dry_run=true       # what, and how large; nothing leaves
    ESTBENCH_TOKEN=estb_… estbench push run=demo-3f url=https://tabel.ee

The token comes from the environment only: a command line can be read by others on the machine. The key that signs is
made on first use, in `home()/push_key`, readable by its owner alone; the board binds the token to it.
"""

from __future__ import annotations

import base64
import json
import os
import re
import stat
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import date
from http.client import HTTPException
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from estbench import report
from estbench.commands import wants_table
from estbench.errors import ConfigError, DataError, StoreError
from estbench.home import home
from estbench.runs import Run, find_run
from estbench_leaderboard.submissions import bundle, content
from estbench_leaderboard.submissions.bundle import Address, Packed
from estbench_leaderboard.submissions.receive import audience_of

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from estbench_leaderboard.submissions.settings import PushSettings

TOKEN = "ESTBENCH_TOKEN"
SECONDS = 60  # that a board may be silent
ANSWER = 1 << 20  # bytes of a board's answer
Progress = Callable[[int, int], None]


def push(settings: PushSettings) -> int:
    """Show what would become public, and send the run."""
    bundle.check_parts()
    run = Run(find_run(settings.run))
    audience = audience_of(settings.url)
    _check_embargo(settings.embargo)
    table = wants_table(settings.output)
    view = preview(run)
    if table:
        print(preview_text(view))
    if settings.dry_run:
        with tempfile.TemporaryDirectory() as folder:
            address = Address(audience, "none", settings.embargo)
            size = bundle.pack(run, Path(folder) / "bundle.tar.gz", address, bundle.new_key()).size
        done: dict[str, Any] = {"sent": False, "bytes": size, "url": audience}
        text = f"The bundle has {size:,} bytes. Nothing was sent, since dry_run=true."
    else:
        done = send(run, audience, settings.embargo, _key_path(settings.key))
        text = f"Submission {done['submission']} is {done['state']}. How far it is: {done['url']}"
    print(text if table else report.as_json({**view, **done}))
    return 0


def send(
    run: Run, audience: str, embargo: str | None, key_path: Path, progress: Progress | None = None
) -> dict[str, Any]:
    """Pack, sign and send a run; what the board says of it. Errors are one line."""
    token = read_token()
    key = read_key(key_path)
    board = _ask(f"{audience}/api/v1/token", token)
    _check_board(board, audience, bundle.public_key(key))
    with tempfile.TemporaryDirectory() as folder:
        packed = bundle.pack(run, Path(folder) / "bundle.tar.gz", Address(audience, board["token"]["id"], embargo), key)
        if packed.size > board["limits"]["packed"]:
            raise ConfigError(
                f"The bundle has {packed.size:,} bytes, and {audience} takes {board['limits']['packed']:,}."
            )
        found = _upload(audience, token, packed, progress or _bar())
    return {"sent": True, "bytes": packed.size, "submission": found["id"], "state": found["state"], "url": found["url"]}


# ---- what becomes public


def preview(run: Run) -> dict[str, Any]:
    """What a board would show of this run, and what it would not."""
    manifest = content.manifest_of(run)
    cards = manifest["tasks"]
    return {
        "run": run.id,
        "name": manifest["name"],
        "model": {key: manifest["model"].get(key) for key in ("name", "fingerprint", "parameters", "url")},
        "command": manifest["command"],
        "tasks": list(cards),
        "documents": sum(card["n_planned"] for card in cards.values()),
        "answers_shown": [task for task, card in cards.items() if card.get("publish_items")],
        "scores_only": [task for task, card in cards.items() if not card.get("publish_items")],
        "judged": [task for task, card in run.manifest["tasks"].items() if "judge" in card],
        "partial": manifest["partial"],
        "cards": [name for name in ("card", "training") if manifest["model"].get(name)],
    }


def preview_text(view: dict[str, Any]) -> str:
    """The preview for a terminal."""
    model = view["model"]
    lines = [
        f"{view['run']}: {len(view['tasks'])} tasks, {view['documents']:,} documents{', partial' * view['partial']}",
        "",
        "Becomes public, once a maintainer has published it:",
        f"  the name {view['name']}, the model's fingerprint {model['fingerprint'][:12]}…, size, engine and versions",
        f"  the command: {view['command']}",
        *(
            ["  what its own files say of it: licence; lineage, recipe and data of its training"]
            if view["cards"]
            else []
        ),
        f"  all scores, and each answer in {', '.join(view['answers_shown']) or 'no task'}",
        "  the name that your token stands for, and how often you have sent something",
        "Is sent, and only its scores are shown:" if view["scores_only"] else "",
        f"  the answers in {', '.join(view['scores_only'])}" if view["scores_only"] else "",
        f"Stand as your claim, since only the board's own judges count there: {', '.join(view['judged'])}"
        if view["judged"]
        else "",
        "Is not sent: prompts, golds, judgments, weights, places on this machine.",
        "",
    ]
    return "\n".join(line for line, after in zip(lines, [*lines[1:], ""], strict=True) if line or after)


# ---- the token and the key


def read_token() -> str:
    """The token, from the environment; ConfigError without it in the message."""
    token = os.environ.get(TOKEN, "").strip()
    if not token:
        raise ConfigError(f"{TOKEN} is not set: the board's operators give a token; put it in the environment.")
    if not re.fullmatch(r"estb_[0-9a-f]{12}_[A-Za-z0-9_-]{43}", token):
        raise ConfigError(f"{TOKEN} holds no token: estb_…, as the board's operators gave it.")
    return token


def _key_path(name: str | None) -> Path:
    return Path(name).expanduser() if name else home() / "push_key"


def read_key(path: Path) -> Ed25519PrivateKey:
    """The key in a file, which is made if it is not there; refused if others could have read it."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return _made_key(path)
    except OSError as error:
        raise StoreError(f"The key {path} can't be read: {error.strerror}.") from None
    with os.fdopen(handle, "rb") as file:
        if stat.S_IMODE(os.fstat(handle).st_mode) & 0o077:
            raise ConfigError(f"The key {path} can be read by others: chmod 600 {path}, or take a new one with key=.")
        data = file.read(1 << 16)
    try:
        key = serialization.load_pem_private_key(data, None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path} holds no Ed25519 key (PEM, without a password).")
    return key


def _made_key(path: Path) -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives import serialization

    key = bundle.new_key()
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(text)
    except OSError as error:
        raise StoreError(f"The key {path} can't be made: {error.strerror}.") from None
    report.say(f"A new key signs from now on: {path}. Keep it; the board binds your token to it.")
    return key


def _check_embargo(text: str | None) -> None:
    try:
        fits = text is None or (len(text) == 10 and date.fromisoformat(text) > date(2000, 1, 1))
    except ValueError:
        fits = False
    if not fits:
        raise ConfigError(f"embargo={text} is no day: YYYY-MM-DD.")


def _check_board(board: Any, audience: str, key: str) -> None:
    """Whether the board is the one that was meant, and takes what we would sign."""
    if not isinstance(board, dict) or not {"audience", "token", "limits"} <= board.keys():
        raise DataError(f"{audience} is no estbench board.")
    if board["audience"] != audience:
        raise ConfigError(
            f"{audience} calls itself {board['audience']}: give that as url=, if it is the board you mean."
        )
    if "submit" not in board["token"]["scopes"]:
        raise ConfigError("This token may not send runs: ask the board's operators for one that may.")
    if board["token"]["key"] not in (None, key):
        raise ConfigError(
            "The token is bound to another key than this one: give its file with key=, or ask for a token."
        )


# ---- the way


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A token goes to the host that was named, and to no other."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        raise DataError(f"{req.full_url} leads on to {newurl[:200]}: give that board's own url=.")


def _ask(url: str, token: str, **more: Any) -> Any:
    """A board's answer; DataError in one line where it refuses or can't be reached."""
    request = urllib.request.Request(
        url, headers={"Authorization": f"Bearer {token}", **more.pop("headers", {})}, **more
    )
    try:
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=SECONDS) as answer:
            return json.loads(answer.read(ANSWER))
    except urllib.error.HTTPError as error:
        raise DataError(f"{url} refuses it: {_reason(error)}") from None
    except (OSError, HTTPException) as error:
        raise DataError(f"{url} can't be reached: {getattr(error, 'reason', error)}.") from None
    except ValueError:
        raise DataError(f"{url} is no estbench board: it does not answer with JSON.") from None


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        text = json.loads(error.read(ANSWER))["error"]
    except (OSError, ValueError, KeyError, TypeError, HTTPException):
        text = f"{error.code} {error.reason}."
    return "".join(sign if sign.isprintable() else "�" for sign in str(text)[:500])


class _Body:
    """A file that tells how much of it was read."""

    def __init__(self, file: IO[bytes], size: int, progress: Progress) -> None:
        self.file, self.size, self.progress = file, size, progress

    def read(self, n: int = -1) -> bytes:
        part = self.file.read(n)
        self.progress(self.file.tell(), self.size)
        return part


def _upload(audience: str, token: str, packed: Packed, progress: Progress) -> Any:
    headers = {
        "X-Estbench-Signature": base64.b64encode(packed.signature).decode(),
        "Content-Type": "application/gzip",
        "Content-Length": str(packed.size),
    }
    with open(packed.path, "rb") as file:
        body = _Body(file, packed.size, progress)
        return _ask(f"{audience}/api/v1/submissions", token, data=body, headers=headers, method="POST")


def _bar() -> Progress:
    """A line on stderr that counts, where somebody looks at it."""
    if not sys.stderr.isatty():
        return lambda done, total: None

    def show(done: int, total: int) -> None:
        print(f"\rsent {done / 1e6:,.1f} of {total / 1e6:,.1f} MB", end="\n" if done == total else "", file=sys.stderr)

    return show
