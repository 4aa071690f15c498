"""Hugging Face folders, read and written whole: configuration, weights, and what prepares a model's inputs."""

import copy
import shutil
from pathlib import Path
from typing import Any

from torch import nn

from rasura.errors import InputError, first_line
from rasura.models.build import library, load_hugging_face
from rasura.models.card import card_of
from rasura.models.names import library_names, named

CONFIG = "config.json"
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
TOKENIZERS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
"""Data only: a script that lies beside them is neither run nor copied."""


def read_hugging_face(folder: Path) -> nn.Module:
    """A trained classifier from a Hugging Face folder, in eval mode.

    Raises:
        InputError: it does not load, or the weights lack a part of the net, which would be left random.
    """
    model, about = load_hugging_face(str(folder), output_loading_info=True)  # pyright: ignore[reportGeneralTypeIssues]
    missing = sorted(about["missing_keys"])
    if missing:
        raise InputError(
            f"model: {folder} misses tensor {missing[0]!r}, {len(missing)} in all; allowed: the weights of a trained "
            "classifier with its head"
        )
    return model.eval()


def in_hugging_face_form(model: nn.Module) -> bool:
    """Whether a Hugging Face folder is a model's own form: a class of transformers that no other name builds."""
    architecture = card_of(model).architecture
    return type(model).__module__.startswith("transformers.models.") and (
        architecture is None or architecture.startswith("hf:")
    )


def write_hugging_face(model: Any, folder: Path) -> None:
    """Write configuration and weights, and copy what prepares its inputs from where the model was read.

    Classes without names (LABEL_0 …) get those of the model's card.
    """
    written, classes = copy.copy(model), card_of(model).classes
    written.config = copy.deepcopy(model.config)  # transformers notes in it what it has written
    if len(classes) == written.config.num_labels and not library_names(model):
        named(written, classes)
    written.save_pretrained(folder, max_shard_size="1000TB")  # one file, which one hash covers
    source = folder_of(model)
    if source is not None:
        for name in (*PROCESSORS, *TOKENIZERS):
            if _is_inside(source / name, source):
                shutil.copyfile(source / name, folder / name)


def folder_of(model: nn.Module) -> Path | None:
    """Where a model of transformers was read from: a folder, or what was kept of the Hub; None if nothing is there."""
    name = getattr(model, "name_or_path", "")
    return local_folder(name) if isinstance(name, str) and name else None


def local_folder(name: str, fetch: bool = False) -> Path | None:
    """A folder as it is; of a name on the Hub, what the cache holds.

    Args:
        name: a folder, or a name on the Hub.
        fetch: get the files that prepare inputs from the Hub, if they are not in the cache.

    Raises:
        InputError: a name on the Hub that cannot be fetched.
    """
    if Path(name).is_dir():
        return Path(name)
    hub = library("huggingface_hub")
    wanted = [CONFIG, *PROCESSORS, *TOKENIZERS]
    try:
        return Path(hub.snapshot_download(name, allow_patterns=wanted, local_files_only=not fetch))
    except (OSError, ValueError) as error:
        if not fetch:
            return None
        reason = first_line(error)
        raise InputError(
            f"model: hf:{name} cannot be fetched ({reason}); allowed: a folder, a name on the Hub"
        ) from None


def _is_inside(path: Path, folder: Path) -> bool:
    """Whether it is a file of this folder, or of the Hub's cache, whose files are links: a link could lead anywhere."""
    root = folder.parent.parent if folder.parent.name == "snapshots" else folder
    return path.is_file() and path.resolve().is_relative_to(root.resolve())
