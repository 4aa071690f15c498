"""What the decoders of the head input cost and read, beside scikit-learn's on the same features.

    python benchmarks/decoders.py [--examples 2300] [--width 64 128] [--runs 3] [--out results/decoders.json]

Features: held-out images of the embedded data through a random ReLU layer; five folds, ten classes. Prints a JSON line
per decoder: processor seconds on one thread (medians), accuracy, and the mean difference in recall over classes.
"""

import argparse
import json
import os
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch are imported

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC
from torch import Tensor

from rasura.auditing import make_probe
from rasura.auditing.code_length import code_length
from rasura.auditing.decoders import PENALTIES, cross_fitted, standardised
from rasura.auditing.nonlinear import NONLINEAR, Decoder, shuffled_linear, whitened
from rasura.contents import versions
from rasura.data import ForgetClasses, load_data
from rasura.runs import machine

OURS: dict[str, Decoder] = {"linear": cross_fitted, **NONLINEAR, "shuffled linear": shuffled_linear}


def by_folds(make: Callable) -> Decoder:
    """scikit-learn's classifier, cross-fitted on standardised features."""

    def decode(features: Tensor, labels: Tensor, folds: Tensor, classes: int) -> Tensor:
        inputs, truth, left_out = standardised(features).numpy(), labels.numpy(), folds.numpy()
        said = np.empty_like(truth)
        for fold in range(int(left_out.max()) + 1):
            out = left_out == fold
            said[out] = make().fit(inputs[~out], truth[~out]).predict(inputs[out])
        return torch.from_numpy(said)

    return decode


def regression(features: Tensor, labels: Tensor, folds: Tensor, classes: int) -> Tensor:
    """Logistic regressions at every penalty that `cross_fitted` chooses from, and its choice."""
    inputs, truth, left_out = standardised(features).numpy(), labels.numpy(), folds.numpy()
    said = np.empty((len(PENALTIES), len(truth)), dtype=np.int64)
    losses = np.zeros((len(PENALTIES), int(left_out.max()) + 1))
    for (at, fold), _ in np.ndenumerate(losses):
        out = left_out == fold
        model = LogisticRegression(C=1 / (PENALTIES[at] * (~out).sum()), max_iter=1000)
        odds = model.fit(inputs[~out], truth[~out]).predict_log_proba(inputs[out])
        said[at, out] = odds.argmax(1)
        losses[at, fold] = -odds[np.arange(len(odds)), truth[out]].sum()
    chosen = (losses.sum(1, keepdims=True) - losses).argmin(0)
    return torch.from_numpy(said[chosen[left_out], np.arange(len(truth))])


LIBRARY: dict[str, Decoder] = {
    "linear": regression,
    "whitened linear": lambda features, *rest: regression(whitened(features), *rest),
    "nearest neighbours": by_folds(lambda: KNeighborsClassifier(5)),
    "kernel machine": by_folds(lambda: SVC(cache_size=400)),
    "perceptron": by_folds(lambda: MLPClassifier((64,), random_state=0)),
}


def random_features(examples: int, width: int) -> tuple[Tensor, Tensor, Tensor, int]:
    """Features `[N, d]` of held-out images, with labels, folds and the number of classes."""
    data = load_data("fashion-mini")
    probe = make_probe(data, ForgetClasses([data.classes[0]]), 0)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randperm(len(probe.labels), generator=generator)[:examples]
    images = probe.examples.batch(rows)[0]
    assert isinstance(images, Tensor)
    pixels = images.flatten(1)
    weights = torch.randn(pixels.shape[1], width, generator=generator) / pixels.shape[1] ** 0.5
    return (pixels @ weights).relu(), probe.labels[rows], probe.folds[rows], probe.classes


def timed(decoder: Callable, *arguments) -> tuple[float, Any]:
    begun = time.process_time()
    said = decoder(*arguments)
    return time.process_time() - begun, said


def recalls(said: Tensor, labels: Tensor) -> Tensor:
    return torch.stack([(said[labels == number] == number).double().mean() for number in labels.unique()])


def compared(name: str, arguments: tuple[Tensor, Tensor, Tensor, int], runs: int) -> dict:
    """Seconds and answers of one decoder, ours and the library's in turn so that drift of the machine hits both."""
    labels = arguments[1]
    row: dict = {"decoder": name, "examples": len(labels), "width": arguments[0].shape[1]}
    both = [OURS[name], *([LIBRARY[name]] if name in LIBRARY else [])]
    OURS[name](*arguments)  # a warm-up: the first call loads libraries
    measured = [[timed(decoder, *arguments) for decoder in both] for _ in range(runs)]
    for prefix, results in zip(("", "library_"), zip(*measured, strict=True), strict=False):
        row[f"{prefix}seconds"] = round(statistics.median(seconds for seconds, _ in results), 3)
        row[f"{prefix}accuracy"] = round(float((results[0][1] == labels).double().mean()), 4)
    if name in LIBRARY:
        ours, theirs = (recalls(said, labels) for _, said in measured[0])
        row["recall_difference"] = round(float((ours - theirs).mean()), 4)
        row["recall_difference_absolute"] = round(float((ours - theirs).abs().mean()), 4)
    return row


def code_length_row(arguments: tuple[Tensor, Tensor, Tensor, int], runs: int) -> dict:
    features, labels = arguments[:2]
    measured = [timed(code_length, features, labels == 0) for _ in range(runs)]
    seconds = round(statistics.median(seconds for seconds, _ in measured), 3)
    row = {"decoder": "code length", "examples": len(labels), "width": features.shape[1], "seconds": seconds}
    return row | {"compression": round(measured[0][1].compression, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=2300)
    parser.add_argument("--width", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path, help="also write all of it to this JSON file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)  # 200 epochs are the library's setting
    rows = []
    for width in arguments.width:
        data = random_features(arguments.examples, width)
        for row in (*(compared(name, data, arguments.runs) for name in OURS), code_length_row(data, arguments.runs)):
            print(json.dumps(row), flush=True)
            rows.append(row)
    if arguments.out:
        about = {"command": "python benchmarks/decoders.py", "machine": machine(), "versions": versions()}
        arguments.out.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
