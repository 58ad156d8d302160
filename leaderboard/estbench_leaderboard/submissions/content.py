"""What a bundle may hold: hashes, answers and claimed scores. A field that is not listed here is refused.

    manifest = manifest_of(run)                  # without places on the sender's machine
    for row in rows_of(run, "mini_copa"): ...    # {"doc", "asked", "prompt", "keys", "responses"}
    check_manifest(value), check_scores(value), check_row(value)     # Refused, in one line

No prompt and no gold travels: the board has its own tasks, data and golds, and finds a document by the hash of its row.
No judgment does either: a board can't make those again, and compares only what its own judges said. Scores that the
sender's judges gave are claims, of which the form alone is checked.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterator
from dataclasses import asdict, fields
from datetime import UTC, datetime
from typing import Any

from estbench import judged
from estbench.cards import TrainingCard
from estbench.errors import ConfigError, ModelError, StoreError
from estbench.exports import without_places
from estbench.metrics.judgments import is_judged
from estbench.runs import Run, Score
from estbench.scoring import BOUNDS
from estbench_leaderboard.submissions.errors import Refused

RUN_ID = re.compile(r"(?!.*\.(?i:json|csv)$)[A-Za-z0-9][A-Za-z0-9._-]{0,119}")  # an ending would name another page
TASK = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9_.+/-]{0,79}")
HASH = re.compile(r"[0-9a-f]{16,64}(-[0-9]{1,9})?")
FINISHES = ("stop", "length", "refusal")
MOST_TASKS = 200
MOST_DOCS = 200_000  # of a task
MOST_REQUESTS = 512  # of a document: options, or windows of a long text
MOST_TEXT = 2000  # characters of what a manifest says
MOST_DEEP, MOST_PARTS = 4, 200  # of what a manifest says freely
DIGITS = 18  # of a whole number
MOST_OBSERVED = 100  # characters of what was seen of an endpoint
EARLIEST = datetime(2020, 1, 1, tzinfo=UTC)  # no run is older

TOP = {
    *("schema", "run", "name", "created", "seconds", "partial", "slice", "model", "engine", "identity", "suites"),
    *("tasks", "skipped", "settings", "command", "versions", "host"),
}
MODEL = {
    *("name", "path", "revision", "parameters", "bytes", "type", "fingerprint", "hashes", "dtype", "max_length"),
    *("chat_template", "bos", "url", "weights", "observed", "first_observed", "shown", "training", "card"),
}
CARD = {
    *("title", "skill", "form", "language", "licence", "chance", "primary", "metrics", "higher_is_better", "cluster"),
    *("access", "publish_items", "sample", "reason", "data", "scorer", "shots", "truncated", "plan_hash", "n_docs"),
    *("n_planned", "endings"),
}
ROW = {"doc", "asked", "prompt", "keys", "responses"}
SCORED = {"logprob": float, "greedy": bool}
GENERATED = {"text": str, "tokens": int, "finish": str}
THOUGHT = {"thinking": str, "thinking_tokens": int}
BIAS = "/first_position_bias"  # how the one metric of judges ends that may be below 0
COMET = "comet:"  # in front of a claimed COMET score's metric: which the board does not compute


def manifest_of(run: Run) -> dict[str, Any]:
    """The run's manifest as a bundle has it. ConfigError for a run that can't be sent, with the cure."""
    manifest = run.manifest
    if manifest["slice"]:
        raise ConfigError(f"{run.id} is slice {manifest['slice']} of an evaluation: send the whole run.")
    if run.unanswered:
        cure = "the same `estbench eval` asks for them again"
        raise ConfigError(f"{run.id} has {run.unanswered:,} documents without a response: {cure}; send that run.")
    if left_out := manifest.get("items_left_out"):
        raise ConfigError(f"{run.id} is an export without the answers of {', '.join(left_out)}: send the run itself.")
    if not (run.path / "responses").is_dir():
        raise ConfigError(f"{run.id} has scores and no answers, so that nothing can be computed again.")
    found = without_places(manifest)
    found = {key: value for key, value in found.items() if key in TOP}
    found["model"] = {key: value for key, value in found["model"].items() if key in MODEL}
    found["tasks"] = {task: {k: v for k, v in card.items() if k in CARD} for task, card in found["tasks"].items()}
    found["settings"] = {key: value for key, value in found["settings"].items() if key != "gold"}
    found["command"] = shlex.join(word for word in shlex.split(found["command"]) if not word.startswith("gold="))
    try:
        return check_manifest(json.loads(json.dumps(found)))
    except Refused as error:
        raise ConfigError(f"{run.id} can't be sent: {error}") from None


def scores_of(run: Run) -> list[dict[str, Any]]:
    """The scores as claimed; COMET's, which the board does not compute, with `comet:` before their name."""
    from estbench.comet_runs import read as read_comet

    rows = [asdict(score) for score in run.scores() if score.task in run.manifest["tasks"]]
    for entry in read_comet(run):
        name = f"{COMET}{entry['signature']}"
        rows += [row | {"metric": name, "primary": False} for row in entry["scores"]]
    return rows


