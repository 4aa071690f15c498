"""Model folders: weights in `model.safetensors`, everything else in `model.json`. Nothing is ever unpickled."""

import pickle
import struct
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rasura.data import unusable
from rasura.errors import InputError, expect
from rasura.files import hash_of_file, library_writes, locked, read_json, whole_folder, write_json
from rasura.models.adapters import kept_adapter, write_adapter
from rasura.models.build import build_model, check_harmless, parse_architecture, shapes_of
from rasura.models.card import Card, card_of, with_card
from rasura.models.header import check_archive, check_file, shapes_in, unreadable
from rasura.models.hugging_face import CONFIG, in_hugging_face_form, read_hugging_face, write_hugging_face
from rasura.models.names import library_names
from rasura.models.outline import filled_by
from rasura.models.zoo import ZOO
from rasura.sealed import check_model_folder

WEIGHTS, DESCRIPTION, ADAPTER = "model.safetensors", "model.json", "adapter"


def save_model(model: nn.Module, folder: str | Path) -> None:
    """Write a model folder, whole or not at all.

    Raises:
        InputError: the folder exists and is not empty, or a weight is NaN or infinite.
    """
    expect("model", model, nn.Module, "an nn.Module")
    expect("folder", folder, (str, Path), "the path of a folder")
    with locked(Path(folder)), whole_folder(Path(folder)) as partial:
        write_model(model, partial)


