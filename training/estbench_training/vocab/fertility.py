"""How many tokens a text takes: tokens per word, bytes per token, and what another vocabulary saves in generation.

    measure(tokenizer, texts())["et"].tokens_per_word
    speed_up(before, after, Cost.of(checkpoint, rows))

Our own texts in Estonian, English and code (texts/) are there for comparing; they are in no corpus. Words are what
white space divides (Rust et al. 2021 call tokens per word fertility). One token: the share of runs of letters that are
one token, whatever else it holds. Special tokens are not counted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from estbench import report
from estbench.checkpoint import Checkpoint
from estbench.errors import DataError, ModelError
from estbench_training.vocab.forms import Vocabulary

OURS = ("et", "en", "code")
# Public tokenizers' tokens per word, of other texts than ours: (vocabulary, FLORES-200, code in Python). FLORES-200 is
# the mean of 36 European languages, 200 sentences each. From the card of OpenEuroLLM's second tokenizer.
KNOWN_SOURCE = "https://huggingface.co/openeurollm/tokenizer-256k-v2"
KNOWN: Mapping[str, tuple[int, float, float]] = {
    "OpenEuroLLM v2 256k": (262_144, 1.79, 3.24),
    "OpenEuroLLM v2 128k": (131_072, 2.00, 3.32),
    "GPT-OSS 20B": (200_000, 2.07, 2.62),
    "Gemma 3 4B": (256_000, 2.13, 3.20),
    "Mistral Nemo": (131_072, 2.20, 2.84),
    "EuroLLM 9B": (128_000, 2.21, 3.79),
    "DeepSeek V3": (128_000, 2.51, 2.83),
    "Llama 3.1 8B": (128_256, 2.78, 2.60),
    "Qwen 3 8B": (151_936, 2.78, 2.64),
}
LETTERS = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True, slots=True)
class Fertility:
    """Of a tokenizer on a text."""

    words: int
    bytes: int
    tokens: int
    letters: int  # runs of letters
    whole: int  # of them that are one token
    unsaid: int = 0  # characters that are no white space and in no token, or in one for the unknown

    @property
    def tokens_per_word(self) -> float:
        """Tokens for each word that white space divides."""
        return self.tokens / self.words

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes that a token stands for."""
        return self.bytes / self.tokens

    @property
    def one_token(self) -> float:
        """Share of the runs of letters that are one token."""
        return self.whole / self.letters if self.letters else 0.0

    def row(self) -> dict[str, Any]:
        """As report.json has it."""
        shares = ("tokens_per_word", "bytes_per_token", "one_token")
        return asdict(self) | {name: round(getattr(self, name), 4) for name in shares}


def texts(more: Mapping[str, Path] | None = None) -> dict[str, str]:
    """Our own texts, and those of files, which take the place of ours of that name. DataError for a file that is no
    UTF-8 or has no words."""
    found = {name: (Path(__file__).parent / "texts" / f"{name}.txt").read_text("utf-8") for name in OURS}
    for name, path in (more or {}).items():
        found[name] = _read(path)
    return found


def _read(path: Path) -> str:
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8: convert it.") from None
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}.") from None
    if not text.split():
        raise DataError(f"{path} has no words to count tokens of.")
    return text


def measure(tokenizer: Any, of: Mapping[str, str]) -> dict[str, Fertility]:
    """By text. tokenizer: as `Vocabulary.of` takes it. ModelError where it gives no tokens for a text."""
    vocabulary = Vocabulary.of(tokenizer)
    reader = vocabulary.reader()
    made = {name: reader.encode(text, add_special_tokens=False) for name, text in of.items()}
    if dumb := [name for name, encoding in made.items() if not encoding.ids]:
        raise ModelError(f"The tokenizer gives no tokens for the text {dumb[0]!r}: it can say none of its characters.")
    return {name: _measured(text, made[name], vocabulary.unknown) for name, text in of.items()}


def _measured(text: str, encoding: Any, unknown: int | None) -> Fertility:
    runs = [found.span() for found in LETTERS.finditer(text)]
    offsets: Sequence[tuple[int, int]] = encoding.offsets
    whole = int((_touching(offsets, runs) == 1).sum())
    said = [place for place, one in zip(offsets, encoding.ids, strict=True) if one != unknown]
    return Fertility(len(text.split()), len(text.encode()), len(encoding.ids), len(runs), whole, _unsaid(text, said))


