"""A run on its way to a board, in one signed file without golds; and the reader, which trusts nothing in it.

    packed = pack(run, path, Address(audience="https://tabel.ee", token="ab12"), key)     # Packed(digest, signature, …)
    bundle = open_bundle(path)                 # Refused, in one line, for anything that pack would not have written
    for row in bundle.rows("mini_copa"): ...   # read again from the file, a document at a time

    bundle.json              what is signed: run, token, board, time, nonce, key; name, size and SHA-256 of each file
    manifest.json            what the run says of itself
    scores.json              its scores, as claimed
    responses/TASK.jsonl     a line a document: hashes, response keys, what the engine answered

The file is a tar in one gzip stream, which any tar lists (`tar tzf`); Python 3.11 has no zstd. It is read by 60 lines
of our own and not by `tarfile`, which knows links, devices, sparse files and headers of any length, and whose parser of
headers can be made to run for minutes in the Python that many systems have. Here a header is right only if it is, byte
for byte, the one that `pack` writes for this name and size; files come in the order in which bundle.json lists them,
and reading ends at the first byte that does not belong. Nothing is kept in memory but a line at a time.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import secrets
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from estbench.errors import ConfigError, MissingPartError
from estbench.identity import canonical
from estbench.runs import Run, Score, atomic, file_name
from estbench_leaderboard.submissions import content
from estbench_leaderboard.submissions.errors import Refused

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

FORMAT = 1
DOMAIN = b"estbench bundle\0"  # in front of what is signed: a signature for this is one for nothing else
BLOCK = 512  # bytes of a tar
CHUNK = 1 << 16
HEADER = "bundle.json"
FIXED = ("manifest.json", "scores.json")
NAME = re.compile(r"bundle\.json|manifest\.json|scores\.json|responses/[A-Za-z0-9][A-Za-z0-9_.+~-]{0,79}\.jsonl")
KINDS = {b"1": "a hard link", b"2": "a link", b"3": "a device", b"4": "a device", b"5": "a folder", b"6": "a pipe"}
FIELDS = {"bundle", "run", "audience", "token", "key", "created", "nonce", "embargo", "files"}


@dataclass(frozen=True)
class Limits:
    """What a bundle may be at most, in bytes where nothing else is said."""

    packed: int = 64 << 20
    header: int = 1 << 18  # bundle.json
    small: int = 4 << 20  # manifest.json, scores.json
    file: int = 256 << 20
    whole: int = 512 << 20  # all files, unpacked
    line: int = 4 << 20
    files: int = content.MOST_TASKS + len(FIXED)
    ratio: int = 200  # unpacked to packed


LIMITS = Limits()


@dataclass(frozen=True)
class Address:
    """For whom a bundle is: no other board takes it, and no other token."""

    audience: str  # the board's URL
    token: str  # the public part
    embargo: str | None = None  # not shown before this day, YYYY-MM-DD


@dataclass(frozen=True)
class Packed:
    """A bundle that was written."""

    path: Path
    header: dict[str, Any]
    signature: bytes
    size: int

    @property
    def digest(self) -> str:
        return digest_of(self.header)


@dataclass(frozen=True)
class Bundle:
    """A bundle that was read through and is as it has to be. Whether its answers are true is another question."""

    source: Path | bytes
    header: dict[str, Any]
    manifest: dict[str, Any]
    scores: list[Score]
    size: int  # bytes of the file
    limits: Limits = LIMITS

    @property
    def digest(self) -> str:
        """Identity of what was signed."""
        return digest_of(self.header)

    def rows(self, task: str) -> Iterator[dict[str, Any]]:
        """The answers of a task, a row a document."""
        wanted = _response_file(task)
        with _opened(self.source) as file:
            reader = _Reader(file, self.limits)
            reader.file(HEADER, self.limits.header)
            for row in self.header["files"]:
                if row["name"] == wanted:
                    yield from reader.rows(row, self.limits.line)
                    return
                reader.skip(row)


def digest_of(header: dict[str, Any]) -> str:
    """Identity of a bundle: of what is signed, so that packing the same again changes nothing."""
    return hashlib.sha256(canonical(header)).hexdigest()


def _response_file(task: str) -> str:
    return f"responses/{file_name(task)}.jsonl"


# ---- keys and signatures


def check_parts() -> None:
    """MissingPartError without the package `cryptography`."""
    _ed25519()


def new_key() -> Ed25519PrivateKey:
    """A key to sign with; MissingPartError without the package `cryptography`."""
    return _ed25519().Ed25519PrivateKey.generate()  # type: ignore[no-any-return]


def public_key(key: Ed25519PrivateKey) -> str:
    """The public half, base64."""
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()


def sign(header: dict[str, Any], key: Ed25519PrivateKey) -> bytes:
    return key.sign(DOMAIN + canonical(header))


def verify(header: dict[str, Any], signature: bytes) -> None:
    """Refused where the signature is not that of the header's own key."""
    from cryptography.exceptions import InvalidSignature

    try:
        key = _ed25519().Ed25519PublicKey.from_public_bytes(base64.b64decode(header["key"], validate=True))
        key.verify(signature, DOMAIN + canonical(header))
    except (InvalidSignature, ValueError):
        raise Refused(400, "The signature does not fit: the bundle was changed, or signed with another key.") from None


