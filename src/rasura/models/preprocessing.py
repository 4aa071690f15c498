"""What a model brings along to prepare its inputs: an image processor, timm's configuration, or a tokenizer."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rasura.data import ModelsOwn, OwnTokenizer, Preprocessing
from rasura.errors import InputError, first_line
from rasura.files import hash_of_file, hash_of_json, read_json
from rasura.models.build import library, parse_architecture
from rasura.models.card import Card, card_of
from rasura.models.hugging_face import CONFIG, PROCESSORS, TOKENIZERS, folder_of, local_folder
from rasura.models.load import DESCRIPTION

LARGEST_SIDE = 4096
"""Of the images that a model may ask for."""
ELSE = "an image processor of transformers, or --preprocess data"
FAILURES = (ImportError, OSError, ValueError, TypeError, RuntimeError, LookupError, AttributeError, ArithmeticError)
"""What a library raises on settings that it cannot use."""


def preprocessing_of(model: nn.Module | str | Path, architecture: str | None = None) -> ModelsOwn | None:
    """How a trained model's inputs are to be prepared, for `load_data`; None if that is left to the data.

    A model that rasura made remembers how its inputs were prepared. Otherwise a Hugging Face model's image processor or
    tokenizer says, or the `pretrained_cfg` of a model of timm.

    Args:
        model: a model, or what `load_model` reads: a model folder, a Hugging Face folder, a file of weights.
        architecture: what a file of weights is for.

    Raises:
        InputError: settings that cannot be read or used, or that are no longer those that the model was made with.
    """
    if isinstance(model, nn.Module):
        card, folder, timm = card_of(model), folder_of(model), getattr(model, "pretrained_cfg", None)
        timm = timm if type(model).__module__.startswith("timm.") else None
    else:
        card, folder, timm = _described(Path(model)), Path(model), None
        if Path(model).is_file() and architecture is not None:
            folder, timm = _named(architecture)
    if card.preprocessing == {}:
        return None
    recorded = card.preprocessing or {}
    if "timm" in recorded:
        return _of_timm(recorded["timm"])
    own = _in_folder(folder) if folder else None
    if own is None and timm:
        own = _of_timm(_timm_settings(timm))
    if recorded and (own is None or own.settings != recorded):
        raise InputError(
            f"preprocess: {model if isinstance(model, (str, Path)) else 'the model'} was made with inputs prepared by "
            "another processor or tokenizer than the one beside it; allowed: the one that it was made with"
        )
    return own


def preprocessing_named(architecture: str) -> ModelsOwn | None:
    """The same for trained weights that a name brings: `hf:NAME`, or `timm:NAME,pretrained=true`."""
    name, options = parse_architecture(architecture)
    if name.startswith("timm:") and not options.get("pretrained"):
        return None
    folder, timm = _named(architecture)
    return _in_folder(folder) if folder else _of_timm(_timm_settings(timm)) if timm else None


def _described(path: Path) -> Card:
    return Card.from_json(read_json(path / DESCRIPTION)) if (path / DESCRIPTION).is_file() else Card()


def _named(architecture: str) -> tuple[Path | None, dict[str, Any] | None]:
    """The folder of a Hugging Face model, or the configuration of one of timm."""
    name, options = parse_architecture(architecture)
    family, _, rest = name.partition(":")
    if family == "hf":
        return local_folder(rest, fetch=True), None
    if family == "timm":
        found = library("timm").get_pretrained_cfg(rest)
        sides = {"img_size": options["img_size"]} if "img_size" in options else {}
        return None, found.to_dict() | sides if found else None
    return None, None


def _in_folder(folder: Path) -> ModelsOwn | None:
    for name in PROCESSORS:
        if (folder / name).is_file():
            return _of_processor(folder, name)
    config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    if "pretrained_cfg" in config:  # timm's own models on the Hub
        return _of_timm(_timm_settings(config["pretrained_cfg"]))
    files = [folder / name for name in TOKENIZERS if (folder / name).is_file()]
    if not files:
        return None
    content = hash_of_json({path.name: hash_of_file(path) for path in files})
    return OwnTokenizer(str(folder), {"tokenizer": content}, "the model's own tokenizer")


# -------------------------------------------------------------------------------------- transformers


def _of_processor(folder: Path, name: str) -> Preprocessing:
    """An image processor as two steps: to bytes of the model's size, and what it makes of black and of white."""
    settings = read_json(folder / name)
    _check_sides(settings, folder / name)
    transformers = library("transformers")
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(str(folder), trust_remote_code=False)
    except FAILURES as error:
        raise _unusable(folder / name, error) from error
    as_bytes = {"do_rescale": False, "do_normalize": False}
    as_bytes |= {"include_top": False} if hasattr(processor, "include_top") else {}  # a second standardisation

    def answers(images: Sequence[Any], **options: Any) -> Tensor:
        try:
            given: dict[str, Any] = {"input_data_format": "channels_first", "return_tensors": "pt"}
            return processor(images=list(images), **given, **options)["pixel_values"]
        except FAILURES as error:
            raise _unusable(name, error) from error

    def resized(images: Sequence[Any]) -> Tensor:
        return answers(images, **as_bytes)

    channels = _channels(folder, processor)
    black, white = (_middle(answers([np.full((channels, 64, 64), value, np.uint8)])) for value in (0, 255))
    spread = 1 / (white - black)
    mean, std = (tuple(round(value, 7) for value in one.tolist()) for one in (-black * spread, spread))
    said_by = f"the model's own {type(processor).__name__}"
    own = Preprocessing(mean, std, {name: settings}, resized, said_by)
    _check_same(own, answers, folder / name)
    return own


