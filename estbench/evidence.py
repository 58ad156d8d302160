"""What comparisons need of a run, document by document: from a run folder, or from a baseline file that is committed.

    evidence = load("demo-3fa9")             # a run (id or folder), a baseline (file, URL, NAME of baselines/NAME.json)
    evidence.items("estcopa").values["acc"]  # beside .docs, .clusters, .keys, .parse_failure, .empty, .length
    save(evidence, Path("baselines/main.json"))

A baseline file holds hashes, scores and counts of each document, and no prompt, answer or gold. Tasks whose golds are
withheld are left out of it, since a score and an answer together tell the gold.
"""

from __future__ import annotations

import base64
import json
import math
import urllib.request
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from estbench.errors import ConfigError, DataError, StoreError
from estbench.home import home
from estbench.runs import Run, Score, find_run, write_json
from estbench.scoring import BOUNDS

FORMAT = 1
FOLDER = Path("baselines")
LARGEST = 64 << 20  # bytes of a baseline file; `core` takes about one million
UNPACKED = 64 << 20  # bytes of a task's items
HUGE = 1e300
SECONDS = 60  # for a baseline behind a URL
TEXTS, FLAGS = ("task", "metric", "method"), ("higher_is_better", "primary")  # fields of a score, by what they hold
COUNTS = ("n", "n_planned", "parse_failures", "errors")
KEPT = ("name", "run", "created", "partial", "model", "engine", "identity", "settings", "command", "versions")


@dataclass(frozen=True)
class Items:
    """The documents of a task that have a response, in order of doc_id."""

    docs: list[str]  # hash of the data row
    clusters: list[str | None]
    keys: list[str]  # sample keys: responses, row, scorer
    parse_failure: list[bool]
    empty: list[bool]  # a generated answer without any text
    length: list[int]  # characters of the generated answer; -1 where options were scored
    values: dict[str, list[Any]]  # metric -> numbers, or lists (sufficient statistics); None where a document has none
    errors: int = 0  # documents without a response
    asked: list[str] | None = None  # hash of what was asked; None: look into the run's plan


class Evidence:
    """A run as comparisons see it. `manifest` is the run's own, or what a baseline file keeps of it."""

    def __init__(self, manifest: dict[str, Any], scores: list[Score], run: Run | None, packed: dict[str, str]) -> None:
        self.manifest, self.run = manifest, run
        self.scores = scores
        self._packed = packed
        self._read: dict[str, Items] = {}

    @property
    def name(self) -> str:
        """What people call it; nothing in it moves a terminal's cursor."""
        return "".join(sign if sign.isprintable() else "�" for sign in str(self.manifest["name"]))

    @property
    def id(self) -> str:
        return str(self.manifest["run"])

    @property
    def tasks(self) -> dict[str, dict[str, Any]]:
        """Each task's part of the manifest, in the plan's order."""
        return dict(self.manifest["tasks"])

    def score(self, task: str, metric: str) -> Score | None:
        return next((score for score in self.scores if (score.task, score.metric) == (task, metric)), None)

    def items(self, task: str) -> Items:
        """A task's documents; StoreError where this has scores only."""
        if task not in self._read:
            if self.run is not None:
                self._read[task] = _of_run(self.run, task)
            elif task in self._packed:
                self._read[task] = _unpack(self._packed[task], self.id)
            else:
                raise StoreError(f"{self.id} has no scores of single documents for {task}: nothing can be paired.")
        return self._read[task]

    def asked(self, task: str) -> dict[str, str]:
        """Document hash -> hash of what was asked; reads the plan of a run folder."""
        items = self.items(task)
        if items.asked is not None:
            return dict(zip(items.docs, items.asked, strict=True))
        assert self.run is not None
        return {doc.doc_hash: doc.asked for doc in self.run.plan(task)}


def load(word: str) -> Evidence:
    """What `baseline=` or a run's name means. ConfigError or StoreError, in one line, if it means nothing."""
    if word.startswith(("http://", "https://")):
        return _of_file(_fetch(word), word)
    path = Path(word).expanduser()
    for candidate in (path, FOLDER / f"{word}.json"):
        if candidate.is_file():
            return _of_file(_read(candidate), str(candidate))
    if path.is_dir() and not (path / "manifest.json").exists():
        raise ConfigError(f"{word} is a folder without a manifest.json: it is no run.")
    return of_run(Run(find_run(word)))


