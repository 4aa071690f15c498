"""Build the embedded data set, a subset of Fashion-MNIST (MIT licence, © 2017 Zalando SE).

    python benchmarks/build_fashion_mini.py FASHION_MNIST_DIR OUT.npz

FASHION_MNIST_DIR holds the four idx files (Debian: `apt install dataset-fashion-mnist`, then
/usr/share/datasets/fashion-mnist). OUT.npz gets 800 images per class of the training file and 600 per class of the
test file, lossless, in their original order. An image whose exact content occurs more than once among all 70,000 is
never chosen, so train and test share no image and no image is there twice. The same input gives the same bytes.
"""

import sys
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rasura.data._idx import FASHION, read_idx
from rasura.data._read import Part

TRAIN_PER_CLASS, TEST_PER_CLASS, SEED = 800, 600, 2017


def main(source: Path, target: Path) -> None:
    read = read_idx(source)
    times = Counter(image.tobytes() for part in (read.train, read.test) for image in part.images)
    rng = np.random.default_rng(SEED)
    x_train, y_train = chosen(read.train, TRAIN_PER_CLASS, times, rng)
    x_test, y_test = chosen(read.test, TEST_PER_CLASS, times, rng)
    np.savez_compressed(
        target, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test, classes=np.array(FASHION)
    )
    print(f"{target}: {len(x_train)} + {len(x_test)} images, {target.stat().st_size:,} bytes")


def chosen(part: Part, per_class: int, times: Counter[bytes], rng: np.random.Generator) -> tuple[NDArray, NDArray]:
    """`per_class` images of each class, drawn without replacement among those that occur once, in original order."""
    unique = np.array([times[image.tobytes()] == 1 for image in part.images])
    drawn = [
        rng.choice(np.flatnonzero(unique & (part.labels == label)), per_class, replace=False)
        for label in range(len(FASHION))
    ]
    rows = np.sort(np.concatenate(drawn))
    return part.images[rows, 0], part.labels[rows].astype(np.uint8)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
