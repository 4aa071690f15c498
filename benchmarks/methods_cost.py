"""What each method costs: seconds and peak memory, beside one epoch of training the same net on the same data.

    python benchmarks/methods_cost.py [METHOD …] [--out results/methods_cost.json]

A resnet8 on every eighth training image of fashion-mini (1,000) forgets one of ten classes, with each method's default
settings. What a method costs depends on the data and the settings, not on what the net has learnt (but for the ascents,
which end when they have forgotten), so two epochs of training are enough before; the second is the unit. Prints a JSON
line per method.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from rasura.contents import versions
from rasura.data import ForgetClasses, load_data
from rasura.errors import InputError
from rasura.memory import peak_memory
from rasura.methods import method_class, names
from rasura.methods.contract import Problem, problem_of, solve
from rasura.models import fresh_model, to_card
from rasura.progress import silent
from rasura.runs import machine
from rasura.training import Recipe, fit

ARCHITECTURE, FORGET, STRIDE = "resnet8", "T-shirt/top", 8


def measured(work: Callable[[], Any]) -> dict[str, Any]:
    """Seconds and peak memory (MiB; None where the system does not tell) of a call."""
    with peak_memory(torch.device("cpu")) as peak:
        begun = time.perf_counter()
        work()
        seconds = time.perf_counter() - begun
    return {"seconds": round(seconds, 3), "memory_mib": round(peak[0]) if peak else None}


def solved(problem: Problem, name: str) -> None:
    try:
        solve(problem, method_class(name)())
    except InputError as error:  # a net of two epochs may leave a method nothing to do; the time stands
        print(f"{name}: {error}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", help="which ones; default: all")
    parser.add_argument("--out", type=Path, help="also write all of it to this JSON file")
    arguments = parser.parse_args()
    data = load_data("fashion-mini")
    data = replace(data, train=data.train.take(torch.arange(0, len(data.train), STRIDE)))
    torch.manual_seed(0)
    model = fit(fresh_model(to_card(ARCHITECTURE, data)), data.train, Recipe(epochs=1), 0)
    epoch = measured(lambda: fit(model, data.train, Recipe(epochs=1), 1))
    problem = problem_of(model, data, ForgetClasses([FORGET]), 0, silent)
    rows = [{"method": "one epoch of training", **epoch, "epochs": 1.0}]
    for name in arguments.methods or names():
        row = measured(lambda name=name: solved(problem, name))
        rows.append({"method": name, **row, "epochs": round(row["seconds"] / epoch["seconds"], 2)})
        print(json.dumps(rows[-1]), flush=True)
    if arguments.out:
        about = {"command": "python benchmarks/methods_cost.py", "machine": machine(), "versions": versions()}
        about |= {"data": "fashion-mini", "images": len(data.train), "model": ARCHITECTURE, "forget": FORGET}
        arguments.out.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
