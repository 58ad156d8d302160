"""COMET (Rei et al. 2022): a neural metric of translations, computed in a side environment.

    model = find("Unbabel/wmt22-comet-da")                    # or a folder with hparams.yaml and checkpoints/model.ckpt
    with Comet(model) as comet:
        comet.signature                                       # all that fixes a score
        comet.scores([(source, output, reference), ...])      # floats, about 0 to 1

An empty output gets 0: COMET itself gives it about a third of a good translation's score (Zouhar et al. 2024, "Pitfalls
and Outlooks in Using COMET"). COMET does not notice an output in the wrong language either: read it beside off_target.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from estbench import environments
from estbench.errors import ConfigError, EngineError, ModelError
from estbench.hub import hf_token, without_token
from estbench.identity import FileHashes, digest
from estbench.workers import Worker

DEFAULT = "Unbabel/wmt22-comet-da"
LICENCES = {
    DEFAULT: "Apache-2.0",
    "Unbabel/wmt20-comet-da": "Apache-2.0",
    "Unbabel/eamt22-cometinho-da": "Apache-2.0",
}
NON_COMMERCIAL = "CC BY-NC-SA 4.0"
NON_COMMERCIAL_NAMES = re.compile(r"cometkiwi|xcomet|unite", re.IGNORECASE)
NON_COMMERCIAL_CLASSES = ("xcomet_metric", "unified_metric")  # what those models are, under whatever name
CHECKPOINT, HPARAMS = "checkpoints/model.ckpt", "hparams.yaml"
ENCODER_FILES = ("config.json", "tokenizer*", "sentencepiece*", "special_tokens_map.json", "vocab.txt")
BATCH = 16
WORKER = Path(__file__).parents[1] / "comet_worker.py"

Segment = tuple[str, str, str]  # source, output, reference


@dataclass(frozen=True)
class Model:
    """A COMET checkpoint on disk."""

    name: str
    folder: Path
    hparams: dict[str, Any]

    @property
    def checkpoint(self) -> Path:
        return self.folder / CHECKPOINT

    @property
    def revision(self) -> str | None:
        """The Hub's commit, where the folder is of its cache."""
        return self.folder.name if re.fullmatch("[0-9a-f]{40}", self.folder.name) else None

    @property
    def licence(self) -> str:
        """The model's licence; `not known` for what is not listed here."""
        non_commercial = NON_COMMERCIAL_NAMES.search(self.name)
        if non_commercial or self.hparams.get("class_identifier") in NON_COMMERCIAL_CLASSES:
            return NON_COMMERCIAL
        return LICENCES.get(self.name, "not known")

    def fingerprint(self) -> str:
        """Content hash of weights and hyperparameters."""
        files = [self.checkpoint, self.folder / HPARAMS]
        found = FileHashes().of(files)
        return digest([found[file][0] for file in files])


def check_licence(name: str, licence: str, accepted: str | None) -> None:
    """ConfigError for a non-commercial model whose licence was not accepted by the model's name."""
    if licence == NON_COMMERCIAL and accepted != name:
        raise ConfigError(
            f"{name} may not be used commercially ({licence}): say accept_licence={name} if you may use it, or take "
            f"{DEFAULT} ({LICENCES[DEFAULT]})."
        )


def find(name: str, accepted: str | None = None) -> Model:
    """The model of a folder or of the Hub's cache; ModelError with the cure if it is not here. Downloads nothing."""
    path = Path(name).expanduser()
    if path.is_dir():
        model = _opened(path.resolve().name, path)
    elif not _is_hub_name(name):
        raise ModelError(f"There is no COMET model {name!r}: give a folder, or owner/name on the Hub, like {DEFAULT}.")
    else:
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(name, local_files_only=True))
            model = _opened(name, folder)
        except (OSError, ModelError):  # not in the cache, or only a part of it
            raise ModelError(
                f"{name} is not on this machine: run `estbench env install comet model={name}` where there is a "
                "network, or give its folder with model=PATH."
            ) from None
    check_licence(model.name, model.licence, accepted)
    return model


