"""DAMP: Depth-Aware Modulation by Projection (arXiv 2604.15166). Closed form, no gradient.

At every learnable linear map the direction that sets the forget class apart from the retained classes is projected out
of the weights, more strongly where a probe can tell the class apart.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from rasura.activations import Anatomy, Moments, Point, anatomy, stream
from rasura.data import Examples
from rasura.errors import InputError, unknown
from rasura.methods._operator import as_taps, from_taps
from rasura.methods._strength import Strength
from rasura.methods.contract import Problem, Reads

Residual = Literal["centred", "span"]
Depth = Literal["probe", "probe*ramp", "probe^2", "constant"]
Bias = Literal["preserve-mean", "keep"]
ROUNDING = 1e-6
"""Activations are float32: a share of a prototype's length that small says nothing."""
HELD_OUT = 4
"""Every fourth calibration example measures the separability; the others give the directions."""


@dataclass(frozen=True)
class Damp:
    """Project forget-specific directions out of every linear map, in one pass over calibration examples.

    At operator l with input prototypes mu (one mean per class), forget directions are residuals of the forget
    prototypes with respect to the retained ones; Q is their orthonormal basis and the edit is W' = W (I - a Q Q^T),
    with a between 0 and 1 from how well a held-out linear probe tells forget from retain at that place.

    Source: arXiv 2604.15166, whose text was not to be had. `Damp.published()` is the published form as described.
    Differs: by default residuals are taken against the leading directions of the *centred* retain prototypes, because
    the span of nine prototypes leaves a look-alike class in place; and the bias absorbs the shift of the retained mean.

    Attributes:
        residual: "centred": what the principal directions of the centred retain prototypes do not explain;
            "span": what no combination of retain prototypes explains (the paper).
        energy: for "centred", the share of the retain prototypes' variance that the principal directions hold. Above 0,
            up to 1; higher forgets less and retains more.
        depth: strength per operator from separability s: "probe" = s, "probe^2" = s squared, "probe*ramp" = s
            times the operator's relative depth, "constant" = 1.
        bias: "preserve-mean" moves the bias (or the next BatchNorm's running mean) so that the retained mean stays
            where it was; "keep" leaves biases alone (the paper).
        calibration: the most examples of each side, forget and retain, that are read. 8 or more.
    """

    residual: Residual = "centred"
    energy: float = 0.95
    depth: Depth = "probe"
    bias: Bias = "preserve-mean"
    calibration: int = 4000

    reads: ClassVar[tuple[Reads, ...]] = ("forget", "retain")
    strength: ClassVar[Strength] = Strength("energy", 0.9999, 0.3, "logit")

    def __post_init__(self) -> None:
        for field, kind in [("residual", Residual), ("depth", Depth), ("bias", Bias)]:
            if getattr(self, field) not in kind.__args__:
                raise unknown(field, getattr(self, field), kind.__args__)
        if not 0 < self.energy <= 1:
            raise InputError(f"energy: {self.energy}; allowed: above 0, up to 1")
        if self.calibration < 8:
            raise InputError(f"calibration: {self.calibration}; allowed: 8 or more")

    @staticmethod
    def published() -> "Damp":
        """The published form: span residuals, probe separability, biases kept."""
        return Damp(residual="span", depth="probe", bias="keep")

    def __call__(self, problem: Problem) -> tuple[nn.Module, dict[str, Any]]:
        forget_classes = torch.tensor(problem.require_classes("damp"))
        present = torch.tensor([number for number in range(problem.classes) if number not in problem.gone])
        places = torch.isin(present, forget_classes).nonzero()[:, 0]  # of the forgotten among the prototypes
        model = problem.copy_of_model().eval()
        examples = _calibration(problem, self.calibration)
        parts = anatomy(model, examples.batch(torch.arange(min(2, len(examples))))[0])
        statistics = _statistics(model, parts, examples, problem, forget_classes)
        records = []
        for place, name in enumerate(parts.operators):
            records.append(self._edit(model, parts, name, (place + 1) / len(parts.operators), statistics, places))
        if not any(record["rank"] for record in records):
            reasons = sorted({record["skipped"] for record in records})
            raise InputError(
                f"damp: no operator could be edited ({'; '.join(reasons)}); allowed: another residual or data"
            )
        return model, {"calibration": len(examples), "operators": records}

    def _edit(
        self,
        model: nn.Module,
        parts: Anatomy,
        name: str,
        relative_depth: float,
        statistics: dict[str, "_Statistics"],
        places: Tensor,
    ) -> dict[str, Any]:
        """Edit one operator; what was done to it, for the record."""
        module = model.get_submodule(name)
        found = statistics.get(name)
        record = {"operator": name, "rank": 0, "alpha": 0.0, "separability": 0.0, "removed": 0.0}
        if found is None:
            return record | {"skipped": "grouped convolution"}
        basis = directions(found.prototypes, places, self.residual, self.energy)
        alpha = _strength(self.depth, found.separability, relative_depth)
        record |= {"separability": found.separability, "alpha": alpha}
        if not basis.shape[1]:
            return record | {"skipped": "the retained prototypes explain the class"}
        if alpha == 0:
            return record | {"skipped": "the class cannot be told apart here"}
        removed = project_out(module, basis, alpha)
        if self.bias == "preserve-mean":
            shift = _shift(module, removed, found.retain_mean)
            _absorb(model, module, parts.norms.get(name), shift)
        share = removed.norm() / (as_taps(module.weight, module) + removed).norm().clamp(min=1e-300)
        return record | {"rank": basis.shape[1], "removed": share.item(), "skipped": ""}


