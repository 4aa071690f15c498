"""Build a model by name: our own nets, timm's, torchvision's, Hugging Face's, or a function in a user's file."""

import importlib
import inspect
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from rasura.errors import InputError, expect, first_line, said, unknown
from rasura.models.hub_config import check_config, limit_of
from rasura.models.outline import Limit, TooLargeError, at_most, outline, room
from rasura.models.text import TEXT_ZOO
from rasura.models.zoo import ZOO
from rasura.user_code import check_trusted, file_in, imported, running

FAMILIES = {
    "timm:NAME": "a model of timm, e.g. timm:resnet18,pretrained=true",
    "torchvision:NAME": "a model of torchvision, e.g. torchvision:vit_b_16",
    "hf:NAME": "a Hugging Face classifier, from a local folder or the Hub; with pretrained=false without its weights",
    "FILE.py:FUNCTION": "a function of your own that returns an nn.Module",
}
"""Names that lead outside the package, with what they mean."""

FETCHING = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "weights"}
"""Options of timm and torchvision that fetch or read weights."""

LARGEST_OPTION = 10**6
"""Of a net that has a name: some builders make lists of a depth before their first layer."""


def build_model(architecture: str, classes: int, channels: int | None = None, size: int | None = None) -> nn.Module:
    """A freshly initialised model (or a pretrained one, where its family says so).

    Args:
        architecture: `NAME[,option=value…]`: a net of `ZOO` or `TEXT_ZOO`, or of one of `FAMILIES`. Options are the
            builder's own keyword arguments, e.g. `resnet8,width=32`.
        classes: number of outputs.
        channels: image channels; None for models that do not take images.
        size: image side in pixels.

    Raises:
        InputError: unknown name (with the nearest one), unknown option, a value that the builder refuses, or more
            weights than a quarter of the machine's memory holds.

    >>> sum(p.numel() for p in build_model("resnet8,width=8", classes=10, channels=1, size=28).parameters())
    19810
    """
    expect("model", architecture, str, f"NAME[,option=value…], a word (a net of {', '.join([*ZOO, *TEXT_ZOO])}, …)")
    for field, value in {"classes": classes, "channels": channels, "size": size}.items():
        if not (type(value) is int and value > 0) and (value is not None or field == "classes"):
            raise InputError(f"{field}: {said(value)}; allowed: a whole number, 1 or more")
    name, options = parse_architecture(architecture)
    given = {"classes": classes, "channels": channels, "size": size}
    if ".py:" in name:
        function = _function_in(name)
        with running("model", file_in(name)):
            return _call(function, name, given, options)
    limit = room()
    shapes_of(architecture, classes, channels, size, limit)
    with at_most(limit, architecture):
        return _built(name, given, options)


def shapes_of(
    architecture: str, classes: int, channels: int | None, size: int | None, limit: Limit
) -> dict[str, torch.Size] | None:
    """The shapes of the tensors that a model will have, by name, without taking memory.

    Args:
        architecture: as `build_model` takes it, like the next three.
        limit: how large it may be.

    Returns:
        None where only building tells: a function in a file (which runs once), a Hugging Face model, a builder that
        looks at values.

    Raises:
        InputError: the model is larger.
    """
    name, options = parse_architecture(architecture)
    if ".py:" in name or name.startswith("hf:"):
        return None
    given = {"classes": classes, "channels": channels, "size": size}
    plain = {key: value for key, value in options.items() if key not in FETCHING}
    return outline(lambda: _built(name, given, plain), limit, architecture)


def _built(name: str, given: dict[str, Any], options: dict[str, Any]) -> nn.Module:
    for key, value in options.items():
        if isinstance(value, int | float) and not -LARGEST_OPTION <= value <= LARGEST_OPTION:
            raise TooLargeError(f"{key}: {value} in {name}; allowed: at most {LARGEST_OPTION:,}")
    if name in ZOO:
        if given["channels"] is None or given["size"] is None:
            raise InputError(f"model: {name!r} takes images; allowed: data whose inputs have shape [C, H, H]")
        return _call(ZOO[name], name, given, options)
    if name in TEXT_ZOO:
        if given["channels"] is not None:
            raise InputError(f"model: {name!r} takes texts; allowed: data whose inputs are tokens")
        return _call(TEXT_ZOO[name], name, given, options)
    family, colon, rest = name.partition(":")
    if colon and family in _LIBRARIES:
        return _LIBRARIES[family](rest, given, options)
    raise unknown("model", name, [*ZOO, *TEXT_ZOO, *FAMILIES])


def parse_architecture(architecture: str) -> tuple[str, dict[str, Any]]:
    """Split `NAME,option=value,…` into the name and typed options.

    >>> parse_architecture("vit,width=96,pretrained=true")
    ('vit', {'width': 96, 'pretrained': True})
    """
    name, *pairs = architecture.split(",")
    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals and value):
            raise InputError(f"model: {pair!r} in {architecture!r}; allowed: NAME[,option=value…]")
        options[key.strip()] = _typed(value.strip())
    return name.strip(), options


def brings_weights(architecture: str) -> bool:
    """Whether a model of this name comes trained.

    >>> brings_weights("hf:folder"), brings_weights("hf:folder,pretrained=false"), brings_weights("timm:resnet18")
    (True, False, False)
    """
    name, options = parse_architecture(architecture)
    return bool(options.get("pretrained", name.startswith("hf:")) or options.keys() & {"weights", "checkpoint_path"})


