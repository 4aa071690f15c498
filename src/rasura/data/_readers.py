"""Files in the usual layouts → arrays: idx (MNIST), CIFAR binary, image folders, npz. Nothing is ever unpickled."""

import gzip
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rasura.data.dataset import numbered
from rasura.errors import InputError, unknown

Array = NDArray[np.uint8]

FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
IMAGES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm"})
SEED = 0  # of every split made here: the same files give the same split


class Part(NamedTuple):
    """Images uint8 `[N, C, H, W]` and labels `[N]`."""

    images: Array
    labels: NDArray[np.int64]


class Read(NamedTuple):
    """What a reader returns."""

    train: Part
    test: Part
    classes: tuple[str, ...]


def stratified(labels: NDArray[np.int64], share: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of a seeded split: about `share` of each class is held out, and at least one example stays."""
    rng = np.random.default_rng(SEED)
    held = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        mine = np.flatnonzero(labels == label)
        wanted = min(max(round(share * len(mine)), 1), len(mine) - 1)
        held[rng.permutation(mine)[:wanted]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


# ---------------------------------------------------------------------------------------------- idx


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
    return Read(train, test, _numbered(train, test))


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
    content = _bytes(path)
    head, magic = 4 + 4 * dims, 0x0800 + dims
    if len(content) < head:
        raise InputError(f"idx: {path} has {len(content)} bytes; expected at least the {head} of its header")
    found, *shape = struct.unpack(f">{1 + dims}I", content[:head])
    if found != magic:
        raise InputError(f"idx: {path} starts with the magic number {found}; expected {magic}")
    expected = head + int(np.prod(shape, dtype=object))
    if len(content) != expected:
        raise InputError(f"idx: {path} has {len(content)} bytes; expected {expected} for the shape {tuple(shape)}")
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape).copy()


def _bytes(path: Path) -> bytes:
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        with gzip.open(path) as stream:
            return stream.read()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"idx: {path} is no whole gzip file ({error}); allowed: an undamaged one") from error


# -------------------------------------------------------------------------------------------- CIFAR


def cifar_folder(root: Path, kind: int) -> Path | None:
    """The folder at or below `root` with the binary version of CIFAR-10 or CIFAR-100 (`kind` 10 or 100)."""
    inner, first = {10: ("cifar-10-batches-bin", "data_batch_1.bin"), 100: ("cifar-100-binary", "train.bin")}[kind]
    return next((place for place in (root, root / inner) if (place / first).is_file()), None)


def read_cifar(root: Path, kind: int) -> Read:
    """The binary version of CIFAR-10 or CIFAR-100 (with its 100 fine labels)."""
    folder = cifar_folder(root, kind)
    if folder is None:
        raise InputError(
            f"cifar{kind}: {root} does not hold the binary version; allowed: cifar-{kind}-binary.tar.gz unpacked "
            "(the Python version is pickled, and nothing is ever unpickled)"
        )
    names = [f"data_batch_{number}.bin" for number in range(1, 6)] if kind == 10 else ["train.bin"]
    train = [_cifar_file(folder / name, kind) for name in names]
    joined = Part(np.concatenate([part.images for part in train]), np.concatenate([part.labels for part in train]))
    test = _cifar_file(folder / ("test_batch.bin" if kind == 10 else "test.bin"), kind)
    return Read(joined, test, _cifar_names(folder, kind))


def _cifar_file(path: Path, kind: int) -> Part:
    if not path.is_file():
        raise InputError(f"cifar{kind}: {path} is missing; allowed: all files of the binary version")
    labels = 1 if kind == 10 else 2  # CIFAR-100 rows start with the coarse label, then the fine one
    width = labels + 3 * 32 * 32
    content = np.fromfile(path, np.uint8)
    if not len(content) or len(content) % width:
        raise InputError(f"cifar{kind}: {path} has {len(content)} bytes; expected rows of {width}, as {10_000 * width}")
    rows = content.reshape(-1, width)
    return Part(rows[:, labels:].reshape(-1, 3, 32, 32), rows[:, labels - 1].astype(np.int64))


def _cifar_names(folder: Path, kind: int) -> tuple[str, ...]:
    path = folder / ("batches.meta.txt" if kind == 10 else "fine_label_names.txt")
    return tuple(_text(path).split()) if path.is_file() else numbered(kind)


# ------------------------------------------------------------------------------------ image folders


class Pictures(NamedTuple):
    """Image files with the name of each one's class."""

    paths: list[Path]
    classes: list[str]


def read_folder(root: Path, size: int | None = None) -> Read:
    """Images in one folder per class, with or without a held-out part, or in the layout of Tiny ImageNet.

    Args:
        root: the folder.
        size: resize every image to `size` × `size`; without it all must be of one size already.
    """
    if not root.is_dir():
        raise InputError(f"folder: {root} is no folder; allowed: a folder with one folder of images per class")
    train, test = _folder_parts(root)
    classes = sorted(set(train.classes))
    if len(classes) < 2:
        raise InputError(
            f"folder: {root} holds {len(classes)} classes; allowed: at least 2, as CLASS/image or train/CLASS/image "
            f"with test/ or val/ ({', '.join(sorted(IMAGES))})"
        )
    _check_known(test, classes)
    images = _images([*train.paths, *test.paths], size)
    number = {name: position for position, name in enumerate(classes)}
    labels = np.array([number[name] for name in (*train.classes, *test.classes)], dtype=np.int64)
    given = slice(len(train.paths)), slice(len(train.paths), None)
    split = given if test.paths else stratified(labels, share=0.2)
    parts = [Part(images[rows], labels[rows]) for rows in split]
    return Read(*parts, classes=_words(root, classes))


def _folder_parts(root: Path) -> tuple[Pictures, Pictures]:
    """Training and held-out images; none are held out where the folder does not say which."""
    if not (root / "train").is_dir():
        return _by_class(root), Pictures([], [])
    if (root / "val" / "val_annotations.txt").is_file():
        return _by_class(root / "train"), _annotated(root / "val")
    held = [root / part for part in ("test", "val", "valid") if (root / part).is_dir()]
    if not held:
        if not any(path.suffix.lower() in IMAGES for path in (root / "train").iterdir()):
            raise InputError(
                f"folder: {root} holds train/ but nothing held out; allowed: test/, val/ or valid/ beside it"
            )
        return _by_class(root), Pictures([], [])  # a class called "train"
    test = _by_class(held[0])
    if not test.paths:
        raise InputError(f"folder: {held[0]} holds no images; allowed: one folder of images per class")
    return _by_class(root / "train"), test


def _by_class(root: Path) -> Pictures:
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    found = [(path, folder.name) for folder in folders for path in _image_files(folder)]
    return Pictures([path for path, _ in found], [name for _, name in found])


def _image_files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in IMAGES and not path.name.startswith("."):
            yield path


def _annotated(val: Path) -> Pictures:
    rows = [line.split("\t") for line in _text(val / "val_annotations.txt").splitlines() if "\t" in line]
    return Pictures([val / "images" / row[0] for row in rows], [row[1] for row in rows])


def _check_known(test: Pictures, classes: list[str]) -> None:
    for path, name in zip(test.paths, test.classes, strict=True):
        if name not in classes:
            raise unknown(f"folder: training images of the class of {path}", name, classes)


def _words(root: Path, classes: list[str]) -> tuple[str, ...]:
    """Tiny ImageNet's words.txt turns 'n02124075' into 'Egyptian cat'; ambiguous words keep their number."""
    path = root / "words.txt"
    rows = (line.split("\t", 1) for line in _text(path).splitlines() if "\t" in line) if path.is_file() else ()
    words = dict(row for row in rows if row[0] in classes)
    names = [words.get(name, name).strip() for name in classes]
    return tuple(word if names.count(word) == 1 else name for word, name in zip(names, classes, strict=True))


def _images(paths: list[Path], size: int | None) -> Array:
    """All images as `[N, C, H, W]`: one channel if every one is grey, else RGB."""
    first, grey = (size, size) if size else None, True
    for path in paths:  # headers only: what does not fit is found before anything is decoded
        mode, shape = _header(path)
        grey = grey and mode in ("1", "L")
        first = first or shape
        if size is None and shape != first:
            raise InputError(
                f"folder: {path} is {shape[0]}×{shape[1]}, expected {first[0]}×{first[1]} as in {paths[0]}; allowed: "
                "images of one size, or @SIZE after the folder to resize them"
            )
    width, height = first or (0, 0)
    images = np.empty((len(paths), 1 if grey else 3, height, width), dtype=np.uint8)
    for row, path in enumerate(paths):
        images[row] = _pixels(path, "L" if grey else "RGB", size)
    return images


def _header(path: Path) -> tuple[str, tuple[int, int]]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            mode, shape = image.mode, image.size
    except _unreadable() as error:
        raise _no_image(path, error) from error
    if mode.startswith(("I", "F")):  # Pillow would clip 16 bits to 8, not scale them
        raise InputError(f"folder: {path} has more than 8 bits per channel ({mode}); allowed: 8-bit images")
    return mode, shape


def _pixels(path: Path, mode: str, size: int | None) -> Array:
    from PIL import Image

    try:
        with Image.open(path) as image:
            # A palette with transparency goes to RGB by way of RGBA, as Pillow asks for in a warning.
            plain = (image.convert("RGBA") if "transparency" in image.info else image).convert(mode)
    except _unreadable() as error:
        raise _no_image(path, error) from error
    plain = plain.resize((size, size), Image.Resampling.BICUBIC) if size else plain
    pixels = np.asarray(plain)
    return pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)


