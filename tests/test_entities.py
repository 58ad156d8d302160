"""Named entities: gold from IOB2 tags, answers in JSON, micro-F1 from sums."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from estbench.errors import TaskError
from estbench.metrics import get
from estbench.metrics.entities import entity_statistics, gold_entities, gold_mentions, micro_f1, read_entities, spans
from estbench.metrics.tasks import entity_f1_aggregation, estner_results, estner_target

ROW: dict[str, Any] = {
    "tokens": ["Lydia", "Koidula", "sõitis", "Pärnust", "Tartusse", ",", "Pärnust", "Eesti", "Postimehesse", "."],
    "ner_tags": ["B-PER", "I-PER", "O", "B-GPE", "B-LOC", "O", "B-GPE", "B-PROD", "I-PROD", "O"],
}
MENTIONS = st.lists(
    st.tuples(st.sampled_from(["inimene", "muu"]), st.sampled_from(["Mari", "Jüri", "Õie"])), max_size=6
)


def f1(response: str, row: dict[str, Any] = ROW) -> float:
    return float(entity_f1_aggregation([estner_results(row, [response])["entity_f1"]]))


def test_types_are_merged_into_four() -> None:
    assert gold_mentions(ROW["tokens"], ROW["ner_tags"]) == {
        "inimene": ["Lydia Koidula"],
        "asukoht": ["Pärnust", "Tartusse", "Pärnust"],
        "organisatsioon": [],
        "muu": ["Eesti Postimehesse"],
    }


def test_titles_dates_and_amounts_are_no_names() -> None:
    tags = ["B-TITLE", "B-DATE", "B-TIME", "B-MONEY", "B-PERCENT", "B-EVENT"]
    assert gold_entities(["president", "eile", "kell 3", "5 eurot", "5%", "laulupeol"], tags) == {
        ("muu", "laulupeol"): 1
    }


def test_neighbours_of_one_type_are_two_entities() -> None:
    assert list(spans(["Mari", "Jüri", "Kask"], ["B-PER", "B-PER", "I-PER"])) == [("PER", "Mari"), ("PER", "Jüri Kask")]
    assert list(spans(["Mari", "Tartus"], ["B-PER", "I-GPE"])) == [("PER", "Mari"), ("GPE", "Tartus")]


@pytest.mark.parametrize(
    ("tokens", "tags", "message"),
    [
        (["Mari"], [], "1 tokens and 0 tags"),
        (["Mari"], ["PER"], "not IOB2"),
        (["Mari"], ["B-XYZ"], "entity type 'XYZ'"),
    ],
)
def test_a_faulty_row_is_an_error_and_not_a_score(tokens: list[str], tags: list[str], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        gold_mentions(tokens, tags)


def test_the_gold_answer_scores_one() -> None:
    assert f1(estner_target(ROW)) == 1
    assert json.loads(estner_target(ROW)).keys() == {"inimene", "asukoht", "organisatsioon", "muu"}
    assert "\\u" not in estner_target(ROW)


@pytest.mark.parametrize(
    "wrapped",
    [
        "```json\n{}\n```",
        "Siin on nimed:\n{}",
        "<think>{{}}</think>{}",
        "{}\n\nLoodan, et sellest on abi! {{}}",
        "Vastus: {}",
    ],
)
def test_what_stands_around_the_json_does_no_harm(wrapped: str) -> None:
    assert f1(wrapped.replace("{}", estner_target(ROW)).replace("{{", "{").replace("}}", "}")) == 1


@pytest.mark.parametrize(
    "response", ["", "Nimesid ei ole.", '{"inimene": ["Lydia', '["Tartusse"]', '{"place": ["Tartu"]}', "{" * 50_000]
)
def test_no_json_is_a_parse_failure_and_finds_nothing(response: str) -> None:
    assert estner_results(ROW, [response]) == {"entity_f1": [0, 0, 5], "parse_failure": 1}


def test_odd_values_are_left_out_and_a_string_is_a_list_of_one() -> None:
    response = (
        '{"Inimene": "Lydia Koidula", "asukoht": [["Tartusse"], 3, null, "Tartusse"], "muu": null, "aeg": ["eile"]}'
    )
    assert read_entities(response) == {("inimene", "Lydia Koidula"): 1, ("asukoht", "Tartusse"): 1}


def test_type_form_and_number_of_mentions_count() -> None:
    row = {"tokens": ["Tartus", "ja", "Tartus"], "ner_tags": ["B-GPE", "O", "B-GPE"]}

    def counts(answer: object) -> Any:
        return estner_results(row, [json.dumps(answer, ensure_ascii=False)])["entity_f1"]

    assert counts({"asukoht": ["Tartus", "Tartus"]}) == [2, 0, 0]
    assert counts({"asukoht": ["Tartus"]}) == [1, 0, 1]
    assert counts({"asukoht": ["Tartus"] * 3}) == [2, 1, 0]
    assert counts({"asukoht": ["Tartu", "tartus"]}) == [0, 2, 2]
    assert counts({"organisatsioon": ["Tartus", "Tartus"]}) == [0, 2, 2]


def test_spaces_and_quotes_between_tokens_make_no_difference() -> None:
    row = {"tokens": ["AS", "„", "Õun", "&", "Pirn", "“"], "ner_tags": ["B-ORG", *["I-ORG"] * 5]}
    assert f1('{"organisatsioon": ["AS \\"Õun & Pirn\\""]}', row) == 1
    assert f1('{"organisatsioon": ["AS Oun & Pirn"]}', row) == 0  # another word


@given(MENTIONS, MENTIONS)
def test_counts_add_up(found: list[tuple[str, str]], wanted: list[tuple[str, str]]) -> None:
    tp, fp, fn = entity_statistics(Counter(found), Counter(wanted))
    assert tp + fp == len(found) and tp + fn == len(wanted) and min(tp, fp, fn) >= 0
    assert entity_statistics(Counter(wanted), Counter(found)) == [tp, fn, fp]


def test_micro_f1_is_of_sums() -> None:
    rows = np.array([[1, 0, 0], [0, 3, 1], [0, 0, 0]])
    assert micro_f1(rows.sum(axis=0)) == pytest.approx(2 / 6)
    assert micro_f1(rows).tolist() == [1, 0, 0]
    metric = get("entity_f1")
    assert metric and metric.kind == "corpus" and metric.unit == "proportion"


def test_every_row_of_the_real_data_scores_one_against_itself(mirror: Path) -> None:
    path = mirror / "tartuNLP__EstNER" / "estner-reannotated" / "test.jsonl"
    if not path.exists():
        pytest.skip("no EstNER in the offline copy")
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    results = [estner_results(row, [estner_target(row)]) for row in rows]
    assert entity_f1_aggregation([result["entity_f1"] for result in results]) == 1
    assert sum(result["entity_f1"][0] for result in results) > 1500
    empty = json.dumps({"inimene": [], "asukoht": [], "organisatsioon": [], "muu": []})
    assert entity_f1_aggregation([estner_results(row, [empty])["entity_f1"] for row in rows]) == 0
