"""A vocabulary without the tokens that the texts don't use (mode: shrink), and with better ones (mode: optimise).

    adapted = shrink(Vocabulary.of(old), texts)             # all that is used stays
    adapted = optimise(Vocabulary.of(old), texts, 32000)    # the least used go, the best new ones come

Kept are the tokens that are used, those that BPE makes them of, the bytes, the special tokens. So every text whose old
tokens are all kept has the same tokens as before. Ids are given anew, in the old order.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from estbench.errors import ConfigError, DataError
from estbench_training.vocab import extend
from estbench_training.vocab.assemble import Adapted, Bpe, Merge, Unigram, assemble
from estbench_training.vocab.forms import BYTE, HOLE, Vocabulary, has_byte_tokens

BATCH = 1024  # texts that are encoded at once


def usage(vocabulary: Vocabulary, texts: Sequence[str]) -> NDArray[np.int64]:
    """(size,): how often each token stands in the texts; names of special tokens in them are text."""
    tokenizer = vocabulary.reader()
    counts = np.zeros(vocabulary.size, np.int64)
    for begin in range(0, len(texts), BATCH):
        for encoding in tokenizer.encode_batch_fast(list(texts[begin : begin + BATCH]), add_special_tokens=False):
            counts += np.bincount(np.array(encoding.ids, np.int64), minlength=vocabulary.size)
    return counts


def shrink(old: Vocabulary, texts: Sequence[str], size: int | None = None) -> Adapted:
    """Without what the texts don't use; or the `size` most used, and what they need.

    ConfigError: `size` is less than what has to stay. DataError: no text.
    """
    counts = usage(old, texts)
    if not counts.any():
        raise DataError("There is no text to see which tokens are used: name sources that hold some.")
    kept = _fixed(old)
    check_room(old, size)
    parts = _Parts(old)
    order = sorted(np.flatnonzero(counts).tolist(), key=lambda one: (-counts[one], one))
    if size is not None:
        order += np.flatnonzero((counts == 0) & (old.kinds != HOLE)).tolist()
    for one in order:
        needed = parts.of(one) - kept
        if size is None or len(kept) + len(needed) <= size:
            kept |= needed
        if len(kept) == size:
            break
    return _only(old, sorted(kept))


def check(old: Vocabulary, size: int | None) -> None:
    """ConfigError for a size that mode: shrink can't mean: too small, or not below what there is."""
    check_room(old, size)
    count = int((old.kinds != HOLE).sum())
    if size is not None and size >= count:
        raise ConfigError(
            f"size: {size:,} is not below the {count:,} tokens of the old vocabulary: leave size out to drop only "
            "tokens that the texts don't use."
        )


def check_room(old: Vocabulary, size: int | None) -> None:
    """ConfigError if `size` is less than what has to stay."""
    if size is not None and size < (least := len(_fixed(old))):
        raise ConfigError(
            f"size: {size:,} is too small: bytes and special tokens alone take {least:,}; give a larger one."
        )


def optimise(
    old: Vocabulary,
    texts: Sequence[str],
    size: int | None = None,
    *,
    min_count: int = 2,
    letters: bool = False,
    min_characters: int = 1,
) -> Adapted:
    """`size` tokens (as many as before, if not said), the most used ones of the old and of half as many new ones.

    New and old are measured by the same: how often each stands in the texts once the vocabulary is extended.
    """
    size = old.size if size is None else size
    wider = extend.extend(
        old,
        texts,
        old.size + max(1, size // 2),
        min_count=min_count,
        letters=letters,
        min_characters=min_characters,
    )
    made = shrink(wider.vocabulary(), texts, size)
    return Adapted(made.row, wider.origins[made.origins])


def _fixed(old: Vocabulary) -> set[int]:
    """The tokens that stay whatever the texts are: special ones and bytes, and where there are none, or with Unigram,
    single characters; with Unigram the least likely one, too, by which it measures unknown characters."""
    kept = {*old.named, *np.flatnonzero(old.kinds == BYTE).tolist()}
    unigram = old.algorithm == "Unigram"
    if unigram or old.form == "byte-level" or not has_byte_tokens(old.row):
        kept |= {place for place, name in enumerate(old.names) if name is not None and len(name) == 1}
    if unigram:
        scores = [score for _, score in old.row["model"]["vocab"]]
        kept.add(int(np.argmin(scores)))
    return kept


class _Parts:
    """What BPE makes tokens of."""

    def __init__(self, old: Vocabulary) -> None:
        self.old = old
        self.ids = {name: place for place, name in enumerate(old.names) if name is not None}
        merges = old.row["model"].get("merges") or []
        self.ranks: dict[Merge, int] = {}
        for place, (left, right) in enumerate(merges):
            self.ranks.setdefault((left, right), place)

    def of(self, token: int) -> set[int]:
        """A token and all the tokens on the way from its characters to it."""
        name = self.old.names[token]
        if not self.ranks or name is None or self.old.kinds[token] == BYTE or token in self.old.named:
            return {token}
        parts, made = list(name), set(name)
        while len(parts) > 1:
            ranks = [self.ranks.get(pair, len(self.ranks)) for pair in itertools.pairwise(parts)]
            place = ranks.index(min(ranks))
            if ranks[place] == len(self.ranks):
                return {token}  # only ignore_merges leads to it
            parts[place : place + 2] = ["".join(parts[place : place + 2])]
            made.add(parts[place])
        return {self.ids[one] for one in made if one in self.ids}


def _only(old: Vocabulary, kept: Sequence[int]) -> Adapted:
    """The vocabulary of some of the old tokens, in their order."""
    names = [str(old.names[place]) for place in kept]
    model: Bpe | Unigram
    if old.algorithm == "Unigram":
        scores: Mapping[str, float] = dict(old.row["model"]["vocab"])
        model = Unigram(scores, 0.0)
    else:
        inside = set(names)
        merges = [(left, right) for left, right in old.row["model"]["merges"]]
        model = Bpe([merge for merge in merges if inside.issuperset((*merge, "".join(merge)))])
    return assemble(old, names, kept, model)
