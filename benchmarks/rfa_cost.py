"""What residual feature alignment costs: trainable share, seconds beside retraining, memory beside full fine-tuning.

    python benchmarks/rfa_cost.py [--repeats 3] [--out results/rfa_cost.json]

Seconds: a ResNet-8 on fashion-mini forgets a class, and a tenth of its training examples; retraining is timed over one
epoch and multiplied. Memory: one step of a net as large as ViT-B/16 on 8 images of 224 pixels, each way in a
process of its own. Wants the machine to itself.
"""

import argparse
import copy
import json
import resource
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from settings import SETTINGS, data_of
from torch import nn

from rasura.activations import anatomy
from rasura.contents import versions
from rasura.data import Data, ForgetClasses, read_samples
from rasura.methods import Problem
from rasura.methods.contract import problem_of
from rasura.methods.rfa import Rfa
from rasura.models import fresh_model, reinitialised, to_card
from rasura.progress import silent
from rasura.runs import machine
from rasura.training import Recipe, fit

EPOCHS = (8, 30)
BASE = "vit,width=768,depth=12,heads=12,patch=16"
"""As large as ViT-B/16: 12 blocks of 768 features, 16-pixel patches."""
ONE_STEP = Rfa(steps=1, batch_size=5, forget_batch_size=3)
MEBIBYTE = 1024


def large_problem() -> Problem:
    """Eight random images for a net as large as ViT-B/16 with 1,000 classes."""
    images = torch.rand(8, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(8)
    data = Data.from_tensors((images, labels), (images, labels), classes=[str(number) for number in range(1000)])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = fresh_model(to_card(BASE, data)).eval()
    parts = data.train.take(labels < 3), data.train.take(labels >= 3)
    return Problem(model, *parts, forget_classes=(0, 1, 2), classes=1000)


def step(way: str) -> dict:
    """Peak memory in MiB of one step, and of the same process before it."""
    problem = large_problem()
    own = sum(parameter.numel() for parameter in problem.model.parameters())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MEBIBYTE
    found = {"parameters": own, "trainable": own}
    if way == "rfa":
        found["trainable"] = ONE_STEP.adapt(problem)[1]["trainable"]
    else:
        full_step(problem)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MEBIBYTE
    return found | {"before_mib": round(before), "peak_mib": round(after)}


def full_step(problem: Problem) -> nn.Module:
    """One step on all weights, beside a frozen copy that is the teacher."""
    net, teacher = problem.copy_of_model().eval(), copy.deepcopy(problem.model)
    points = anatomy(net, problem.retain.batch(torch.arange(2))[0]).points
    ONE_STEP.train(net, problem, ONE_STEP.loss(problem, points, lambda _: nullcontext(teacher)))
    return net


def seconds(repeats: int) -> dict:
    """Median seconds of the method for a class and for samples, and of one epoch of retraining."""
    setting = SETTINGS["fashion-mini"]
    data = data_of(setting, "")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = fit(fresh_model(to_card(setting.net, data, training={"recipe": {}})), data.train, Recipe(epochs=1), 0)
    found: dict[str, list[float]] = {"class": [], "samples": [], "epoch": []}
    requests = {"class": ForgetClasses(["T-shirt/top"]), "samples": read_samples("10%", data)}
    for name, request in requests.items():
        problem = problem_of(model, data, request, 0, silent)
        Rfa(steps=1, unseen_steps=1)(problem)  # what is imported once is not counted
        for _ in range(repeats):
            begun = time.perf_counter()
            Rfa()(problem)
            found[name].append(_since(begun))
    kept = problem_of(model, data, requests["class"], 0, silent).retain
    for _ in range(repeats):
        begun = time.perf_counter()
        fit(reinitialised(model, 0), kept, replace(setting.recipe, epochs=1), 0)
        found["epoch"].append(_since(begun))
    middle = {name: float(np.median(times)) for name, times in found.items()}
    shares = {
        str(epochs): {name: round(middle[name] / (epochs * middle["epoch"]), 4) for name in ("class", "samples")}
        for epochs in EPOCHS
    }
    return {"seconds": found, "share_of_retraining": shares}


def _since(begun: float) -> float:
    return round(time.perf_counter() - begun, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="times that each way is timed")
    parser.add_argument("--step", choices=["rfa", "full fine-tuning"], help="only one step, and its memory")
    parser.add_argument("--out", type=Path, help="also write all of it to this JSON file")
    arguments = parser.parse_args()
    if arguments.step:
        print(json.dumps(step(arguments.step)))
        return
    memory = {}
    for way in ("rfa", "full fine-tuning"):
        done = subprocess.run([sys.executable, __file__, "--step", way], capture_output=True, text=True, check=True)
        memory[way] = json.loads(done.stdout)
        print(way, memory[way], flush=True)
    times = seconds(arguments.repeats)
    print(json.dumps(times), flush=True)
    if arguments.out:
        about = {"command": "python benchmarks/rfa_cost.py", "machine": machine(), "versions": versions()}
        content = about | {"net": BASE, "one_step": memory, "resnet8": times}
        arguments.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
