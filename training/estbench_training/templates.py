"""Chat templates that say what the model learns: conversations as token ids, with the exact spans of the answers.

    chat = open_chat(tokenizer, "auto")            # or a family, or the path of a .jinja file
    chat.prompt(messages)                          # the ids that a server would send
    chat.encode([messages])[0].labels              # -100 but for the answers and their end tokens

A template marks what the assistant says with {% generation %}, the end token included; transformers (and vLLM, which
uses it) reads the marks, and renders as if they weren't there. Ours are written from the formats' specifications, and
lie in training/templates. A model's own template without marks is recognised by what it renders, not by its name.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, Literal

from estbench import identity
from estbench.errors import ConfigError, DataError, ModelError, did_you_mean
from estbench.home import project_file

Message = Mapping[str, str]  # {"role": "system" | "user" | "assistant", "content": …}
LossOn = Literal["assistant", "all", "last"]
IGNORED = -100  # the label of a token that is not learnt

# Family -> the tokens that its text is made of, beside the tokenizer's own BOS and EOS.
FAMILIES: Mapping[str, tuple[str, ...]] = {
    "llama-3.1": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "apertus": tuple(
        f"<|{role}_{end}|>" for role in ("system", "developer", "user", "assistant") for end in ("start", "end")
    ),
    "gemma": ("<start_of_turn>", "<end_of_turn>"),
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "tulu": (),
    "demo": (),
}
WITHOUT_BOS = ("chatml", "tulu")  # formats that don't say whether a BOS comes first: the tokenizer does
CHOICES = f"auto, {', '.join(FAMILIES)} or a .jinja file"
MARK = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
DATES = re.compile(r"\d{4}-\d\d-\d\d|\d\d [A-Z][a-z]{2} \d{4}")  # some templates write today's

USER, ANSWER = {"role": "user", "content": " Mis on öö? \n"}, {"role": "assistant", "content": " Pime aeg.\n"}
SYSTEM = {"role": "system", "content": "Oled abiks."}
PROBES: tuple[tuple[Message, ...], ...] = ((USER,), (USER, ANSWER, USER), (SYSTEM, USER), (SYSTEM, USER, ANSWER, USER))

# What may pad where the tokenizer has no token for it: Llama 3.1's own, reserved tokens of Llama 3, Gemma, Mistral, T5.
PADDING = (
    re.compile(r"[<\[]\|?(finetune_right_)?pad(_id|ding)?\|?[>\]]", re.IGNORECASE),
    re.compile(r"<\|?(reserved_special_token|reserved|unused|SPECIAL|extra_id)_?\d+\|?>"),
)
NEW_PADDING = "<|pad|>"


@dataclass(frozen=True)
class Encoded:
    """A conversation as ids. labels: the id where it is learnt, else -100; both (tokens,)."""

    ids: list[int]
    labels: list[int]
    split: bool = False  # an answer's border lay inside a token: it was tokenised as a server would, prompt first

    @property
    def trained(self) -> int:
        """Tokens that are learnt."""
        return sum(label != IGNORED for label in self.labels)


@dataclass
class Chat:
    """A tokenizer with a template that marks answers.

    name: the family, "own", or the file's path. ends: the ids that end an answer: the template's, and the EOS.
    """

    tokenizer: Any
    name: str
    template: str
    ends: tuple[int, ...] = ()
    added: tuple[str, ...] = field(default=(), compare=False)  # tokens that the vocabulary lacked

    def render(self, messages: Sequence[Message], *, generation_prompt: bool = False) -> str:
        """The conversation as one text."""
        return rendered(self.tokenizer, self.template, messages, generation_prompt=generation_prompt)[0]

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The ids of a conversation that the assistant is to answer, as a server would send them."""
        return self._ids([self.render(messages, generation_prompt=True)])[0]

    def encode(self, conversations: Sequence[Sequence[Message]], loss_on: LossOn = "assistant") -> list[Encoded]:
        """Conversations as ids, with what is learnt of them: the answers, only the last answer, or all.

        A span is an answer as the template writes it and its end token, neither more nor less. The first token of all
        is never learnt: nothing predicts it.
        """
        texts, cut = [], []
        for messages in conversations:
            text, spans = rendered(self.tokenizer, self.template, messages)
            texts.append(text)
            cut.append(_pieces(text, spans))
        wholes, firsts = self._ids(texts), self._ids([pieces[0][0] for pieces in cut])
        later = iter(self._ids_inside([piece for pieces in cut for piece, _ in pieces[1:]]))
        made = []
        for text, whole, first, pieces in zip(texts, wholes, firsts, cut, strict=True):
            parts = self._aligned(text, whole, pieces, [first, *(next(later) for _ in pieces[1:])])
            made.append(_labelled(parts, pieces, loss_on, whole))
        return made

    def control_tokens(self, messages: Sequence[Message]) -> list[str]:
        """Texts in the messages that would become control tokens, with which what is said could end an answer.

        Special tokens, those that end an answer, those of any family's format, and those that this template writes
        around what is said, whether the vocabulary calls them special or not.
        """
        return sorted({hit for message in messages for hit in self._control.findall(message["content"])})

    @cached_property
    def _control(self) -> re.Pattern[str]:
        added = self.tokenizer.added_tokens_decoder
        formats, around = set(chain.from_iterable(FAMILIES.values())), self._around()
        control = {
            token.content
            for i, token in added.items()
            if token.special or i in self.ends or token.content in formats or _is_sign(token.content, around)
        }
        return re.compile("|".join(map(re.escape, sorted(control, key=len, reverse=True))) or "(?!)")

    def _around(self) -> str:
        """What the template writes around what is said."""
        text, spans = rendered(self.tokenizer, self.template, (USER, ANSWER, USER, ANSWER))
        pieces = [piece for piece, answer in _pieces(text, spans) if not answer]
        return "\n".join(pieces).replace(USER["content"].strip(), "\n")

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        plain = {"add_special_tokens": False, "return_attention_mask": False, "return_token_type_ids": False}
        found: list[list[int]] = self.tokenizer(list(texts), **plain).input_ids if texts else []
        return found

    @cached_property
    def _line(self) -> list[int] | None:
        """The ids of a line break, where a text has another first token than the same text inside of one (SentencePiece
        puts a space before it); None where it has the same."""
        (alone, after, line) = self._ids(["a", "\na", "\n"])
        return None if after == line + alone else line

    def _ids_inside(self, pieces: Sequence[str]) -> list[list[int]]:
        """The ids of texts as they are inside of a text."""
        if self._line is None:
            return self._ids(pieces)
        after, alone = self._ids([f"\n{piece}" for piece in pieces]), self._ids(pieces)
        n = len(self._line)
        return [ids[n:] if ids[:n] == self._line else other for ids, other in zip(after, alone, strict=True)]

    def _aligned(
        self, text: str, whole: list[int], pieces: list[tuple[str, bool]], parts: list[list[int]]
    ) -> list[list[int]]:
        """The ids of each piece: cut from those of the whole text, which a server sees, where no token spans a border;
        else those of each piece, since a server tokenises the prompt before there is an answer."""
        if list(chain.from_iterable(parts)) == whole:
            return parts
        cuts, end = [0], 0
        for piece, _ in pieces:
            end += len(piece)
            before = self._ids([text[:end]])[0]
            if whole[: len(before)] != before:
                return parts
            cuts.append(len(before))
        return [whole[a:b] for a, b in pairwise(cuts)]


