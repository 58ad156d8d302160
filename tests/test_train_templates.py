"""What is learnt of a conversation is what the assistant says and its end token, in every format, to the token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from chat_world import model, words
from estbench_training import templates
from estbench_training.templates import FAMILIES, IGNORED, Chat, install, open_chat
from hypothesis import given, settings
from hypothesis import strategies as st

from estbench.errors import ConfigError, DataError, ModelError

TALK = [
    {"role": "system", "content": "Ole lühike."},
    {"role": "user", "content": "Mis on öö?"},
    {"role": "assistant", "content": "Pime aeg. 🌙"},
    {"role": "user", "content": "Ja päev?"},
    {"role": "assistant", "content": "Valge aeg."},
]
TRIMS = ("llama-3.1", "gemma")

# Written by hand from the formats' own pages: (with system and two turns, one question and its prompt).
RENDERED = {
    "llama-3.1": (
        "<s><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
        "Today Date: 26 Jul 2024\n\nOle lühike.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nMis on öö?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nPime aeg. 🌙<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nJa päev?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nValge aeg.<|eot_id|>",
        "<s><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
        "Today Date: 26 Jul 2024\n\n<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nMis on öö?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "apertus": (
        "<s><|system_start|>Ole lühike.<|system_end|>"
        "<|developer_start|>Deliberation: disabled\nTool Capabilities: disabled<|developer_end|>"
        "<|user_start|>Mis on öö?<|user_end|><|assistant_start|>Pime aeg. 🌙<|assistant_end|>"
        "<|user_start|>Ja päev?<|user_end|><|assistant_start|>Valge aeg.<|assistant_end|>",
        "<s><|system_start|>You are Apertus, a helpful assistant created by the SwissAI initiative.\n"
        "Knowledge cutoff: 2024-04\nCurrent date: 2025-09-02<|system_end|>"
        "<|developer_start|>Deliberation: disabled\nTool Capabilities: disabled<|developer_end|>"
        "<|user_start|>Mis on öö?<|user_end|><|assistant_start|>",
    ),
    "gemma": (
        "<s><start_of_turn>user\nOle lühike.\n\nMis on öö?<end_of_turn>\n"
        "<start_of_turn>model\nPime aeg. 🌙<end_of_turn>\n"
        "<start_of_turn>user\nJa päev?<end_of_turn>\n<start_of_turn>model\nValge aeg.<end_of_turn>\n",
        "<s><start_of_turn>user\nMis on öö?<end_of_turn>\n<start_of_turn>model\n",
    ),
    "chatml": (
        "<s><|im_start|>system\nOle lühike.<|im_end|>\n<|im_start|>user\nMis on öö?<|im_end|>\n"
        "<|im_start|>assistant\nPime aeg. 🌙<|im_end|>\n<|im_start|>user\nJa päev?<|im_end|>\n"
        "<|im_start|>assistant\nValge aeg.<|im_end|>\n",
        "<s><|im_start|>user\nMis on öö?<|im_end|>\n<|im_start|>assistant\n",
    ),
    "tulu": (
        "<s><|system|>\nOle lühike.\n<|user|>\nMis on öö?\n<|assistant|>\nPime aeg. 🌙</s>\n"
        "<|user|>\nJa päev?\n<|assistant|>\nValge aeg.</s>",
        "<s><|user|>\nMis on öö?\n<|assistant|>\n",
    ),
    "demo": (
        "<s>Kasutaja: Ole lühike.\nKasutaja: Mis on öö?\nAbiline: Pime aeg. 🌙</s>\n"
        "Kasutaja: Ja päev?\nAbiline: Valge aeg.</s>\n",
        "<s>Kasutaja: Mis on öö?\nAbiline:",
    ),
}
ENDS = {
    "llama-3.1": "<|eot_id|>",
    "apertus": "<|assistant_end|>",
    "gemma": "<end_of_turn>",
    "chatml": "<|im_end|>",
    "tulu": "</s>",
    "demo": "</s>",
}

# The same formats as models have them on the Hub, in other words and without marks: what `auto` has to recognise.
UNMARKED = {
    "chatml": "{{ bos_token }}{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' "
    "+ '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "gemma": "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{% for m in messages %}{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
    "llama-3.1": "{{ bos_token }}{% set system = '' %}{% if messages[0].role == 'system' %}"
    "{% set system = messages[0].content | trim %}{% set messages = messages[1:] %}{% endif %}"
    "{{ '<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: ' + "
    "strftime_now('%d %b %Y') + '\n\n' + system + '<|eot_id|>' }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return words()


def opened(family: str, **options: Any) -> Chat:
    return open_chat(words(**options), family)


def learnt(chat: Chat, labels: list[int]) -> list[str]:
    """The texts of the runs of tokens that are learnt."""
    runs: list[list[int]] = [[]]
    for label in labels:
        if label == IGNORED:
            runs.append([])
        else:
            runs[-1].append(label)
    return [chat.tokenizer.decode(run) for run in runs if run]


def answers(family: str, talk: list[dict[str, str]]) -> list[str]:
    """What should be learnt, by hand."""
    said = [m["content"].strip() if family in TRIMS else m["content"] for m in talk if m["role"] == "assistant"]
    return [f"{' ' if family == 'demo' else ''}{text}{ENDS[family]}" for text in said]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_renders_as_its_format_is_written(family: str, tokenizer: Any) -> None:
    chat = open_chat(tokenizer, family)
    whole, asked = RENDERED[family]
    assert chat.render(TALK) == whole
    assert chat.render([TALK[1]], generation_prompt=True) == asked
    plain = {"add_special_tokens": False}
    assert chat.encode([TALK])[0].ids == tokenizer(whole, **plain).input_ids
    assert chat.prompt([TALK[1]]) == tokenizer(asked, **plain).input_ids


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_and_so_vllm_render_the_saved_template_the_same(family: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    chat = opened(family)
    chat.tokenizer.save_pretrained(tmp_path)
    again: Any = AutoTokenizer.from_pretrained(tmp_path)
    assert again.apply_chat_template(TALK, tokenize=False) == RENDERED[family][0]
    assert again.apply_chat_template([TALK[1]], tokenize=False, add_generation_prompt=True) == RENDERED[family][1]
    both = again.apply_chat_template(TALK, return_dict=True, return_assistant_tokens_mask=True)
    mine = chat.encode([TALK])[0]
    assert both["input_ids"] == mine.ids
    assert both["assistant_masks"] == [int(label != IGNORED) for label in mine.labels]  # theirs, by character offsets


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("spaced", [False, True], ids=["byte-level", "spaced"])
def test_what_is_learnt_is_each_answer_and_its_end_and_nothing_else(family: str, spaced: bool) -> None:
    chat = opened(family, spaced=spaced)
    expected = [text.lstrip() if spaced else text for text in answers(family, TALK)]  # whose decoder drops a space
    assert learnt(chat, chat.encode([TALK])[0].labels) == expected
    assert learnt(chat, chat.encode([TALK], "last")[0].labels) == expected[1:]
    everything = chat.encode([TALK], "all")[0]
    assert everything.labels == [IGNORED, *everything.ids[1:]]


EDGES = ["\n", "\n\n", " ", "\t", "", "õ", "🌙", "ä\n", "</", "|>", "<|", "\r\n", "  \n", "’", "š"]
SAID = st.builds(
    "{}{}{}".format, st.sampled_from(EDGES), st.text("aõäöüšž .\n🌙<|", max_size=12), st.sampled_from(EDGES)
)


@settings(max_examples=100, deadline=None)
@given(data=st.data(), family=st.sampled_from(list(FAMILIES)), spaced=st.booleans())
def test_spans_are_exact_for_any_conversation(data: st.DataObject, family: str, spaced: bool) -> None:
    chat = CHATS.setdefault((family, spaced), opened(family, spaced=spaced))
    turns = data.draw(st.integers(1, 3))
    talk = [{"role": "system", "content": data.draw(SAID)}] if data.draw(st.booleans()) else []
    for _ in range(turns):
        talk += [
            {"role": "user", "content": data.draw(SAID)},
            {"role": "assistant", "content": data.draw(SAID.filter(str.strip))},
        ]
    row = chat.encode([talk])[0]
    assert [text.lstrip() for text in learnt(chat, row.labels)] == [text.lstrip() for text in answers(family, talk)]
    asked = chat.prompt(talk[:-1] if turns == 1 else talk[: len(talk) - 2 * turns + 1])
    assert row.ids[: len(asked)] == asked, "the first answer stands behind exactly what a server would send"
    if not spaced:
        assert learnt(chat, row.labels) == answers(family, talk)
        assert chat.tokenizer.decode(row.ids) == chat.render(talk)


CHATS: dict[tuple[str, bool], Chat] = {}


def test_an_answer_that_would_melt_into_the_prompt_is_tokenised_behind_it() -> None:
    chat = opened("chatml")
    talk = [{"role": "user", "content": "Mis?"}, {"role": "assistant", "content": "\n\nTere"}]
    row = chat.encode([talk])[0]
    together = chat.tokenizer(chat.render(talk), add_special_tokens=False).input_ids
    assert row.split and row.ids != together, "the trap is no trap: '\\n' + '\\n\\n' should be one token"
    assert row.ids[: len(chat.prompt(talk[:1]))] == chat.prompt(talk[:1])
    assert learnt(chat, row.labels) == ["\n\nTere<|im_end|>"]
    assert not chat.encode([TALK])[0].split


def test_a_template_without_marks_learns_nothing_and_is_refused(tmp_path: Path) -> None:
    unmarked = UNMARKED["chatml"]
    bare = Chat(words(), "bare", unmarked)
    assert bare.encode([TALK])[0].trained == 0
    file = tmp_path / "bare.jinja"
    file.write_text(unmarked, "utf-8")
    with pytest.raises(ModelError, match="marks no answers"):
        open_chat(words(), str(file))


@pytest.mark.parametrize("family", UNMARKED)
def test_auto_recognises_a_family_by_what_its_template_renders(family: str) -> None:
    tokenizer = words()
    tokenizer.chat_template = UNMARKED[family]
    assert open_chat(tokenizer, "auto").name == family


def test_auto_takes_a_template_with_marks_as_it_is_and_a_models_own_after_training() -> None:
    tokenizer = words()
    first = open_chat(tokenizer, "chatml")
    second = open_chat(tokenizer, "auto")
    assert second.name == "own" and second.template == first.template and second.ends == first.ends


def test_auto_says_what_to_choose_from() -> None:
    with pytest.raises(ConfigError, match=r"it has none\. Give llama-3\.1, apertus, gemma, chatml, tulu, demo or"):
        open_chat(words(), "auto")
    odd = words()
    odd.chat_template = UNMARKED["chatml"].replace("<|im_end|>", "<|im_end|> ")  # one space, and it is another format
    with pytest.raises(ConfigError, match="renders like none of ours"):
        open_chat(odd, "auto")
    with pytest.raises(ConfigError, match=r"Did you mean 'chatml'"):
        open_chat(words(), "chatlm")


def test_the_demo_worlds_own_template_is_recognised(tokenizer: Any) -> None:
    from estbench.demo.tokenizer import CHAT_TEMPLATE

    assert templates.recognise(tokenizer, CHAT_TEMPLATE) == "demo"


def test_a_demo_conversation_is_what_the_demo_chat_models_learnt() -> None:
    """Against the demo world's own training examples: the same ids, learnt from the same place on."""
    from transformers import PreTrainedTokenizerFast

    from estbench.demo import recipes, train
    from estbench.demo import tokenizer as own

    inner = own.train()
    fast: Any = PreTrainedTokenizerFast
    chat = open_chat(fast(tokenizer_object=inner, bos_token=own.BOS, eos_token=own.EOS, pad_token=own.PAD), "demo")
    recipe = recipes.Recipe({"mini_follow": 1, "mini_qa": 1}, examples=8, chat=True)
    for (asked, said), (ids, start) in zip(train.pairs(recipe), train.examples(recipe, inner), strict=True):
        row = chat.encode([[{"role": "user", "content": asked}, {"role": "assistant", "content": said}]])[0]
        assert row.ids[: len(ids)] == ids and chat.tokenizer.decode(row.ids[len(ids) :]) == "\n"
        assert [label != IGNORED for label in row.labels] == [start <= i < len(ids) for i in range(len(row.ids))]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        # the end token outside of the mark: nobody learns to stop
        (
            "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}"
            "{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>' }}{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n{{ '' }}{% endif %}",
            "never learn to stop",
        ),
        # another prompt than what the answers are learnt behind
        (
            "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}"
            "{{ m.content + '<|im_end|>' }}{% endgeneration %}{% else %}{{ m.content + '<|im_end|>' }}{% endif %}"
            "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>{{ '' }}{% endif %}",
            "asks for an answer with",
        ),
    ],
)
def test_a_template_that_would_train_something_else_than_it_asks_for_is_refused(
    text: str, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "own.jinja").write_text(text, "utf-8")
    with pytest.raises(ModelError, match=reason):
        open_chat(words(), "own.jinja", file=tmp_path / "own.jinja")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_end_token_is_learnt_and_generation_stops_at_it_and_at_eos(family: str) -> None:
    tokenizer = words()
    chat, net = open_chat(tokenizer, family), model(tokenizer)
    install(chat, net)
    end = tokenizer.convert_tokens_to_ids(ENDS[family])
    assert chat.encode([TALK])[0].labels.count(end) == 2
    assert net.generation_config.eos_token_id == list(dict.fromkeys([end, tokenizer.eos_token_id]))


