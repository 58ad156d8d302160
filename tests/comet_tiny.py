"""Runs in the side environment `comet`: makes a tiny random COMET model, and scores with unbabel-comet called directly.

python -I comet_tiny.py make FOLDER            FOLDER/encoder and FOLDER/model (hparams.yaml, checkpoints/model.ckpt)
python -I comet_tiny.py score CHECKPOINT       segments as JSON on stdin, scores as JSON on stdout
python -I comet_tiny.py poison CHECKPOINT FILE   a checkpoint that writes FILE when it is unpickled
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import yaml

TEXT = ["Õues sajab vihma ja müts läks märjaks.", "Žürii jõi öösel jäätunud šokolaadi.", "The dog sees the old house."]


def make(folder: Path) -> None:
    from comet.models import RegressionMetric
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import XLMRobertaConfig, XLMRobertaModel, XLMRobertaTokenizerFast

    unigram = Tokenizer(models.Unigram())
    unigram.normalizer = normalizers.NFKC()
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False)
    unigram.train_from_iterator(TEXT * 20, trainer)
    unigram.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    encoder = folder / "encoder"
    XLMRobertaTokenizerFast(tokenizer_object=unigram, model_max_length=64).save_pretrained(encoder)
    torch.manual_seed(7)
    config = XLMRobertaConfig(
        vocab_size=unigram.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=66,
        initializer_range=0.5,  # so that segments differ
        type_vocab_size=1,
    )
    XLMRobertaModel(config, add_pooling_layer=False).save_pretrained(encoder)
    settings = {
        "class_identifier": "regression_metric",
        "encoder_model": "XLM-RoBERTa",
        "pretrained_model": str(encoder),
        "layer": "mix",
        "layer_transformation": "sparsemax_patch",  # as the public models: unbabel-comet turns it into softmax
        "layer_norm": False,
        "pool": "avg",
        "hidden_sizes": [16, 8],
        "activations": "Tanh",
        "dropout": 0.1,
        "train_data": [],
        "validation_data": [],
    }
    own = {key: value for key, value in settings.items() if key != "class_identifier"}
    model = RegressionMetric(**own | {"layer_transformation": "softmax"}, local_files_only=True)
    (folder / "model" / "checkpoints").mkdir(parents=True)
    (folder / "model" / "hparams.yaml").write_text(yaml.safe_dump(settings), "utf-8")
    checkpoint = {"state_dict": model.state_dict(), "hyper_parameters": own, "pytorch-lightning_version": "2.6.6"}
    torch.save(checkpoint, folder / "model" / "checkpoints" / "model.ckpt")


def score(checkpoint: Path) -> None:
    from comet import load_from_checkpoint

    model = load_from_checkpoint(str(checkpoint), local_files_only=True)
    rows = json.loads(sys.stdin.read())
    found = model.predict(rows, batch_size=4, gpus=0, num_workers=0, progress_bar=False)
    print(json.dumps(found.scores))


class Poison:
    """Its pickle calls open(FILE, "w")."""

    def __init__(self, file: str) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (self.file, "w")


def poison(checkpoint: Path, file: str) -> None:
    content = torch.load(checkpoint, weights_only=True)
    torch.save(content | {"callbacks": Poison(file)}, checkpoint)


if __name__ == "__main__":
    verb, path, *rest = sys.argv[1:]
    {"make": make, "score": score, "poison": poison}[verb](Path(path), *rest)
