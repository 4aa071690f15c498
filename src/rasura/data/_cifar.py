"""CIFAR-10 and CIFAR-100, binary version."""

from pathlib import Path

import numpy as np

from rasura.data._read import Part, Read, text_of
from rasura.data.dataset import numbered
from rasura.errors import InputError
from rasura.memory import check_room


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
    size = path.stat().st_size
    if not size or size % width:
        raise InputError(f"cifar{kind}: {path} has {size} bytes; allowed: rows of {width}, as {10_000 * width}")
    check_room(f"cifar{kind}: {path}", size)
    rows = np.fromfile(path, np.uint8).reshape(-1, width)
    return Part(rows[:, labels:].reshape(-1, 3, 32, 32), rows[:, labels - 1].astype(np.int64))


def _cifar_names(folder: Path, kind: int) -> tuple[str, ...]:
    path = folder / ("batches.meta.txt" if kind == 10 else "fine_label_names.txt")
    return tuple(text_of(path).split()) if path.is_file() else numbered(kind)
