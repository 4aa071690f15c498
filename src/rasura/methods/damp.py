"""DAMP: Depth-Aware Modulation by Projection (arXiv 2604.15166). Closed form, no gradient.

In the later linear maps the directions that set the forget class apart from the retained classes are projected out of the
weights. `_directions` says which, `_erasers` along which way, `_depth` how strongly; `_sites` finds the maps, `_lockstep`
reads every one of them behind edited ones in a single pass.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from rasura.activations import Point, stream
from rasura.data import Examples
from rasura.errors import InputError, unknown
from rasura.methods._class_statistics import ClassStatistics, Summary
from rasura.methods._depth import Depth, alpha
from rasura.methods._directions import Residual, directions
from rasura.methods._distributed import processes
from rasura.methods._edits import absorb, erase
from rasura.methods._erasers import Eraser, Erasure, erasure
from rasura.methods._lockstep import lockstep
from rasura.methods._norms import norms_of
from rasura.methods._retire import recalibrate, retire
from rasura.methods._sites import Site, find_sites, opened
from rasura.methods.contract import Problem, Reads

Bias = Literal["preserve-mean", "keep"]
Order = Literal["sequential", "one-shot"]
Head = Literal["retire", "project"]
Norms = Literal["keep", "re-estimate"]
CHOICES = {
    "residual": Residual,
    "eraser": Eraser,
    "depth": Depth,
    "bias": Bias,
    "order": Order,
    "head": Head,
    "norms": Norms,
}
HELD_OUT = 4
"""Every fourth calibration example measures separability and routing; the others give means and scatter."""
MICRO_BATCH = 128
"""Examples that run together."""


@dataclass(frozen=True)
class Damp:
    """Project forget-specific directions out of the later linear maps, in one pass over calibration examples.

    At map l, with input prototypes mu (one mean per class), the forget direction is what sets mu_f apart from a target
    t_f; Q is an orthonormal basis of these differences. The edit W' = W (I - a P) with P = Q (Qᵀ S⁻¹ Q)⁻¹ Qᵀ S⁻¹ moves the
    forget prototypes onto their targets (at a = 1, W' Q = 0) while outputs of retained inputs, with covariance S, move as
    little as they can. By default t_f is where a linear reader that knows the retained classes alone puts the class's
    examples: a net that was trained without the class answers like that. Maps are edited in the order in which they
    run, each by statistics of the net that is edited up to there, in one forward pass.

    Source: arXiv 2604.15166, whose text was not to be had. `Damp.published()` is the published form as described:
    residuals against the span of retained prototypes, orthogonal projections, all directions from the original model, strength from probe
    separability, biases kept, the head edited like every other map.
    Differs: the defaults. The span of retained prototypes leaves a look-alike class in place; one-shot directions miss
    what upstream edits change; an orthogonal projection takes from retained classes what lies in the same directions;
    and early edits cost retained accuracy that late ones do not. The forgotten rows of the head are replaced, so that
    accuracy on the class is 0 by construction: whether the class is erased inside is for the audit to say.

    Attributes:
        residual: the target t_f. "routed": the mixture of retained prototypes that a reader of the retained classes
            sees in the class's examples; "centred": the nearest point on the principal directions of the centred
            retained prototypes; "span": the nearest point in the span of the retained prototypes (the paper).
        energy: for "centred", the share of the retain prototypes' variance that the principal directions hold. Above 0,
            up to 1; higher forgets less and retains more.
        eraser: "oblique": P as above; "orthogonal": P = Q Qᵀ (the paper); "leace": least-squares concept erasure, which
            has directions of its own.
        ridge: for "oblique", the share of the mean variance that is added to S. Above 0; higher is nearer to
            "orthogonal".
        depth: strength a per map: "late": 0 in the first maps, rising to 1; from separability s: "probe" = s (the
            paper), "probe^2", "probe*ramp" = s times the relative depth; "constant" = 1.
        alpha: factor on every strength. Above 0, up to 1; higher forgets more.
        order: "sequential": statistics of each map on the model that is edited upstream; its activations of all calibration
            examples are in memory at a time. "one-shot": all from the original model (the paper), in memory for one batch.
        bias: "preserve-mean" moves the bias (or the next BatchNorm's running mean) so that the retained mean stays
            where it was; "keep" leaves biases alone (the paper).
        head: "retire": the forgotten rows become the mean of the others, whose biases are fitted again to retained
            examples (in sequential order); "project": edited like every other map (the paper).
        norms: "re-estimate": BatchNorm statistics are taken anew on the retained examples (in sequential order);
            "keep".
        calibration: the most examples of each side, forget and retain, that are read. 8 or more.
    """

    residual: Residual = "routed"
    energy: float = 0.95
    eraser: Eraser = "oblique"
    ridge: float = 0.1
    depth: Depth = "late"
    alpha: float = 1.0
    order: Order = "sequential"
    bias: Bias = "preserve-mean"
    head: Head = "retire"
    norms: Norms = "keep"
    calibration: int = 4000

    reads: ClassVar[tuple[Reads, ...]] = ("forget", "retain")

    def __post_init__(self) -> None:
        for field, kind in CHOICES.items():
            if getattr(self, field) not in kind.__args__:
                raise unknown(field, getattr(self, field), kind.__args__)
        for field in ("energy", "alpha"):
            if not 0 < getattr(self, field) <= 1:
                raise InputError(f"{field}: {getattr(self, field)}; allowed: above 0, up to 1")
        if not 0 < self.ridge < math.inf:
            raise InputError(f"ridge: {self.ridge}; allowed: a finite number above 0")
        if self.calibration < 8:
            raise InputError(f"calibration: {self.calibration}; allowed: 8 or more")
        if self.norms == "re-estimate" and self.order == "one-shot":
            raise InputError("norms: 're-estimate' in one shot; allowed: order='sequential', which sees edited maps")

    @staticmethod
    def published() -> "Damp":
        """The published form: span residuals, orthogonal, one-shot, probe separability, biases kept, head projected."""
        return Damp(residual="span", eraser="orthogonal", depth="probe", order="one-shot", bias="keep", head="project")

    def __call__(self, problem: Problem) -> tuple[nn.Module, dict[str, Any]]:
        forgotten = problem.require_classes("damp")
        if problem.classes - len(forgotten) < 2:
            raise InputError(f"classes: {problem.classes - len(forgotten)} would be left; allowed: 2 or more")
        model, calibration = problem.copy_of_model().eval(), _calibration(problem, self.calibration)
        sites = find_sites(model, calibration.examples.batch(torch.arange(min(2, len(calibration.examples))))[0])
        edited = self._in_sequence if self.order == "sequential" else self._in_one_shot
        with opened(sites):
            found = edited(model, sites, problem, calibration)
        records = [found.get(site.name, _record(site, skipped=site.skipped)) for site in sites]
        if not any(record["edit"] == "project" for record in records):
            reasons = sorted({record["skipped"] for record in records if record["skipped"]})
            raise InputError(f"damp: no map could be projected ({'; '.join(reasons)}); allowed: other settings or data")
        return model, {"calibration": calibration.size, "operators": records}

    def _in_sequence(
        self, model: nn.Module, sites: list[Site], problem: Problem, calibration: "_Calibration"
    ) -> dict[str, dict[str, Any]]:
        """Edit every map when all examples have arrived there, before they go on; the records by name."""
        open_sites = {site.point: site for site in sites if not site.skipped}
        norms = norms_of(model) if self.norms == "re-estimate" else {}
        forgotten = torch.tensor(problem.forget_classes)
        arrived: list[Tensor] = []
        records = {}

        def gather(point: Point, tensor: Tensor, labels: Tensor) -> None:
            if point in norms:
                norms[point].update(tensor[~torch.isin(labels, forgotten).to(tensor.device)])
            else:
                arrived.append(open_sites[point].vectors(tensor))

        def act(point: Point) -> None:
            if point in norms:
                norms[point].apply()
                return
            site, vectors = open_sites[point], torch.cat(arrived)
            arrived.clear()
            if site is sites[-1] and self.head == "retire":
                records[site.name] = _retired(site, problem)
                if site.pool == "vectors":
                    recalibrate(site.module, vectors, calibration.examples.labels, problem.forget_classes)
            else:
                summary = _summary(site, vectors, calibration, problem)
                records[site.name] = self._project(model, sites, site, summary)

        def resume(point: Point, tensor: Tensor) -> Tensor | None:
            return open_sites[point].resumed(tensor) if point in open_sites else None

        points = [*norms, *open_sites]
        lockstep(model, calibration.examples, points, gather, act, resume, MICRO_BATCH, problem.progress, "projecting")
        return records

    def _in_one_shot(
        self, model: nn.Module, sites: list[Site], problem: Problem, calibration: "_Calibration"
    ) -> dict[str, dict[str, Any]]:
        """Read the original model at every map, then edit all; the records by name."""
        open_sites = {site.point: site for site in sites if not site.skipped}
        statistics = {point: _statistics(site, problem) for point, site in open_sites.items()}

        def fit(point: Point, tensor: Tensor, labels: Tensor) -> Tensor | None:
            statistics[point].fit(open_sites[point].vectors(tensor), labels)
            return open_sites[point].resumed(tensor)

        def score(point: Point, tensor: Tensor, labels: Tensor) -> Tensor | None:
            statistics[point].score(open_sites[point].vectors(tensor), labels)
            return open_sites[point].resumed(tensor)

        for receive, part, label in (
            (fit, ~calibration.held_out, "prototypes"),
            (score, calibration.held_out, "probes"),
        ):
            examples = calibration.examples.take(part)
            stream(model, examples, list(open_sites), receive, MICRO_BATCH, progress=problem.progress, label=label)
        records = {}
        for point, site in open_sites.items():
            if site is sites[-1] and self.head == "retire":
                records[site.name] = _retired(site, problem)
            else:
                records[site.name] = self._project(model, sites, site, statistics[point].summary())
        return records

    def _project(self, model: nn.Module, sites: list[Site], site: Site, summary: Summary) -> dict[str, Any]:
        """Edit one map; what was done to it, for the record."""
        separability = summary.separability
        strength = self.alpha * alpha(self.depth, separability, sites.index(site) + 1, len(sites), site.in_stream)
        record = _record(site, separability=separability, alpha=strength)
        if strength == 0:
            early = "too early in the net" if self.depth == "late" else "the class cannot be told apart here"
            return record | {"skipped": early}
        width = summary.prototypes.shape[1] // site.groups
        parts = [summary.channels(slice(k * width, (k + 1) * width)) for k in range(site.groups)]
        erasures = [self._erasure(part) for part in parts]
        rank = max(one.rank for one in erasures)
        if not rank:
            return record | {"skipped": "nothing sets the class apart from its target here"}
        removed, shift = erase(site, erasures, strength)
        absorbed = absorb(model, site, shift) if self.bias == "preserve-mean" else ""
        return record | {"edit": "project", "rank": rank, "removed": removed, "mean": absorbed}

    def _erasure(self, summary: Summary) -> Erasure:
        basis = directions(summary.prototypes, summary.forget, self.residual, self.energy, summary.routing)
        return erasure(self.eraser, basis, summary, self.ridge)


def _record(site: Site, skipped: str = "", separability: float = 0.0, alpha: float = 0.0) -> dict[str, Any]:
    """What the report shows of a map. `edit` is "project", "retire" or, if skipped, ""; `mean`: what keeps the retained mean."""
    return {
        "operator": site.name,
        "edit": "",
        "rank": 0,
        "alpha": alpha,
        "separability": separability,
        "removed": 0.0,
        "mean": "",
        "skipped": skipped,
    }


def _retired(site: Site, problem: Problem) -> dict[str, Any]:
    removed = retire(site.module, problem.classes, problem.forget_classes)
    return _record(site) | {"edit": "retire", "removed": removed}


@dataclass(frozen=True, eq=False)
class _Calibration:
    """This process's calibration examples.

    Attributes:
        examples: forget and retain, mixed.
        held_out: bool `[n]`, those that measure separability and routing.
        size: how many all processes have.
    """

    examples: Examples
    held_out: Tensor
    size: int


def _calibration(problem: Problem, most: int) -> _Calibration:
    """Forget and retain examples, at most `most` of each, in a random order that mixes them, dealt to the processes."""
    generator = torch.Generator().manual_seed(problem.seed)
    both = []
    for examples in (problem.forget, problem.retain):
        both.append(examples.take(torch.randperm(len(examples), generator=generator)[:most]))
    forget, retain = both
    labels, rows = torch.cat([forget.labels, retain.labels]), torch.cat([forget.rows, retain.rows])
    joined = Examples(forget.source, labels, rows, forget.transform)
    order = torch.randperm(len(joined), generator=generator)
    number, count = processes()
    mine = torch.arange(number, len(joined), count)
    if len(joined) < count:
        raise InputError(f"data: {len(joined)} calibration examples for {count} processes; allowed: one each or more")
    return _Calibration(joined.take(order[mine]), mine % HELD_OUT == 0, len(joined))


def _statistics(site: Site, problem: Problem) -> ClassStatistics:
    return ClassStatistics(site.name, problem.classes, torch.tensor(problem.forget_classes))


def _summary(site: Site, vectors: Tensor, calibration: _Calibration, problem: Problem) -> Summary:
    """The statistics of all examples at once."""
    statistics, labels = _statistics(site, problem), calibration.examples.labels
    fitted, scored = ~calibration.held_out, calibration.held_out
    statistics.fit(vectors[fitted.to(vectors.device)], labels[fitted])
    statistics.score(vectors[scored.to(vectors.device)], labels[scored])
    return statistics.summary()