def write_model(model: nn.Module, folder: Path) -> None:
    """Write a model into an existing folder: weights, `model.json`, and the adapter that the model has kept.

    A model of transformers becomes a Hugging Face folder, which `from_pretrained` reads too.
    """
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    broken = [name for name, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        raise InputError(f"model: {broken[0]} holds NaN or infinite weights; allowed: finite weights")
    with library_writes(folder / WEIGHTS):
        if in_hugging_face_form(model):
            write_hugging_face(model, folder)
        else:
            save_file(state, folder / WEIGHTS)
    write_json(
        folder / DESCRIPTION, {"format": 1, **card_of(model).to_json(), "sha256": hash_of_file(folder / WEIGHTS)}
    )
    if kept_adapter(model):
        write_adapter(model, folder / ADAPTER)


def load_model(
    path: str | Path,
    architecture: str | nn.Module | None = None,
    like: Card | None = None,
    trust: Iterable[str | Path] = (),
) -> nn.Module:
    """Load a trained classifier, in eval mode.

    Args:
        path: a model folder, a Hugging Face folder, or a file of weights (`.safetensors`, or a PyTorch state dict in
            `.pt`, `.pth`, `.bin`, `.ckpt`, read with `weights_only=True`).
        architecture: what the weights are for: a name that `build_model` takes, or a module to be filled. Model
            folders know their own; files of weights need one.
        like: a card that says classes and input shape for a file of weights.
        trust: Python files that a model folder may name as its architecture; it may run no others.

    Raises:
        InputError: nothing there, truncated or pickled weights, weights that do not fit the architecture, or a
            folder that would run a Python file that is not among `trust`, ask the Hub, or hand words to a library's
            builder, unless you name that as `architecture` yourself.
    """
    expect("path", path, (str, Path), "the path of a model folder, a Hugging Face folder or a file of weights")
    expect("architecture", architecture, (str, nn.Module, NoneType), "a name, or a module to be filled")
    expect("like", like, (Card, NoneType), "a Card")
    path = Path(path)
    check_model_folder(path)
    content = read_json(path / DESCRIPTION) if (path / DESCRIPTION).is_file() else None
    card = Card() if content is None else Card.from_json(content)
    if (path / CONFIG).is_file():
        if content is not None:
            _check_hash(path / WEIGHTS, content.get("sha256"))
        return with_card(read_hugging_face(path), card)
    if content is not None:
        if architecture is None:
            architecture = _harmless(card.architecture, path, trust)
            _check_fit(replace(card, architecture=architecture), path)
        _check_hash(path / WEIGHTS, content.get("sha256"))
        return _filled(architecture, card, read_weights(path / WEIGHTS), path)
    if path.is_file():
        if architecture is None:
            raise InputError(
                f"architecture: {path} holds weights alone; allowed: an architecture, e.g. resnet8,width=16"
            )
        model = _filled(architecture, like or Card(), read_weights(path), path)
        names = library_names(model)  # a card that was made of the data does not know the model's order
        return with_card(model, replace(card_of(model), classes=names)) if like and names else model
    lacking = "holds none" if path.exists() else "does not exist"
    raise InputError(f"model: {path} {lacking}; allowed: a model folder, a Hugging Face folder, a file of weights")


UNREADABLE = (
    *(RuntimeError, EOFError, ValueError, OSError, LookupError, TypeError, AttributeError, MemoryError),
    struct.error,
)
"""What `torch.load` raises on files of something else: text, pictures, cut archives."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from a file, without unpickling anything but plain tensors.

    Raises:
        InputError: missing, truncated, compressed, or holding objects other than tensors (which could run code).
    """
    check_file(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        check_archive(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(f"model: {path} holds objects that could run code; allowed: tensors only") from None
    except InputError:
        raise
    except (*UNREADABLE, SafetensorError) as error:
        raise unreadable(path, error) from None
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
        preprocessing=data.preprocessing,
        data=data.name,
        **fields,
    )


def remembering_inputs(card: Card, data: Any) -> Card:
    """The card, which says how the data's inputs were prepared if it did not know yet: audits must do the same."""
    given = to_card(None, data)
    known = card.preprocessing is not None
    return card if known else replace(card, mean=given.mean, std=given.std, preprocessing=given.preprocessing)


def fresh_model(card: Card) -> nn.Module:
    """A newly initialised model as the card describes it, carrying the card."""
    return with_card(build_model(*_asked(card)), card)


def _asked(card: Card) -> tuple[str, int, int | None, int | None]:
    """What a card says to `build_model`."""
    if card.architecture is None:
        raise InputError("architecture: the model's card names none; allowed: a name that build_model takes")
    shape = card.input_shape
    if shape is None or len(shape) != 3 or shape[1] != shape[2]:
        if parse_architecture(card.architecture)[0] in ZOO:
            raise InputError(f"data: inputs of shape {shape}; allowed: square images [C, H, H] for {card.architecture}")
        return card.architecture, len(card.classes), None, None
    return card.architecture, len(card.classes), shape[0], shape[1]


def _check_hash(weights: Path, sha256: Any) -> None:
    check_file(weights)
    if sha256 != hash_of_file(weights):
        raise InputError(
            f"model: {weights} is truncated or changed (its hash is not the one in model.json); allowed: as written"
        )


def _harmless(architecture: str | None, path: Path, trust: Iterable[str | Path]) -> str:
    """The architecture that a folder names, without the wish for trained weights: the folder's own replace these."""
    if architecture is None:
        raise InputError(f"architecture: {path} does not name one; allowed: the module, or FILE.py:FUNCTION")
    name, options = parse_architecture(architecture)
    plain = ",".join([name, *(f"{key}={value}" for key, value in options.items() if key != "pretrained")])
    check_harmless(str(path), plain, trust)
    return plain


def _check_fit(card: Card, folder: Path) -> None:
    """Compare the net that a folder describes with the header of its weights, before either takes memory."""
    found = shapes_in(folder / WEIGHTS)
    expected = shapes_of(*_asked(card), filled_by(found.values(), WEIGHTS))
    if expected is not None:
        _compare(expected, found, card.architecture or "", folder)


def _filled(architecture: str | nn.Module, card: Card, state: dict[str, Tensor], path: Path) -> nn.Module:
    if isinstance(architecture, nn.Module):
        model = architecture
    else:
        card = replace(card, architecture=architecture)
        model = fresh_model(card)
    expected = model.state_dict()
    if not state.keys() & expected.keys():  # saved from inside DataParallel
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    _compare(_shapes(expected), _shapes(state), _name_of(architecture), path)
    for name, tensor in state.items():
        if unusable(tensor) or tensor.is_floating_point() != expected[name].is_floating_point():
            kind = unusable(tensor) or tensor.dtype
            raise InputError(f"model: {name} in {path} is a {kind} tensor; allowed: dense {expected[name].dtype}")
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise InputError(f"model: {name} in {path} holds NaN or infinite weights; allowed: finite weights")
    model.load_state_dict(state)
    return with_card(model.eval(), card)


def _shapes(state: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}


def _compare(expected: dict[str, torch.Size], found: dict[str, torch.Size], architecture: str, path: Path) -> None:
    for name in sorted(expected.keys() ^ found.keys()):
        where = "misses" if name in expected else "has an unknown"
        raise InputError(f"model: {path} {where} tensor {name!r}; allowed: weights of {architecture}")
    for name, shape in found.items():
        if shape != expected[name]:
            raise InputError(f"model: {name} in {path} has shape {tuple(shape)}; allowed: {tuple(expected[name])}")


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
