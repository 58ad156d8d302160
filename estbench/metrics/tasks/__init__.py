"""What task files name: `process_results: !function functions.qa_results`, `aggregation: !function functions.…`.

A results function takes a document and the model's answers (the first one counts) and returns values by metric: a
number, or the sufficient statistics of a corpus metric as a list. `parse_failure` is 1 where no answer was found, which
counts as wrong. They work in estbench and in lm-eval alike: values and aggregations are lm-eval's.
"""

from estbench.metrics.tasks.answers import *  # noqa: F403
from estbench.metrics.tasks.choices import *  # noqa: F403
from estbench.metrics.tasks.correction import *  # noqa: F403
from estbench.metrics.tasks.entities import *  # noqa: F403
from estbench.metrics.tasks.instructions import *  # noqa: F403
from estbench.metrics.tasks.labels import *  # noqa: F403
from estbench.metrics.tasks.modelling import *  # noqa: F403
from estbench.metrics.tasks.morphology import *  # noqa: F403
from estbench.metrics.tasks.open_answers import *  # noqa: F403
from estbench.metrics.tasks.rows import *  # noqa: F403
from estbench.metrics.tasks.summary import *  # noqa: F403
from estbench.metrics.tasks.translation import *  # noqa: F403
