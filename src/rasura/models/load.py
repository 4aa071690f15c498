"""Model folders: weights in `model.safetensors`, everything else in `model.json`. Nothing is ever unpickled."""

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rasura.errors import InputError, first_line
from rasura.files import hash_of_file, library_writes, read_json, whole_folder, write_json
from rasura.models.adapters import kept_adapter, write_adapter
from rasura.models.build import build_model, load_hugging_face, parse_architecture
from rasura.models.card import Card, card_of, with_card
from rasura.models.zoo import ZOO

WEIGHTS, DESCRIPTION, ADAPTER = "model.safetensors", "model.json", "adapter"


def save_model(model: nn.Module, folder: str | Path) -> None:
    """Write a model folder, whole or not at all.

    Raises:
        InputError: the folder exists and is not empty, or a weight is NaN or infinite.
    """
    with whole_folder(Path(folder)) as partial:
        write_model(model, partial)


def write_model(model: nn.Module, folder: Path) -> None:
    """Write the two files of a model folder into an existing folder, and the adapter that the model has kept."""
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    broken = [name for name, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        raise InputError(f"model: {broken[0]} holds NaN or infinite weights; allowed: finite weights")
    with library_writes(folder / WEIGHTS):
        save_file(state, folder / WEIGHTS)
    write_json(
        folder / DESCRIPTION, {"format": 1, **card_of(model).to_json(), "sha256": hash_of_file(folder / WEIGHTS)}
    )
    if kept_adapter(model):
        write_adapter(model, folder / ADAPTER)


def load_model(path: str | Path, architecture: str | nn.Module | None = None, like: Card | None = None) -> nn.Module:
    """Load a trained classifier, in eval mode.

    Args:
        path: a model folder, a Hugging Face folder, or a file of weights (`.safetensors`, or a PyTorch state dict in
            `.pt`, `.pth`, `.bin`, `.ckpt`, read with `weights_only=True`).
        architecture: what the weights are for: a name that `build_model` takes, or a module to be filled. Model
            folders know their own; files of weights need one.
        like: a card that says classes and input shape for a file of weights.

    Raises:
        InputError: nothing there, truncated or pickled weights, weights that do not fit the architecture, or a
            folder that would run a Python file, or hand words to a library's builder, which you did not name yourself
            as `architecture`.
    """
    path = Path(path)
    if (path / DESCRIPTION).is_file():
        card = _card_in(path)
        state = read_weights(path / WEIGHTS)
        if architecture is None and card.architecture is None:
            raise InputError(f"architecture: {path} does not name one; allowed: the module, or FILE.py:FUNCTION")
        return _filled(architecture or _harmless(card.architecture or "", path), card, state, path)
    if (path / "config.json").is_file():
        return load_hugging_face(str(path)).eval()
    if path.is_file():
        if architecture is None:
            raise InputError(
                f"architecture: {path} holds weights alone; allowed: an architecture, e.g. resnet8,width=16"
            )
        return _filled(architecture, like or Card(), read_weights(path), path)
    raise InputError(f"model: {path} holds none; allowed: a model folder, a Hugging Face folder, a file of weights")


UNREADABLE = (RuntimeError, EOFError, ValueError, OSError, LookupError, TypeError, AttributeError)
"""What `torch.load` raises on files of something else: text, pictures, cut archives."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from a file, without unpickling anything but plain tensors.

    Raises:
        InputError: missing, truncated, or holding objects other than tensors (which could run code).
    """
    if not path.is_file():
        raise InputError(f"model: {path} does not exist; allowed: an existing file of weights")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(f"model: {path} holds objects that could run code; allowed: tensors only") from None
    except (*UNREADABLE, SafetensorError) as error:
        raise InputError(
            f"model: {path} is truncated or damaged ({first_line(error)}); allowed: a file of weights"
        ) from None
    return _state_in(content, path)


def to_card(architecture: str | None, data: Any, **fields: Any) -> Card:
    """A card for a model that is trained on `data` (a `rasura.Data`)."""
    from rasura.data import input_shape

    shape = input_shape(data.train)
    standardise = data.train.transform
    return Card(
        architecture=architecture,
        classes=data.classes,
        input_shape=shape if isinstance(shape, tuple) else None,
        mean=tuple(getattr(standardise, "mean", ())),
        std=tuple(getattr(standardise, "std", ())),
        data=data.name,
        **fields,
    )


def fresh_model(card: Card) -> nn.Module:
    """A newly initialised model as the card describes it, carrying the card."""
    if card.architecture is None:
        raise InputError("architecture: the model's card names none; allowed: a name that build_model takes")
    shape = card.input_shape
    if shape is None or len(shape) != 3 or shape[1] != shape[2]:
        if parse_architecture(card.architecture)[0] in ZOO:
            raise InputError(f"data: inputs of shape {shape}; allowed: square images [C, H, H] for {card.architecture}")
        return with_card(build_model(card.architecture, len(card.classes)), card)
    return with_card(build_model(card.architecture, len(card.classes), shape[0], shape[1]), card)


def _card_in(folder: Path) -> Card:
    content = read_json(folder / DESCRIPTION)
    card = Card.from_json(content)
    if not (folder / WEIGHTS).is_file():
        raise InputError(f"model: {folder / WEIGHTS} does not exist; allowed: a complete model folder")
    if content.get("sha256") != hash_of_file(folder / WEIGHTS):
        raise InputError(f"model: {folder / WEIGHTS} is truncated or changed; allowed: as model.json says")
    return card


def _harmless(architecture: str, path: Path) -> str:
    """The architecture that a folder names; refused if building it could run code or fetch more than is filled anyway.

    Folders come from strangers. Builders of libraries take options that load files or code: only numbers pass.
    """
    name, options = parse_architecture(architecture)
    options.pop("pretrained", None)  # the folder's own weights replace these
    words = [key for key, value in options.items() if name not in ZOO and type(value) not in (int, float)]
    if ".py:" in name or words:
        what = f"run {name}" if ".py:" in name else f"hand {words[0]}={options[words[0]]} to {name}"
        raise InputError(
            f"architecture: {path} wants to {what}; allowed: naming the architecture yourself, if you trust it"
        )
    return ",".join([name, *(f"{key}={value}" for key, value in options.items())])


def _filled(architecture: str | nn.Module, card: Card, state: dict[str, Tensor], path: Path) -> nn.Module:
    if isinstance(architecture, nn.Module):
        model = architecture
    else:
        card = replace(card, architecture=architecture)
        model = fresh_model(card)
    expected = model.state_dict()
    if not state.keys() & expected.keys():  # saved from inside DataParallel
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    for name in sorted(expected.keys() ^ state.keys()):
        where = "misses" if name in expected else "has an unknown"
        raise InputError(f"model: {path} {where} tensor {name!r}; allowed: weights of {_name_of(architecture)}")
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            raise InputError(
                f"model: {name} in {path} has shape {tuple(tensor.shape)}; allowed: {tuple(expected[name].shape)}"
            )
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise InputError(f"model: {name} in {path} holds NaN or infinite weights; allowed: finite weights")
    model.load_state_dict(state)
    return with_card(model.eval(), card)


def _name_of(architecture: str | nn.Module) -> str:
    return architecture if isinstance(architecture, str) else type(architecture).__name__


def _state_in(content: Any, path: Path) -> dict[str, Tensor]:
    """Unwrap the usual nestings: {"state_dict": …}, {"model": …}."""
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(
        isinstance(v, Tensor) and isinstance(k, str) for k, v in content.items()
    ):
        raise InputError(f"model: {path} holds no state dict; allowed: a dict of tensors by name")
    return content
