"""What a result depends on besides weights: settings and code, as JSON values that are the same in every process."""

import functools
import hashlib
import inspect
import logging
import math
import re
import sys
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rasura.files import hash_of_file, hash_of_json

LIBRARIES = ("rasura", "torch", "torchvision", "timm", "transformers", "peft")
"""Their code is told by a version, that of all other modules by the hash of its file."""
_OWN = frozenset(vars(nn.Module()))
_OF_LOADING = {"architectures", "dtype", "torch_dtype", "transformers_version"}
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


Seen = dict[int, tuple[Any, str]]
"""Objects by their `id`: each of them, held so that no other gets its `id`, and what stands for it a second time."""


def described(value: Any, seen: Seen | None = None) -> Any:
    """Any object as JSON values: numbers and words as they are, tensors by a hash, all else by its code and settings.

    Where an object lies (its address, its device) is left out.

    Args:
        value: any object.
        seen: those that were described already; they are not described again, so that no web of them takes long.

    >>> described({"of": torch.float32, "at": (1, 2.5), "by": functools.partial(sorted, reverse=True)})
    {'of': 'torch.float32', 'at': [1, 2.5], 'by': ['builtins.sorted', [], {'reverse': True}]}
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, (float, np.generic)):
        return value if isinstance(value, float) and math.isfinite(value) else repr(value)
    if isinstance(value, (bytes, torch.dtype, re.Pattern, Path)):
        return str(value)
    if isinstance(value, Tensor):
        return hash_of_tensors([("", value)])
    if isinstance(value, np.ndarray):
        return described(value.tolist())
    if isinstance(value, types.ModuleType):
        return value.__name__
    seen = {} if seen is None else seen
    if id(value) in seen:
        return seen[id(value)][1]
    seen[id(value)] = value, "itself"
    found = _parts_of(value, seen)
    if isinstance(value, (list, tuple, dict, set, frozenset)):
        del seen[id(value)]  # whether equal ones are one or several makes no difference
    else:
        seen[id(value)] = value, hash_of_json(found)
    return found


def _parts_of(value: Any, seen: Seen) -> Any:
    def told(part: Any) -> Any:
        return described(part, seen)

    if isinstance(value, nn.Module):
        return structure_of(value, seen)
    if isinstance(value, logging.Logger):
        return value.name
    if isinstance(value, Mapping):
        return {str(key): told(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [told(one) for one in value]
    if isinstance(value, (set, frozenset)):
        return sorted(map(told, value), key=hash_of_json)
    if isinstance(value, functools.partial):
        return [told(value.func), told(value.args), told(value.keywords)]
    if inspect.ismethod(value):
        return [code_of(value.__func__), told(value.__self__)]
    if inspect.isfunction(value):
        caught = [cell.cell_contents for cell in value.__closure__ or () if cell != types.CellType()]
        caught += value.__defaults__ or ()
        return [code_of(value), told(caught)] if caught else code_of(value)
    if callable(value) and hasattr(value, "__qualname__"):
        return code_of(value)
    if type(value).__module__.startswith("transformers.") and hasattr(value, "to_dict"):
        return _settings_of_config(value.to_dict())
    return {"kind": code_of(type(value)), **told(getattr(value, "__dict__", {}))}


def _settings_of_config(content: dict[str, Any]) -> Any:
    """A Hugging Face configuration without what loading and saving write into it."""
    return described({key: one for key, one in content.items() if key[0] != "_" and key not in _OF_LOADING})


def structure_of(model: nn.Module, seen: Seen | None = None) -> list[Any]:
    """What weights do not show of a net: the kind and the settings of every module, and which parameters are frozen."""
    frozen = [name for name, one in model.named_parameters() if not one.requires_grad]
    kinds = {type(module) for module in model.modules()}
    seen = {} if seen is None else seen
    seen.update({id(module): (module, f"module {name}") for name, module in model.named_modules()})
    modules = [
        [name, type(module).__qualname__, _ADDRESS.sub("", module.extra_repr()), _settings(module, seen)]
        for name, module in model.named_modules(remove_duplicate=False)
    ]
    return [frozen, sorted(map(code_of, kinds)), modules]


def _settings(module: nn.Module, seen: Seen) -> Any:
    """What a module's code has set on it. Those of transformers repeat their configuration, and count calls."""
    fixed = {name: module._buffers[name] for name in module._non_persistent_buffers_set}
    given = {name: one for name, one in vars(module).items() if name not in _OWN and not name.startswith("_rasura")}
    if type(module).__module__.startswith("transformers."):
        given = {name: one for name, one in given.items() if name == "config"}
    return described({**given, **fixed}, seen)


def code_of(thing: Any) -> str:
    """The name of a function or class; where no library is behind it, with the hash of the file that defines it.

    A function's place in the file tells lambdas from each other. What was typed at a prompt has no file, and its name
    alone.
    """
    name = f"{getattr(thing, '__module__', None)}.{thing.__qualname__}"  # C methods such as str.lower have no module
    if library_of(thing) or not (source := _source_of(thing)):
        return name
    place = f" {hash_of_json([*thing.__code__.co_positions()])}" if inspect.isfunction(thing) else ""
    return f"{thing.__qualname__} of {hash_of_file(source)}{place}"  # not the module's name, which holds a path


def _source_of(thing: Any) -> Path | None:
    try:
        found = inspect.getsourcefile(thing)
    except TypeError:  # it is not written in Python
        return None
    return Path(found) if found and Path(found).is_file() else None


def library_of(thing: Any) -> str | None:
    """Which of `LIBRARIES` defines a function or class; None if none of them does."""
    root = str(getattr(thing, "__module__", None)).partition(".")[0]
    return root if root in LIBRARIES else None


def library_versions(names: Iterable[str]) -> dict[str, str]:
    """The versions of imported libraries, by name."""
    return {name: str(sys.modules[name].__version__) for name in sorted(set(names))}


def hash_of_tensors(named: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 of tensors' names, dtypes, shapes and bytes, in hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in named:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
