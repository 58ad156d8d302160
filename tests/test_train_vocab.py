"""Vocabularies learnt, extended, shrunk and optimised: what holds of their tokenizers, for every text."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from itertools import islice, pairwise
from typing import Any

import numpy as np
import pytest
import vocab_world as world
from estbench_training.vocab import assemble, extend, learn, shrink
from estbench_training.vocab.assemble import Adapted
from estbench_training.vocab.forms import BYTE, Vocabulary
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

from estbench.demo import stream
from estbench.errors import ConfigError, DataError, ModelError

MAKERS = {"llama2": world.llama2, "llama3": world.llama3, "unigram": world.unigram, "demo": world.demo}
SIZES = {"llama2": 600, "llama3": 504, "unigram": 420, "demo": 1800}
WAYS = ("bpe", "unigram", "extend", "letters", "shrink", "shrink to", "optimise")
CASES = [(name, way) for name in MAKERS for way in WAYS if name != "unigram" or way in ("bpe", "unigram", "shrink")]
ids = "-".join
SPECIALS = {"llama3": "<|eot_id|>"}  # of the others it is </s>


@cache
def texts() -> tuple[str, ...]:
    made = [text for language in ("et", "en") for text in islice(stream.texts(language, "vocab"), 400)]
    return (*made, *world.TEXTS, *world.TEXTS)


@cache
def old_of(name: str) -> Vocabulary:
    return Vocabulary.of(MAKERS[name]())


@cache
def made_of(name: str, way: str) -> Adapted:
    old, more = old_of(name), SIZES[name] + 200
    if way in ("bpe", "unigram"):
        return learn.replace(old, texts(), 700, way)  # type: ignore[arg-type]
    if way == "extend":
        return extend.extend(old, texts(), more)
    if way == "letters":
        return extend.extend(old, texts(), more, letters=True, min_characters=4)
    if way == "optimise":
        return shrink.optimise(old, texts(), SIZES[name])
    return shrink.shrink(old, world.TEXTS[:5], None if way == "shrink" else 440)


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def comes_back(tokenizer: Tokenizer, text: str) -> bool:
    return bool(tokenizer.decode(encode(tokenizer, text), skip_special_tokens=False) == text)


# --- what holds of all ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "way"), CASES, ids=map(ids, CASES))
@given(text=st.text(max_size=40))
@settings(max_examples=25, deadline=None)
def test_any_text_that_came_back_before_comes_back(name: str, way: str, text: str) -> None:
    """Byte-level tokenizers give every text back, SentencePiece's the texts that don't begin with spaces of theirs."""
    before, after = MAKERS[name](), _tokenizer(name, way)
    for one in (text, f"Tere {text} õhtust", *world.ODD):
        if old_of(name).form == "byte-level":
            assert comes_back(before, one) and comes_back(after, one)
        else:
            assert comes_back(after, one) or not comes_back(before, one)


@cache
def _tokenizer(name: str, way: str) -> Tokenizer:
    return made_of(name, way).tokenizer()


@pytest.mark.parametrize(("name", "way"), CASES, ids=map(ids, CASES))
def test_special_tokens_bytes_and_what_is_around_texts_are_kept(name: str, way: str) -> None:
    old, made = old_of(name), made_of(name, way)
    before, after, new = MAKERS[name](), made.tokenizer(), made.vocabulary()
    assert json.loads(after.to_str())["added_tokens"] == made.row["added_tokens"]  # the library numbers them the same
    assert list(new.specials) == list(old.specials)
    assert {new.content[one] for one in np.flatnonzero(new.kinds == BYTE)} >= {
        old.content[one] for one in np.flatnonzero(old.kinds == BYTE)
    }
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        assert made.row[part] == old.row[part]
    special = SPECIALS.get(name, "</s>")
    said = [new.names[one] for one in after.encode(f"Tere{special}").ids]
    was = [old.names[one] for one in before.encode(f"Tere{special}").ids]
    assert said[-1] == special and (name == "unigram" or said[0] == was[0])
    assert len(new.names) == len(set(new.names)) == len(made.origins)


@pytest.mark.parametrize(("name", "way"), CASES, ids=map(ids, CASES))
def test_an_old_token_that_stays_has_the_same_bytes(name: str, way: str) -> None:
    old, made = old_of(name), made_of(name, way)
    new = made.vocabulary()
    for token, origin in enumerate(made.origins.tolist()):
        if origin >= 0:
            assert new.content[token] == old.content[origin] and new.kinds[token] == old.kinds[origin]
    assert (made.origins >= 0).any() == (way not in ("bpe", "unigram"))


@pytest.mark.parametrize(
    ("name", "way"),
    [(name, way) for name, way in CASES if "shrink" not in way and (name != "demo" or "extend" in way)],
)
def test_the_texts_take_fewer_tokens(name: str, way: str) -> None:
    before, after = MAKERS[name](), _tokenizer(name, way)
    said = [sum(len(encode(one, text)) for text in texts()[:200]) for one in (before, after)]
    assert said[1] < said[0]


@pytest.mark.parametrize(("name", "way"), [("llama2", "unigram"), ("llama3", "bpe"), ("demo", "optimise")])
def test_the_same_texts_give_the_same_vocabulary(name: str, way: str) -> None:
    made = made_of(name, way)
    made_of.cache_clear()
    assert made_of(name, way).row == made.row


def _mistral() -> Tokenizer:
    """Spaces made marks by the splitter, which doesn't split."""
    row = json.loads(world.llama2().to_str())
    row["normalizer"] = None
    row["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    return Tokenizer.from_str(json.dumps(row))


def _qwen() -> Tokenizer:
    """NFC first, and an added token that is text."""
    made = world.llama3()
    made.normalizer = normalizers.NFC()
    made.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    return made


def _roberta() -> Tokenizer:
    """Tokens on both sides of a text."""
    made = world.llama3()
    ends = [(name, made.token_to_id(name)) for name in ("<|end_of_text|>", "<|begin_of_text|>")]
    made.post_processor = processors.RobertaProcessing(*ends)
    return made


def _holes() -> Tokenizer:
    """Ids without tokens between the model's tokens and the special ones."""
    row = json.loads(world.llama3().to_str())
    for token in row["added_tokens"]:
        token["id"] += 10
        row["model"]["vocab"][token["content"]] = token["id"]
    row["post_processor"]["processors"][1]["special_tokens"]["<|begin_of_text|>"]["ids"] = [510]
    return Tokenizer.from_str(json.dumps(row))


def _no_splitting() -> Tokenizer:
    """Byte-level, and a whole text is one word."""
    made = world.demo()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return made


def _without_unknown() -> Tokenizer:
    """As transformers' own class loads Llama 2's: what isn't known goes by bytes, and no token is for the unknown."""
    row = json.loads(_mistral().to_str())
    row["model"]["unk_token"] = None
    return Tokenizer.from_str(json.dumps(row))


@pytest.mark.parametrize("make", [_mistral, _qwen, _roberta, _holes, _no_splitting, _without_unknown])
def test_tokenizers_of_other_builds_keep_their_ways_too(make: Callable[[], Tokenizer]) -> None:
    before, old = make(), Vocabulary.of(make())
    assemble.check(old)
    for made in (
        learn.replace(old, texts(), 600, "bpe"),
        learn.replace(old, texts(), 600, "unigram"),
        extend.extend(old, texts(), old.size + 40),
        shrink.shrink(old, world.TEXTS[:4]),
        shrink.optimise(old, texts()),
    ):
        after, new = made.tokenizer(), made.vocabulary()
        assert json.loads(after.to_str())["added_tokens"] == made.row["added_tokens"]
        assert list(new.specials) == list(old.specials)
        for text in (*world.ODD, *world.TEXTS):
            assert comes_back(after, text) or not comes_back(before, text)
        ends = [[vocabulary.names[encoded[at]] for at in (0, -1)] for vocabulary, encoded in
                ((old, before.encode("Tere </s>").ids), (new, after.encode("Tere </s>").ids))]  # fmt: skip
        assert ends[0][0] == ends[1][0] and (make is not _roberta or ends[0][1] == ends[1][1] == "<|end_of_text|>")
        assert not any(b" " in new.content[one].strip() for one in np.flatnonzero(made.origins < 0))


def test_unigram_without_bytes_needs_a_token_for_the_unknown() -> None:
    row = json.loads(_without_unknown().to_str())
    row["model"]["byte_fallback"], row["decoder"] = False, None
    old = Vocabulary.of_row(row)
    with pytest.raises(ConfigError, match=r"needs a token for unknown characters, or bytes, .* say algorithm: bpe"):
        learn.replace(old, texts(), 600, "unigram")
    assert len(learn.replace(old, texts(), 600, "bpe").origins) == 600


def test_where_bytes_are_made_in_the_normaliser_nothing_is_changed() -> None:
    made = world.demo()
    made.normalizer, made.pre_tokenizer = normalizers.ByteLevel(), pre_tokenizers.Whitespace()
    with pytest.raises(ModelError, match="elsewhere than in its pre_tokenizer"):
        assemble.check(Vocabulary.of(made))


# --- replace ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["bpe", "unigram"])
@pytest.mark.parametrize("name", MAKERS)
def test_replace_gives_the_size_that_is_asked_for(name: str, way: str) -> None:
    made = made_of(name, way)
    assert len(made.origins) == 700 and made.row["model"]["type"] == {"bpe": "BPE", "unigram": "Unigram"}[way]


def test_special_tokens_in_front_keep_their_ids_and_others_come_last() -> None:
    assert list(made_of("llama2", "bpe").vocabulary().specials.values()) == [0, 1, 2]
    assert list(made_of("llama3", "unigram").vocabulary().specials.values()) == [696, 697, 698, 699]
    names = made_of("llama2", "bpe").vocabulary().names
    assert names[3 + 0xE4] == "<0xE4>"


@pytest.mark.parametrize("name", ["llama2", "unigram"])
def test_no_learnt_token_crosses_a_word_or_joins_letters_and_signs(name: str) -> None:
    for way in ("bpe", "unigram"):
        made = made_of(name, way).vocabulary()
        for token in np.flatnonzero(made.kinds == 1):
            text = made.content[token].decode()
            assert " " not in text.strip(" ") and not (
                text.strip(" ").isspace() and len(text) > 2 and "\n" in text[:-1]
            )
            assert not (any(map(str.isalpha, text)) and any(sign in ",.:;!?0123456789" for sign in text)), text


def test_a_token_that_a_special_one_has_taken_is_not_learnt() -> None:
    names, model = learn.without(
        ["a", "b", "ab", "abb", "ba", "bab"], [("a", "b"), ("ab", "b"), ("b", "a"), ("b", "ab"), ("ba", "b")], {"ab"}
    )
    assert names == ["a", "b", "ba", "bab"] and model.merges == [("b", "a"), ("ba", "b")]


def test_a_size_without_room_or_texts_without_words_are_refused() -> None:
    for name, least in (("llama3", 260), ("llama2", 259), ("demo", 259)):
        with pytest.raises(ConfigError, match=f"take {least}"):
            learn.replace(old_of(name), texts(), least, "bpe")
        with pytest.raises(DataError, match="no text"):
            learn.replace(old_of(name), ["", " \n"], 400, "bpe")
    with pytest.raises(ModelError, match="WordLevel"):
        assemble.check(Vocabulary.of(Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))))


