"""Hugging Face folders from someone else: what their config.json may ask for, and how large a net."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rasura.errors import InputError
from rasura.files import read_json
from rasura.models.header import shapes_in
from rasura.models.outline import Limit, filled_by

CONFIG, ADAPTER = "config.json", "adapter_config.json"
LARGEST, MOST = 2**22, 10**5
"""Bytes of a config.json, and a number of things in it: ImageNet's 21,843 classes, named both ways, take 2 MiB."""
FETCHING = ("use_pretrained_backbone", "use_kernels", "trust_remote_code")


def check_config(folder: Path) -> None:
    """Refuse a folder that would fetch code or other weights, which transformers does not ask about.

    (Code beside the weights, `auto_map`, never runs: transformers is told not to trust it.)

    Raises:
        InputError: an adapter, which names a base model to be fetched; attention by a kernel from the Hub; a backbone
            to be fetched; for timm's nets anything but a plain name and numbers; or what takes minutes to read.
    """
    if (folder / CONFIG).stat().st_size > LARGEST:
        raise InputError(f"model: {folder / CONFIG} is too large; allowed: at most {LARGEST >> 20} MiB")
    if (folder / ADAPTER).exists():
        raise InputError(f"model: {folder} holds {ADAPTER}; allowed: a whole model, with the adapter folded in")
    for fields, value in _leaves(read_json(folder / CONFIG)):
        if not _is_harmless(fields, value):
            said = f"{'.'.join(fields)} = {value!r}"
            raise InputError(f"model: {folder / CONFIG} has {said}; allowed: nothing that needs other files")


def limit_of(folder: Path) -> Limit:
    """How large a folder's net may be."""
    files = sorted(folder.glob("*.safetensors"))
    return filled_by((shape for path in files for shape in shapes_in(path).values()), "the folder's weights")


def _leaves(content: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value that is no object and no list, with the names of the fields that lead to it."""
    waiting: list[tuple[tuple[str, ...], Any]] = [((), content)]
    while waiting:
        fields, one = waiting.pop()
        if isinstance(one, dict):
            waiting += [((*fields, name), inner) for name, inner in one.items()]
        elif isinstance(one, list):
            waiting += [(fields, inner) for inner in one]
        else:
            yield fields, one


def _is_harmless(fields: tuple[str, ...], value: Any) -> bool:
    word, plain = isinstance(value, str), isinstance(value, str) and re.fullmatch(r"[\w.]+", value)
    if any("_implementation" in name for name in fields) or fields[-1] == "architecture":
        return bool(plain) or not word
    if "model_args" in fields:
        return not word
    if fields[-1].startswith(("num_", "_num_", "n_", "depth")) and isinstance(value, int):
        return value <= MOST
    return fields[-1] not in FETCHING or not value
