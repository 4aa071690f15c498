"""The two orders of closed-form edits: each map after the ones before it, or all by what the original model shows."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from rasura.activations import Point, stream
from rasura.data import Examples
from rasura.errors import InputError
from rasura.methods._class_statistics import ClassMeans, ClassStatistics, Summary
from rasura.methods._distributed import processes
from rasura.methods._examples import joined
from rasura.methods._lockstep import lockstep
from rasura.methods._norms import norms_of
from rasura.methods._sites import Site
from rasura.methods.contract import Problem
from rasura.models import device_of

HELD_OUT = 4
"""Every fourth calibration example measures separability and routing; the others give means and scatter."""
MICRO_BATCH, ON_GPU = 64, 256
"""Examples that run together: few, so that a micro-batch finds its activations in the cache when its turn comes."""
PORTION = 1024
"""Vectors that are taken in together where they are streamed: few large products cost less than many small ones."""

Visit = Callable[[Site, Summary, Tensor | None], dict[str, Any]]
"""What is done at a map: given its statistics and, in sequence, this process's input vectors; returns the record."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """This process's calibration examples.

    Attributes:
        examples: forget and retain, mixed.
        held_out: bool `[n]`, those that measure separability and routing.
        size: how many all processes have.
    """

    examples: Examples
    held_out: Tensor
    size: int


def calibration_of(problem: Problem, most: int) -> Calibration:
    """Forget and retain examples in a random order that mixes them, dealt to the processes.

    At most `most` of each side, or two of each class where that is more.
    """
    problem.require_every_class()
    generator = torch.Generator().manual_seed(problem.seed)
    sides = [_drawn(examples, most, generator) for examples in (problem.forget, problem.retain)]
    mixed = _together(*sides)
    order = torch.randperm(len(mixed), generator=generator)
    number, count = processes()
    if len(mixed) < HELD_OUT * count:
        raise InputError(
            f"data: {len(mixed)} calibration examples; allowed: {HELD_OUT * count}, {HELD_OUT} per process"
        )
    held_out = _held_out(mixed.labels[order])
    mine = torch.arange(len(mixed)).tensor_split(count)[number]
    return Calibration(mixed.take(order[mine]), held_out[mine], len(mixed))


def _drawn(examples: Examples, most: int, generator: torch.Generator) -> Examples:
    """At most `most` random examples; if these miss a class, two of every class come first."""
    order = torch.randperm(len(examples), generator=generator)
    labels = examples.labels[order]
    if len(labels[:most].unique()) < len(labels.unique()):
        first = torch.cat([(labels == number).nonzero()[:2, 0] for number in labels.unique()])
        others = torch.ones(len(order), dtype=torch.bool).index_fill(0, first, False).nonzero()[:, 0]
        order, most = order[torch.cat([first, others])], max(most, len(first))
    return examples.take(order[:most])


def _together(forget: Examples, retain: Examples) -> Examples:
    if forget.source is not retain.source or forget.transform is not retain.transform:
        return joined(forget, retain)
    labels, rows = torch.cat([forget.labels, retain.labels]), torch.cat([forget.rows, retain.rows])
    return Examples(forget.source, labels, rows, forget.transform)


def _held_out(labels: Tensor) -> Tensor:
    """Every fourth example, but of each class at least one is left to fit, and one held out where there are two."""
    held_out = torch.arange(len(labels)) % HELD_OUT == 0
    for number in labels.unique():
        places = (labels == number).nonzero()[:, 0]
        if held_out[places].all():
            held_out[places[0]] = False
        if len(places) > 1 and not held_out[places].any():
            held_out[places[0]] = True
    return held_out


def in_sequence(
    model: nn.Module,
    sites: list[Site],
    problem: Problem,
    calibration: Calibration,
    visit: Visit,
    read_only: set[Point],
    singles: set[Point],
    norms_too: bool,
) -> dict[str, dict[str, Any]]:
    """Visit every map when all examples have arrived there, before they go on: one pass, all activations in memory.

    Args:
        read_only: points of maps that will not be edited: examples need not wait there.
        singles: points at which single forgotten examples are read.
        norms_too: whether BatchNorms get the statistics of the retained examples on their way.

    Returns:
        The records by the maps' names.
    """
    open_sites, norms = _by_point(sites), norms_of(model) if norms_too else {}
    labels, scored = calibration.examples.labels, calibration.held_out
    forgotten = torch.tensor(problem.forget_classes)
    arrived: dict[Point, list[Tensor]] = {point: [] for point in open_sites}
    shortcuts = _shortcuts(sites, problem)
    records: dict[str, dict[str, Any]] = {}

    def gather(point: Point, tensor: Tensor, labels_here: Tensor) -> None:
        if point in norms:
            norms[point].update(tensor[~torch.isin(labels_here, forgotten).to(tensor.device)])
        if point in open_sites:
            arrived[point].append(open_sites[point].vectors(tensor))
        if point in shortcuts:
            shortcuts[point].fit(tensor, labels_here)

    def act(point: Point) -> None:
        if point in norms:
            norms[point].apply()
        if point not in open_sites:
            return
        site, vectors = open_sites[point], torch.cat(arrived.pop(point))
        statistics = _statistics(site, problem, point in read_only, point in singles)
        statistics.fit(vectors[~scored.to(vectors.device)], labels[~scored])
        statistics.settle()
        statistics.score(vectors[scored.to(vectors.device)], labels[scored])
        records[site.name] = visit(site, _with_carried(statistics.summary(), site, shortcuts), vectors)

    def resume(point: Point, tensor: Tensor) -> Tensor | None:
        return open_sites[point].resumed(tensor) if point in open_sites else None

    points, size = list(dict.fromkeys([*norms, *open_sites, *shortcuts])), _batch_size(model)
    passing = read_only | (shortcuts.keys() - open_sites.keys() - norms.keys())
    progress = problem.progress, "projecting"
    lockstep(model, calibration.examples, points, gather, act, resume, size, passing, *progress)
    return records


def in_one_shot(
    model: nn.Module,
    sites: list[Site],
    problem: Problem,
    calibration: Calibration,
    visit: Visit,
    read_only: set[Point],
    singles: set[Point],
) -> dict[str, dict[str, Any]]:
    """Read the original model at every map, then visit all; memory for one batch. The records by the maps' names."""
    open_sites = _by_point(sites)
    statistics = {
        point: _statistics(site, problem, point in read_only, point in singles) for point, site in open_sites.items()
    }

    waiting: dict[Point, list[tuple[Tensor, Tensor]]] = {point: [] for point in open_sites}
    shortcuts = _shortcuts(sites, problem)

    def receive(point: Point, tensor: Tensor, labels: Tensor) -> Tensor | None:
        if point in shortcuts:
            shortcuts[point].fit(tensor, labels)
        if point not in open_sites:
            return None
        waiting[point].append((open_sites[point].vectors(tensor), labels))
        if sum(len(some) for _, some in waiting[point]) >= PORTION:
            hand_on(point)
        return open_sites[point].resumed(tensor)

    def hand_on(point: Point) -> None:
        if waiting[point]:
            vectors, labels = zip(*waiting[point], strict=True)
            take = statistics[point].score if statistics[point].settled else statistics[point].fit
            take(torch.cat(vectors), torch.cat(labels))
            waiting[point].clear()

    parts, progress = calibration.examples.take, problem.progress
    scored, size = calibration.held_out, _batch_size(model)
    points = list(dict.fromkeys([*open_sites, *shortcuts]))
    stream(model, parts(~scored), points, receive, size, progress=progress, label="prototypes")
    for point, one in statistics.items():
        hand_on(point)
        one.settle()
    stream(model, parts(scored), points, receive, size, progress=progress, label="probes")
    for point in open_sites:
        hand_on(point)
    return {
        site.name: visit(site, _with_carried(statistics[point].summary(), site, shortcuts), None)
        for point, site in open_sites.items()
    }


