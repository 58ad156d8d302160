"""JUnit XML, as Jenkins, GitLab and the usual GitHub actions read it: one suite, a test case for each check.

    junit("gate", [Case("estcopa", "estbench.gate", 1.5, failure=Note("regression", "-5.2 points"))], timestamp=now)

Valid by the schema of Jenkins' xUnit plugin (junit-10.xsd): times with three decimals, at most one outcome a case,
`skipped` counted on the suite alone. Texts may come from anywhere: what XML can't hold is left out, the rest escaped.
"""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # by XML 1.0, section 2.2


@dataclass(frozen=True, slots=True)
class Note:
    """Why a case did not pass: a word for the kind, a line, and as much text as helps."""

    kind: str
    message: str
    text: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """One check. It passed unless it has a failure (looked at and found wanting), an error (could not be looked at), or
    a reason why it was skipped; ValueError if it has several of them, which the counts could not tell."""

    name: str
    classname: str
    seconds: float
    failure: Note | None = None
    error: Note | None = None
    skipped: str | None = None
    output: str = ""

    def __post_init__(self) -> None:
        if sum(outcome is not None for outcome in (self.failure, self.error, self.skipped)) > 1:
            raise ValueError(f"{self.name!r} has more than one outcome")


def junit(
    name: str,
    cases: Sequence[Case],
    *,
    properties: Mapping[str, str] | None = None,
    timestamp: str,
    hostname: str = "",
) -> str:
    """The document of a suite, with its cases in order. `timestamp`: ISO 8601; one with an offset is written as UTC,
    since the format has none. ValueError if it is no time."""
    counts = {
        "tests": len(cases),
        "failures": sum(case.failure is not None for case in cases),
        "errors": sum(case.error is not None for case in cases),
    }
    skipped = sum(case.skipped is not None for case in cases)
    shared = {"name": name, **{key: str(count) for key, count in counts.items()}}
    shared["time"] = _seconds(sum(_plain(case.seconds) for case in cases))
    root = _element(None, "testsuites", shared)
    about = shared | {"skipped": str(skipped), "timestamp": _time(timestamp)}
    suite = _element(root, "testsuite", about | ({"hostname": hostname} if hostname else {}))
    if properties:
        listed = _element(suite, "properties", {})
        for key, value in properties.items():
            _element(listed, "property", {"name": key, "value": value})
    for case in cases:
        _add(suite, case)
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def _add(suite: ElementTree.Element, case: Case) -> None:
    about = {"name": case.name, "classname": case.classname, "time": _seconds(_plain(case.seconds))}
    element = _element(suite, "testcase", about)
    for tag, note in (("failure", case.failure), ("error", case.error)):
        if note is not None:
            _element(element, tag, {"type": note.kind, "message": note.message}, note.text or note.message)
    if case.skipped is not None:
        _element(element, "skipped", {"message": case.skipped})
    if case.output:
        _element(element, "system-out", {}, case.output)


def _element(
    parent: ElementTree.Element | None, tag: str, attributes: Mapping[str, str], text: str = ""
) -> ElementTree.Element:
    legal = {key: ILLEGAL.sub("", value) for key, value in attributes.items()}
    element = ElementTree.Element(tag, legal) if parent is None else ElementTree.SubElement(parent, tag, legal)
    element.text = ILLEGAL.sub("", text) or None
    return element


def _plain(seconds: float) -> float:
    """A time that the format can hold: a clock that was set back, or none at all, counts as nothing."""
    return seconds if math.isfinite(seconds) and seconds > 0 else 0.0


def _seconds(seconds: float) -> str:
    return f"{seconds:.3f}"


def _time(timestamp: str) -> str:
    moment = datetime.fromisoformat(timestamp)
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S")
