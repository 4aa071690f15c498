"""What one model shows: its own answers, and what decoders read out of it. Models are compared later, in `judge`."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rasura.activations import Anatomy, Point, anatomy, features
from rasura.auditing.decoders import cross_fitted, few_shot, refit_bias
from rasura.auditing.probe import Probe
from rasura.errors import InputError
from rasura.progress import Progress, silent

HEAD_INPUT = "head input"
OUTPUT, LINEAR, FEW_SHOT = "output", "linear", "few-shot"
RUNNER_UP = "best other"
UNWRAPPED, BIAS, HEAD_SWAP = "unwrapped", "bias", "head swap"
DECODERS = {
    OUTPUT: "the model's own answers",
    RUNNER_UP: "the model's own answer among the classes to keep; makes the self-test's silenced model",
    LINEAR: "K-way logistic regression, 5-fold cross-fitted; every stage and the head input",
    FEW_SHOT: "the head refitted with n labels of the forget class (n = 1 … 100, all), 10 draws; head input",
    UNWRAPPED: "recovery: the head's own outputs, where code after it changes them",
    BIAS: "recovery: one bias per class refitted, cross-fitted",
    HEAD_SWAP: "recovery: the original's head on this model's features",
}
"""Every decoder with a line on what it reads."""
SHOTS = (1, 2, 5, 10, 20, 50, 100)
"""Labels of the forget class that a few-shot head gets; all those of the half come on top."""
DRAWS = 10
RETAIN_SHOTS = 100
"""Labels of every retained class that every few-shot head gets."""


@dataclass(frozen=True, eq=False)
class Decoded:
    """What one decoder said of each probe example.

    Attributes:
        decoder: "output" (the model itself), "best other" (its answer among the classes to keep), "linear", "few-shot",
            or a rung of the recovery ladder: "unwrapped", "bias", "head swap".
        layer: a module's name, or "head input".
        shots: labels of the forget class that the decoder got; 0 means all.
        draw: which draw of the labels; 0 where there is one only.
        predicted: int16 `[N]`, the class said; −1 where the decoder did not score the example.
    """

    decoder: str
    layer: str
    shots: int
    draw: int
    predicted: np.ndarray


@dataclass(frozen=True, eq=False)
class Head:
    """A linear head: logits are `weight @ features + bias`."""

    weight: Tensor
    bias: Tensor

    def __call__(self, inputs: Tensor) -> Tensor:
        """Logits `[N, K]` of head inputs `[N, d]`."""
        return inputs @ self.weight.T + self.bias


def measure(
    model: nn.Module, probe: Probe, head: Head | None, seed: int, progress: Progress = silent, label: str = "audit"
) -> list[Decoded]:
    """Run the model once on the probe, then every decoder on what was found.

    Args:
        model: any classifier.
        probe: the held-out examples.
        head: the original model's head, for the head-swap rung; None leaves that rung out.
        seed: of the draws of few-shot labels.
        progress: called per batch and per decoder.
        label: what the progress bar says.

    Raises:
        InputError: NaN logits or features.
    """
    parts = anatomy(model, probe.examples.batch(torch.arange(min(2, len(probe.labels))))[0])
    head_output = Point(parts.head)
    found, logits = features(model, probe.examples, [*parts.points, head_output], progress=progress, label=label)
    _check_finite({point: found[point] for point in parts.points}, logits)
    inner = found[Point(parts.head, "input")]
    decoded = [_decoded(OUTPUT, "output", logits.argmax(1))]
    others = logits.clone()
    others[:, list(probe.forget_classes)] = -torch.inf
    decoded.append(_decoded(RUNNER_UP, "output", others.argmax(1)))
    decoded += _profile(parts, found, inner, probe)
    decoded += _few_shot_curve(inner, probe, seed)
    decoded += _ladder(logits, found[head_output], inner, probe, head)
    return decoded


def read_head(model: nn.Module, probe: Probe) -> Head | None:
    """The model's last linear map; None if it is not one that acts on a vector (a k×k convolution, say)."""
    parts = anatomy(model, probe.examples.batch(torch.arange(min(2, len(probe.labels))))[0])
    module: Any = model.get_submodule(parts.head)
    weight = module.weight.detach().float().cpu()
    weight = weight.T if type(module).__name__ == "Conv1D" else weight
    if weight.flatten(1).shape[1] != weight.shape[1] or weight.shape[0] != probe.classes:
        return None
    bias = torch.zeros(len(weight)) if module.bias is None else module.bias.detach().float().cpu()
    return Head(weight.flatten(1), bias)


