"""SFT learns what the template marks and nothing else, packed as unpacked, and goes on where it was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from chat_world import model, save, words
from estbench_training import show
from estbench_training.cpt import plots
from estbench_training.cpt.logs import read
from estbench_training.templates import IGNORED, open_chat
from sft_world import SAID, STAGE, TEXTS, World, losses, same, talk, weights, world

from estbench.errors import ConfigError, EngineError, ModelError

__all__ = ["world"]  # a fixture

CURVES = plots.curves


def test_the_model_that_comes_out_talks_in_its_template_and_knows_where_to_stop(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoTokenizer, GenerationConfig

    from estbench.checkpoint import find
    from estbench.tokens import Tokens

    monkeypatch.setattr(plots, "curves", CURVES)
    folder = world.train()
    out = folder / "model"
    assert (folder / "curves.svg").is_file()
    tokenizer: Any = AutoTokenizer.from_pretrained(out)
    stops = GenerationConfig.from_pretrained(out)
    end, eos = tokenizer.convert_tokens_to_ids(["<|im_end|>", "</s>"])
    assert stops.eos_token_id == [end, eos] and stops.pad_token_id == tokenizer.pad_token_id not in (end, eos)
    assert json.loads((out / "config.json").read_text())["use_cache"] and find(str(out)).has_chat_template
    question = [{"role": "user", "content": "Mis on öö?"}]
    assert Tokens(out).chat([*question]) == "<s><|im_start|>user\nMis on öö?<|im_end|>\n<|im_start|>assistant\n"
    assert "{%- generation %}" in (out / "chat_template.jinja").read_text()
    for text in TEXTS + SAID:
        assert tokenizer(text).input_ids == words()(text).input_ids
    card = json.loads((out / "train_card.json").read_text())
    assert card["stage"] == "sft" and card["kind"] == "chat" and card["tokens"] > 0
    assert {source["name"] for source in card["data"]} == {"even", "odd"}
    assert losses(folder)[-1] < losses(folder)[0] and not (folder / "resume").exists()
    assert any(line.startswith("16 conversations, ") for line in world.said)


def test_the_loss_is_that_of_the_marked_tokens_packed_or_not(world: World) -> None:
    """The first step over all rows against a loss by hand."""
    import torch
    from transformers import AutoModelForCausalLM

    chat = open_chat(words(), "chatml")
    net: Any = AutoModelForCausalLM.from_pretrained(world.folder / "base", dtype=torch.float32)
    total, count = 0.0, 0
    for place in range(16):
        row = chat.encode([talk(place)["messages"]])[0]
        logits = net(torch.tensor([row.ids])).logits[0, :-1]
        target = torch.tensor(row.labels[1:])
        total += torch.nn.functional.cross_entropy(logits, target, ignore_index=IGNORED, reduction="sum").item()
        count += int((target != IGNORED).sum())
    whole = {"steps": 1, "batch": 16, "micro_batch": 16, "warmup": 0}
    [packed] = losses(world.train("packed", **whole))
    [unpacked] = losses(world.train("unpacked", packing=False, **whole))
    [accumulated] = losses(world.train("accumulated", packing=False, **{**whole, "micro_batch": 2}))
    for loss in (packed, unpacked, accumulated):
        assert loss == pytest.approx(total / count, abs=2e-6)


def test_packing_trains_the_same_model_as_padding(world: World) -> None:
    import torch

    whole = {"steps": 1, "batch": 16, "micro_batch": 4, "warmup": 0, "rate": 1e-3}
    whole["optimizer"] = {"betas": [0.0, 0.0], "eps": 1.0, "weight_decay": 0.0}  # an update in proportion to gradients
    one, other = weights(world.train("a", **whole)), weights(world.train("b", packing=False, **whole))
    assert max((one[name] - other[name]).abs().max() for name in one) < 1e-8 < 1e-5
    start: Any = model(words()).state_dict()
    moved = max((one[name] - start[name]).abs().max() for name in one if name in start)
    assert moved > torch.finfo(torch.float32).eps, "nothing was learnt"


def test_a_kernel_that_lets_conversations_see_each_other_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaForCausalLM

    plain = LlamaForCausalLM.forward

    def leaky(self: Any, *args: Any, position_ids: Any = None, **named: Any) -> Any:
        return plain(self, *args, **named)  # as if nobody had told where conversations begin

    monkeypatch.setattr(LlamaForCausalLM, "forward", leaky)
    with pytest.raises(ModelError, match=r"mixes packed documents.*packing: false"):
        world.train()


def test_same_seed_same_model_bit_for_bit_and_another_seed_another(world: World) -> None:
    first = world.train("one")
    assert same(first, world.train("two")) and not same(first, world.train("three", seed=8))


class Killed(Exception):
    pass


@pytest.mark.parametrize("packing", [True, False])
def test_an_interrupted_training_goes_on_and_ends_with_the_same_model(
    world: World, packing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted in the second epoch, after a checkpoint that was torn while it was written."""
    from estbench_training import tuned

    if packing:
        world.rows([talk(place) for place in range(60)])
    changed = {"packing": packing, "batch": 2, "epochs": 3, "lora": None}
    whole = world.train("whole", **changed)
    steps = len(losses(whole))
    assert steps > 7

    mark = tuned.mark_whole

    def die(folder: Path, key: str) -> None:
        if folder.name == "checkpoint-6":
            raise Killed
        mark(folder, key)

    monkeypatch.setattr(tuned, "mark_whole", die)
    with pytest.raises(Killed):
        world.train("cut", **changed)
    monkeypatch.setattr(tuned, "mark_whole", mark)
    again = world.train("cut", **changed)
    assert any("goes on from step 4" in line for line in world.said)
    assert same(whole, again) and losses(whole) == losses(again) and len(losses(again)) == steps


