"""What the strength search makes of settings that do too little or far too much, on Fashion-MNIST with a resnet8.

    python benchmarks/strength.py [--data DIR] [--folder runs/recipes] [--budget 10] [--out FILE]

SCRUB, bad teacher and SSD start from their authors' settings, NegGrad+ from one that collapses: first as they are, then
searched. Both are judged by images that neither the net nor the method was trained on. The net is that of
`benchmarks/recipes.py`; what is in the folder is read, so a stopped run goes on. Prints a JSON line per method.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from comparison import HOME
from recipes import TASKS, Ground, ground_of

from rasura.contents import versions
from rasura.data import load_data
from rasura.files import write_json
from rasura.methods import BadTeacher, NegativeGradient, Scrub, Ssd
from rasura.methods.contract import name_of
from rasura.progress import Progress, terminal
from rasura.runs import forget_run, machine
from rasura.strength import Search

NAME = "fashion-mnist"
METHODS = (Scrub(), BadTeacher(), Ssd(), NegativeGradient(weight=0.5, target=0.0))


def row_of(method: Any, ground: Ground, budget: int, progress: Progress) -> dict[str, Any]:
    """What a method's own settings did, and what the search made of them."""
    name, found = name_of(method), []
    for trials in (1, budget):
        search, place = Search(trials, validation=ground.aside), ground.folder / f"strength-{name}-{trials}"
        _, record = forget_run(ground.original, ground.search, ground.request, method, 0, place, progress, search)
        found.append((record["search"], record["warnings"]))
    (alone, _), (searched, warnings) = found
    return {
        "method": name,
        "before": alone["before"],
        "as_it_is": alone["trials"][0],
        "reached": searched["reached"],
        "chosen": next(
            one
            for one in searched["trials"]
            if (one["setting"], one["besides"]) == (searched["chosen"], searched["besides"])
        ),
        "trials": searched["trials"],
        "warnings": warnings,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HOME, help="folder of the four idx files")
    parser.add_argument("--folder", type=Path, default=Path("runs/recipes"), help="where all runs are kept")
    parser.add_argument("--budget", type=int, default=10, help="trials of a search")
    parser.add_argument("--out", type=Path, help="also write all of it to this JSON file")
    arguments = parser.parse_args()
    rows = []
    with terminal() as progress:
        ground = ground_of(load_data(str(arguments.data)), TASKS[NAME], arguments.folder / NAME, progress)
        for method in METHODS:
            rows.append(row_of(method, ground, arguments.budget, progress))
            print(json.dumps(rows[-1]), flush=True)
    if arguments.out:
        about = {"command": f"python benchmarks/strength.py --budget {arguments.budget}", "machine": machine()}
        search = Search(arguments.budget)
        about |= {"versions": versions(), "data": NAME, "model": "resnet8", "forget": TASKS[NAME].forget}
        about |= {"tolerance": search.tolerance, "aside_per_class": TASKS[NAME].aside}
        write_json(arguments.out, about | {"rows": rows})


if __name__ == "__main__":
    main()
