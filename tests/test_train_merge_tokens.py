"""Whose rows tokens have: the chat model's special tokens, vocabularies that differ, heads that are tied."""

from __future__ import annotations

import json
from pathlib import Path

import merge_world as world
import pytest
import torch
from estbench_training.merge.tokens import Tokens, difference
from merge_world import SPECIAL, make, opened, own_home, same, weights
from test_train_merge import chat_vector, exact, merge

from estbench.errors import ModelError

__all__ = ["own_home"]  # a fixture
INPUT, HEAD = "model.embed_tokens.weight", "lm_head.weight"
CHATML = ["<|im_start|>", "<|im_end|>"]


def words(count: int, first: int = 0) -> list[str]:
    return [*SPECIAL, *(f"w{at}" for at in range(first, first + count))]


@pytest.mark.parametrize("tied", [True, False])
def test_rows_of_special_tokens_are_the_chat_models(tmp_path: Path, tied: bool) -> None:
    base, chat, into = (make(tmp_path / name, seed=at, tied=tied) for at, name in enumerate(("b", "c", "e")))
    made, theirs = weights(chat_vector(tmp_path / "m", (base, chat, into))), weights(chat)
    old, own = weights(base), weights(into)
    added = weights(chat_vector(tmp_path / "n", (base, chat, into), special_tokens="add"))
    assert (HEAD in made) == (not tied)
    for name in (INPUT, HEAD)[: 1 if tied else 2]:
        user = SPECIAL.index("<|user|>")
        assert torch.equal(made[name][user], theirs[name][user])  # and not the base's, which never learnt it
        assert not torch.equal(made[name][user], old[name][user])
        sums = exact(old[name], theirs[name], own[name])
        others = [at for at in range(world.WORDS) if at != user]  # what `into` makes text with stays a sum
        assert torch.equal(made[name][others], sums[others])
        assert torch.equal(added[name], sums)
    assert json.loads((tmp_path / "m" / "merge.json").read_text())["rows_of_the_chat_model"] == 1