def _is_sign(token: str, around: str) -> bool:
    """Whether an added token is one of a format's: not white space, not a word of a vocabulary that was enlarged."""
    return token in around and bool(token.strip()) and not token.strip().isalnum()


def _pieces(text: str, spans: Sequence[tuple[int, int]]) -> list[tuple[str, bool]]:
    """The text cut at the borders of its spans: (piece, whether it is an answer)."""
    pieces, at = [], 0
    for start, end in spans:
        pieces += [(text[at:start], False), (text[start:end], True)]
        at = end
    return [(piece, answer) for piece, answer in [*pieces, (text[at:], False)] if piece]


def _labelled(
    parts: Sequence[list[int]], pieces: Sequence[tuple[str, bool]], loss_on: LossOn, whole: list[int]
) -> Encoded:
    answers = [place for place, (_, answer) in enumerate(pieces) if answer]
    learnt = {"all": range(len(pieces)), "assistant": answers, "last": answers[-1:]}[loss_on]
    ids = list(chain.from_iterable(parts))
    labels = [i if place in learnt else IGNORED for place, part in enumerate(parts) for i in part]
    return Encoded(ids, [IGNORED, *labels[1:]], split=ids != whole)


def rendered(
    tokenizer: Any, template: str, messages: Sequence[Message], *, generation_prompt: bool = False
) -> tuple[str, list[tuple[int, int]]]:
    """(text, spans of its marked parts in characters); DataError if the template refuses the conversation."""
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    marked = bool(MARK.search(template))
    render: Any = render_jinja_template
    try:
        texts, spans = render(
            conversations=[[dict(message) for message in messages]],
            chat_template=template,
            return_assistant_tokens_mask=marked,
            add_generation_prompt=generation_prompt,
            **tokenizer.special_tokens_map,
        )
    except (TemplateError, TypeError, ValueError) as error:
        raise DataError(f"The chat template can't render it: {' '.join(str(error).split())}") from None
    return texts[0], [(start, end) for start, end in spans[0]] if marked else []


