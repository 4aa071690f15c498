"""Settings with which each method forgets, found by the strength search and written into the package.

    python benchmarks/recipes.py DATA … [--cifar10 DIR] [--fashion-mnist DIR] [--folder runs/recipes]

DATA is fashion-mini, fashion-mnist or cifar10. A resnet8 is trained per data set (of the last two on 1,000 images of
each class). Every method's settings below are tried; where they do not do, its strength is searched from them. What is
in the folder is read, so a stopped run goes on. Prints a JSON line per method and writes src/rasura/data/recipes.json.
"""

import argparse
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from comparison import HOME, some_images

from rasura.contents import versions
from rasura.data import Data, ForgetClasses, load_data
from rasura.errors import InputError
from rasura.methods import method_class, names
from rasura.progress import terminal
from rasura.recipes import FILE
from rasura.runs import forget_run, machine, train_run
from rasura.strength import FORGOTTEN, Search
from rasura.training import Recipe

ARCHITECTURE = "resnet8"
TABLE = Path(__file__).parents[1] / "src" / "rasura" / "data" / FILE
SHORT: dict[str, dict[str, Any]] = {
    "random-relabel": {"epochs": 2},
    "salun": {"epochs": 2},
    "finetune": {"epochs": 2},
    "l1-sparse": {"epochs": 2, "learning_rate": 0.03},
    "catastrophic-forgetting-k": {"epochs": 3, "learning_rate": 0.03},
    "exact-k": {"epochs": 3},
    "domain-adversarial": {"epochs": 2},
    "negative-gradient": {"epochs": 2, "weight": 0.99},
    "scrub": {"epochs": 2, "max_epochs": 1, "learning_rate": 8e-4},
    "delete": {"epochs": 10},
    "gradient-ascent": {"learning_rate": 0.1},
    "ssd": {"calibration": 1200, "alpha": 5.0},
    "boundary-shrink": {"learning_rate": 3e-4, "statistics": "hold"},
    "boundary-expand": {"learning_rate": 3e-4, "statistics": "hold"},
}
"""Where the search starts: fewer passes than by default, and rates that did on similar data."""
BUDGETS = {"bad-teacher": 5, "boundary-expand": 5}
"""Trials of methods whose strength is hard to find; a task says how many the others get."""
NOT_SEARCHED = ("retrain",)
"""Needs no setting: it is what the others are compared with."""


@dataclass(frozen=True)
class Task:
    """What a data set's recipes are found on."""

    forget: str
    recipe: Recipe
    budget: int


TASKS = {
    "fashion-mini": Task("T-shirt/top", Recipe(epochs=8), 3),
    "fashion-mnist": Task("T-shirt/top", Recipe(epochs=5), 2),
    "cifar10": Task("ship", Recipe(epochs=10, augment=("flip",)), 3),
}


def loaded(name: str, folders: dict[str, Path]) -> Data:
    return load_data(name) if name == "fashion-mini" else some_images(folders[name], name)


def start(name: str, found: dict[str, Any]) -> Any:
    """The method as the search begins: with what worked on fashion-mini, else with the settings above."""
    earlier = found.get("fashion-mini", {}).get("methods", {}).get(name, {})
    return method_class(name)(**(earlier["settings"] if earlier.get("worked") else SHORT.get(name, {})))


def searched(data_name: str, data: Data, folder: Path, found: dict[str, Any]) -> dict[str, Any]:
    """What is known of every method on a data set, by name, as JSON values."""
    task, rows = TASKS[data_name], {}
    with terminal() as progress:
        original = train_run(data, ARCHITECTURE, task.recipe, (), 0, folder / "original", progress)
        for name in names():
            if name in NOT_SEARCHED:
                continue
            method = start(name, found)
            request, searchable = ForgetClasses([task.forget]), hasattr(type(method), "strength")
            for budget in (1, BUDGETS.get(name, task.budget)) if searchable else (0,):
                search, place = Search(budget) if budget else None, folder / f"{name}-{budget}"
                try:
                    _, record = forget_run(original, data, request, method, 0, place, progress, search)
                except InputError as error:
                    print(json.dumps({"data": data_name, "method": name, "error": str(error)}), flush=True)
                    continue
                rows[name] = (_of_search if search else _of_effect)(name, task.forget, record)
                if rows[name]["worked"]:
                    break
            if name not in rows:
                continue
            print(json.dumps({"data": data_name, "method": name, **rows[name]}), flush=True)
    return rows


def _of_search(name: str, forget: str, record: dict[str, Any]) -> dict[str, Any]:
    """The entry of a method whose strength was searched: what it did to the images kept aside."""
    usual, search = method_class(name)(), record["search"]
    settings = {one.name: record["settings"][one.name] for one in fields(usual)}
    chosen = search["chosen"], search["besides"]
    trial = next(one for one in search["trials"] if (one["setting"], one["besides"]) == chosen)
    return {
        "settings": {key: value for key, value in settings.items() if value != getattr(usual, key)},
        "worked": search["reached"],
        "forget": forget,
        "forget_accuracy": round(trial["forget_accuracy"], 5),
        "retain_accuracy": round(trial["retain_accuracy"], 5),
        "retain_accuracy_before": round(search["before"]["retain"], 5),
    }


def _of_effect(name: str, forget: str, record: dict[str, Any]) -> dict[str, Any]:
    """The entry of a method without strength: its effect on training images, within the same limits."""
    effect, search = record["effect"], Search()
    lost = effect["retain_accuracy_before"] - effect["retain_accuracy_after"]
    return {
        "settings": {},
        "worked": effect["forget_accuracy_after"] <= FORGOTTEN and lost <= search.tolerance,
        "forget": forget,
        "forget_accuracy": round(effect["forget_accuracy_after"], 5),
        "retain_accuracy": round(effect["retain_accuracy_after"], 5),
        "retain_accuracy_before": round(effect["retain_accuracy_before"], 5),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", choices=list(TASKS))
    parser.add_argument("--cifar10", type=Path, default=Path("cifar-10-batches-bin"), help="folder of the binary files")
    parser.add_argument("--fashion-mnist", type=Path, default=HOME, help="folder of the four idx files")
    parser.add_argument("--folder", type=Path, default=Path("runs/recipes"), help="where all runs are kept")
    arguments = parser.parse_args()
    folders = {"cifar10": arguments.cifar10, "fashion-mnist": arguments.fashion_mnist}
    content = json.loads(TABLE.read_text()) if TABLE.exists() else {"data": {}}
    for name in arguments.data:
        data = loaded(name, folders)
        rows = searched(name, data, arguments.folder / name, content["data"])
        used = TASKS[name].recipe
        training = {"epochs": used.epochs, "augment": used.augment, "images": len(data.train)}
        about = {"model": ARCHITECTURE, "training": training}
        content["data"][name] = {**about, "tolerance": Search().tolerance, "methods": rows}
        command = "python benchmarks/recipes.py " + " ".join(content["data"])
        content = {"command": command, "machine": machine(), "versions": versions(), **content, "data": content["data"]}
        TABLE.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
