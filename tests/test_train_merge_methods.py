"""The formulas of merging against plain ones over whole tensors, and what holds for each of them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import merge_world as world
import numpy as np
import pytest
import torch
from estbench_training.merge import methods, stream
from hypothesis import given, settings
from hypothesis import strategies as st
from merge_world import make, same, weights
from test_train_merge import merge

from estbench import cards

UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(autouse=True)
def _small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESTBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(stream, "SLICE", 64)  # several slices a tensor


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A base in fp32 and two models that were trained from it."""
    base = make(tmp_path / "base", seed=1, dtype=torch.float32)
    dice = torch.Generator().manual_seed(9)
    tuned = [
        make(
            tmp_path / name,
            dtype=torch.float32,
            template=world.TEMPLATE,
            change={n: t + 0.05 * torch.randn(t.shape, generator=dice) for n, t in weights(base).items()},
        )
        for name in ("a", "b")
    ]
    return base, tuned[0], tuned[1]


def run(
    place: Path, models: tuple[Path, Path, Path], method: str, *words: str, based: bool = True
) -> dict[str, torch.Tensor]:
    base, a, b = models
    given_words = [f"base={base}", *words] if based else list(words)
    return weights(merge(place, *given_words, method=method, parts=f"{a},{b}"))


def whole(models: tuple[Path, Path, Path]) -> list[torch.Tensor]:
    return [weights(model)[UP].double() for model in models]


def close(made: torch.Tensor, expected: torch.Tensor) -> bool:
    return torch.equal(made, expected.float())


def test_task_arithmetic_adds_what_each_model_has_learnt(tmp_path: Path, models: tuple[Path, Path, Path]) -> None:
    made = run(tmp_path / "m", models, "task", "weights=0.7,0.4", "scale=0.5", "scales.*.mlp.*=2")
    base, a, b = whole(models)
    assert torch.allclose(made[UP].double(), base + 2 * (0.7 * (a - base) + 0.4 * (b - base)), atol=1e-7, rtol=0)
    one = weights(merge(tmp_path / "n", method="task", base=models[0], parts=models[1]))
    assert same(one, weights(models[1]))


def test_an_average_is_the_weighted_mean_and_of_equal_models_the_model(
    tmp_path: Path, models: tuple[Path, Path, Path]
) -> None:
    made = run(tmp_path / "m", models, "average", "weights=1,3", based=False)
    _, a, b = whole(models)
    assert close(made[UP], a / 4 + 3 * b / 4)
    assert json.loads((tmp_path / "m" / "merge.json").read_text())["shares"] == [0.25, 0.75]
    card = cards.TrainingCard.from_dict(cards.read_training_card(tmp_path / "m"))
    assert [one.name for one in card.lineage] == ["a", "m"] and [one.name for one in card.parents] == ["b"]
    three = ",".join([str(models[1])] * 3)
    assert same(weights(merge(tmp_path / "n", method="average", parts=three)), weights(models[1]))


def ties_reference(base: torch.Tensor, parts: list[torch.Tensor], share: list[float], density: float) -> torch.Tensor:
    """TIES element by element, over whole tensors, by sorting."""
    kept = []
    for part in parts:
        tau = part - base
        size = tau.abs().float().flatten()
        least = size.sort(descending=True).values[math.ceil(density * len(size)) - 1]
        kept.append(torch.where(tau.abs().float() >= least, tau, 0))
    out = base.clone().flatten()
    for at in range(out.numel()):
        values = [one.flatten()[at].item() for one in kept]
        total = sum(w * v for w, v in zip(share, values, strict=True))
        agree = [(w, v) for w, v in zip(share, values, strict=True) if v * total > 0]
        if agree:
            out[at] += sum(w * v for w, v in agree) / sum(w for w, _ in agree)
    return out.view_as(base)


@pytest.mark.parametrize("density", [0.2, 0.55, 1.0])
def test_ties_trims_elects_and_averages(tmp_path: Path, models: tuple[Path, Path, Path], density: float) -> None:
    made = run(tmp_path / "m", models, "ties", "weights=1,0.5", f"density={density}")
    base, a, b = whole(models)
    expected = ties_reference(base, [a, b], [1, 0.5], density)
    assert torch.allclose(made[UP].double(), expected, atol=1e-7, rtol=0)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-4, 4, width=16), min_size=1, max_size=60), st.floats(0.01, 0.99))
def test_the_threshold_of_ties_is_the_kth_largest(values: list[float], density: float) -> None:
    from estbench_training.merge.combine import HALVES, _bin

    found = torch.tensor(values).abs()
    bits = found.view(torch.int32).numpy()
    left = math.ceil(density * len(values))
    high, rest = _bin(np.bincount(bits >> 16, minlength=HALVES), left)
    low, _ = _bin(np.bincount(bits[bits >> 16 == high] & (HALVES - 1), minlength=HALVES), rest)
    threshold = np.array(high << 16 | low, np.int32).view(np.float32)
    assert threshold == found.sort(descending=True).values[left - 1]


