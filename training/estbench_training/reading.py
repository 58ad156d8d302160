"""Rows of a YAML file into frozen dataclasses, with an answer to every slip: the key's place and the nearest names.

    settings = parse(CptSettings, {"data": "corpus", "rate": "2e-5"}, "stage cpt")

A field may be an int, float, str, bool, Literal, another dataclass, a Mapping from str, a tuple of one of these, or
one of them or None. YAML reads 2e-5 as text: where a number is asked for, text that is one counts.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, cast

from estbench.errors import ConfigError, did_you_mean

T = TypeVar("T")


def parse(kind: type[T], row: object, where: str) -> T:
    """The dataclass of a mapping; ConfigError, one line that begins with `where`, if it doesn't fit."""
    if row is None:
        row = {}
    if not isinstance(row, Mapping):
        raise ConfigError(f"{where} has to hold keys and values, not {_shown(row)}.")
    fields = {field.name: field for field in dataclasses.fields(cast(Any, kind)) if field.init}
    hints = typing.get_type_hints(kind)
    values = {}
    for key, value in row.items():
        if key not in fields:
            known = ", ".join(fields)
            raise ConfigError(f"{where} has no key {key!r}.{did_you_mean(str(key), fields)} Its keys: {known}.")
        values[key] = _value(hints[key], value, f"{where}, {key}")
    for name, field in fields.items():
        bare = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if bare and name not in values:
            raise ConfigError(f"{where} lacks the key {name!r}.")
    try:
        return kind(**values)
    except ConfigError as error:
        text = str(error)
        raise ConfigError(text if text.startswith(where) else f"{where}: {text}") from None


def _value(hint: Any, value: object, where: str) -> Any:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return _one_of([kind for kind in inner if kind is not type(None)], value, where, type(None) in inner)
    if value is None:
        raise ConfigError(f"{where} is empty: give a value or leave the key out.")
    if origin is Literal:
        if value not in inner:
            choices = ", ".join(map(str, inner))
            raise ConfigError(f"{where}: {_shown(value)} is not one of {choices}.{did_you_mean(str(value), inner)}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where} has to be a list, not {_shown(value)}.")
        return tuple(_value(inner[0], part, f"{where}[{place}]") for place, part in enumerate(value))
    if origin in (Mapping, dict):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} has to hold names and values, not {_shown(value)}.")
        return {str(name): _value(inner[1], part, f"{where}.{name}") for name, part in value.items()}
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, cast(type, hint)) else parse(cast(type, hint), value, where)
    return _plain(hint, value, where)


def _one_of(kinds: list[Any], value: object, where: str, optional: bool) -> Any:
    """The value as the first of several kinds that takes it; the complaint is the last one's."""
    if value is None and optional:
        return None
    kinds = sorted(kinds, key=lambda kind: kind is str)  # anything may be a text
    for kind in kinds[:-1]:
        try:
            return _value(kind, value, where)
        except ConfigError:
            if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
                raise
    return _value(kinds[-1], value, where)


def _plain(kind: Any, value: object, where: str) -> Any:
    if kind is Any or kind is object:
        return value
    if kind is bool:
        if isinstance(value, bool):
            return value
        raise ConfigError(f"{where}: {_shown(value)} is neither true nor false.")
    if kind is str:
        if isinstance(value, str):
            return value
        raise ConfigError(f"{where}: {_shown(value)} is no text.")
    number = _number(value)
    if number is None or (kind is int and number != int(number)):
        raise ConfigError(f"{where}: {_shown(value)} is no {'whole ' if kind is int else ''}number.")
    return int(number) if kind is int else number


def _number(value: object) -> float | int | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, int):
        return value
    try:
        found = float(value.replace("_", "") if isinstance(value, str) else value)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
