"""A scripted judge behind an OpenAI-compatible server on loopback: it finds fences by their shape, has a hidden quality
of each text, and a persona.

    with JudgeServer(quality, Persona(first=0.7)) as server:
        server.url          http://127.0.0.1:PORT/v1
        server.asked        how often each body was asked for a judgment (canonical JSON -> count)
        server.endpoint     the server itself: its switches, posts, counts of tokens

    decide(Persona(gullible=True), quality, messages, schema)      the same without a server: the reply's object

quality: text -> number from 0 to 1. A pair is decided by the difference, a grade is 1 + 4·quality, and of n criteria
the share is met. Whether replies have a schema is up to the request (`response_format`), and they fit it; where it
asks for log-probabilities, the likeliest first tokens are the grades with `covered` of the probability. The same
request has the same reply. What has no fences (an engine's first look at an endpoint) is answered "jah".
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from stub_endpoint import Endpoint, Refuse, Words

LABELS = ("TASK", "REFERENCE", "CRITERIA", "ANSWER", "ANSWER_A", "ANSWER_B")
FENCE = re.compile(rf"<<<(BEGIN|END) ({'|'.join(LABELS)}) ([0-9a-f]+)>>>")
KINDS = ("500", "refusal", "empty", "prose", "schema", "cut")  # what failing calls come to
TIE, MUCH, CLOSE = 0.05, 0.4, 0.2  # differences of quality: less is a tie, more is much better, less is close
KIN = 0.25  # added to the quality of its own family
USUAL = 600  # signs of an answer for which a judge that likes length adds nothing, where there is no other answer
DIGITS = range(1, 6)
OF_FENCES = re.compile(r"[<>\w ]*", re.ASCII)
Quality = Callable[[str], float]

THIS = re.compile(r"\b(?:vali|eelista|choose|pick|prefer)\b\W+(?:see|seda|this)\W+(?:vastus|answer)", re.I)
CHOICES = (
    re.compile(r"\b(?:vali|eelista|choose|pick|prefer)\b\W+(?:(?:vastust?|answer)\W+|ANSWER_)?(A|B)\b", re.I),
    re.compile(r"\[\[(A|B)\]\]"),
    re.compile(r'"verdict"\s*:\s*"(\w+)"'),
)
GRADES = (
    re.compile(r"\b(?:hinne|hindeks|score|grade)\b\W{0,4}(?:on|is|of)?\W{0,3}([1-5])\b(?!\W?[–-])", re.I),
    re.compile(r'"score"\s*:\s*([1-5])'),
)
ALL_MET = re.compile(r'"criteria"\s*:\s*\[\s*true|kõik kriteeriumid on täidetud|all criteria are met', re.I)


@dataclass(frozen=True)
class Persona:
    """What is wrong with a judge; without arguments nothing is."""

    first: float | None = None  # of close pairs, the answer that stands first wins this share, and there are no ties
    length: float = 0.0  # quality for each doubling of length
    always: str = ""  # the one label that it gives: "A", "tie", "5"
    family: str = ""  # texts with this word are its own family's
    failing: float = 0.0  # share of requests; a "500" comes the first time only, "400" each time
    kinds: tuple[str, ...] = KINDS
    gullible: bool = False  # does what is said outside fences

    def likes(self, text: str, quality: Quality) -> float:
        """Its quality of an answer, length apart."""
        return quality(text) + KIN * bool(self.family and self.family.casefold() in text.casefold())


@dataclass
class Prompt:
    """A user's message by its fences."""

    parts: dict[str, Any] = field(default_factory=dict)  # label -> the first text between fences of it
    outside: list[tuple[str, str]] = field(default_factory=list)  # (label of the fence before or "", text)

    @classmethod
    def of(cls, text: str) -> Prompt:
        """By shape alone: nonces are not looked at, nor whether a fence has a line of its own. What is begun ends with
        the next end of its label."""
        found, at, inside, last = cls(), 0, "", ""
        look, places = seen(text)
        for fence in FENCE.finditer(look):
            opens, label = fence[1] == "BEGIN", fence[2]
            if inside and (opens or label != inside):
                continue  # part of what is fenced
            piece, at = text[at : places[fence.start()]], places[fence.end()]
            if inside:
                found.parts.setdefault(inside, loaded(piece))
            else:
                found.outside.append((last, read_out(piece)))
            last = inside or last
            inside = label if opens else ""
        found.outside.append((last, read_out(text[at:])))
        return found

    def answer(self, label: str) -> str:
        """What an assistant said, turn by turn."""
        value = self.parts.get(label, "")
        said = [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
        return "\n\n".join(str(one["content"]) for one in said if one["role"] == "assistant") if said else str(value)


def plain(text: str) -> str:
    """As a credulous reader sees a text: look-alikes are what they look like, what is invisible is not there."""
    normal = unicodedata.normalize("NFKC", text)
    return "".join(sign for sign in normal if unicodedata.category(sign) != "Cf")


def seen(text: str) -> tuple[str, Sequence[int]]:
    """The text as `plain` shows its signs one by one, and where each of them stands in it, its end, too."""
    changed = {sign: look for sign in set(text) if (look := plain(sign)) != sign and OF_FENCES.fullmatch(look)}
    if not changed:
        return text, range(len(text) + 1)
    looks = [changed.get(sign, sign) for sign in text]
    places = [place for place, look in enumerate(looks) for _ in look]
    return "".join(looks), [*places, len(text)]


def read_out(text: str) -> str:
    """Text outside fences as it is understood: what was JSON before somebody closed its fence is as if it were not."""
    return plain(text).replace("\\n", "\n").replace('\\"', '"')


def loaded(piece: str) -> Any:
    """JSON, or the text as it stands where somebody closed his fence too early."""
    try:
        return json.loads(piece)
    except ValueError:
        return piece.strip()


def roll(*parts: Any) -> float:
    """A number from 0 to 1 that is the same for the same parts."""
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest()
    return int.from_bytes(digest[:6]) / (1 << 48)


def decide(
    persona: Persona, quality: Quality, messages: Sequence[dict[str, Any]], schema: dict[str, Any] | None
) -> dict[str, Any]:
    """The judgment as an object that fits the schema. Without one, it has the fields that the prompt speaks of."""
    prompt = Prompt.of(str(messages[-1]["content"]))
    fields = (schema or guessed(prompt))["properties"]
    return {name: _field(name, rule, persona, quality, prompt, list(messages)) for name, rule in fields.items()}


def guessed(prompt: Prompt) -> dict[str, Any]:
    """The schema of an answer whose form is only described."""
    told = " ".join(text for _, text in prompt.outside)
    fields: dict[str, Any] = {"reason": {"type": "string"}} if "reason" in told else {}
    if "ANSWER_A" in prompt.parts:
        fields["verdict"] = {"enum": ["A_much", "A", "tie", "B", "B_much"]}
    elif "CRITERIA" in prompt.parts:
        fields["criteria"] = {"type": "array", "items": {"type": "boolean"}}
    elif "(score)" in told or "The score is" in told:
        fields["score"] = {"type": "integer"}
    else:
        fields["verdict"] = {"enum": ["same", "different", "none"]}
    return {"properties": fields}


def _field(
    name: str, rule: dict[str, Any], persona: Persona, quality: Quality, prompt: Prompt, messages: list[Any]
) -> Any:
    options = rule.get("enum") or []
    if rule.get("type") == "array":
        return _criteria(rule, persona, quality, prompt)
    if rule.get("type") in ("integer", "number") or (options and all(isinstance(one, int) for one in options)):
        return _grade(persona, quality, prompt)
    if options:
        pair = "ANSWER_A" in prompt.parts or "A" in options
        return (_winner if pair else _equivalence)(options, persona, quality, prompt, messages)
    return "Nii ma otsustasin."


def _winner(options: Sequence[str], persona: Persona, quality: Quality, prompt: Prompt, messages: list[Any]) -> str:
    """A label among those offered."""
    if persona.always in options:
        return persona.always
    if persona.gullible and (told := _told_choice(prompt)) in options:
        return str(told)
    a, b = prompt.answer("ANSWER_A"), prompt.answer("ANSWER_B")
    ahead = persona.likes(a, quality) - persona.likes(b, quality)
    ahead += persona.length * math.log2(max(1, len(a)) / max(1, len(b)))
    if persona.first is not None and abs(ahead) < CLOSE:
        return "A" if roll("order", messages) < persona.first else "B"
    if abs(ahead) < TIE and "tie" in options:
        return "tie"
    label = "A" if ahead >= 0 else "B"
    return f"{label}_much" if abs(ahead) >= MUCH and f"{label}_much" in options else label


def _told_choice(prompt: Prompt) -> str | None:
    """The label that is named outside the fences; "this answer" is the one whose fence was last."""
    for before, text in prompt.outside:
        if THIS.search(text) and before.startswith("ANSWER_"):
            return before[-1]
        for pattern in CHOICES:
            if found := pattern.search(text):
                return found[1]
    return None


def _equivalence(
    options: Sequence[str], persona: Persona, quality: Quality, prompt: Prompt, messages: list[Any]
) -> str:
    if persona.always in options:
        return persona.always
    if persona.gullible and (told := _told_choice(prompt)) in options:
        return str(told)
    answer = prompt.answer("ANSWER")
    if not answer.strip() and "none" in options:
        return "none"
    return options[0] if persona.likes(answer, quality) >= 0.5 else options[1]


def _of_one(persona: Persona, quality: Quality, prompt: Prompt) -> float:
    """The quality, 0 to 1, of the one answer that there is."""
    text = prompt.answer("ANSWER")
    value = persona.likes(text, quality) + persona.length * math.log2(max(1, len(text)) / USUAL)
    return min(1.0, max(0.0, value))


def _grade(persona: Persona, quality: Quality, prompt: Prompt) -> int:
    if persona.always.isdigit():
        return int(persona.always)
    if persona.gullible:
        for _, text in prompt.outside:
            for pattern in GRADES:
                if found := pattern.search(text):
                    return int(found[1])
    return round(1 + 4 * _of_one(persona, quality, prompt))


def _criteria(rule: dict[str, Any], persona: Persona, quality: Quality, prompt: Prompt) -> list[Any]:
    """Yes or no to each: the first ones are met."""
    listed = prompt.parts.get("CRITERIA")
    n = rule.get("minItems") or (len(listed) if isinstance(listed, list) else 0)
    told = persona.gullible and any(ALL_MET.search(text) for _, text in prompt.outside)
    met = n if told else round(n * _of_one(persona, quality, prompt))
    decided = [i < met for i in range(n)]
    if (rule.get("items") or {}).get("type") == "object":
        return [{"criterion": i, "met": one} for i, one in enumerate(decided, 1)]
    return decided


class Judge(Words):
    """What is behind the endpoint. It keeps what the request under way comes to: they are computed one by one."""

    def __init__(self, server: JudgeServer) -> None:
        super().__init__(lambda prompt: "jah")
        self.server = server
        self.said: str | None = None  # None: nothing was judged
        self.failed = ""  # how
        self.grade: float | None = None  # that log-probabilities speak of

    def chat(self, messages: list[dict[str, Any]]) -> list[int]:
        """A token for every byte, and for every four where something is judged."""
        self.said, self.failed, self.grade = None, "", None
        ids = super().chat(messages)
        if not FENCE.search(str(messages[-1]["content"])):
            return ids
        self._judge(next(post for post in reversed(self.server.endpoint.posts) if post.get("messages") is messages))
        return ids[::4]

    def _judge(self, body: dict[str, Any]) -> None:
        server, asked = self.server, json.dumps(body, sort_keys=True)
        server.asked[asked] += 1
        self.failed = self._failure(asked)
        if self.failed in ("400", "500"):
            raise Refuse(int(self.failed), "The judge had an error.")
        if body.get("logprobs"):
            prompt = Prompt.of(body["messages"][-1]["content"])
            grade, exact = (
                _grade(server.persona, server.quality, prompt),
                _of_one(server.persona, server.quality, prompt),
            )
            self.grade = 1 + 4 * exact if round(1 + 4 * exact) == grade else float(grade)
            whole = str(grade)
        else:
            schema = ((body.get("response_format") or {}).get("json_schema") or {}).get("schema")
            whole = json.dumps(decide(server.persona, server.quality, body["messages"], schema), ensure_ascii=False)
        spoilt = {"refusal": "", "empty": "", "prose": "Vastus A on parem: [[A]]", "schema": '{"vastus": 1}'}
        self.said = spoilt.get(self.failed, whole[: len(whole) // 2] if self.failed == "cut" else whole)

    def _failure(self, asked: str) -> str:
        """What goes wrong with a request; empty for nothing."""
        persona = self.server.persona
        if roll("failing", asked) >= persona.failing:
            return ""
        kind = persona.kinds[int(roll("kind", asked) * len(persona.kinds))]
        return "" if kind == "500" and self.server.asked[asked] > 1 else kind

    def write(self, ids: Sequence[int], most: int) -> list[int]:
        if self.said is None:
            return super().write(ids, most)
        written = self.encode(self.said, special=False)
        return written[:most] if self.failed == "cut" else [*written, self.end][:most]

    def logprobs(self, ids: Sequence[int]) -> np.ndarray:
        """(tokens, 258): the grades have `covered` of the probability; "H" stands for all else that it may write."""
        if self.said is None:
            return super().logprobs(ids)
        rows = np.full((len(ids), 258), -30.0)
        if self.grade is not None and not self.failed:
            weights = np.array([math.exp(-2 * abs(k - self.grade)) for k in DIGITS])
            rows[:, [ord(str(k)) for k in DIGITS]] = np.log(self.server.covered * weights / weights.sum())
        rows[:, ord("H")] = np.log(np.maximum(1 - np.exp(rows).sum(1), 1e-13))
        return rows


class JudgeServer:
    """The scripted judge as a server. Persona, quality and covered may be changed while it runs."""

    def __init__(
        self,
        quality: Quality,
        persona: Persona | None = None,
        *,
        name: str = "judge",
        covered: float = 0.99,
        **more: Any,
    ) -> None:
        """more: switches of the endpoint."""
        self.quality, self.persona, self.covered = quality, persona or Persona(), covered
        self.asked: Counter[str] = Counter()
        self.judge = Judge(self)
        self.endpoint = Endpoint(self.judge, name=name, reply=self._reply, **more)

    def __enter__(self) -> JudgeServer:
        self.endpoint.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.endpoint.__exit__()

    @property
    def url(self) -> str:
        return self.endpoint.url

    @property
    def calls(self) -> int:
        """Requests for a judgment, repeated ones too."""
        return self.asked.total()

    @property
    def paid_twice(self) -> list[str]:
        """Bodies that were answered more than once."""
        return [body for body, times in self.endpoint.answered.items() if body in self.asked and times > 1]

    def _reply(self, reply: dict[str, Any]) -> dict[str, Any]:
        if self.judge.failed == "refusal":
            message = {"role": "assistant", "content": None, "refusal": "Selle kohta ma hinnangut ei anna."}
            reply["choices"] = [{**choice, "message": message} for choice in reply["choices"]]
        return reply
