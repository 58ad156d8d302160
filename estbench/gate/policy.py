"""A gate's policy: a YAML file that a project commits. What is wrong in it is named with its line.

    alarms_per_year: 1        # how often equal models may fail; or alpha: 0.01
    runs_per_year: 365
    margin: 2                 # points a task may fall; bits in margin_bits
    pool: {margin: 1}         # points that the mean of the blocking tasks may fall
    tasks: core               # a suite, task names, or a mapping with rules for each
    advisory: [errnews_chat]  # looked at, never blocking
    reference: {baseline: baselines/release.json, margin: 3}

`read` knows the shipped policies by name (`gates/*.yaml`).
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from estbench.errors import ConfigError, did_you_mean
from estbench.home import project_file

EXPONENT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")
LARGEST = 10**15  # of the whole numbers in a policy
LOOKS = (0.1, 0.2, 0.4, 0.7, 1.0)
DIFFERENCES = ("engine", "prompts", "scorer", "form", "judges")


@dataclass(frozen=True)
class Rule:
    """What holds for one task. Points, or bits for tasks that are measured in bits."""

    blocking: bool = True
    margin: float | None = None  # how far it may fall; None: the policy's
    weight: float = 1.0  # in the pool, and of alpha
    metric: str | None = None  # None: the task's primary one
    minimum_n: int | None = None
    floor: float | None = None  # a score below it fails, whatever the baseline has
    maximum_parse_failures: float | None = None  # share of answers, 0 to 1
    noise: float | None = None  # standard deviation from step to step, beyond the sampling of documents


@dataclass(frozen=True)
class Pool:
    """The first test: the weighted mean of the blocking tasks."""

    margin: float = 1.0  # points
    share: float = 0.2  # of alpha; the rest is for the tasks


@dataclass(frozen=True)
class Reference:
    """A pinned baseline beside the last one: slow drift is seen against it."""

    baseline: str
    margin: float | None = None  # None: the policy's
    pool_margin: float | None = None


@dataclass(frozen=True)
class Policy:
    """When a candidate passes, fails, or stays undecided."""

    name: str = "policy"
    alpha: float = 0.05  # chance that a model as good as its baseline fails, over all tests of one run
    confidence: float = 0.95  # one-sided, of the bound that a pass needs
    margin: float = 2.0
    margin_bits: float = 0.02
    pool: Pool = field(default_factory=Pool)
    minimum_n: int = 100
    minimum_overlap: float = 0.95  # share of the candidate's documents that the baseline has to have
    maximum_missing: float = 0.02  # share of documents without a response
    maximum_parse_failures: float | None = None
    strict: bool = False  # a fall has to be surely beyond the margin
    tasks: tuple[str, ...] = ()  # empty: all that the baseline has
    rules: Mapping[str, Rule] = field(default_factory=dict)
    previous: str | None = None  # the baseline, where baseline= is not given
    reference: Reference | None = None
    allow: tuple[str, ...] = ()  # differences that are only warned of
    looks: tuple[float, ...] = LOOKS  # shares of documents at which a sequential gate looks

    def rule(self, task: str) -> Rule:
        return self.rules.get(task, Rule())

    def margin_of(self, task: str, unit: str) -> float:
        """In points or bits."""
        own = self.rule(task).margin
        return own if own is not None else self.margin_bits if unit == "bits" else self.margin

    def for_reference(self) -> Policy:
        """The policy of the comparison with the pinned reference."""
        pinned = self.reference
        assert pinned is not None
        pool = dataclasses.replace(
            self.pool, margin=self.pool.margin if pinned.pool_margin is None else pinned.pool_margin
        )
        if pinned.margin is None:
            return dataclasses.replace(self, pool=pool)
        rules = {task: dataclasses.replace(rule, margin=None) for task, rule in self.rules.items()}
        return dataclasses.replace(self, pool=pool, margin=pinned.margin, rules=rules)


class _Map(dict[str, Any]):
    """A mapping of the file with the line of each key."""

    lines: dict[str, int]
    line: int


class _Loader(yaml.SafeLoader):
    pass


def _mapping(loader: _Loader, node: yaml.MappingNode) -> _Map:
    found = _Map()
    found.lines, found.line = {}, node.start_mark.line + 1
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise _Wrong(line, f"{_shown(key)} is no word")
        if key in found:
            raise _Wrong(line, f"{key if key.isprintable() else _shown(key)} is there twice")
        found.lines[key] = line
        try:
            found[key] = loader.construct_object(value_node, deep=True)
        except (ValueError, OverflowError) as error:
            raise _Wrong(line, f"{key} can't be read: {error}") from None
    return found


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


class _Wrong(Exception):
    """What is wrong in a policy, and in which line."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line


def shipped() -> dict[str, Path]:
    """The policies that come with estbench, by name."""
    return {path.stem: path for path in sorted(project_file("gates").glob("*.yaml"))}


