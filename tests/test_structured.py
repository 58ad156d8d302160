"""A schema as a regular expression: what matches is JSON that fits the schema, and compact JSON that fits matches."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from estbench.engines.structured import outputs, pattern

VERDICTS = ["A_much", "A", "tie", "B", "B_much"]
TEXT = st.text(st.characters(blacklist_categories=["Cs"], min_codepoint=0x20), max_size=40)


def schema(**fields: Any) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


WHOLE = schema(
    reason={"type": "string", "maxLength": 80},
    verdict={"type": "string", "enum": VERDICTS},
    score={"type": "integer", "enum": [1, 2, 3]},
    n={"type": "integer"},
    criteria={"type": "array", "items": {"type": "boolean"}, "minItems": 3, "maxItems": 3},
)


@given(TEXT, st.sampled_from(VERDICTS), st.sampled_from([1, 2, 3]), st.integers(-(10**9), 10**9),
       st.lists(st.booleans(), min_size=3, max_size=3))  # fmt: skip
def test_compact_json_that_fits_matches(reason: str, verdict: str, score: int, n: int, criteria: list[bool]) -> None:
    value = {"reason": reason, "verdict": verdict, "score": score, "n": n, "criteria": criteria}
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("\x7f", "")
    assert "\\u" in text or re.fullmatch(str(pattern(WHOLE)), text)


@given(st.from_regex(re.compile(str(pattern(WHOLE)), re.ASCII), fullmatch=True))
def test_what_matches_is_json_that_fits(text: str) -> None:
    jsonschema.validate(json.loads(text), WHOLE)


@pytest.mark.parametrize(
    "text",
    ['{"verdict": "A"}', '{"verdict":"A"} ', '{"verdict":"C"}', '{"verdict":"A","more":1}', '{\n"verdict":"A"}', "A"],
)
def test_white_space_and_anything_else_does_not_match(text: str) -> None:
    found = str(pattern(schema(verdict={"enum": ["A", "B"]})))
    assert re.fullmatch(found, '{"verdict":"A"}') and not re.fullmatch(found, text)


def test_what_is_not_known_goes_to_the_servers_own_grammar() -> None:
    open_ended = schema(reason={"type": "string"})
    assert pattern(open_ended) is None and outputs(open_ended) == {"json": open_ended}
    assert pattern({"type": "object", "properties": {"a": {"type": "boolean"}}, "required": []}) is None
    assert pattern({"type": "array", "items": {"type": "boolean"}}) is None and pattern(True) is None
    assert outputs(schema(a={"type": "boolean"})) == {"regex": r'\{"a":(?:true|false)\}'}