def test_sigterm_saves_and_ends_for_the_queue_and_the_same_command_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from estbench_training import sft

    changed: dict[str, Any] = {"packing": False, "batch": 2, "save": {"every": 100}}
    whole = world.train("whole", **changed)
    record = sft.Training.record

    def asked(self: sft.Training, step: int, *rest: Any) -> Any:
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return record(self, step, *rest)

    monkeypatch.setattr(sft.Training, "record", asked)
    with pytest.raises(SystemExit) as ended:
        world.train("cut", **changed)
    assert ended.value.code == 75
    monkeypatch.setattr(sft.Training, "record", record)
    assert same(whole, world.train("cut", **changed)) and any("goes on from step 4" in line for line in world.said)


def test_evaluations_get_whole_checkpoints_with_cards_and_the_gate_may_end_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from estbench_training import tuned
    from estbench_training.evaluation import Decision, Point

    from estbench.checkpoint import find

    seen: list[tuple[int, str]] = []

    class Fake:
        def __init__(self, settings: Any, context: Any, steps: int) -> None:
            self.every = settings.every

        def due(self, step: int) -> bool:
            return bool(step % self.every == 0)

        def __call__(self, folder: Path, step: int, tokens: int) -> Decision:
            card = json.loads((folder / "train_card.json").read_text())
            assert find(str(folder)).has_chat_template and card["tokens"] == tokens > 0 and not card["final"]
            seen.append((step, card["name"]))
            return Decision(step == 4, "worse", (Point(step, tokens, card["name"], "run", {"mini": 0.5}),))

        def finish(self) -> Decision:
            return Decision()

        def close(self) -> None:
            pass

    monkeypatch.setattr(tuned, "Evaluator", Fake)
    lora = {"rank": 2, "modules": ["q_proj"]}
    folder = world.train(packing=False, batch=2, evaluate={"every": 2, "tasks": "mini", "where": "here"}, lora=lora)
    assert [step for step, _ in seen] == [2, 4] and seen[0][1] == "demo-sft-step-000002"
    assert len(losses(folder)) == 4 and "worse" in world.said
    assert [row["step"] for row in read(folder / "log.jsonl") if row["kind"] == "evaluation"] == [2, 4]
    assert json.loads((folder / "model" / "train_card.json").read_text())["step"] == 4


