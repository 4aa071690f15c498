"""Settings with which each method forgets, found by the strength search and written into the package.

    python benchmarks/recipes.py DATA … [--methods METHOD …] [--cifar10 DIR] [--fashion-mnist DIR] [--folder DIR]

DATA is fashion-mini, fashion-mnist or cifar10. A resnet8 is trained, and of every method settings are tried: those of
the table, those that did on fashion-mini, and those below. Where none does, its strength is searched from the nearest.
All are judged by images that neither the net nor the method was trained on; held-out images are not looked at. What is
in the folder is read, so a stopped run goes on. Prints a JSON line per method and writes src/rasura/data/recipes.json.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from comparison import ARCHITECTURE, HOME, READ, RECIPE, TRAINING, between
from torch import nn

from rasura.contents import versions
from rasura.data import Data, ForgetClasses, load_data
from rasura.errors import InputError
from rasura.files import hash_of_json
from rasura.methods import method_class, names
from rasura.methods.contract import name_of
from rasura.progress import Progress, terminal
from rasura.recipes import FILE
from rasura.runs import forget_run, machine, train_run
from rasura.strength import FORGOTTEN, Search
from rasura.training import Recipe, predict

TABLE = Path(__file__).parents[1] / "src" / "rasura" / "data" / FILE
SHORT: dict[str, dict[str, Any]] = {
    "random-relabel": {"epochs": 4, "learning_rate": 6e-4, "retain_weight": 4.0},
    "salun": {"epochs": 4, "learning_rate": 6e-4, "retain_weight": 4.0},
    "finetune": {"epochs": 2, "learning_rate": 0.08},
    "l1-sparse": {"epochs": 4, "learning_rate": 0.01, "gamma": 1e-5},
    "catastrophic-forgetting-k": {"epochs": 3, "learning_rate": 0.08},
    "exact-k": {"epochs": 2},
    "domain-adversarial": {"epochs": 2},
    "negative-gradient": {"epochs": 2, "weight": 0.99},
    "bad-teacher": {"epochs": 5, "learning_rate": 4e-3},
    "scrub": {"epochs": 2, "max_epochs": 1, "learning_rate": 8e-4},
    "delete": {"epochs": 10, "learning_rate": 4e-4},
    "gradient-ascent": {"learning_rate": 0.02},
    "ssd": {"alpha": 5.0, "dampening": 0.1},
    "svd-projection": {"alpha_retain": 30.0, "alpha_forget": 1.0},
    "unsir": {"batch_size": 32, "impair_rate": 1e-3, "repair_rate": 1e-3},
    "boundary-shrink": {"learning_rate": 5e-4, "statistics": "hold"},
    "boundary-expand": {"learning_rate": 3e-4, "statistics": "hold"},
}
"""Where the search starts: fewer passes than by default, and rates that did on similar data."""
BUDGET = 7
"""Trials of a search."""
NOT_SEARCHED = ("retrain",)
"""Needs no setting: it is what the others are compared with."""


@dataclass(frozen=True)
class Task:
    """What a data set's recipes are found on: images of each class that train the net, of which methods read some."""

    forget: str
    recipe: Recipe
    training: int
    read: int
    aside: int


TASKS = {
    "fashion-mini": Task("T-shirt/top", Recipe(epochs=8), 640, 640, 160),
    "fashion-mnist": Task("T-shirt/top", RECIPE, TRAINING, READ, 200),
    "cifar10": Task("ship", Recipe(epochs=8, augment=("flip",)), TRAINING, READ, 200),
}


@dataclass(frozen=True, eq=False)
class Ground:
    """What all methods are tried on.

    Attributes:
        original: the net that forgets.
        request: what.
        read: the images that methods read.
        search: these, and after them the images kept aside.
        folder: where the runs are kept.
    """

    original: nn.Module
    request: ForgetClasses
    read: Data
    search: Data
    folder: Path

    @property
    def aside(self) -> tuple[int, ...]:
        """Positions of the images kept aside."""
        return tuple(range(len(self.read.train), len(self.search.train)))


def ground_of(data: Data, task: Task, folder: Path, progress: Progress) -> Ground:
    """A net trained on the first images of each class, of which methods read some; the next ones are kept aside."""
    read, aside = between(data.train, 0, task.read), between(data.train, task.training, task.training + task.aside)
    rows, labels = torch.cat([read.rows, aside.rows]), torch.cat([read.labels, aside.labels])
    training, only, both = (
        replace(data, train=one)
        for one in (between(data.train, 0, task.training), read, replace(read, rows=rows, labels=labels))
    )
    original = train_run(training, ARCHITECTURE, task.recipe, (), 0, folder / "original", progress)
    return Ground(original, ForgetClasses([task.forget]), only, both, folder)


def starts(name: str, known: dict[str, Any], elsewhere: dict[str, Any]) -> list[Any]:
    """The settings that are tried first: those of the table, those that did on fashion-mini, and those above."""
    here = [known[name]["settings"]] if name in known else []
    there = [elsewhere[name]["settings"]] if elsewhere.get(name, {}).get("worked") else []
    return list(dict.fromkeys(method_class(name)(**settings) for settings in (*here, *there, SHORT.get(name, {}))))