def rows_of(run: Run, task: str) -> Iterator[dict[str, Any]]:
    """The answers of a task, a row a document; StoreError where the folder lacks some."""
    answers = run.responses(task)
    waiting = next(answers, None)
    for doc in run.plan(task):
        keys, found = [], []
        while waiting is not None and waiting["doc_id"] == doc.doc_id:
            keys.append(waiting["key"])
            found.append({key: value for key, value in waiting.items() if key not in ("doc_id", "index", "key")})
            waiting = next(answers, None)
        if not found:
            raise StoreError(f"{run.path}: document {doc.doc_id} of {task} has no response.")
        yield {
            "doc": doc.doc_hash,
            "asked": doc.asked,
            "prompt": doc.prompt_hash,
            "keys": keys,
            "responses": found,
        }


# ---- from outside


def read_json(text: bytes, what: str) -> Any:
    """JSON from outside. Refused: NaN, infinite and huge numbers, a key twice, half characters, too deep."""

    def number(digits: str) -> int:
        if len(digits) > DIGITS:
            raise ValueError("a number is too large")
        return int(digits)

    def constant(word: str) -> Any:
        raise ValueError(f"{word} is no number")

    def fraction(digits: str) -> float:
        value = float(digits)
        if not math.isfinite(value):
            raise ValueError("a number is too large")
        return value

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a key is there twice")
        return found

    try:
        decoded = text.decode("utf-8")
        value = json.loads(
            decoded, parse_int=number, parse_float=fraction, parse_constant=constant, object_pairs_hook=once
        )
        if "\\ud" in decoded.lower():
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeError:
        raise Refused(400, f"{what} is not UTF-8.") from None
    except RecursionError:
        raise Refused(400, f"{what} is nested too deeply.") from None
    except ValueError as error:
        raise Refused(400, f"{what} can't be read: {str(error)[:120]}.") from None
    return value


def check_manifest(value: Any) -> dict[str, Any]:
    """A run's manifest from outside; Refused where a field is not what it has to be."""
    found = _fields(value, TOP, "manifest.json")
    if found.get("schema") != 1 or found.get("slice") is not None or not isinstance(found.get("partial"), bool):
        raise Refused(400, "manifest.json is no manifest of a whole run of this version.")
    if not isinstance(found.get("run"), str) or not RUN_ID.fullmatch(found["run"]):
        raise Refused(400, "manifest.json has a run id that is no plain name.")
    for key in ("name", "created", "command"):
        _text(found.get(key), f"manifest.json: {key}", printable=key != "command")
    if type(found.get("seconds")) not in (int, float):
        raise Refused(400, "manifest.json: seconds is no number.")
    moment_of(found["created"])
    _check_model(found.get("model"))
    tasks = found.get("tasks")
    if not isinstance(tasks, dict) or not 0 < len(tasks) <= MOST_TASKS:
        raise Refused(400, f"manifest.json has no tasks, or more than {MOST_TASKS}.")
    for task, card in tasks.items():
        _check_card(task, card)
    for key in ("engine", "identity", "settings", "versions", "host", "skipped"):
        if not isinstance(found.get(key), dict):
            raise Refused(400, f"manifest.json: {key} is no mapping.")
        _check_free(found[key], f"manifest.json: {key}")
    _check_plain(found["engine"], "manifest.json: engine")
    for key in ("identity", "versions", "host"):
        if not all(value is None or (isinstance(value, str) and value.isprintable()) for value in found[key].values()):
            raise Refused(400, f"manifest.json: {key} holds more than plain texts.")
    suites = found.get("suites")
    if not isinstance(suites, list) or not all(isinstance(name, str) and TASK.fullmatch(name) for name in suites):
        raise Refused(400, "manifest.json: suites is no list of names.")
    return found


def moment_of(created: str) -> datetime:
    """When a run was made, in UTC; Refused where the manifest does not say that, or names a time before there were any.

    Python writes years before 1000 without zeros, and some moments exist in no other zone: no such row may be made.
    """
    try:
        found = datetime.fromisoformat(created)
        found = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise Refused(400, "manifest.json does not say when the run was made.") from None
    if found < EARLIEST:
        raise Refused(400, f"manifest.json says that the run was made before {EARLIEST.year}: check the clock.")
    return found


