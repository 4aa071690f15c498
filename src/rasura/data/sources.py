"""Where data comes from: the embedded set, scikit-learn's digits, files in the usual layouts, or a Python file."""

import importlib.resources
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from rasura.data._cifar import cifar_folder, read_cifar
from rasura.data._folder import read_folder
from rasura.data._idx import idx_folder, read_idx
from rasura.data._npz import read_npz
from rasura.data._python import data_from_file
from rasura.data._read import Part, Read, check_splits, path_of, stratified
from rasura.data._text import SUFFIXES, class_folders, part_of, read_texts
from rasura.data._tokens import tokeniser
from rasura.data.canaries import canaries_of
from rasura.data.dataset import Data
from rasura.data.examples import Standardise, examples_from
from rasura.data.preprocessing import ModelsOwn, OwnTokenizer, Preprocessing
from rasura.errors import InputError, expect, unknown

DATA_SOURCES: dict[str, str] = {
    "fashion-mini": "14,000 images of Fashion-MNIST (28×28 grey, 10 classes), part of rasura: nothing to download",
    "digits": "scikit-learn's 1,797 handwritten digits (8×8 grey, 10 classes)",
    "idx:DIR": "MNIST, Fashion-MNIST and the like: *-images-idx3-ubyte and *-labels-idx1-ubyte, plain or .gz",
    "cifar10:DIR": "CIFAR-10, binary version (data_batch_1.bin …)",
    "cifar100:DIR": "CIFAR-100, binary version (train.bin, test.bin), fine labels",
    "folder:DIR[@SIZE]": "images as CLASS/image, train/CLASS/image with test/ or val/, or Tiny ImageNet; @64 resizes",
    "npz:FILE": "arrays x_train, y_train, x_test, y_test and, if you like, classes (MedMNIST's keys work too)",
    "text:PATH[,option=value…]": "labelled texts: .jsonl, .csv, a folder with train.jsonl or train/CLASS/*.txt, or a "
    "Hugging Face data set; options: tokenizer (a folder or a name on the Hub; else the most frequent words), words, "
    "length",
    "FILE.py:FUNCTION": "a function of yours, without arguments, that returns a rasura.Data, a pair (train, test) of "
    "data sets, or a DatasetDict",
    "canaries:COUNT[@SEED]:DATA": "one of the above, of which so many training examples get a wrong label: what "
    "only a model that saw them can say; as samples to forget they are canaries:COUNT[@SEED]",
}


@dataclass(frozen=True)
class _Asked:
    """How a source is to be read: see `load_data`."""

    own: ModelsOwn | None
    held_out: float | None


def load_data(spec: str | Path, own: ModelsOwn | None = None, held_out: float | None = None) -> Data:
    """Load data by name, by `format:path`, by path alone (the format is detected), or from a Python file.

    Args:
        spec: one of `DATA_SOURCES`. Images are stored as bytes and standardised per channel by the training images'
            mean and standard deviation. Where the source holds no test part, a seeded fifth of each class is held out
            (of the digits a third).
        own: a model's own preprocessing (`rasura.models.preprocessing_of`), which takes the place of size, mean and
            standard deviation of images, or of the tokens of texts for which `spec` names no tokenizer. What a Python
            file returns is left as it is.
        held_out: share of each class that is held out in its place, above 0 and below 1. The same share gives the same
            split.

    Raises:
        InputError: an unknown name; files that are missing, damaged or of another layout; a share out of range, or for
            data that hold a test part.

    >>> load_data("digits")
    Data('digits', 10 classes, 1198 training and 599 held-out examples)
    """
    expect("data", spec, (str, Path), "a name or a path, a word")
    expect("own", own, (*get_args(ModelsOwn), NoneType), "a model's own preprocessing (preprocessing_of), or None")
    spec = str(spec)
    if held_out is not None and not 0 < held_out < 1:
        raise InputError(f"held-out: {held_out}; allowed: above 0 and below 1")
    prefix, _, rest = spec.partition(":")
    asked = _Asked(own, held_out)
    if spec in _NAMED:
        return _NAMED[spec](spec, asked)
    if prefix in _FORMATS and rest:
        return _FORMATS[prefix](rest, asked)
    file, _, function = spec.rpartition(":")
    if file.endswith(".py"):
        check_splits(spec, held_out, False)
        return data_from_file(file, function)
    if spec and os.path.exists(_sized(spec)[0]):  # a name may be too long to be asked for
        return _detected(spec, asked)
    raise _unknown_source(spec)