def test_tokenizers_that_differ_are_an_error_that_names_the_first_token(tmp_path: Path) -> None:
    base, chat = make(tmp_path / "b", seed=1), make(tmp_path / "c", seed=2)
    other = make(tmp_path / "e", seed=3, words=[*words(36)[:-1], "sõna"])
    with pytest.raises(ModelError, match=r"token 39 is 'sõna' in e and 'w35' in b\. embeddings=by_token"):
        chat_vector(tmp_path / "m", (base, chat, other))
    with pytest.raises(ModelError, match="token 39"):
        merge(tmp_path / "m", method="average", parts=f"{base},{other}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "c", "e"]


def test_a_token_that_differs_is_named_by_its_text(tmp_path: Path) -> None:
    models = make(tmp_path / "a"), make(tmp_path / "b"), make(tmp_path / "c")
    for model, last in zip(models, ("ĠÃµun", "ĠÃ¶Ã¶", "Ã"), strict=True):
        row = json.loads((model / "tokenizer.json").read_text("utf-8"))
        row["decoder"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
        row["model"]["vocab"] = {name: at for name, at in row["model"]["vocab"].items() if at != 39} | {last: 39}
        (model / "tokenizer.json").write_text(json.dumps(row), "utf-8")
    one, two, half = (Tokens.of(opened(model)) for model in models)
    assert difference(one, two) == "token 39 is ' õun' in a and ' öö' in b"
    assert difference(one, half) == "token 39 is ' õun' in a and 'Ã' in c"  # half a letter has no text


@pytest.mark.parametrize("spoil", ["vocab", "added_tokens"])
def test_a_token_without_a_number_is_one_line(tmp_path: Path, spoil: str) -> None:
    model = make(tmp_path / "a")
    Tokens.of(opened(model))  # the control: it was fine before
    row = json.loads((model / "tokenizer.json").read_text("utf-8"))
    if spoil == "vocab":
        row["model"]["vocab"]["w1"] = "seven"
    else:
        row["added_tokens"][0]["id"] = None
    (model / "tokenizer.json").write_text(json.dumps(row), "utf-8")
    with pytest.raises(ModelError, match="is no tokenizer"):
        Tokens.of(opened(model))


def test_the_template_is_no_part_of_a_vocabulary_and_merges_are(tmp_path: Path) -> None:
    one, two = make(tmp_path / "a"), make(tmp_path / "b", template=world.TEMPLATE)
    assert difference(*(Tokens.of(opened(folder)) for folder in (one, two))) is None
    for folder, merges in ((one, ["a b", "b c"]), (two, [["a", "b"], ["c", "b"]])):
        row = json.loads((folder / "tokenizer.json").read_text())
        row["model"]["merges"] = merges
        (folder / "tokenizer.json").write_text(json.dumps(row))
    found = difference(*(Tokens.of(opened(folder)) for folder in (one, two)))
    assert found == "merge 1 is 'b c' and 'c b' in a and b"


def test_a_chat_model_with_more_tokens_needs_to_be_told_what_becomes_of_them(tmp_path: Path) -> None:
    base, into = make(tmp_path / "b", seed=1), make(tmp_path / "e", seed=3)
    chat = make(tmp_path / "c", seed=2, added=CHATML)
    shapes = r"lm_head\.weight is \[42, 16\] in c and \[40, 16\] in e: embeddings=by_token"
    with pytest.raises(ModelError, match=shapes):
        chat_vector(tmp_path / "m", (base, chat, into))


@pytest.mark.parametrize("embeddings", ["by_token", "skip"])
def test_tokens_that_only_the_chat_model_has_are_appended_with_its_rows(tmp_path: Path, embeddings: str) -> None:
    base, into = make(tmp_path / "b", seed=1), make(tmp_path / "e", seed=3)
    chat = make(tmp_path / "c", seed=2, added=CHATML, template=world.TEMPLATE, eos_token_id=[2, 41])
    place = chat_vector(tmp_path / "m", (base, chat, into), embeddings=embeddings)
    made, own, theirs, old = map(weights, (place, into, chat, base))
    for name in (INPUT, HEAD):
        assert made[name].shape == (42, world.WIDTH)
        assert torch.equal(made[name][[3, 40, 41]], theirs[name][[3, 40, 41]])
        plain = [at for at in range(40) if at != 3]
        expected = own[name] if embeddings == "skip" else exact(old[name], theirs[name][:40], own[name])
        assert torch.equal(made[name][plain], expected[plain])
    config = json.loads((place / "config.json").read_text())
    assert config["vocab_size"] == 42 and config["eos_token_id"] == [2, 41]
    assert json.loads((place / "generation_config.json").read_text()) == {"eos_token_id": [2, 40], "temperature": 0.6}
    assert (place / "chat_template.jinja").read_text() == world.TEMPLATE
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(place / "tokenizer.json"))
    assert tokenizer.encode("w0 <|im_start|> w1 <|im_end|>").ids == [4, 40, 5, 41]


def test_rows_are_matched_by_their_tokens_wherever_they_stand(tmp_path: Path) -> None:
    base, chat = make(tmp_path / "b", seed=1), make(tmp_path / "c", seed=2, added=CHATML, template="t")
    new = [*SPECIAL, "uus", *(f"w{at}" for at in reversed(range(10))), "w99"]  # fewer, others, another order
    into = make(tmp_path / "e", seed=3, words=new)
    place = chat_vector(tmp_path / "m", (base, chat, into), embeddings="by_token")
    made, own, theirs, old = map(weights, (place, into, chat, base))
    numbers = {token: at for at, token in enumerate(words(36))}
    for name in (INPUT, HEAD):
        assert len(made[name]) == len(new) + 2
        for at, token in enumerate(new):
            if token == "<|user|>":
                expected = theirs[name][3]
            elif token in numbers:
                row = numbers[token]
                expected = exact(old[name][row], theirs[name][row], own[name][at])
            else:
                expected = own[name][at]
            assert torch.equal(made[name][at], expected), token
        assert torch.equal(made[name][-2:], theirs[name][-2:])
    config = json.loads((place / "generation_config.json").read_text())
    assert config["eos_token_id"] == [2, len(new)]  # <|im_start|> was 40


def test_every_number_of_a_token_in_the_configurations_follows_it(tmp_path: Path) -> None:
    base, chat = make(tmp_path / "b", seed=1), make(tmp_path / "c", seed=2, added=CHATML, pad_token_id=-1)
    row = {"eos_token_id": [2, 41], "suppress_tokens": [4, 39, 40], "bad_words_ids": [[4, 5], [4, 39]], "top_k": 40}
    row |= {"begin_suppress_tokens": [39]}
    (chat / "generation_config.json").write_text(json.dumps(row))
    into = make(tmp_path / "e", seed=3, words=[*SPECIAL, *(f"w{at}" for at in reversed(range(10)))])  # no w35
    place = chat_vector(tmp_path / "m", (base, chat, into), embeddings="by_token")
    made = json.loads((place / "generation_config.json").read_text())
    numbers = {"eos_token_id": [2, 15], "suppress_tokens": [13, 14], "bad_words_ids": [[13, 12]]}
    assert made == row | numbers | {"begin_suppress_tokens": None}
    assert json.loads((place / "config.json").read_text())["pad_token_id"] == -1  # says that there is none
    (chat / "generation_config.json").write_text(json.dumps({"eos_token_id": 39}))
    with pytest.raises(ModelError, match="c: eos_token_id 39 is no token that e has, too"):
        chat_vector(tmp_path / "n", (base, chat, into), embeddings="by_token")


def test_a_template_of_what_is_added_to_is_not_left_beside_the_chat_models(tmp_path: Path) -> None:
    base, into = make(tmp_path / "b", seed=1), make(tmp_path / "e", seed=3)
    chat = make(tmp_path / "c", seed=2, added=CHATML, template=world.TEMPLATE)
    config = json.loads((into / "tokenizer_config.json").read_text())
    (into / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": "old"}))
    place = chat_vector(tmp_path / "m", (base, chat, into), embeddings="by_token")
    assert "chat_template" not in json.loads((place / "tokenizer_config.json").read_text())
    assert (place / "chat_template.jinja").read_text() == world.TEMPLATE


def test_by_token_with_the_same_vocabulary_is_the_plain_sum(tmp_path: Path) -> None:
    trio = tuple(make(tmp_path / name, seed=at) for at, name in enumerate(("b", "c", "e")))
    plain = weights(chat_vector(tmp_path / "m", (trio[0], trio[1], trio[2])))
    assert same(weights(chat_vector(tmp_path / "n", (trio[0], trio[1], trio[2]), embeddings="by_token")), plain)


def test_with_a_scale_of_zero_no_token_is_appended(tmp_path: Path) -> None:
    base, into = make(tmp_path / "b", seed=1), make(tmp_path / "e", seed=3)
    chat = make(tmp_path / "c", seed=2, added=CHATML, template=world.TEMPLATE)
    made = chat_vector(tmp_path / "m", (base, chat, into), embeddings="by_token", scale=0)
    assert same(weights(made), weights(into))
    assert (made / "tokenizer.json").read_text() == (into / "tokenizer.json").read_text()


def test_a_head_that_is_tied_in_one_and_not_in_the_other_is_an_error(tmp_path: Path) -> None:
    base, chat = make(tmp_path / "b", seed=1), make(tmp_path / "c", seed=2)
    into = make(tmp_path / "e", seed=3, tied=True)
    tied = r"e lacks lm_head\.weight, which b has: e's head is tied to its embeddings, b's is not: save both alike"
    with pytest.raises(ModelError, match=tied):
        chat_vector(tmp_path / "m", (base, chat, into))


def test_a_head_that_repeats_the_embeddings_it_is_tied_to_is_left_out(tmp_path: Path) -> None:
    base, chat = make(tmp_path / "b", seed=1, tied=True), make(tmp_path / "c", seed=2, tied=True)
    plain = make(tmp_path / "e", seed=3, tied=True)
    twice = make(tmp_path / "f", like=plain, tied=True, change={HEAD: weights(plain)[INPUT].clone()})
    one, two = (weights(chat_vector(tmp_path / f"m{at}", (base, chat, into))) for at, into in enumerate((plain, twice)))
    assert same(one, two) and HEAD not in two
    odd = make(tmp_path / "g", like=plain, tied=True, change={HEAD: weights(plain)[INPUT] + 1})
    with pytest.raises(
        ModelError, match=r"g: config\.json ties the head to the embeddings, but lm_head\.weight differs"
    ):
        chat_vector(tmp_path / "m", (base, chat, odd))


def unigram(folder: Path, score: float) -> Path:
    made = make(folder)
    row = json.loads((made / "tokenizer.json").read_text())
    pieces = [[piece, -1.0] for piece in row["model"]["vocab"]]
    pieces[7][1] = score
    row["model"] = {"type": "Unigram", "vocab": pieces, "unk_id": 0}
    (made / "tokenizer.json").write_text(json.dumps(row))
    return made


def test_scores_of_unigram_belong_to_the_vocabulary(tmp_path: Path) -> None:
    models = [unigram(tmp_path / name, score) for name, score in (("a", -2), ("b", -2), ("c", -3))]
    merge(tmp_path / "m", method="average", parts=f"{models[0]},{models[1]}")
    with pytest.raises(ModelError, match=r"token 7 has the score -3 in c and -2 in a|score -2 in a and -3 in c"):
        merge(tmp_path / "n", method="average", parts=f"{models[0]},{models[2]}")


def test_a_tokenizer_that_may_cut_text_otherwise_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = [make(tmp_path / name, seed=at) for at, name in enumerate("abc")]
    row = json.loads((models[1] / "tokenizer.json").read_text())
    (models[1] / "tokenizer.json").write_text(json.dumps(row | {"pre_tokenizer": {"type": "Whitespace"}}))
    merge(tmp_path / "m", method="average", parts=f"{models[0]},{models[1]}")
    assert "b and a don't have the same pre_tokenizer" in capsys.readouterr().err
    merge(tmp_path / "n", method="average", parts=f"{models[0]},{models[2]}")
    assert "pre_tokenizer" not in capsys.readouterr().err
