"""Tokenizers and models for tests of chat templates: tiny, made in memory, with the traps of real ones.

words()                byte-level BPE that splits text as Llama 3 does: line breaks merge with what stands beside them
words(spaced=True)     BPE with byte fallback that puts a space before each text, as Llama 2's does
model(words())         a random Llama with 7,000 parameters or so
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from estbench_training.templates import FAMILIES

TEXTS = [
    "Õues sajab vihma ja müts läks märjaks.\n\nŽürii jõi öösel jäätunud šokolaadi.\n",
    "Kes ütles?\n\n\nTüdruk ütles: «Tere hommikust!»\n\nThe dog sees the house.\n\n\n\nöö ää õõ üü",
    "<|user|>\nMis on öö?\n<|assistant|>\nPime aeg.\n",
] * 3
LLAMA_3 = r"\p{L}+| ?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
ALL = tuple(token for tokens in FAMILIES.values() for token in tokens)


def words(
    special: Sequence[str] = ALL, *, bos: str | None = "<s>", pad: str | None = "<pad>", spaced: bool = False
) -> Any:
    """A tokenizer with these special tokens. bos: put before every text; None: there is none."""
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    tokens = [*([bos] if bos else []), "</s>", *([pad] if pad else []), *special]
    made = _spaced(tokens) if spaced else _byte_level(tokens)
    if bos:
        made.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, made.token_to_id(bos))]
        )
    named = {name: token for name, token in (("bos_token", bos), ("pad_token", pad)) if token}
    fast: Any = PreTrainedTokenizerFast
    return fast(tokenizer_object=made, eos_token="</s>", **named, clean_up_tokenization_spaces=False)


def _byte_level(tokens: Sequence[str]) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(LLAMA_3), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=[*tokens], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(TEXTS, trainer)
    return made


def _spaced(tokens: Sequence[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers

    made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=480, special_tokens=["<unk>", *tokens, *fallback], show_progress=False, initial_alphabet=["▁"]
    )
    made.train_from_iterator([text.replace(" ", "▁") for line in TEXTS for text in line.split("\n")], trainer)
    return made


def model(tokenizer: Any, *, rows: int | None = None, seed: int = 0, context: int = 256, tied: bool = True) -> Any:
    """A random Llama for a tokenizer. rows: of its embeddings, where it has more than the vocabulary."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=rows or len(tokenizer),
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                max_position_embeddings=context,
                tie_word_embeddings=tied,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                initializer_range=0.1,
            )
        )


def save(folder: Path, tokenizer: Any, made: Any) -> Path:
    """A checkpoint of both."""
    made.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