def _channels(folder: Path, processor: Any) -> int:
    config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    mean = getattr(processor, "image_mean", None)
    return config.get("num_channels") or (len(mean) if isinstance(mean, Sequence) else 3)


def _middle(inputs: Tensor) -> Tensor:
    """Per channel, the value in the middle: a border may have been added."""
    return inputs[0, :, inputs.shape[2] // 2, inputs.shape[3] // 2].double()


def _check_same(own: Preprocessing, answers: Any, path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (len(own.mean), 48, 64), dtype=np.uint8)
    wanted, found = answers([noise]), own(torch.from_numpy(noise)[None])
    if found.shape != wanted.shape or not torch.allclose(found, wanted.float(), rtol=1e-3, atol=1e-3):
        raise InputError(f"preprocess: {path} does more than resize, crop and scale images; allowed: --preprocess data")


def _check_sides(settings: Any, path: Path | str) -> None:
    """Before any image is made: a stranger's settings must not fill the memory."""
    if not isinstance(settings, dict):
        raise InputError(f"preprocess: {path} holds no settings; allowed: {ELSE}")
    sides = list(_numbers([value for name, value in settings.items() if "size" in name]))
    share = settings.get("crop_pct")
    if isinstance(share, (int, float)):
        sides += [side / max(share, 1e-9) for side in sides]
    for side in sides:
        if not 1 <= side <= LARGEST_SIDE:
            raise InputError(f"preprocess: {path} asks for images of side {side:g}; allowed: 1 to {LARGEST_SIDE}")


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for one in value:
            yield from _numbers(one)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value


def _unusable(path: Path | str, error: Exception) -> InputError:
    return InputError(f"preprocess: {path} cannot be used ({first_line(error)}); allowed: {ELSE}")


# ---------------------------------------------------------------------------------------------- timm


def _timm_settings(pretrained: Any) -> dict[str, Any]:
    """What timm makes of a model's configuration: size, crop, interpolation, mean and standard deviation."""
    side = {"img_size": pretrained["img_size"]} if "img_size" in pretrained else {}
    found = library("timm.data").resolve_data_config(side, pretrained_cfg=pretrained)
    return json.loads(json.dumps(found))


def _of_timm(settings: dict[str, Any]) -> Preprocessing:
    from PIL import Image

    _check_sides(settings, "pretrained_cfg")
    create_transform = library("timm.data").create_transform
    try:
        known = {name: settings[name] for name in ("input_size", "interpolation", "crop_pct", "crop_mode")}
        transform: Any = create_transform(**known, normalize=False)
        mean, std = (tuple(map(float, settings[name])) for name in ("mean", "std"))
    except FAILURES as error:
        raise _unusable("pretrained_cfg", error) from error

    def resized(images: Sequence[Any]) -> Tensor:
        pixels = (image[0] if len(image) == 1 else image.transpose(1, 2, 0) for image in images)
        return torch.stack([transform(Image.fromarray(one)) for one in pixels])

    return Preprocessing(mean, std, {"timm": settings}, resized, "the model's own pretrained_cfg (timm)")