def _check_plain(value: dict[str, Any], where: str) -> None:
    """Fields that pages show as they are: texts, numbers, or a mapping of such; and what was seen of an endpoint."""
    for name in ("observed", "first_observed"):
        seen = value.get(name)
        if seen is not None and not (isinstance(seen, str) and seen.isprintable() and len(seen) <= MOST_OBSERVED):
            raise Refused(400, f"{where}.{name} is no short text.")
    for found in value.values():
        parts = found.values() if isinstance(found, dict) else (found,)
        if not all(part is None or isinstance(part, str | int | float) for part in parts):
            raise Refused(400, f"{where} holds more than plain texts and numbers.")


def _check_model(value: Any) -> None:
    model = _fields(value, MODEL, "manifest.json: model")
    _text(model.get("name"), "manifest.json: model.name", printable=True)
    fingerprint = model.get("fingerprint")
    if not isinstance(fingerprint, str) or not re.fullmatch(r"[0-9a-f]{64}", fingerprint):
        raise Refused(400, "manifest.json: model.fingerprint is no SHA-256.")
    for key in ("parameters", "bytes"):
        if model.get(key) is not None and (type(model[key]) is not int or model[key] < 0):
            raise Refused(400, f"manifest.json: model.{key} is no count.")
    for key in ("path", "revision", "type", "url", "dtype", "bos", "chat_template", "weights"):
        if model.get(key) is not None:
            _text(model[key], f"manifest.json: model.{key}", printable=True)
    if "/" in (model.get("path") or ""):
        raise Refused(400, "manifest.json: model.path names a place on a machine.")
    _check_free(model, "manifest.json: model")
    plain = {key: found for key, found in model.items() if key not in ("training", "card")}  # which are looked at below
    _check_plain(plain, "manifest.json: model")
    if not isinstance(model.get("hashes") or {}, dict) or not isinstance(model.get("shown") or {}, dict):
        raise Refused(400, "manifest.json: model.hashes or model.shown is no mapping.")
    _check_cards(model)


def _check_cards(model: dict[str, Any]) -> None:
    """What the model's folder says of it, in the very form in which `estbench.cards` reads it: pages rely on that."""
    if (training := model.get("training")) is not None:
        try:
            same = TrainingCard.from_dict(training).to_dict() == training
        except ModelError as error:
            raise Refused(400, f"manifest.json: model.training: {error}") from None
        if not same:
            raise Refused(400, "manifest.json: model.training has fields that do not belong there.")
    if "card" not in model:
        return
    card = _fields(model["card"], {"licence", "base_models", "languages", "links"}, "manifest.json: model.card")
    links = card.get("links", {})
    texts = [card.get("licence") or "-", *links.values()] if isinstance(links, dict) else [None]
    for key in ("base_models", "languages"):
        texts += card[key] if isinstance(card.get(key), list) else [None]
    if not all(isinstance(text, str) and text.isprintable() and text for text in texts):
        raise Refused(400, "manifest.json: model.card holds more than plain texts.")
    if links.keys() > {"licence"} or not all(re.fullmatch(r"https?://\S+", link) for link in links.values()):
        raise Refused(400, "manifest.json: model.card has a link that is none.")


def _check_card(task: Any, value: Any) -> None:
    if not TASK.fullmatch(task):
        raise Refused(400, f"manifest.json has a task that is no plain name: {task[:80]!r}.")
    card = _fields(value, CARD, f"manifest.json: {task}")
    _check_free(card, f"manifest.json: {task}")
    for key in ("shots", "truncated", "n_docs", "n_planned"):
        if type(card.get(key)) is not int or not 0 <= card[key] <= 10**9:
            raise Refused(400, f"manifest.json: {task}.{key} is no count.")
    for key in ("plan_hash", "scorer"):
        if not isinstance(card.get(key), str) or not HASH.fullmatch(card[key]):
            raise Refused(400, f"manifest.json: {task}.{key} is no hash.")


def _check_free(value: Any, where: str, depth: int = 0) -> None:
    """What people and libraries say freely: texts and numbers, not deep and not many."""
    if isinstance(value, str):
        if len(value) > MOST_TEXT:
            raise Refused(400, f"{where} has a text of more than {MOST_TEXT:,} characters.")
    elif isinstance(value, dict | list):
        if depth > MOST_DEEP or len(value) > MOST_PARTS:
            raise Refused(400, f"{where} is nested too deeply or has too many parts.")
        for part in value.values() if isinstance(value, dict) else value:
            _check_free(part, where, depth + 1)
        for key in value if isinstance(value, dict) else ():
            _check_free(key, where, depth + 1)


