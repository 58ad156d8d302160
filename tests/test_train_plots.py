"""The curves of a run: the same file for the same log, for those who see it and those who don't, in both themes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from estbench_training.cpt import plots
from estbench_training.cpt.logs import Log, Record

SVG = "{http://www.w3.org/2000/svg}"


def run(folder: Path, steps: int = 30, scores: bool = True, **last: Any) -> None:
    with Log(folder, steps=steps, tensorboard=False, say=lambda line: None) as log:
        for step in range(1, steps + 1):
            row: dict[str, Any] = {"loss": 3 - step / 50, "rate": 1e-5 * step / steps, "grad_norm": 0.5}
            row |= last if step == steps else {}
            log.write(Record(step, 1000 * step, tokens_per_second=1.0, **row))
            if scores and step % 10 == 0:
                log.evaluation(step, 1000 * step, {"et <all>": 0.3 + step / 100, "en": 0.6})


def test_the_same_log_gives_the_same_bytes(tmp_path: Path) -> None:
    found = []
    for name in ("a", "b"):
        run(tmp_path / name)
        path = plots.curves(tmp_path / name, "demo-et-cpt")
        assert path is not None
        found.append(path.read_bytes())
    assert found[0] == found[1]
    assert not re.search(rb"20\d\d-\d\d-\d\d|[Mm]atplotlib v", found[0])
    run(tmp_path / "c", loss=9.0)
    other = plots.curves(tmp_path / "c", "demo-et-cpt")
    assert other is not None and other.read_bytes() != found[0]


def test_it_says_in_words_what_it_shows(tmp_path: Path) -> None:
    run(tmp_path)
    root = ElementTree.fromstring(plots.draw(plots.logs.read(tmp_path / "log.jsonl"), "Šokolaad & tee"))
    assert root.get("role") == "img" and root.get("aria-labelledby") == "title desc"
    title, words = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert title is not None and title.text == "Šokolaad & tee" and title.get("id") == "title"
    assert words is not None and words.text == (
        "Training curves over 30,000 tokens in 30 steps. Loss went from 2.980 to 2.400. The learning rate was at most "
        "1e-05 and is 1e-05 at the end. Evaluated 3 times; the last scores: en 0.600, et <all> 0.600."
    )
    labels = {element.text for element in root.iter(f"{SVG}text")}
    assert {"loss (nats a token)", "learning rate", "gradient norm", "evaluation", "tokens", "et <all>"} <= labels
    assert {"10k", "20k", "30k"} <= labels


def luminance(colour: str) -> float:
    """WCAG 2.2's relative luminance."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_and_curves_stand_out_in_both_themes(theme: int, tmp_path: Path) -> None:
    for colour, least in ((plots.INK, 7), (plots.ACCENT, 4.5), (plots.SECOND, 4.5), (plots.GOOD, 4.5)):
        light, dark = sorted((luminance(colour[theme]), luminance(plots.PAPER[theme])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= least
    run(tmp_path)
    svg = plots.draw(plots.logs.read(tmp_path / "log.jsonl"), "t")
    rules = svg[svg.index("@media (prefers-color-scheme: dark)") : svg.index("</style>")]
    used = set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", svg.replace(rules, "")))
    assert used and all(f": {colour}" in rules for colour in used)  # no colour is left as it was


def test_a_log_without_steps_has_no_curves(tmp_path: Path) -> None:
    assert plots.curves(tmp_path) is None
    Log(tmp_path, steps=3, tensorboard=False).close()
    assert plots.curves(tmp_path) is None and not (tmp_path / "curves.svg").exists()


def test_one_step_a_loss_that_is_no_number_and_no_evaluations_are_drawn(tmp_path: Path) -> None:
    run(tmp_path / "one", steps=1, scores=False)
    assert plots.curves(tmp_path / "one") is not None
    run(tmp_path / "nan", steps=5, scores=False, loss=float("nan"), verdict="skip", reason="loss is nan")
    path = plots.curves(tmp_path / "nan")
    assert path is not None
    text = path.read_text("utf-8")
    assert "1 step was bad" in text and ">evaluation<" not in text and "Loss went from 2.980 to 2.920" in text


def test_a_long_run_is_thinned(tmp_path: Path) -> None:
    one = {"kind": "step", "rate": 1.0, "grad_norm": 1.0}
    rows = [one | {"step": step, "tokens": step, "loss": 1.0 + step % 7} for step in range(1, 50_000)]
    assert len(plots.draw(rows, "long")) < 400_000
