"""What decoders hand on: the class that each said of every example, and the names by which all else refers to them."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

HEAD_INPUT = "head input"
OUTPUT, RUNNER_UP, LOG_ODDS = "output", "best other", "forget log-odds"
LINEAR, FEW_SHOT, SHUFFLED = "linear", "few-shot", "shuffled labels"
WHITENED, NEIGHBOURS, KERNEL, PERCEPTRON = "whitened linear", "nearest neighbours", "kernel machine", "perceptron"
UNWRAPPED, BIAS, HEAD_SWAP = "unwrapped", "bias", "head swap"
BATCH_NORM, PROTOTYPE, STITCH = "batch norm", "prototype", "linear stitch"
QUANTISED = {"8 bits": 8, "6 bits": 6, "4 bits": 4}

DECODERS = {
    OUTPUT: "the model's own answers",
    RUNNER_UP: "the model's own answer among the classes to keep; makes the self-test's silenced model",
    LOG_ODDS: "the model's log-odds of the forget classes against all others; a number per example",
    LINEAR: "K-way logistic regression, 5-fold cross-fitted; every stage and the head input",
    FEW_SHOT: "the head refitted with n labels of the forget class (n = 1 … 100, all), 10 draws; head input",
    SHUFFLED: "control: the linear decoder fitted to permuted labels, which must read nothing; head input",
    WHITENED: "the linear decoder on whitened features, which no change of scale can fool; head input",
    NEIGHBOURS: "majority of the 5 nearest neighbours; head input",
    KERNEL: "kernel machine with a Gaussian kernel; head input",
    PERCEPTRON: "one hidden layer of 64 units; head input",
    UNWRAPPED: "recovery: the head's own outputs, where code after it changes them",
    BIAS: "recovery: one bias per class refitted, cross-fitted",
    HEAD_SWAP: "recovery: the original's head on this model's features",
    BATCH_NORM: "recovery: BatchNorm statistics estimated anew on retained examples",
    PROTOTYPE: "recovery: the nearest class mean, from n labels of the forget class (n = 1, 5, 10, 50); head input",
    STITCH: "recovery: a linear map to the original's features, fitted on retained examples, then the original's head",
    **{name: f"recovery: weights rounded to {bits} bits" for name, bits in QUANTISED.items()},
}
"""Every decoder with a line on what it reads."""


@dataclass(frozen=True, eq=False)
class Decoded:
    """What one decoder said of each probe example.

    Attributes:
        decoder: a key of `DECODERS`.
        layer: a module's name, "head input", or "output".
        shots: labels of the forget class that the decoder got; 0 means all.
        draw: which draw of the labels; 0 where there is one only.
        predicted: int32 `[N]`, the class said; −1 where the decoder did not score the example.
        value: float32 `[N]`, a number per example besides: the confidence in the answer ("output"), or the log-odds;
            None for all others.
    """

    decoder: str
    layer: str
    shots: int
    draw: int
    predicted: np.ndarray
    value: np.ndarray | None = None


def as_decoded(
    decoder: str, layer: str, said: Tensor, shots: int = 0, draw: int = 0, value: Tensor | None = None
) -> Decoded:
    """What was said as it is kept: answers `[N]`, and numbers `[N]` if there are any."""
    numbers = None if value is None else value.float().numpy()
    return Decoded(decoder, layer, shots, draw, said.to(torch.int32).numpy(), numbers)


@dataclass(frozen=True, eq=False)
class Head:
    """A linear head: logits are `weight @ features + bias`."""

    weight: Tensor
    bias: Tensor

    def __call__(self, inputs: Tensor) -> Tensor:
        """Logits `[N, K]` of head inputs `[N, d]`."""
        return inputs @ self.weight.T + self.bias


@dataclass(frozen=True, eq=False)
class Anchor:
    """What of the original the recovery of other models needs.

    Attributes:
        head: its last linear map.
        inputs: float32 `[N, d]`, what went into it for each probe example.
    """

    head: Head
    inputs: Tensor
