"""The demo models' tokenizers: byte-level BPE learnt on word types, so that stems and endings, not whole forms,
become tokens. One has both languages; the other knows English alone, and cuts Estonian into short pieces."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from estbench.demo import english, follow, lexicon, stream, tasks

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PAD, BOS, EOS = "<pad>", "<s>", "</s>"
PAD_ID, BOS_ID, EOS_ID = 0, 1, 2
SIZE, ENGLISH_SIZE = 1800, 1000
WORD = r"(?: |^)?[^\W\d_]+"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'assistant' %}Abiline: {{ message.content }}{{ eos_token }}\n"
    "{% else %}Kasutaja: {{ message.content }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Abiline:{% endif %}"
)


def types() -> list[str]:
    """What BPE is learnt on: each word once, with its space; prompts, names and base forms weigh more than others."""
    texts = [text for language in ("et", "en") for text in islice(stream.texts(language, "tokenizer"), 3000)]
    for task in tasks.TASKS:
        if task != "mini_gec":
            texts += [" ".join(pair) for pair in islice(stream.instructions(task, "tokenizer"), 600)]
    words = set(re.findall(WORD, "\n".join(texts)))
    often = set(
        re.findall(WORD, "\n".join([*tasks.PROMPTS.values(), *(f" {wording}" for wording in follow.WORDING.values())]))
    )
    often |= {f" {name.nom}" for name in lexicon.names()} | {f" {case}" for case in lexicon.CASE_NAMES.values()}
    derived = {f" {noun.form(case)}" for noun in lexicon.nouns() for case in lexicon.ENDINGS}
    return [word for word in sorted(words | often) for _ in range(20 if word in often else 1 if word in derived else 4)]


def english_types() -> list[str]:
    """What the English tokenizer is learnt on: as `types`, of English texts and instructions."""
    texts = list(islice(stream.texts("en", "tokenizer"), 3000))
    for task in english.TASKS:
        texts += [" ".join(pair) for pair in islice(english.instructions(task, "tokenizer"), 600)]
    wordings = [*english.PROMPTS.values(), *(f" {wording}" for wording in english.WORDING.values())]
    often = set(re.findall(WORD, "\n".join(wordings))) | {f" {name.nom}" for name in lexicon.names()}
    words = set(re.findall(WORD, "\n".join(texts)))
    return [word for word in sorted(words | often) for _ in range(20 if word in often else 4)]


def train(english_only: bool = False) -> Tokenizer:
    """The tokenizer; text becomes `<s>` and its tokens, decoding gives the text back."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=ENGLISH_SIZE if english_only else SIZE,
        min_frequency=2,
        special_tokens=[PAD, BOS, EOS],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(english_types() if english_only else types(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, BOS_ID)]
    )
    return tokenizer


def chat_prompt(prompt: str) -> str:
    """What the chat template makes of one message, without the `<s>` that the tokenizer puts in front."""
    return f"Kasutaja: {prompt}\nAbiline:"


def save(tokenizer: Tokenizer, folder: Path, context: int, *, chat: bool = False) -> None:
    """Write tokenizer.json, tokenizer_config.json and, for a chat model, the template as transformers reads them."""
    from transformers import PreTrainedTokenizerFast

    fast: Any = PreTrainedTokenizerFast
    made = fast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )
    if chat:
        made.chat_template = CHAT_TEMPLATE
    made.save_pretrained(folder)
