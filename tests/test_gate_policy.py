"""A gate's policy: what is read, and that every slip is one line with the file, the line and the cure."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from estbench.errors import ConfigError
from estbench.gate import policy as policies
from estbench.gate.policy import Policy, Pool, Reference, Rule, read
from estbench.registry import Registry


def written(folder: Path, text: str | bytes) -> str:
    path = folder / "gate.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_a_policy_is_read_whole(tmp_path: Path) -> None:
    text = """
alarms_per_year: 2
runs_per_year: 400
margin: 1.5
pool: {margin: 0.5, share: 0.3}
strict: true
tasks:
  mini:
  estcopa: {margin: 3, weight: 2, floor: 55.5, minimum_n: 50, maximum_parse_failures: 0.1, metric: acc_norm}
advisory: mini_gec, mini_qa
noise: {mini_copa: 0.4}
reference: {baseline: release, margin: 4}
previous: main
allow: [engine]
looks: [0.25, 1]
"""
    found = read(written(tmp_path, text))
    assert (found.alpha, found.margin, found.strict, found.looks) == (2 / 400, 1.5, True, (0.25, 1.0))
    assert (found.pool, found.reference) == (Pool(0.5, 0.3), Reference("release", 4.0))
    assert found.tasks == (*Registry().suites["mini"].tasks, "estcopa")
    assert found.rule("estcopa") == Rule(True, 3.0, 2.0, "acc_norm", 50, 55.5, 0.1)
    assert not found.rule("mini_gec").blocking and found.rule("mini_inflect") == Rule()
    assert found.rule("mini_copa").noise == 0.4
    assert (found.previous, found.allow) == ("main", ("engine",))
    pinned = found.for_reference()
    assert (pinned.margin_of("estcopa", "proportion"), pinned.pool.margin) == (4.0, 0.5)


def test_margins_are_points_or_bits() -> None:
    found = Policy(margin=2, margin_bits=0.01, rules={"b": Rule(margin=0.3)})
    assert [found.margin_of(*asked) for asked in (("a", "proportion"), ("a", "bits"), ("b", "bits"))] == [2, 0.01, 0.3]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("margin: 1\nmargn: 2\n", 2, "'margin'"),
        ("margin: 1\nmargin: 2\n", 2, "margin is there twice"),
        ("margin: viis\n", 1, "'viis' is no number"),
        ("\n\nmargin: .nan\n", 3, "nan is no number"),
        ("margin: -1\n", 1, "below 0"),
        ("margin: true\n", 1, "True is no number"),
        ("alpha: 0\n", 1, "is not from"),
        ("alpha: 0.1\nalarms_per_year: 1\n", 2, "keep one"),
        ("alarms_per_year: 1\n", 1, "belong together"),
        ("alarms_per_year: 400\nruns_per_year: 365\n", 1, "no gate"),
        ("confidence: 1\n", 1, "is not from"),
        ("minimum_n: 2.5\n", 1, "no whole number"),
        ("strict: maybe\n", 1, "neither true nor false"),
        ("looks: [0.1, 0.5]\n", 1, "end with 1"),
        ("looks: [0.5, 0.1, 1]\n", 1, "have to grow"),
        ("looks: 1\n", 1, "list of shares"),
        ("allow: [engines]\n", 1, "'engines' is not one of engine"),
        ("pool: 3\n", 1, "keys and values"),
        ("pool: {margin: 1, shares: 2}\n", 1, "'share'"),
        ("tasks: estcopas\n", 1, "'estcopa'"),
        ("tasks:\n  estcopa: {margins: 1}\n", 2, "'margin'"),
        ("tasks:\n  estcopa:\n    floor: low\n", 3, "no number"),
        ("tasks: [1, 2]\n", 1, "1 is no text"),
        ("advisory: {}\n", 1, "no list of names"),
        ("noise: [estcopa]\n", 1, "a value for each task"),
        ("noise:\n  estcopa: -1\n", 2, "below 0"),
        ("reference: {margin: 2}\n", 1, "needs a baseline"),
        ("previous: ''\n", 1, "no text"),
        ("margin: [1\n", 2, "not valid YAML"),
        ("? [1]\n: 2\n", 1, "no word"),
        ("- margin\n", 1, "keys and values"),
        ("", 1, "keys and values"),
        (f"alpha: {'9' * 400}\n", 1, "too large"),
        ("margin: 1\ndescription: 2001-13-45\n", 2, "can't be read"),
        ("margin: !!int abc\n", 1, "can't be read"),
        ("alarms_per_year: 0.000001\nruns_per_year: 1000000\n", 1, "no gate"),
        ("!!python/object/apply:os.system ['true']\n", 1, "not valid YAML"),
        ('"a\\nb": 1\n"a\\nb": 2\n', 2, "there twice"),
        ("margin: *none\n", 1, "undefined alias"),
        ("tasks: &a [*a]\n", 1, "recursive"),
        ("pool:\n\tmargin: 1\n", 2, "cannot start any token"),
        ("margin: 1\n---\nmargin: 2\n", 2, "another document"),
        ("confidence: .inf\n", 1, "inf is no number"),
        ("minimum_n: 0\n", 1, "no whole number"),
        ("allow: [data]\n", 1, "'data' is not one of engine"),
        ("tasks:\n  estcopa: 3\n", 2, "not keys and values"),
        ("maximum_parse_failures: 20\n", 1, "not from 0 to 1"),
    ],
)
def test_a_slip_names_the_line_and_the_cure(tmp_path: Path, text: str, line: int, words: str) -> None:
    name = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read(name)
    assert str(caught.value).startswith(f"{name}, line {line}: ") and words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"\x00\x01"])
def test_what_is_no_text_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ConfigError, match=r"gate\.yaml"):
        read(written(tmp_path, content))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: " + "[" * 50_000, "nested too deeply"),
        ("a: " + "{b: " * 20_000, "nested too deeply"),
        ("a: \x00", "not valid"),
    ],
)
def test_depth_without_end_is_refused_at_once(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read(written(tmp_path, text))


def test_numbers_may_be_written_with_an_exponent(tmp_path: Path) -> None:
    """YAML 1.1 takes 1e-3 for text, people don't; 1.0e-3 it knows."""
    assert read(written(tmp_path, "alpha: 1.0e-3\n")).alpha == 0.001
    assert read(written(tmp_path, "alpha: 1e-3\n")).alpha == 0.001


