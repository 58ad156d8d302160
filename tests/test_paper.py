"""The table of a paper: what is bold, what is marked, what can be pasted, and nothing that no run says."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gate_world import evaluated, sibling, variant, with_values
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from worlds import World, rows

from estbench import evidence, golds, identity, paper, references, registry, stats
from estbench.cli import main
from estbench.errors import ConfigError
from estbench.evidence import Evidence
from estbench.metrics.translation import chrf_statistics
from estbench.paper import latex, tables
from estbench.paper.data import CSV_COLUMNS
from estbench.runs import Run, Sample, write_json, write_lines
from estbench.scoring import score_task

N = 200
CARD: dict[str, Any] = {
    "title": {"et": "Ülesanne", "en": "Task"}, "skill": "reasoning", "form": "completion", "chance": 0.5,
    "primary": "acc", "access": "public", "sample": False, "reason": None, "scorer": "s", "shots": 5, "truncated": 0,
    "data": {"path": "own/set", "config": "et", "commit": None, "origin": "a copy", "matches_lock": None, "hash": "h"},
}  # fmt: skip
Make = Callable[..., Evidence]
Values = Sequence[Any]


def right(count: int, n: int = N, start: int = 0) -> list[float]:
    """0/1 of n documents, of which `count` are right, from `start` on."""
    return [float((at - start) % n < count) for at in range(n)]


@pytest.fixture
def make(home: Path) -> Make:
    """`make(name, task=values, ...)`: a run folder with these values document by document, scored and read."""

    def run(name: str, cards: dict[str, dict[str, Any]] | None = None, changes: dict[str, Any] | None = None,
            **values: Values) -> Evidence:  # fmt: skip
        folder = home / "runs" / f"{identity.digest([name, cards, changes, values])[:12]}"
        scores, manifest_tasks = [], {}
        for task, column in values.items():
            card = CARD | {"n_docs": len(column), "plan_hash": f"plan of {task}"} | (cards or {}).get(task, {})
            samples = [
                Sample(task, at, f"{task}-{at}", "p", None, 0, 0, {} if value is None else {card["primary"]: value},
                       f"{name}-{task}-{at}", error="no answer" if value is None else None)
                for at, value in enumerate(column)
            ]  # fmt: skip
            options = {"primary": card["primary"], "chance": card["chance"], "reason": card["reason"]}
            scores += score_task(task, samples, n_planned=len(samples), **options)
            manifest_tasks[task] = card | {"n_planned": len(samples)}
            write_lines(folder / "samples" / f"{task}.jsonl.gz", samples)
            write_lines(folder / "plan" / f"{task}.jsonl.gz", [planned(task, at) for at in range(len(samples))])
            write_lines(folder / "responses" / f"{task}.jsonl.gz", [])
        manifest: dict[str, Any] = {
            "schema": 1, "run": folder.name, "name": name, "slice": None, "partial": False, "tasks": manifest_tasks,
            "identity": {"result": folder.name}, "model": {"name": name}, "skipped": {}, "settings": {},
            "engine": {"engine": "hf", "dtype": "float32", "torch": "2.9"}, "versions": {"estbench": "0.1.0"},
        }  # fmt: skip
        write_json(folder / "scores.json", [asdict(score) for score in scores])
        write_json(folder / "manifest.json", manifest | (changes or {}))
        return evidence.of_run(Run(folder))

    return run


def planned(task: str, at: int) -> dict[str, Any]:
    decoding = {"max_new_tokens": 24, "stop": ["\n"], "temperature": 0.0, "top_p": 1.0, "seed": 0}
    requests: list[dict[str, Any]] = [
        {"key": "k", "prompt_ids": [1]} | ({"decoding": decoding} if task == "gen" else {})
    ]
    return {"doc_id": at, "doc_hash": f"{task}-{at}", "prompt": "", "prompt_hash": "p", "target": 0, "cluster": None,
            "asked": f"{task} {at}", "requests": requests}  # fmt: skip


def bold(found: paper.Table, task: str = "a") -> list[str]:
    column = next(column for column in found.columns if column.task == task)
    return [label for label, cell in zip(found.labels, column.cells, strict=True) if cell.bold]


def notes(found: paper.Table, label: str, task: str = "a") -> str:
    column = next(column for column in found.columns if column.task == task)
    return " | ".join(column.cells[found.labels.index(label)].notes)


# --- what is bold -----------------------------------------------------------------------------------------------------


def test_all_that_cant_be_told_from_the_best_are_bold(make: Make) -> None:
    runs = [make("worst", a=right(80)), make("best", a=right(160)), make("near", a=right(156, start=2))]
    found = paper.table(runs)
    assert bold(found) == ["best", "near"]
    worst, best, near = found.columns[0].cells
    pair = stats.difference(right(160), right(80)).p_value()
    assert worst.p == pytest.approx(pair) and worst.p_adjusted == pytest.approx(min(1, 3 * pair))  # three pairs
    assert worst.difference == pytest.approx(0.4) and best.p is None and near.p_adjusted is not None
    assert near.p_adjusted > 0.05 and found.columns[0].best == 1


def test_the_best_is_the_lowest_where_lower_is_better(make: Make) -> None:
    card = {"a": {"primary": "bits_per_byte", "chance": 8.0, "skill": "modelling"}}
    low, high = [[400.0 + at % 7, 100] for at in range(N)], [[500.0 + (3 * at) % 7, 100] for at in range(N)]
    found = paper.table([make("high", card, a=high), make("low", card, a=low)])
    assert bold(found) == ["low"] and found.columns[0].unit == "bits"
    assert found.columns[0].cells[0].difference == pytest.approx(100 / 100 / np.log(2), rel=1e-3)
    text = paper.as_latex(found)
    assert r"bits\_per\_byte $\downarrow$, bits" in text and r"\textbf{5.81" in text and "bits where marked" in text
    assert "chance & 8.000" in text and found.mean is None


def test_points_of_corpus_metrics_are_points(make: Make) -> None:
    card = {"a": {"primary": "chrf++", "chance": 16.2}}
    good = [chrf_statistics(f"Kass number {at} istub.", f"Kass number {at} istub toas.") for at in range(40)]
    bad = [chrf_statistics("Koer.", f"Kass number {at} istub toas.") for at in range(40)]
    found = paper.table([make("good", card, a=good), make("bad", card, a=bad)])
    assert bold(found) == ["good"] and found.columns[0].unit == "points"
    cell = found.columns[0].cells[0]
    assert cell.value is not None and 50 < cell.value < 100
    assert f"**{cell.value:.1f}**" in paper.as_markdown(found) and "chance | 16.2 |" in paper.as_markdown(found)
    assert "paired bootstrap, 10,000 replicates" in cell_test(found) and "nrefs:1" in paper.as_markdown(found)


def cell_test(found: paper.Table) -> str:
    return " ".join(cell.test for cell in found.columns[0].cells)


def test_equal_models_are_rarely_called_worse_though_the_best_is_picked_from_the_same_data() -> None:
    rng = np.random.default_rng(0)
    any_worse, uncorrected, rounds = 0, 0, 300
    for _ in range(rounds):
        models = (rng.random((5, 150)) < 0.6).astype(float)
        best = int(models.mean(axis=1).argmax())
        tests: dict[int, Any] = {at: stats.difference(models[best], models[at]) for at in range(5) if at != best}
        any_worse += not all(row["bold"] for row in tables._tested(tests).values())
        uncorrected += any(test.p_value() <= 0.05 for test in tests.values())
    assert any_worse <= 0.06 * rounds
    assert uncorrected > 0.12 * rounds  # or the simulation could not fail


def test_holm_is_that_of_all_pairs() -> None:
    rng = np.random.default_rng(1)
    models = (rng.random((4, 100)) < np.array([[0.8], [0.7], [0.6], [0.5]])).astype(float)
    tests: dict[int, Any] = {at: stats.difference(models[0], models[at]) for at in (1, 2, 3)}
    whole = stats.holm([test.p_value() for test in tests.values()] + [1.0] * 3)  # six pairs of four models
    assert [row["p_adjusted"] for row in tables._tested(tests).values()] == pytest.approx(whole[:3])


def test_one_model_alone_is_not_bold(make: Make) -> None:
    found = paper.table([make("alone", a=right(150))])
    assert bold(found) == [] and "bold" not in paper.as_markdown(found)


def test_the_same_responses_are_equal(make: Make) -> None:
    one = make("x", a=right(150))
    again = make("x", changes={"created": "later"}, a=right(150))
    found = paper.table([one, again])
    assert bold(found) == list(found.labels) == [one.id, again.id]  # one name twice: the ids
    assert found.columns[0].cells[1].test == "the same responses"


@pytest.mark.parametrize(
    ("cards", "changes", "why"),
    [
        ({"a": {"plan_hash": "other"}}, {}, None),
        ({"a": {"form": "chat"}}, {}, "form completion against chat"),
        ({"a": {"scorer": "t"}}, {}, "scored by other code"),
        ({}, {"engine": {"engine": "vllm", "dtype": "bfloat16"}}, "engine hf, other with vllm"),
        ({"a": {"primary": "f1"}}, {}, "its primary metric is f1"),
    ],
)
def test_what_cant_be_paired_is_neither_tested_nor_bold(
    make: Make, cards: dict[str, Any], changes: dict[str, Any], why: str | None
) -> None:
    runs = [make("one", a=right(100)), make("two", a=right(60)), make("other", cards, changes, a=right(190))]
    found = paper.table(runs)
    if why is None:  # another plan in which the same documents are asked the same
        assert bold(found) == ["other"]
        return
    assert bold(found) == ["one"]
    assert "not compared with the others: " in notes(found, "other") and why in notes(found, "other")
    assert "not compared" not in notes(found, "one") + notes(found, "two")


def test_who_is_better_on_the_shared_documents_is_never_called_worse(make: Make) -> None:
    part = make("part", {"a": {"n_docs": N}}, a=right(40, 50))  # 80 %, of a part that is easy
    whole = make("whole", a=[*right(50, 50), *right(90, 150)])  # 70 %, all of that part
    found = paper.table([part, whole])
    cell = found.columns[0].cells[1]
    assert cell.p_adjusted is not None and cell.p_adjusted < 0.01 and cell.difference == pytest.approx(-0.2)
    assert bold(found) == ["part", "whole"]


def test_runs_without_documents_are_shown_and_not_tested(make: Make) -> None:
    whole, bare = make("whole", a=right(100)), make("bare", a=right(190))
    assert bare.run is not None
    shutil.rmtree(bare.run.path / "samples")
    found = paper.table([whole, evidence.of_run(Run(bare.run.path))])
    assert bold(found) == [] and "nothing can be paired" in notes(found, "bare")
    assert "95.0" in paper.as_markdown(found) and "No two models were compared" in paper.as_markdown(found)


@pytest.mark.parametrize("first", [True, False])
def test_the_run_without_documents_is_the_one_that_is_marked(make: Make, first: bool) -> None:
    whole, bare = make("whole", a=right(100)), without_documents(make("bare", a=right(190)))
    found = paper.table([bare, whole] if first else [whole, bare])
    assert "nothing can be paired" in notes(found, "bare") and "not compared" not in notes(found, "whole")
    assert found.columns[0].best == found.labels.index("whole") and bold(found) == []


def test_what_the_head_does_not_say_of_a_run_is_in_its_note(make: Make) -> None:
    engine = {"engine": {"engine": "vllm", "dtype": "float32"}}
    bare = without_documents(make("bare", {"a": {"shots": 0, "form": "chat"}}, engine, a=right(190)))
    unknown = without_documents(make("unknown", {"a": {"shots": None}}, a=right(190)))
    found = paper.table([make("x", a=right(100)), make("y", a=right(90)), bare, unknown])
    for words in ("shots 5 against 0", "form completion against chat", "engine hf, bare with vllm"):
        assert words in notes(found, "bare")
    assert "shots 5 against unknown" in notes(found, "unknown") and "form" not in notes(found, "unknown")
    same = without_documents(make("same", a=right(190)))  # nothing else differs, and nothing else is said
    assert "against" not in notes(paper.table([make("x", a=right(100)), same]), "same")


def test_other_shots_on_other_documents_are_said(make: Make) -> None:
    other = elsewhere(make("other", {"a": {"shots": 0, "plan_hash": "o"}}, a=right(190)), 0)
    found = paper.table([make("x", a=right(100)), other])
    assert "0 of 200 documents" in notes(found, "other") and "shots 5 against 0" in notes(found, "other")


def test_bold_by_a_test_on_few_documents_is_said(make: Make) -> None:
    few, most = (elsewhere(make(name, a=right(60)), kept) for name, kept in (("few", 5), ("most", 190)))
    found = paper.table([make("best", a=right(180)), few, most])
    assert bold(found) == ["best", "few"]
    assert "compared with the best on 5 of its 200 documents" in notes(found, "few")
    assert "compared with the best" not in notes(found, "most") + notes(found, "best")


def without_documents(run: Evidence) -> Evidence:
    assert run.run is not None
    shutil.rmtree(run.run.path / "samples")
    return evidence.of_run(Run(run.run.path))


def elsewhere(run: Evidence, kept: int) -> Evidence:
    """The run on documents of which only the first `kept` are those of others."""
    assert run.run is not None
    for part, read in (("samples", run.run.samples), ("plan", run.run.plan)):
        lines = [asdict(row) for row in read("a")]
        for row in lines[kept:]:
            row["doc_hash"] += " of another set"
        write_lines(run.run.path / part / "a.jsonl.gz", lines)
    return evidence.of_run(Run(run.run.path))


# --- what is marked ---------------------------------------------------------------------------------------------------


def test_a_missing_score_is_a_dash_with_its_reason(make: Make) -> None:
    withheld = make("z", {"b": {"reason": golds.REASON}}, a=right(100), b=[None] * 20)
    runs = [
        make("x", a=right(100), b=right(100)),
        make("y", changes={"skipped": {"b": "gated"}}, a=right(90)),
        withheld,
    ]
    found = paper.table([*runs, make("w", a=right(80))])
    assert [notes(found, label, "b") for label in "yzw"] == ["gated", "no document has a response", "not run"]
    text = paper.as_markdown(found)
    assert re.search(r"\| y \|.*\| – \\\[\w\] \|", text) and re.search(r"- \\\[\w\] gated", text)
    assert "| – " in text and found.mean is None  # one task that all have


def test_partial_sample_cut_unanswered_unread_and_chance_scores_are_marked(make: Make) -> None:
    partial = make("partial", {"a": {"n_docs": 900}}, a=right(40, 50))
    odd = make("odd", {"a": {"truncated": 3, "sample": True}}, a=[*right(100)[:-4], None, None, None, None])
    found = paper.table([make("whole", a=right(150)), partial, odd])
    assert notes(found, "partial") == "partial: 50 of 900 documents"
    assert "4 of 200 documents without a response" in notes(found, "odd") and "3 prompts cut" in notes(found, "odd")
    assert "the task's own sample" in notes(found, "odd") and "at chance" in notes(found, "odd")
    assert notes(found, "whole") == "compared with the best on 50 of its 200 documents"  # the partial one is the best
    assert found.columns[0].n == N and notes(paper.table(list(found.runs[::2])), "whole") == ""


def test_unverified_weights_are_marked(make: Make) -> None:
    engine = {"engine": "openai", "dtype": None, "weights": "unverified", "observed": "2026-11-28"}
    text = paper.as_markdown(paper.table([make("x", changes={"engine": engine}, a=right(150))]))
    assert "x \\[a]" in text and "weights unverified, observed 2026-11-28" in text and "a dtype that is not rec" in text


def test_intervals_are_plus_minus_where_both_sides_look_alike(make: Make) -> None:
    text = paper.as_markdown(paper.table([make("half", a=right(100)), make("top", a=right(196))]))
    half, top = stats.proportion_interval(right(100)), stats.proportion_interval(right(196))
    assert half.high is not None and top.low is not None and top.high is not None
    assert f"50.0 ±{100 * (half.high - 0.5):.1f}" in text
    assert f"**98.0** ({100 * top.low:.1f}–{100 * top.high:.1f})" in text


def test_the_mean_is_over_what_every_model_has_and_corrected_for_chance(make: Make) -> None:
    bits = {"d": {"primary": "bits_per_byte", "chance": 8.0}}
    column = [[400.0 + at % 7, 100] for at in range(N)]
    both = {"a": right(150), "b": right(120)}
    runs = [make("x", bits, **both, c=right(200), d=column), make("y", bits, a=right(100), b=right(180), d=column)]
    found = paper.table(runs)
    assert found.mean is not None and found.mean.tasks == ("a", "b")
    assert found.mean.values == pytest.approx((100 * (0.5 + 0.2) / 2, 100 * (0.0 + 0.8) / 2))
    assert "chance-corrected, over 2 of 4 tasks" in paper.as_markdown(found)
    other = make("z", changes={"engine": {"engine": "vllm", "dtype": "float32"}}, **both)
    mean = paper.table([*runs, other], ["a", "b"]).mean
    assert mean is not None and [bool(note) for note in mean.notes] == [False, False, True]


# --- published figures ------------------------------------------------------------------------------------------------


def test_published_figures_stand_below_in_grey_and_are_never_bold(make: Make) -> None:
    runs = [make("x", belebele_et=right(60)), make("y", belebele_et=right(50))]
    ours, found = paper.table(runs), paper.table(runs, reference="estllm")
    theirs = [row for row in references.of("belebele_et") if row.source == "estllm"]
    assert max(row.value for row in theirs) > 0.3 + 0.1  # theirs are better, and change nothing
    assert found.columns == ours.columns and len(found.published) == len(theirs)
    text = paper.as_latex(found)
    ranked, _, published = text.partition("published: EstLLM")
    assert r"\midrule" in ranked.splitlines()[-2] and r"\textbf" in ranked and r"\textbf" not in published
    assert all(rf"\textcolor{{gray}}{{{latex.tex(row.model)}}}" in published for row in theirs)
    assert r"\cite{published-estllm}" in text and "@misc{published-estllm," in text
    assert "made with other prompts and data samples, not paired with ours" in text
    row = next(row for row in read_csv(paper.as_csv(found)) if row["kind"] == "published")
    assert row["value"] == str(theirs[0].value) and row["unit"] == "proportion" and row["bold"] == ""


def test_published_points_keep_their_unit_and_other_metrics_are_named(make: Make) -> None:
    found = paper.table([make("x", {"valence_et": {"primary": "mcc"}}, valence_et=right(60))], reference="euroeval")
    text = paper.as_markdown(found)
    row = next(row for row in references.of("valence_et") if row.model == "google/gemma-3-27b-it")
    assert f"*{row.value:.1f} ±{row.plus_minus:.1f}*" in text
    trivia = paper.table([make("x", trivia_et=right(60))], reference="euroeval,estllm")
    assert "published metric: mcc" in paper.as_markdown(trivia)
    assert list(dict.fromkeys(row.source for row in trivia.published)) == ["euroeval", "estllm"]
    assert {row.source for row in paper.table(list(trivia.runs), reference="estllm").published} == {"estllm"}


@pytest.mark.parametrize(
    ("tasks", "reference", "message"),
    [
        (["b"], None, "No run has the task 'b'. Evaluate it, or leave it out of tasks=."),
        (["belebele_e"], None, "Did you mean 'belebele_et'"),
        ([], "estlm", "Did you mean 'estllm'"),
        (["a"], "estllm", "reference=estllm has no figure on these tasks"),
    ],
)
def test_slips_are_one_line(make: Make, tasks: list[str], reference: str | None, message: str) -> None:
    runs = [make("x", a=right(60), belebele_et=right(60))]
    with pytest.raises(ConfigError) as caught:
        paper.table(runs, tasks, reference=reference)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_no_run_and_a_run_twice_are_refused(make: Make) -> None:
    run = make("x", a=right(60))
    for runs, message in (([], "at least one run"), ([run, run], "given twice")):
        with pytest.raises(ConfigError, match=message):
            paper.table(runs)


# --- methods and sources ----------------------------------------------------------------------------------------------


def test_the_methods_say_what_the_runs_say(make: Make) -> None:
    locked = {"data": CARD["data"] | {"commit": "abcdef0123456789", "matches_lock": True}}
    changed = {"data": CARD["data"] | {"path": "other/set", "commit": "1234", "matches_lock": False}}
    one = make("x", {"a": locked, "gen": changed}, a=right(150), gen=right(90))
    two = make(
        "y", {"a": locked, "gen": changed}, {"model": {"name": "y", "revision": "fee1"}}, a=right(50), gen=right(9)
    )
    text = paper.as_json(paper.table([one, two]))["methods"]
    for words in (
        "evaluated with estbench 0.1.0.",
        "the hf engine, float32, torch 2.9.",
        f"Runs: x ({one.id}), y ({two.id}, revision fee1).",
        "a (200, 5, completion), gen (200, 5, completion)",
        "by the log-likelihood of given texts (a); by generating greedily, at most 24 tokens (gen)",
        "95 % intervals: Wilson (a, gen)",
        "McNemar's mid-p test (a, gen)",
        "Holm's procedure for all pairs of models",
        "commit recorded, as locked (own/set, et at abcdef012345)",
        "commit recorded, other rows than locked (other/set, et at 1234)",
        "(score − chance) / (best possible − chance)",
    ):
        assert words in text
    assert "a copy" not in text and "system message" not in text and "published" not in text


def test_what_is_not_known_is_not_made_up(make: Make, tmp_path: Path) -> None:
    run = make("x", changes={"settings": {"prompt_options": {"system": "Vasta lühidalt."}}}, a=right(150))
    evidence.save(run, tmp_path / "main.json")
    kept = paper.as_json(paper.table([evidence.load(str(tmp_path / "main.json"))]))["methods"]
    assert "in a way not recorded in what was read" in kept and "no commit recorded (own/set, et)" in kept
    assert "“Vasta lühidalt.” (x)" in kept and "was compared" not in kept and "Signatures" not in kept
    taken = {"engine": {"engine": "lm-eval/hf", "dtype": None}, "versions": {"estbench": "9", "lm_eval": "0.4.13"}}
    theirs = paper.as_json(paper.table([make("z", changes=taken, a=right(150))]))["methods"]
    assert "lm-eval 0.4.13, from its result files" in theirs and "estbench 9" not in theirs


def test_no_place_on_this_machine_is_named(make: Make) -> None:
    place = {"data": CARD["data"] | {"path": "/home/mari/secret/own.jsonl", "config": None, "origin": "/home/mari"}}
    changes = {"model": {"name": "x", "path": "/home/mari/x"}, "command": "estbench eval model=/home/mari/x"}
    found = paper.table([make("x", {"a": place}, changes, a=right(150))])
    written = [paper.as_latex(found), paper.as_markdown(found), paper.as_csv(found), json.dumps(paper.as_json(found))]
    assert not any("mari" in text for text in written) and "own.jsonl" in written[0]


def test_every_task_cites_what_its_card_says(make: Make) -> None:
    found = paper.table([make("x", estcopa=right(60), flores_en_et=right(50), flores_et_en=right(50), own=right(9))])
    sources = [latex.bibtex(source) for source in found.cited.values()]
    assert len(set(sources)) == 2 and "own" not in found.cited
    assert "author = {{Ponti et al.}}" in sources[0] and "year = {2020}" in sources[0]
    text = paper.as_latex(found)
    keys = re.findall(r"@misc\{([^,]+),", text)
    assert len(keys) == len(set(keys)) == 2 and set(re.findall(r"\\cite\{([^}]+)\}", text)) == set(keys)


def test_all_citations_of_the_project_become_sound_entries() -> None:
    cards = registry.Registry().tasks.values()
    texts = {str(card.metadata["citation"]) for card in cards if card.metadata.get("citation")}
    entries = {latex.source(text).key: latex.bibtex(latex.source(text)) for text in texts}
    assert len(entries) == len(texts) > 20
    for key, entry in entries.items():
        assert re.fullmatch(r"[a-z0-9]+-[0-9a-f]{6}", key) and entry.startswith(f"@misc{{{key},\n")
        assert balanced(entry) and "[}U+" not in entry
    assert latex.source("Härm & Alumäe 2022. Lühikokkuvõtted.").key.startswith("harm2022-")


# --- what is written --------------------------------------------------------------------------------------------------

NASTY = r"=a_b%c&d#e$f{g}h~i^j\k<l>m|n`o*p[q]r@s --- “õäöüšž” 中"


def nasty(make: Make) -> paper.Table:
    runs = [make(NASTY, a=right(150), **{NASTY.replace("/", ""): right(90)}), make("-y", a=right(50))]
    return paper.table([*runs, make("[x]", changes={"skipped": {NASTY: f"+{NASTY}"}}, a=right(149))])


def balanced(text: str) -> bool:
    depth = 0
    for sign in re.sub(r"\\.", "", text, flags=re.S):
        depth += {"{": 1, "}": -1}.get(sign, 0)
        if depth < 0:
            return False
    return depth == 0


SAFE = re.compile(
    r"\\(?:[_%&#$]|text(?:backslash|braceleft|braceright|asciitilde|asciicircum|less|greater|bar|asciigrave)\{\}|ldots\{\})"
    r"|\$(?:-|\\pm|\\times|\\downarrow|\\rightarrow|\\leq|\\geq)\$|\{[\[\]*]\}|-\{\}"
)


@given(st.text(st.characters(codec="utf-8"), max_size=40))
@settings(max_examples=300, deadline=None)
def test_no_text_commands_latex(text: str) -> None:
    written = latex.tex(text)
    assert balanced(written)
    left = SAFE.sub("", written)
    assert not set(left) & set('\\_%&#$~^<>|"*[]{}\n')
    assert all(sign.isascii() or sign in "ßæœøłÆŒØŁ" or (sign.isalpha() and ord(sign) < 0x180) for sign in left)


def test_the_latex_is_sound_whatever_names_hold(make: Make) -> None:
    text = paper.as_latex(nasty(make))
    body, end, bibliography = text.partition("\n\\endinput")
    assert end and balanced(body) and balanced(bibliography)
    open_environments: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+\*?)\}", body):
        assert kind == "begin" or open_environments.pop() == name
        open_environments += [name] * (kind == "begin")
    assert not open_environments
    commands = set(re.findall(r"\\([A-Za-z]+)", SAFE.sub("", body)))
    assert commands <= {"begin", "end", "usepackage", "endinput", "centering", "footnotesize", "scriptsize",
                        "setlength",
                        "tabcolsep", "caption", "label", "toprule", "midrule", "bottomrule", "cmidrule", "multicolumn",
                        "textbf", "textsuperscript", "textcolor", "par", "smallskip", "medskip", "linewidth",
                        "paragraph", "cite"}  # fmt: skip
    for part in re.findall(r"\\begin\{tabular\}.*?\\end\{tabular\}", body, flags=re.S):
        columns = re.match(r"\\begin\{tabular\}\{@\{\}(l(r+))@\{\}\}", part)
        assert columns
        for row in re.findall(r"^(.*) \\\\$", part, flags=re.M):
            spans = [int(span) - 1 for span in re.findall(r"\\multicolumn\{(\d+)\}", row)]
            assert len(re.findall(r"(?<!\\)&", row)) + sum(spans) == len(columns[2])
            assert not row.startswith(("[", "*"))
    assert "õäöüšž" in body and "{[}U+4E2D{]}" in body


def test_wide_tables_are_broken_into_even_parts(make: Make) -> None:
    run = make("x", **{f"t{at}": right(60 + at) for at in range(13)})
    text = paper.as_latex(paper.table([run]))
    assert [len(row) for row in re.findall(r"\{@\{\}l(r+)@\{\}\}", text)] == [5, 5, 4]  # 13 and the mean
    assert all(f" t{at} " in text for at in range(13))


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="TeX is not installed for this")
def test_pdflatex_compiles_it(make: Make, tmp_path: Path) -> None:
    (tmp_path / "table.tex").write_text(paper.as_latex(nasty(make)), "utf-8")
    packages = r"\usepackage{booktabs,xcolor}"
    whole = rf"\documentclass{{article}}{packages}\begin{{document}}\input{{table}}\end{{document}}"
    (tmp_path / "whole.tex").write_text(whole, "utf-8")
    done = subprocess.run(["pdflatex", "-halt-on-error", "whole.tex"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]


def test_the_markdown_is_a_table_without_html(make: Make) -> None:
    found = nasty(make)
    html = MarkdownIt("commonmark").enable("table").render(paper.as_markdown(found))
    assert html.count("<table>") == 1 and "<a" not in html and "<em>" not in html and "<img" not in html
    cells = [row.count("<td") for row in html.split("<tr>") if "<td" in row]
    assert set(cells) == {1 + len(found.columns) + bool(found.mean)}
    assert html.count("<strong>") == 1 + sum(cell.bold for column in found.columns for cell in column.cells)
    plain = re.sub(r"<[^>]+>", "", html).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    assert plain.count(latex.plain(NASTY)) >= 3


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_the_csv_has_every_number_unrounded_and_no_formula(make: Make) -> None:
    found = nasty(make)
    lines = read_csv(paper.as_csv(found))
    assert len(lines) == len(found.runs) * len(found.columns) and set(lines[0]) == set(CSV_COLUMNS)
    assert all(CSV_COLUMNS.values())
    first = found.columns[0].cells[0].score
    assert first is not None and lines[0]["ci_low"] == repr(first.ci_low) and float(lines[0]["value"]) == first.value
    assert {line["model"] for line in lines} == {f"'{NASTY}", "'-y", "[x]"}
    assert any(line["notes"].startswith("'+=a_b") for line in lines)
    mcc = paper.table([make("x", {"a": {"primary": "other", "chance": 0.0}}, a=[-0.5, -0.1, 0.2] * 10)])
    assert float(read_csv(paper.as_csv(mcc))[0]["value"]) == pytest.approx(-0.4 / 3)  # a number stays one
    assert "−13.3" in paper.as_markdown(mcc) and "$-$13.3" in paper.as_latex(mcc)


def test_the_json_says_the_same(make: Make) -> None:
    found = nasty(make)
    data = json.loads(json.dumps(paper.as_json(found), allow_nan=False))
    assert [run["model"] for run in data["runs"]] == list(found.labels)
    lines = read_csv(paper.as_csv(found))
    assert [str(row["value"] if row["value"] is not None else "") for row in data["scores"]] == [
        line["value"] for line in lines
    ]
    assert [row["bold"] for row in data["scores"]] == [line["bold"] == "true" for line in lines]
    assert data["tasks"][0]["best"] == NASTY and data["mean"] is None and data["published"] == []


def test_tasks_keep_the_order_they_are_named_in(make: Make) -> None:
    run = make("x", a=right(60), b=right(70), c=right(80))
    assert [column.task for column in paper.table([run], ["c", "a", "c"]).columns] == ["c", "a"]
    assert [column.task for column in paper.table([run]).columns] == ["a", "b", "c"]


# --- runs that estbench made ------------------------------------------------------------------------------------------


def test_runs_of_an_evaluation_make_a_table_by_one_command(
    tmp_path: Path,
    home: Path,
    mock_model: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mock_model(lambda prompt: "kass")
    world = World(tmp_path / "world", n=4)
    for task in ("letters", "words"):
        world.fill(task, rows(100), rows(4, start=5000))
    for name in ("references.csv", "references.yaml"):
        shutil.copy(registry.project_file("tasks") / name, world.tasks / name)
    monkeypatch.setattr(registry, "project_file", lambda name: world.folder / name)
    run = evaluated(Path("mock"), world.data)
    names = {"good": with_values(0.9), "near": sibling(0.9, 0.06), "bad": with_values(0.5)}
    ids = [variant(run, name, change).id for name, change in names.items()]
    assert main(["report", f"runs={','.join(ids)}", "tasks=both", "output=json"]) == 0
    data = json.loads(capsys.readouterr().out)
    shown = {row["model"]: row["bold"] for row in data["scores"] if row["task"] == "letters"}
    assert shown == {"good": True, "near": True, "bad": False}
    assert (
        "the mock engine, a dtype that is not recorded." in data["methods"]
        and "greedily, at most 6 tokens (words)" in data["methods"]
    )
    assert main(["report", f"runs={ids[0]}", "output=latex"]) == 0
    assert capsys.readouterr().out.count(r"\begin{tabular}") == 1
    assert main(["report", f"runs={ids[0]},{ids[0]}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
