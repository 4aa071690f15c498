"""idx files, plain or gzipped: the layout of MNIST and Fashion-MNIST."""

import gzip
import math
import struct
import zlib
from io import BufferedIOBase
from pathlib import Path

import numpy as np

from rasura.data._read import Array, Part, Read, class_numbers_of
from rasura.errors import InputError
from rasura.memory import check_room

PIECE = 2**20
"""Bytes that are unpacked at a time."""
FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def idx_folder(root: Path) -> Path | None:
    """The folder at or below `root` that holds MNIST-style files, as torchvision lays them out."""
    places = [root, root / "MNIST" / "raw", root / "FashionMNIST" / "raw", root / "raw"]
    found = [place for place in places if _idx_file(place, "train", "images")]
    if len(found) > 1:
        raise InputError(f"idx: {root} holds {found[0]} and {found[1]}; allowed: name one of the two")
    return found[0] if found else None


def read_idx(root: Path) -> Read:
    """MNIST-style idx files, plain or gz."""
    folder = idx_folder(root)
    if folder is None:
        raise InputError(f"idx: {root} holds no train-images-idx3-ubyte; allowed: MNIST-style idx files, plain or .gz")
    train, test = _idx_part(folder, "train"), _idx_part(folder, "t10k")
    whole = folder.resolve()
    if "fashion" in f"{whole.parent.name}/{whole.name}".lower():
        return Read(train, test, FASHION)
    return Read(train, test, class_numbers_of(train, test))


def _idx_part(folder: Path, part: str) -> Part:
    images = _idx_array(_idx_found(folder, part, "images"), dims=3)
    labels = _idx_array(_idx_found(folder, part, "labels"), dims=1)
    return Part(images[:, None], labels.astype(np.int64))


def _idx_file(folder: Path, part: str, kind: str) -> Path | None:
    ending = {"images": "idx3-ubyte", "labels": "idx1-ubyte"}[kind]
    names = [f"{part}-{kind}{joint}{ending}{packed}" for packed in ("", ".gz") for joint in "-."]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _idx_found(folder: Path, part: str, kind: str) -> Path:
    path = _idx_file(folder, part, kind)
    if path is None:
        raise InputError(f"idx: {folder} holds no {part}-{kind} file; allowed: images and labels of train and t10k")
    return path


def _idx_array(path: Path, dims: int) -> Array:
    """The array of a file. Its header says how much is read: what a gzip file holds beyond is not unpacked."""
    head, magic, on_disk = 4 + 4 * dims, 0x0800 + dims, path.stat().st_size
    packed = path.suffix == ".gz"
    try:
        with gzip.open(path) if packed else open(path, "rb") as stream:
            start = stream.read(head)
            if len(start) < head:
                raise InputError(f"idx: {path} has {len(start)} bytes; allowed: at least the {head} of its header")
            found, *shape = struct.unpack(f">{1 + dims}I", start)
            if found != magic:
                raise InputError(f"idx: {path} starts with the magic number {found}; allowed: {magic}")
            size = math.prod(shape)
            if not packed and on_disk != head + size:
                raise _other_size(path, str(on_disk), head + size, shape)
            check_room(f"idx: {path}", size, on_disk if packed else None)
            values = np.empty(size, np.uint8)
            count = _fill(values, stream)
            if count < size or stream.read(1):
                raise _other_size(path, f"{head + count}" if count < size else "more", head + size, shape)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"idx: {path} is no whole gzip file ({error}); allowed: an undamaged one") from error
    return values.reshape(shape)


def _fill(values: Array, stream: BufferedIOBase) -> int:
    """Read bytes into an array, a piece at a time; how many there were."""
    count = 0
    while count < len(values) and (piece := stream.read(min(PIECE, len(values) - count))):
        values[count : count + len(piece)] = np.frombuffer(piece, np.uint8)
        count += len(piece)
    return count


def _other_size(path: Path, found: str, expected: int, shape: list[int]) -> InputError:
    return InputError(f"idx: {path} has {found} bytes; allowed: {expected} for the shape {tuple(shape)}")