# --- which template ---------------------------------------------------------------------------------------------------


def own_template(tokenizer: Any) -> str | None:
    """The template that came with a tokenizer."""
    own = tokenizer.chat_template
    return own.get("default") if isinstance(own, dict) else own


def family_text(tokenizer: Any, family: str) -> str:
    """The template of a family, with a BOS where the tokenizer puts one before every text and the format is silent."""
    text = _text_of(family)
    bos = tokenizer.bos_token_id
    if family in WITHOUT_BOS and bos is not None and tokenizer("a").input_ids[0] == bos:
        return "{{- bos_token }}\n" + text
    return text


def recognise(tokenizer: Any, template: str) -> str | None:
    """The family that renders conversations as a template does, dates aside; None if none does."""
    for family in FAMILIES:
        ours = family_text(tokenizer, family)
        if all(_same(tokenizer, template, ours, probe, prompt) for probe in PROBES for prompt in (True, False)):
            return family
    return None


def _same(tokenizer: Any, template: str, ours: str, probe: Sequence[Message], prompt: bool) -> bool:
    """Whether both render a conversation alike; one that the model's own refuses (Gemma 2: system) says nothing."""
    try:
        theirs, _ = rendered(tokenizer, template, probe, generation_prompt=prompt)
    except DataError:
        return probe[0]["role"] == "system"
    text, _ = rendered(tokenizer, ours, probe, generation_prompt=prompt)
    return DATES.sub("DATE", theirs) == DATES.sub("DATE", text)


def digests(template: str) -> dict[str, str]:
    """{"template": hash of the text} of a family; of all families where it is auto. Empty for a .jinja file, which the
    stage's key has as a file."""
    if template.endswith(".jinja"):
        return {}
    names = FAMILIES if template == "auto" else (template,)
    return {"template": identity.digest([[name, _text_of(name)] for name in names])}


def _text_of(family: str) -> str:
    return project_file(f"training/templates/{family}.jinja").read_text("utf-8")


def check_name(template: str) -> None:
    """ConfigError if `template:` is neither auto, a family, nor a .jinja file."""
    if template != "auto" and template not in FAMILIES and not template.endswith(".jinja"):
        raise ConfigError(f"template: {template!r} is not one of {CHOICES}.{did_you_mean(template, FAMILIES)}")


def open_chat(tokenizer: Any, template: str = "auto", *, file: Path | None = None, add_tokens: bool = False) -> Chat:
    """The tokenizer with the template that `template:` means.

    auto: the model's own if it has marks, or the family that renders as it does. file: where a template that ends in
    .jinja lies. add_tokens: tokens of the format that the vocabulary lacks are added; the model has to be resized.

    ConfigError names the choices; ModelError says what is wrong with a template that trains nothing, or not the end.
    """
    check_name(template)
    if template.endswith(".jinja"):
        name, text = str(file or template), _read(file or Path(template))
    elif template == "auto":
        name, text = _auto(tokenizer)
    else:
        name, text = template, family_text(tokenizer, template)
    added = _add_missing(tokenizer, name, FAMILIES.get(name, ()), add_tokens)
    chat = Chat(tokenizer, name, text, added=added)
    chat.ends = _ends(chat)
    tokenizer.chat_template = text
    return chat


def _auto(tokenizer: Any) -> tuple[str, str]:
    own = own_template(tokenizer)
    if own is None:
        raise ConfigError(f"template: auto needs a template of the model's own, and it has none. Give {_but_auto()}.")
    if MARK.search(own):
        return "own", own
    family = recognise(tokenizer, own)
    if family is None:
        raise ConfigError(
            "template: auto can't tell what to learn: the model's own template has no {% generation %} marks and "
            f"renders like none of ours. Give {_but_auto()}; another format than it knows has to be learnt anew."
        )
    return family, family_text(tokenizer, family)


def _but_auto() -> str:
    return CHOICES.removeprefix("auto, ")


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"template: {path} can't be read ({error}).") from None


def _add_missing(tokenizer: Any, name: str, tokens: Collection[str], add: bool) -> tuple[str, ...]:
    """Tokens of the format that the vocabulary lacks; ConfigError unless they may be added."""
    known = {token.content for token in tokenizer.added_tokens_decoder.values()}
    missing = tuple(token for token in tokens if token not in known)
    if missing and not add:
        raise ConfigError(
            f"template: {name} needs {', '.join(missing)}, which the model's vocabulary lacks: use tulu, which needs "
            "none, or say add_tokens: true, which enlarges the model by them."
        )
    if missing:
        tokenizer.add_tokens(list(missing), special_tokens=True)
    return missing


