"""Samples to scores: every score with its evidence, an error never a score."""

from __future__ import annotations

from typing import Any

import pytest
import sacrebleu

from estbench.metrics.tasks import translation_results
from estbench.runs import Sample
from estbench.scoring import score_task


def sample(i: int, cluster: str | None = None, **values: Any) -> Sample:
    return Sample("t", i, f"h{i}", "p", cluster, None, None, values, "k", parse_failure=values.pop("failed", False))


def lost(i: int) -> Sample:
    return Sample("t", i, f"h{i}", "p", None, None, None, {}, "k", error="the server was gone")


def scored(samples: list[Sample], **more: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {"primary": "acc", "chance": 0.25, "n_planned": len(samples)} | more
    return {score.metric: score for score in score_task("t", samples, **settings)}


def test_an_error_is_missing_data_and_never_a_score() -> None:
    score = scored([sample(0, acc=1), sample(1, acc=1), lost(2), lost(3)])["acc"]
    assert (score.value, score.n, score.n_planned, score.errors) == (1.0, 2, 4, 2)


def test_a_parse_failure_is_wrong_and_counted() -> None:
    score = scored([sample(0, acc=1), sample(1, acc=0, failed=True)])["acc"]
    assert (score.value, score.n, score.parse_failures, score.errors) == (0.5, 2, 1, 0)


def test_without_any_response_the_score_is_missing_with_a_reason() -> None:
    score = scored([lost(0), lost(1)])["acc"]
    assert score.value is None and score.ci_low is None and score.n == 0 and score.errors == 2 and score.reason


def test_what_guessing_gives_on_the_documents_is_the_chance_level() -> None:
    found = scored([sample(0, acc=1, guessing=0.5, margin=2.5), sample(1, acc=0, guessing=0.1, margin=-1.0)])
    assert set(found) == {"acc"} and found["acc"].chance == pytest.approx(0.3)


def test_a_listed_metric_that_no_document_has_is_missing_with_its_reason() -> None:
    found = scored([sample(0, acc=1), sample(1, acc=0)], listed=["acc", "lemma_f1"])
    assert found["lemma_f1"].value is None and "estonian" in str(found["lemma_f1"].reason)
    assert not found["lemma_f1"].primary and found["acc"].value == 0.5


def test_groups_are_scored_like_their_metric_and_come_last() -> None:
    rows = [sample(i, **{"acc": i % 2, f"acc/{'cause' if i < 4 else 'effect'}": i % 2}) for i in range(8)]
    scores = score_task("t", rows, primary="acc", chance=0.5, n_planned=8)
    assert [score.metric for score in scores] == ["acc", "acc/cause", "acc/effect"]
    assert [score.n for score in scores] == [8, 4, 4] and scores[1].unit == "proportion" and scores[1].chance is None


def test_a_metric_of_lm_eval_with_the_name_of_ours_is_not_taken_for_ours() -> None:
    from lm_eval.api.metrics import bleu

    pairs = [sample(i, bleu=("Tere, ilus ilm on täna", "Tere, ilus ilm on täna")) for i in range(3)]
    found = scored(pairs, primary="bleu", chance=None, aggregations={"bleu": bleu})
    assert found["bleu"].value == pytest.approx(100.0) and found["bleu"].signature is None


def test_the_primary_metric_comes_first_and_alone_has_the_chance_level() -> None:
    scores = scored([sample(i, em=i % 2, f1=0.5 + i / 20) for i in range(6)], primary="f1", chance=0.1)
    assert list(scores) == ["f1", "em"]
    assert scores["f1"].primary and scores["f1"].chance == 0.1
    assert not scores["em"].primary and scores["em"].chance is None


def test_items_that_share_a_passage_widen_the_interval() -> None:
    alone = scored([sample(i, acc=i // 10 % 2) for i in range(100)])["acc"]
    shared = scored([sample(i, cluster=str(i // 10), acc=i // 10 % 2) for i in range(100)])["acc"]
    assert alone.value == shared.value and alone.ci_high is not None and shared.ci_high is not None
    assert alone.ci_low is not None and shared.ci_low is not None
    assert shared.ci_high - shared.ci_low > 2 * (alone.ci_high - alone.ci_low)
    assert "cluster" in shared.method and "cluster" not in alone.method


def test_a_corpus_metric_is_sacrebleus_own_number_with_its_signature() -> None:
    references = ["Mees keeras kraani lahti.", "Tüdruk leidis köögist vea.", "Õues sadas öö läbi vihma."]
    outputs = ["Mees keeras kraani kinni.", "Tüdruk leidis köögist vea.", "Väljas sadas kogu öö."]
    samples = [
        sample(i, **translation_results({"target": reference}, [output]))
        for i, (reference, output) in enumerate(zip(references, outputs, strict=True))
    ]
    scores = scored(samples, primary="chrf++", chance=None)
    assert scores["chrf++"].value == pytest.approx(sacrebleu.corpus_chrf(outputs, [references], word_order=2).score)
    assert scores["bleu"].value == pytest.approx(sacrebleu.corpus_bleu(outputs, [references]).score)
    assert "nw:2" in str(scores["chrf++"].signature) and scores["chrf++"].unit == "points"
    assert scores["chrf++"].ci_low is not None and "bootstrap" in scores["chrf++"].method.lower()
    sentences = [sacrebleu.sentence_bleu(o, [r]).score for o, r in zip(outputs, references, strict=True)]
    assert scores["bleu"].value != pytest.approx(sum(sentences) / 3)  # the control: not an average of sentences


def test_a_metric_that_only_lm_eval_knows_is_averaged_or_aggregated() -> None:
    samples = [sample(i, loss=float(i), pairs=[i, 2]) for i in range(4)]
    scores = scored(
        samples,
        primary="loss",
        higher_is_better={"loss": False},
        aggregations={"pairs": lambda items: sum(a for a, _ in items)},
    )
    assert scores["loss"].value == 1.5 and scores["loss"].higher_is_better is False
    assert scores["pairs"].value == 6 and scores["pairs"].ci_low is None
    unknown = scored(samples, primary="loss")["pairs"]
    assert unknown.value is None and "no aggregation" in unknown.method


def test_all_right_is_no_certainty() -> None:
    score = scored([sample(i, acc=1) for i in range(20)])["acc"]
    assert score.value == 1.0 and score.ci_low is not None and 0.8 < score.ci_low < 0.9 and score.ci_high == 1.0


def test_lm_evals_own_aggregation_is_not_replaced_by_a_mean() -> None:
    import math

    def perplexity(items: list[float]) -> float:
        return math.exp(-sum(items) / len(items))

    samples = [sample(i, perplexity=-3.0) for i in range(4)]
    score = scored(samples, primary="perplexity", aggregations={"perplexity": perplexity})["perplexity"]
    assert score.value == pytest.approx(math.exp(3.0)) and score.ci_low is None


def test_a_primary_metric_that_is_not_there_is_missing_with_a_reason() -> None:
    scores = scored([sample(0, acc=1)], primary="ac")
    assert scores["ac"].primary and scores["ac"].value is None and scores["ac"].reason and not scores["acc"].primary
