"""The loss of residual feature alignment: retained features stay where they are, others move to a goal."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rasura.activations import Point, tap
from rasura.data import Examples
from rasura.data.examples import Inputs
from rasura.errors import InputError
from rasura.methods._losses import divergence
from rasura.models import device_of, logits_of, to_device
from rasura.training import Batch

Target = Literal["retain-sample", "retain-centroid", "nearest-retain"]
Teacher = Callable[[nn.Module], AbstractContextManager[nn.Module]]
"""Opens the model that says h⁰ while the student is given: the student itself without adapters, or another one."""

SMALLEST = 0.01
"""Squared feature norms below this share of the batch's mean count as that: a dead example would outweigh all."""


@dataclass(frozen=True, eq=False)
class Goals:
    """What examples to forget are to look like.

    Attributes:
        target: whose features they move to: one retained example's, the mean of several, or the nearest one's.
        closed: numbers of classes that nothing is to be answered with.
        answers: logits `[N, K]` that they are to be answered with; None: the teacher's, without the closed classes.
        borrowed: whether the answers are those that the teacher gives to the retained examples they move to (the
            mean of several); an example without partner in its batch keeps its own.
        partners: the class `[N]` of the retained examples that each may move to; None: any.
    """

    target: Target
    closed: tuple[int, ...] = ()
    answers: Tensor | None = None
    borrowed: bool = False
    partners: Tensor | None = None


@dataclass(eq=False)
class Alignment:
    """L_retain + gamma · L_forget of a batch of retained examples and one of examples to forget.

    L_retain is the mean over examples of Σ_ℓ ‖h_ℓ − h⁰_ℓ‖² / ‖h⁰_ℓ‖² + answer_weight · KL(teacher ‖ student). L_forget
    has the goal's features in the place of h⁰ in the numerator, and the goal's answers in the place of the teacher's.

    Attributes:
        points: where features are aligned.
        forget: the examples to forget.
        goals: see `Goals`.
        gamma: weight of L_forget.
        answer_weight: of the answers beside the features.
        forget_batch_size: examples to forget per step.
        teacher: see `Teacher`.
        seed: of all draws.
        trace: of each step `[3, layers]`: mean ‖h − h⁰‖ / ‖h⁰‖ of retained examples, of those to forget, and mean
            ‖h − goal‖ / ‖h⁰‖ of the latter.
    """

    points: Sequence[Point]
    forget: Examples
    goals: Goals
    gamma: float
    answer_weight: float
    forget_batch_size: int
    teacher: Teacher
    seed: int
    trace: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._generator = torch.Generator().manual_seed(self.seed)
        self._drawn = endless(len(self.forget), self.forget_batch_size, self._generator)

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        model.eval()  # dropout and batch statistics would be residuals that no adapter makes
        border, chosen = len(batch.labels), next(self._drawn)
        inputs, _ = self.forget.batch(chosen)
        both = _one_batch(batch.inputs, to_device(inputs, device_of(model)))
        with torch.no_grad(), self.teacher(model) as teacher:
            said, before = read(teacher, both, self.points)
        logits, after = read(model, both, self.points)
        allowed = self._allowed(chosen, batch.labels)
        pairs = _pairs(self.goals.target, before, allowed, self._generator)
        errors = torch.stack([_errors(*layer) for layer in zip(before, after, pairs, strict=True)])
        self._note(before, after, errors.detach(), border)
        paired = torch.cat([allowed.new_ones(border), allowed.any(1)])
        answers = divergence(self._answers(said, chosen, pairs[-1]), logits)
        values = (errors * paired).sum(0) + self.answer_weight * answers
        return values[:border].mean() + self.gamma * values[border:].mean()

    def _allowed(self, chosen: Tensor, labels: Tensor) -> Tensor:
        """Which retained examples of the batch `[F, R]` each example to forget may move to."""
        if self.goals.partners is None:
            return torch.ones(len(chosen), len(labels), dtype=torch.bool, device=labels.device)
        return self.goals.partners[chosen].to(labels.device)[:, None] == labels

    def _answers(self, said: Tensor, chosen: Tensor, pairs: Tensor) -> Tensor:
        """The logits `[R + F, K]` that the student is to say."""
        open_said = said.clone()
        open_said[:, list(self.goals.closed)] = -torch.inf
        border = len(said) - len(chosen)
        if self.goals.borrowed:
            lent = (pairs.to(said) @ open_said[:border].softmax(1)).log()
            return torch.cat([open_said[:border], torch.where(pairs.any(1)[:, None], lent, open_said[border:])])
        if self.goals.answers is None:
            return open_said
        return torch.cat([open_said[:border], self.goals.answers[chosen].to(said)])

    def _note(self, before: list[Tensor], after: list[Tensor], errors: Tensor, border: int) -> None:
        layers = zip(before, after, strict=True)
        moved = [_squared(new.detach()[border:] - old[border:]) / _sizes(old)[border:] for old, new in layers]
        sides = errors[:, :border], torch.stack(moved), errors[:, border:]
        self.trace.append(torch.stack([side.sqrt().mean(1) for side in sides]))


