"""Whole texts: every token is predicted once, and bits per byte equal lm-eval's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_parity import lm_eval_results, offline_yaml, ours
from test_tokens import LOADED
from worlds import CHOICE, World

from estbench import registry
from estbench.tokens import Tokens

ROLLING = {
    **CHOICE,
    "task": "texts",
    "dataset_path": "own/texts",
    "output_type": "loglikelihood_rolling",
    "fewshot_split": None,
    "fewshot_config": None,
    "num_fewshot": 0,
    "doc_to_text": "",
    "doc_to_choice": None,
    "doc_to_target": "{{text}}",
    "metric_list": [
        {"metric": name, "aggregation": aggregation, "higher_is_better": False}
        for name, aggregation in (("bits_per_byte", "bits_per_byte"), ("word_perplexity", "weighted_perplexity"))
    ],
    "metadata": {**CHOICE["metadata"], "primary": "bits_per_byte", "chance": 8.0},
}


@pytest.mark.filterwarnings("ignore")  # lm-eval's own
def test_bits_per_byte_equal_lm_eval_also_beyond_the_context(
    tmp_path: Path, home: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path / "world")
    monkeypatch.setattr(registry, "project_file", lambda name: world.folder / name)
    # no two alike: of windows with the same ids lm-eval computes one, whatever part of each is to be predicted
    sentences = [f"Õues sajab {7 * i} korda vihma ja žürii sööb öösel {i} jäätist." for i in range(41)]
    world.write(ROLLING)
    world.fill("texts", [{"text": " ".join(sentences[:n])} for n in (1, 3, 20, 41)])
    run = ours("texts", tiny_model, world.data)
    assert len(list(run.responses("texts"))) > 4 + 2  # the long ones took several windows
    (tmp_path / "offline").mkdir()
    offline_yaml(registry.Registry().task("texts"), world.data, tmp_path / "offline")
    # without it lm-eval puts a second BOS in front of a text, and counts that among what the model predicts
    found = lm_eval_results(tmp_path / "offline", ["texts"], tiny_model, add_bos_token=False)
    theirs = found["results"]["texts"]
    scores = {score.metric: score for score in run.scores()}
    assert set(scores) == {"bits_per_byte", "word_perplexity"}
    for name, score in scores.items():
        assert score.value == pytest.approx(theirs[f"{name},none"], rel=1e-6)
    assert not scores["bits_per_byte"].higher_is_better  # lm-eval's, not ours of that name: no interval


@given(length=st.integers(1, 70), most=st.integers(2, 30))
def test_windows_predict_each_token_once_and_fit_the_context(tiny_model: Path, length: int, most: int) -> None:
    tokens = LOADED.setdefault(tiny_model, Tokens(tiny_model))
    text = "ö" * length
    whole = tokens.encode([text])[0]
    windows = tokens.windows(text, most)
    np.testing.assert_array_equal(np.concatenate([ids for _, ids in windows]), whole[1:])
    place = 1
    for context, ids in windows:
        assert len(context) >= 1 and len(context) + len(ids) - 1 <= most
        np.testing.assert_array_equal(whole[place - len(context) : place], context)
        place += len(ids)
