"""What the task files of this folder call: lm-eval looks `!function functions.NAME` up beside the YAML."""

from estbench.metrics.tasks import *  # noqa: F403
