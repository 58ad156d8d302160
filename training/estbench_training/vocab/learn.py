"""A new vocabulary from texts (mode: replace), by BPE (Sennrich et al. 2016) or Unigram (Kudo 2018), in an old
tokenizer's form.

    adapted = replace(Vocabulary.of(old), texts, 32000, "bpe")

The learning is that of the tokenizers library. Byte-level vocabularies hold all 256 bytes, SentencePiece-like ones the
256 byte tokens if the old one has them, so any text can be said. Special tokens that the old vocabulary begins with
keep their ids, the others come last, in their order.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from estbench.errors import ConfigError, DataError
from estbench_training.vocab import forms
from estbench_training.vocab.assemble import Adapted, Bpe, Merge, Unigram, assemble
from estbench_training.vocab.forms import Vocabulary
from estbench_training.vocab.settings import Algorithm

if TYPE_CHECKING:
    from tokenizers import Tokenizer

COVERAGE = 0.9999  # of the texts' characters, that become tokens in SentencePiece-like vocabularies
ASCII = [chr(code) for code in range(0x21, 0x7F)]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
LONGEST = 32  # characters of a learnt token
# Where words end, for learning alone; S stands for the character of a space. Digits stay alone, as in Llama 2.
WORDS = r"S+(?=S)|S?[\p{L}\p{M}]+|\p{N}|S?[^S\p{L}\p{M}\p{N}]+|S"


def replace(old: Vocabulary, texts: Sequence[str], size: int, algorithm: Algorithm, *, min_count: int = 2) -> Adapted:
    """A vocabulary of at most `size` tokens; fewer, if the texts don't give more.

    ConfigError if the bytes and special tokens alone take more; DataError if there is no text.
    """
    check(old, size, algorithm)
    first, last = _around(old)
    fixed = [*first, *(name for name in _bytes(old) if name not in first), *last]
    if not any(text.strip() for text in texts):
        raise DataError("There is no text to learn a vocabulary on: name sources that hold some.")
    learn = _bpe if algorithm == "bpe" else _unigram
    with one_thread():
        learnt, model = learn(old, texts, size - len(fixed), set(fixed), min_count)
    names = [*fixed[: len(fixed) - len(last)], *learnt, *last]
    return assemble(old, names, [-1] * len(names), model)


def check(old: Vocabulary, size: int, algorithm: Algorithm) -> None:
    """ConfigError where, whatever the texts are, nothing can be learnt; as of `replace`."""
    first, last = _around(old)
    bytes_ = _bytes(old)
    alone = len([*first, *last]) + (256 if old.form == "byte-level" else len(set(bytes_) - set(first)))
    if size <= alone:
        raise ConfigError(
            f"size: {size:,} leaves no room to learn: {256 if bytes_ or old.form == 'byte-level' else 0} bytes and "
            f"{len(first) + len(last):,} special tokens take {alone:,}; give a larger one."
        )
    if algorithm == "unigram" and old.form != "byte-level" and old.unknown is None and not bytes_:
        raise ConfigError(
            "algorithm: unigram needs a token for unknown characters, or bytes, and the model's tokenizer has neither: "
            "say algorithm: bpe."
        )


def _bytes(old: Vocabulary) -> list[str]:
    """The tokens for bytes that a SentencePiece-like vocabulary keeps."""
    return BYTES if old.form == "spaced" and forms.has_byte_tokens(old.row) else []


def _around(old: Vocabulary) -> tuple[list[str], list[str]]:
    """The tokens that have to stay: those that the vocabulary begins with, and the others."""
    first = 0
    while first in old.named:
        first += 1
    unknown = [] if old.unknown is None or old.unknown < first else [old.unknown]
    rest = [place for place in sorted(old.named) if place >= first and place not in unknown]
    begin = [*range(first), *unknown]  # the model itself has to know the unknown one
    return [str(old.names[place]) for place in begin], [str(old.names[place]) for place in rest]


def _bpe(old: Vocabulary, texts: Sequence[str], size: int, taken: set[str], min_count: int) -> tuple[list[str], Bpe]:
    from tokenizers import models, trainers

    tokenizer, alphabet, stream = _learner(old, texts, models.BPE(), size)
    most = len(alphabet) + 8 * sum(map(len, texts))  # the library takes memory for as many as it is told
    trainer = trainers.BpeTrainer(
        vocab_size=min(size, most),
        min_frequency=min_count,
        initial_alphabet=alphabet,
        max_token_length=LONGEST,
        show_progress=False,
    )
    tokenizer.train_from_iterator(stream, trainer)
    row = json.loads(tokenizer.to_str())["model"]
    ordered = sorted(row["vocab"], key=row["vocab"].__getitem__)
    if len(ordered) > size:  # of characters alone: the library takes all of the texts
        ordered = alphabet
    return without(ordered, [(a, b) for a, b in row["merges"]], taken)


def without(names: Sequence[str], merges: Sequence[Merge], taken: set[str]) -> tuple[list[str], Bpe]:
    """Names and merges without those that others have taken, and without what is made of them."""
    gone = taken & set(names)
    kept = []
    for left, right in merges:
        if left in gone or right in gone or left + right in taken:
            gone.add(left + right)
        else:
            kept.append((left, right))
    made = {left + right for left, right in kept}  # a token may have a second way to be made
    return [name for name in names if name not in gone or name in made], Bpe(kept)


def _unigram(
    old: Vocabulary, texts: Sequence[str], size: int, taken: set[str], min_count: int
) -> tuple[list[str], Unigram]:
    from tokenizers import models, trainers

    tokenizer, alphabet, stream = _learner(old, texts, models.Unigram(), size)
    least = len(alphabet) + 3  # the library wants room for all characters, "\0", line breaks and spaces; the rest goes
    trainer = trainers.UnigramTrainer(
        vocab_size=max(size + 1, least),
        initial_alphabet=alphabet,
        unk_token="\0",
        special_tokens=["\0"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(stream, trainer)
    rows = json.loads(tokenizer.to_str())["model"]["vocab"]
    scores = _settled({name: float(score) for name, score in rows if name not in taken and name != "\0"})
    lowest = min(scores.values())
    characters = [*alphabet, *(name for name in scores if len(name) == 1)]
    best = sorted(scores, key=lambda name: (-scores[name], name))
    learnt = list(dict.fromkeys([*characters, *best]))[:size]
    learnt.sort(key=lambda name: (-scores.get(name, lowest), name))
    # A byte's token must lose against its own six letters, <0x41>; tokens that no text has are never looked at.
    return learnt, Unigram({name: scores.get(name, lowest) for name in learnt}, 100 * lowest)


def _settled(scores: Mapping[str, float]) -> dict[str, float]:
    """Scores without what chance had in them: the library adds numbers in an order that changes, and gives characters
    that it would have dropped the lowest score and 0.0001 more for each, in such an order."""
    lowest = min(scores.values())
    last = lowest + 1e-4 * (1 + sum(len(name) == 1 for name in scores))
    return {name: round(lowest if len(name) == 1 and score <= last else score, 6) for name, score in scores.items()}


def _learner(
    old: Vocabulary, texts: Sequence[str], model: Any, size: int
) -> tuple[Tokenizer, list[str], Iterator[str]]:
    """(a tokenizer that learns, the characters that have to be there, the texts as it should see them)."""
    from tokenizers import Tokenizer, normalizers, pre_tokenizers

    tokenizer = Tokenizer(model)
    as_old = Tokenizer.from_str(json.dumps({**old.row, "added_tokens": [], "post_processor": None}))
    if as_old.normalizer is not None:
        tokenizer.normalizer = normalizers.Sequence([as_old.normalizer])
    tokenizer.pre_tokenizer = splitter(old, as_old)
    if old.form == "byte-level":
        return tokenizer, list(pre_tokenizers.ByteLevel.alphabet()), iter(texts)
    often = _often(texts, size)
    alphabet = list(dict.fromkeys(one for one in (old.space, *often, *ASCII) if one != " "))[:size]
    rare = {character for text in texts for character in set(text)} - set(alphabet) - {" ", "\n"}
    table = str.maketrans(dict.fromkeys(rare, "\n"))
    return tokenizer, alphabet, (text.translate(table) for text in texts)


def _often(texts: Sequence[str], size: int) -> list[str]:
    """The most frequent characters, as many as make up COVERAGE of the texts, and at most half of the vocabulary."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    ordered = sorted(counts, key=lambda character: (-counts[character], character))
    total, seen = counts.total(), 0
    for place, character in enumerate(ordered):
        if seen >= COVERAGE * total or place >= size // 2:
            return ordered[:place]
        seen += counts[character]
    return ordered


def splitter(old: Vocabulary, tokenizer: Tokenizer) -> Any:
    """What divides texts into words for learning: as the old tokenizer does, and more where that leaves words
    together."""
    from tokenizers import Regex, pre_tokenizers

    inner = [] if tokenizer.pre_tokenizer is None else [tokenizer.pre_tokenizer]
    if old.form == "byte-level" and len(tokenizer.pre_tokenizer.pre_tokenize_str("üks, kaks 3")) > 1:
        return pre_tokenizers.Sequence(inner)
    if old.form == "byte-level":
        return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(WORDS.replace("S", " ")), "isolated"), *inner])
    words = pre_tokenizers.Split(Regex(WORDS.replace("S", old.space)), "isolated")
    return pre_tokenizers.Sequence([*inner, words])


@contextmanager
def one_thread() -> Iterator[None]:
    """The library's threads add numbers in an order that changes; so that the same texts give the same vocabulary."""
    before: Mapping[str, str] = {k: os.environ[k] for k in ("TOKENIZERS_PARALLELISM",) if k in os.environ}
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        os.environ.pop("TOKENIZERS_PARALLELISM")
        os.environ.update(before)
