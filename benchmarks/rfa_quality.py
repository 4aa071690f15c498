"""Residual feature alignment beside retrained models, and beside full fine-tuning with the same losses.

    python benchmarks/rfa_quality.py [--parts class sample …] [--out results/rfa_quality.json]

Fashion-MNIST (the first 1,000 images of each class, ResNet-8), fashion-mini (a small ViT) and IMDB (3,000 reviews, a
small DistilBERT; --imdb FOLDER). What is in --folder is read, so a stopped run goes on. Accuracy of class requests and
of retained examples is that on held-out examples, accuracy of sample requests that on the forgotten training
examples. `distance` is the mean over stages and held-out retained examples of ‖h − h⁰‖ / ‖h⁰‖, where h⁰ is the
original's; `membership` is the area under the curve when forgotten examples are told from unseen ones by their loss.
Prints a JSON line per run, then differences to the retrained models with their 95 % intervals.
"""

import argparse
import copy
import json
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import t
from sklearn.metrics import roc_auc_score
from torch import nn

from rasura.activations import anatomy
from rasura.contents import versions
from rasura.data import Data, ForgetClasses, Request, load_data, read_samples, resolve
from rasura.methods.contract import Problem, problem_of
from rasura.methods.rfa import Rfa
from rasura.progress import silent, terminal
from rasura.runs import machine, train_run
from rasura.training import Recipe, predict

HOME = "/usr/share/datasets/fashion-mnist"
"""Where Debian's package dataset-fashion-mnist puts the files."""
PER_CLASS = {"train": 1000, "test": 500}
CLASSES, SHARES = ("T-shirt/top", "Trouser"), ("10%", "1%")
SEEDS = (0, 1)
GAMMAS, RANKS = (0.2, 1.0, 5.0, 15.0), (2, 16)
PLACES = (("all",), ("layer3", "head"), ("head",))
FULL_RATE = 1e-3
"""Adam's rate for all weights, of which each counts more than those of an adapter."""


@dataclass(frozen=True)
class Setting:
    """Data, net, recipe and seeds of some runs. Where there are fewer originals than seeds, one serves several."""

    data: str
    net: str
    recipe: Recipe
    originals: tuple[int, ...] = SEEDS
    references: tuple[int, ...] = (10, 11)


FASHION = Setting("fashion-mnist", "resnet8", Recipe(epochs=5))
MINI_VIT = Setting("fashion-mini", "vit", Recipe(epochs=15), originals=(0,), references=(1, 2))
REVIEWS = Setting("imdb", "distilbert,width=64,depth=2,length=64", Recipe(epochs=6, batch_size=32))


def data_of(setting: Setting, imdb: str) -> Data:
    if setting.data == "imdb":
        return load_data(f"text:{imdb},length=64")
    if setting.data != "fashion-mnist":
        return load_data(setting.data)
    data, chosen = load_data(HOME), {}
    for part, count in PER_CLASS.items():
        labels = getattr(data, part).labels
        rows = torch.cat([(labels == number).nonzero()[:count, 0] for number in range(len(data.classes))])
        chosen[part] = getattr(data, part).take(rows.sort().values)
    return replace(data, **chosen, name="fashion-mnist")


def request_of(words: str, data: Data) -> Request:
    return read_samples(words, data) if words.endswith("%") else ForgetClasses([words])


def net_of(setting: Setting, data: Data, folder: Path, seed: int, without: str = "") -> nn.Module:
    """An original, or a model retrained without what is to be forgotten."""
    home = folder / setting.data / setting.net.partition(",")[0]
    name = f"without-{without.replace('/', '-')}-{seed}" if without else f"original-{seed}"
    samples = read_samples(without, data) if without.endswith("%") else None
    classes = (without,) if without and samples is None else ()
    with terminal() as progress:
        return train_run(data, setting.net, setting.recipe, classes, seed, home / name, progress, samples)


def full_finetuning(method: Rfa, problem: Problem) -> nn.Module:
    """All weights under the same losses and steps, beside a frozen copy that is the teacher."""
    net, teacher = problem.copy_of_model().eval(), copy.deepcopy(problem.model).eval()
    points = anatomy(net, problem.retain.batch(torch.arange(2))[0]).points
    loss = method.loss(problem, points, lambda _: nullcontext(teacher))
    replace(method, learning_rate=FULL_RATE).train(net, problem, loss)
    return net.eval()


