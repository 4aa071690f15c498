"""DAMP: Depth-Aware Modulation by Projection (arXiv 2604.15166). Closed form, no gradient.

In the later linear maps the directions that set the forget class apart from the retained classes are projected out of
the weights. `_directions` says which, `_erasers` along which way, `_depth` how strongly; `_sites` finds the maps, and
`_lockstep` reads each of them on the net that is edited up to there, all in one pass.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from rasura.activations import is_operator
from rasura.errors import InputError, unknown
from rasura.kinds import checked_kinds
from rasura.methods._class_statistics import Summary
from rasura.methods._depth import CANCELLED, CANCELLED_IN_STREAM, Depth, alpha
from rasura.methods._directions import Residual, directions
from rasura.methods._edits import absorb, cancelling, erase
from rasura.methods._erasers import Eraser, Erasure, erasure
from rasura.methods._head import head_rows
from rasura.methods._orders import calibration_of, in_one_shot, in_sequence
from rasura.methods._retire import recalibrate, retire
from rasura.methods._sites import Site, find_sites, opened
from rasura.methods._within import dispersal
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


@checked_kinds
@dataclass(frozen=True)
class Damp:
    """Project forget-specific directions out of the later linear maps, in one pass over calibration examples.

    At map l, with input prototypes mu (one mean per class), the forget direction is what sets mu_f apart from a target
    t_f; Q is an orthonormal basis of these differences. The edit W' = W (I - a P), P = Q (Qᵀ S⁻¹ Q)⁻¹ Qᵀ S⁻¹, moves the
    forget prototypes onto their targets (at a = 1, W' Q = 0) while outputs of retained inputs, with covariance S, move
    as little as they can. By default t_f is where a linear reader that knows the retained classes alone puts the
    class's examples: nets that were trained without the class answer like that. Maps are edited in the order in which
    they run, each by statistics of the net that is edited up to there, in one forward pass. Where a shortcut carries s
    past the last map before the head, that map also writes the opposite of a share of what tells the class from its
    target in s.

    Source: arXiv 2604.15166, whose text was not to be had. `Damp.published()` is the published form as described:
    residuals against the span of retained prototypes, orthogonal projections, all directions from the original model,
    strength from probe separability, biases kept, the head edited like every other map.
    Differs: the defaults. The span of retained prototypes leaves a look-alike class in place; one-shot directions miss
    what upstream edits change; an orthogonal projection takes from retained classes what lies in the same directions;
    early edits cost retained accuracy that late ones do not; and what shortcuts carry past all edits stays readable.
    The forgotten rows of the head are replaced, so that accuracy on the class is 0 by construction: whether the class
    is erased inside is for the audit to say. Means are over all positions, padding tokens included, but where the head
    reads a class token: there they are that token's. Convolutions lose directions of channels, alike at every kernel
    position, and keep retained means as far as borders do not matter, where zeros stand for some inputs. There is no
    strength to search: a retired head says 0 at any setting, so that a search by answers would choose the weakest edit,
    a mask.

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
        depth: strength a per map: "last": 1 in the maps that make the head's features, s² in those shortly before, 0 in
            the first, with s the separability; "late": 0 in the first maps, rising to 1; "probe" = s (the paper),
            "probe^2" = s², "probe*ramp" = s times the relative depth; "constant" = 1.
        alpha: factor on every strength. Above 0, up to 1; higher forgets more.
        order: "sequential": statistics of each map on the model that is edited upstream; activations of all calibration
            examples are in memory at a time. "one-shot": all from the original model (the paper); memory for one batch.
        shortcut: share of the class's difference from its target that the last map before the head takes out of what a
            shortcut carries past it, by writing the opposite. 0 to 1; higher forgets more, and hardly costs retention.
            None: 0.4 where tokens are added, 1 where maps are.
        within: how far the maps that make the head's features move single examples of the class, which differ among
            themselves, to the retained classes they are named as. 0 to 1; higher forgets more, and costs retention.
        bias: "preserve-mean" moves the bias (or the next BatchNorm's running mean) so that the retained mean stays
            where it was; "keep" leaves biases alone (the paper).
        head: "retire": the forgotten rows become the mean of the others, whose biases are fitted again to retained
            examples (in sequential order); "project": edited like every other map (the paper).
        norms: "re-estimate": BatchNorm statistics are taken anew on the retained examples (in sequential order);
            "keep".
        calibration: the most examples of each side, forget and retain, that are read (two of each class where that is
            more). 8 or more.
    """

    residual: Residual = "routed"
    energy: float = 0.95
    eraser: Eraser = "oblique"
    ridge: float = 0.1
    depth: Depth = "last"
    alpha: float = 1.0
    order: Order = "sequential"
    shortcut: float | None = None
    within: float = 0.0
    bias: Bias = "preserve-mean"
    head: Head = "retire"
    norms: Norms = "keep"
    calibration: int = 2000

    reads: ClassVar[tuple[Reads, ...]] = ("forget", "retain")

    def __post_init__(self) -> None:
        for field, kind in CHOICES.items():
            if getattr(self, field) not in kind.__args__:
                raise unknown(field, getattr(self, field), kind.__args__)
        for field in ("energy", "alpha"):
            if not 0 < getattr(self, field) <= 1:
                raise InputError(f"{field}: {getattr(self, field)}; allowed: above 0, up to 1")
        if self.shortcut is not None and not 0 <= self.shortcut <= 1:
            raise InputError(f"shortcut: {self.shortcut}; allowed: 0 to 1, or None")
        if not 0 <= self.within <= 1:
            raise InputError(f"within: {self.within}; allowed: 0 to 1")
        if not 0 < self.ridge < math.inf:
            raise InputError(f"ridge: {self.ridge}; allowed: a finite number above 0")
        if self.calibration < 8:
            raise InputError(f"calibration: {self.calibration}; allowed: 8 or more")
        if self.norms == "re-estimate" and self.order == "one-shot":
            raise InputError("norms: 're-estimate' in one shot; allowed: order='sequential', which sees edited maps")

    @staticmethod
    def published() -> "Damp":
        """The published form: span residuals, orthogonal, one-shot, probe separability, maps and head alike."""
        plain = {"shortcut": 0.0, "bias": "keep", "head": "project"}
        return Damp(residual="span", eraser="orthogonal", depth="probe", order="one-shot", **plain)

    def __call__(self, problem: Problem) -> tuple[nn.Module, dict[str, Any]]:
        absent = tuple(sorted({*problem.require_classes("damp"), *problem.gone}))
        if problem.classes - len(absent) < 2:
            raise InputError(f"classes: {problem.classes - len(absent)} would be left; allowed: 2 or more")
        model, calibration = problem.copy_of_model().eval(), calibration_of(problem, self.calibration)
        sites = find_sites(model, calibration.examples.batch(torch.arange(min(2, len(calibration.examples))))[0])

        def visit(site: Site, summary: Summary, vectors: Tensor | None) -> dict[str, Any]:
            answers = site.answers and len(head_rows(site.module)) == problem.classes
            if self.head == "project" or not answers:
                return self._project(model, site, summary, sites.index(site) + 1, len(sites))
            removed = retire(site.module, problem.classes, absent)
            if vectors is not None and site.pool == "vectors":
                recalibrate(site.module, vectors, calibration.examples.labels, absent)
            return _record(site.name, summary.separability) | {"edit": "retire", "removed": removed}

        read_only = {
            site.point for place, site in enumerate(sites, 1) if not self._strength(1.0, site, place, len(sites))
        }
        singles = {site.point for site in sites if site.last and self.within}
        with opened(sites):
            if self.order == "sequential":
                norms_too = self.norms == "re-estimate"
                found = in_sequence(model, sites, problem, calibration, visit, read_only, singles, norms_too)
            else:
                found = in_one_shot(model, sites, problem, calibration, visit, read_only, singles)
        records = [_record(name) | {"skipped": "it does not run as a module"} for name in _unseen(model, sites)]
        records += [found.get(site.name, _record(site.name) | {"skipped": site.skipped}) for site in sites]
        if not any(record["edit"] == "project" for record in records):
            reasons = sorted({record["skipped"] for record in records if record["skipped"]})
            reasons = reasons or ["its head is the only linear map; head-reset edits that"]
            raise InputError(f"damp: no map could be projected ({'; '.join(reasons)}); allowed: other settings or data")
        return model, {"calibration": calibration.size, "operators": records}

    def _project(self, model: nn.Module, site: Site, summary: Summary, place: int, count: int) -> dict[str, Any]:
        """Edit one map, the `place`-th of `count`; what was done to it, for the record."""
        strength = self._strength(summary.separability, site, place, count)
        record = _record(site.name, summary.separability) | {"alpha": strength}
        if strength == 0:
            early = not self._strength(1.0, site, place, count)
            return record | {"skipped": "too early in the net" if early else "the class cannot be told apart here"}
        width = summary.prototypes.shape[1] // site.groups
        groups = [slice(k * width, (k + 1) * width) for k in range(site.groups)]
        erasures = [self._erasure(summary.channels(group)) for group in groups]
        rank = max(one.rank for one in erasures)
        if not rank:
            return record | {"skipped": "nothing sets the class apart from its target here"}
        if rank == width:
            return record | {"skipped": f"{rank} directions would fill its input space"}
        usual = CANCELLED_IN_STREAM if site.in_stream else CANCELLED
        share = strength * (usual if self.shortcut is None else self.shortcut) if site.carried else 0.0
        writes = cancelling(model, site, summary, erasures, share) if share else None
        removed, shift = erase(site, erasures, strength, writes)
        dispersed, further = self._disperse(site, summary, erasures, groups, strength)
        shift = shift + further
        kept = absorb(model, site, shift) if self.bias == "preserve-mean" else ""
        record |= {"edit": "project", "rank": rank, "removed": removed, "mean": kept, "cancelled": share}
        return record | {"dispersed": dispersed}

    def _disperse(
        self, site: Site, summary: Summary, erasures: list[Erasure], groups: list[slice], strength: float
    ) -> tuple[float, Tensor | float]:
        """Move single examples as well, where they were read; the changed share, and what the output loses."""
        if summary.own is None:
            return 0.0, 0.0
        pairs = zip(erasures, groups, strict=True)
        moves = [dispersal(one, summary.channels(group), self.ridge) for one, group in pairs]
        return erase(site, moves, strength * self.within)

    def _strength(self, separability: float, site: Site, place: int, count: int) -> float:
        return self.alpha * alpha(self.depth, separability, place, count, site.in_stream, site.last)

    def _erasure(self, summary: Summary) -> Erasure:
        basis = directions(summary.prototypes, summary.forget, self.residual, self.energy, summary.routing)
        return erasure(self.eraser, basis, summary, self.ridge)


def _unseen(model: nn.Module, sites: list[Site]) -> list[str]:
    """Linear maps that no input passes: unused ones, and those whose weights a function takes (`F.linear`)."""
    seen = {site.name for site in sites}
    return [name for name, module in model.named_modules() if is_operator(module) and name not in seen]


def _record(name: str, separability: float = 0.0) -> dict[str, Any]:
    """What the report shows of a map: `edit` is "project", "retire" or "", `mean` says what keeps the retained mean."""
    nothing = {"edit": "", "rank": 0, "alpha": 0.0, "removed": 0.0, "cancelled": 0.0, "dispersed": 0.0}
    return {"operator": name, "separability": separability, **nothing, "mean": "", "skipped": ""}