def fetch(name: str, accepted: str | None, say: Callable[[str], None]) -> Model:
    """Download a model, and its encoder's configuration and tokenizer, into the Hub's cache.

    ModelError if it fails, DataError for an HF_TOKEN that no request can carry.
    """
    if Path(name).expanduser().is_dir() or not _is_hub_name(name):
        return find(name, accepted)
    if NON_COMMERCIAL_NAMES.search(name):
        check_licence(name, NON_COMMERCIAL, accepted)
    model = _opened(name, _download(name, [CHECKPOINT, HPARAMS]))
    check_licence(model.name, model.licence, accepted)
    encoder = str(model.hparams.get("pretrained_model") or "")
    if encoder and not Path(encoder).is_dir():
        _download(encoder, list(ENCODER_FILES))
    say(f"{name} ({model.licence}) is in {model.folder}.")
    return model


def _download(name: str, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    token = hf_token() or False  # False: a token that other programs stored is not used
    try:
        return Path(snapshot_download(name, allow_patterns=patterns, token=token))
    except GatedRepoError:
        page = f"https://huggingface.co/{name}"
        raise ModelError(f"{name} is gated: accept its terms at {page} and set HF_TOKEN.") from None
    except RepositoryNotFoundError:
        raise ModelError(f"{name} is not on the Hub: renamed, removed, or private (then set HF_TOKEN).") from None
    except LocalEntryNotFoundError:
        raise ModelError(
            f"{name} can't be fetched, the Hub can't be reached: run the same command where there is a network."
        ) from None
    except Exception as error:  # what the Hub's client and its HTTP library raise changes with their versions
        reason = without_token(" ".join(str(error).split()))[:200]
        raise ModelError(f"{name} could not be fetched ({type(error).__name__}: {reason}): try again.") from None


def _is_hub_name(name: str) -> bool:
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", name)) and not name.startswith((".", "~"))


def _opened(name: str, folder: Path) -> Model:
    """ModelError unless the folder is a COMET model's."""
    import yaml

    if lacking := [file for file in (HPARAMS, CHECKPOINT) if not (folder / file).is_file()]:
        raise ModelError(f"{folder} is no COMET model: it lacks {' and '.join(lacking)}.")
    try:
        hparams = yaml.safe_load((folder / HPARAMS).read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ModelError(f"{folder / HPARAMS} can't be read: {' '.join(str(error).split())[:200]}.") from None
    if not isinstance(hparams, dict) or "class_identifier" not in hparams:
        raise ModelError(f"{folder / HPARAMS} has no class_identifier: this is not a COMET model.")
    return Model(name, folder, hparams)


class Comet:
    """A loaded model. A context manager: its process ends with the block."""

    def __init__(self, model: Model, *, device: str = "auto", batch: int = BATCH) -> None:
        environment = environments.ready("comet")
        variables = {key: value for key, value in os.environ.items() if key != "HF_TOKEN"}
        self.model, self.batch = model, batch
        self.fingerprint = model.fingerprint()
        command = [str(environment.python), "-I", str(WORKER), str(model.checkpoint.absolute()), device]
        self.worker = Worker("COMET", command, environment=variables)

    def __enter__(self) -> Comet:
        return self

    def __exit__(self, *_: object) -> None:
        self.worker.close()

    @property
    def signature(self) -> str:
        """What fixes a score, in sacreBLEU's manner."""
        info = self.worker.info
        revision = f"|revision:{self.model.revision[:12]}" if self.model.revision else ""
        return (
            f"comet:{info['comet']}|model:{self.model.name}{revision}|sha256:{self.fingerprint[:12]}"
            f"|precision:{info['precision']}|device:{info['device']}|empty:0"
            f"|torch:{info['torch']}|transformers:{info['transformers']}"
        )

    def scores(self, segments: Sequence[Segment]) -> list[float]:
        """A score for each segment; EngineError if the worker fails or gives something else."""
        found = [0.0] * len(segments)
        asked = [place for place, (_, output, _) in enumerate(segments) if output.strip()]
        if asked:
            rows = [dict(zip(("src", "mt", "ref"), segments[place], strict=True)) for place in asked]
            values = self.worker.ask({"rows": rows, "batch": self.batch}).get("scores")
            if not isinstance(values, list) or len(values) != len(rows) or not all(map(_is_number, values)):
                raise EngineError(f"The COMET worker gave no {len(rows)} numbers for {len(rows)} segments.")
            for place, value in zip(asked, values, strict=True):
                found[place] = float(value)
        return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