@pytest.mark.parametrize("way", ["bpe", "unigram"])
@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("more", [1, 5, 40])
def test_a_size_with_little_room_is_kept_to(name: str, way: Any, more: int) -> None:
    """The most frequent characters come first; what they leave out goes by bytes."""
    least = {"llama3": 260}.get(name, 259)
    made = learn.replace(old_of(name), texts()[:60], least + more, way)
    assert len(made.origins) == least + more
    assert comes_back(made.tokenizer(), "Tere õhtust, 日本")


def test_a_size_that_no_memory_holds_gives_what_the_texts_give() -> None:
    few, endless = texts()[:2], 10**12
    assert len(learn.replace(old_of("demo"), few, endless, "bpe").origins) < 2000
    assert len(extend.extend(old_of("demo"), few, endless).origins) < 2000


def test_rare_characters_go_by_bytes() -> None:
    made = learn.replace(old_of("llama2"), ["tere " * 200_000, "ↈ"], 400, "bpe")
    assert "ↈ" not in made.vocabulary().names and comes_back(made.tokenizer(), "tere ↈ")


# --- extend -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["extend", "letters"])
@pytest.mark.parametrize("name", ["llama2", "llama3", "demo"])
def test_extend_leaves_every_old_id_where_it_was(name: str, way: str) -> None:
    old, made = old_of(name), made_of(name, way)
    new = made.vocabulary()
    assert new.size == SIZES[name] + 200
    assert new.names[: old.size] == old.names and new.specials == old.specials
    assert made.origins.tolist() == [*range(old.size), *[-1] * 200]