@dataclass(frozen=True, eq=False)
class _Statistics:
    """What the edit of one operator needs: prototypes `[P, d]` of the classes that are there, the retained mean `[d]`,
    and separability 0..1.
    """

    prototypes: Tensor
    retain_mean: Tensor
    separability: float


def directions(
    prototypes: Tensor, forget: Tensor, residual: Residual, energy: float, tolerance: float = 1e-3
) -> Tensor:
    """Orthonormal basis `[d, r]` of the forget-specific directions, r at most the number of forget classes.

    Args:
        prototypes: one mean per class, `[K, d]`, float64.
        forget: numbers of the forget classes.
        residual: see `Damp`.
        energy: see `Damp`.
        tolerance: residuals shorter than this share of the largest deviation from the retained mean count as nothing,
            and so do those that are rounding errors of the prototypes.
    """
    keep = torch.ones(len(prototypes), dtype=torch.bool)
    keep[forget] = False
    going, staying = prototypes[~keep], prototypes[keep]
    mean = staying.mean(0)
    least = max(tolerance * (prototypes - mean).norm(dim=1).max(), ROUNDING * prototypes.norm(dim=1).max())
    if residual == "span":
        known, origin = _row_space(staying, 1.0), torch.zeros_like(mean)
    else:
        known, origin = _row_space(staying - mean, energy), mean
    left = (going - origin) - (going - origin) @ known @ known.T
    _, lengths, rows = torch.linalg.svd(left, full_matrices=False)
    return rows[lengths > least].T


def project_out(module: nn.Module, basis: Tensor, alpha: float) -> Tensor:
    """W' = W (I - alpha Q Q^T) in place; what was taken away, `[out, d, taps]`, float64."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    taps = as_taps(weight, module)
    removed = alpha * torch.einsum("oit,ir,jr->ojt", taps, basis.to(taps), basis.to(taps))
    with torch.no_grad():
        weight.copy_(from_taps(taps - removed, module, weight))
    return removed


def _calibration(problem: Problem, most: int) -> Examples:
    """Forget and retain examples, at most `most` of each, in a random order that mixes them."""
    generator = torch.Generator().manual_seed(problem.seed)
    both = []
    for examples in (problem.forget, problem.retain):
        both.append(examples.take(torch.randperm(len(examples), generator=generator)[:most]))
    forget, retain = both
    labels, rows = torch.cat([forget.labels, retain.labels]), torch.cat([forget.rows, retain.rows])
    joined = Examples(forget.source, labels, rows, forget.transform)
    return joined.take(torch.randperm(len(joined), generator=generator))


def _statistics(
    model: nn.Module, parts: Anatomy, examples: Examples, problem: Problem, forget_classes: Tensor
) -> dict[str, "_Statistics"]:
    """Prototypes and separability at every operator's input, streamed in two passes over disjoint examples."""
    names = [name for name in parts.operators if getattr(model.get_submodule(name), "groups", 1) == 1]
    points = {Point(name, "input"): name for name in names}
    fitted: dict[str, tuple[list[Moments], Moments, Moments]] = {}
    scored = {name: torch.zeros(2, 2, dtype=torch.float64) for name in names}

    def fit_moments(point: Point, tensor: Tensor, labels: Tensor) -> None:
        vectors = operator_input(model.get_submodule(point.module), tensor)
        if point.module not in fitted:
            d, device = vectors.shape[1], vectors.device
            per_class = [Moments(d, device=device) for _ in range(problem.classes)]
            fitted[point.module] = per_class, Moments(d, True, device), Moments(d, True, device)
        per_class, forget, retain = fitted[point.module]
        going = torch.isin(labels, forget_classes).to(vectors.device)
        forget.update(vectors[going])
        retain.update(vectors[~going])
        for number in labels.unique().tolist():
            per_class[number].update(vectors[(labels == number).to(vectors.device)])

    held_out = torch.arange(len(examples)) % HELD_OUT == 0
    stream(model, examples.take(~held_out), list(points), fit_moments, progress=problem.progress, label="prototypes")
    probes = {name: discriminant(forget, retain) for name, (_, forget, retain) in fitted.items()}

    def score(point: Point, tensor: Tensor, labels: Tensor) -> None:
        vectors = operator_input(model.get_submodule(point.module), tensor)
        direction, threshold = probes[point.module]
        said = (vectors.double() @ direction > threshold).cpu()
        going = torch.isin(labels, forget_classes)
        for truth in (0, 1):
            scored[point.module][truth] += torch.bincount(said[going == bool(truth)].long(), minlength=2)

    stream(model, examples.take(held_out), list(points), score, progress=problem.progress, label="separability")
    return {name: _summary(fitted[name][0], fitted[name][2], scored[name], problem.gone) for name in names}


