"""What the shipped policies do to equal models, and what they see, by simulation at the sizes of their suites.

    python benchmarks/gate_policies.py [nights]

Siblings differ in 10 % of their answers, in both directions alike; documents of one passage turn together half of the
time. Tasks that are no right-or-wrong (chrF++, F0.5, bits) have paired differences with a standard deviation of 15
points (0.02 bits). Sizes and passages are those of the public data sets. The figures of docs/gating.md come from here.
"""

from __future__ import annotations

import json
import sys
from collections import Counter

import numpy as np

from estbench import stats
from estbench.gate.policy import Policy, read, shipped
from estbench.gate.verdict import Row, judge, overall

DISCORDANCE = 0.1
SPREAD = {"points": 0.15, "bits": 0.02}
# documents, passages (0: each on its own), kind of the metric
SIZES = {
    "estcopa": (500, 0, "binary"),
    "estcopa_chat": (1000, 500, "binary"),
    "belebele_et": (900, 488, "binary"),
    "exam_et": (1614, 0, "binary"),
    "estqa": (603, 130, "binary"),
    "unimorph_et": (1000, 500, "binary"),
    "word_meanings_et": (1000, 0, "binary"),
    "ifeval_et": (541, 0, "binary"),
    "valence_et": (1000, 0, "binary"),
    "multiblimp_est": (1000, 0, "binary"),
    "sib200_et": (204, 0, "binary"),
    "copytext_et": (100, 0, "binary"),
    "flores_en_et": (1012, 281, "points"),
    "flores_et_en": (1012, 281, "points"),
    "estgec_l2": (2029, 156, "points"),
    "errnews": (1000, 0, "points"),
    "bits_per_byte_et": (1012, 281, "bits"),
}
MINI = (320, 0, "binary")


def row(rng: np.random.Generator, policy: Policy, task: str) -> Row:
    """A task of one night."""
    size = SIZES.get(task) or SIZES.get(task.removesuffix("_chat"), MINI)
    n, passages, kind = size
    clusters = [f"{task}{at * passages // n}" for at in range(n)] if passages else None
    unit = "bits" if kind == "bits" else "points"
    if kind == "binary":
        u = rng.random(n)
        if passages:
            u = np.where(rng.random(n) < 0.5, rng.random(passages)[np.arange(n) * passages // n], u)
        same = u > 0.4 + DISCORDANCE
        a, b = (u < DISCORDANCE / 2) | same, ((u >= DISCORDANCE / 2) & (u < DISCORDANCE)) | same
        values = a.astype(float), b.astype(float)
    else:
        half = rng.normal(0, SPREAD[unit], n) / 2
        values = 0.5 + half, 0.5 - half
    found = stats.difference(*values, clusters, units=[f"{task}-{at}" for at in range(n)])
    margin = policy.margin_of(task, "bits" if unit == "bits" else "proportion")
    return Row(
        task, True, policy.rule(task), difference=found, margin=margin, unit=unit, scale=1 if unit == "bits" else 100
    )


def simulate(policy: Policy, nights: int) -> dict[str, object]:
    """Shares of nights by status, and the falls that are found four times in five."""
    rng = np.random.default_rng(3)
    found = [judge(policy, [row(rng, policy, task) for task in policy.tasks], policy.alpha) for _ in range(nights)]
    counts = Counter(overall(*night) for night in found)
    pools = [pool.detectable for pool, _ in found if pool and pool.detectable]
    falls = {
        task: round(float(np.mean([tasks[at].detectable or np.nan for _, tasks in found])), 3)
        for at, task in enumerate(policy.tasks)
    }
    return {
        "nights": nights,
        "share": {status: round(count / nights, 3) for status, count in counts.most_common()},
        "mean_falls_seen": round(float(np.mean(pools)), 2),
        "falls_seen": falls,
    }


if __name__ == "__main__":
    nights = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    print(json.dumps({name: simulate(read(name), nights) for name in shipped()}, indent=1))
