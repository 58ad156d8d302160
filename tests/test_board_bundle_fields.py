"""What the files in a bundle may say: no golds, no JSON that is meant to hurt, nothing that pages could not show."""

from __future__ import annotations

import json
from typing import Any

import pytest
from bundle_workshop import Files, Workshop, refused, shop
from estbench_leaderboard.submissions.bundle import open_bundle
from submission_fixtures import board

from estbench.cards import Stage, TrainingCard
from estbench.identity import canonical

__all__ = ["board", "shop"]  # fixtures

# ---- golds and other fields that do not belong there


def smuggled(row: dict[str, Any], **more: Any) -> bytes:
    return canonical(row | more)


def test_golds_in_a_row_are_refused(shop: Workshop) -> None:
    row = json.loads(shop.good["responses/mini_qa.jsonl"].splitlines()[0])
    refused(shop, shop.with_line(smuggled(row, target="Kadri")), 400, "does not belong there: 'target'")
    answer = row["responses"][0] | {"gold": "Kadri"}
    refused(shop, shop.with_line(smuggled(row, responses=[answer])), 400, "does not belong there: 'gold'")


def test_golds_in_the_manifest_are_refused(shop: Workshop) -> None:
    refused(shop, shop.changed("manifest.json", lambda m: m | {"targets": [1, 2]}), 400, "'targets'")

    def card(found: dict[str, Any]) -> dict[str, Any]:
        found["tasks"]["mini_qa"]["golds"] = ["Kadri"]
        return found

    refused(shop, shop.changed("manifest.json", card), 400, "'golds'")


def test_golds_in_scores_are_refused(shop: Workshop) -> None:
    refused(shop, shop.changed("scores.json", lambda rows: [rows[0] | {"values": [1, 0]}]), 400, "'values'")


def test_many_golds_in_a_free_field_are_refused(shop: Workshop) -> None:
    def engine(found: dict[str, Any]) -> dict[str, Any]:
        found["engine"]["note"] = ["Kadri"] * 1000
        return found

    refused(shop, shop.changed("manifest.json", engine), 400, "too many parts")


# ---- JSON that is meant to hurt


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"doc": NaN}', "is no number"),
        (b'{"doc": -Infinity}', "is no number"),
        (b'{"doc": 1e999}', "too large"),
        (b'{"doc": ' + b"9" * 5000 + b"}", "too large"),
        (b'{"doc": "a", "doc": "b"}', "there twice"),
        (b'{"doc": "\\ud800"}', "is not UTF-8"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"", "can't be read"),
        (b"null", "is no mapping"),
    ],
)
def test_json_that_is_meant_to_hurt_is_refused(shop: Workshop, line: bytes, words: str) -> None:
    refused(shop, shop.with_line(line), 400, words)


@pytest.mark.parametrize(
    "response",
    [
        {"logprob": 5.0, "greedy": True},
        {"logprob": "x", "greedy": True},
        {"logprob": -1.0, "greedy": 1},
        {"text": 1, "tokens": 1, "finish": "stop"},
        {"text": "a", "tokens": -1, "finish": "stop"},
        {"text": "a", "tokens": 1, "finish": "exploded"},
        {"text": "a", "tokens": True, "finish": "stop"},
        [],
        None,
    ],
)
def test_an_answer_that_is_none_is_refused(shop: Workshop, response: Any) -> None:
    row = json.loads(shop.good["responses/mini_qa.jsonl"].splitlines()[0])
    refused(shop, shop.with_line(canonical(row | {"responses": [response]})), 400, "responses/mini_qa.jsonl, line 1")


def test_a_document_twice_is_refused(shop: Workshop) -> None:
    first = shop.good["responses/mini_qa.jsonl"].splitlines()[0]
    refused(shop, shop.with_line(first, first=False), 400, "answers a document twice")


@pytest.mark.parametrize(
    ("created", "words"),
    [
        ("0999-01-01T00:00:00+00:00", "before 2020"),
        ("2019-12-31T23:59:59+00:00", "before 2020"),
        ("2020-01-01T00:30:00+01:00", "before 2020"),
        ("0001-01-01T00:00:00+23:59", "does not say when"),
        ("9999-12-31T23:59:59-23:59", "does not say when"),
        ("yesterday", "does not say when"),
    ],
)
def test_a_run_of_a_time_that_no_row_can_have_is_refused(shop: Workshop, created: str, words: str) -> None:
    files = shop.changed("manifest.json", lambda found: found | {"created": created})
    refused(shop, files, 400, words)