@torch.no_grad()
def distance(original: nn.Module, model: nn.Module, data: Data, request: Request) -> float:
    """Activation distance on held-out examples of the classes that stay."""
    from rasura.methods._alignment import read

    gone = data.class_numbers(request.classes) if isinstance(request, ForgetClasses) else ()
    rows = (~torch.isin(data.test.labels, torch.tensor(gone, dtype=torch.int64))).nonzero()[:1000, 0]
    found, examples = [], data.test.take(rows)
    points = anatomy(original, examples.batch(torch.arange(2))[0]).points
    for inputs, _ in examples.batches(250):
        (_, before), (_, after) = (read(net.eval(), inputs, points) for net in (original, model))
        pairs = [(old.flatten(1), new.flatten(1)) for old, new in zip(before, after, strict=True)]
        found.append(torch.stack([(new - old).norm(dim=1) / old.norm(dim=1).clamp(min=1e-6) for old, new in pairs]))
    return torch.cat(found, dim=1).mean().item()


def measured(original: nn.Module, model: nn.Module, data: Data, request: Request) -> dict[str, float]:
    """Accuracies, activation distance and, for samples, how well they are told from unseen examples."""
    said = predict(model, data.test)
    right = (said.argmax(1) == data.test.labels).double()
    found = {"distance": distance(original, model, data, request)}
    if isinstance(request, ForgetClasses):
        going = torch.isin(data.test.labels, torch.tensor(data.class_numbers(request.classes)))
        return {"forget": right[going].mean().item(), "retain": right[~going].mean().item(), **found}
    forgotten = resolve(request, data).forget
    answers = predict(model, forgotten)
    parts = (answers, forgotten.labels), (said, data.test.labels)
    losses = torch.cat([F.cross_entropy(logits, labels, reduction="none") for logits, labels in parts])
    found["membership"] = float(roc_auc_score(np.repeat([1, 0], [len(answers), len(said)]), -losses.numpy()))
    accuracy = (answers.argmax(1) == forgotten.labels).double().mean().item()
    return {"forget": accuracy, "retain": right.mean().item(), **found}


def cell(setting: Setting, data: Data, words: str, seed: int, method: Rfa, folder: Path, full: bool) -> dict:
    """One original and request: the original, the retrained models, the method, and full fine-tuning."""
    request = request_of(words, data)
    original = net_of(setting, data, folder, setting.originals[seed % len(setting.originals)])
    problem = problem_of(original, data, request, seed, silent)
    rows = {"original": measured(original, original, data, request)}
    for number in setting.references:
        rows[f"retrained {number}"] = measured(original, net_of(setting, data, folder, number, words), data, request)
    begun = time.perf_counter()
    model, record = method(problem)
    seconds = time.perf_counter() - begun
    rows["rfa"] = measured(original, model, data, request) | {"seconds": seconds}
    if full:
        rows["full fine-tuning"] = measured(original, full_finetuning(method, problem), data, request)
    residuals = {part: [line[-1] for line in record["residuals"][part]] for part in ("retain", "forget")}
    about = {"data": setting.data, "net": setting.net, "epochs": setting.recipe.epochs, "request": words, "seed": seed}
    return about | {"trainable_share": record["trainable_share"], "residuals": residuals, "rows": rows}


