r"""A JSON schema as a regular expression for compact JSON, for servers whose own JSON grammars allow any white space.

    pattern({"type": "object", "properties": {"verdict": {"enum": ["A", "B"]}}, "required": ["verdict"]})
    # \{"verdict":("A"|"B")\}

With white space allowed a weak model writes line breaks until it is cut off, which a grammar calls right. Only what is
asked for here is known: objects with all their fields, enums, strings with a limit, integers, booleans, lists of a
fixed length. Anything else is None: then the server's own grammar is used.
"""

from __future__ import annotations

import json
import re
from typing import Any

SIGN = r'(?:[^"\\\x00-\x1f]|\\["\\/bfnrt])'  # of a JSON string
LONGEST = 4000  # signs of a string, at most


def outputs(schema: Any) -> dict[str, Any]:
    """vLLM's `structured_outputs` for a schema."""
    found = pattern(schema)
    return {"regex": found} if found else {"json": schema}


def pattern(schema: Any) -> str | None:
    """The regular expression of a schema's compact JSON, fields in their order; None where the schema has more."""
    if not isinstance(schema, dict):
        return None
    if "enum" in schema:
        return "(" + "|".join(re.escape(json.dumps(one, ensure_ascii=False)) for one in schema["enum"]) + ")"
    kind = schema.get("type")
    if kind == "object":
        return _object(schema)
    if kind == "array":
        n, item = schema.get("minItems"), pattern(schema.get("items"))
        if not isinstance(n, int) or n != schema.get("maxItems") or n < 1 or item is None:
            return None
        return rf"\[{item}(?:,{item}){{{n - 1}}}\]" if n > 1 else rf"\[{item}\]"
    if kind == "string" and 0 < schema.get("maxLength", 0) <= LONGEST:
        return f'"{SIGN}{{0,{schema["maxLength"]}}}"'
    return {"integer": r"-?(?:0|[1-9][0-9]{0,14})", "boolean": "(?:true|false)"}.get(str(kind))


def _object(schema: dict[str, Any]) -> str | None:
    fields = schema.get("properties") or {}
    if not fields or set(schema.get("required") or ()) != set(fields):
        return None
    parts = {name: pattern(rule) for name, rule in fields.items()}
    if any(part is None for part in parts.values()):
        return None
    pairs = (f"{re.escape(json.dumps(name, ensure_ascii=False))}:{part}" for name, part in parts.items())
    return r"\{" + ",".join(pairs) + r"\}"
