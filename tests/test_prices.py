"""What answers cost: a price table and a ledger of tokens."""

from __future__ import annotations

from pathlib import Path

import pytest

from estbench.engines import prices
from estbench.engines.options import OpenAIOptions
from estbench.engines.replies import BadReply
from estbench.errors import ConfigError


def test_a_price_table_is_read_and_its_slips_are_told(tmp_path: Path) -> None:
    table = tmp_path / "prices.yaml"
    table.write_text(
        "currency: EUR\nmodels:\n  est-1: {input: 2, cached: 0.5, output: 8}\n  bad: {input: x, output: 1}\n"
    )
    options = OpenAIOptions("http://h/v1", prices=str(table))
    found = prices.of(options, "est-1")
    assert found is not None and found.currency == "EUR"
    ledger = prices.Ledger()
    ledger.add(prices.Usage(prompt=1_000_000, completion=500_000, cached=400_000, reasoning=100_000))
    assert found.cost(ledger) == pytest.approx(0.6 * 2 + 0.4 * 0.5 + 0.5 * 8)
    for model, said in (("est-2", "Did you mean 'est-1'"), ("bad", "input is no price")):
        with pytest.raises(ConfigError, match=said):
            prices.of(options, model)
    with pytest.raises(ConfigError, match="can't be read"):
        prices.of(OpenAIOptions("http://h/v1", prices=str(tmp_path / "none.yaml")), "est-1")
    with pytest.raises(ConfigError, match="both"):
        prices.of(OpenAIOptions("http://h/v1", input_price=1.0), "est-1")


def test_what_is_billed_and_not_told_as_written_is_counted() -> None:
    told = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 40}
    assert prices.usage_of({"usage": told}) == prices.Usage(10, 30)
    assert prices.usage_of({}) is None
    for wrong in ({**told, "prompt_tokens": -1}, {**told, "prompt_tokens_details": {"cached_tokens": 11}}, [1]):
        with pytest.raises(BadReply):
            prices.usage_of({"usage": wrong})
