"""Prompts as token ids: one BOS, joint tokenisation, nothing lost at the boundary."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from estbench.errors import ModelError, PlanError
from estbench.tokens import Tokens

LOADED: dict[Path, Tokens] = {}


@pytest.fixture
def tokens(tiny_model: Path) -> Tokens:
    return LOADED.setdefault(tiny_model, Tokens(tiny_model))


def test_a_prompt_has_exactly_one_bos(tokens: Tokens) -> None:
    (ids,) = tokens.encode(["Küsimus: õun?"])
    assert ids[0] == tokens.bos and tokens.bos_count(ids) == 1


def test_a_template_that_brings_its_bos_gets_no_second_one(tokens: Tokens) -> None:
    text = tokens.chat([{"role": "user", "content": "Tere"}])
    assert text.startswith("<s>")
    (ids,) = tokens.encode([text])
    assert tokens.bos_count(ids) == 1
    tokens.check_bos(ids)


def test_two_bos_in_front_are_refused(tokens: Tokens) -> None:
    (ids,) = tokens.encode(["<s><s>Tere"])
    with pytest.raises(PlanError, match="two BOS"):
        tokens.check_bos(ids)


def test_a_tokenizer_without_bos_gets_none(tiny_model: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    content = json.loads((path / "tokenizer.json").read_text())
    content["post_processor"] = None
    (path / "tokenizer.json").write_text(json.dumps(content))
    plain = Tokens(path)
    (ids,) = plain.encode(["Tere"])
    assert plain.bos_count(ids) == 0
    ((context, _),) = plain.encode_pairs([("", "Tere")])
    assert context.tolist() == [plain.bos]  # nothing can be scored without a token in front


text = st.text(alphabet="aeõäöüšž tTM.?\n ", max_size=20)


@given(context=text, continuation=text.filter(bool))
def test_context_and_continuation_together_are_the_joint_tokenisation(context: str, continuation: str) -> None:
    tokens = next(iter(LOADED.values()))
    ((head, tail),) = tokens.encode_pairs([(context, continuation)])
    (whole,) = tokens.encode([context + continuation])
    assert len(head) >= 1 and len(tail) >= 1
    assert np.concatenate([head, tail]).tolist() == whole.tolist()
    assert tokens.decode(whole[1:]) == context + continuation


def test_trailing_spaces_belong_to_the_continuation(tokens: Tokens) -> None:
    assert [ids.tolist() for ids in tokens.encode_pairs([("Vastus: ", "õun")])[0]] == [
        ids.tolist() for ids in tokens.encode_pairs([("Vastus:", " õun")])[0]
    ]


def test_an_empty_continuation_is_refused(tokens: Tokens) -> None:
    with pytest.raises(PlanError, match="no token of its own"):
        tokens.encode_pairs([("Vastus:", "")])


def test_a_tokenizer_that_cannot_be_read_is_named(tiny_model: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    (path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=r"tokenizer in .* can't be loaded"):
        Tokens(path)
