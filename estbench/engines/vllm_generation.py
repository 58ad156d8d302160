"""Answers from a vLLM server. Prompts are token ids and so are answers: the template is ours, and so is the cut.

Stop strings go to the server, which ends an answer there, and are cut once more here. A reasoning model is asked in
steps, since a stop string of the task must not end its thinking: its thinking up to the closing marker, then, with
that in front, its answer. Thinking is kept apart and counted; what was cut off is recorded as that.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from estbench.engines import structured
from estbench.engines.base import Answer, Decoding, Failed, Generated, Pack
from estbench.engines.replies import BadReply, as_count, as_list, as_object, choices, expect
from estbench.engines.thinking import Markers, markers_of, opens, split
from estbench.engines.transport import Unanswered
from estbench.engines.vllm_scoring import Part
from estbench.tokens import Tokens

NEUTRAL = {  # nothing of what a server or checkpoint has as its own habits
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "return_token_ids": True,
}


@dataclass(frozen=True, slots=True)
class Step:
    """What a server wrote in one go."""

    ids: list[int]
    finish: str  # stop or length


@dataclass(slots=True)
class Row:
    """A request that is being answered."""

    prompt: list[int]
    decoding: Decoding
    phase: str = "answer"  # answer, think, after: the answer behind thinking
    thought: list[int] = field(default_factory=list)  # markers included
    written: list[int] = field(default_factory=list)  # the answer
    finish: str = ""
    failed: str = ""


class Style:
    """What answers of one model need: its tokenizer, end tokens, thinking markers and context."""

    def __init__(self, tokens: Tokens, ends: Sequence[int], length: int, thinking_tokens: int) -> None:
        self.tokenizer, self.ends, self.length, self.thinking_tokens = tokens.tokenizer, list(ends), length, 0
        self.markers: Markers | None = markers_of(tokens.chat_template, self.tokenizer.get_vocab())
        if self.markers:
            self.thinking_tokens = thinking_tokens

    def decode(self, ids: Sequence[int], special: bool = False) -> str:
        """Token ids as text."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=not special))