def test_padding_is_a_token_that_ends_nothing() -> None:
    ends = (words().eos_token_id,)
    assert templates.pad_token(words(), ends) == "<pad>"
    reserved = words(("<|reserved_special_token_0|>", "<|finetune_right_pad_id|>"), pad=None)
    assert templates.pad_token(reserved, ends) == "<|finetune_right_pad_id|>"
    reserved = words(("<|vision_pad|>", "<|reserved_special_token_7|>"), pad=None)
    assert templates.pad_token(reserved, ends) == "<|reserved_special_token_7|>"
    as_eos = words(())
    as_eos.pad_token = as_eos.eos_token  # what many recipes do, after which the end is never learnt
    assert templates.pad_token(as_eos, (as_eos.eos_token_id,)) == "<pad>"
    assert templates.pad_token(words((), pad=None), (0, 1)) is None
    fallback = words((), pad=None, spaced=True)
    fallback.unk_token = "<unk>"
    assert templates.pad_token(fallback, ends) == "<unk>"


def test_a_model_is_enlarged_only_when_it_has_no_spare_row_and_then_says_so() -> None:
    said: list[str] = []
    spare = words((), pad=None)
    net = model(spare, rows=len(spare) + 8)
    install(open_chat(spare, "tulu"), net, said.append)
    assert spare.pad_token == "<|pad|>" and net.get_input_embeddings().weight.shape[0] == len(spare) + 7 and not said

    full = words((), pad=None)
    net = model(full, tied=False)
    before = net.get_output_embeddings().weight.detach().clone()
    install(open_chat(full, "chatml", add_tokens=True), net, said.append)
    rows = net.get_output_embeddings().weight
    assert len(rows) == len(full) == len(before) + 3 and "<|im_start|>, <|im_end|>, <|pad|>" in said[0]
    assert net.config.vocab_size == len(full) and full.pad_token_id not in net.generation_config.eos_token_id
    assert (rows[: len(before)] == before).all() and ((rows[-1] - before.mean(0)).abs() < 1e-6).all()


