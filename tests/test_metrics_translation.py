"""chrF++ and BLEU: sums of per-document statistics are sacreBLEU's corpus scores."""

from __future__ import annotations

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from estbench.metrics import get
from estbench.metrics.tasks import (
    bleu_aggregation,
    chrf_aggregation,
    flores_en_et_results,
    flores_et_en_results,
    translation_results,
)
from estbench.metrics.translation import bleu, bleu_statistics, chrf, chrf_statistics, signature

WORD = st.sampled_from(["ta", "õues", "läks", "koju", ",", ".", "öö", "šokk", "3,5", "„maja“", "ja"])
SENTENCES = st.lists(WORD, max_size=12).map(" ".join)
PAIRS = st.lists(st.tuples(SENTENCES, SENTENCES), min_size=1, max_size=6)


def corpus(pairs: list[tuple[str, str]]) -> tuple[float, float]:
    """(chrF++, BLEU) of sacreBLEU itself."""
    outputs, references = [output for output, _ in pairs], [[reference for _, reference in pairs]]
    return CHRF(word_order=2).corpus_score(outputs, references).score, BLEU().corpus_score(outputs, references).score


def summed(pairs: list[tuple[str, str]]) -> tuple[float, float]:
    """(chrF++, BLEU) of our sums."""
    return (
        chrf_aggregation([chrf_statistics(*pair) for pair in pairs]),
        bleu_aggregation([bleu_statistics(*pair) for pair in pairs]),
    )


@given(PAIRS)
@settings(max_examples=200)
def test_sums_are_the_corpus_score(pairs: list[tuple[str, str]]) -> None:
    assert summed(pairs) == pytest.approx(corpus(pairs), abs=1e-9)


@given(st.lists(st.tuples(st.text(max_size=30), st.text(max_size=30)), min_size=1, max_size=4))
def test_sums_are_the_corpus_score_on_any_text(pairs: list[tuple[str, str]]) -> None:
    assert summed(pairs) == pytest.approx(corpus(pairs), abs=1e-9)


def test_the_mean_of_sentence_scores_is_another_number() -> None:
    """Negative control: averaging sentence scores would not pass for the corpus score."""
    pairs = [("ta läks koju ja jäi sinna", "ta läks koju ja jäi sinna"), ("maja", "suur valge maja oli tee ääres")]
    means = [np.mean(scores) for scores in zip(*[summed([pair]) for pair in pairs], strict=True)]
    assert abs(means[0] - corpus(pairs)[0]) > 1
    assert abs(means[1] - corpus(pairs)[1]) > 1


@given(PAIRS, PAIRS)
def test_combine_takes_leading_axes(one: list[tuple[str, str]], other: list[tuple[str, str]]) -> None:
    for statistics, combine in ((chrf_statistics, chrf), (bleu_statistics, bleu)):
        sums = [np.sum([statistics(*pair) for pair in pairs], axis=0) for pairs in (one, other)]
        stacked = combine(np.array([sums, sums[::-1]]))
        assert stacked.shape == (2, 2)
        expected = [float(combine(each)) for each in sums]
        assert stacked.tolist() == [pytest.approx(expected), pytest.approx(expected[::-1])]


def test_an_empty_output_is_zero_and_counted() -> None:
    doc = {"source": "The house is white.", "target": "Maja on valge."}
    empty = translation_results(doc, [" "])
    assert empty["parse_failure"] == 1
    assert chrf_aggregation([empty["chrf++"]]) == bleu_aggregation([empty["bleu"]]) == 0
    good = translation_results(doc, ["Maja on valge."])
    assert good["parse_failure"] == 0
    assert chrf_aggregation([good["chrf++"]]) == pytest.approx(100)
    assert chrf_aggregation([good["chrf++"], empty["chrf++"]]) < 75  # its reference counts


def test_stripped_diacritics_cost() -> None:
    """Negative control: a metric that strips diacritics gives 100."""
    rows = [chrf_statistics("Oues on oo ja kulm", "Õues on öö ja külm")]
    assert chrf_aggregation(rows) < 50


def test_flores_directions_take_the_right_reference() -> None:
    row = {"sentence_est_Latn": "Maja on valge.", "sentence_eng_Latn": "The house is white."}
    assert chrf_aggregation([flores_en_et_results(row, ["Maja on valge."])["chrf++"]]) == pytest.approx(100)
    assert chrf_aggregation([flores_et_en_results(row, ["The house is white."])["chrf++"]]) == pytest.approx(100)
    assert chrf_aggregation([flores_et_en_results(row, ["Maja on valge."])["chrf++"]]) < 20


def test_signatures_are_sacrebleus() -> None:
    version = sacrebleu.__version__
    assert signature("chrf++") == f"nrefs:1|case:mixed|eff:yes|nc:6|nw:2|space:no|version:{version}"
    assert signature("bleu") == f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{version}"
    metric = get("chrf++")
    assert metric
    assert metric.signature
    assert metric.signature() == signature("chrf++")
