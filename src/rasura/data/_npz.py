"""npz archives with MedMNIST's keys or Keras's; object arrays (pickles) are refused."""

import lzma
import math
import struct
import tokenize
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from rasura.data._read import Array, Part, Read, class_numbers_of
from rasura.data.dataset import MOST_CLASSES
from rasura.errors import InputError, first_line
from rasura.memory import check_room

_KEYS = (("x_train", "y_train", "x_test", "y_test"), ("train_images", "train_labels", "test_images", "test_labels"))
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
"""What reads the header of each version; the third is for names of fields, which nothing here has."""
_DAMAGED = (
    ValueError, OSError, EOFError, TypeError, OverflowError, SyntaxError, MemoryError, RecursionError, RuntimeError,
    SystemError, NotImplementedError, struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip
"""What zipfile and numpy raise on what is no npz: a MemoryError of too many brackets, a SystemError of no Unicode."""


def read_npz(path: Path) -> Read:
    """Arrays under the keys of Keras (`x_train`, …) or MedMNIST (`train_images`, …), and `classes` if there."""
    if not zipfile.is_zipfile(path):
        raise InputError(f"npz: {path} is no whole zip file; allowed: an undamaged npz, as numpy.savez writes it")
    try:
        with zipfile.ZipFile(path) as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy on headers of Python 2
            return _read(archive, path)
    except InputError:
        raise
    except _DAMAGED as error:
        raise InputError(f"npz: {path} cannot be read ({first_line(error)}); allowed: an undamaged npz") from error


def _read(archive: zipfile.ZipFile, path: Path) -> Read:
    names = [name.removesuffix(".npy") for name in archive.namelist()]
    keys = next((keys for keys in _KEYS if set(keys) <= set(names)), None)
    if keys is None:
        raise InputError(
            f"npz: {path} holds {sorted(names)}; allowed: {', '.join(_KEYS[0])} (or {', '.join(_KEYS[1])})"
        )
    wanted = (*keys, "classes") if "classes" in names else keys
    members = {key: archive.getinfo(key if key in archive.namelist() else f"{key}.npy") for key in wanted}
    room = sum(_declared(archive, members[key], f"{path}:{key}") for key in wanted)
    check_room(f"npz: {path}", room, sum(member.compress_size for member in members.values()))
    arrays = {key: _array(archive, member) for key, member in members.items()}
    train, test = (
        Part(_npz_images(arrays[images], f"{path}:{images}"), _npz_labels(arrays[labels], f"{path}:{labels}"))
        for images, labels in (keys[:2], keys[2:])
    )
    if "classes" in arrays:
        return Read(train, test, tuple(str(name) for name in arrays["classes"].astype(str).reshape(-1)))
    return Read(train, test, class_numbers_of(train, test))


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray:
    with archive.open(member) as stream:
        return npy.read_array(stream, allow_pickle=False)


def _declared(archive: zipfile.ZipFile, member: zipfile.ZipInfo, label: str) -> int:
    """The bytes of an array by its header, checked before any is read: they are those that the archive says it has."""
    with archive.open(member) as stream:
        shape, dtype = _header(stream, label)
        left = member.file_size - stream.tell()
    if dtype.hasobject:
        raise InputError(f"npz: {label} holds Python objects, and nothing is ever unpickled; allowed: numbers")
    if dtype.kind not in "iuSU" or not dtype.itemsize:
        raise InputError(f"npz: {label} holds {dtype} values; allowed: whole numbers from 0 to 255 (uint8)")
    size = math.prod(shape) * dtype.itemsize
    if size != left:
        raise InputError(f"npz: {label} says {size} bytes and has {left}; allowed: an undamaged npz")
    if dtype.kind in "SU" and math.prod(shape) > MOST_CLASSES:
        raise InputError(f"npz: {label} holds {math.prod(shape)} names; allowed: up to {MOST_CLASSES}")
    return size


def _header(stream: IO[bytes], label: str) -> tuple[tuple[int, ...], np.dtype]:
    version = npy.read_magic(stream)
    if version not in _HEADERS:
        raise InputError(f"npz: {label} is of the version {version}; allowed: 1.0 and 2.0, as numpy.savez writes them")
    shape, _, dtype = _HEADERS[version](stream)
    return shape, dtype


def _npz_images(images: NDArray, label: str) -> Array:
    if not np.issubdtype(images.dtype, np.integer) or (images.size and (images.min() < 0 or images.max() > 255)):
        raise InputError(f"npz: {label} holds {images.dtype} values; allowed: whole numbers from 0 to 255 (uint8)")
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[3] in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    elif images.ndim != 4 or images.shape[1] not in (1, 3):
        raise InputError(f"npz: {label} has the shape {images.shape}; allowed: [N, H, W], [N, H, W, C] or [N, C, H, W]")
    return np.ascontiguousarray(images, dtype=np.uint8)


def _npz_labels(labels: NDArray, label: str) -> NDArray[np.int64]:
    flat = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if flat.ndim != 1 or not np.issubdtype(flat.dtype, np.integer):
        raise InputError(f"npz: {label} holds {labels.dtype} of shape {labels.shape}; allowed: whole numbers [N]")
    return flat.astype(np.int64)