def read(model: nn.Module, inputs: Inputs, points: Sequence[Point]) -> tuple[Tensor, list[Tensor]]:
    """Logits `[B, K]` of a batch, and what passes at each point, first dimension B (tokens-first sequences are turned).

    Raises:
        InputError: a point is not passed once per batch with one entry per example.
    """
    found: dict[Point, list[Tensor]] = {point: [] for point in points}

    def keep(point: Point) -> Callable[[Tensor], None]:
        return lambda tensor: found[point].append(tensor)

    with tap(model, {point: keep(point) for point in points}):
        logits = logits_of(model, inputs)
    found = {point: [_examples_first(one, len(logits)) for one in seen] for point, seen in found.items()}
    for point, seen in found.items():
        if len(seen) != 1 or seen[0].ndim < 2 or len(seen[0]) != len(logits):
            raise InputError(f"aligned: {point.module} gives no features once per batch; allowed: layers that do")
    return logits, [seen[0] for seen in found.values()]


def _examples_first(features: Tensor, count: int) -> Tensor:
    tokens_first = features.ndim == 3 and len(features) != count == features.shape[1]
    return features.transpose(0, 1) if tokens_first else features


def endless(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Batches of `size` positions below `count` for ever: one random order after another."""
    waiting = torch.empty(0, dtype=torch.int64)
    while True:
        while len(waiting) < size:
            waiting = torch.cat([waiting, torch.randperm(count, generator=generator)])
        yield waiting[:size]
        waiting = waiting[size:]


def summary(trace: Sequence[Tensor], points: Sequence[Point], most: int = 40) -> dict[str, Any]:
    """The trace as JSON values: means over at most `most` stretches of steps."""
    stretches = torch.arange(len(trace)).tensor_split(min(most, len(trace)))
    means = torch.stack([torch.stack([trace[step] for step in one.tolist()]).mean(0) for one in stretches]).cpu()
    parts = dict(zip(("retain", "forget", "distance"), means.double().unbind(1), strict=True))
    sides = {name: [[round(value, 5) for value in line] for line in part.T.tolist()] for name, part in parts.items()}
    names = [point.module if point.side == "output" else f"{point.module} input" for point in points]
    return {"layers": names, "steps": [int(one[-1]) + 1 for one in stretches], **sides}


def _pairs(target: Target, before: list[Tensor], allowed: Tensor, generator: torch.Generator) -> list[Tensor]:
    """For each layer, how retained examples mix to each goal: `[F, R]`, rows that sum to 1 (0 if none is allowed)."""
    if target == "nearest-retain":
        return [_nearest(old, allowed) for old in before]
    if target == "retain-centroid":
        mixed = allowed.float() / allowed.sum(1, keepdim=True).clamp(min=1)
    else:
        drawn = torch.rand(allowed.shape, generator=generator).to(allowed.device)
        mixed = _first(drawn, allowed)
    return [mixed] * len(before)


def _nearest(old: Tensor, allowed: Tensor) -> Tensor:
    flat, border = old.flatten(1), allowed.shape[1]
    return _first(torch.cdist(flat[border:], flat[:border]), allowed)


def _first(order: Tensor, allowed: Tensor) -> Tensor:
    """1 at each row's smallest allowed entry, 0 elsewhere."""
    places = order.masked_fill(~allowed, torch.inf).argmin(1)
    return torch.nn.functional.one_hot(places, allowed.shape[1]) * allowed.float()


def _errors(old: Tensor, new: Tensor, pairs: Tensor) -> Tensor:
    """Squared distances `[R + F]` from where features are to be, as shares of the squared norms of h⁰."""
    border = pairs.shape[1]
    goal = (pairs.to(old) @ old[:border].flatten(1)).view(len(pairs), *old.shape[1:])
    return torch.cat([_squared(new[:border] - old[:border]), _squared(new[border:] - goal)]) / _sizes(old)


def _squared(features: Tensor) -> Tensor:
    return torch.linalg.vector_norm(features, dim=tuple(range(1, features.ndim))).square()


def _sizes(old: Tensor) -> Tensor:
    sizes = _squared(old)
    return sizes.clamp(min=float(SMALLEST * sizes.mean())).clamp(min=1e-12)


def _one_batch(first: Inputs, second: Inputs) -> Inputs:
    if isinstance(first, dict):
        assert isinstance(second, dict)
        return {name: torch.cat([column, second[name]]) for name, column in first.items()}
    assert isinstance(second, Tensor)
    return torch.cat([first, second])
