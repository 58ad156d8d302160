"""Writes the story: docs/story.md and its figures, from what was found and from nothing else.

    for path, text in pages(results, seeds).items(): ...      # story.md, story/estllm-cpt.svg, …

Sentences that depend on outcomes are chosen by the verdicts. Measured times, which no two runs share, are in italics.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from estbench.errors import ConfigError
from estbench.gate.reports import p_value, signed
from estbench_training.story import charts
from estbench_training.story.claims import Claim, Row, Verdict, Word, verdict
from estbench_training.story.results import Made, Results, Score, SeedResults
from estbench_training.story.seeds import FIRST, Seed

GENERATED = "<!-- Written by `make story` from docs/story/results.json: change the recipes, and run it. -->\n"
WORDS: dict[Word, str] = {"shown": "**shown**", "not shown": "not shown", "undecided": "undecided"}
TESTS = {
    "better": "better, by `compare`",
    "kept": "the gate passes with a margin of {margin:g}",
    "fallen": "the gate finds a regression, margin {margin:g}",
    "fewer": "fewer tokens for the same answers",
}


def pages(results: Results, seeds: Sequence[Seed]) -> dict[str, str]:
    """Every file of the story, by its path below docs/."""
    shown = [(seed, results.seeds[seed.name]) for seed in seeds if seed.name in results.seeds]
    parts = [GENERATED, *_head(shown)]
    figures: dict[str, str] = {}
    for seed, found in shown:
        drawn = charts.of(seed, found)
        figures |= {f"story/{seed.name}-{chart.name}.svg": chart.svg for chart in drawn}
        parts += _seed(seed, found, drawn)
    parts += _board()
    return {"story.md": "\n".join(parts) + "\n"} | figures


def verdicts(seed: Seed, found: SeedResults) -> list[Verdict]:
    """The verdict on each claim of a seed; ConfigError where one was never tested."""
    if untested := [claim.name for claim in seed.claims if claim.name not in found.found]:
        raise ConfigError(
            f"The results have nothing on {untested[0]} of {seed.name}: make story ARGS=seeds={seed.name}"
        )
    return [verdict(claim, found.found[claim.name]) for claim in seed.claims]


def _head(shown: Sequence[tuple[Seed, SeedResults]]) -> list[str]:
    lines = [
        "# The story, shown",
        "",
        *_text(
            "Three papers made Estonian models in three ways. Here each way is gone in the small world of estbench: a "
            "made-up language pair, models of about half a million parameters, two CPU cores. What each paper claims "
            "is put to `estbench compare` and `estbench gate`, and the tables say what they answer, also where that "
            "is not what the paper says. So small a world can show that a pipeline does what it should. It says "
            "nothing about how large an effect is in a real model, and a claim that is not shown here is not refuted."
        ),
        *_text(
            "`make story` makes this page: it trains, evaluates and compares, and writes every number below from what "
            "those commands print. All recipes, rates and sizes are our choice, found by trying; they were tried with "
            "another random seed and on other documents than claims are tested with. Scores are per cent of right "
            "answers or points of a metric, and *detectable* is the difference that would be found four times in five. "
            "Intervals are 95 % and of documents alone: how much a random seed changes is told under *trained again*. "
            "*Numbers in italics* are measured times: they are others on another day."
        ),
        "| way | paper | shown | not shown | undecided | the same when trained again |",
        "|:--|:--|--:|--:|--:|--:|",
    ]
    for seed, found in shown:
        words = [one.word for one in verdicts(seed, found)]
        counts = " | ".join(str(words.count(word)) for word in WORDS)
        lines.append(f"| [{seed.title}](#{_anchor(seed.title)}) | {_paper(seed)} | {counts} | {_same(seed, found)} |")
    return [*lines, ""]


def _same(seed: Seed, found: SeedResults) -> str:
    """How many claims have the same verdict with all random seeds: 8 of 10."""
    if not found.again:
        return "–"
    same = sum(len({one.word for one in found_on}) == 1 for found_on in _repeated(seed, found).values())
    return f"{same} of {len(seed.claims)}"


def _repeated(seed: Seed, found: SeedResults) -> dict[str, list[Verdict]]:
    """Of each claim the verdicts with all random seeds, the first one first."""
    every = [found.found, *found.again.values()]
    return {claim.name: [verdict(claim, one[claim.name]) for one in every] for claim in seed.claims}


def _text(paragraph: str) -> list[str]:
    return [*textwrap.wrap(paragraph, 118, break_long_words=False, break_on_hyphens=False), ""]


def _anchor(title: str) -> str:
    kept = "".join(sign for sign in title.lower() if sign.isalnum() or sign in " -")
    return kept.replace(" ", "-")


def _paper(seed: Seed) -> str:
    return f"[arXiv {seed.paper}](https://arxiv.org/abs/{seed.paper})"


def _seed(seed: Seed, found: SeedResults, drawn: Sequence[charts.Chart]) -> list[str]:
    lines = [f"## {seed.title}", "", *_text(seed.says)]
    lines += [f"{_paper(seed)}; `estbench train recipe={seed.recipe} seed={FIRST}`", ""]
    lines += [*_claims(seed, found), *_again(seed, found)]
    for chart in drawn:
        lines += [f"![{chart.title}](story/{seed.name}-{chart.name}.svg)", "", chart.says, ""]
    return [*lines, *_scores(seed, found), *_costs(seed, found)]


def _claims(seed: Seed, found: SeedResults) -> list[str]:
    lines = ["### What is claimed, and what was found", ""]
    lines += ["| claim | test | task | difference | 95 % | p | detectable | n | verdict |"]
    lines += ["|:--|:--|:--|--:|:--|--:|--:|--:|:--|"]
    for one in verdicts(seed, found):
        rows: Sequence[Row | None] = one.found.rows or (None,)
        for place, row in enumerate(rows):
            first = (_said(one.claim), _test(one.claim)) if place == 0 else ("", "")
            last = (WORDS[one.word],) if place == 0 else ("",)
            lines.append(f"| {' | '.join((*first, *_numbers(row), *last))} |")
    reasons = [
        f"- *{one.claim.says}* {one.word[0].upper()}{one.word[1:]}: {one.reason}."
        for one in verdicts(seed, found)
        if one.reason
    ]
    return [*lines, "", *reasons, *[""] * bool(reasons)]


def _again(seed: Seed, found: SeedResults) -> list[str]:
    """The verdicts with other random seeds; nothing where nothing was trained again."""
    if not found.again:
        return []
    lines = ["### Trained again", ""]
    lines += _text(
        "Everything once more with other random seeds: what is drawn for the corpus, in which order it is read, what "
        "is sampled. The models from outside and the test documents are the same. Differences, and verdicts on them:"
    )
    lines += ["| claim | first | " + " | ".join(f"seed {number}" for number in found.again) + " |"]
    lines += ["|:--|" + "--:|" * (1 + len(found.again))]
    for claim in seed.claims:
        cells = [_outcome(one) for one in _repeated(seed, found)[claim.name]]
        lines.append(f"| {_said(claim)} | {' | '.join(cells)} |")
    return [*lines, ""]


def _outcome(one: Verdict) -> str:
    """+47.8, **shown**"""
    return f"{', '.join(signed(row.difference) for row in one.found.rows) or '–'}, {WORDS[one.word]}"


def _said(claim: Claim) -> str:
    return f"{claim.says}{' (control)' if claim.control else ''}"


def _test(claim: Claim) -> str:
    how = TESTS[claim.test].format(margin=claim.margin)
    return f"`{claim.candidate}` against `{claim.baseline}`: {how}"


def _numbers(row: Row | None) -> tuple[str, ...]:
    if row is None:
        return ("–",) * 6
    between = "–" if row.low is None else f"{signed(row.low)} … {signed(row.high)}"
    sure = "–" if row.p is None else p_value(row.p).removeprefix("= ")
    seen = "–" if row.detectable is None else f"{row.detectable:.1f}"
    return (f"`{row.task}`", signed(row.difference), between, sure, seen, f"{row.n:,}")


def _scores(seed: Seed, found: SeedResults) -> list[str]:
    tasks = [*seed.tasks, *seed.chat_tasks]
    counts = {task: next((score.n for score in _column(found, task)), 0) for task in tasks}
    chance = {task: next((score.chance for score in _column(found, task)), None) for task in tasks}
    lines = ["### Models and tasks", ""]
    lines += ["| model | " + " | ".join(f"`{task}`<br>n = {counts[task]:,}" for task in tasks) + " |"]
    lines += ["|:--|" + "--:|" * len(tasks)]
    for model in seed.models:
        cells = [_cell(found.runs[model.name].score(task)) for task in tasks]
        lines.append(f"| `{model.name}`: {model.says} | {' | '.join(cells)} |")
    guesses = ["–" if (value := chance[task]) is None else f"{value:.1f}" for task in tasks]
    return [*lines, f"| *guessing* | {' | '.join(guesses)} |", ""]


def _column(found: SeedResults, task: str) -> list[Score]:
    return [score for run in found.runs.values() if (score := run.score(task))]


def _cell(score: Score | None) -> str:
    if score is None or score.value is None:
        return ""
    between = "" if score.low is None else f"<br>{score.low:.1f} … {score.high:.1f}"
    return f"{score.value:.1f}{between}"


def _costs(seed: Seed, found: SeedResults) -> list[str]:
    lines = ["### What it costs", "", "| stage | kind | parameters | tokens | steps | FLOPs | *CPU seconds* |"]
    lines += ["|:--|:--|--:|--:|--:|--:|--:|"]
    lines += [_cost(made) for made in found.made.values()]
    total = sum(made.flops or 0.0 for made in found.made.values())
    seconds = sum(made.cpu_seconds for made in found.made.values())
    return [*lines, f"| all | | | | | {total:.2e} | *{seconds:,.0f}* |", ""]


def _cost(made: Made) -> str:
    numbers = ["" if value is None else f"{value:,}" for value in (made.parameters, made.tokens, made.steps)]
    arithmetic = "" if made.flops is None else f"{made.flops:.2e}"
    return f"| `{made.stage}` | {made.kind} | {' | '.join(numbers)} | {arithmetic} | *{made.cpu_seconds:,.0f}* |"


def _board() -> list[str]:
    return [
        "## On the board",
        "",
        *_text(
            "Every model above is on the board with its lineage: what it was made from, stage by stage, with "
            "fingerprints, tokens, data and licences, as its card says. `make story` leaves the board as files in "
            "`build/story/board` (open `en/index.html` there); this serves it:"
        ),
        "```sh",
        "ESTBENCH_HOME=build/story/home estbench serve",
        "```",
    ]
