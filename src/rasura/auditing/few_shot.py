"""The few-shot curve: how few labels of the forget class find it in a model's features."""

import torch
from torch import Tensor

from rasura.auditing.decoded import FEW_SHOT, Decoded, as_decoded
from rasura.auditing.decoders import few_shot
from rasura.auditing.probe import Probe

SHOTS = (1, 2, 5, 10, 20, 50, 100)
"""Labels of the forget class that a few-shot head gets; all those of the half come on top."""
DRAWS, STAGE_DRAWS = 10, 2
"""Draws of the labels at the head input, and at every other place."""
RETAIN_SHOTS = 100
"""Labels of every retained class that every few-shot head gets."""


def few_shot_curve(vectors: Tensor, layer: str, probe: Probe, seed: int, draws: int = DRAWS) -> list[Decoded]:
    """Heads refitted with n labels per forget class and fixed labels of the others, each half scored by the other."""
    generator = torch.Generator().manual_seed(seed)
    curve = {}
    for half in (0, 1):
        pool, test = probe.halves == half, ((probe.halves != half) & probe.forget).nonzero()[:, 0]
        retained = _sampled(probe, pool & ~probe.forget, RETAIN_SHOTS, generator)
        plan = [(shots, draw) for shots in (*shot_counts(probe), 0) for draw in range(draws if shots else 1)]
        chosen = [_sampled(probe, pool & probe.forget, shots or len(pool), generator) for shots, _ in plan]
        said = few_shot(vectors, probe.labels, retained, chosen, test, probe.classes)
        for key, row in zip(plan, said, strict=True):
            curve.setdefault(key, torch.full_like(probe.labels, -1))[test] = row
    return [as_decoded(FEW_SHOT, layer, said, shots, draw) for (shots, draw), said in curve.items()]


def shot_counts(probe: Probe) -> list[int]:
    """Those of `SHOTS` that each half can give for every forget class."""
    least = min(
        int(((probe.labels == number) & (probe.halves == half)).sum())
        for number in probe.forget_classes
        for half in (0, 1)
    )
    return [shots for shots in SHOTS if shots < least]


def _sampled(probe: Probe, among: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Positions of at most `most` examples of each class among those that the mask `[N]` allows."""
    chosen = []
    for number in probe.labels[among].unique().tolist():
        members = (among & (probe.labels == number)).nonzero()[:, 0]
        chosen.append(members[torch.randperm(len(members), generator=generator)[:most]])
    return torch.cat(chosen)