@pytest.mark.parametrize("way", ["extend", "letters"])
@pytest.mark.parametrize("name", ["llama2", "llama3", "demo"])
def test_a_text_to_which_no_new_merge_applies_keeps_its_tokens(name: str, way: str) -> None:
    before, after, old, new = MAKERS[name](), _tokenizer(name, way), old_of(name), made_of(name, way).vocabulary()
    merges = {tuple(merge) for merge in new.row["model"]["merges"][len(old.row["model"]["merges"]) :]}
    whole = set(new.names[old.size :]) if new.row["model"].get("ignore_merges") else set()
    dice = np.random.default_rng(3)
    words = sorted({word for text in texts() for word in text.split()})
    kept = changed = 0
    for _ in range(400):
        text = "".join(dice.choice(words)[: dice.integers(1, 9)] + dice.choice([" ", "", ", "]) for _ in range(2))
        tokens = encode(before, text)
        names = [str(old.names[one]) for one in tokens]
        touched = any(pair in merges for pair in pairwise(names)) or any(one in "".join(names) for one in whole)
        if not touched:
            assert encode(after, text) == tokens
            kept += 1
        else:
            changed += encode(after, text) != tokens
    assert kept > 20 and changed > 20


@pytest.mark.parametrize("way", ["letters", "extend"])
def test_new_tokens_are_as_asked_or_parts_of_such(way: str) -> None:
    """Control: where nothing is asked, others come, too."""
    old, new = old_of("llama3"), made_of("llama3", way).vocabulary()
    added = {str(name) for name in new.names[old.size :]}
    said = {name: new.bytes_of(name).decode("utf-8", "replace").strip() for name in added}
    good = {name for name in added if len(said[name]) >= 4 and said[name].isalpha()}
    halves = {half for left, right in new.row["model"]["merges"] for half in (left, right) if left + right in good}
    open_ = [*halves]
    for name in open_:  # what they are made of, down to old tokens
        for left, right in new.row["model"]["merges"]:
            if left + right == name and name in added:
                open_ += [one for one in (left, right) if one not in open_]
    assert len(good) > 50 and (added - good <= set(open_)) == (way == "letters")


