"""What lies beside the weights: the donor's tokenizer in the target's roles, the target's configuration, lep.json.

write(folder, roles)              # config.json, generation_config.json, tokenizer, template
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from estbench.checkpoint import TEMPLATES, TOKENIZER_FILES, read_json
from estbench_training.appearing import write_json_synced
from estbench_training.lep.roles import Roles
from estbench_training.vocab.files import write_configs

TEMPLATE = "chat_template"
ROLES = ("bos_token", "eos_token", "unk_token", "pad_token", "additional_special_tokens", "extra_special_tokens")
TARGETS = (*ROLES, TEMPLATE, "model_max_length", "add_bos_token", "add_eos_token")  # keys that are the target's


def write(folder: Path, roles: Roles) -> None:
    """Write them all. ModelError if configuration names a token that the new vocabulary lacks."""
    target, donor = roles.target.checkpoint.path, roles.donor.checkpoint.path
    for name in TOKENIZER_FILES:
        origin = target if name in TEMPLATES else donor
        if (origin / name).exists() and name not in ("tokenizer_config.json", "special_tokens_map.json"):
            shutil.copyfile(origin / name, folder / name)
    for name, keys in (("tokenizer_config.json", TARGETS), ("special_tokens_map.json", ROLES)):
        if (donor / name).exists() or name == "tokenizer_config.json":
            theirs = _row(target / "special_tokens_map.json") | _row(target / name)
            kept = {key: value for key, value in _row(donor / name).items() if key not in keys}
            write_json_synced(folder / name, kept | {key: theirs[key] for key in keys if key in theirs})
    vocabularies = roles.target.vocabulary, roles.donor.vocabulary
    write_configs(roles.target.checkpoint, *vocabularies, roles.donor.row_count("input"), folder)


def _row(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}