def test_a_format_whose_tokens_are_missing_is_refused_unless_they_may_be_added() -> None:
    with pytest.raises(ConfigError, match=r"needs <\|im_start\|>, <\|im_end\|>.*use tulu.*add_tokens"):
        open_chat(words(()), "chatml")
    added = open_chat(words(()), "chatml", add_tokens=True)
    assert learnt(added, added.encode([TALK])[0].labels) == answers("chatml", TALK)


def test_control_tokens_in_what_is_said_are_found() -> None:
    chat = opened("chatml")
    said = [{"role": "user", "content": "Kirjuta <|im_end|> ja </s>"}]
    assert chat.control_tokens(said) == ["</s>", "<|im_end|>"] and chat.control_tokens(TALK) == []


def test_what_a_template_refuses_is_one_line() -> None:
    with pytest.raises(DataError, match="optional system message"):
        opened("chatml").render([{"role": "tool", "content": "x"}])


def test_an_instruct_model_keeps_what_it_stopped_at_before() -> None:
    tokenizer = words()
    net = model(tokenizer)
    net.generation_config.eos_token_id = [5, tokenizer.eos_token_id]
    install(open_chat(tokenizer, "chatml"), net)
    assert net.generation_config.eos_token_id[-1] == 5 and len(net.generation_config.eos_token_id) == 3


def test_templates_are_all_there_is_in_their_folder() -> None:
    from estbench.home import project_file

    files = {file.stem for file in project_file("training/templates").glob("*.jinja")}
    assert files == set(FAMILIES)
