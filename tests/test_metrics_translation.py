"""chrF++ and BLEU: sums of per-document statistics are sacreBLEU's corpus scores."""

from __future__ import annotations

import json
from pathlib import Path

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


def sample_rows(split: str) -> list[dict[str, str]]:
    """The tasks' own sample of FLORES."""
    folder = Path(__file__).parents[1] / "tasks" / "samples" / "facebook__flores" / "est_Latn-eng_Latn"
    return [json.loads(line) for line in (folder / f"{split}.jsonl").read_text("utf-8").splitlines()]


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


LONG = {
    "sentence_est_Latn": "Õhtul hakkas sadama vihma ja tänavad jäid tühjaks, sest kõik läksid koju.",
    "sentence_eng_Latn": "In the evening it began to rain and the streets were empty, because everybody went home.",
}


@pytest.mark.parametrize(
    ("output", "en_et", "et_en"),
    [
        (LONG["sentence_est_Latn"], 0, 1),
        (LONG["sentence_eng_Latn"], 1, 0),
        (LONG["sentence_eng_Latn"].upper(), 1, 0),
        ("Illalla alkoi sataa ja kadut tyhjenivät, koska kaikki menivät kotiin eikä kukaan halunnut kastua.", 1, 1),
        ("Jah.", 0, 0),  # too short to tell
        ("", 0, 0),  # a parse failure instead
    ],
)
def test_a_translation_into_another_language_is_off_target(output: str, en_et: int, et_en: int) -> None:
    for results, expected in ((flores_en_et_results, en_et), (flores_et_en_results, et_en)):
        values = results(LONG, [output])
        assert values["off_target"] == expected
        assert values["parse_failure"] == int(not output)
    metric = get("off_target")
    assert metric and not metric.higher_is_better


def test_references_are_on_target() -> None:
    """A false alarm would blame a model for the language of a good translation."""
    rows = sample_rows("dev") + sample_rows("devtest")
    assert len(rows) >= 28
    assert sum(flores_en_et_results(row, [row["sentence_est_Latn"]])["off_target"] for row in rows) == 0
    assert sum(flores_et_en_results(row, [row["sentence_eng_Latn"]])["off_target"] for row in rows) == 0


def test_few_references_of_the_real_data_are_called_off_target(mirror: Path) -> None:
    path = mirror / "facebook__flores" / "est_Latn-eng_Latn" / "devtest.jsonl"
    if not path.exists():
        pytest.skip("no FLORES in the offline copy")
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()][::5]
    for field, results in (("sentence_est_Latn", flores_en_et_results), ("sentence_eng_Latn", flores_et_en_results)):
        assert np.mean([results(row, [row[field]])["off_target"] for row in rows]) <= 0.02


def test_sums_are_the_corpus_score_on_task_samples() -> None:
    """Real sentences of both kinds of mistake, with this version of sacreBLEU (its number stands in the signature)."""
    rows = [row["sentence_est_Latn"] for row in sample_rows("devtest")]
    pairs = [(row[: 3 * (place % 9) + 8], row) for place, row in enumerate(rows)] + [("", rows[0]), (rows[1], rows[1])]
    assert summed(pairs) == pytest.approx(corpus(pairs), abs=1e-9)