def test_a_merge_that_makes_an_old_token_in_another_way_takes_no_place() -> None:
    row = json.loads(world.llama3().to_str())
    names = row["model"]["vocab"]
    names["qz"], names["zz"], names["qzz"] = 504, 505, 506
    row["model"]["merges"] += [["q", "z"], ["z", "z"], ["q", "zz"]]  # qzz is made of q and zz, and text gives qz z
    old = Vocabulary.of_row(row)
    made = extend.extend(old, ["qzz qzz qzzqzz qzz"] * 9, 509)
    assert ["qz", "z"] in made.row["model"]["merges"] and made.vocabulary().names.count("qzz") == 1
    assert encode(made.tokenizer(), "qzz") == [506]


def test_a_text_that_names_a_special_token_makes_none() -> None:
    """However often it stands in the texts that are learnt on."""
    for name, special in (("llama2", "</s>"), ("llama3", "<|eot_id|>"), ("demo", "</s>")):
        old = old_of(name)
        for made in (
            extend.extend(old, [f"{special} x{special}y"] * 9, old.size + 8),
            learn.replace(old, [f"{special} x{special}y"] * 9, 400, "bpe"),
            learn.replace(old, [f"{special} x{special}y"] * 9, 400, "unigram"),
        ):
            new = made.vocabulary()
            said = new.reader().encode(f"x{special}", add_special_tokens=False).ids
            assert new.specials[special] not in said and b"".join(new.content[one] for one in said).strip() == (
                f"x{special}".encode()
            )


