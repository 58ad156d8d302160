"""What a judge is shown, and what of its reply counts: fences, both languages, schemas, verdicts, rubric files."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from estbench_judges import fences, rendering, rubrics
from estbench_judges.items import Item
from estbench_judges.rendering import EQUIVALENCE, REASON, VERDICTS, Case, merged, schema_text
from estbench_judges.rubrics import LABELS, LANGUAGES, METRICS, MODES, Frame
from estbench_judges.verdicts import COVERED, Invalid, Verdict, expected, of_top, read
from hypothesis import assume, example, given
from hypothesis import strategies as st
from judge_server import Prompt

from estbench.engines.base import Generated
from estbench.errors import ConfigError

load = functools.cache(rubrics.load)
ONE = Item(
    "t", "d1", 0, "k", ("Mis on Eesti pealinn?",), ("See on Tallinn.",), reference="Tallinn",
    checklists=(("Kas linn on õige?", "Kas vastus on lühike?", "Kas vastus on eesti keeles?"),), anchors=("Tallinn.",),
)  # fmt: skip
TWO = dataclasses.replace(
    ONE,
    turns=("Mis on Eesti pealinn?", "Aga Läti?"),
    answers=("See on Tallinn.", "See on Riia."),
    checklists=(("Kas linn on õige?",), ("Kas ka teine linn on õige?",)),
    anchors=("Tallinn.", "Riia."),
)
OTHER = {"et": "en", "en": "et"}
FENCE = re.compile(r"<<<(BEGIN|END) (\w+) ([0-9a-f]+)>>>")


def rubric_of(mode: str) -> rubrics.Rubric:
    name = {"checklist": "instruction_following", "equivalence": "equivalence"}.get(mode, "helpfulness")
    return load(name)


def case(mode: str = "pairwise", item: Item = ONE, **more: Any) -> Case:
    other = item.anchors if mode == "pairwise" else ()
    return Case(item, more.pop("rubric", rubric_of(mode)), mode, other=other, **more)


def every() -> Iterator[Case]:
    """Each rubric and mode, one and two turns, both languages, with and without reasons, both orders, label and not."""
    for name in rubrics.names():
        rubric = load(name)
        for mode in rubric.modes:
            for item in (ONE, TWO):
                for language in LANGUAGES:
                    for reasons in (True, False):
                        one = case(mode, item, rubric=rubric, language=language, reasons=reasons)
                        yield one
                        yield from [one.swapped()] * (mode == "pairwise")
                        yield from [dataclasses.replace(one, label=True)] * (mode == "pointwise")


def text(one: Case, again: bool = False) -> str:
    return "\n".join(message["content"] for message in one.messages(again))


def reply(value: Any, finish: str = "stop") -> Generated:
    return Generated(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), 9, finish)


# --- the prompt -------------------------------------------------------------------------------------------------------


def test_fences_stand_in_order_each_closed_before_the_next_all_with_one_nonce() -> None:
    for one in every():
        found = FENCE.findall(one.messages()[1]["content"])
        opened, closed = found[::2], found[1::2]
        assert [kind for kind, _, _ in found] == ["BEGIN", "END"] * len(opened)
        assert [label for _, label, _ in opened] == [label for _, label, _ in closed]
        assert len({nonce for _, _, nonce in found}) == 1 and len(found[0][2]) == fences.NONCE
        reference = ["REFERENCE"] * (one.rubric.axis == "content")
        answers = ["ANSWER_A", "ANSWER_B"] if one.mode == "pairwise" else ["ANSWER"]
        assert [label for _, label, _ in opened] == [
            "TASK",
            *reference,
            *(["CRITERIA"] * (one.mode == "checklist")),
            *answers,
        ]
        assert f" {found[0][2]}>>>" in one.messages()[0]["content"]  # the system message says which nonce is right


def test_what_comes_from_outside_stands_inside_fences_and_instructions_outside() -> None:
    for one in every():
        prompt = Prompt.of(one.messages()[1]["content"])
        outside = "\n".join(part for _, part in prompt.outside)
        foreign = (*one.item.turns, *one.item.answers, *one.other, *sum(one.item.checklists, ()))
        assert not [part for part in foreign if part in outside or part in one.messages()[0]["content"]]
        assert prompt.outside[-1][1].strip() and prompt.outside[0][1].strip()  # something before and after
        between = [part.strip() for label, part in prompt.outside[1:-1]]
        assert not any(between)
        assert one.rubric.instructions[one.language].strip() in prompt.outside[0][1]


def test_both_languages_say_everything_and_nothing_of_the_other() -> None:
    frame = rubrics.frame()
    texts = [frame.system, *frame.modes.values(), *frame.texts.values()]
    assert all(set(one) == set(LANGUAGES) and all(one[language].strip() for language in LANGUAGES) for one in texts)
    assert set(frame.modes) == set(MODES)
    for one in every():
        shown, others = text(one), OTHER[one.language]
        for part in (one.rubric.instructions, frame.modes[one.mode], frame.texts["two_turns"], frame.texts["reason"]):
            assert part[others].split("{")[0].strip() not in shown
        assert "{nonce}" not in shown and "{count}" not in shown
        asked = "label" if one.label else "reason" if one.reasons else "plain"
        assert frame.texts[asked][one.language] in shown
        assert (frame.texts["two_turns"][one.language] in shown) == (len(one.item.turns) > 1)
        assert (frame.texts["reference"][one.language] in shown) == (one.rubric.axis == "content")
        if one.mode == "pointwise":
            assert all(f"{label} – {one.rubric.scale[label][one.language]}" in shown for label in LABELS)
        if one.mode == "checklist":
            assert str(len(one.criteria)) in shown


def test_a_repeated_question_says_that_the_form_was_wrong() -> None:
    for one in every():
        retry = rubrics.frame().texts["retry"][one.language]
        assert retry in text(one, again=True) and retry not in text(one)
        assert text(one, again=True).replace(f"\n\n{retry}", "") == text(one)


def test_swapping_changes_places_and_nothing_else() -> None:
    for item in (ONE, TWO):
        one = case(item=item)
        a, b = (Prompt.of(each.messages()[1]["content"]) for each in (one, one.swapped()))
        assert a.answer("ANSWER_A") == b.answer("ANSWER_B") == "\n\n".join(item.answers)
        assert a.answer("ANSWER_B") == b.answer("ANSWER_A") == "\n\n".join(item.anchors)
        assert a.outside == b.outside and one.swapped().swapped() == one


def test_criteria_of_two_turns_say_their_turn() -> None:
    rubric = rubric_of("checklist")
    assert case("checklist", TWO, rubric=rubric).criteria == (
        "[1. vastus] Kas linn on õige?",
        "[2. vastus] Kas ka teine linn on õige?",
    )
    assert case("checklist", TWO, rubric=rubric, language="en").criteria[1].startswith("[2. answer] ")
    assert case("checklist", rubric=rubric).criteria == ONE.checklists[0]


def test_without_a_system_role_the_words_are_the_same() -> None:
    messages = case().messages()
    [only] = merged(messages)
    assert only["role"] == "user" and all(one["content"] in only["content"] for one in messages)


def test_a_changed_text_changes_the_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rubric, frame, task, answer, reference, anchor, language, reasons: each by itself."""
    one = case()
    item = dataclasses.replace
    rubric = dataclasses.replace(one.rubric, instructions={"et": "Hinda muud.", "en": "Judge something else."})
    changed = [
        item(one, rubric=rubric),
        item(one, language="en"),
        item(one, reasons=False),
        item(one, other=("Tartu.",)),
        item(one, first="anchor"),
        item(one, item=item(ONE, turns=("Mis on Läti pealinn?",))),
        item(one, item=item(ONE, answers=("Tartu.",))),
        item(one, item=item(ONE, reference="Tartu")),
    ]
    texts = [text(one), *map(text, changed)]
    frame = rubrics.frame()
    for name in ("system", "modes", "texts"):
        whole: Any = getattr(frame, name)
        deep = {
            key: value + "!" if isinstance(value, str) else {k: f"{v}!" for k, v in value.items()}
            for key, value in whole.items()
        }
        monkeypatch.setattr(rendering, "frame", functools.partial(dataclasses.replace, frame, **{name: deep}))
        texts.append(text(one))
    assert len(set(texts)) == len(texts)