def entries(
    task: Task, data: Data, folder: Path, methods: dict[str, list[Any]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The name of each of some methods and what is known of it on a data set, as JSON values."""
    with terminal() as progress:
        ground = ground_of(data, task, folder, progress)
        for name, first in methods.items():
            try:
                found = searched(first, ground, progress) if has_strength(name) else judged(first[0], ground, progress)
                yield name, {"forget": task.forget, **found}
            except InputError as error:
                print(json.dumps({"method": name, "error": str(error)}), flush=True)


def has_strength(name: str) -> bool:
    """Whether a method can be turned up and down."""
    return hasattr(method_class(name), "strength")


def searched(first: list[Any], ground: Ground, progress: Progress) -> dict[str, Any]:
    """What the first settings did that do or, if none does, what a search from the nearest found."""
    tried = []
    for method in first:
        tried.append(tried_with(method, 1, ground, progress))
        if tried[-1]["worked"]:
            return tried[-1]
    nearest = max(tried, key=nearness)
    return tried_with(first[tried.index(nearest)], BUDGET, ground, progress)


def tried_with(method: Any, budget: int, ground: Ground, progress: Progress) -> dict[str, Any]:
    """What a search from a method's settings found."""
    search, settings = Search(budget, validation=ground.aside), json.loads(json.dumps(asdict(method)))
    place = ground.folder / f"{name_of(method)}-{budget}-{hash_of_json(settings)[:8]}"
    _, record = forget_run(ground.original, ground.search, ground.request, method, 0, place, progress, search)
    return _of_search(method, record)


def judged(method: Any, ground: Ground, progress: Progress) -> dict[str, Any]:
    """What a method without strength did."""
    place = ground.folder / name_of(method)
    model, _ = forget_run(ground.original, ground.read, ground.request, method, 0, place, progress)
    aside = ground.search.train.take(torch.tensor(ground.aside))
    going = torch.isin(aside.labels, torch.tensor(ground.read.class_numbers(ground.request.classes)))
    right = {each: predict(each, aside).argmax(1) == aside.labels for each in (ground.original, model)}
    before, after = (float(one[~going].double().mean()) for one in right.values())
    return _entry({}, float(right[model][going].double().mean()), after, before)


def _of_search(method: Any, record: dict[str, Any]) -> dict[str, Any]:
    """What the setting that was chosen did to the images kept aside."""
    usual, search = type(method)(), record["search"]
    settings = {one.name: record["settings"][one.name] for one in fields(usual)}
    chosen = search["chosen"], search["besides"]
    trial = next(one for one in search["trials"] if (one["setting"], one["besides"]) == chosen)
    usually = json.loads(json.dumps(asdict(usual)))  # as they were read back: tuples are lists
    differing = {key: value for key, value in settings.items() if value != usually[key]}
    return _entry(differing, trial["forget_accuracy"], trial["retain_accuracy"], search["before"]["retain"])


def nearness(entry: dict[str, Any]) -> tuple[bool, float]:
    """Whether an entry does, and less by how much it misses: larger is better."""
    lost = entry["retain_accuracy_before"] - entry["retain_accuracy"]
    missed = max(0.0, entry["forget_accuracy"] - FORGOTTEN) + max(0.0, lost - Search().tolerance)
    return entry["worked"], -missed


def _entry(settings: dict[str, Any], forget: float, retain: float, before: float) -> dict[str, Any]:
    lost = round(before, 5) - round(retain, 5)
    return {
        "settings": settings,
        "worked": forget <= FORGOTTEN and round(lost, 5) <= Search().tolerance,
        "forget_accuracy": round(forget, 5),
        "retain_accuracy": round(retain, 5),
        "retain_accuracy_before": round(before, 5),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", choices=list(TASKS))
    searchable = [name for name in names() if name not in NOT_SEARCHED]
    parser.add_argument("--methods", nargs="+", choices=searchable, default=searchable, help="the others stay")
    parser.add_argument("--cifar10", type=Path, default=Path("cifar-10-batches-bin"), help="folder of the binary files")
    parser.add_argument("--fashion-mnist", type=Path, default=HOME, help="folder of the four idx files")
    parser.add_argument("--folder", type=Path, default=Path("runs/recipes"), help="where all runs are kept")
    arguments = parser.parse_args()
    sources: dict[str, str] = {"fashion-mnist": str(arguments.fashion_mnist), "cifar10": str(arguments.cifar10)}
    content = json.loads(TABLE.read_text()) if TABLE.exists() else {"data": {}}
    for name in arguments.data:
        found, task, data = content["data"], TASKS[name], load_data(str(sources.get(name, name)))
        images, read = (count * len(data.classes) for count in (task.training, task.read))
        training = {"epochs": task.recipe.epochs, "augment": task.recipe.augment, "images": images, "read": read}
        known = found.get(name, {}).get("methods", {})
        elsewhere = found.get("fashion-mini", {}).get("methods", {})
        methods = {one: starts(one, known, elsewhere) for one in arguments.methods}
        for method, entry in entries(task, data, arguments.folder / name, methods):
            print(json.dumps({"data": name, "method": method, **entry}), flush=True)
            known[method] = entry
        found[name] = {"model": ARCHITECTURE, "training": training, "methods": dict(sorted(known.items()))}
        about = {"command": f"python benchmarks/recipes.py {' '.join(found)}", "machine": machine()}
        TABLE.write_text(json.dumps({**about, "versions": versions(), "data": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
