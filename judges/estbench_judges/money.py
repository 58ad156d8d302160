"""What judging costs: a plan that is priced before anything is asked, and a budget that all judges share.

rows = plan(assignments, judges, sampling)       # a row a task and judge: calls, tokens, the most it can cost
budget = Budget(judges, most=5.0)                # budget.before(judge) limits each to what is left
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from estbench import engines
from estbench.engines import prices
from estbench.engines.openai_api import OpenAIEngine
from estbench.engines.options import OpenAIOptions
from estbench.errors import ConfigError
from estbench.responses import ResponseStore
from estbench_judges import ledger
from estbench_judges.asking import Asking, Sampling
from estbench_judges.judges import Judge, options_of
from estbench_judges.judging import Assignment


class Budget:
    """The most that all judges together may cost, in the currency of their prices."""

    def __init__(self, judges: Sequence[Judge], most: float | None) -> None:
        self.judges, self.most = judges, most

    def before(self, judge: Judge) -> None:
        """Limit a judge to what the others have left."""
        if self.most is None or not isinstance(judge.engine, OpenAIEngine):
            return
        others = (one.engine for one in self.judges if one is not judge)
        left = self.most - sum(ledger.billed(engine.notes()) for engine in others if engine is not None)
        judge.engine.options = dataclasses.replace(judge.engine.options, max_cost=max(0.0, left))


def check_currencies(judges: Sequence[Judge], most: float | None) -> None:
    """ConfigError where a budget is shared between currencies."""
    if most is None:
        return
    found = {known.currency for one in judges if (options := options_of(one)) and (known := _prices(one, options))}
    if len(found) > 1:
        raise ConfigError(f"max_cost= is one amount, and the judges' prices are in {' and '.join(sorted(found))}.")


def plan(assignments: Sequence[Assignment], judges: Sequence[Judge], sampling: Sampling) -> list[dict[str, Any]]:
    """What is asked of whom and what it costs at most; nobody is asked. Retries come on top: the same once more."""
    return [_row(given, judge, sampling) for judge in judges for given in assignments]


def _row(given: Assignment, judge: Judge, sampling: Sampling) -> dict[str, Any]:
    options = options_of(judge)
    known = bool(judge.response_id)
    if judge.tokens is None:
        judge.model = engines.find_model(judge.settings, None, fetch=False)
        judge.tokens = engines.tokens_of(judge.settings, judge.model)
    label = given.mode == "pointwise" and not sampling.temperature
    requests = Asking(judge, given.cases(label), sampling).requests()
    stored: dict[str, Any] = {}
    if known:
        with ResponseStore(judge.response_id) as store:
            stored = store.load(requests.keys())
    left = [request for key, request in requests.items() if key not in stored]
    plain = options or OpenAIOptions(url="http://127.0.0.1")
    read, written = prices.estimate(left, plain)
    most = [prices.bounds(request, plain) for request in left]
    if label:  # and where labels don't cover enough, grades are written
        most += [prices.bounds(r, plain) for r in Asking(judge, given.cases(), sampling).requests().values()]
    price = _prices(judge, options) if options else None
    return {
        "judge": judge.name,
        "task": given.task,
        "rubric": given.rubric.id,
        "mode": given.mode,
        "documents": len(given.items),
        "without_call": len(given.fixed),
        "calls": len(requests),
        "stored": len(stored) if known else None,
        "tokens_in": read,
        "tokens_out_at_most": written,
        "cost_at_most": round(price.most(sum(a for a, _ in most), sum(b for _, b in most)), 4) if price else None,
        "currency": price.currency if price else None,
    }


def _prices(judge: Judge, options: OpenAIOptions) -> prices.Prices | None:
    return prices.of(dataclasses.replace(options, max_cost=None), judge.settings.model)
