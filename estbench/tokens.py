"""Prompts as token ids: exactly one BOS where the model was trained with one, and an honest boundary.

A continuation is tokenised together with its context, as the model would see it, and the ids are split after their
longest common part with the context alone. Trailing spaces of the context belong to the continuation. Where the two
tokenisations agree up to the boundary (almost always) this is what lm-eval scores, too.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from estbench.engines.base import Ids
from estbench.errors import ModelError, PlanError


class Tokens:
    """A checkpoint's tokenizer and chat template."""

    sends_messages = False  # True: prompts are JSON of messages, and the endpoint has the tokenizer

    def __init__(self, path: Path) -> None:
        from transformers import AutoTokenizer
        from transformers.utils import logging

        logging.set_verbosity_error()  # type: ignore[no-untyped-call]

        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(path)
        except Exception as error:  # the library raises many kinds
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise ModelError(f"The tokenizer in {path} can't be loaded ({reason[:200]}): save it again.") from None
        self.tokenizer.model_max_length = 1 << 40  # the plan knows the context's length, and refuses; no warning needed
        plain = self.tokenizer("a", add_special_tokens=False).input_ids
        special = self.tokenizer("a").input_ids
        at = next((i for i in range(len(special)) if special[i : i + len(plain)] == plain), 0)
        self.prefix: list[int] = special[:at]  # what the tokenizer puts in front by itself: the BOS, or nothing
        self.start: list[int] = self.prefix or [self.bos if self.bos is not None else self.tokenizer.eos_token_id or 0]

    @property
    def bos(self) -> int | None:
        value = self.tokenizer.bos_token_id
        return None if value is None else int(value)

    @property
    def chat_template(self) -> str | None:
        template = self.tokenizer.chat_template
        return template.get("default") if isinstance(template, dict) else template

    def chat(self, messages: list[dict[str, str]], *, add_generation_prompt: bool = True) -> str:
        """The messages as one text, by the model's own template; PlanError if the template loses what is asked."""
        try:
            text = str(
                self.tokenizer.apply_chat_template(
                    messages,
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                    continue_final_message=not add_generation_prompt,
                )
            )
        except Exception as error:  # templates raise what they like
            raise PlanError(
                f"The model's chat template can't render a prompt: {' '.join(str(error).split())}"
            ) from None
        if messages[-1]["content"].strip() not in text:
            raise PlanError("The model's chat template drops the prompt: what is asked is not in what it renders.")
        return text

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Ids of whole texts, with the BOS in front unless the text (a chat template's) already starts with it."""
        if not texts:
            return []
        plain = {"add_special_tokens": False, "return_attention_mask": False, "return_token_type_ids": False}
        found = self.tokenizer(list(texts), **plain).input_ids
        n = len(self.prefix)
        return [np.array(ids if n and ids[:n] == self.prefix else self.prefix + ids, np.int32) for ids in found]

    def encode_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[Ids, Ids]]:
        """(context, continuation) texts -> (context ids, continuation ids)."""
        moved = [_move_spaces(context, continuation) for context, continuation in pairs]
        texts = list(
            dict.fromkeys(text for context, continuation in moved for text in (context, context + continuation))
        )
        ids = dict(zip(texts, self.encode(texts), strict=True))
        result: list[tuple[Ids, Ids]] = []
        for context, continuation in moved:
            whole, alone = ids[context + continuation], ids[context]
            most = min(len(whole), len(alone))
            differ = np.flatnonzero(whole[:most] != alone[:most])
            split = int(differ[0]) if len(differ) else most
            if split == len(whole):
                raise PlanError(f"The continuation {continuation!r} has no token of its own.")
            head = whole[:split].copy() if split else np.array(self.start, np.int32)
            if result and np.array_equal(head, result[-1][0]):
                head = result[-1][0]  # choices share one prompt
            result.append((head, whole[split:].copy()))  # copies: views would keep the whole alive
        return result

    def windows(self, text: str, most: int) -> list[tuple[Ids, Ids]]:
        """A whole text as (context, continuation) ids that together predict each of its tokens once.

        `most`: the model's context in tokens. A later window sees one token of what went before, the last one as much
        as fits: lm-eval's windows, but with one BOS where lm-eval's default has two and scores the second.
        """
        ids = np.array([*self.start, *self.tokenizer(text, add_special_tokens=False).input_ids], np.int32)
        first = len(self.start)
        if len(ids) == first:
            raise PlanError("A text to be scored has no tokens.")
        cuts = [first, *range(most + 1, len(ids), most), len(ids)]
        return [(ids[max(0, end - most - 1) : begin], ids[begin:end]) for begin, end in itertools.pairwise(cuts)]

    def bos_count(self, ids: Ids) -> int:
        """How often the BOS occurs."""
        return 0 if self.bos is None else int((ids == self.bos).sum())

    def check_bos(self, ids: Ids) -> None:
        """Refuse a prompt that starts with two BOS tokens."""
        if self.bos is not None and len(ids) > 1 and ids[0] == ids[1] == self.bos:
            raise PlanError("The prompt starts with two BOS tokens: the chat template and the tokenizer both add one.")

    def decode(self, ids: Sequence[int] | Ids) -> str:
        return str(self.tokenizer.decode([int(i) for i in ids], skip_special_tokens=False))

    def pieces(self, ids: Ids) -> list[str]:
        """The text of each token, for `estbench show`."""
        return [str(self.tokenizer.decode([int(i)], skip_special_tokens=False)) for i in ids]


def _move_spaces(context: str, continuation: str) -> tuple[str, str]:
    spaces = len(context) - len(context.rstrip())
    return (context[:-spaces], context[-spaces:] + continuation) if spaces else (context, continuation)