def test_room_for_the_answer_grows_with_what_is_asked() -> None:
    assert case("pointwise", label=True).tokens == 1
    assert case("checklist").tokens > case("pairwise").tokens > case("pairwise", reasons=False).tokens


# --- schemas and verdicts ---------------------------------------------------------------------------------------------


def fitting(one: Case) -> st.SearchStrategy[dict[str, Any]]:
    """Objects that fit the schema, by its own words."""
    properties = one.schema()["properties"]
    return st.fixed_dictionaries({name: _value(rule) for name, rule in properties.items()})


def _value(rule: dict[str, Any]) -> st.SearchStrategy[Any]:
    if "enum" in rule:
        return st.sampled_from(rule["enum"])
    if rule["type"] == "array":
        return st.lists(st.booleans(), min_size=rule["minItems"], max_size=rule["maxItems"])
    assert rule["type"] == "string"
    return st.text(max_size=20)


CASES = [case(mode, item, reasons=reasons) for mode in MODES for item in (ONE, TWO) for reasons in (True, False)]
WORDS = st.sampled_from([*VERDICTS, *EQUIVALENCE, *LABELS])
NAMES = st.sampled_from(["reason", "verdict", "score", "criteria", "x"])
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 7) | st.floats(allow_nan=False) | WORDS | st.text(max_size=8),
    lambda part: st.lists(part, max_size=4) | st.dictionaries(NAMES, part, max_size=4),
    max_leaves=8,
)