def _unreadable() -> tuple[type[Exception], ...]:
    from PIL import Image

    return (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)


def _no_image(path: Path, error: Exception) -> InputError:
    if not path.is_file():
        return InputError(f"folder: {path} does not exist, yet it is listed; allowed: images that are there")
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return InputError(f"folder: {path} is no readable image ({reason}); allowed: undamaged images")


# ---------------------------------------------------------------------------------------------- npz

_KEYS = (("x_train", "y_train", "x_test", "y_test"), ("train_images", "train_labels", "test_images", "test_labels"))


def read_npz(path: Path) -> Read:
    """Arrays under the keys of Keras (`x_train`, …) or MedMNIST (`train_images`, …), and `classes` if there."""
    arrays = _npz_arrays(path)
    keys = next((keys for keys in _KEYS if set(keys) <= set(arrays)), None)
    if keys is None:
        raise InputError(
            f"npz: {path} holds {sorted(arrays)}; allowed: {', '.join(_KEYS[0])} (or {', '.join(_KEYS[1])})"
        )
    train, test = (
        Part(_npz_images(arrays[images], f"{path}:{images}"), _npz_labels(arrays[labels], f"{path}:{labels}"))
        for images, labels in (keys[:2], keys[2:])
    )
    if "classes" in arrays:
        return Read(train, test, tuple(str(name) for name in arrays["classes"].astype(str).reshape(-1)))
    return Read(train, test, _numbered(train, test))


def _npz_arrays(path: Path) -> dict[str, NDArray]:
    if not zipfile.is_zipfile(path):
        raise InputError(f"npz: {path} is no whole zip file; allowed: an undamaged npz, as numpy.savez writes it")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: np.asarray(archive[name]) for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        reason = "it holds Python objects, and nothing is ever unpickled" if "pickle" in str(error) else str(error)
        raise InputError(f"npz: {path} cannot be read ({reason}); allowed: an undamaged npz of numbers") from error


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


def _numbered(*parts: Part) -> tuple[str, ...]:
    return numbered(max(int(part.labels.max(initial=0)) for part in parts) + 1)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")