@dataclass(frozen=True, eq=False)
class _Shortcut:
    """Means per class of what is added to the output of a map, over all calibration examples."""

    site: Site
    means: ClassMeans

    def fit(self, tensor: Tensor, labels: Tensor) -> None:
        self.means.fit(self.site.vectors(tensor), labels)


def _shortcuts(sites: list[Site], problem: Problem) -> dict[Point, _Shortcut]:
    means = ClassMeans(problem.classes, problem.gone)
    return {site.carried: _Shortcut(site, means) for site in sites if site.carried}


def _with_carried(summary: Summary, site: Site, shortcuts: dict[Point, _Shortcut]) -> Summary:
    return replace(summary, carried=shortcuts[site.carried].means.settle().cpu()) if site.carried else summary


def _batch_size(model: nn.Module) -> int:
    return ON_GPU if device_of(model).type == "cuda" else MICRO_BATCH


def _by_point(sites: list[Site]) -> dict[Point, Site]:
    return {site.point: site for site in sites if not site.skipped}


def _statistics(site: Site, problem: Problem, read_only: bool, singles: bool) -> ClassStatistics:
    forget = torch.tensor(problem.forget_classes)
    return ClassStatistics(site.name, problem.classes, forget, problem.gone, routes=not read_only, singles=singles)