KILL = """
import sys
from pathlib import Path
from estbench_training import recipe, stages
stages.run(recipe.load(Path(sys.argv[1])), Path(sys.argv[2]), print)
"""


@pytest.mark.slow
def test_kill_9_and_the_same_command_end_with_the_same_model(world: World) -> None:
    import yaml

    world.rows([talk(place) for place in range(40)])
    changed: dict[str, Any] = {"epochs": 6, "packing": False, "save": {"every": 1}}
    file = world.folder / "recipe.yaml"
    file.write_text(yaml.safe_dump({"name": "demo", "base": "./base", "seed": 7, "stages": [STAGE | changed]}), "utf-8")
    whole = world.train("whole", **changed)
    cut = world.folder / "cut" / whole.name

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", KILL, str(file), str(cut.parent)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    killed = start()
    while len(losses(cut)) < 10:
        assert killed.poll() is None
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (cut / "model").exists()
    assert start().wait(300) == 0
    assert same(whole, cut) and losses(whole) == losses(cut)


@pytest.mark.slow
def test_two_processes_train_the_same_model_as_one(world: World) -> None:
    """DDP by gloo, as torchrun starts it."""
    import yaml

    stage = {**STAGE, "packing": False, "micro_batch": 1}
    file = world.folder / "recipe.yaml"
    file.write_text(yaml.safe_dump({"name": "demo", "base": "./base", "seed": 7, "stages": [stage]}), "utf-8")
    script = world.folder / "train.py"
    script.write_text(KILL, "utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, str(script), str(file), str(world.folder / "two")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "each has a copy of the model (DDP)" in done.stdout
    one, two = world.train("one", packing=False, micro_batch=1), next(iter(world.folder.glob("two/sft-*")))
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)


@pytest.mark.slow
def test_two_processes_with_unequal_rows_have_the_mean_over_all_tokens(world: World) -> None:
    """One has a short answer, the other a long one: the loss is that of their tokens, and not the mean of two means."""
    import torch
    import yaml
    from transformers import AutoModelForCausalLM

    rows = [talk(0), {**talk(1), "messages": [talk(1)["messages"][0], {"role": "assistant", "content": SAID[2] * 3}]}]
    rows[0]["messages"] = [talk(0)["messages"][0], {"role": "assistant", "content": "a"}]
    world.rows(rows)
    chat = open_chat(words(), "chatml")
    net: Any = AutoModelForCausalLM.from_pretrained(world.folder / "base", dtype=torch.float32)
    sums, counts = [], []
    for row in rows:
        encoded = chat.encode([row["messages"]])[0]
        target = torch.tensor(encoded.labels[1:])
        logits = net(torch.tensor([encoded.ids])).logits[0, :-1]
        sums.append(torch.nn.functional.cross_entropy(logits, target, ignore_index=IGNORED, reduction="sum").item())
        counts.append(int((target != IGNORED).sum()))
    assert counts[1] > 10 * counts[0]
    stage = {**STAGE, "packing": False, "max_length": 256, "micro_batch": 1, "batch": 2, "steps": 1, "warmup": 0}
    file, script = world.folder / "recipe.yaml", world.folder / "train.py"
    file.write_text(yaml.safe_dump({"name": "demo", "base": "./base", "seed": 7, "stages": [stage]}), "utf-8")
    script.write_text(KILL, "utf-8")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, str(script), str(file), str(world.folder / "two")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    [loss] = losses(next(iter(world.folder.glob("two/sft-*"))))
    by_token, of_means = sum(sums) / sum(counts), (sums[0] / counts[0] + sums[1] / counts[1]) / 2
    assert abs(by_token - of_means) > 0.01, "the two can't be told apart here"
    assert loss == pytest.approx(by_token, abs=1e-4)


