"""Small tokenizers of the kinds that models have, and a few sentences to learn them on.

llama2(), llama3(), unigram(), demo()     tokenizers.Tokenizer
make_model(folder, llama3(), tied=True)   a random Llama that has one of them
bases(folder)                             four such models, by the name of their tokenizer
run(folder, base, mode="shrink")          the stage, in its folder
TEXTS                                     Estonian, English and code
ODD                                       texts that a tokenizer has to give back
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXTS = (
    "Õpetaja astus klassi ja tervitas õpilasi. Õpilased tõusid püsti ja vastasid õpetajale.",
    "Koolimaja ees seisis kaheksa jalgratast, mille omanikud olid juba tundi läinud.",
    "Öösel sadas lund, hommikul lükkasime lumelabidaga koolimaja ukseesise puhtaks.",
    "Žürii hindas võistlustöid šokolaadi ja küpsiste kõrval, nagu alati.",
    "The teacher walked into the classroom and greeted the pupils, who stood up and answered.",
    "It had snowed in the night, so in the morning we cleared the steps of the schoolhouse.",
    "def tervita(nimi):\n    if nimi is None:\n        return 0\n    return f'Tere, {nimi}!'\n",
    "for i in range(10):\n\tprint(i, 2 * i, [j for j in range(i)])\n",
)
ODD = (
    "",
    " ",
    "õäöüšž ÕÄÖÜŠŽ",
    "o\u0303a\u0308o\u0308u\u0308s\u030cz\u030c",
    "0123456789 3,14 1 000 000",
    "a  b   c    d\t\te\n\n\nf \n g\r\n",
    "   ees ja taga   ",
    "👩‍👩‍👧‍👦 👍🏽 🇪🇪",
    "مرحبا بالعالم",
    "\x00\x01\x7f\x1b[0m",
    "\u0301\u0308 \u0903",
    "日本語のテキスト",
    "\ufeff\u200b\u202e\U0010ffff",
    "<s> <|eot_id|> <0x41>",
)
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def corpus() -> list[str]:
    """TEXTS often enough that BPE has something to count."""
    return list(TEXTS) * 4


@lru_cache
def _llama2(size: int) -> str:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("▁?[^▁]+|▁"), "isolated")
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer.train_from_iterator(
        corpus(), trainers.BpeTrainer(vocab_size=size, special_tokens=specials, show_progress=False)
    )
    row = json.loads(tokenizer.to_str())
    row["pre_tokenizer"] = None  # as Llama 2 has it: no merge crosses a word
    row["added_tokens"] = row["added_tokens"][:3]
    row["decoder"] = json.loads(
        _with_decoder([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    )
    made = Tokenizer.from_str(json.dumps(row))
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return str(made.to_str())


def _with_decoder(parts: list[Any]) -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.decoder = decoders.Sequence(parts)
    return json.dumps(json.loads(tokenizer.to_str())["decoder"])


def llama2(size: int = 600) -> Tokenizer:
    """SentencePiece's BPE as Llama 2 has it: ▁, byte fallback, no splitting; <unk>, <s>, </s> are 0, 1, 2."""
    return Tokenizer.from_str(_llama2(size))


@lru_cache
def _llama3(size: int) -> str:
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    names = ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|reserved|>")
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", tokenizer.token_to_id(names[0]))]
            ),
        ]
    )
    return str(tokenizer.to_str())


def llama3(size: int = 500) -> Tokenizer:
    """Byte-level BPE as Llama 3 has it: its splitting, ignore_merges, the special tokens behind the others."""
    return Tokenizer.from_str(_llama3(size))


@lru_cache
def _unigram(size: int) -> str:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=size, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    row = json.loads(tokenizer.to_str())
    names = {name for name, _ in row["model"]["vocab"]}
    lowest = min(score for _, score in row["model"]["vocab"])
    row["model"]["vocab"] += [[name, lowest - 10] for byte in range(256) if (name := f"<0x{byte:02X}>") not in names]
    row["model"]["byte_fallback"] = True
    row["decoder"] = json.loads(_with_decoder([decoders.ByteFallback(), decoders.Metaspace()]))
    return json.dumps(row)


def unigram(size: int = 260) -> Tokenizer:
    """SentencePiece's Unigram with byte fallback; <unk>, <s>, </s> are 0, 1, 2."""
    return Tokenizer.from_str(_unigram(size))


@lru_cache
def _demo() -> str:
    from estbench.demo import tokenizer

    return str(tokenizer.train().to_str())


def demo() -> Tokenizer:
    """The demo models' tokenizer."""
    return Tokenizer.from_str(_demo())


NAMES = {
    "bos_token": ("<s>", "<|begin_of_text|>"),
    "eos_token": ("</s>", "<|end_of_text|>"),
    "pad_token": ("<pad>", "<|reserved|>"),
}


def make_model(
    folder: Path, tokenizer: Tokenizer, *, tied: bool = False, dtype: str = "float32", rows: int | None = None
) -> Path:
    """A random Llama with a tokenizer, saved. rows: of its embeddings, if more than tokens."""
    import training_world
    from transformers import PreTrainedTokenizerFast

    names = {key: next((n for n in some if tokenizer.token_to_id(n) is not None), None) for key, some in NAMES.items()}
    ids = {f"{key}_id": None if name is None else tokenizer.token_to_id(name) for key, name in names.items()}
    size = 1 + max(tokenizer.get_vocab().values())
    training_world.make_model(folder, tied=tied, dtype=dtype, vocab_size=rows or size, **ids)
    fast: Any = PreTrainedTokenizerFast
    made = fast(tokenizer_object=tokenizer, **{key: name for key, name in names.items() if name is not None})
    made.chat_template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    made.save_pretrained(folder)
    return folder


def bases(folder: Path) -> dict[str, Path]:
    """A model of each kind of tokenizer; llama3's has more rows than tokens, and demo's head is tied."""
    return {
        "llama2": make_model(folder / "llama2", llama2(), dtype="bfloat16"),
        "llama3": make_model(folder / "llama3", llama3(), dtype="bfloat16", rows=512),
        "demo": make_model(folder / "demo", demo(), tied=True),
        "unigram": make_model(folder / "unigram", unigram(), dtype="float16"),
    }


DATA = {"et": {"demo": "et", "documents": 150}, "en": {"demo": "en", "documents": 100}}


def run(folder: Path, base: Path, said: Callable[[str], object] = lambda line: None, **keys: Any) -> Path:
    """Run the one stage of a recipe, on DATA, whatever tests it holds; its folder."""
    import training_world

    stage = {"name": "vocab", "kind": "vocab", "data": DATA, "decontaminate": "none", **keys}
    row = {"name": "tiny", "base": str(base), "licence": "cc0-1.0", "stages": [stage]}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(row, sort_keys=False), "utf-8")
    return training_world.train(folder / "recipe.yaml", folder / "out", said)
