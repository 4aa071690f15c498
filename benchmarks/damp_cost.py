"""What DAMP costs beside one plain forward pass over the same calibration images, and beside two other methods.

    python benchmarks/damp_cost.py [--models resnet18 vit] [--images 2000] [--runs 3] [--device cpu] [--out FILE]

Prints a JSON line per model and method: seconds, the ratio to the forward pass that was timed right before it (medians
of `runs` pairs; the pass uses the fastest of several batch sizes), and the peak memory above what was there. DAMP runs
with a quarter, a half and all of the images, so that one sees whether time is linear in their number (for its memory,
one-shot also with twice as many); the others, which take many passes, with an eighth, beside a pass over as many.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rasura.activations import stream
from rasura.contents import versions
from rasura.data.examples import examples_from
from rasura.memory import peak_memory
from rasura.methods import Damp, Ssd, SvdProjection
from rasura.methods.contract import Problem
from rasura.models import build_model
from rasura.runs import machine

MODELS = {"resnet18": "resnet18,width=64", "vit": "vit", "wide vit": "vit,width=192,depth=6,heads=3"}
BATCHES = (32, 64, 128, 256)
METHODS: dict[str, Callable[[int], Any]] = {
    "damp, sequential": lambda images: Damp(calibration=images),
    "damp, one-shot": lambda images: Damp(order="one-shot", calibration=images),
    "ssd": lambda _: Ssd(),
    "svd-projection": lambda images: SvdProjection(samples=images),
}
CLASSES, SIZE = 10, 32


def problem(architecture: str, images: int, device: str) -> Problem:
    """A net with random weights on random images: a tenth of them to forget. Time does not depend on what they show."""
    torch.manual_seed(0)
    model = build_model(architecture, classes=CLASSES, channels=3, size=SIZE).to(device).eval()
    labels = torch.arange(images) % CLASSES
    # Classes differ in brightness, so that there is something to find.
    inputs = torch.rand(images, 3, SIZE, SIZE) + labels.view(-1, 1, 1, 1) / CLASSES
    examples = examples_from(inputs, labels)
    return Problem(model, examples.take(labels == 3), examples.take(labels != 3), (3,), CLASSES)


def forward(given: Problem, batch_size: int) -> float:
    """Seconds of a plain pass over all images of the problem."""
    both = examples_from(given.forget.source, torch.arange(len(given.forget.source)) % CLASSES)
    begun = time.perf_counter()
    stream(given.model, both, [], lambda point, tensor, labels: None, batch_size)
    _wait(given)
    return time.perf_counter() - begun


def fastest_batch(given: Problem) -> int:
    """The batch size with which a plain pass takes least time."""
    passes = {size: forward(given, size) for size in BATCHES for _ in range(2)}  # the second counts: the first warms up
    return min(passes, key=lambda size: passes[size])


def solve(given: Problem, method: Any) -> float:
    """Seconds of a method, everything included."""
    begun = time.perf_counter()
    method(given)
    _wait(given)
    return time.perf_counter() - begun


def _wait(given: Problem) -> None:
    if next(given.model.parameters()).is_cuda:
        torch.cuda.synchronize()


def timed(model: str, name: str, images: int, runs: int, device: str) -> dict[str, Any]:
    """Medians of pairs of a plain pass and the method, one after the other, after a warm-up of the method."""
    given, method = problem(MODELS[model], images, device), METHODS[name](images)
    best = fastest_batch(problem(MODELS[model], min(images, BATCHES[-1]), device))
    solve(given, method)
    pairs = [(forward(given, best), solve(given, method)) for _ in range(runs)]
    return {
        "model": MODELS[model],
        "method": name,
        "images": images,
        "device": device,
        "runs": runs,
        "forward_batch": best,
        "forward_seconds": round(statistics.median(plain for plain, _ in pairs), 3),
        "seconds": round(statistics.median(whole for _, whole in pairs), 3),
        "ratio": round(statistics.median(whole / plain for plain, whole in pairs), 3),
    }


def peak(model: str, name: str, images: int, device: str) -> float | None:
    """MiB that one call takes above the process with model and data, in a process of its own; None if not told."""
    command = [sys.executable, __file__, "--peak", model, name, str(images), device]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = json.loads(said.splitlines()[-1])
    return None if found is None else round(found, 1)


def measure_peak(model: str, name: str, images: int, device: str) -> None:
    given, method = problem(MODELS[model], images, device), METHODS[name](images)
    forward(given, BATCHES[0])
    with peak_memory(torch.device(device)) as found:
        method(given)
    print(json.dumps(found[0] if found else None))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="also write all of it to this JSON file")
    parser.add_argument("--peak", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        model, name, images, device = arguments.peak
        measure_peak(model, name, int(images), device)
        return
    rows = []
    for model in arguments.models:
        for name in arguments.methods:
            shares = (4, 2, 1) if name.startswith("damp") else (8,)
            for images in (arguments.images // share for share in shares):
                row = timed(model, name, images, arguments.runs, arguments.device)
                row["peak_mib"] = peak(model, name, images, arguments.device)
                if name == "damp, one-shot" and images == arguments.images:
                    row["peak_mib_twice_the_images"] = peak(model, name, 2 * images, arguments.device)
                rows.append(row)
                print(json.dumps(row), flush=True)
    if arguments.out:
        about = {"command": "python benchmarks/damp_cost.py", "machine": machine(), "versions": versions()}
        arguments.out.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