def _profile(parts: Anatomy, found: dict[Point, Tensor], inner: Tensor, probe: Probe) -> list[Decoded]:
    """The linear decoder at every stage and at the head input; the same features are decoded once."""
    # A net inside a wrapper has the same stages: they are called as without it.
    prefix = _shared_prefix(parts.operators)
    at_head = cross_fitted(inner, probe.labels, probe.folds, probe.classes)
    profile = []
    for stage in parts.stages:
        vectors = found[Point(stage)]
        same = vectors.shape == inner.shape and torch.equal(vectors, inner)
        said = at_head if same else cross_fitted(vectors, probe.labels, probe.folds, probe.classes)
        profile.append(_decoded(LINEAR, stage.removeprefix(prefix), said))
    return [*profile, _decoded(LINEAR, HEAD_INPUT, at_head)]


def _shared_prefix(names: Sequence[str]) -> str:
    """The modules that all names lie in, with the dot.

    >>> _shared_prefix(["net.body.0", "net.head"]), _shared_prefix(["body.0", "head"]), _shared_prefix(["head"])
    ('net.', '', '')
    """
    homes = [name.split(".")[:-1] for name in names]
    shared = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*homes, strict=False))
    return "".join(f"{parts[0]}." for parts in shared)


def _few_shot_curve(inner: Tensor, probe: Probe, seed: int) -> list[Decoded]:
    """Heads refitted with n labels per forget class and fixed labels of the others, each half scored by the other."""
    generator = torch.Generator().manual_seed(seed)
    curve = {}
    for half in (0, 1):
        pool, test = probe.halves == half, ((probe.halves != half) & probe.forget).nonzero()[:, 0]
        retained = _sampled(probe, pool & ~probe.forget, RETAIN_SHOTS, generator)
        plan = [(shots, draw) for shots in (*shot_counts(probe), 0) for draw in range(DRAWS if shots else 1)]
        chosen = [_sampled(probe, pool & probe.forget, shots or len(pool), generator) for shots, _ in plan]
        said = few_shot(inner, probe.labels, retained, chosen, test, probe.classes)
        for key, row in zip(plan, said, strict=True):
            curve.setdefault(key, torch.full_like(probe.labels, -1))[test] = row
    return [_decoded(FEW_SHOT, HEAD_INPUT, said, shots, draw) for (shots, draw), said in curve.items()]


def shot_counts(probe: Probe) -> list[int]:
    """Those of `SHOTS` that each half can give for every forget class."""
    least = min(
        int(((probe.labels == number) & (probe.halves == half)).sum())
        for number in probe.forget_classes
        for half in (0, 1)
    )
    return [shots for shots in SHOTS if shots < least]


def _ladder(logits: Tensor, head_output: Tensor, inner: Tensor, probe: Probe, head: Head | None) -> list[Decoded]:
    """Ways to bring the class back with little effort, cheapest first."""
    rungs = []
    if head_output.shape[1] == probe.classes and not torch.equal(head_output.argmax(1), logits.argmax(1)):
        rungs.append(_decoded(UNWRAPPED, "output", head_output.argmax(1)))
    rungs.append(_decoded(BIAS, "output", refit_bias(logits, probe.labels, probe.folds)))
    if head is not None and head.weight.shape[1] == inner.shape[1]:
        rungs.append(_decoded(HEAD_SWAP, HEAD_INPUT, head(inner).argmax(1)))
    return rungs


def _sampled(probe: Probe, among: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Positions of at most `most` examples of each class among those that the mask `[N]` allows."""
    chosen = []
    for number in probe.labels[among].unique().tolist():
        members = (among & (probe.labels == number)).nonzero()[:, 0]
        chosen.append(members[torch.randperm(len(members), generator=generator)[:most]])
    return torch.cat(chosen)


def _decoded(decoder: str, layer: str, said: Tensor, shots: int = 0, draw: int = 0) -> Decoded:
    return Decoded(decoder, layer, shots, draw, said.to(torch.int16).numpy())


def _check_finite(found: dict[Point, Tensor], logits: Tensor) -> None:
    if logits.isnan().any():
        raise InputError(f"model: {int(logits.isnan().any(1).sum())} examples have NaN logits; allowed: finite logits")
    for point, vectors in found.items():
        if not vectors.isfinite().all():
            raise InputError(f"model: NaN or infinite values at {point.module}; allowed: finite features")