# ------------------------------------------------------------------------------------------- by name


def _fashion_mini(name: str, asked: _Asked) -> Data:
    check_splits(name, asked.held_out, False)
    resource = importlib.resources.files("rasura.data") / "fashion_mini.npz"
    with importlib.resources.as_file(resource) as path:
        return _as_data(read_npz(path), name, asked.own)


def _digits(name: str, asked: _Asked) -> Data:
    from sklearn.datasets import load_digits

    pixels, labels = (np.asarray(array) for array in load_digits(return_X_y=True))
    images = np.rint(pixels * 255 / 16).astype(np.uint8).reshape(-1, 1, 8, 8)
    train, test = (Part(images[rows], labels[rows]) for rows in stratified(labels, asked.held_out or 1 / 3))
    return _as_data(Read(train, test, tuple("0123456789")), name, asked.own)


_NAMED: dict[str, Callable[[str, _Asked], Data]] = {"fashion-mini": _fashion_mini, "digits": _digits}


# ------------------------------------------------------------------------------------------- by path


def _idx(text: str, asked: _Asked) -> Data:
    check_splits(text, asked.held_out, False)
    root = _existing("idx", text)
    read = read_idx(root)
    folder = (idx_folder(root) or root).resolve()
    return _as_data(read, (folder.parent if folder.name == "raw" else folder).name, asked.own)


def _cifar10(text: str, asked: _Asked) -> Data:
    check_splits(text, asked.held_out, False)
    return _as_data(read_cifar(_existing("cifar10", text), 10), "cifar10", asked.own)


def _cifar100(text: str, asked: _Asked) -> Data:
    check_splits(text, asked.held_out, False)
    return _as_data(read_cifar(_existing("cifar100", text), 100), "cifar100", asked.own)


def _folder(text: str, asked: _Asked) -> Data:
    path, size = _sized(text)
    root = _existing("folder", path)
    own = asked.own
    if not isinstance(own, Preprocessing):
        return _as_data(read_folder(root, size, held_out=asked.held_out), root.resolve().name)
    read = read_folder(root, size, lambda image: own.fitted([image])[0].numpy(), asked.held_out)
    return _as_data(read, root.resolve().name, own, fitted=True)


def _npz(text: str, asked: _Asked) -> Data:
    check_splits(text, asked.held_out, False)
    path = _existing("npz", text)
    return _as_data(read_npz(path), path.stem, asked.own)


@dataclass(frozen=True)
class _Tokens:
    """How texts become tokens.

    Attributes:
        tokenizer: a tokenizer of transformers: a folder or a name on the Hub; none means the most frequent words.
        words: without a tokenizer, the number of tokens. 5 or more.
        length: tokens per text. 3 or more.
    """

    tokenizer: str = ""
    words: int = 8000
    length: int = 128


def _text(text: str, asked: _Asked) -> Data:
    source, *pairs = text.split(",")
    tokens, settings = _token_options(pairs), {}
    if isinstance(asked.own, OwnTokenizer) and not tokens.tokenizer:
        tokens, settings = replace(tokens, tokenizer=asked.own.name), asked.own.settings
    read = read_texts(source, asked.held_out)
    tokenise = tokeniser(tokens.tokenizer or None, tokens.words, tokens.length, read.train[0])
    train, test = (examples_from(tokenise(texts), torch.tensor(labels)) for texts, labels in (read.train, read.test))
    return Data(train, test, read.classes, Path(source).stem, settings)


def _token_options(pairs: list[str]) -> _Tokens:
    known = {one.name: one for one in fields(_Tokens)}
    given: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if key not in known or not equals:
            raise unknown("text option", key, known)
        if known[key].type is int and not re.fullmatch(r"\d{1,9}", value):
            raise InputError(f"{key}: {value!r}; allowed: a whole number")
        given[key] = int(value) if known[key].type is int else value
    tokens = _Tokens(**given)
    for name, least in (("words", 5), ("length", 3)):
        if getattr(tokens, name) < least:
            raise InputError(f"{name}: {getattr(tokens, name)}; allowed: {least} or more")
    return tokens


