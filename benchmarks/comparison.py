"""Every method on Fashion-MNIST, beside retrained models: accuracy, distance, verdict, seconds, memory.

    python benchmarks/comparison.py [--data DIR] [--folder DIR] [--seeds 0 1] [--forget CLASS …] [--out FILE]

A net is trained per seed, and three without each class; every method forgets each class from each net, with the
settings that `rasura.recipes` has for T-shirt/top of the same images, all are audited, and a page is written per class
and seed. What is in the folder is read, so a stopped run goes on. Prints a JSON line per method:
means over classes and seeds with their 95 % intervals.
"""

import argparse
import json
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from scipy.stats import t
from torch import nn

from rasura.compare import compare
from rasura.contents import versions
from rasura.data import Data, Examples, ForgetClasses, load_data
from rasura.methods import names
from rasura.progress import Progress, terminal
from rasura.recipes import nearest_for
from rasura.runs import machine, train_run
from rasura.training import Recipe

HOME = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts the files."""
ARCHITECTURE, RECIPE, SETTINGS = "resnet8", Recipe(epochs=5), "fashion-mnist"
FORGET, SEEDS, REFERENCES = ("T-shirt/top", "Trouser", "Shirt"), (0, 1), 3
TRAINING, HELD_OUT = 1000, 500
"""Images of each class, of 6,000 and 1,000."""
READ, AUDITED = 400, 120
"""Of these, what methods read and what the audits of 150 models look at."""


def some_images(folder: Path, name: str) -> Data:
    """The first images of each class of Fashion-MNIST, or of another set in a folder that `load_data` takes."""
    data = load_data(str(folder))
    return replace(data, train=between(data.train, 0, TRAINING), test=between(data.test, 0, HELD_OUT), name=name)


def between(examples: Examples, start: int, stop: int) -> Examples:
    """Of the examples of each class, those from one position to another."""
    rows = [(examples.labels == number).nonzero()[start:stop, 0] for number in examples.labels.unique().tolist()]
    return examples.take(torch.cat(rows).sort().values)


def trained(data: Data, folder: Path, seed: int, without: tuple[str, ...], progress: Progress) -> nn.Module:
    """A net from its run folder; trained if it is not there."""
    name = f"without-{data.class_numbers(without)[0]}-{seed}" if without else f"original-{seed}"
    return train_run(data, ARCHITECTURE, RECIPE, without, seed, folder / name, progress)


def cell(data: Data, folder: Path, seed: int, name: str, progress: Progress) -> tuple[list[dict], dict[str, str]]:
    """Rows of all methods on one class and seed, and the reasons of those that failed."""
    few = replace(data, train=between(data.train, 0, READ), test=between(data.test, 0, AUDITED))
    original = trained(data, folder, seed, (), progress)
    references = [trained(data, folder, 10 + k, (name,), progress) for k in range(REFERENCES)]
    methods = {one: nearest_for(one, SETTINGS) for one in names() if one != "retrain"}
    place = folder / f"forget-{data.class_numbers((name,))[0]}-{seed}"
    rows, failed = compare(original, few, ForgetClasses([name]), methods, references, place, progress, seed)
    return [row.to_json() for row in rows], failed


def summary(cells: list[list[dict]]) -> list[dict]:
    """One row per method over all cells, the nearest to the retrained models first."""
    by_name: dict[str, list[dict]] = {}
    for row in (row for rows in cells for row in rows):
        by_name.setdefault(row["name"], []).append(row)
    rows = [_summed(name, found) for name, found in by_name.items()]
    return sorted(rows, key=lambda row: row["distance"]["mean"])


def _summed(name: str, found: list[dict]) -> dict:
    measures = [{one["name"]: one for one in row["measures"]} for row in found]
    values = {
        "distance": [row["distance"] for row in found],
        **{part: [one[part]["value"] for one in measures] for part in ("forget accuracy", "retain accuracy")},
        "retain accuracy of retrained": [_middle(one["retain accuracy"]) for one in measures],
        "few-shot area outside": [_few_shot(one)["outside"] for one in measures],
        "routing outside": [one["routing"]["outside"] for one in measures],
    }
    means = {key: interval(list(each)) for key, each in values.items()}
    costs = {key: _median([row[key] for row in found]) for key in ("seconds", "memory_mib")}
    verdicts = dict(Counter(row["verdict"] for row in found))
    return {"method": name, "n": len(found), "verdicts": verdicts, **means, **costs}


def _median(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(float(np.median(known)), 1) if known else None


def _middle(measure: dict) -> float:
    return (measure["low"] + measure["high"]) / 2


def _few_shot(measures: dict[str, dict]) -> dict:
    return next(one for name, one in measures.items() if name.startswith("forget: few-shot area"))


def interval(values: list[float]) -> dict[str, float | None]:
    """The mean over cells and the half width of its 95 % interval (Student's t; None for a single cell)."""
    count, mean = len(values), float(np.mean(values))
    half = float(t.ppf(0.975, count - 1) * np.std(values, ddof=1) / np.sqrt(count)) if count > 1 else None
    return {"mean": round(mean, 5), "half_width": None if half is None else round(half, 5)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HOME, help="folder of the four idx files")
    parser.add_argument("--folder", type=Path, default=Path("runs/comparison"), help="where all runs are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="of originals, methods and audits")
    parser.add_argument("--forget", nargs="+", default=FORGET, choices=FORGET, help="one class after the other")
    parser.add_argument("--out", type=Path, help="also write all of it to this JSON file")
    arguments = parser.parse_args()
    data, cells, failed = some_images(arguments.data, "fashion-mnist"), [], {}
    with terminal() as progress:
        for seed, name in product(arguments.seeds, arguments.forget):
            rows, reasons = cell(data, arguments.folder, seed, name, progress)
            failed |= {f"{one}, {name}, seed {seed}": reason for one, reason in reasons.items()}
            cells.append({"forget": name, "seed": seed, "rows": rows})
            print(json.dumps({"forget": name, "seed": seed, "nearest": rows[0]["name"]}), flush=True)
            if arguments.out:  # after every cell: all of them take hours
                arguments.out.write_text(json.dumps(content(data, cells, failed), indent=1) + "\n")
    for row in summary([one["rows"] for one in cells]):
        print(json.dumps(row), flush=True)


def content(data: Data, cells: list[dict], failed: dict[str, str]) -> dict:
    """What the result holds; its command leads to the same cells."""
    seeds = " ".join(map(str, dict.fromkeys(one["seed"] for one in cells)))
    classes = " ".join(dict.fromkeys(one["forget"] for one in cells))
    count = len(data.classes)
    images = {"training_images": len(data.train), "images_that_methods_read": READ * count}
    images |= {"held_out_images": AUDITED * count}
    return {
        "command": f"python benchmarks/comparison.py --seeds {seeds} --forget {classes}",
        "machine": machine(),
        "versions": versions(),
        "data": "Fashion-MNIST",
        **images,
        "model": ARCHITECTURE,
        "epochs": RECIPE.epochs,
        "recipes": SETTINGS,
        "references": REFERENCES,
        "methods": summary([one["rows"] for one in cells]),
        "failed": failed,
        "cells": cells,
    }


if __name__ == "__main__":
    main()
