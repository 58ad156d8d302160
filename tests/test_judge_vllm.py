"""Judging through a real vLLM server: a tiny model with random weights, whose every answer fits the schema.

What such a judge says means nothing; that it can't say anything but a verdict is what is shown.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from estbench_judges import items, rubrics
from estbench_judges.judging import ORDERS
from estbench_judges.rendering import Case
from judge_world import answered, text_of, write_prompts

from estbench.cli import main
from estbench.runs import Run, read_lines

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
N = 6  # documents
WAYS = {
    "pairwise": "helpfulness",
    "pointwise": "helpfulness",
    "checklist": "instruction_following",
    "equivalence": "equivalence",
}


@pytest.fixture(scope="module")
def judge_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with a context of 8,192 tokens and a tokenizer that has read judges' prompts."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    texts = [
        message["content"]
        for item in items.unanswered("estinstruct_chat")[:20]
        for message in Case(items_with(item), rubrics.load("helpfulness"), "pairwise", other=item.anchors).messages()
    ]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<|im_end|>", "<|im_start|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=2000, special_tokens=special, initial_alphabet=alphabet)
    )
    folder = tmp_path_factory.mktemp("models") / "tiny-judge"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", model_max_length=8192)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=8192, eos_token_id=0, bos_token_id=None, tie_word_embeddings=False,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def items_with(item: items.Item) -> items.Item:
    """The item with the anchor's answers as the model's."""
    import dataclasses

    return dataclasses.replace(item, answers=item.anchors)


@pytest.fixture(scope="module")
def server(vllm_environment: Path, judge_model: Path) -> Iterator[Any]:
    from conftest import HOME

    from estbench.engines.options import VllmOptions
    from estbench.engines.vllm_server import Server, recipe_for

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESTBENCH_HOME", str(HOME))
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        options = VllmOptions(max_model_len=8192)
        started = Server(recipe_for(options), judge_model, options, print)
    with started, pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_API_KEY", os.environ[started.key_variable])  # what engine=vllm sends to a server that runs
        yield started


@pytest.fixture
def run(home: Path, tmp_path: Path) -> Run:
    prompts = write_prompts(tmp_path / "own.jsonl", N, two_turns=2)
    return answered(prompts, lambda prompt: text_of(0.6, prompt), name="mudel")


def panel(server: Any, model: Path, path: Path, engine: str) -> str:
    """A panel file with the one judge, through this engine."""
    row = {"model": str(model), "name": "tiny", "url": server.url, "engine": engine}
    row |= {"model": server.model, "key_variable": server.key_variable} if engine == "openai" else {}
    path.write_text(json.dumps({"judges": [row]}), "utf-8")  # JSON is YAML
    return str(path)


@pytest.mark.parametrize("engine", ["openai", "vllm"])
@pytest.mark.parametrize(("mode", "reasons"), [("pairwise", "true"), ("checklist", "false"), ("equivalence", "true")])
def test_every_answer_of_a_real_server_fits_the_schema(
    server: Any, judge_model: Path, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: str,
    reasons: str, engine: str,
) -> None:  # fmt: skip
    who = panel(server, judge_model, tmp_path / "panel.yaml", engine)
    words = [f"run={run.id}", f"judges={who}", "task=own_chat", f"rubric={WAYS[mode]}", f"mode={mode}"]
    assert main(["judge", *words, f"reasons={reasons}", "output=json"]) == 0, capsys.readouterr().err
    [row] = json.loads(capsys.readouterr().out)
    [judge] = row["judges"]
    assert judge["valid"] == judge["cases"] == N * (len(ORDERS) if mode == "pairwise" else 1)
    assert judge["again"] == 0 and not judge["missing"]  # at the first try
    assert row["scores"][0]["n"] == N


@pytest.mark.parametrize("engine", ["openai", "vllm"])
def test_label_probabilities_of_a_real_server_are_those_of_the_model(
    server: Any, judge_model: Path, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], engine: str
) -> None:
    """A random model's labels cover little: it falls back to written grades, and the report says so. What it was asked
    is what transformers computes for the same prompt."""
    who = panel(server, judge_model, tmp_path / "panel.yaml", engine)
    words = [f"run={run.id}", f"judges={who}", "task=own_chat", "rubric=helpfulness", "mode=pointwise"]
    assert main(["judge", *words, "output=json"]) == 0, capsys.readouterr().err
    [row] = json.loads(capsys.readouterr().out)
    [judge] = row["judges"]
    assert judge["expected"] == 0 and judge["valid"] == N
    calls = list(read_lines(run.path / "judgments" / "own_chat.helpfulness.pointwise.jsonl.gz"))
    labels = [call["votes"][0]["calls"][0] for call in calls]
    assert all(one["step"] == "label" and "cover" in one["invalid"] for one in labels)
    if engine == "vllm":
        ours = [one["labels"] for one in labels]
        here = hf_labels(judge_model, run, tmp_path, capsys)
        for a, b in zip(ours, here, strict=True):
            assert {label: pytest.approx(value, abs=2e-3) for label, value in a.items()} == b


def hf_labels(model: Path, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, float]]:
    """The same by transformers in this process."""
    assert main(["judge", f"run={run.id}", f"judge={model}", "task=own_chat", "rubric=helpfulness", "mode=pointwise",
                 "output=json", "limit=1"]) in (0, 4), capsys.readouterr().err  # fmt: skip
    capsys.readouterr()
    calls = read_lines(run.path / "judgments" / "own_chat.helpfulness.pointwise.jsonl.gz")
    return [call["votes"][0]["calls"][0]["labels"] for call in calls]
