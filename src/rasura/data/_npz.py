"""npz archives with MedMNIST's keys or Keras's; object arrays (pickles) are refused."""

import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rasura.data._read import Array, Part, Read, class_numbers_of
from rasura.errors import InputError

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
    return Read(train, test, class_numbers_of(train, test))


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