def known(word: str) -> bool:
    """Whether a word names something stored, and not a model that has to be evaluated first."""
    path = Path(word).expanduser()
    if word.startswith(("http://", "https://")) or path.is_file() or (FOLDER / f"{word}.json").is_file():
        return True
    if path.is_dir():
        return (path / "manifest.json").exists()
    return bool(list((home() / "runs").glob(f"{_plain(word)}*/manifest.json"))) if _plain(word) else False


def _plain(word: str) -> str:
    return word if all(sign.isalnum() or sign in "._-" for sign in word) else ""


def of_run(run: Run) -> Evidence:
    """A run folder as evidence; ConfigError for a slice, StoreError for a folder that is damaged."""
    if run.manifest["slice"]:
        raise ConfigError(
            f"{run.id} is slice {run.manifest['slice']} of an evaluation: `estbench runs import` makes the whole run."
        )
    try:
        rows = json.loads((run.path / "scores.json").read_text("utf-8"), parse_constant=lambda _: None)  # NaN: missing
        _check_manifest(run.manifest)
        return Evidence(run.manifest, [_score(row) for row in rows], run, {})
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise StoreError(f"{run.path} is damaged: {error}. Run the same `estbench eval` again.") from None


def _check_manifest(manifest: dict[str, Any]) -> None:
    """ValueError where a manifest lacks what comparisons need, or has something else in its place."""
    if lacking := {"name", "run", "model", "engine", "identity", "tasks"} - manifest.keys():
        raise ValueError(f"it lacks {', '.join(sorted(lacking))}")
    parts = [manifest[key] for key in ("model", "engine", "identity", "tasks")]
    if not all(isinstance(part, dict) for part in (*parts, *parts[-1].values())):
        raise ValueError("a part of it has the wrong type")
    if odd := [task for task, card in manifest["tasks"].items() if not isinstance(card.get("primary"), str)]:
        raise ValueError(f"it does not say what {odd[0]} is measured by")


def _of_run(run: Run, task: str) -> Items:
    from estbench.runs import file_name

    if not (run.path / "samples" / f"{file_name(task)}.jsonl.gz").exists():
        raise StoreError(f"{run.id} has no scores of single documents for {task}: nothing can be paired.")
    try:
        texts: dict[int, str] = {row["doc_id"]: row["text"] for row in run.responses(task) if "text" in row}
        whole = sorted(run.samples(task), key=lambda sample: sample.doc_id)
    except (TypeError, KeyError) as error:
        raise StoreError(f"{run.path} is damaged in {task}: {error}. Run the same `estbench eval` again.") from None
    samples = [sample for sample in whole if sample.error is None]
    metrics = dict.fromkeys(name for sample in samples for name in sample.values)
    if any(isinstance(value, str) for sample in samples for value in sample.values.values()):
        raise StoreError(f"{run.path} is damaged in {task}: a value is a text. Run the same `estbench eval` again.")
    return Items(
        docs=[sample.doc_hash for sample in samples],
        clusters=[sample.cluster for sample in samples],
        keys=[sample.key for sample in samples],
        parse_failure=[sample.parse_failure for sample in samples],
        empty=[not texts.get(sample.doc_id, "text").strip() for sample in samples],
        length=[len(texts[sample.doc_id]) if sample.doc_id in texts else -1 for sample in samples],
        values={name: [sample.values.get(name) for sample in samples] for name in metrics},
        errors=max(len(whole), int(run.manifest["tasks"][task].get("n_planned") or 0)) - len(samples),
    )


def save(evidence: Evidence, path: Path, *, private: bool = False) -> list[str]:
    """Write a baseline file; returns the tasks that are left out because their golds are withheld."""
    left_out = [name for name, card in evidence.tasks.items() if card.get("access") == "withheld" and not private]
    tasks = {name: card for name, card in evidence.tasks.items() if name not in left_out}
    packed = {}
    for name in tasks:
        items = evidence.items(name)
        asked = evidence.asked(name)
        packed[name] = _pack({**asdict(items), "asked": [asked[doc] for doc in items.docs]})
    if not tasks:
        raise ConfigError(f"{evidence.id} has no task that may stand in a baseline file; private=true takes all.")
    scores = [asdict(score) for score in evidence.scores if score.task not in left_out and "/" not in score.metric]
    kept = {key: evidence.manifest[key] for key in KEPT if key in evidence.manifest}
    content = {"baseline": FORMAT, **kept, "slice": None, "schema": 1, "tasks": tasks}
    try:
        write_json(path, content | {"scores": scores, "items": packed})
    except OSError as error:
        raise StoreError(f"{path} can't be written: {error.strerror}.") from None
    return left_out


