"""What each method costs: seconds and peak memory, beside one epoch of training the same net on the same data.

    python benchmarks/methods_cost.py [METHOD …] [--out results/methods_cost.json]

A resnet8 on every fourth training image of fashion-mini (2,000) forgets one of ten classes, with each method's default
settings. What a method costs depends on the data and the settings, not on what the net has learnt (but for the ascents,
which end when they have forgotten), so one epoch of training is enough before. Every method runs in a process of its
own: the peak of its memory is that of nothing else. Prints a JSON line per method.
"""

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from rasura.contents import versions
from rasura.data import ForgetClasses, load_data
from rasura.errors import InputError
from rasura.memory import peak_memory
from rasura.methods import method_class, names
from rasura.methods.contract import problem_of, solve
from rasura.models import fresh_model, to_card
from rasura.progress import silent
from rasura.runs import machine
from rasura.training import Recipe, fit

ARCHITECTURE, FORGET, STRIDE = "resnet8", "T-shirt/top", 4
EPOCH = "one epoch of training"


def measured(name: str) -> dict:
    """The row of one method, measured in this process."""
    data = load_data("fashion-mini")
    data = replace(data, train=data.train.take(torch.arange(0, len(data.train), STRIDE)))
    torch.manual_seed(0)
    model = fresh_model(to_card(ARCHITECTURE, data))
    with peak_memory(torch.device("cpu")) as peak:
        begun = time.perf_counter()
        fit(model, data.train, Recipe(epochs=1), 0)
        seconds = time.perf_counter() - begun
    if name != EPOCH:
        problem = problem_of(model, data, ForgetClasses([FORGET]), 0, silent)
        with peak_memory(torch.device("cpu")) as peak:
            begun = time.perf_counter()
            try:
                solve(problem, method_class(name)())
            except InputError as error:  # a net of one epoch may give a method nothing to do; the time stands
                print(f"{name}: {error}", file=sys.stderr)
            seconds = time.perf_counter() - begun
    return {"method": name, "seconds": round(seconds, 2), "memory_mib": round(peak[0]) if peak else None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", help="which ones; default: all")
    parser.add_argument("--one", help="measure this one in this very process, and print its row")
    parser.add_argument("--out", type=Path, help="also write all of it to this JSON file")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measured(arguments.one)))
        return
    rows = []
    for name in [EPOCH, *(arguments.methods or names())]:
        alone = [sys.executable, __file__, "--one", name]
        row = json.loads(subprocess.run(alone, stdout=subprocess.PIPE, check=True, text=True).stdout)
        rows.append(row | {"epochs": round(row["seconds"] / (rows[0]["seconds"] if rows else row["seconds"]), 2)})
        print(json.dumps(rows[-1]), flush=True)
    if arguments.out:
        about = {"command": "python benchmarks/methods_cost.py", "machine": machine(), "versions": versions()}
        about |= {"data": "fashion-mini", "images": 2000, "model": ARCHITECTURE, "forget": FORGET}
        arguments.out.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