def test_a_folder_and_a_name_that_is_none(tmp_path: Path) -> None:
    for word in (str(tmp_path), "corre", "no/such/file.yaml"):
        with pytest.raises(ConfigError, match="There is no policy"):
            read(word)


def test_aliases_that_multiply_end_at_once(tmp_path: Path) -> None:
    rows = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    rows += [f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]" for i in range(8)]
    with pytest.raises(ConfigError):  # written out, 387 million words
        read(written(tmp_path, "\n".join(rows)))
    with pytest.raises(ConfigError, match="a list is no number"):
        read(written(tmp_path, "tasks: &t [estcopa]\nmargin: *t\n"))


def read_or_refused(path: Path) -> bool:
    """Whether a file is read, or refused in one line."""
    try:
        return isinstance(read(str(path)), Policy)
    except ConfigError as error:
        return "\n" not in str(error)


@given(st.text(max_size=200))
@settings(max_examples=150)
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "any.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert read_or_refused(folder / "any.yaml")


KEYS = st.sampled_from([*policies.KEYS, *policies.RULE_KEYS, "x"])
VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-5, 500), st.floats(), st.sampled_from(["estcopa", "core", "1", ""])
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=6,
)


@given(st.dictionaries(KEYS, VALUES, max_size=5))
@settings(max_examples=200)
def test_any_keys_and_values_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, object]
) -> None:
    import yaml

    path = tmp_path_factory.getbasetemp() / "keys.yaml"
    path.write_text(yaml.safe_dump(content), "utf-8")
    assert read_or_refused(path)


def test_the_shipped_policies_are_of_real_suites() -> None:
    names = policies.shipped()
    assert set(names) == {"core", "core_base", "checkpoint", "mini"}
    for name in names:
        found = read(name)
        assert found.name == name and found.tasks == tuple(Registry().suites[name].tasks)
