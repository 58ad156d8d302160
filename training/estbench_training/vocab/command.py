"""`estbench fertility`: how many tokens texts take, by tokenizer.

estbench fertility tokenizers=demo,out/model texts=et=news.txt,en=mail.txt
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from estbench import report
from estbench.checkpoint import TOKENIZER_FILES
from estbench.config import option
from estbench.errors import ConfigError, ModelError


@dataclass(frozen=True)
class FertilitySettings:
    """What `estbench fertility` can be told."""

    tokenizers: str = option(
        "models or tokenizers, with commas: folders, files, owner/name in the Hub's cache, demo", ""
    )
    texts: str | None = option("more texts, NAME=FILE with commas; et, en or code take the place of ours", None)
    output: str | None = option("table or json; json is the default on a pipe", None, choices=("table", "json"))

    def __post_init__(self) -> None:
        if not self.tokenizers.strip():
            raise ConfigError("tokenizers= is missing: demo-base,out/model for instance.")
        if "" in self.names:
            raise ConfigError("tokenizers: a name is empty; look for a comma too many.")
        if twice := [name for at, name in enumerate(self.names) if name in self.names[:at]]:
            raise ConfigError(f"tokenizers: {twice[0]} is given twice.")

    @property
    def names(self) -> tuple[str, ...]:
        """The tokenizers."""
        return tuple(word.strip() for word in self.tokenizers.split(","))

    @property
    def files(self) -> Mapping[str, Path]:
        """The texts that are files, by name; ConfigError for what is no NAME=FILE."""
        found = {}
        for word in (self.texts or "").split(","):
            name, equals, path = word.strip().partition("=")
            if word and not (name and equals and path):
                raise ConfigError(f"texts={word} has no name: write texts=et=FILE,en=FILE.")
            if name in found:
                raise ConfigError(f"texts: {name} is given twice: each needs a name of its own.")
            if word:
                found[name] = Path(path).expanduser()
        return found


def run(settings: FertilitySettings) -> int:
    """Measure and print; the last column compares with the first tokenizer. What is known of public ones follows."""
    from estbench_training.vocab import fertility

    texts = fertility.texts(settings.files)
    measured = {name: fertility.measure(open_(name), texts) for name in settings.names}
    if settings.output == "json" or (settings.output is None and not sys.stdout.isatty()):
        rows_ = {name: {text: one.row() for text, one in of.items()} for name, of in measured.items()}
        print(report.as_json({"tokenizers": rows_, "known": fertility.known()}))
        return 0
    first = settings.names[0]
    rows = [
        fertility.cells(name, text, of[text], measured[first][text] if len(measured) > 1 else None)
        for text in texts
        for name, of in measured.items()
    ]
    beside = {"beside": f">of {first}'s"} if len(measured) > 1 else {}
    print(report.listing(rows, fertility.COLUMNS | beside))
    for name, of in measured.items():
        for text, one in of.items():
            if one.unsaid:
                print(f"{name} can't say {one.unsaid:,} characters of {text}: its tokens are those of the others.")
    print(f"\n{fertility.known_table()}")
    return 0


def open_(name: str) -> Any:
    """The tokenizer of a name: a folder's, a tokenizer.json, a demo model's, or one in the Hub's local cache. Weights
    are not needed. ModelError where there is none."""
    from estbench import demo
    from estbench_training.shards import load_tokenizer

    path = Path(name).expanduser()
    if name in demo.MODELS and not demo.is_made(name):
        from estbench.demo.recipes import RECIPES
        from estbench.demo.tokenizer import train

        return train(name in RECIPES and RECIPES[name].english_only)
    if name in demo.MODELS:
        return load_tokenizer(demo.model_path(name))
    if path.is_dir():
        if not any((path / file).exists() for file in TOKENIZER_FILES):
            raise ModelError(f"There is no tokenizer in {path}: give a folder that has a tokenizer.json.")
        return load_tokenizer(path)
    if path.is_file():
        return _of_file(path)
    return load_tokenizer(_cached(name))


def _of_file(path: Path) -> Any:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise ModelError(f"{path} is no tokenizer.json ({' '.join(str(error).split())[:120]}).") from None


def _cached(name: str) -> Path:
    """The folder of a Hub model in the local cache that has a tokenizer."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError, OSError) as error:
        fetch = "MODEL" if isinstance(error, HFValidationError) else name
        raise ModelError(
            f"There is no tokenizer {name!r} here: give a folder, a tokenizer.json, or owner/name of a model that "
            f"`estbench pull model={fetch}` has fetched."
        ) from None