def read(word: str) -> Policy:
    """A policy file, or a shipped policy by name; ConfigError with the line of what is wrong."""
    path = Path(word).expanduser()
    if not path.is_file():
        if word not in shipped():
            raise ConfigError(f"There is no policy {word!r}.{did_you_mean(word, shipped())} policy= names a YAML file.")
        path = shipped()[word]
    try:
        content = yaml.load(path.read_text("utf-8"), _Loader)  # a SafeLoader that keeps lines
        if not isinstance(content, _Map):
            raise _Wrong(1, "a policy is keys and values")
        return _policy(content, path.stem)
    except OSError as error:
        raise ConfigError(f"{word} can't be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{word} is no UTF-8 text.") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{word}{where}: not valid YAML: {error.problem or error}.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{word} is not valid YAML: {' '.join(str(error).split())}") from None
    except _Wrong as error:
        raise ConfigError(f"{word}, line {error.line}: {error}.") from None
    except RecursionError:
        raise ConfigError(f"{word} is nested too deeply.") from None


KEYS = (
    "alpha", "alarms_per_year", "runs_per_year", "confidence", "margin", "margin_bits", "pool", "minimum_n",
    "minimum_overlap", "maximum_missing", "maximum_parse_failures", "strict", "tasks", "advisory", "previous",
    "reference", "allow", "noise", "looks", "description",
)  # fmt: skip


def _policy(content: _Map, name: str) -> Policy:
    _known(content, KEYS)
    values: dict[str, Any] = {"name": name, "alpha": _alpha(content)}
    for key in ("margin", "margin_bits"):
        _take(values, content, key, lambda part, at: _number(part, at, 0, math.inf))
    for key in ("minimum_overlap", "maximum_missing", "maximum_parse_failures"):
        _take(values, content, key, lambda part, at: _number(part, at, 0, 1))
    _take(values, content, "confidence", lambda part, at: _number(part, at, 0.5, 0.99999))
    _take(values, content, "minimum_n", _count)
    _take(values, content, "strict", _truth)
    _take(values, content, "previous", _word)
    _take(values, content, "allow", _allow)
    _take(values, content, "looks", _looks)
    _take(values, content, "pool", _pool)
    _take(values, content, "reference", _reference)
    names, rules = _tasks(content)
    if names and not any(rules[name].blocking for name in names):
        raise _Wrong(content.lines["tasks"], "no task of it is blocking")
    return Policy(tasks=names, rules=rules, **values)


def _take(values: dict[str, Any], content: _Map, key: str, convert: Any) -> None:
    if key in content:
        values[key] = convert(content[key], content.lines[key])


def _known(content: _Map, keys: tuple[str, ...]) -> None:
    for key in content:
        if key not in keys:
            raise _Wrong(content.lines[key], f"there is no key {key!r}{_hint(key, keys)}")


def _hint(word: str, known: Any) -> str:
    hint = did_you_mean(word, known).rstrip("?").strip()
    return f" ({hint[0].lower()}{hint[1:]}?)" if hint else ""


def _alpha(content: _Map) -> float:
    yearly = [key for key in ("alarms_per_year", "runs_per_year") if key in content]
    if "alpha" in content:
        if yearly:
            raise _Wrong(content.lines[yearly[0]], f"alpha and {yearly[0]} say the same: keep one")
        return _number(content["alpha"], content.lines["alpha"], 1e-9, 0.5)
    if not yearly:
        return Policy.alpha
    if len(yearly) == 1:
        raise _Wrong(content.lines[yearly[0]], "alarms_per_year and runs_per_year belong together")
    alarms, runs = (_number(content[key], content.lines[key], 1e-6, 1e6) for key in yearly)
    if not 1e-9 <= alarms / runs < 0.5:
        raise _Wrong(content.lines["alarms_per_year"], f"{alarms / runs:g} alarms a run are no gate")
    return alarms / runs


def _shown(value: Any) -> str:
    """A value in a message: short, and without unfolding what aliases made of it."""
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _number(value: Any, line: int, least: float, most: float) -> float:
    if isinstance(value, str) and EXPONENT.fullmatch(value):  # a number, but not to YAML 1.1
        value = float(value)
    if isinstance(value, int) and abs(value) > LARGEST:
        raise _Wrong(line, "that number is too large")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _Wrong(line, f"{_shown(value)} is no number")
    if not least <= value <= most:
        raise _Wrong(
            line, f"{value} is not from {least:g} to {most:g}" if most < math.inf else f"{value} is below {least:g}"
        )
    return float(value)


def _count(value: Any, line: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _Wrong(line, f"{_shown(value)} is no whole number from 1")
    return value


def _truth(value: Any, line: int) -> bool:
    if not isinstance(value, bool):
        raise _Wrong(line, f"{_shown(value)} is neither true nor false")
    return value


def _word(value: Any, line: int) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _Wrong(line, f"{_shown(value)} is no text")
    return value.strip()


def _words(value: Any, line: int) -> list[str]:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list) or not parts:
        raise _Wrong(line, f"{_shown(value)} is no list of names")
    return [_word(part, line) for part in parts]