def test_extend_refuses_unigram_a_smaller_size_and_no_text() -> None:
    with pytest.raises(ConfigError, match="mode: replace"):
        extend.extend(old_of("unigram"), texts(), 1000)
    with pytest.raises(ConfigError, match="not more than the 600"):
        extend.extend(old_of("llama2"), texts(), 600)
    with pytest.raises(DataError, match="no text"):
        extend.extend(old_of("llama2"), [""], 700)


# --- shrink and optimise ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MAKERS)
def test_shrink_changes_no_text_of_tokens_that_are_kept(name: str) -> None:
    before, made = MAKERS[name](), made_of(name, "shrink")
    after = made.tokenizer()
    assert len(made.origins) < SIZES[name]
    for text in world.TEXTS[:5]:
        assert [made.origins[one] for one in encode(after, text)] == encode(before, text)
    kept, dice = set(made.origins.tolist()), np.random.default_rng(5)
    words = sorted({word for text in texts() for word in text.split()})
    same = other = 0
    for _ in range(300):
        text = " ".join(dice.choice(words, 2))
        if kept.issuperset(tokens := encode(before, text)):
            assert [made.origins[one] for one in encode(after, text)] == tokens
            same += 1
        else:
            other += [made.origins[one] for one in encode(after, text)] != tokens
    assert same > 5 and other > 5


def test_shrink_keeps_what_tokens_are_made_of() -> None:
    """Control: without the halves the tokens that are used could not be made."""
    old, made = old_of("demo"), made_of("demo", "shrink")
    used = set(np.flatnonzero(shrink.usage(old, world.TEXTS[:5])).tolist())
    assert used < set(made.origins.tolist())


def test_shrink_to_a_size_keeps_the_most_used() -> None:
    made, counts = made_of("demo", "shrink to"), shrink.usage(old_of("demo"), world.TEXTS[:5])
    assert len(made.origins) == 440 or len(made.origins) == len(made_of("demo", "shrink").origins)
    smaller = shrink.shrink(old_of("demo"), world.TEXTS[:5], 300)
    assert len(smaller.origins) == 300
    assert counts[smaller.origins].sum() > 0.5 * counts.sum()
    with pytest.raises(ConfigError, match="too small"):
        shrink.shrink(old_of("demo"), world.TEXTS, 200)
    with pytest.raises(DataError, match="no text"):
        shrink.shrink(old_of("demo"), [""])


def test_a_token_that_only_ignore_merges_uses_is_kept() -> None:
    row: dict[str, Any] = json.loads(world.llama3().to_str())
    row["model"]["vocab"]["Ġxyzzy"] = 504  # no merge leads to it
    old = Vocabulary.of_row(row)
    made = shrink.shrink(old, ["see on xyzzy"])
    assert 504 in made.origins and "Ġxyzzy" in [
        made.vocabulary().names[one] for one in encode(made.tokenizer(), "see on xyzzy")
    ]


@pytest.mark.parametrize("name", ["llama2", "llama3", "demo"])
def test_optimise_keeps_the_size_and_takes_the_least_used_out(name: str) -> None:
    old, made = old_of(name), made_of(name, "optimise")
    assert len(made.origins) == SIZES[name] and (made.origins < 0).sum() > 20
    gone = sorted(set(range(old.size)) - set(made.origins.tolist()))
    assert shrink.usage(old, texts())[gone].sum() < shrink.usage(made.vocabulary(), texts())[made.origins < 0].sum()
