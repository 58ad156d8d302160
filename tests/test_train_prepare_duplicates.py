"""Duplicates: equal and nearly equal documents go, others stay, and memory bounds change nothing."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from estbench_training.prepare import duplicates, near
from estbench_training.shards import Shards
from made_up_words import Words
from prepare_world import files, make_tokenizer, prepare, source, texts_of, write

from estbench.contamination.text import plain


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def grams(text: str) -> set[str]:
    """The distinct word 5-grams of a text, the whole of a shorter one."""
    words = plain([text])[0].split()
    return {" ".join(words[i : i + 5]) for i in range(max(1, len(words) - 4))} if words else set()


def jaccard(left: str, right: str) -> float:
    return len(grams(left) & grams(right)) / len(grams(left) | grams(right))


def changed(text: str, words: Words, share: float) -> str:
    """The text with about so many of its words replaced."""
    return " ".join(words.some(1)[0] if words.dice.random() < share else word for word in text.split())


def test_signatures_are_those_of_datasketch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its MinHash with our permutations, of the hashes that we give it before they are mixed."""
    minhash = pytest.importorskip("datasketch.minhash")
    words = Words(3)
    texts = [words.text(1, 50) for _ in range(30)] + ["", "1 2 3", "üks", words.text(200)]
    found = near.signatures(texts, 64)
    monkeypatch.setattr(near, "mixed", lambda hashes: hashes)
    for text, signature in zip(texts, found, strict=True):
        hashes, _ = near._grams([text])
        assert len(set(hashes.tolist())) == len(grams(text))
        theirs = minhash.MinHash(64, scheme="affine32", permutations=near.permuted(64), hashfunc=lambda value: value)
        theirs.update_batch(hashes.tolist())
        assert np.array_equal(theirs.hashvalues, signature)


def test_the_estimate_is_the_jaccard_similarity_of_5_grams() -> None:
    words = Words(4)
    texts = [words.text(60, 300) for _ in range(32)]
    pairs = [(text, changed(text, words, 0.01 * 3 ** (number % 4))) for number, text in enumerate(texts)]
    left, right = (near.signatures(list(side), 1024) for side in zip(*pairs, strict=True))
    true = np.array([jaccard(*pair) for pair in pairs])
    assert np.ptp(true) > 0.6
    errors = near.similarity(left, right) - true
    assert np.abs(errors).max() < 4 * np.sqrt(0.25 / 1024) and abs(errors.mean()) < 0.006


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 0.9, 1.0])
def test_pairs_at_the_threshold_share_a_band(threshold: float) -> None:
    bands, rows = near.bands(threshold, 128)
    assert bands * rows <= 128
    assert 1 - (1 - threshold**rows) ** bands >= near.RECALL
    more = 128 // (rows + 1)
    assert rows == 128 or 1 - (1 - threshold ** (rows + 1)) ** more < near.RECALL  # no more rows would do


def corpus_of(words: Words) -> tuple[list[str], set[int], set[int]]:
    """(documents in a random order, numbers of exact and of near copies whose original comes before them)."""
    originals = [words.text(30, 120) for _ in range(60)]
    rows = [(text, None) for text in originals]
    copies = [(f" {text}\n", "exact") for text in originals[:10]]
    copies += [(text.upper().replace(" ", ", "), "near") for text in originals[10:20]]  # case and signs don't count
    copies += [(f"{text} {words.text(2)}", "near") for text in originals[20:30]]
    different = [(changed(text, words, 0.2), None) for text in originals[30:40]]
    later = copies + different
    words.dice.shuffle(later)
    rows += later
    return (
        [text for text, _ in rows],
        {number for number, (_, kind) in enumerate(rows) if kind == "exact"},
        {number for number, (_, kind) in enumerate(rows) if kind == "near"},
    )


def test_copies_go_and_the_earliest_of_each_stays(tmp_path: Path, tokenizer: Path) -> None:
    texts, exact, close = corpus_of(Words(5))
    write(tmp_path / "a.jsonl", texts)
    shards = prepare(tmp_path, tokenizer, {"a": source("a.jsonl")}, decontaminate="none")
    gone = exact | close
    assert texts_of(shards / "a", tokenizer) == [text for number, text in enumerate(texts) if number not in gone]
    assert Shards.open(shards / "a").manifest["dropped"] == {"duplicate": 10, "near_duplicate": 20}


@pytest.mark.parametrize(("exact", "close"), [(True, False), (False, True), (False, False)])
def test_each_kind_can_be_left_in(tmp_path: Path, tokenizer: Path, exact: bool, close: bool) -> None:
    texts, same, similar = corpus_of(Words(5))
    write(tmp_path / "a.jsonl", texts)
    keys = {"duplicates": {"exact": exact, "near": close}, "decontaminate": "none"}
    manifest = Shards.open(prepare(tmp_path, tokenizer, {"a": source("a.jsonl")}, **keys) / "a").manifest
    expected = len(same) * (exact or close) + len(similar) * close  # what is equal is near, too
    assert len(texts) - manifest["documents"] == expected


def test_the_bounds_of_memory_change_nothing(tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, _, _ = corpus_of(Words(6))
    made = []
    for name, partition, pairs in (("one", 1 << 25, 1 << 13), ("many", 256, 3)):
        monkeypatch.setattr(duplicates, "PARTITION", partition)
        monkeypatch.setattr(duplicates, "PAIRS", pairs)
        (tmp_path / name).mkdir()
        write(tmp_path / name / "a.jsonl", texts)
        made.append(files(prepare(tmp_path / name, tokenizer, {"a": source("a.jsonl")}, decontaminate="none")))
    assert made[0] == made[1]


def test_of_a_document_in_several_sources_the_first_in_order_keeps_it(tmp_path: Path, tokenizer: Path) -> None:
    words = Words(8)
    shared, own = [words.text(30) for _ in range(5)], [words.text(30) for _ in range(2)]
    write(tmp_path / "x.jsonl", [*shared, own[0]])
    write(tmp_path / "y.jsonl", [own[1], *shared[::-1]])
    sources = {"b": source("y.jsonl"), "a": source("x.jsonl")}
    for keep, expected in (([], (6, 1)), (["b"], (1, 6))):
        folder = tmp_path / f"keep-{len(keep)}"
        folder.mkdir()
        there = {name: {**row, "path": f"../{row['path']}"} for name, row in sources.items()}
        shards = prepare(folder, tokenizer, there, duplicates={"keep": keep}, decontaminate="none")
        assert tuple(Shards.open(shards / name).documents for name in ("a", "b")) == expected


def test_texts_without_words_are_no_near_duplicates(tmp_path: Path, tokenizer: Path) -> None:
    texts = [str(number) for number in random.Random(1).sample(range(10**6), 20)]
    write(tmp_path / "a.jsonl", texts)
    shards = prepare(tmp_path, tokenizer, {"a": source("a.jsonl")}, decontaminate="none")
    assert texts_of(shards / "a", tokenizer) == texts