def _allow(value: Any, line: int) -> tuple[str, ...]:
    words = _words(value, line)
    for word in words:
        if word not in DIFFERENCES:
            raise _Wrong(line, f"{word!r} is not one of {', '.join(DIFFERENCES)}")
    return tuple(words)


def _looks(value: Any, line: int) -> tuple[float, ...]:
    if not isinstance(value, list) or not value:
        raise _Wrong(line, "looks is a list of shares, such as [0.1, 0.3, 1]")
    shares = tuple(_number(part, line, 0.01, 1) for part in value)
    if list(shares) != sorted(set(shares)) or shares[-1] != 1:
        raise _Wrong(line, "looks have to grow, and end with 1")
    return shares


def _pool(value: Any, line: int) -> Pool:
    found = _inner(value, line, ("margin", "share"))
    parts: dict[str, Any] = {}
    _take(parts, found, "margin", lambda part, at: _number(part, at, 0, math.inf))
    _take(parts, found, "share", lambda part, at: _number(part, at, 0.01, 0.99))
    return Pool(**parts)


def _reference(value: Any, line: int) -> Reference:
    if isinstance(value, str):
        return Reference(_word(value, line))
    found = _inner(value, line, ("baseline", "margin", "pool_margin"))
    if "baseline" not in found:
        raise _Wrong(line, "reference needs a baseline: a file, run or URL")
    parts: dict[str, Any] = {"baseline": _word(found["baseline"], found.lines["baseline"])}
    for key in ("margin", "pool_margin"):
        _take(parts, found, key, lambda part, at: _number(part, at, 0, math.inf))
    return Reference(**parts)


def _inner(value: Any, line: int, keys: tuple[str, ...]) -> _Map:
    if not isinstance(value, _Map):
        raise _Wrong(line, f"{_shown(value)} is not keys and values ({', '.join(keys)})")
    _known(value, keys)
    return value


def _tasks(content: _Map) -> tuple[tuple[str, ...], dict[str, Rule]]:
    """Task names in order, and their rules: suites are spelled out; `advisory` and `noise` are added to them."""
    rules: dict[str, Rule] = {}
    given, line = content.get("tasks"), content.lines.get("tasks", 1)
    if isinstance(given, _Map):
        for word in given:
            rule = _rule(given[word], given.lines[word])
            rules |= dict.fromkeys(_spelled(word, given.lines[word]), rule)
    elif "tasks" in content:
        rules |= {name: Rule() for word in _words(given, line) for name in _spelled(word, line)}
    names = tuple(rules)
    for name in _words(content["advisory"], content.lines["advisory"]) if "advisory" in content else ():
        for task in _spelled(name, content.lines["advisory"]):
            rules[task] = dataclasses.replace(rules.get(task, Rule()), blocking=False)
    names = tuple(rules) if names else ()
    noise = _inner_any(content.get("noise"), content.lines.get("noise", 1)) if "noise" in content else _Map()
    for word, value in noise.items():
        sd = _number(value, noise.lines[word], 0, math.inf)
        for task in _spelled(word, noise.lines[word]):
            rules[task] = dataclasses.replace(rules.get(task, Rule()), noise=sd)
    return names, rules


def _inner_any(value: Any, line: int) -> _Map:
    if not isinstance(value, _Map):
        raise _Wrong(line, f"{_shown(value)} is not a value for each task")
    return value


def _spelled(word: str, line: int) -> list[str]:
    """The tasks that a name stands for. Names that the registry lacks are those of task files of others."""
    from estbench.registry import Registry

    registry = Registry()
    if suite := registry.suites.get(word):
        return list(suite.tasks)
    if word not in registry.tasks and "/" not in word:
        hint = _hint(word, [*registry.suites, *registry.tasks])
        if hint:
            raise _Wrong(line, f"there is no task or suite {word!r}{hint}")
    return [word]


RULE_KEYS = tuple(item.name for item in dataclasses.fields(Rule))


def _rule(value: Any, line: int) -> Rule:
    if value is None:
        return Rule()
    found = _inner(value, line, RULE_KEYS)
    parts: dict[str, Any] = {}
    _take(parts, found, "blocking", _truth)
    _take(parts, found, "metric", _word)
    _take(parts, found, "minimum_n", _count)
    _take(parts, found, "weight", lambda part, at: _number(part, at, 1e-6, 1e6))
    _take(parts, found, "maximum_parse_failures", lambda part, at: _number(part, at, 0, 1))
    for key in ("margin", "noise"):
        _take(parts, found, key, lambda part, at: _number(part, at, 0, math.inf))
    _take(parts, found, "floor", lambda part, at: _number(part, at, -math.inf, math.inf))
    return Rule(**parts)
