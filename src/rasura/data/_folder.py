"""Image folders: CLASS/image, train/CLASS/image with test/ or val/, and Tiny ImageNet's layout."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rasura.data._read import SHARE, Array, Part, Read, check_splits, stratified, text_of
from rasura.errors import InputError, first_line, unknown
from rasura.memory import check_room

IMAGES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pbm", ".pgm", ".ppm"})
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
"""What Pillow may take a file for, whatever its name: its other formats start programs or are hardly ever tried."""
_ALLOWED = f"undamaged {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
MOST_PIXELS = 2**26
"""Pixels of an image, at most: 8192×8192. Its header says how many they are before anything is decoded."""

Fit = Callable[[Array], Array]


class Pictures(NamedTuple):
    """Image files with the name of each one's class."""

    paths: list[Path]
    classes: list[str]


def read_folder(root: Path, size: int | None = None, fit: Fit | None = None, held_out: float | None = None) -> Read:
    """Images in one folder per class, with or without a held-out part, or in the layout of Tiny ImageNet.

    Args:
        root: the folder.
        size: resize every image to `size` × `size`; without it, and without `fit`, all must be of one size already.
        fit: what else brings an image `[C, H, W]` to the size and channels of all.
        held_out: share of each class to hold out where no part is; default: a fifth.
    """
    if not root.is_dir():
        raise InputError(f"folder: {root} is no folder; allowed: a folder with one folder of images per class")
    train, test = _folder_parts(root)
    check_splits(root, held_out, not test.paths)
    classes = sorted(set(train.classes))
    if len(classes) < 2:
        raise InputError(
            f"folder: {root} holds {len(classes)} classes; allowed: at least 2, as CLASS/image or train/CLASS/image "
            f"with test/ or val/ ({', '.join(sorted(IMAGES))})"
        )
    _check_known(test, classes)
    images = _images([*train.paths, *test.paths], size, fit)
    number = {name: position for position, name in enumerate(classes)}
    labels = np.array([number[name] for name in (*train.classes, *test.classes)], dtype=np.int64)
    given = slice(len(train.paths)), slice(len(train.paths), None)
    split = given if test.paths else stratified(labels, held_out or SHARE)
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
    empty = {folder.name for folder in folders} - {name for _, name in found}
    if empty:
        raise InputError(
            f"folder: {root / min(empty)} holds no images; allowed: one or more per class ({', '.join(sorted(IMAGES))})"
        )
    return Pictures([path for path, _ in found], [name for _, name in found])


def _image_files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in IMAGES and not path.name.startswith("."):
            yield path


def _annotated(val: Path) -> Pictures:
    rows = [line.split("\t") for line in text_of(val / "val_annotations.txt").splitlines() if "\t" in line]
    return Pictures([val / "images" / row[0] for row in rows], [row[1] for row in rows])


def _check_known(test: Pictures, classes: list[str]) -> None:
    for path, name in zip(test.paths, test.classes, strict=True):
        if name not in classes:
            raise unknown(f"folder: training images of the class of {path}", name, classes)


def _words(root: Path, classes: list[str]) -> tuple[str, ...]:
    """Tiny ImageNet's words.txt turns 'n02124075' into 'Egyptian cat'; ambiguous words keep their number."""
    path = root / "words.txt"
    rows = (line.split("\t", 1) for line in text_of(path).splitlines() if "\t" in line) if path.is_file() else ()
    words = dict(row for row in rows if row[0] in classes)
    names = [words.get(name, name).strip() for name in classes]
    return tuple(word if names.count(word) == 1 else name for word, name in zip(names, classes, strict=True))


def _images(paths: list[Path], size: int | None, fit: Fit | None) -> Array:
    """All images as `[N, C, H, W]`: one channel if every one is grey, else RGB."""
    first, grey = (size, size) if size else None, True
    for path in paths:  # headers only: what does not fit is found before anything is decoded
        mode, shape = _header(path)
        grey = grey and mode in ("1", "L")
        first = first or shape
        if size is None and fit is None and shape != first:
            raise InputError(
                f"folder: {path} is {shape[0]}×{shape[1]}, expected {first[0]}×{first[1]} as in {paths[0]}; allowed: "
                "images of one size, or @SIZE after the folder to resize them"
            )
    pixels = (_pixels(path, "L" if grey else "RGB", size) for path in paths)
    return _stacked(map(fit, pixels) if fit else pixels, paths)


def _stacked(images: Iterator[Array], paths: list[Path]) -> Array:
    """All images in one array, which is the only place where they lie."""
    first = next(images)
    check_room(f"folder: {len(paths)} images of {first.shape[2]}×{first.shape[1]}", len(paths) * first.size)
    stacked = np.empty((len(paths), *first.shape), dtype=np.uint8)
    stacked[0] = first
    for row, image in enumerate(images, start=1):
        if image.shape != first.shape:
            raise InputError(
                f"folder: {paths[row]} becomes {image.shape[2]}×{image.shape[1]}, expected {first.shape[2]}×"
                f"{first.shape[1]} as of {paths[0]}; allowed: images of one size, or @SIZE after the folder"
            )
        stacked[row] = image
    return stacked


def _header(path: Path) -> tuple[str, tuple[int, int]]:
    with _opened(path) as image:
        mode, (width, height), moves = image.mode, image.size, getattr(image, "is_animated", False)
        moves = moves and image.format != "MPO"  # a photograph with a smaller copy of itself
    if width * height > MOST_PIXELS:
        raise _too_large(path)
    if moves:
        raise InputError(f"folder: {path} holds several pictures; allowed: one picture per file")
    if mode.startswith(("I", "F")):  # Pillow would clip 16 bits to 8, not scale them
        raise InputError(f"folder: {path} has more than 8 bits per channel ({mode}); allowed: 8-bit images")
    return mode, (width, height)


def _pixels(path: Path, mode: str, size: int | None) -> Array:
    from PIL import Image

    with _opened(path) as image:
        # A palette with transparency goes to RGB by way of RGBA, as Pillow asks for in a warning.
        plain = (image.convert("RGBA") if "transparency" in image.info else image).convert(mode)
    plain = plain.resize((size, size), Image.Resampling.BICUBIC) if size else plain
    pixels = np.asarray(plain)
    return pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An image file, of which the header is read; inside, Pillow decodes it.

    Raises:
        InputError: no regular file (a pipe would never end), or nothing that Pillow can read as one of `FORMATS`.
    """
    from PIL import Image

    if not path.is_file():
        what = "is no file" if path.exists() else "does not exist, yet it is listed"
        raise InputError(f"folder: {path} {what}; allowed: image files that are there")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is wrong is said once, by an error
            with Image.open(path, formats=FORMATS) as image:
                yield image
    except Image.DecompressionBombError:
        raise _too_large(path) from None
    except Exception as error:  # what a parser of any bytes may raise; all of it is said
        raise InputError(f"folder: {path} is no readable image ({_reason(error)}); allowed: {_ALLOWED}") from error


def _reason(error: Exception) -> str:
    from PIL import UnidentifiedImageError

    return "of none of the formats" if isinstance(error, UnidentifiedImageError) else first_line(error)


def _too_large(path: Path) -> InputError:
    return InputError(f"folder: {path} has more than {MOST_PIXELS} pixels; allowed: up to 8192×8192")