def plan(parts: list[str]) -> Iterator[tuple[str, Setting, str, int, Rfa, bool]]:
    """Part, setting, request, seed, method, and whether full fine-tuning is run beside it."""
    if "class" in parts:
        yield from (("class", FASHION, name, seed, Rfa(), True) for seed in SEEDS for name in CLASSES)
    if "sample" in parts:
        yield from (("sample", FASHION, share, seed, Rfa(), False) for share in SHARES for seed in SEEDS)
    if "vit" in parts:
        yield from (("vit", MINI_VIT, name, seed, Rfa(), True) for seed in SEEDS for name in CLASSES[:1])
    if "text" in parts:
        yield from (("text", REVIEWS, words, seed, Rfa(), False) for words in ("10%", "neg") for seed in SEEDS)
    if "layers" in parts:
        yield from (("layers", FASHION, "T-shirt/top", 0, Rfa(layers=places), False) for places in PLACES)
    if "gamma" in parts:
        both = [(gamma, words) for words in ("T-shirt/top", "10%") for gamma in GAMMAS]
        yield from (("gamma", FASHION, words, 0, Rfa(gamma=gamma), False) for gamma, words in both)
    if "rank" in parts:
        yield from (("rank", FASHION, "T-shirt/top", 0, Rfa(rank=rank), False) for rank in RANKS)


def difference(cells: list[dict], who: str, score: str, to: Callable[[dict], float]) -> dict:
    """Mean over cells of a score less another one, with its 95 % interval (Student's t over cells)."""
    values = [one["rows"][who][score] - to(one["rows"]) for one in cells if who in one["rows"]]
    half = t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
    mean = float(np.mean(values))
    return {"n": len(values), "mean": mean, "low": mean - half, "high": mean + half, "worst": max(values, key=abs)}


def of_retrained(score: str) -> Callable[[dict], float]:
    return lambda rows: float(np.mean([one[score] for name, one in rows.items() if name.startswith("retrained")]))


def summary(cells: list[dict]) -> list[dict]:
    found, groups = [], {(one["part"], one["request"] if one["request"].endswith("%") else "classes") for one in cells}
    for part, kind in sorted(groups):
        these = [one for one in cells if one["part"] == part and one["request"].endswith("%") == kind.endswith("%")]
        these = [one for one in these if kind == "classes" or one["request"] == kind]
        if part in ("gamma", "rank", "layers"):
            continue
        row: dict = {"part": part, "request": kind, "forget accuracy": [one["rows"]["rfa"]["forget"] for one in these]}
        for score in ("forget", "retain", *(["membership"] if kind.endswith("%") else [])):
            row[f"{score} less retrained"] = difference(these, "rfa", score, of_retrained(score))
        if all("full fine-tuning" in one["rows"] for one in these):
            full = "distance less full fine-tuning"
            row[full] = difference(these, "rfa", "distance", lambda rows: rows["full fine-tuning"]["distance"])
        found.append(row)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ["class", "sample", "vit", "text", "layers", "gamma", "rank"]
    parser.add_argument("--parts", nargs="+", default=parts, choices=parts)
    parser.add_argument("--imdb", default="imdb", help="folder with train.jsonl and test.jsonl")
    parser.add_argument("--folder", type=Path, default=Path("runs/rfa"), help="where models and rows are kept")
    parser.add_argument("--collect", action="store_true", help="only sum up the rows that are in the folder")
    parser.add_argument("--out", type=Path, help="also write all of it to this JSON file")
    arguments = parser.parse_args()
    cells, data = [], {}
    for part, setting, words, seed, method, full in plan(arguments.parts):
        settings = asdict(method)
        name = "-".join(
            [part, words.replace("/", ""), str(seed), f"{method.gamma:g}", str(method.rank), *method.layers]
        )
        kept = arguments.folder / "cells" / f"{name}.json"
        if arguments.collect and not kept.exists():
            continue
        if not kept.exists() or json.loads(kept.read_text())["settings"] != json.loads(json.dumps(settings)):
            data.setdefault(setting, data_of(setting, arguments.imdb))
            found = cell(setting, data[setting], words, seed, method, arguments.folder, full)
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps({"part": part, "settings": settings, **found}))
            print(json.dumps(found), flush=True)
        cells.append(json.loads(kept.read_text()))
    for row in summary(cells):
        print(json.dumps(row), flush=True)
    if arguments.out:
        about = {"command": "python benchmarks/rfa_quality.py", "machine": machine(), "versions": versions()}
        about |= {"seeds": SEEDS, "images_per_class": PER_CLASS}
        about |= {"parts": sorted({one["part"] for one in cells})}
        rows = {"summary": summary(cells), "cells": cells}
        arguments.out.write_text(json.dumps(about | rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