def _canaries(text: str, asked: _Asked) -> Data:
    words, _, source = text.partition(":")
    canaries = canaries_of(words)
    if canaries is None or not source:
        raise InputError(f"canaries: {text}; allowed: COUNT:DATA or COUNT@SEED:DATA, such as 100@7:digits")
    return canaries.planted(load_data(source, asked.own, asked.held_out))


_FORMATS: dict[str, Callable[[str, _Asked], Data]] = {
    "idx": _idx,
    "cifar10": _cifar10,
    "cifar100": _cifar100,
    "folder": _folder,
    "npz": _npz,
    "text": _text,
    "canaries": _canaries,
}


def _detected(text: str, asked: _Asked) -> Data:
    path, size = _sized(text)
    if path.is_file() and path.suffix == ".npz":
        return _npz(text, asked)
    if path.suffix in SUFFIXES or (path.is_dir() and any(part_of(path, ("train",)))) or class_folders(path / "train"):
        return _text(text, asked)
    if path.is_file():
        wanted = f"{path}:FUNCTION" if path.suffix == ".py" else "a folder, an .npz file or FILE.py:FUNCTION"
        raise InputError(f"data: {path} is a file of no known format; allowed: {wanted}")
    if size is None and idx_folder(path):
        return _idx(text, asked)
    if size is None and cifar_folder(path, 10):
        return _cifar10(text, asked)
    if size is None and cifar_folder(path, 100):
        return _cifar100(text, asked)
    return _folder(text, asked)


def _sized(text: str) -> tuple[Path, int | None]:
    """'lfw@64' → lfw, 64; a folder that is really called 'lfw@64' stays one."""
    path = path_of(text)
    match = re.fullmatch(r"(.+)@(\d{1,9})", text)
    if match is None or os.path.exists(path):
        return path, None
    size = int(match[2])
    if not 1 <= size <= 4096:
        raise InputError(f"folder: {text} asks for images of {size}×{size}; allowed: @1 to @4096")
    return path_of(match[1]), size


def _existing(field: str, path: str | Path) -> Path:
    path = path_of(path)
    if not os.path.exists(path):
        raise InputError(f"{field}: {path} does not exist; allowed: an existing path")
    if path.is_file() != (field == "npz"):
        kind = "file" if path.is_file() else "folder"
        raise InputError(f"{field}: {path} is a {kind}; allowed: a {'file' if field == 'npz' else 'folder'}")
    return path


def _unknown_source(spec: str) -> InputError:
    prefix = spec.partition(":")[0]
    if prefix not in _FORMATS and re.search(r"[/\\~.]", prefix):
        return InputError(f"data: {spec} does not exist; allowed: an existing path, or {', '.join(DATA_SOURCES)}")
    return unknown("data", spec if prefix in (*_NAMED, *_FORMATS) else prefix, DATA_SOURCES)


# -------------------------------------------------------------------------------------------- shared


def _as_data(read: Read, name: str, own: ModelsOwn | None = None, fitted: bool = False) -> Data:
    """Read images as data: standardised by their own statistics, or `own`, which may have `fitted` them already."""
    images = [torch.from_numpy(part.images) for part in (read.train, read.test)]
    settings, transform = {}, _standardise(images[0])
    if isinstance(own, Preprocessing):
        settings, transform = own.settings, Standardise(own.mean, own.std) if fitted else own
    train, test = (
        examples_from(stored, torch.from_numpy(part.labels), transform)
        for stored, part in zip(images, (read.train, read.test), strict=True)
    )
    data = Data(train, test, read.classes, name, settings)
    strange = set(test.labels.tolist()) - set(train.labels.tolist())
    if strange:
        raise InputError(
            f"test: class {data.classes[min(strange)]!r} has no training examples; allowed: the classes of train"
        )
    return data


def _standardise(images: Tensor) -> Standardise:
    """Mean and standard deviation per channel, exact: from how often each of the 256 values occurs."""
    values = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in range(images.shape[1]):
        chunks = (chunk[:, channel].flatten() for chunk in images.split(8192))
        counts = sum((torch.bincount(chunk, minlength=256) for chunk in chunks), torch.zeros(256, dtype=torch.int64))
        share = counts.double() / counts.sum().clamp(min=1)
        mean = float(share @ values)
        variance = float(share @ (values - mean) ** 2)
        means.append(mean)
        stds.append(variance**0.5 if int((counts > 0).sum()) > 1 else 1.0)
    return Standardise(tuple(means), tuple(stds))