def _summary(per_class: list[Moments], retain: Moments, scored: Tensor, gone: tuple[int, ...]) -> _Statistics:
    present = {number: moments for number, moments in enumerate(per_class) if number not in gone}
    for number, moments in present.items():
        if not moments.count:
            raise InputError(
                f"data: class {number} has no calibration example; allowed: at least 1 of every class, or a larger "
                "calibration"
            )
    balanced = (scored.diagonal() / scored.sum(1).clamp(min=1)).mean().item()
    prototypes = torch.stack([moments.mean for moments in present.values()]).cpu()
    return _Statistics(prototypes, retain.mean.cpu(), min(1.0, max(0.0, 2 * balanced - 1)))


def discriminant(forget: Moments, retain: Moments) -> tuple[Tensor, Tensor]:
    """Fisher's linear discriminant between two groups from their moments: a direction `[d]` and a threshold.

    Both groups weigh the same (balanced), and a ridge of a thousandth of the mean variance keeps it solvable.
    """
    within = forget.covariance + retain.covariance
    ridge = 1e-3 * within.diagonal().mean() + 1e-12
    within = within + ridge * torch.eye(len(within), dtype=within.dtype, device=within.device)
    direction = torch.linalg.solve(within, forget.mean - retain.mean)
    return direction, direction @ (forget.mean + retain.mean) / 2


def operator_input(module: nn.Module, tensor: Tensor) -> Tensor:
    """One vector per example in the operator's input space: the mean over positions, `[B, d]`."""
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return tensor.flatten(2).mean(2)
    return tensor.reshape(len(tensor), -1, tensor.shape[-1]).mean(1)


def _strength(depth: Depth, separability: float, relative_depth: float) -> float:
    if depth == "constant":
        return 1.0
    if depth == "probe^2":
        return separability**2
    return separability * (relative_depth if depth == "probe*ramp" else 1.0)


def _row_space(rows: Tensor, energy: float) -> Tensor:
    """Leading right singular vectors `[d, r]` of `[n, d]` that hold a share `energy` of the squared length."""
    _, lengths, vectors = torch.linalg.svd(rows, full_matrices=False)
    filled = lengths > 1e-7 * lengths.max().clamp(min=1e-300)
    share = lengths.square().cumsum(0) / lengths.square().sum().clamp(min=1e-300)
    needed = int((share < energy - 1e-12).sum()) + 1
    return vectors[: min(needed, int(filled.sum()))].T


def _shift(module: nn.Module, removed: Tensor, retain_mean: Tensor) -> Tensor:
    """How far the retained mean of the output moves when `removed` is taken away, `[out]` (borders not counted)."""
    return torch.einsum("oit,i->o", removed, retain_mean.to(removed))


def _absorb(model: nn.Module, module: nn.Module, norm: str | None, shift: Tensor) -> None:
    """Put the shift into the operator's bias, or into the running mean of the BatchNorm that follows."""
    with torch.no_grad():
        if isinstance(module.bias, Tensor):
            module.bias += shift.to(module.bias)
        elif norm is not None:
            running = model.get_submodule(norm).running_mean
            if isinstance(running, Tensor):
                running -= shift.to(running)