def test_schemas_are_valid_ask_for_the_reason_first_and_allow_nothing_else() -> None:
    for one in every():
        schema = one.schema()
        jsonschema.Draft202012Validator.check_schema(schema)
        assert list(json.loads(schema_text(one))["properties"]) == list(schema["properties"])
        assert schema["required"] == list(schema["properties"]) and schema["additionalProperties"] is False
        assert (next(iter(schema["properties"])) == "reason") == one.reasons
        assert not one.reasons or schema["properties"]["reason"]["maxLength"] == REASON


@pytest.mark.parametrize("one", CASES, ids=lambda one: f"{one.mode}-{len(one.item.turns)}-{one.reasons}")
@given(data=st.data())
def test_every_verdict_that_fits_the_schema_is_read(one: Case, data: st.DataObject) -> None:
    value = data.draw(fitting(one))
    jsonschema.validate(value, one.schema())
    found = read(one, reply(value))
    assert isinstance(found, Verdict) and 0 <= found.score <= 1 and found.reason == value.get("reason", "")
    assert read(one, reply(f"```json\n{json.dumps(value)}\n```")) == found  # as many models wrap it
    if one.mode == "pairwise":
        turned = read(one.swapped(), reply(value))
        assert isinstance(turned, Verdict) and turned.score == 1 - found.score and turned.label == found.label


@pytest.mark.parametrize("one", CASES, ids=lambda one: f"{one.mode}-{len(one.item.turns)}-{one.reasons}")
@given(value=JSON)
@example(value={"verdict": "A", "reason": None})
@example(value={"score": True, "reason": ""})
@example(value={"score": 5.0, "reason": ""})
@example(value={"verdict": ["A"], "reason": ""})
def test_json_that_does_not_fit_is_never_a_score(one: Case, value: Any) -> None:
    fits = jsonschema.Draft202012Validator(one.schema()).is_valid(value)
    assume(not fits or isinstance(value.get("score"), float))  # 5.0 is an integer to a schema, and no label to us
    assert isinstance(read(one, reply(value)), Invalid)


@pytest.mark.parametrize("one", CASES[::2], ids=lambda one: f"{one.mode}-{len(one.item.turns)}")
@given(said=st.text(max_size=60))
@example(said="[[A]]")
@example(said="A")
@example(said="5")
@example(said='"same"')
@example(said='Olen nõus: {"verdict": "A"}')
@example(said='{"verdict": "A", "verdict": "B"}')
@example(said="[" * 100_000)
@example(said="NaN")
@example(said="")
def test_text_is_never_a_score(one: Case, said: str) -> None:
    assert isinstance(read(one, reply(said)), Invalid)


@pytest.mark.parametrize("finish", ["refusal", "length"])
def test_a_refused_or_cut_answer_is_no_verdict_whatever_it_says(finish: str) -> None:
    good = {"reason": "Sest.", "verdict": "A"}
    assert isinstance(read(case(), reply(good)), Verdict)
    assert isinstance(read(case(), reply(good, finish)), Invalid)


@pytest.mark.parametrize(
    ("mode", "value", "score"),
    [("pairwise", {"verdict": name}, score) for name, score in VERDICTS.items()]
    + [("equivalence", {"verdict": name}, score) for name, score in EQUIVALENCE.items()]
    + [("pointwise", {"score": grade}, (grade - 1) / 4) for grade in range(1, 6)]
    + [("checklist", {"criteria": [True, False, True]}, 2 / 3), ("checklist", {"criteria": [False] * 3}, 0.0)],
)
def test_scores_are_from_the_model_s_point_of_view(mode: str, value: dict[str, Any], score: float) -> None:
    one = case(mode, reasons=False)
    assert getattr(read(one, reply(value)), "score") == pytest.approx(score)  # noqa: B009
    if mode == "pairwise":
        assert getattr(read(one.swapped(), reply(value)), "score") == pytest.approx(1 - score)  # noqa: B009


@given(st.lists(st.floats(1e-4, 1.0), min_size=5, max_size=5), st.floats(0.5, 1.0))
def test_the_expected_score_is_the_mean_over_the_labels(weights: list[float], covered: float) -> None:
    chances = [covered * weight / sum(weights) for weight in weights]
    found = expected({label: math.log(chance) for label, chance in zip(LABELS, chances, strict=True)})
    if abs(covered - COVERED) < 1e-9:
        return
    if covered < COVERED:
        assert isinstance(found, Invalid)
        return
    direct = sum(k * p for k, p in enumerate(chances, 1)) / sum(chances)
    assert isinstance(found, Verdict) and found.score == pytest.approx((direct - 1) / 4)
    assert found.covered == pytest.approx(covered) and chances[int(found.label) - 1] == pytest.approx(max(chances))