def _ends(chat: Chat) -> tuple[int, ...]:
    """The ids that end an answer: the last of a marked span, which has to be one special token, and the EOS.

    Also checks, on a conversation, that what precedes an answer is what the generation prompt gives.
    """
    messages = (USER, ANSWER, USER, ANSWER)
    text, spans = rendered(chat.tokenizer, chat.template, messages)
    said = ANSWER["content"].strip()
    if not MARK.search(chat.template) or len(spans) != 2 or any(said not in text[a:b] for a, b in spans):
        raise ModelError(
            f"The chat template ({chat.name}) marks no answers with {{% generation %}}, so that nothing would be "
            f"learnt: give template: one of {_but_auto()}."
        )
    for turn, (start, _) in enumerate(spans):
        asked = chat.render(messages[: 2 * turn + 1], generation_prompt=True)
        if asked != text[:start]:
            raise ModelError(
                f"The chat template ({chat.name}) asks for an answer with {asked[-40:]!r}, but the answer that is "
                f"learnt stands behind {text[:start][-40:]!r}: mark other parts, or give another template."
            )
    last = chat.encode([messages], "last")[0]
    end = next(label for label in reversed(last.labels) if label != IGNORED)
    if end not in chat.tokenizer.added_tokens_decoder:
        raise ModelError(
            f"The chat template ({chat.name}) does not mark an end token with the answer (the last marked is "
            f"{chat.tokenizer.decode([end])!r}), so that the model would never learn to stop: mark it, too."
        )
    eos = chat.tokenizer.eos_token_id
    return tuple(dict.fromkeys(i for i in (end, eos) if i is not None))


# --- the model --------------------------------------------------------------------------------------------------------


def install(chat: Chat, model: Any, say: Any = lambda line: None) -> None:
    """Make model and tokenizer fit the template: rows for its tokens, a pad token that ends nothing, where to stop.

    The model gets new rows only if its matrix has no spare ones (then `say` tells); new rows are the mean of the old.
    """
    tokenizer = chat.tokenizer
    pad = pad_token(tokenizer, chat.ends)
    if pad is None:
        tokenizer.add_special_tokens({"pad_token": NEW_PADDING})
    elif tokenizer.pad_token != pad:
        tokenizer.pad_token = pad
    have = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > have:
        new = [*chat.added, *([NEW_PADDING] if pad is None else [])]
        say(f"The model gets {len(tokenizer) - have} rows for {', '.join(new)}: {have:,} -> {len(tokenizer):,} tokens.")
        _resize(model, len(tokenizer), have)
    elif chat.added:
        _mean_rows(model, tokenizer.convert_tokens_to_ids(list(chat.added)), have)
    stops = model.generation_config.eos_token_id
    known = [] if stops is None else [stops] if isinstance(stops, int) else list(stops)
    model.generation_config.eos_token_id = list(dict.fromkeys([*chat.ends, *known]))
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id


def pad_token(tokenizer: Any, ends: Collection[int]) -> str | None:
    """A token of the vocabulary that can pad, since it ends nothing and is never said; None if there is none."""
    if tokenizer.pad_token is not None and tokenizer.pad_token_id not in ends:
        return str(tokenizer.pad_token)
    special = [(i, token.content) for i, token in sorted(tokenizer.added_tokens_decoder.items()) if token.special]
    used = {tokenizer.bos_token_id, tokenizer.eos_token_id, *ends}
    for pattern in PADDING:
        for i, content in special:
            if i not in used and pattern.fullmatch(content):
                return str(content)
    unknown = tokenizer.unk_token
    if unknown is not None and tokenizer.unk_token_id not in used and _never_unknown(tokenizer):
        return str(unknown)
    return None


def _never_unknown(tokenizer: Any) -> bool:
    """Whether every text has tokens, so that <unk> is free: it falls back to bytes."""
    return tokenizer.unk_token_id not in tokenizer("\U0010fffd\U000e0001", add_special_tokens=False).input_ids


def _resize(model: Any, size: int, have: int) -> None:
    model.resize_token_embeddings(size, mean_resizing=False)
    _mean_rows(model, range(have, size), have)


def _mean_rows(model: Any, rows: Collection[int], have: int) -> None:
    """Give rows of the embeddings (and of the head, where it has its own) the mean of the others among the first
    `have`."""
    import torch

    matrices = {id(part.weight): part.weight for part in (model.get_input_embeddings(), model.get_output_embeddings())}
    new, old = list(rows), [row for row in rows if row < have]
    with torch.no_grad():
        for weight in matrices.values():
            total = weight[:have].sum(0, dtype=torch.float32) - weight[old].sum(0, dtype=torch.float32)
            weight[new] = (total / (have - len(old))).to(weight.dtype)
