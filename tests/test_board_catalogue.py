"""The catalogue is whole: both languages say the same things, everything that is asked for is there, nothing more."""

from __future__ import annotations

import ast
import re
import string
import unicodedata
from pathlib import Path

import pytest
import yaml
from estbench_leaderboard import catalogue
from estbench_leaderboard.catalogue import CODES, LOCALE, languages
from estbench_leaderboard.skills import PRESETS, SKILLS
from estbench_leaderboard.snapshot import BOARDS
from estbench_leaderboard.view import SIGNS
from jinja2 import Environment

LEXER = Environment()
PACKAGE = Path(catalogue.__file__).parent
KEY = re.compile(r"[a-z_]+(\.[A-Za-z0-9_+]+)+\.?|[a-z_]+\.")
NO_KEY = (".html", ".css", ".js", ".svg", ".woff2", ".xml", ".json", ".csv", ".sqlite")


def texts(code: str) -> dict[str, str]:
    return languages()[code].texts


def areas() -> set[str]:
    return {key.partition(".")[0] for key in texts("et")}


def mentioned() -> set[str]:
    """Every string of templates and code that looks like a key or the start of one."""
    found: set[str] = set()
    for path in sorted(PACKAGE.rglob("*.html")):
        found |= {ast.literal_eval(text) for _, kind, text in LEXER.lex(path.read_text("utf-8")) if kind == "string"}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return {
        text
        for text in found
        if KEY.fullmatch(text)
        and text.partition(".")[0] in areas()
        and (text in texts("et") or not text.endswith(NO_KEY))
    }


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def known(key: str) -> bool:
    """A key, one that `n=` chooses a form of, or the start of keys that something is joined to."""
    return any(one.startswith(key) for one in texts("et"))


def test_both_languages_have_the_same_texts() -> None:
    one, other = (set(texts(code)) for code in CODES)
    assert one ^ other == set()


def test_both_languages_fill_in_the_same() -> None:
    differing = {
        key: [placeholders(texts(code)[key]) for code in CODES]
        for key in texts("et")
        if key in texts("en")
        and not key.endswith(".one")  # a form for one may do without its number
        and placeholders(texts("et")[key]) != placeholders(texts("en")[key])
    }
    assert differing == {}


def test_a_text_that_counts_has_both_forms() -> None:
    for code in CODES:
        counting = {key.removesuffix(".other") for key in texts(code) if key.endswith(".other")}
        alone = {key for key in counting if f"{key}.one" not in texts(code) and "{n}" in texts(code)[f"{key}.other"]}
        assert alone == set()


def test_every_text_that_is_asked_for_is_there() -> None:
    assert sorted(key for key in mentioned() if not known(key)) == []


def test_no_text_is_left_that_nobody_asks_for() -> None:
    """A key is asked for by itself, without its form for a number, or by a start that something is joined to."""
    asked = mentioned()
    starts = tuple(f"{key}." if key in texts("et") else key for key in asked)
    # Keys that are put together of a variable start; each has a reason to be here.
    starts += tuple(f"{name}." for name in _sections())
    unused = [key for key in texts("et") if key not in asked and not key.startswith(starts)]
    assert unused == [], " ".join(unused)


def _sections() -> set[str]:
    """Areas of pages that are sections of text: `prose.content(request, "method", …)` asks for method.NAME.title."""
    calls = re.compile(r'content\(\s*request,\s*"([a-z]+)"')
    return {name for path in PACKAGE.glob("pages/*.py") for name in calls.findall(path.read_text("utf-8"))} | {
        "error",  # PageError says which
        "number",
        "month",
    }


@pytest.mark.parametrize("code", CODES)
def test_what_the_board_can_show_has_its_words(code: str) -> None:
    wanted = [f"skill.{name}.{part}" for name in SKILLS for part in ("title", "sentence", "example")]
    wanted += [f"preset.{name}" for name in PRESETS]
    wanted += [f"flag.{name}.{part}" for name in SIGNS for part in ("short", "meaning")]
    wanted += [f"board.{part}.{name}" for name in BOARDS for part in ("tab", "about", "what")]
    reasons = ("not_run", "failed", "skipped", "hidden", "other_version", "other_prompt", "partial", "scores_only")
    wanted += [f"reason.{name}" for name in reasons]
    wanted += [f"unranked.{name}" for name in ("reference", "claimed", "rescored", "withdrawn", "incomplete")]
    assert [key for key in wanted if key not in texts(code)] == []


@pytest.mark.parametrize("code", CODES)
def test_texts_are_written_with_care(code: str) -> None:
    """Composed letters, no double spaces, no markup: a text is a text."""
    wrong = {
        key: text
        for key, text in texts(code).items()
        if text != unicodedata.normalize("NFC", text)
        or "  " in text
        or re.search(r"</?[a-z]+>|&[a-z]+;", text)
        or (code == "et" and '"' in text)
    }
    assert wrong == {}


def test_a_key_stands_in_one_file_only() -> None:
    """A second file with the same key would be refused at the start: `languages` says which."""
    for code in CODES:
        tops = [set(yaml.safe_load(path.read_text("utf-8"))) for path in sorted(LOCALE.glob(f"*.{code}.yaml"))]
        assert sum(map(len, tops)) == len(set().union(*tops))