def test_the_likeliest_tokens_of_an_endpoint_are_summed_by_label() -> None:
    top = {"4": math.log(0.5), " 4": math.log(0.2), "5": math.log(0.25), "Hinne": math.log(0.04), "45": -9.0}
    found = of_top(top)
    assert isinstance(found, Verdict) and found.label == "4" and found.covered == pytest.approx(0.95)
    assert found.score == pytest.approx(((0.7 * 4 + 0.25 * 5) / 0.95 - 1) / 4)
    assert isinstance(of_top({"4": math.log(0.5), "Hinne": math.log(0.5)}), Invalid)
    assert isinstance(of_top({"Hinne": 0.0}), Invalid) and isinstance(of_top({}), Invalid)
    assert isinstance(of_top(None), Invalid) and isinstance(of_top({"4": -math.inf}), Invalid)


# --- rubric files -----------------------------------------------------------------------------------------------------


def test_every_shipped_rubric_is_there_and_named_as_its_file() -> None:
    needed = {"instruction_following", "helpfulness", "factuality", "language_quality", "equivalence", "conversation"}
    assert set(rubrics.names()) == needed
    for name in rubrics.names():
        rubric = load(name)
        assert (
            rubric.name == name and rubric.modes[0] in MODES and re.fullmatch(rf"{name}@\d+-[0-9a-f]{{8}}", rubric.id)
        )
    assert [name for name in rubrics.names() if load(name).axis == "language"] == ["language_quality"]
    assert load("factuality").needs == load("equivalence").needs == "reference"
    assert load("conversation").needs == "two_turns"
    assert {mode for name in rubrics.names() for mode in load(name).modes} == set(MODES) == set(METRICS)
    assert len({load(name).hash for name in needed}) == len(needed)
    assert isinstance(rubrics.frame(), Frame)


def own(tmp_path: Path, change: Callable[[dict[str, Any]], Any] = lambda row: None) -> Path:
    row = yaml.safe_load((rubrics.folder() / "helpfulness.yaml").read_text("utf-8"))
    change(row)
    path = tmp_path / "oma.yaml"
    path.write_text(yaml.safe_dump(row, allow_unicode=True), "utf-8")
    return path


def test_a_rubric_of_one_s_own_is_read_by_its_path_and_its_words_change_its_hash(tmp_path: Path) -> None:
    assert rubrics.load(str(own(tmp_path))).hash == load("helpfulness").hash
    other = rubrics.load(str(own(tmp_path, lambda row: row["instructions"].update(et="Hinda hästi."))))
    assert other.hash != load("helpfulness").hash and other.instructions["et"] == "Hinda hästi."
    assert text(case(rubric=other)) != text(case())
    graded = rubrics.load(str(own(tmp_path, lambda row: row["scale"][3].update(et="nii ja naa"))))
    assert graded.hash not in (other.hash, load("helpfulness").hash)


@pytest.mark.parametrize(
    "change",
    [
        *(lambda row, key=key: row.pop(key) for key in ("name", "version", "axis", "modes", "title", "instructions")),
        lambda row: row.update(modes=[]),
        lambda row: row.update(modes=["pairwise", "ranking"]),
        lambda row: row.update(modes=3),
        lambda row: row.update(axis="style"),
        lambda row: row.update(needs="money"),
        lambda row: row.update(version="new"),
        lambda row: row.update(name="../x"),
        lambda row: row.pop("scale"),
        lambda row: row["scale"].pop(3),
        lambda row: row["scale"].update({6: {"et": "a", "en": "b"}}),
        lambda row: row["scale"].update({3: "pole"}),
        lambda row: row["title"].pop("en"),
        lambda row: row["instructions"].update(et=7),
        lambda row: row["instructions"].update(et="  "),
        lambda row: row.update(instructions="Hinda."),
    ],
)
def test_a_broken_rubric_file_is_one_line(tmp_path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = own(tmp_path, change)
    with pytest.raises(ConfigError, match=re.escape(str(path))) as found:
        rubrics.load(str(path))
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("raw", [b"", b"[1, 2]", b"a: [", b"\xff\xfe", b"- x"])
def test_what_is_no_rubric_at_all_is_one_line(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "oma.yaml"
    path.write_bytes(raw)
    with pytest.raises(ConfigError, match=re.escape(str(path))) as found:
        rubrics.load(str(path))
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("name", ["helpfullness", "frame", "", "../helpfulness", "/nowhere/oma.yaml"])
def test_a_rubric_that_is_not_there_names_those_that_are(name: str) -> None:
    with pytest.raises(ConfigError, match="instruction_following"):
        rubrics.load(name)
