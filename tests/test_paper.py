"""The table of a paper: what is bold, what is marked, what is published beside it, and nothing that no run says."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gate_world import evaluated, sibling, variant, with_values
from paper_world import Make, N, bold, make, notes, read_csv, right
from worlds import World, rows

from estbench import evidence, golds, paper, references, registry, stats
from estbench.cli import main
from estbench.errors import ConfigError
from estbench.evidence import Evidence
from estbench.metrics.translation import chrf_statistics
from estbench.paper import latex, tables
from estbench.runs import Run, write_lines

__all__ = ["make"]  # a fixture

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