def _pack(value: dict[str, Any]) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode("utf-8", "surrogatepass"), 9)).decode("ascii")


def _unpack(text: str, origin: str) -> Items:
    try:
        opened = zlib.decompressobj()
        raw = opened.decompress(base64.b64decode(text, validate=True), UNPACKED)
        if opened.unconsumed_tail:
            raise ValueError("it is too large")
        items = Items(**json.loads(raw))
        _check(items)
    except (ValueError, TypeError, AttributeError, OverflowError, zlib.error, RecursionError) as error:
        raise StoreError(f"The items of {origin} can't be read: {error}. Make the baseline anew.") from None
    return items


def _check(items: Items) -> None:
    """ValueError where columns from outside are not what they have to be."""
    columns: list[tuple[list[Any], Callable[[Any], bool]]] = [
        (items.docs, _is_text),
        (items.keys, _is_text),
        (items.clusters, lambda value: value is None or isinstance(value, str)),
        (items.parse_failure, lambda value: isinstance(value, bool)),
        (items.empty, lambda value: isinstance(value, bool)),
        (items.length, lambda value: type(value) is int),
        *((column, _is_value) for column in items.values.values()),
        *([(items.asked, _is_text)] if items.asked is not None else []),
    ]
    fits = all(isinstance(column, list) and len(column) == len(items.docs) for column, _ in columns)
    if not fits or type(items.errors) is not int or not all(all(map(good, column)) for column, good in columns):
        raise ValueError("a column of it has the wrong length or type")
    if len(set(items.docs)) < len(items.docs):
        raise ValueError("a document is there twice")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_value(value: Any) -> bool:
    """Whether a document's value is one: nothing, a finite number, or lists of such."""
    if isinstance(value, list):
        return all(map(_is_value, value))
    return value is None or isinstance(value, str) or (isinstance(value, int | float) and abs(value) < HUGE)


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > LARGEST:
            raise StoreError(f"{path} is too large for a baseline file.")
        return path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path} can't be read: {error.strerror}.") from None


class _NoDowngrade(urllib.request.HTTPRedirectHandler):
    """Redirects stay on https where they began there."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise OSError(f"it leads from https to {newurl.partition(':')[0]}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _fetch(url: str) -> bytes:
    try:
        with urllib.request.build_opener(_NoDowngrade).open(url, timeout=SECONDS) as response:
            content = bytes(response.read(LARGEST + 1))
    except (OSError, ValueError) as error:
        raise DataError(f"{url} can't be fetched: {getattr(error, 'reason', error)}.") from None
    if len(content) > LARGEST:
        raise DataError(f"{url} is too large for a baseline file.")
    return content


def _score(row: dict[str, Any]) -> Score:
    """A score from outside; ValueError where a field is not what it has to be."""
    score = Score(**{field.name: row[field.name] for field in fields(Score) if field.name in row})
    numbers = (score.value, score.ci_low, score.ci_high, score.chance)
    fits = (
        all(isinstance(getattr(score, name), str) for name in TEXTS)
        and all(type(getattr(score, name)) is int for name in COUNTS)
        and all(isinstance(getattr(score, name), bool) for name in FLAGS)
        and all(number is None or (isinstance(number, int | float) and math.isfinite(number)) for number in numbers)
        and all(text is None or isinstance(text, str) for text in (score.signature, score.reason))
        and score.unit in BOUNDS
    )
    if not fits:
        raise ValueError("a score of it is none")
    return score


def _of_file(content: bytes, origin: str) -> Evidence:
    try:
        whole = json.loads(content)
        if not isinstance(whole, dict) or whole.get("baseline") != FORMAT:
            raise ValueError("it is no baseline file of this version")
        scores = [_score(row) for row in whole["scores"]]
        manifest = {key: value for key, value in whole.items() if key not in ("scores", "items", "baseline")}
        _check_manifest(manifest)
        names = (manifest["name"], manifest["run"], *manifest["tasks"])
        if not all(isinstance(name, str) and name.isprintable() for name in names):
            raise ValueError("a name in it is none")
        return Evidence(manifest, scores, None, {str(task): str(text) for task, text in whole["items"].items()})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        cure = "`estbench baseline set NAME run=ID` writes one"
        raise StoreError(f"{origin} is no baseline file: {error}; {cure}.") from None