def check_harmless(source: str, architecture: str, trust: Iterable[str | Path]) -> None:
    """Refuse an architecture in a file from someone else that would run code, read other files or ask the Hub.

    What passes: our own nets, and the architectures of timm and torchvision by their plain names, with numbers as
    options: their builders take words that load files or code.

    Args:
        source: the file that names it, for the message.
        architecture: what it names.
        trust: Python files that may run; what their functions are given is theirs to check.

    Raises:
        InputError: anything else.
    """
    name, options = parse_architecture(architecture)
    check_trusted(source, name, trust)
    family, colon, inner = name.partition(":")
    if ".py:" in name or not colon:
        return
    allowed = "allowed: naming the architecture yourself, or a FILE.py:FUNCTION with --trust FILE.py, if you trust it"
    if family == "hf" or not re.fullmatch(r"[\w.]+", inner):
        raise InputError(f"architecture: {source} wants to load {name}; {allowed}")
    for key, value in options.items():
        if key in FETCHING or type(value) not in (int, float):
            raise InputError(f"architecture: {source} wants to hand {key}={value} to {name}; {allowed}")


def _typed(text: str) -> bool | int | float | str:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _call(builder: Callable[..., Any], name: str, given: dict[str, Any], options: dict[str, Any]) -> nn.Module:
    """Call a builder with those of `given` that it declares, and with the user's options."""
    declared = inspect.signature(builder).parameters
    free = [key for key in declared if key not in given]
    for key, value in options.items():
        if key not in free:
            raise unknown(f"option of {name}", key, free)
        default = declared[key].default
        if isinstance(default, int) and type(value) is not type(default):
            raise InputError(f"{key}: {value!r}; allowed: a value like the default, {default!r}")
    try:
        model = builder(**{key: value for key, value in given.items() if key in declared}, **options)
    except (RuntimeError, OverflowError, MemoryError) as error:
        if ".py:" in name:
            raise
        raise InputError(f"model: {name} refuses {options} ({first_line(error)}); allowed: smaller numbers") from None
    if not isinstance(model, nn.Module):
        raise InputError(f"model: {name} returned {type(model).__name__}; allowed: an nn.Module")
    return model


def _function_in(name: str) -> Callable[..., Any]:
    path, function = file_in(name), name.rpartition(":")[2]
    if not path.is_file():
        raise InputError(f"model: {path} does not exist; allowed: an existing FILE.py:FUNCTION")
    module = imported("model", path)
    if not callable(getattr(module, function, None)):
        raise unknown(f"function in {path}", function, [key for key, value in vars(module).items() if callable(value)])
    return getattr(module, function)


def _timm(name: str, given: dict[str, Any], options: dict[str, Any]) -> nn.Module:
    timm = library("timm")
    if name not in timm.list_models():
        raise unknown("timm model", name, timm.list_models())
    channels = {} if given["channels"] is None else {"in_chans": given["channels"]}
    return _made(timm.create_model, f"timm:{name}", {"num_classes": given["classes"], **channels}, options)


def _torchvision(name: str, given: dict[str, Any], options: dict[str, Any]) -> nn.Module:
    models = library("torchvision.models")
    if name not in models.list_models():
        raise unknown("torchvision model", name, models.list_models())
    if given["channels"] not in (None, 3):
        raise InputError(f"data: images of {given['channels']} channels; allowed: 3 for torchvision:{name}")
    return _made(models.get_model, f"torchvision:{name}", {"num_classes": given["classes"]}, options)


def _made(builder: Callable[..., nn.Module], name: str, given: dict[str, Any], options: dict[str, Any]) -> nn.Module:
    try:
        return builder(name.partition(":")[2], **given, **options)
    except InputError:
        raise
    except (TypeError, ValueError, AssertionError, RuntimeError, OSError) as error:
        reason = first_line(error)
        raise InputError(
            f"model: {name} refuses {given | options} ({reason}); allowed: the builder's options"
        ) from error


def _hugging_face(name: str, given: dict[str, Any], options: dict[str, Any]) -> nn.Module:
    return load_hugging_face(name, **{"num_labels": given["classes"], "ignore_mismatched_sizes": True} | options)


_LIBRARIES = {"timm": _timm, "torchvision": _torchvision, "hf": _hugging_face}


def load_hugging_face(name: str, **options: Any) -> nn.Module:
    """A Hugging Face image or text classifier; weights come from safetensors only, and no remote code runs.

    Raises:
        InputError: no such folder or name, another task than classification, weights that are only pickled, or a
            folder that asks for code, for other files, or for a larger net than its weights fill.
    """
    limit = room()
    if (Path(name) / "config.json").is_file():
        check_config(Path(name))
        limit = limit_of(Path(name))
    with at_most(limit, f"hf:{name}"):
        return _from_transformers(name, options)


def _from_transformers(name: str, options: dict[str, Any]) -> nn.Module:
    transformers = library("transformers")
    try:
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
        images = hasattr(config, "image_size") or hasattr(config, "num_channels")
        kind = (
            transformers.AutoModelForImageClassification if images else transformers.AutoModelForSequenceClassification
        )
        if not options.pop("pretrained", True):
            return kind.from_config(transformers.AutoConfig.from_pretrained(name, trust_remote_code=False, **options))
        return kind.from_pretrained(name, use_safetensors=True, trust_remote_code=False, **options)
    except InputError:
        raise
    except (ImportError, OSError, TypeError, ValueError, LookupError, RuntimeError, SafetensorError) as error:
        reason = first_line(error)
        raise InputError(f"model: hf:{name} does not load ({reason}); allowed: a classifier in safetensors") from None


def library(name: str) -> Any:
    """An installed library.

    Raises:
        InputError: it is missing, or cannot be imported.
    """
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as error:
        raise InputError(
            f"model: {name} cannot be imported ({error}); allowed: models of installed libraries, pip install "
            f"'rasura[vision]' brings timm and torchvision"
        ) from None
