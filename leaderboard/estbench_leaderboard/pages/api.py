"""The API's documentation, made of its own schema: no script, nothing from elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from estbench_leaderboard import api
from estbench_leaderboard.site import Content, Request


@dataclass(frozen=True, slots=True)
class Field:
    """A parameter, or a field of an answer."""

    name: str
    kind: str
    text: str
    required: bool


@dataclass(frozen=True, slots=True)
class Operation:
    """A path of the API."""

    path: str
    text: str
    parameters: tuple[Field, ...]
    answer: str  # the name of its type; "" for free data


def page(request: Request) -> Content:
    """All paths with their parameters, and the types of their answers."""
    schema = api.schema()
    types = {
        name: tuple(_field(key, field, key in found.get("required", ())) for key, field in found["properties"].items())
        for name, found in schema["components"]["schemas"].items()
        if "properties" in found
    }
    operations = tuple(_operation(path, found["get"]) for path, found in schema["paths"].items())
    t = request.t
    return Content(
        template="api.html",
        values={"operations": operations, "types": types},
        json=schema,
        title=t("api.title"),
        description=t("api.description"),
    )


def _operation(path: str, found: dict[str, Any]) -> Operation:
    parameters = (
        Field(one["name"], _kind(one["schema"]), one.get("description", ""), one["required"])
        for one in found.get("parameters", ())
    )
    answer = found["responses"]["200"]["content"]["application/json"]["schema"]
    return Operation(path, " ".join(found.get("description", "").split()), tuple(parameters), _kind(answer))


def _field(name: str, found: dict[str, Any], required: bool) -> Field:
    return Field(name, _kind(found), found.get("description", ""), required)


def _kind(schema: dict[str, Any]) -> str:
    """A type in few words."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " | ".join(_kind(part) for part in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if schema.get("type") == "array":
        return f"[{_kind(schema.get('items', {}))}]"
    return str(schema.get("type", ""))