def _unsaid(text: str, spans: Sequence[tuple[int, int]]) -> int:
    """How many characters are in none of the spans and no white space."""
    depth = np.zeros(len(text) + 1, np.int64)
    for side, step in enumerate((1, -1)):
        np.add.at(depth, [span[side] for span in spans], step)
    return sum(not text[place].isspace() for place in np.flatnonzero(depth.cumsum()[:-1] == 0))


def _touching(offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """(spans,): how many tokens hold a character of each span."""
    begins = np.array([begin for begin, end in offsets if end > begin], np.int64)
    ends = np.array([end for begin, end in offsets if end > begin], np.int64)
    firsts = np.array([first for first, _ in spans], np.int64)
    lasts = np.array([last for _, last in spans], np.int64)
    return np.searchsorted(begins, lasts, "left") - np.searchsorted(ends, firsts, "right")


@dataclass(frozen=True, slots=True)
class Cost:
    """What a step of generation costs: parameters that each token passes through. body: all but embeddings and head."""

    body: int
    head: int

    @classmethod
    def of(cls, checkpoint: Checkpoint, rows: int | None = None) -> Cost:
        """Of a model; rows: of another vocabulary instead of its own."""
        from estbench_training.weights import names_of

        tensors = checkpoint.tensors
        embeddings = names_of(list(tensors), checkpoint.config)
        own, *width = tensors[embeddings.input]["shape"]
        body = sum(math.prod(row["shape"]) for name, row in tensors.items() if name not in embeddings.names)
        return cls(body, (own if rows is None else rows) * math.prod(width))

    @property
    def parameters(self) -> int:
        """Of body and head."""
        return self.body + self.head


def speed_up(before: Fertility, after: Fertility, cost_before: Cost, cost_after: Cost) -> float:
    """How many times sooner the same text is generated: (T/T') · (N + V·d)/(N + V'·d).

    T: tokens of the text, N: parameters but embeddings and head, V·d: those of the head. A step of generation reads
    every parameter of body and head once and does two FLOPs with it, so its time goes by N + V·d; the embedding is one
    row. Attention to what is before is left out: it is shorter, too, with fewer tokens, so long texts gain more.
    """
    return before.tokens / after.tokens * cost_before.parameters / cost_after.parameters


def percent(share: float) -> str:
    """A share for a table."""
    return f"{100 * share:.0f} %"


def cells(name: str, text: str, found: Fertility, compared: Fertility | None = None) -> dict[str, str]:
    """A line of the table: of a tokenizer on a text, and its tokens beside those of another."""
    row = {
        "tokenizer": name,
        "text": text,
        "tokens": f"{found.tokens:,}",
        "per_word": f"{found.tokens_per_word:.2f}",
        "bytes": f"{found.bytes_per_token:.2f}",
        "one": percent(found.one_token),
    }
    return row | ({} if compared is None else {"beside": percent(found.tokens / compared.tokens)})


def known() -> dict[str, Any]:
    """What is known of public tokenizers, as JSON has it."""
    names = ("vocabulary", "flores_36_languages", "python")
    return {
        "source": KNOWN_SOURCE,
        "tokens_per_word": {name: dict(zip(names, row, strict=True)) for name, row in KNOWN.items()},
    }


def known_table() -> str:
    """The same for a terminal."""
    rows = [
        {"name": name, "size": f"{size:,}", "flores": f"{flores:.2f}", "code": f"{code:.2f}"}
        for name, (size, flores, code) in KNOWN.items()
    ]
    columns = {"name": "Known of others", "size": ">Vocabulary", "flores": ">FLORES-200", "code": ">Python"}
    return (
        report.listing(rows, columns)
        + f"\nTokens/word on other texts than ours (mean of 36 European languages; Python): {KNOWN_SOURCE}."
    )


COLUMNS = {
    "text": "Text",
    "tokenizer": "Tokenizer",
    "tokens": ">Tokens",
    "per_word": ">Tokens/word",
    "bytes": ">Bytes/token",
    "one": ">Words of one token",
}
