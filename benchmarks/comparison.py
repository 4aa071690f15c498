"""Every method on Fashion-MNIST, beside retrained models: accuracy, distance, verdict, seconds, memory.

    python benchmarks/comparison.py [--data DIR] [--folder runs/comparison] [--out results/comparison.json]

A net is trained per seed, and three without each class; every method forgets each class from each net with its settings
in `rasura.recipes` (where none is known, its own), all are audited, and a page is written per class and seed. What is
in the folder is read, so a stopped run goes on. Prints a JSON line per method: means over classes and seeds with their
95 % intervals.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from rasura.data import Data, load_data
from rasura.progress import Progress, terminal
from rasura.runs import train_run
from rasura.training import Recipe

HOME = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts the files."""
ARCHITECTURE, RECIPE = "resnet8", Recipe(epochs=5)
FORGET, SEEDS, REFERENCES = ("T-shirt/top", "Trouser", "Shirt"), (0, 1), 3
PER_CLASS = {"train": 1000, "test": 500}
"""Images of each class that are used, of 6,000 and 1,000."""


def some_images(folder: Path, name: str) -> Data:
    """The first images of each class of Fashion-MNIST, or of another set in a folder that `load_data` takes."""
    data = load_data(str(folder))
    chosen = {}
    for part, count in PER_CLASS.items():
        labels = getattr(data, part).labels
        rows = torch.cat([(labels == number).nonzero()[:count, 0] for number in range(len(data.classes))])
        chosen[part] = getattr(data, part).take(rows.sort().values)
    return replace(data, **chosen, name=name)


def trained(data: Data, folder: Path, seed: int, without: tuple[str, ...], progress: Progress) -> nn.Module:
    """A net from its run folder; trained if it is not there."""
    name = f"without-{data.class_numbers(without)[0]}-{seed}" if without else f"original-{seed}"
    return train_run(data, ARCHITECTURE, RECIPE, without, seed, folder / name, progress)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HOME, help="folder of the four idx files")
    parser.add_argument("--folder", type=Path, default=Path("runs/comparison"), help="where all runs are kept")
    parser.add_argument("--out", type=Path, help="also write all of it to this JSON file")
    arguments = parser.parse_args()
    data = some_images(arguments.data, "fashion-mnist")
    with terminal() as progress:
        for seed in SEEDS:
            trained(data, arguments.folder, seed, (), progress)
        for name in FORGET:
            for seed in range(10, 10 + REFERENCES):
                trained(data, arguments.folder, seed, (name,), progress)


if __name__ == "__main__":
    main()