@pytest.mark.parametrize(
    ("part", "more"),
    [
        ("engine", {"observed": ["a"]}),
        ("engine", {"observed": {"a": 1}}),
        ("engine", {"first_observed": 5}),
        ("engine", {"observed": "x" * 101}),
        ("engine", {"observed": "a\u202eb"}),
        ("engine", {"engine": ["hf"]}),
        ("engine", {"model": {"a": {"b": 1}}}),
        ("model", {"observed": {"a": 1}}),
        ("model", {"max_length": [1]}),
        ("model", {"shown": {"a": ["b"]}}),
    ],
)
def test_what_pages_show_of_an_engine_is_plain(shop: Workshop, part: str, more: dict[str, Any]) -> None:
    files = shop.changed("manifest.json", lambda found: found | {part: found[part] | more})
    refused(shop, files, 400, f"manifest.json: {part}")


def test_what_engines_say_of_themselves_is_plain_enough(shop: Workshop) -> None:
    said = {"observed": "2026-11-01", "first_observed": None, "packs": 3, "fast": True, "values": {"a": 0.5, "b": None}}
    files = shop.changed("manifest.json", lambda found: found | {"engine": found["engine"] | said})
    assert open_bundle(shop.archive(files)).manifest["engine"]["values"] == {"a": 0.5, "b": None}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("run", "demo.json"),
        ("run", "demo.CSV"),
        ("run", "../x"),
        ("run", 5),
        ("name", ""),
        ("name", "a\u202eb"),
        ("name", "x" * 5000),
        ("schema", 2),
        ("slice", "1/2"),
        ("tasks", {}),
        ("tasks", {"../x": {}}),
        ("model", {"name": "a", "fingerprint": "short"}),
        ("suites", [["x"]]),
        ("seconds", "long"),
    ],
)
def test_a_manifest_with_a_wrong_field_is_refused(shop: Workshop, key: str, value: Any) -> None:
    refused(shop, shop.changed("manifest.json", lambda found: found | {key: value}), 400, "manifest.json")


CARD: dict[str, Any] = {"licence": "MIT", "base_models": ["a/b"], "languages": ["et"]}
TRAINED = TrainingCard("demo", "base", "cpt", False, (Stage("cpt", "demo"),), series="demo", tokens=5).to_dict()


def said_of_the_model(shop: Workshop, **more: Any) -> Files:
    return shop.changed("manifest.json", lambda found: found | {"model": found["model"] | more})


def test_what_a_models_folder_says_of_it_travels(shop: Workshop) -> None:
    links = {"licence": "https://example.ee/litsents"}
    files = said_of_the_model(shop, card=CARD | {"links": links}, training=TRAINED)
    assert open_bundle(shop.archive(files)).manifest["model"]["training"]["final"] is False


@pytest.mark.parametrize(
    "more",
    [
        {"training": "x"},
        {"training": {"final": False}},
        {"training": TRAINED | {"golds": ["B"]}},
        {"training": TRAINED | {"lineage": "x"}},
        {"card": []},
        {"card": CARD | {"licence": 5}},
        {"card": CARD | {"languages": "et"}},
        {"card": CARD | {"links": {"licence": "javascript:alert(1)"}}},
        {"card": CARD | {"links": {"licence": "https://a.ee", "more": "https://a.ee"}}},
        {"card": CARD | {"note": "x"}},
        {"hashes": 5},
    ],
)
def test_a_card_that_pages_could_not_show_is_refused(shop: Workshop, more: dict[str, Any]) -> None:
    refused(shop, said_of_the_model(shop, **more), 400, "manifest.json: model")


@pytest.mark.parametrize("key", ["identity", "versions", "host"])
def test_texts_are_texts(shop: Workshop, key: str) -> None:
    files = shop.changed("manifest.json", lambda found: found | {key: {"a": ["b"]}})
    refused(shop, files, 400, "more than plain texts")
