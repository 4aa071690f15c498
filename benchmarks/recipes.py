"""Settings with which each method forgets, found by the strength search and written into the package.

    python benchmarks/recipes.py DATA … [--cifar10 DIR] [--folder runs/recipes] [--comparison runs/comparison]

DATA is fashion-mini, cifar10 (500 images of each class) or fashion-mnist. On the first two a resnet8 is trained and
every method's settings below are tried; where they do not do, its strength is searched from them. On fashion-mnist
those that were found on fashion-mini are judged by what `benchmarks/comparison.py` (run it before) measured on held-out
images. What is in the folder is read, so a stopped run goes on. Prints a JSON line per method and writes
src/rasura/data/recipes.json.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from comparison import ARCHITECTURE, RECIPE, TRAINING, first

from rasura.auditing import MODEL, ORIGINAL
from rasura.compare import CONTROLS
from rasura.contents import versions
from rasura.data import Data, ForgetClasses, load_data
from rasura.errors import InputError
from rasura.files import read_json
from rasura.methods import method_class, names
from rasura.progress import terminal
from rasura.recipes import FILE
from rasura.runs import VERDICT, forget_run, machine, train_run
from rasura.strength import FORGOTTEN, Search
from rasura.training import Recipe

CIFAR = 500
"""Training images of each class of CIFAR-10 that are used, of 5,000."""
TABLE = Path(__file__).parents[1] / "src" / "rasura" / "data" / FILE
SHORT: dict[str, dict[str, Any]] = {
    "random-relabel": {"epochs": 2},
    "salun": {"epochs": 2},
    "finetune": {"epochs": 2, "learning_rate": 0.08},
    "l1-sparse": {"epochs": 2, "learning_rate": 0.08},
    "catastrophic-forgetting-k": {"epochs": 3, "learning_rate": 0.08},
    "exact-k": {"epochs": 2},
    "domain-adversarial": {"epochs": 2},
    "negative-gradient": {"epochs": 2, "weight": 0.99},
    "scrub": {"epochs": 2, "max_epochs": 1, "learning_rate": 8e-4},
    "delete": {"epochs": 10, "learning_rate": 4e-4},
    "gradient-ascent": {"learning_rate": 0.1},
    "ssd": {"calibration": 1200, "alpha": 3.8},
    "boundary-shrink": {"learning_rate": 3e-4, "statistics": "hold"},
    "boundary-expand": {"learning_rate": 3e-4, "statistics": "hold"},
}
"""Where the search starts: fewer passes than by default, and rates that did on similar data."""
BUDGETS = {"bad-teacher": 5, "boundary-expand": 5, "ssd": 4, "svd-projection": 4, "boundary-shrink": 3}
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
    "fashion-mini": Task("T-shirt/top", Recipe(epochs=8), 2),
    "fashion-mnist": Task("T-shirt/top", RECIPE, 0),
    "cifar10": Task("ship", Recipe(epochs=8, augment=("flip",)), 2),
}


def start(name: str, found: dict[str, Any]) -> Any:
    """The method as the search begins: with what worked on fashion-mini, else with the settings above."""
    earlier = found.get("fashion-mini", {}).get("methods", {}).get(name, {})
    return method_class(name)(**(earlier["settings"] if earlier.get("worked") else SHORT.get(name, {})))


def searched(data_name: str, data: Data, folder: Path, found: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each method's name and what is known of it on a data set, as JSON values."""
    task = TASKS[data_name]
    with terminal() as progress:
        original = train_run(data, ARCHITECTURE, task.recipe, (), 0, folder / "original", progress)
        for name in names():
            if name in NOT_SEARCHED:
                continue
            method = start(name, found)
            entry, request = None, ForgetClasses([task.forget])
            budgets = (1, BUDGETS.get(name, task.budget)) if hasattr(type(method), "strength") else (0,)
            for budget in budgets:
                search, place = Search(budget) if budget else None, folder / f"{name}-{budget}"
                try:
                    _, record = forget_run(original, data, request, method, 0, place, progress, search)
                except InputError as error:
                    print(json.dumps({"data": data_name, "method": name, "error": str(error)}), flush=True)
                    continue
                entry = (_of_search if search else _of_effect)(name, task.forget, record)
                if entry["worked"]:
                    break
            if entry:
                yield name, entry


