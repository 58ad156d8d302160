"""A good bundle, and ways to spoil it, for the tests of what a bundle may be.

@pytest.fixture: shop                        # pytest imports it by name from here
refused(shop, shop.changed("scores.json", change), 400, "words")
                                             # such a bundle, signed by its owner, is refused in these words
"""

from __future__ import annotations

import hashlib
import json
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from estbench_leaderboard.submissions.bundle import sign, tar_header, write_archive
from estbench_leaderboard.submissions.errors import Refused
from estbench_leaderboard.submissions.receive import Submission, receive
from submission_fixtures import Board

from estbench.identity import canonical
from estbench.runs import Run

Files = dict[str, bytes]
BLOCK = 512


class Workshop:
    """Takes a good bundle apart, and puts it together again with something wrong in it, signed by its owner."""

    def __init__(self, board: Board, run: Run, folder: Path) -> None:
        self.board, self.folder = board, folder
        packed = board.pack(run)
        with tarfile.open(packed.path) as opened:
            found = {name: opened.extractfile(name) for name in opened.getnames()}
            self.good: Files = {name: file.read() for name, file in found.items() if file}

    def header(self) -> dict[str, Any]:
        return dict(json.loads(self.good["bundle.json"]))

    def listed(self, files: Files, **changes: Any) -> dict[str, Any]:
        """A header that lists these files truly."""
        rows = [
            {"name": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in files.items()
            if name != "bundle.json"
        ]
        return self.header() | {"files": rows} | changes

    def changed(self, name: str, change: Callable[[Any], Any]) -> Files:
        """The good files with one changed, and listed as it is now."""
        data = canonical(change(json.loads(self.good[name])))
        files = {**self.good, name: data}
        return {**files, "bundle.json": canonical(self.listed(files))}

    def with_line(self, line: bytes, *, first: bool = True) -> Files:
        """The good files with another line in a task's answers."""
        old = self.good["responses/mini_qa.jsonl"]
        data = line + b"\n" + old[old.index(b"\n") + 1 :] if first else old + line + b"\n"
        files = {**self.good, "responses/mini_qa.jsonl": data}
        return {**files, "bundle.json": canonical(self.listed(files))}

    def archive(self, files: Files) -> bytes:
        path = self.folder / "made.tar.gz"
        write_archive(path, files)
        return path.read_bytes()

    def send(self, data: bytes | Files, *, key: Any = None, header: dict[str, Any] | None = None) -> Submission:
        """Send bytes, signed over the header that they carry."""
        raw = self.archive(data) if isinstance(data, dict) else data
        signed = header or (json.loads(data["bundle.json"]) if isinstance(data, dict) else self.header())
        signature = sign(signed, key or self.board.key)
        token = self.board.holder(self.board.text)
        return receive(self.board.database, self.board.folder, token, [raw], signature, audience=self.board.url)


@pytest.fixture
def shop(board: Board, demo_run: Run, tmp_path: Path) -> Workshop:
    return Workshop(board, demo_run, tmp_path)


def refused(shop: Workshop, data: bytes | Files, status: int, words: str, **more: Any) -> None:
    """Whether this is refused with this status and in one line, and nothing of it is stored."""
    with pytest.raises(Refused) as caught:
        shop.send(data, **more)
    assert caught.value.status == status and words in str(caught.value), caught.value
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert shop.board.stored() == []


def gzipped(data: bytes, level: int = 9) -> bytes:
    packer = zlib.compressobj(level, zlib.DEFLATED, 31)
    return packer.compress(data) + packer.flush()


def parts(files: Files) -> list[bytes]:
    return [tar_header(name, len(data)) + data + bytes(-len(data) % BLOCK) for name, data in files.items()]
