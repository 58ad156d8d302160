"""The stage: learn the vocabulary, find where its rows come from, write the model, measure what it saves.

model/         the model with its new tokenizer
report.json    fertility before and after, speed-up, where the rows come from, what was read and kept out
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from estbench import cards, identity, report
from estbench.checkpoint import Checkpoint, find
from estbench.runs import write_json
from estbench_training import card
from estbench_training.kinds import Context
from estbench_training.vocab import assemble, corpus, extend, fertility, files, focus, learn, resize, shrink
from estbench_training.vocab.assemble import Adapted
from estbench_training.vocab.forms import SPECIAL, Vocabulary
from estbench_training.vocab.pieces import Pieces, pieces_of
from estbench_training.vocab.settings import Algorithm, VocabSettings
from estbench_training.weights import Weights, growing

REPORT = "report.json"


@dataclass(frozen=True)
class Work:
    """What the steps of a run share."""

    settings: VocabSettings
    context: Context
    base: Checkpoint
    old: Vocabulary
    rows: int  # of its embeddings
    corpus: corpus.Corpus

    @property
    def texts(self) -> tuple[str, ...]:
        return self.corpus.texts


def run(settings: VocabSettings, context: Context) -> None:
    """Make the model. What can be wrong with the old one, with a size for it, or with files, is found before texts
    are read."""
    base = find(str(context.start), fetch=False)
    old = files.vocabulary(base)
    assemble.check(old)
    files.check_configs(base, old)
    check(settings, old)
    with Weights.open(base) as weights:
        rows = next(iter(resize.matrices(weights, base.config, old.size).values())).rows
    measured = fertility.texts({name: context.path(path) for name, path in settings.report.items()})
    work = Work(settings, context, base, old, rows, corpus.read(settings, context))
    measured |= {f"data.{name}": text for name, text in work.corpus.samples.items()}
    adapted = adapt(work)
    new = adapted.vocabulary()
    made = resize.Resized(adapted, rows_from(work, new), -(-new.size // settings.pad_to) * settings.pad_to)
    key = identity.digest([context.key, adapted.row])  # what another vocabulary's run has left is not gone on from
    with growing(context.model_folder, key) as folder:
        resize.write(base, made, folder, key)
        files.write(base, old, made, folder, measured.values())
        card.write(context, folder, _facts(work))
    said = _report(work, new, made, measured)
    write_json(context.folder / REPORT, said)
    context.say(_table(said))


def check(settings: VocabSettings, old: Vocabulary) -> None:
    """ConfigError for what can't be made of the old vocabulary, whatever the texts are."""
    if settings.mode == "replace":
        learn.check(old, settings.size or 0, _algorithm(settings, old))
    elif settings.mode == "extend":
        extend.check(old, settings.size or 0)
    elif settings.mode == "shrink":
        shrink.check(old, settings.size)
    else:
        extend.check(old, old.size + 1)  # of any size, but BPE alone
        shrink.check_room(old, settings.size)


def _algorithm(settings: VocabSettings, old: Vocabulary) -> Algorithm:
    return settings.algorithm or ("bpe" if old.algorithm == "BPE" else "unigram")


def adapt(work: Work) -> Adapted:
    """The new vocabulary."""
    settings, old, texts = work.settings, work.old, work.texts
    if settings.mode == "shrink":
        made = shrink.shrink(old, texts, settings.size)
    elif settings.mode == "replace":
        made = learn.replace(old, texts, settings.size or 0, _algorithm(settings, old), min_count=settings.min_count)
    else:
        wanted = {name: getattr(settings, name) for name in ("min_count", "letters", "min_characters")}
        how = extend.extend if settings.mode == "extend" else shrink.optimise
        made = how(old, texts, settings.size or old.size, **wanted)
    count = len(made.origins)
    if settings.size is not None and count < settings.size:
        work.context.say(f"The texts give {count:,} tokens, not the {settings.size:,} that size asks for.")
    return made


def rows_from(work: Work, new: Vocabulary) -> Pieces:
    """Where the rows of new tokens come from."""
    if work.settings.init == "focus":
        return focus.focus(work.old, new, work.texts, work.context.seed)
    return pieces_of(work.old, new, weighting=work.settings.init)


def _facts(work: Work) -> card.CardFacts:
    """What the card says: texts were read for the vocabulary, and no parameter was trained."""
    named = work.settings.data
    return card.CardFacts(
        kind="chat" if work.base.has_chat_template else "base",
        stage="vocab",
        how=work.settings.how,
        data=tuple(
            cards.Source(name, source.terms, share=round(_share(work, name), 6)) for name, source in named.items()
        ),
        urls={name: source.url for name, source in named.items() if source.url},
        decontaminated=work.corpus.sieve.result,
    )


def _share(work: Work, name: str) -> float:
    return work.corpus.characters[name] / sum(work.corpus.characters.values())


def _report(work: Work, new: Vocabulary, made: resize.Resized, measured: Mapping[str, str]) -> dict[str, Any]:
    old, settings = work.old, work.settings
    before, after = fertility.measure(old, measured), fertility.measure(new, measured)
    costs = fertility.Cost.of(work.base), fertility.Cost.of(work.base, made.rows)
    origins = made.origins[: new.size]
    sieve = work.corpus.sieve
    unseen = set(made.pieces.empty.tolist()) & set(np.flatnonzero(origins < 0).tolist())
    return {
        "mode": settings.mode,
        "algorithm": new.algorithm,
        "tokens": {"old": old.size, "new": new.size},
        "rows": {"old": work.rows, "new": made.rows},
        "specials": int((new.kinds == SPECIAL).sum()),
        "initialised": {
            "init": settings.init,
            "copied": int((origins >= 0).sum()),
            "computed": int((origins < 0).sum()) - len(unseen),
            "mean_of_all": len(unseen),
        },
        "parameters_per_token": {"old": costs[0].parameters, "new": costs[1].parameters},
        "texts": {
            name: {
                "old": before[name].row(),
                "new": after[name].row(),
                "speed_up": round(fertility.speed_up(before[name], after[name], *costs), 4),
            }
            for name in measured
        },
        "known": fertility.known(),
        "data": {
            name: {"characters": work.corpus.characters[name], "commit": work.corpus.commits[name]}
            for name in settings.data
        },
        "decontaminated": None if sieve.result is None else asdict(sieve.result) | sieve.row(),
    }


def _table(said: Mapping[str, Any]) -> str:
    """The report for a terminal."""
    rows = []
    for name, found in said["texts"].items():
        old, new = found["old"], found["new"]
        rows.append(
            {
                "text": name,
                "old": f"{old['tokens_per_word']:.2f}",
                "new": f"{new['tokens_per_word']:.2f}",
                "old_bytes": f"{old['bytes_per_token']:.2f}",
                "new_bytes": f"{new['bytes_per_token']:.2f}",
                "tokens": fertility.percent(new["tokens"] / old["tokens"]),
                "speed": f"{found['speed_up']:.2f}×",
            }
        )
    columns = {"text": "Text", "old": ">Tokens/word", "new": ">now", "old_bytes": ">Bytes/token", "new_bytes": ">now"}
    columns |= {"tokens": ">Tokens of before", "speed": ">Generation"}
    tokens, rows_ = said["tokens"], said["initialised"]
    return (
        f"{tokens['old']:,} tokens became {tokens['new']:,}: {rows_['copied']:,} rows copied, "
        f"{rows_['computed']:,} by {rows_['init']}, {rows_['mean_of_all']:,} the mean of all.\n"
        + report.listing(rows, columns)
    )
