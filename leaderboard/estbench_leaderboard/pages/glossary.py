"""The board's words, explained."""

from __future__ import annotations

from estbench_leaderboard.site import Content, Request

TERMS = (
    *("model", "parameters", "weights", "open_weights", "licence", "token", "tokens_per_word", "memory"),
    *("base_model", "chat_model", "checkpoint", "lineage", "cpt", "sft", "dpo", "merge"),
    *(
        "task",
        "skill",
        "document",
        "prompt",
        "shots",
        "gold",
        "answer",
        "metric",
        "score",
        "chance",
        "interval",
        "bits",
    ),
    *("rank", "class", "difference", "flipped", "parse_failure", "contamination", "partial", "reference", "run"),
    *("claimed", "rescored", "audited", "judge"),
)


def page(request: Request) -> Content:
    """All terms, in the order of the alphabet of the language."""
    t = request.t
    terms = sorted(
        ((name, t(f"glossary.{name}.term"), t(f"glossary.{name}.meaning")) for name in TERMS),
        key=lambda term: _alphabetical(term[1]),
    )
    return Content(
        template="glossary.html",
        values={"terms": terms},
        json={"terms": [{"name": name, "term": term, "meaning": meaning} for name, term, meaning in terms]},
        table=(["name", "term", "meaning"], terms),
        title=t("glossary.title"),
        description=t("glossary.description"),
    )


LETTERS = {letter: place for place, letter in enumerate("abcdefghijklmnopqrsšzžtuvwõäöüxy")}


def _alphabetical(text: str) -> list[int]:
    """The order of the Estonian alphabet, where š, z and ž come after s, and õ, ä, ö, ü after w."""
    return [LETTERS.get(letter, -1) for letter in text.casefold()]
