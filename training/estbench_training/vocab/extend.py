"""A BPE vocabulary with more merges behind its own (mode: extend).

    adapted = extend(Vocabulary.of(old), texts, 40000)

Each word of the texts is encoded by the old tokenizer, and BPE goes on from there: its letters are the old tokens. So
old tokens keep their ids, and a text in which no new merge is found keeps its tokens. New ids follow the old ones, the
special tokens' included.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from estbench.errors import ConfigError, DataError
from estbench_training.vocab import learn
from estbench_training.vocab.assemble import Adapted, Bpe, Merge, assemble
from estbench_training.vocab.forms import BYTE, Vocabulary, is_text

LETTERS = re.compile(r" ?[^\W\d_]+")
FIRST = 0x10000  # the character of old token 0: no surrogate is above it
AT_ONCE = 1000  # times that a word is repeated in one line
MORE = 2  # so many times the tokens are learnt where some are not taken


def extend(
    old: Vocabulary,
    texts: Sequence[str],
    size: int,
    *,
    min_count: int = 2,
    letters: bool = False,
    min_characters: int = 1,
) -> Adapted:
    """The old vocabulary and new tokens, `size` in all; fewer, if the texts don't give more.

    letters: new tokens are of letters alone, with or without a space in front. min_characters: and at least so long.
    Others are taken as parts of those only. ConfigError: the old vocabulary is no BPE, or is as large already.
    """
    check(old, size)
    wanted = size - old.size
    plain = not letters and min_characters <= 1
    merges = learnt(old, texts, wanted if plain else MORE * wanted, min_count)

    def good(content: bytes) -> bool:
        if plain:
            return True
        text = content.decode() if is_text(content) else ""
        return len(text.strip()) >= min_characters and (not letters or LETTERS.fullmatch(text) is not None)

    return _joined(old, merges, wanted, good)


def check(old: Vocabulary, size: int) -> None:
    """ConfigError, as of `extend`; no text is needed for it."""
    if old.algorithm != "BPE":
        raise ConfigError(
            f"mode: extend continues BPE's merges, and the model's tokenizer is {old.algorithm}: say mode: replace."
        )
    if size <= old.size:
        raise ConfigError(
            f"size: {size:,} is not more than the {old.size:,} tokens of the old vocabulary: say how many there are "
            "in all, old and new."
        )


def words(old: Vocabulary, texts: Iterable[str]) -> Counter[str]:
    """How often each word stands in the texts, as the old model would see it."""
    encoder = old.encoder()
    normalizer, divided = encoder.normalizer, learn.splitter(old, encoder)
    found: Counter[str] = Counter()
    for text in texts:
        spelled = old.spelled(text if normalizer is None else normalizer.normalize_str(text))
        found.update(word for word, _ in divided.pre_tokenize_str(spelled))
    return found


def learnt(old: Vocabulary, texts: Sequence[str], wanted: int, min_count: int) -> list[Merge]:
    """The merges that BPE finds next, each the names of its two tokens, the first ones first."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    counts = words(old, texts)
    if not counts:
        raise DataError("There is no text to learn a vocabulary on: name sources that hold some.")
    model = old.encoder().model
    lines: Counter[str] = Counter()
    for word, count in counts.items():
        for some in _runs(old, [token.id for token in model.tokenize(word)]):
            lines["".join(chr(FIRST + one) for one in some)] += count
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    alphabet = len({character for line in lines for character in line})
    most = min(wanted, sum(map(len, lines)))  # the library takes memory for as many as it is told
    trainer = trainers.BpeTrainer(
        vocab_size=alphabet + most, min_frequency=min_count, max_token_length=learn.LONGEST, show_progress=False
    )
    with learn.one_thread():
        tokenizer.train_from_iterator(_repeated(lines), trainer)
    made = json.loads(tokenizer.to_str())["model"]["merges"]
    return [(_name(old, left), _name(old, right)) for left, right in made]


def _runs(old: Vocabulary, ids: Sequence[int]) -> list[list[int]]:
    """The parts of a word's tokens that can be merged: two or more, and no tokens for bytes or unknown ones."""
    found: list[list[int]] = [[]]
    for one in ids:
        if one == old.unknown or (old.form == "spaced" and old.kinds[one] == BYTE):
            found.append([])
        else:
            found[-1].append(one)
    return [some for some in found if len(some) > 1]


def _repeated(lines: Counter[str]) -> Iterator[str]:
    for line in sorted(lines):
        whole, rest = divmod(lines[line], AT_ONCE)
        for times in (*[AT_ONCE] * whole, rest):
            if times:
                yield " ".join([line] * times)


def _name(old: Vocabulary, characters: str) -> str:
    """The name of the token that old tokens make together."""
    return "".join(str(old.names[ord(character) - FIRST]) for character in characters)


def _joined(old: Vocabulary, merges: Sequence[Merge], wanted: int, good: Callable[[bytes], bool]) -> Adapted:
    """The old vocabulary with the first `wanted` new tokens that are good, and what they are made of."""
    known = {name for name in old.names if name is not None}
    apart = {old.names[one] for one in old.named} | (set(learn.BYTES) if old.form == "spaced" else set())
    merges = [merge for merge in merges if not apart & {*merge, "".join(merge)}]  # a text gives no special token
    halves: dict[str, Merge] = {}
    chosen: dict[str, None] = {}
    for left, right in merges:
        name = left + right
        if name in known or name in chosen:
            continue
        halves.setdefault(name, (left, right))
        if good(old.bytes_of(name)):
            needed = _needed(name, halves, chosen)
            if len(chosen) + len(needed) <= wanted:
                chosen.update(dict.fromkeys(needed))
        if len(chosen) == wanted:
            break
    ordered = [name for name in halves if name in chosen]
    inside = known | set(ordered)
    kept = [merge for merge in merges if inside.issuperset((*merge, "".join(merge)))]
    before = [(left, right) for left, right in old.row["model"]["merges"]]
    origins = [*range(old.size), *[-1] * len(ordered)]
    return assemble(old, [*old.names, *ordered], origins, Bpe([*before, *kept]))


def _needed(name: str, halves: Mapping[str, Merge], chosen: Mapping[str, None]) -> list[str]:
    """A token and what it is made of, as far as it is new and not chosen yet."""
    found: dict[str, None] = {}
    open_ = [name]
    while open_:
        one = open_.pop()
        if one in halves and one not in chosen and one not in found:
            found[one] = None
            open_ += halves[one]
    return list(found)