def test_dare_drops_at_random_and_keeps_the_sum_in_the_mean(tmp_path: Path, models: tuple[Path, Path, Path]) -> None:
    base = weights(models[0])
    one = weights(merge(tmp_path / "m", method="dare", base=models[0], parts=models[1], drop=0.75, seed=3))
    tuned = weights(models[1])
    dropped = torch.cat([(one[n] == base[n]).flatten() for n in one])
    assert abs(dropped.double().mean() - 0.75) < 4 * math.sqrt(0.75 * 0.25 / len(dropped))
    expected = base[UP].double() + 4 * (tuned[UP].double() - base[UP].double())
    kept = one[UP] != base[UP]
    assert torch.allclose(one[UP][kept].double(), expected[kept], atol=1e-7, rtol=0)
    other = weights(merge(tmp_path / "n", method="dare", base=models[0], parts=models[1], drop=0.75, seed=4))
    assert not same(one, other)
    none = weights(merge(tmp_path / "z", method="dare", base=models[0], parts=models[1], drop=0))
    assert torch.allclose(none[UP], tuned[UP], atol=1e-7, rtol=0)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 20).map(lambda at: 8 * at), st.integers(1, 100))
def test_what_dare_keeps_is_by_position(start: int, count: int) -> None:
    whole = methods.kept_by_dare(1, "w", 0, 0, start + count, 0.5)
    assert np.array_equal(methods.kept_by_dare(1, "w", 0, start, count, 0.5), whole[start:])
    assert not np.array_equal(
        methods.kept_by_dare(1, "w", 0, 0, 400, 0.5), methods.kept_by_dare(1, "w", 1, 0, 400, 0.5)
    )
    assert not np.array_equal(
        methods.kept_by_dare(1, "w", 0, 0, 400, 0.5), methods.kept_by_dare(1, "v", 0, 0, 400, 0.5)
    )


def test_slerp_goes_along_the_arc(tmp_path: Path, models: tuple[Path, Path, Path]) -> None:
    far = make(tmp_path / "far", seed=77, dtype=torch.float32)
    pair = (models[0], models[1], far)
    made = run(tmp_path / "m", pair, "slerp", "t=0.3", "scales.*norm*=0", "scales.lm_head*=1", based=False)
    _, a, b = whole(pair)
    angle = math.acos(float((a * b).sum() / (a.norm() * b.norm())))
    expected = (math.sin(0.7 * angle) * a + math.sin(0.3 * angle) * b) / math.sin(angle)
    assert torch.allclose(made[UP].double(), expected, atol=1e-7, rtol=0)
    for name, model in {"model.norm.weight": models[1], "lm_head.weight": far}.items():
        assert torch.equal(made[name], weights(model)[name])
    assert torch.allclose(methods.slerp(a[0], a[0] * 1.0001, 0.5, (1, 1, 1)), a[0] * 1.00005)  # parallel: a line


def test_model_stock_goes_as_far_as_the_models_agree(tmp_path: Path, models: tuple[Path, Path, Path]) -> None:
    base, a, b = whole(models)
    shared = torch.randn(a.shape, dtype=torch.float64)
    near = make(tmp_path / "near", like=models[1], dtype=torch.float32, change={UP: (a + shared).float()})
    next_ = make(tmp_path / "next", like=models[2], dtype=torch.float32, change={UP: (b + shared).float()})
    made = run(tmp_path / "m", (models[0], near, next_), "stock")
    _, a, b = whole((models[0], near, next_))
    one, two = a - base, b - base
    cosine = float((one * two).sum() / (one.norm() * two.norm()))
    assert cosine > 0.9
    ratio = 2 * cosine / (1 + cosine)
    assert torch.allclose(made[UP].double(), base + ratio * (one + two) / 2, atol=1e-6, rtol=0)
    assert methods.stock_ratio(np.array([[1.0, -0.5], [-0.5, 1.0]])) == 0  # they disagree: the base stays
    assert methods.stock_ratio(np.ones((3, 3))) == pytest.approx(1)


def test_other_methods_take_the_template_of_the_first_part_and_the_type_of_the_base(
    tmp_path: Path, models: tuple[Path, Path, Path]
) -> None:
    run(tmp_path / "m", models, "task", "dtype=bfloat16")
    assert (tmp_path / "m" / "chat_template.jinja").read_text() == world.TEMPLATE
    assert {tensor.dtype for tensor in weights(tmp_path / "m").values()} == {torch.bfloat16}


def test_skipped_embeddings_are_those_of_the_base(tmp_path: Path, models: tuple[Path, Path, Path]) -> None:
    made = run(tmp_path / "m", models, "ties", "density=0.5", "embeddings=skip")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert torch.equal(made[name], weights(models[0])[name])
    assert not torch.equal(made[UP], weights(models[0])[UP])
