"""What CNR costs, stage by stage, beside one retraining of the same net: seconds, examples, and peak memory.

    python benchmarks/cnr_cost.py [--net resnet8 vit] [--repeats 3] [--out results/cnr_cost.json]

fashion-mini loses a class. Seconds are medians; retraining is timed over one epoch and multiplied by the recipe's
epochs, and by 30. Examples count passes through the net: one forward and one backward, or one forward alone; passes
through generator and discriminator are counted apart. Memory is the peak of a process that does nothing else. Wants
the machine to itself.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import nn

from rasura.contents import versions
from rasura.data import ForgetClasses, load_data
from rasura.files import write_json
from rasura.methods.cnr import Cnr
from rasura.methods.contract import Problem, problem_of
from rasura.models import fresh_model, reinitialised, to_card
from rasura.progress import silent
from rasura.runs import machine
from rasura.training import Recipe, fit

RECIPES = {"resnet8": Recipe(epochs=8), "vit": Recipe(epochs=15)}
LONG = 30
"""Epochs of the recipe that the paper's ratio is about."""
FORGET = "T-shirt/top"
LABELS = {"statistics": "detection", "cnr: generator": "generator", "cnr: synthesis": "synthesis"}
LABELS |= {"cnr: reset": "reset", "cnr: settle": "settle"}
MEBIBYTE = 1024


def problem_for(net: str) -> Problem:
    """A net trained for one epoch: what is timed does not depend on how good it is."""
    data = load_data("fashion-mini")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = fresh_model(to_card(net, data, training={"recipe": {}}))
    model = fit(model, data.train, replace(RECIPES[net], epochs=1), 0)
    return problem_of(model, data, ForgetClasses([FORGET]), 0, silent)


def by_stage(problem: Problem, method: Cnr) -> dict[str, float]:
    """Seconds of each stage: time up to the last call of its progress since that of the stage before."""
    ends, begun = {}, time.perf_counter()

    def note(label: str, done: int, total: int) -> None:
        if label in LABELS and not (label == "statistics" and "reset" in ends):
            ends[LABELS[label]] = time.perf_counter() - begun

    method(replace(problem, progress=note))
    whole, stages, last = time.perf_counter() - begun, {}, 0.0
    for stage, end in ends.items():
        stages[stage], last = end - last, end
    return stages | {"profile": whole - last, "whole": whole}


def passes(problem: Problem, method: Cnr) -> dict[str, dict[str, int]]:
    """Examples per stage, from the settings and the sizes of the data."""
    counts = torch.bincount(problem.retain.labels)
    kept = int(counts.clamp(max=method.retained).sum())
    seen = int(counts.clamp(max=method.examined).sum()) + min(len(problem.forget), method.examined)
    steps = method.epochs * math.ceil(kept / method.batch_size)
    counterfactuals = round(steps * method.share * method.batch_size)
    return {
        "detection": {"forward": seen},
        "generator": {"pair": method.generator_epochs * len(problem.forget)},
        "synthesis": {"forward and backward": method.steps * method.images, "pair": method.steps * method.images},
        "reset": {"forward and backward": method.epochs * kept + counterfactuals},
        "settle": {"forward and backward": method.settle * kept},
        "profile": {"forward": seen},
    }


def middle(repeats: int, run: Callable[[], dict[str, float]]) -> dict[str, float]:
    rows = [run() for _ in range(repeats)]
    return {key: round(float(np.median([row[key] for row in rows])), 3) for key in rows[0]}


def timed(work: Callable[[], nn.Module]) -> dict[str, float]:
    begun = time.perf_counter()
    work()
    return {"seconds": time.perf_counter() - begun}


def cost(net: str, repeats: int) -> dict:
    problem, method, recipe = problem_for(net), Cnr(), RECIPES[net]
    one = replace(recipe, epochs=1)
    stages = middle(repeats, lambda: by_stage(problem, method))
    with TemporaryDirectory() as folder:
        kept = replace(method, store=folder)
        kept(problem)
        again = middle(repeats, lambda: by_stage(problem, kept))
    epoch = middle(repeats, lambda: timed(lambda: fit(reinitialised(problem.model, 0), problem.retain, one, 0)))
    examples = passes(problem, method)
    both = sum(stage.get("forward and backward", 0) for stage in examples.values())
    forward = sum(stage.get("forward", 0) for stage in examples.values())
    memory = {way: peak(net, way) for way in ("cnr", "training")}
    return {
        "net": net,
        "epochs": recipe.epochs,
        "seconds": stages,
        "seconds_with_stored_generator": again["whole"],
        "seconds_of_an_epoch": epoch["seconds"],
        "examples": examples,
        "share_of_retraining": {
            str(epochs): {
                "seconds": round(stages["whole"] / (epochs * epoch["seconds"]), 4),
                "examples forward and backward": round(both / (epochs * len(problem.retain)), 4),
                "examples forward alone": round(forward / (epochs * len(problem.retain)), 4),
            }
            for epochs in (recipe.epochs, LONG)
        },
        "peak_mib": memory,
        "memory_by_training": round(memory["cnr"]["peak"] / memory["training"]["peak"], 3),
    }


def peak(net: str, way: str) -> dict[str, int]:
    """Peak memory in MiB of one way in a process of its own."""
    command = [sys.executable, __file__, "--memory", way, "--net", net]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def memory(net: str, way: str) -> dict[str, int]:
    data = load_data("fashion-mini")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = fresh_model(to_card(net, data, training={"recipe": {}})).eval()
    problem = problem_of(model, data, ForgetClasses([FORGET]), 0, silent)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MEBIBYTE
    if way == "cnr":
        Cnr(epochs=1, generator_epochs=1, steps=2)(problem)
    else:
        fit(problem.copy_of_model(), problem.retain, replace(RECIPES[net], epochs=1), 0)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MEBIBYTE
    return {"before": round(before), "peak": round(after)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--repeats", type=int, default=3, help="times that each way is timed")
    parser.add_argument("--memory", choices=["cnr", "training"], help="only one way, and its memory")
    parser.add_argument("--out", type=Path, help="also write all of it to this JSON file")
    arguments = parser.parse_args()
    if arguments.memory:
        print(json.dumps(memory(arguments.net[0], arguments.memory)))
        return
    rows = []
    for net in arguments.net:
        rows.append(cost(net, arguments.repeats))
        print(json.dumps(rows[-1]), flush=True)
    if arguments.out:
        command = f"python benchmarks/cnr_cost.py --net {' '.join(arguments.net)}"
        about = {"command": command, "machine": machine(), "versions": versions()}
        write_json(arguments.out, about | {"repeats": arguments.repeats, "rows": rows})


if __name__ == "__main__":
    main()
