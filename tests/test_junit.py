"""JUnit reports are valid, count right, and hold whatever text they are given."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from estbench.interchange.junit import ILLEGAL, Case, Note, junit

SCHEMA = etree.XMLSchema(etree.parse(str(Path(__file__).with_name("junit.xsd"))))
NOW = "2026-11-20T10:00:00+00:00"
HOSTILE = '<a b="c">&amp; \' ]]> <![CDATA[ \x00\x08\x1b[31m\ufffe\ud800\udfff <!-- -- > õäöü šž 🙂\u2028'
TEXTS = st.text(st.characters(), max_size=30) | st.sampled_from([HOSTILE, "", "\r\n", "\t"])


def read(text: str) -> Any:
    """The root of a document, which has to be valid."""
    document = etree.fromstring(text.encode("utf-8"))
    SCHEMA.assertValid(document)
    return document


def legal(text: str) -> str:
    return ILLEGAL.sub("", text)


def notes() -> st.SearchStrategy[Note]:
    return st.builds(Note, TEXTS, TEXTS, TEXTS)


def cases() -> st.SearchStrategy[Case]:
    outcomes = st.one_of(
        st.just({}),
        notes().map(lambda note: {"failure": note}),
        notes().map(lambda note: {"error": note}),
        TEXTS.map(lambda text: {"skipped": text}),
    )
    times = st.floats(0, 1e9, allow_nan=False)
    return st.builds(
        lambda o, *rest, output: Case(*rest, **o, output=output), outcomes, TEXTS, TEXTS, times, output=TEXTS
    )


def test_a_report_is_what_ci_reads() -> None:
    text = junit(
        "gate",
        [
            Case("estcopa", "estbench.gate", 1.25),
            Case("estqa", "estbench.gate", 0.5, failure=Note("regression", "-5.2 points", "p = 0.001\n12 against 64")),
            Case("estner", "estbench.gate", 0, error=Note("crash", "not evaluated"), output="a line\nanother"),
            Case("xquad_en", "estbench.gate", 0, skipped="advisory"),
        ],
        properties={"candidate": "step-2000"},
        timestamp=NOW,
        hostname="node-1",
    )
    assert text.startswith('<?xml version="1.0" encoding="UTF-8"?>\n<testsuites ')
    [suite] = root = read(text)
    counts = {"name": "gate", "tests": "4", "failures": "1", "errors": "1", "time": "1.750"}
    assert dict(root.attrib) == counts
    assert dict(suite.attrib) == counts | {"skipped": "1", "timestamp": "2026-11-20T10:00:00", "hostname": "node-1"}
    assert [dict(entry.attrib) for entry in suite.find("properties")] == [{"name": "candidate", "value": "step-2000"}]
    passed, failed, crashed, skipped = suite.findall("testcase")
    assert len(passed) == 0 and passed.get("time") == "1.250"
    assert (
        failed.find("failure").text == "p = 0.001\n12 against 64" and failed.find("failure").get("type") == "regression"
    )
    assert crashed.find("error").text == crashed.find("error").get("message") == "not evaluated"
    assert crashed.find("system-out").text == "a line\nanother"
    assert skipped.find("skipped").get("message") == "advisory"


@given(TEXTS, st.lists(cases(), max_size=4), st.dictionaries(TEXTS, TEXTS, max_size=3), TEXTS)
def test_any_text_gives_a_valid_report_that_says_the_same(
    name: str, given_cases: list[Case], properties: dict[str, str], hostname: str
) -> None:
    [suite] = root = read(junit(name, given_cases, properties=properties, timestamp=NOW, hostname=hostname))
    assert root.get("name") == suite.get("name") == legal(name)
    found = suite.findall("testcase")
    assert [case.get("name") for case in found] == [legal(case.name) for case in given_cases]
    assert [entry.get("value") for entry in suite.findall("properties/property")] == [
        legal(value) for value in properties.values()
    ]
    for tag, count in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        assert int(suite.get(count)) == sum(getattr(case, tag) is not None for case in given_cases)
        assert int(suite.get(count)) == len(suite.findall(f"testcase/{tag}"))
    for element, case in zip(found, given_cases, strict=True):
        note = case.failure or case.error
        if note is not None:
            shown = element[0]
            # the parser makes one sign of a line's end, as XML 1.0 says
            text = legal(note.text or note.message).replace("\r\n", "\n").replace("\r", "\n")
            assert (shown.text or "") == text and shown.get("message") == legal(note.message)


def test_what_xml_can_not_hold_is_gone_and_nothing_else() -> None:
    text = junit("s", [Case(HOSTILE, HOSTILE, 0, failure=Note(HOSTILE, HOSTILE, HOSTILE))], timestamp=NOW)
    [[case]] = read(text)
    assert case.get("name") == '<a b="c">&amp; \' ]]> <![CDATA[ [31m <!-- -- > õäöü šž 🙂\u2028'
    assert case[0].text == case.get("name") and len(case[0]) == 0


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -1.0, -0.0, 1e-9])
def test_a_time_that_is_none_counts_as_nothing(seconds: float) -> None:
    [[first, _]] = root = read(junit("s", [Case("a", "b", seconds), Case("c", "d", 2)], timestamp=NOW))
    assert first.get("time") == "0.000" and root.get("time") == "2.000"


def test_a_case_has_one_outcome() -> None:
    with pytest.raises(ValueError, match="more than one outcome"):
        Case("a", "b", 0, failure=Note("x", "y"), error=Note("x", "y"))
    with pytest.raises(ValueError, match="more than one outcome"):
        Case("a", "b", 0, failure=Note("x", "y"), skipped="")


@pytest.mark.parametrize(
    ("given_time", "written"),
    [
        ("2026-11-20T10:00:00+02:00", "2026-11-20T08:00:00"),
        ("2026-11-20T10:00:00.123456Z", "2026-11-20T10:00:00"),
        ("2026-11-20T10:00:00", "2026-11-20T10:00:00"),
    ],
)
def test_times_are_utc_and_without_an_offset(given_time: str, written: str) -> None:
    [suite] = read(junit("s", [], timestamp=given_time))
    assert suite.get("timestamp") == written
    with pytest.raises(ValueError, match="isoformat"):
        junit("s", [], timestamp="yesterday")


@pytest.mark.parametrize(
    ("whole", "broken"),
    [
        ('tests="1"', 'tests="one"'),
        ('time="1.500"', 'time="1.5 s"'),
        ('classname="b"', ""),
        ("<testcase", "<testcases"),
        ('timestamp="2026-11-20T10:00:00"', 'timestamp="today"'),
    ],
)
def test_the_schema_sees_what_is_wrong(whole: str, broken: str) -> None:
    """Negative control for all of the above."""
    text = junit("s", [Case("a", "b", 1.5)], timestamp=NOW)
    assert whole in text
    read(text)
    with pytest.raises((etree.DocumentInvalid, etree.XMLSyntaxError)):
        read(text.replace(whole, broken))