def compared(folder: Path, found: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The same from the verdicts on held-out images of a comparison that used the recipes of fashion-mini."""
    for name, known in found["fashion-mini"]["methods"].items():
        outputs = read_json(folder / "audits" / name / VERDICT)["outputs"]
        forget, retain = (outputs[MODEL][part]["point"] for part in ("forget", "retain"))
        settings = {} if name in CONTROLS else known["settings"]
        yield name, _entry(settings, known["forget"], forget, retain, outputs[ORIGINAL]["retain"]["point"])


def _of_search(name: str, forget: str, record: dict[str, Any]) -> dict[str, Any]:
    """The entry of a method whose strength was searched: what it did to the images kept aside."""
    usual, search = method_class(name)(), record["search"]
    settings = {one.name: record["settings"][one.name] for one in fields(usual)}
    chosen = search["chosen"], search["besides"]
    trial = next(one for one in search["trials"] if (one["setting"], one["besides"]) == chosen)
    usually = json.loads(json.dumps(asdict(usual)))  # as they were read back: tuples are lists
    differing = {key: value for key, value in settings.items() if value != usually[key]}
    return _entry(differing, forget, trial["forget_accuracy"], trial["retain_accuracy"], search["before"]["retain"])


def _of_effect(name: str, forget: str, record: dict[str, Any]) -> dict[str, Any]:
    """The entry of a method without strength: its effect on training images."""
    effect = record["effect"]
    after = effect["forget_accuracy_after"], effect["retain_accuracy_after"]
    return _entry({}, forget, *after, effect["retain_accuracy_before"])


def _entry(
    settings: dict[str, Any], forget: str, forget_accuracy: float, retain_accuracy: float, before: float
) -> dict[str, Any]:
    lost = round(before, 5) - round(retain_accuracy, 5)
    return {
        "settings": settings,
        "worked": forget_accuracy <= FORGOTTEN and round(lost, 5) <= Search().tolerance,
        "forget": forget,
        "forget_accuracy": round(forget_accuracy, 5),
        "retain_accuracy": round(retain_accuracy, 5),
        "retain_accuracy_before": round(before, 5),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", choices=list(TASKS))
    parser.add_argument("--cifar10", type=Path, default=Path("cifar-10-batches-bin"), help="folder of the binary files")
    parser.add_argument("--folder", type=Path, default=Path("runs/recipes"), help="where all runs are kept")
    parser.add_argument("--comparison", type=Path, default=Path("runs/comparison"), help="folder of the comparison")
    arguments = parser.parse_args()
    content = json.loads(TABLE.read_text()) if TABLE.exists() else {"data": {}}
    for name in arguments.data:
        found = content["data"]
        if name == "fashion-mnist":
            images, entries = TRAINING * 10, compared(arguments.comparison / "forget-0-0", found)
        else:
            data = load_data(name) if name == "fashion-mini" else load_data(str(arguments.cifar10))
            data = data if name == "fashion-mini" else replace(data, train=first(data.train, CIFAR))
            images, entries = len(data.train), searched(name, data, arguments.folder / name, found)
        training = {"epochs": TASKS[name].recipe.epochs, "augment": TASKS[name].recipe.augment, "images": images}
        found[name] = {"model": ARCHITECTURE, "training": training, "methods": {}}
        for method, entry in entries:
            print(json.dumps({"data": name, "method": method, **entry}), flush=True)
            found[name]["methods"][method] = entry
            about = {"command": f"python benchmarks/recipes.py {' '.join(found)}", "machine": machine()}
            TABLE.write_text(json.dumps({**about, "versions": versions(), "data": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
