"""How sure a number is: intervals, paired differences, ranks, noise between checkpoints. numpy only.

    proportion_interval([1, 0, 1, …], clusters)      a score's 95 % interval                    intervals
    difference(a, b, clusters=…).p_below()           is a worse than b on the same documents?   paired
    pooled([(difference, weight), …])                one answer over several tasks              pooled
    holm(p_values), benjamini_hochberg(p_values)     many questions at once                     families

`ranks`, `noise` and `sequential` are imported by those who need them.
"""

from estbench.stats.distributions import t_quantile
from estbench.stats.families import benjamini_hochberg, holm
from estbench.stats.intervals import Interval, corpus_interval, mean_interval, proportion_interval
from estbench.stats.paired import Difference, corpus_difference, difference, identical
from estbench.stats.pooled import pooled

__all__ = [
    "Difference",
    "Interval",
    "benjamini_hochberg",
    "corpus_difference",
    "corpus_interval",
    "difference",
    "holm",
    "identical",
    "mean_interval",
    "pooled",
    "proportion_interval",
    "t_quantile",
]