class Writing:
    """A pack of texts that are being generated."""

    def __init__(self, pack: Pack, model: str, style: Style) -> None:
        self.model, self.style = model, style
        self.rows: list[Row] = []
        for request in pack.requests:
            assert request.decoding is not None
            row = Row(request.prompt.tolist(), request.decoding)
            if style.markers and opens(style.decode(row.prompt[-16:], special=True), style.markers):
                row.phase = "think"
            self.rows.append(row)

    def parts(self) -> list[Part]:
        return [self._part(row) for row in self.rows]

    def _part(self, row: Row) -> Part:
        """The next step of a row."""
        style, decoding = self.style, row.decoding
        prompt = row.prompt + row.thought
        most = decoding.max_new_tokens
        stop = list(decoding.stop)
        if row.phase == "think":
            assert style.markers
            most, stop = most + style.thinking_tokens - len(row.thought), [style.markers.close]
        elif row.phase == "after":
            stop = [one for one in stop if one.strip()]  # line breaks behind thinking end nothing; we cut
        most = max(1, min(most, style.length - len(prompt)))
        body: dict[str, Any] = {"model": self.model, "prompt": [prompt], "max_tokens": most, **NEUTRAL}
        body["skip_special_tokens"] = not style.markers  # a stop string may be a marker
        body |= {"temperature": decoding.temperature, "top_p": decoding.top_p, "stop_token_ids": style.ends}
        body |= {"stop": stop} if stop else {}
        if decoding.temperature > 0:
            body["seed"] = decoding.seed
        if decoding.schema is not None and row.phase != "think":
            body["structured_outputs"] = structured.outputs(json.loads(decoding.schema))
        return Part(body, 1, lambda reply: written(reply, len(prompt), most), row)

    def take(self, part: Part, given: Any) -> list[Part]:
        row: Row = part.place
        if isinstance(given, Unanswered):
            row.failed = given.reason
            return []
        ids: list[int] = given.ids
        ended = ids[-1] in self.style.ends
        thinks = row.phase == "think" or (row.phase == "answer" and self._thinks(ids))
        if not thinks:
            row.written, row.finish = ids, given.finish
            return []
        row.thought, row.phase = row.thought + ids, "think"
        if self._closed(row.thought):
            whole = row.thought
            row.thought, row.phase = self._up_to_marker(whole), "after"
            if ended:  # thinking and answer came in one go
                row.written, row.finish = whole[len(row.thought) :], given.finish
                return []
        elif ended or len(row.thought) >= row.decoding.max_new_tokens + self.style.thinking_tokens:
            row.finish = "stop" if ended else "length"
            return []
        if len(row.prompt) + len(row.thought) >= self.style.length:
            row.finish = "length"
            return []
        return [self._part(row)]  # an answer that was begun is asked anew: its stops were not meant for thinking

    def _thinks(self, ids: list[int]) -> bool:
        markers = self.style.markers
        return markers is not None and self.style.decode(ids, special=True).lstrip().startswith(markers.open)

    def _closed(self, ids: list[int]) -> bool:
        assert self.style.markers
        return self.style.markers.close in self.style.decode(ids, special=True)

    def _up_to_marker(self, ids: list[int]) -> list[int]:
        """The fewest tokens that hold the closing marker."""
        return ids[: next(n for n in range(1, len(ids) + 1) if self._closed(ids[:n]))]

    def answers(self) -> list[Answer]:
        return [Failed(row.failed) if row.failed else self._answer(row) for row in self.rows]

    def _answer(self, row: Row) -> Generated:
        """The answer up to its end token or first stop string, and what was thought before it."""
        style = self.style
        ended = bool(row.written) and row.written[-1] in style.ends
        kept = row.written[:-1] if ended else row.written
        thinking, text = "", style.decode(kept)
        if row.thought:
            assert style.markers
            cut = row.thought[:-1] if row.thought[-1] in style.ends else row.thought
            thinking, _ = split(style.decode(cut, special=True), style.markers, opened=True)
            text = text.lstrip()
        at = min((found for stop in row.decoding.stop if (found := text.find(stop)) >= 0), default=None)
        finish = "stop" if ended or at is not None else row.finish
        total = len(row.thought) + len(row.written)
        return Generated(text if at is None else text[:at], total, finish, thinking, len(row.thought))


def written(reply: Any, read: int, most: int) -> Step:
    """What was written behind one prompt. BadReply if token counts, ids or the ending are not what they should be."""
    usage = as_object(as_object(reply).get("usage"), "usage")
    expect(usage.get("prompt_tokens"), read, "usage.prompt_tokens")
    [choice] = choices(reply)
    ids = as_list(choice.get("token_ids"), "token_ids", as_count(usage.get("completion_tokens"), "completion_tokens"))
    ids = [as_count(one, "a token id") for one in ids]
    finish = choice.get("finish_reason")
    if finish not in ("stop", "length"):
        raise BadReply(f"finish_reason is {finish!r}")
    if not ids or len(ids) > most or (finish == "length" and len(ids) < most):
        raise BadReply(f"{len(ids)} tokens were written where {most} were allowed, and it ended for {finish}")
    return Step(ids, finish)


def ends_of(config: Callable[[str], dict[str, Any]], tokens: Tokens) -> list[int]:
    """Ids of the tokens that end an answer, as the checkpoint and its tokenizer name them.

    config: gives a JSON file of the checkpoint by its name, empty where there is none.
    """
    named: list[Any] = [tokens.tokenizer.eos_token_id]
    for name in ("generation_config.json", "config.json"):
        value = config(name).get("eos_token_id")
        if value is not None:
            named += value if isinstance(value, list) else [value]
            break
    return sorted({int(one) for one in named if one is not None})
