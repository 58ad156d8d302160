"""Tokens as bytes, and new tokens in old ones: what `estbench_training.vocab.forms` and `.pieces` promise."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
import vocab_world as world
from estbench_training.vocab import forms
from estbench_training.vocab.forms import BYTE, ORDINARY, SPECIAL, Vocabulary
from estbench_training.vocab.pieces import Pieces, overlap, pieces_of
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from estbench.errors import ModelError

MAKERS = {"llama2": world.llama2, "llama3": world.llama3, "unigram": world.unigram, "demo": world.demo}


@pytest.fixture(params=MAKERS, scope="module")
def old(request: pytest.FixtureRequest) -> Vocabulary:
    return Vocabulary.of(MAKERS[request.param]())


@pytest.fixture(params=MAKERS, scope="module")
def new(request: pytest.FixtureRequest) -> Vocabulary:
    return Vocabulary.of(MAKERS[request.param]())


def parts(pieces: Pieces, token: int) -> tuple[list[int], list[float]]:
    some = slice(pieces.indptr[token], pieces.indptr[token + 1])
    return pieces.indices[some].tolist(), pieces.weights[some].tolist()


# --- forms ------------------------------------------------------------------------------------------------------------


def test_the_bytes_of_tokens_are_those_that_the_tokenizer_decodes(old: Vocabulary) -> None:
    reader = old.reader()
    for text in [*world.TEXTS, *world.ODD]:
        said = b"".join(old.content[one] for one in reader.encode(text, add_special_tokens=False).ids)
        decoded = reader.decode(reader.encode(text, add_special_tokens=False).ids, skip_special_tokens=False)
        assert said.decode().lstrip(" ") == decoded.lstrip(" ")  # one space in front is the tokenizer's own


def test_the_form_is_told_by_the_parts_of_tokenizer_json() -> None:
    found = {name: Vocabulary.of(make()).form for name, make in MAKERS.items()}
    assert found == {"llama2": "spaced", "llama3": "byte-level", "unigram": "spaced", "demo": "byte-level"}
    words = Tokenizer(models.WordLevel({"a": 0, "▁b": 1, "<0x41>": 2}, unk_token="a"))
    plain = Vocabulary.of(words)
    assert plain.form == "plain" and plain.content == (b"a", "▁b".encode(), b"<0x41>")


def test_every_byte_has_its_character_of_gpt2_s_table() -> None:
    assert set(forms.byte_characters()) == set(pre_tokenizers.ByteLevel.alphabet())
    for text in world.ODD:
        (pairs,) = (pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text or "a"),)
        assert bytes(forms.character_bytes()[sign] for sign in pairs[0][0]) == (text or "a").encode()


def test_kinds_tell_special_tokens_bytes_and_text_apart() -> None:
    llama2, llama3 = Vocabulary.of(world.llama2()), Vocabulary.of(world.llama3())
    assert llama2.kinds[:3].tolist() == [SPECIAL] * 3 and (llama2.kinds == BYTE).sum() == 256
    assert llama2.content[3 + 0xE4] == b"\xe4"
    assert (llama3.kinds == BYTE).sum() == 128  # a byte below 0x80 is a text
    assert llama3.kinds[llama3.ids[ORDINARY, b"a"]] == ORDINARY


def test_a_wordpiece_tokenizer_is_refused() -> None:
    with pytest.raises(ModelError, match="WordPiece"):
        Vocabulary.of(Tokenizer(models.WordPiece({"a": 0}, unk_token="a")))
    with pytest.raises(ModelError, match="no fast tokenizer"):
        Vocabulary.of(object())


@given(st.binary(max_size=12))
@settings(max_examples=50, deadline=None)
def test_runs_are_the_bytes_they_come_from(content: bytes) -> None:
    runs = forms.runs(content)
    assert b"".join(run.encode() if isinstance(run, str) else bytes([run]) for run in runs) == content


# --- pieces -----------------------------------------------------------------------------------------------------------


def test_a_vocabulary_in_its_own_pieces_is_itself(old: Vocabulary) -> None:
    pieces = pieces_of(old, old)
    assert pieces.origins.tolist() == list(range(old.size))
    assert pieces.weights.tolist() == [1.0] * old.size
    olds, news = overlap(old, old)
    assert olds.tolist() == news.tolist() == list(range(old.size))


def test_the_pieces_of_a_token_say_its_bytes(old: Vocabulary, new: Vocabulary) -> None:
    pieces = pieces_of(old, new)
    for token in np.flatnonzero(new.kinds != SPECIAL).tolist()[::3]:
        ids, weights = parts(pieces, token)
        assert ids == sorted(set(ids)) and sum(weights) == pytest.approx(1)
        had = sum(weight * _histogram(old.content[one]) for one, weight in zip(ids, weights, strict=True))
        said = _histogram(new.content[token])
        assert np.asarray(had) / np.sum(had) == pytest.approx(said / said.sum())


def _histogram(content: bytes) -> Any:
    return np.bincount(np.frombuffer(content, np.uint8), minlength=256).astype(float)


@pytest.mark.parametrize("weighting", ["mean", "weighted"])
def test_a_token_that_is_one_old_token_is_that_token(old: Vocabulary, new: Vocabulary, weighting: Any) -> None:
    pieces = pieces_of(old, new, weighting=weighting)
    olds, news = overlap(old, new)
    assert len(news) > 100
    for one, token in zip(olds.tolist(), news.tolist(), strict=True):
        assert parts(pieces, token) == ([one], [1.0])


def test_half_a_character_goes_by_bytes() -> None:
    """õ is C3 B5: a byte-level token may end between the two."""
    old = Vocabulary.of(world.llama2())
    new = Tokenizer(
        models.BPE(dict(zip(["Ġ", "k", "Ã", "Ġk", "ĠkÃ"], range(5), strict=True)), [("Ġ", "k"), ("Ġk", "Ã")])
    )
    new.pre_tokenizer = pre_tokenizers.ByteLevel()
    found = pieces_of(old, new)
    ids, weights = parts(found, 4)
    assert b"".join(sorted(old.content[one] for one in ids)) in (b" k\xc3", b" \xc3k")
    assert len(set(weights)) == 1
    assert parts(pieces_of(world.llama3(), new), 4)[0]


def test_special_tokens_go_by_their_string_and_new_ones_are_the_mean_of_all() -> None:
    old, new = world.llama2(), world.llama2()
    new.add_special_tokens([AddedToken("<|uus|>", special=True)])
    pieces = pieces_of(old, new)
    assert pieces.empty.tolist() == [new.token_to_id("<|uus|>")]
    rows = torch.arange(3.0 * old.get_vocab_size()).view(-1, 3)
    made = pieces.apply(lambda ids: rows[ids], 0, pieces.size)
    assert torch.equal(made[:-1], rows.double()) and torch.allclose(made[-1], rows.double().mean(0))


def test_an_added_token_that_is_text_has_pieces() -> None:
    new = world.llama3()
    new.add_tokens([AddedToken("õpetajaõpetaja", normalized=False)])
    token = new.token_to_id("õpetajaõpetaja")
    assert len(parts(pieces_of(world.llama3(), new), token)[0]) >= 1


def test_ignore_merges_uses_a_token_whole() -> None:
    row = json.loads(world.llama3().to_str())
    row["model"]["merges"] = []  # no way leads to it but ignore_merges
    old = Tokenizer.from_str(json.dumps(row))
    ids, _ = parts(pieces_of(old, world.llama3()), old.token_to_id("Ġ".join(["", "oli"])) or 300)
    assert len(ids) == 1


def test_long_pieces_weigh_more_where_asked() -> None:
    old = Vocabulary.of(world.llama3())
    new = world.llama3()
    new.add_tokens([AddedToken(" koolimaja ees", normalized=False)])
    token = new.token_to_id(" koolimaja ees")
    ids, weights = parts(pieces_of(old, new, weighting="weighted"), token)
    sizes = [max(len(old.content[one].strip()), 0.1) for one in ids]
    encoded = old.encoder().encode(" koolimaja ees", add_special_tokens=False).ids
    assert ids == sorted(set(encoded))
    times = [encoded.count(one) for one in ids]
    total = sum(size * count for size, count in zip(sizes, times, strict=True))
    assert weights == pytest.approx([size * count / total for size, count in zip(sizes, times, strict=True)])


def test_apply_is_the_dense_product_in_any_spans(old: Vocabulary, new: Vocabulary) -> None:
    pieces = pieces_of(old, new)
    rows = torch.randn(old.size, 5, generator=torch.Generator().manual_seed(1))
    dense = torch.zeros(new.size, old.size, dtype=torch.float64)
    for token in range(new.size):
        ids, weights = parts(pieces, token)
        dense[token, ids] = torch.tensor(weights, dtype=torch.float64)
        if not ids:
            dense[token] = 1 / old.size
    asked: list[int] = []

    def read(ids: Any) -> torch.Tensor:
        asked.append(len(ids))
        assert (np.diff(ids) > 0).all()
        return rows[ids]

    made = torch.cat([pieces.apply(read, start, min(start + 50, new.size)) for start in range(0, new.size, 50)])
    assert torch.allclose(made, dense @ rows.double(), atol=1e-12)
    if not len(pieces.empty):
        assert max(asked) < old.size or old.size < 250


def test_apply_in_small_memory_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from estbench_training.vocab import pieces as module

    pieces = pieces_of(world.llama2(), world.demo())
    rows = torch.randn(pieces.old_size, 4)
    whole = pieces.apply(lambda ids: rows[ids], 0, pieces.size)
    monkeypatch.setattr(module, "ROWS", 7)
    asked: list[int] = []

    def read(ids: np.ndarray) -> torch.Tensor:
        asked.append(len(ids))
        return rows[ids]

    assert torch.allclose(whole, pieces.apply(read, 0, pieces.size), atol=1e-15)
    assert max(asked) == 7


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 6), st.floats(0.1, 5)), max_size=5), min_size=1, max_size=8),
)
@settings(max_examples=60, deadline=None)
def test_rows_sum_to_one_and_hold_each_old_token_once(rows: list[list[tuple[int, float]]]) -> None:
    made = Pieces.of_lists(
        [[one for one, _ in row] for row in rows], [[weight for _, weight in row] for row in rows], 7
    )
    assert made.size == len(rows)
    for token, row in enumerate(rows):
        ids, weights = parts(made, token)
        assert ids == sorted({one for one, _ in row})
        assert not row or sum(weights) == pytest.approx(1)
    assert made.empty.tolist() == [token for token, row in enumerate(rows) if not row]


def test_of_two_tokens_with_the_same_bytes_each_is_itself() -> None:
    """A byte-level token whose name has a space means what one with Ġ means."""
    row = json.loads(world.llama3().to_str())
    row["model"]["vocab"]["a b"], row["model"]["vocab"]["aĠb"] = 504, 505
    old = Vocabulary.of_row(row)
    assert old.content[504] == old.content[505] and pieces_of(old, old).origins.tolist() == list(range(506))