def check_scores(value: Any, tasks: Any) -> list[Score]:
    """Claimed scores from outside, of these tasks."""
    if not isinstance(value, list) or len(value) > 100 * MOST_TASKS:
        raise Refused(400, "scores.json is no list of scores.")
    return [_score(row, tasks) for row in value]


def _score(row: Any, tasks: Any) -> Score:
    names = {field.name for field in fields(Score)}
    found = _fields(row, names, "scores.json")
    numbers, counts = ("value", "ci_low", "ci_high", "chance"), ("n", "n_planned", "parse_failures", "errors")
    fits = (
        found.keys() == names
        and all(found[key] is None or type(found[key]) in (int, float) for key in numbers)
        and all(type(found[key]) is int and 0 <= found[key] <= 10**9 for key in counts)
        and all(isinstance(found[key], bool) for key in ("higher_is_better", "primary"))
        and found["unit"] in BOUNDS
    )
    if not fits:
        raise Refused(400, "scores.json has a score that is none.")
    for key in ("task", "metric", "method", "signature", "reason"):
        if found[key] is not None or key in ("task", "metric", "method"):
            _text(found[key], f"scores.json: {key}", printable=True, empty=True)
    _check_judged(found)
    if found["task"] not in tasks:
        raise Refused(400, f"scores.json has scores of {found['task'][:80]!r}, which the manifest lacks.")
    return Score(**found)


def _check_judged(found: dict[str, Any]) -> None:
    """A score of judges has a metric of theirs, says who judged by what, and is a share (a bias, a difference)."""
    state = judged.state(found)
    if state is None and not (is_judged(found["metric"]) and found["value"] is not None):
        return
    low = -1 if found["metric"].endswith(BIAS) else 0
    numbers = [found[key] for key in ("value", "ci_low", "ci_high") if found[key] is not None]
    fits = state is not None and is_judged(found["metric"]) and found["unit"] == "proportion"
    if not fits or found["n"] > found["n_planned"] or not all(low <= number <= 1 for number in numbers):
        raise Refused(400, "scores.json has a score of judges that is none.")


def check_row(value: Any, where: str) -> dict[str, Any]:
    """A document's answers from outside."""
    row = _fields(value, ROW, where)
    keys, responses = row.get("keys"), row.get("responses")
    hashes = [row.get("doc"), row.get("asked"), row.get("prompt"), *(keys if isinstance(keys, list) else [None])]
    if not all(isinstance(text, str) and HASH.fullmatch(text) for text in hashes):
        raise Refused(400, f"{where} has a hash that is none.")
    if not isinstance(responses, list) or len(responses) != len(hashes) - 3 or not 0 < len(responses) <= MOST_REQUESTS:
        raise Refused(400, f"{where} does not have a response for each key.")
    for response in responses:
        _check_response(response, where)
    return row


def _check_response(value: Any, where: str) -> None:
    kinds = SCORED if isinstance(value, dict) and "logprob" in value else GENERATED
    more = THOUGHT if isinstance(value, dict) and THOUGHT.keys() & value.keys() and kinds is GENERATED else {}
    found = _fields(value, kinds.keys() | more.keys(), where)
    for key, kind in {**kinds, **more}.items():
        one = found.get(key)
        if type(one) is not kind and not (kind is float and type(one) is int):
            raise Refused(400, f"{where} has a response whose {key} is none.")
    if kinds is SCORED and not -1e9 < found["logprob"] < 0.01:
        raise Refused(400, f"{where} has a log-likelihood of {found['logprob']:g}.")
    if kinds is GENERATED and (found["finish"] not in FINISHES or not 0 <= found["tokens"] < 10**7):
        raise Refused(400, f"{where} has an answer that ends in no known way.")


def _fields(value: Any, known: Any, where: str) -> dict[str, Any]:
    """A mapping whose keys are all known."""
    if not isinstance(value, dict):
        raise Refused(400, f"{where} is no mapping.")
    if strange := value.keys() - set(known):
        name = "".join(sign if sign.isprintable() else "�" for sign in min(strange)[:40])
        raise Refused(400, f"{where} has a field that does not belong there: {name!r}.")
    return value


def _text(value: Any, where: str, *, printable: bool, empty: bool = False) -> None:
    fits = isinstance(value, str) and len(value) <= MOST_TEXT and (empty or bool(value.strip()))
    if not fits or (printable and not value.isprintable()) or "\0" in value:
        raise Refused(400, f"{where} is no plain text.")