def _ed25519() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise MissingPartError(
            "Bundles are signed with the package cryptography, which is not installed: pip install 'estbench[push]'."
        ) from None
    return ed25519


# ---- writing


def pack(run: Run, target: Path, address: Address, key: Ed25519PrivateKey, *, now: datetime | None = None) -> Packed:
    """Write the run as a bundle. ConfigError or StoreError, in one line, for a run that can't be sent."""
    manifest = content.manifest_of(run)
    files: dict[str, bytes] = {
        "manifest.json": canonical(manifest),
        "scores.json": canonical(content.scores_of(run)),
    }
    try:
        for task in manifest["tasks"]:
            files[_response_file(task)] = b"".join(canonical(row) + b"\n" for row in content.rows_of(run, task))
    except ValueError as error:  # half a character, not a number
        raise ConfigError(f"{run.id} can't be sent, its answers are no valid JSON: {error}.") from None
    header = {
        "bundle": FORMAT,
        "run": run.id,
        "audience": address.audience,
        "token": address.token,
        "key": public_key(key),
        "created": (now or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "nonce": secrets.token_hex(16),
        "embargo": address.embargo,
        "files": [
            {"name": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in files.items()
        ],
    }
    with atomic(target) as temporary:
        write_archive(temporary, {HEADER: canonical(header), **files})
    packed = Packed(target, header, sign(header, key), target.stat().st_size)
    try:
        open_bundle(target)  # what a board would refuse is found here
    except Refused as error:
        target.unlink()
        raise ConfigError(f"{run.id} can't be sent: {error}") from None
    return packed


def write_archive(path: Path, files: dict[str, bytes]) -> None:
    """A tar.gz with these files, equal bytes for equal files."""
    with open(path, "wb") as out:
        packer = zlib.compressobj(6, zlib.DEFLATED, 31)
        for name, data in files.items():
            out.write(packer.compress(tar_header(name, len(data)) + data + bytes(-len(data) % BLOCK)))
        out.write(packer.compress(bytes(2 * BLOCK)) + packer.flush())


def tar_header(name: str, size: int) -> bytes:
    """The one header (POSIX ustar) that a file of this name and size has."""
    head = bytearray(BLOCK)
    head[: len(name)] = name.encode("ascii")
    fields = {100: b"0000644\0", 108: b"0000000\0", 116: b"0000000\0", 124: b"%011o\0" % size, 136: b"%011o\0" % 0}
    for at, value in {**fields, 148: b" " * 8, 156: b"0", 257: b"ustar\00000"}.items():
        head[at : at + len(value)] = value
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


# ---- reading


def open_bundle(
    source: Path | bytes,
    limits: Limits = LIMITS,
    accept: Callable[[dict[str, Any]], None] = lambda header: None,
) -> Bundle:
    """Read a bundle through, once and with little memory. `accept` sees the header before anything else is unpacked.

    Raises Refused (413 for what is too large, else 400) at the first byte that `pack` would not have written.
    """
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    if size > limits.packed:
        raise Refused(413, f"The bundle has {size:,} bytes, and this board takes {limits.packed:,} at most.")
    with _opened(source) as file:
        reader = _Reader(file, limits)
        header = _header(reader.file(HEADER, limits.header), limits)
        accept(header)
        small = {row["name"]: _small(reader, row) for row in header["files"][: len(FIXED)]}
        manifest = content.check_manifest(small["manifest.json"])
        if manifest["run"] != header["run"]:
            raise Refused(400, "manifest.json is that of another run than bundle.json names.")
        scores = content.check_scores(small["scores.json"], manifest["tasks"])
        listed = [row["name"] for row in header["files"][len(FIXED) :]]
        tasks = {_response_file(task): task for task in manifest["tasks"]}
        if len(tasks) < len(manifest["tasks"]) or sorted(listed) != sorted(tasks):
            raise Refused(400, "The files of the bundle are not those of the manifest's tasks.")
        manifest["tasks"] = {tasks[name]: manifest["tasks"][tasks[name]] for name in listed}  # in the plan's order
        for row in header["files"][len(FIXED) :]:
            docs: set[str] = set()
            for line in reader.rows(row, limits.line):
                if line["doc"] in docs or len(docs) >= content.MOST_DOCS:
                    raise Refused(400, f"{row['name']} answers a document twice, or too many documents.")
                docs.add(line["doc"])
        reader.end()
    return Bundle(source, header, manifest, scores, size, limits)


@contextmanager
def _opened(source: Path | bytes) -> Iterator[IO[bytes]]:
    if isinstance(source, bytes):
        yield io.BytesIO(source)
    else:
        with open(source, "rb") as file:
            yield file


def _small(reader: _Reader, row: dict[str, Any]) -> Any:
    """A listed JSON file that is read whole."""
    data = reader.file(row["name"], reader.limits.small, row["size"])
    if hashlib.sha256(data).hexdigest() != row["sha256"]:
        raise Refused(400, f"{row['name']} is not what bundle.json says: its SHA-256 is another.")
    return content.read_json(data, row["name"])


def _header(data: bytes, limits: Limits) -> dict[str, Any]:
    """bundle.json, checked: canonical, so that there is one way to read what was signed."""
    header = content.read_json(data, HEADER)
    if not isinstance(header, dict) or header.get("bundle") != FORMAT or header.keys() != FIELDS:
        raise Refused(400, "bundle.json is not that of a bundle of this version.")
    if canonical(header) != data:
        raise Refused(400, "bundle.json is not in its canonical form.")
    texts = [header[name] for name in ("run", "audience", "token", "key", "created", "nonce")]
    if not all(isinstance(text, str) and 0 < len(text) <= 300 and text.isprintable() for text in texts):
        raise Refused(400, "bundle.json has a field that is none.")
    if header["embargo"] is not None and not isinstance(header["embargo"], str):
        raise Refused(400, "bundle.json has an embargo that is no day.")
    files = header["files"]
    if not isinstance(files, list) or len(files) > limits.files:
        raise Refused(413, f"The bundle has more than {limits.files} files.")
    for row in files:
        _check_listed(row, limits)
    names = [row["name"] for row in files]
    if tuple(names[: len(FIXED)]) != FIXED or len(set(names)) < len(names) or len(names) == len(FIXED):
        raise Refused(400, "bundle.json lacks manifest.json, scores.json or responses, or names a file twice.")
    if sum(row["size"] for row in files) > limits.whole:
        raise Refused(413, f"The bundle unpacks to more than {limits.whole:,} bytes.")
    return header


def _check_listed(row: Any, limits: Limits) -> None:
    if not isinstance(row, dict) or row.keys() != {"name", "size", "sha256"}:
        raise Refused(400, "bundle.json lists a file that is none.")
    name, size, sha = row["name"], row["size"], row["sha256"]
    if not isinstance(name, str) or not NAME.fullmatch(name) or ".." in name or name == HEADER:
        raise Refused(400, f"bundle.json names a file that does not belong there: {_shown(name)}.")
    if type(size) is not int or size < 1 or not isinstance(sha, str) or not re.fullmatch(r"[0-9a-f]{64}", sha):
        raise Refused(400, f"bundle.json has no size or no SHA-256 of {name}.")
    if size > (limits.small if name in FIXED else limits.file):
        raise Refused(413, f"{name} has {size:,} bytes, which is more than this board takes.")


def _shown(name: Any) -> str:
    return repr(str(name)[:60])


class _Reader:
    """The files of a bundle, one after the other."""

    def __init__(self, file: IO[bytes], limits: Limits) -> None:
        self.limits = limits
        self._file, self._inflate = file, zlib.decompressobj(31)
        self._packed = self._unpacked = 0
        self._ready = bytearray()

    def file(self, name: str, most: int, size: int | None = None) -> bytes:
        """The next file whole, which has to be the one of this name."""
        size = self._begin(name, size)
        if size > most:
            raise Refused(413, f"{name} has {size:,} bytes, which is more than this board takes.")
        data = self._take(size)
        self._pad(size)
        return data

    def rows(self, row: dict[str, Any], longest: int) -> Iterator[dict[str, Any]]:
        """The next file, line by line; its SHA-256 is checked at its end."""
        left, name, hasher = self._begin(row["name"], row["size"]), row["name"], hashlib.sha256()
        rest, number = b"", 0
        while left:
            part = self._take(min(CHUNK, left))
            left -= len(part)
            hasher.update(part)
            *lines, rest = (rest + part).split(b"\n")
            if max(map(len, (*lines, rest))) > longest:
                raise Refused(413, f"{name} has a line of more than {longest:,} bytes.")
            for line in lines:
                number += 1
                where = f"{name}, line {number}"
                yield content.check_row(content.read_json(line, where), where)
        if rest:
            raise Refused(400, f"{name} ends in the middle of a line.")
        if hasher.hexdigest() != row["sha256"]:
            raise Refused(400, f"{name} is not what bundle.json says: its SHA-256 is another.")
        self._pad(row["size"])

    def skip(self, row: dict[str, Any]) -> None:
        """Pass over the next file, which was checked before."""
        left = self._begin(row["name"], row["size"])
        while left:
            left -= len(self._take(min(CHUNK, left)))
        self._pad(row["size"])

    def end(self) -> None:
        """Nothing may follow but the end of the tar."""
        if self._take(2 * BLOCK).strip(b"\0"):
            raise Refused(400, "The bundle has a file that bundle.json does not list.")
        self._fill(1)
        if self._ready or not self._inflate.eof or self._inflate.unused_data or self._file.read(1):
            raise Refused(400, "Something follows the end of the bundle.")

    def _begin(self, name: str, size: int | None) -> int:
        """Read the next header, which has to be the one of this name (and size); the file's size."""
        block = self._take(BLOCK)
        told = block[124:135]
        found = int(told, 8) if re.fullmatch(rb"[0-7]{11}", told) else -1
        if found >= 0 and block == tar_header(name, found) and size in (None, found):
            return found
        other = block[:100].rstrip(b"\0").decode("ascii", "replace")
        if what := KINDS.get(block[156:157]):
            raise Refused(400, f"The bundle holds {what}, {_shown(other)}.")
        if other != name:
            raise Refused(400, f"The bundle has {_shown(other)} where {name} has to be.")
        raise Refused(400, f"{name} is not stored as a bundle stores it, or has another size than bundle.json says.")

    def _pad(self, size: int) -> None:
        if self._take(-size % BLOCK).strip(b"\0"):
            raise Refused(400, "The bundle hides something between its files.")

    def _take(self, n: int) -> bytes:
        self._fill(n)
        if len(self._ready) < n:
            raise Refused(400, "The bundle is cut off.")
        data = bytes(self._ready[:n])
        del self._ready[:n]
        return data

    def _fill(self, n: int) -> None:
        """Unpack until `n` bytes are ready, CHUNK at a time."""
        while len(self._ready) < n and not self._inflate.eof:
            packed = self._inflate.unconsumed_tail or self._file.read(CHUNK)
            if not packed:
                return
            self._packed += 0 if self._inflate.unconsumed_tail else len(packed)
            try:
                part = self._inflate.decompress(packed, CHUNK)
            except zlib.error:
                raise Refused(400, "The bundle is no gzip file, or is damaged.") from None
            self._ready += part
            self._unpacked += len(part)
            if self._unpacked > (1 << 20) + self.limits.ratio * self._packed:
                raise Refused(413, f"The bundle unpacks to more than {self.limits.ratio} times its size.")
            if self._unpacked > self.limits.whole + (self.limits.files + 4) * 2 * BLOCK + self.limits.header:
                raise Refused(413, f"The bundle unpacks to more than {self.limits.whole:,} bytes.")