def test_what_is_trained_is_shown_once_with_marks_where_there_is_no_terminal(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.train()
    result, shown = capsys.readouterr()
    assert shown.count("tokens are learnt, those in «»:") == 1 and not result
    assert shown.count("«") == 3 and "«Pime aeg. 🌙<|im_end|>»" in shown


def test_on_a_terminal_what_is_trained_is_coloured() -> None:
    from rich.console import Console

    chat = open_chat(words(), "chatml")
    row = chat.encode([talk(1)["messages"]])[0]
    console = Console(force_terminal=True, width=200)
    with console.capture() as caught:
        console.print(show.coloured(chat.tokenizer, row.ids, row.labels))
    assert "\x1b[1;32mŽürii sõi.<|im_end|>" in caught.get()


# --- other ways to train ----------------------------------------------------------------------------------------------


def test_lora_is_merged_and_leaves_the_rest_as_it_was(world: World) -> None:
    folder = world.train(lora={"rank": 2, "dropout": 0.0, "modules": ["q_proj"]}, template="tulu")
    made, start = weights(folder), model(words()).state_dict()
    changed = {name for name in made if not (made[name] == start[name]).all()}
    assert changed == {f"model.layers.{layer}.self_attn.q_proj.weight" for layer in (0, 1)}
    assert not list((folder / "model").glob("adapter*")) and any("has to know" in line for line in world.said)


def test_neftune_trains_otherwise_and_leaves_no_noise_behind(world: World) -> None:
    plain, noisy = world.train("plain"), world.train("noisy", neftune=5.0)
    assert not same(plain, noisy) and weights(plain).keys() == weights(noisy).keys()


def test_bf16_keeps_fp32_while_it_trains_and_gives_back_the_bases_dtype(world: World) -> None:
    import torch

    tokenizer = words()
    save(world.folder / "base", tokenizer, model(tokenizer).to(torch.bfloat16))
    folder = world.train(precision="bf16", rate=1e-3)
    assert {tensor.dtype for tensor in weights(folder).values()} == {torch.bfloat16}
    assert json.loads((folder / "model" / "config.json").read_text())["dtype"] == "bfloat16"


def test_the_rate_follows_the_schedule_of_the_other_stages(world: World) -> None:
    from estbench_training.cpt.schedule import rate_at

    recipe = world.recipe(schedule="wsd", warmup=2, decay=0.5, min_rate=1e-4)
    folder = world.train(schedule="wsd", warmup=2, decay=0.5, min_rate=1e-4)
    rows = [row for row in read(folder / "log.jsonl") if row["kind"] == "step"]
    settings: Any = recipe.stages[0].settings
    assert [row["rate"] for row in rows] == pytest.approx([rate_at(settings, i, len(rows)) for i in range(len(rows))])


def test_a_loss_that_is_no_number_ends_the_training_with_a_cure(world: World) -> None:
    with pytest.raises(EngineError, match=r"no number: lower rate"):
        world.train(rate=1e30, optimizer={"clip": 0}, warmup=0)


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"template": "chatlm"}, "Did you mean 'chatml'"),
        ({"micro_batch": 3}, "doesn't divide"),
        ({"save": {"keep": 1}}, "keep: has to be 2 or more"),
        ({"replay": {"data": "./x.jsonl", "share": 1.0}}, "share: 1 has to be above 0 and below 1"),
        ({"epochs": 0}, "epochs: 0 has to be above 0"),
        ({"lora": {}, "shard": "full"}, "shard: full is for the whole model"),
        ({"lora": {}, "add_tokens": True}, "train the whole model"),
        ({"lora": {"modules": ["lm_head"]}}, "learns nothing"),
        ({"too_long": "split"}, "not one of error, drop, truncate"),
        ({"packing": "yes"}, "neither true nor false"),
    ],
)
def test_settings_that_cant_be_meant_are_one_line(world: World, changed: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as raised:
        world.recipe(**changed)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"template": "auto"}, "it has none"),
        ({"max_length": 512}, "more than the model's 256 positions"),
        ({"shard": "full"}, "shard: full needs GPUs"),
    ],
)
def test_what_this_model_or_machine_cant_do_is_said_before_training(
    world: World, changed: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        world.train(**changed)


def test_processes_that_cant_share_a_batch_are_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match="can't be shared by 3 processes"):
        world.train()
